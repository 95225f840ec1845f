"""dukd: turn a large super-resolution network into a small, fast one that looks the same.

From a teacher to a student that is measured and used::

    from dataclasses import replace
    from pathlib import Path
    import dukd

    made = dukd.recipe("tiny-x2-dukd").make()
    experiment = replace(
        made,
        teacher=dukd.Teacher(weights=Path("teacher.pth")),
        data=replace(made.data, train=Path("photos")),
        evaluation=replace(made.evaluation, sets=(Path("valid"),)),
    )
    student = dukd.read_weights(dukd.train.train(experiment, Path("runs/mine"))).frozen()
    sets = {"Set5": dukd.find_pairs(Path("Set5"), scale=2)}
    print(dukd.evaluate.evaluate([dukd.Candidate(model="student", label="mine", network=student)], sets).to_markdown())
    dukd.upscale.upscale_files(student, [Path("holiday")], Path("out"))

Every name below, and every module, is imported when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING

from dukd._version import __version__

if TYPE_CHECKING:
    from dukd import comparison, data, evaluate, export, methods, metrics, networks, recipes, report, train, upscale
    from dukd.data.pack import Pack
    from dukd.data.pairs import find_pairs
    from dukd.evaluate import Candidate
    from dukd.experiment import Data, Evaluation, Experiment, Optimisation, Teacher
    from dukd.methods import DUKD, Combined, Logits, Method, Scratch
    from dukd.networks import EDSRConfig, NetworkConfig, RCANConfig, SMFANetConfig, SRNetwork, SwinIRConfig
    from dukd.networks.weights import read as read_weights
    from dukd.networks.weights import write as write_weights
    from dukd.recipes import recipe

__all__ = [
    "DUKD",
    "Candidate",
    "Combined",
    "Data",
    "EDSRConfig",
    "Evaluation",
    "Experiment",
    "Logits",
    "Method",
    "NetworkConfig",
    "Optimisation",
    "Pack",
    "RCANConfig",
    "SMFANetConfig",
    "SRNetwork",
    "Scratch",
    "SwinIRConfig",
    "Teacher",
    "__version__",
    "comparison",
    "data",
    "evaluate",
    "export",
    "find_pairs",
    "methods",
    "metrics",
    "networks",
    "read_weights",
    "recipe",
    "recipes",
    "report",
    "train",
    "upscale",
    "write_weights",
]

_SOURCES = {
    "dukd.data.pack": ("Pack",),
    "dukd.data.pairs": ("find_pairs",),
    "dukd.evaluate": ("Candidate",),
    "dukd.experiment": ("Data", "Evaluation", "Experiment", "Optimisation", "Teacher"),
    "dukd.methods": ("DUKD", "Combined", "Logits", "Method", "Scratch"),
    "dukd.networks": ("EDSRConfig", "NetworkConfig", "RCANConfig", "SMFANetConfig", "SRNetwork", "SwinIRConfig"),
    "dukd.networks.weights": ("read_weights", "write_weights"),
    "dukd.recipes": ("recipe",),
}
_HOME = {name: module for module, names in _SOURCES.items() for name in names}
_THERE = {"read_weights": "read", "write_weights": "write"}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for, so that ``import dukd`` costs nothing."""
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), _THERE.get(name, name))
    elif name in __all__:
        return importlib.import_module(f"dukd.{name}")
    else:
        raise AttributeError(f"module 'dukd' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return list(__all__)
