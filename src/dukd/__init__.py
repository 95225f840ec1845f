"""dukd: turn a large super-resolution network into a small, fast one, and measure what is lost.

From a teacher to a student that is measured and used::

    from dataclasses import replace
    from pathlib import Path
    import dukd

    made = dukd.recipe("tiny-x2-dukd").make()
    experiment = replace(
        made,
        teacher=dukd.Teacher.of("teacher.pth"),
        data=replace(made.data, train=Path("photos")),
        evaluation=replace(made.evaluation, sets=(Path("valid"),)),
    )
    student = dukd.load(dukd.train(experiment, Path("runs/mine")))
    table = dukd.evaluate(["bicubic", student], {"Set5": "Set5"}, teacher="teacher.pth")
    print(table.to_markdown())
    dukd.upscale(student, ["holiday"], "out")
    student("photo.jpg").save("large.png")
    dukd.export(student.network, "student.onnx")

Every name below is imported when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING

from dukd._version import __version__

if TYPE_CHECKING:
    from dukd.data.pack import Pack
    from dukd.data.pairs import find_pairs
    from dukd.deploy import (
        ONNX,
        Model,
        Ncnn,
        OpenVINO,
        UpscaleOptions,
        Weights,
        export,
        load,
        upscale,
    )
    from dukd.evaluation.candidates import Candidate
    from dukd.evaluation.evaluate import evaluate
    from dukd.evaluation.sets import Inputs
    from dukd.methods import DUKD, Logits, Method, Scratch
    from dukd.networks import (
        EDSRConfig,
        Network,
        NetworkConfig,
        RCANConfig,
        SMFANetConfig,
        SwinIRConfig,
    )
    from dukd.networks.files.weights import write as save
    from dukd.recipes.families import recipe
    from dukd.runs.compare import compare
    from dukd.runs.report import report
    from dukd.training.distiller import Distiller
    from dukd.training.experiment import (
        Data,
        Evaluation,
        Experiment,
        Optimization,
        TeacherCache,
    )
    from dukd.training.loop import train
    from dukd.training.teachers import Teacher

_HOMES = {
    "dukd.data.pack": ("Pack",),
    "dukd.data.pairs": ("find_pairs",),
    "dukd.deploy": (
        "ONNX",
        "Model",
        "Ncnn",
        "OpenVINO",
        "UpscaleOptions",
        "Weights",
        "export",
        "load",
        "upscale",
    ),
    "dukd.evaluation.candidates": ("Candidate",),
    "dukd.evaluation.evaluate": ("evaluate",),
    "dukd.evaluation.sets": ("Inputs",),
    "dukd.methods": ("DUKD", "Logits", "Method", "Scratch"),
    "dukd.networks": (
        "EDSRConfig",
        "NetworkConfig",
        "RCANConfig",
        "SMFANetConfig",
        "Network",
        "SwinIRConfig",
    ),
    "dukd.networks.files.weights": ("save",),
    "dukd.recipes.families": ("recipe",),
    "dukd.runs.compare": ("compare",),
    "dukd.runs.report": ("report",),
    "dukd.training.distiller": ("Distiller",),
    "dukd.training.experiment": (
        "Data",
        "Evaluation",
        "Experiment",
        "Optimization",
        "TeacherCache",
    ),
    "dukd.training.loop": ("train",),
    "dukd.training.teachers": ("Teacher",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
_THERE = {"save": "write"}

__all__ = [
    "DUKD",
    "ONNX",
    "Candidate",
    "Data",
    "Distiller",
    "EDSRConfig",
    "Evaluation",
    "Experiment",
    "Inputs",
    "Logits",
    "Method",
    "Model",
    "Ncnn",
    "Network",
    "NetworkConfig",
    "OpenVINO",
    "Optimization",
    "Pack",
    "RCANConfig",
    "SMFANetConfig",
    "Scratch",
    "SwinIRConfig",
    "Teacher",
    "TeacherCache",
    "UpscaleOptions",
    "Weights",
    "__version__",
    "compare",
    "evaluate",
    "export",
    "find_pairs",
    "load",
    "recipe",
    "report",
    "save",
    "train",
    "upscale",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for, so that ``import dukd`` costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'dukd' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), _THERE.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return list(__all__)
