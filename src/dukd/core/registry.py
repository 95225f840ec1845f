"""Classes found by name: every concrete subclass that has been imported, ours or a user's.

Installed packages add theirs by an entry point of the group ``dukd.plugins``, whose module is
imported when classes are first looked for.
"""

import sys
import warnings
from importlib.metadata import entry_points
from typing import Any

GROUP = "dukd.plugins"
"""Entry points whose modules define networks, methods and other classes."""
_loaded: set[str] = set()
_searched: set[tuple[str, ...]] = set()
"""Values of ``sys.path`` under which installed packages have been looked through."""


def known(base: type[Any]) -> dict[str, type[Any]]:
    """Concrete classes below ``base`` by their ``name``, sorted.

    Classes whose Python name starts with an underscore are parts of others and left out. A class
    from outside the package is found as soon as its module is imported; nothing has to be
    registered. One that is made again, as by reloading its module, takes the place of the old one.

    Raises:
        ValueError: If a class has no name, or two have the same.
    """
    load_plugins()
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


def load_plugins() -> None:
    """Import the modules of installed plug-ins, once; one that fails is named in a warning."""
    path = tuple(sys.path)
    if path in _searched:
        return
    _searched.add(path)
    for plugin in entry_points(group=GROUP):
        if plugin.value in _loaded:
            continue
        _loaded.add(plugin.value)
        try:
            plugin.load()
        except Exception as error:  # noqa: BLE001  another's code fails as it likes
            package = plugin.dist.name if plugin.dist else "an unknown package"
            warnings.warn(
                f"the plug-in {plugin.name!r} of {package} ({plugin.value}) cannot be imported and "
                f"is left out: {type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=3,
            )


def _place(kind: type[Any]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
