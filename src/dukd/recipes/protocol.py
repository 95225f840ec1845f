"""How recipes train, whatever the networks: the papers' protocol, and a quick one without a GPU."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dukd.images.degrade import Bicubic, preset
from dukd.methods import Method
from dukd.methods.base import needs_teacher
from dukd.networks import NetworkConfig
from dukd.recipes.weighing import PLAIN, timed, weighted
from dukd.training.experiment import Data, Evaluation, Experiment, Optimization
from dukd.training.teachers import File, Teacher

Maker = Callable[[int, Method], Experiment]
"""What a family of recipes is: scale and method to experiment."""

DATASETS = Path("datasets")
"""Where recipes look for data sets; any path can be given in its place."""
WEIGHTS = Path("weights")
"""Where recipes look for teachers; any file can be given in its place."""
RUNS = Path("runs")
"""Where recipes look for other runs to start from; training writes there."""

TEST_SETS = ("Set5", "Set14", "BSD100", "Urban100")
_COMPRESSED = ("LIVE1",)
"""The set on which restoration of compressed images is measured."""
RESTORED = preset("jpeg-40")
"""What recipes at scale 1 restore."""


def paper(student: NetworkConfig, teacher: Teacher, method: Method) -> Experiment:
    """The protocol of DUKD's tables: methods.md section 3.1. It is the same for every method (D20).

    The best student is chosen on the first set, which is not a test set (D22). At scale 1 the
    inputs are compressed: with the papers' bicubic interpolation they would be the ground truth.
    """
    restores = student.scale == 1
    sets = ("DIV2K/DIV2K_valid_HR", *(_COMPRESSED if restores else TEST_SETS))
    return Experiment(
        student=student,
        teacher=teacher if needs_teacher(method, student.scale) else None,
        method=weighted(method, PLAIN),
        data=Data(
            train=DATASETS / "DIV2K" / "DIV2K_train_HR",
            degradation=RESTORED if restores else Bicubic(),
        ),
        evaluation=Evaluation(sets=tuple(DATASETS / s for s in sets)),
    )


def quick(
    student: NetworkConfig, teacher: Teacher, method: Method, optimization: Optimization
) -> Experiment:
    """Folders of one's own, and judged often: what a run of an hour or less needs."""
    return Experiment(
        student=student,
        teacher=teacher if needs_teacher(method, student.scale) else None,
        method=timed(weighted(method, PLAIN), optimization.steps),
        data=Data(
            train=DATASETS / "train", degradation=RESTORED if student.scale == 1 else Bicubic()
        ),
        optimization=optimization,
        evaluation=Evaluation(sets=(DATASETS / "valid",), every=500, log_every=50),
    )


def started(experiment: Experiment, run: str) -> Experiment:
    """An experiment whose student starts where another run ended."""
    start = RUNS / run / "student.safetensors"
    return replace(experiment, optimization=replace(experiment.optimization, warm_start=start))


def beside_itself(experiment: Experiment, run: str) -> Experiment:
    """An experiment whose student is refined from where another run ended, which also teaches."""
    teacher = File(weights=RUNS / run / "student.safetensors")
    return replace(started(experiment, run), teacher=teacher)
