"""Methods of distillation: one file each."""

from dukd.methods._method import Losses, Method
from dukd.methods.combined import Combined
from dukd.methods.dukd import DUKD
from dukd.methods.logits import Logits
from dukd.methods.released import ReleasedDUKD
from dukd.methods.scratch import Scratch

__all__ = ["DUKD", "Combined", "Logits", "Losses", "Method", "ReleasedDUKD", "Scratch", "known"]


def known() -> dict[str, type[Method]]:
    """Every method that can be named: the package's own and any other subclass that has been imported.

    Returns:
        Classes by ``name``, sorted; classes whose name starts with an underscore are parts of others.
    """
    found: dict[str, type[Method]] = {}
    waiting = [Method]
    while waiting:
        for kind in waiting.pop().__subclasses__():
            waiting.append(kind)
            if not kind.__name__.startswith("_"):
                found[kind.name] = kind
    return dict(sorted(found.items()))
