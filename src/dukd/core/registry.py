"""Classes found by name: every concrete subclass that has been imported, ours or a user's."""

from typing import Any


def known(base: type[Any]) -> dict[str, type[Any]]:
    """Concrete classes below ``base`` by their ``name``, sorted.

    Classes whose Python name starts with an underscore are parts of others and left out. A class
    from outside the package is found as soon as its module is imported; nothing has to be
    registered. One that is made again, as by reloading its module, takes the place of the old one.

    Raises:
        ValueError: If a class has no name, or two have the same.
    """
    found: dict[str, type[Any]] = {}
    waiting = [base]
    while waiting:
        for kind in waiting.pop().__subclasses__():
            waiting.append(kind)
            if kind.__name__.startswith("_") or getattr(kind, "__abstractmethods__", None):
                continue
            name: str | None = getattr(kind, "name", None)
            if name is None:
                raise ValueError(f"{_place(kind)} has no name: write name = ... into the class")
            if name in found and _place(found[name]) != _place(kind):
                raise ValueError(
                    f"two classes are called {name!r}: {_place(found[name])} and {_place(kind)}"
                )
            found[name] = kind
    return dict(sorted(found.items()))


def _place(kind: type[Any]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
