"""The classes that can be named: every concrete subclass that has been imported, ours or a user's."""

from typing import Any


def known(base: type[Any]) -> dict[str, type[Any]]:
    """Concrete classes below ``base`` by their ``name``, sorted.

    Classes whose Python name starts with an underscore are parts of others and left out. A class from outside the
    package is found as soon as its module is imported; nothing has to be registered.
    """
    found: dict[str, type[Any]] = {}
    waiting = [base]
    while waiting:
        for kind in waiting.pop().__subclasses__():
            waiting.append(kind)
            if not kind.__name__.startswith("_") and not getattr(kind, "__abstractmethods__", None):
                found[kind.name] = kind
    return dict(sorted(found.items()))
