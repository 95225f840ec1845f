"""``-real-`` in a recipe's name, as in ``compact-x4-real-dukd``: for photographs as they come.

Inputs are degraded as Real-ESRGAN has it, and the teacher is its RealESRGAN_x4plus (x2plus at x2).
The teacher is matched, not hr: where it invents detail the two differ, and the mean of both is
blurred. DUKD's views are its own: a window of hr stays clean, which was measured to be worth more
than one that is degraded as lr is (docs/results/real-world.md); ``dukd-degraded`` has the others.
"""

import re
from dataclasses import replace

from dukd.images.two_stage import RealESRGAN
from dukd.methods import DUKD, DegradedZoomOut, Logits, Method, ZoomOut
from dukd.methods.late import Late
from dukd.methods.part import Part
from dukd.methods.upcycling import Upcycling
from dukd.recipes.protocol import DATASETS, WEIGHTS
from dukd.training.experiment import Experiment
from dukd.training.teachers import File

_TAG = re.compile(r"(?P<family>.+)-x(?P<scale>\d+)-real-(?P<method>.+)")
_TEACHERS = {2: "RealESRGAN_x2plus.pth", 4: "RealESRGAN_x4plus.pth"}
VALIDATION = DATASETS / "valid-real"
"""Pairs that judge the student: ``HR``, and ``LR`` made once from it by ``dukd degrade``."""


def real_tag(name: str) -> str | None:
    """The name without ``-real-``; None for one that has it not."""
    match = _TAG.fullmatch(name)
    return None if match is None else f"{match['family']}-x{match['scale']}-{match['method']}"


def for_real(experiment: Experiment) -> Experiment:
    """Let an experiment learn from the teacher of the real world.

    Raises:
        ValueError: If there is none of its scale.
    """
    scale = experiment.student.scale
    if scale not in _TEACHERS:
        raise ValueError(
            f"Real-ESRGAN's teachers are for x2 and x4, but got x{scale}: take another teacher "
            "with --teacher.weights, and --data.degradation real-esrgan"
        )
    teacher = File(weights=WEIGHTS / _TEACHERS[scale])
    return replace(
        experiment,
        teacher=None if experiment.teacher is None else teacher,
        method=for_blind(experiment.method),
        data=replace(experiment.data, degradation=RealESRGAN()),
        evaluation=replace(
            experiment.evaluation, sets=(VALIDATION,), metrics=("niqe",), best="agreement"
        ),
    )


def for_blind(method: Method) -> Method:
    """A method that matches the teacher alone, on its pair and on what is upcycled from it.

    What is degraded cannot be the truth of itself reduced, and hr is not what the teacher makes.
    """
    match method:
        case DUKD():
            upcyclings = tuple(_matched(u) for u in method.upcyclings)
            return replace(method, base=for_blind(method.base), upcyclings=upcyclings)
        case Late() | Part():
            return replace(method, base=for_blind(method.base))
        case Logits() if type(method) is Logits:
            return replace(method, reconstruction=0.0)
        case _:
            return method


def _matched(upcycling: Upcycling) -> Upcycling:
    match upcycling:
        case ZoomOut() | DegradedZoomOut():
            return replace(upcycling, reconstruction=0.0)
        case _:
            return upcycling
