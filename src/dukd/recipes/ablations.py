"""Controls: what a reviewer asks of DUKD's tables, each one change away from a recipe.

Is it the teacher or the further inputs? Which of the augmentations? How much hangs on a weight?
Does the released code gain by its method or by its second optimizer step? What do baselines reach
in the same time? A control stands at the end of a recipe's name, where a method stands:
``small-x2-dukd-no-teacher``. Seeds are ``--optimization.seed``.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from dukd.images import invertible
from dukd.methods import DUKD, FrugalDUKD, Late, Logits, Method, ReleasedDUKD
from dukd.training.experiment import Experiment

HIGH, LOW = 3.0, 1 / 3
"""Factors by which weights are changed."""
TENTH = 0.1
"""Share of the steps after which batches come again in controls whose teacher is asked but once
about each: it costs no quality that can be measured, see docs/results/reuse.md."""


@dataclass(frozen=True)
class Control:
    """A method to set beside DUKD, and what for."""

    about: str
    """What is changed, in a line."""
    start: Method = DUKD()  # noqa: RUF009 - frozen
    """The method whose recipe is changed."""
    change: Callable[[Method], Method] = lambda method: method
    """Makes the control of that recipe's method."""
    steps: Callable[[int], float] = lambda _: 1.0
    """Given the scale: its steps as a share of the recipe's."""
    late: float = 0.0
    """Share of the steps that are made without a teacher before it; see `dukd.methods.late`."""
    period: float = 0.0
    """Share of the steps after which the same batches come again, with the teacher's answers
    replayed; 0 for the recipe's own period."""

    def of(self, experiment: Experiment) -> Experiment:
        """Make the control of an experiment with ``start`` as its method."""
        method = self.change(experiment.method)
        steps = round(self.steps(experiment.student.scale) * experiment.optimization.steps)
        if self.late:
            method = Late(base=method, start=round(self.late * steps))
        return replace(
            experiment,
            method=method,
            teacher=experiment.teacher if method.needs_teacher else None,
            data=replace(
                experiment.data, period=round(self.period * steps) or experiment.data.period
            ),
            optimization=replace(experiment.optimization, steps=steps),
        )


def _with(**changes: object) -> Callable[[Method], Method]:
    return lambda method: replace(method, **changes)


def _times(factor: float, fields: tuple[str, ...]) -> Callable[[Method], Method]:
    return lambda method: replace(
        method, **{field: factor * getattr(method, field) for field in fields}
    )


def _half(_: int) -> float:
    return 0.5


def _pixels(scale: int) -> float:
    """What DUKD shows a network per image: the input, a window of its size, and the input reduced."""
    return 2 + scale**-2


_WEIGHTS = {
    "reconstruction": ("reconstruction", "zoom_out_reconstruction"),
    "imitation": ("imitation",),
    "zoom-in": ("zoom_in",),
    "zoom-out": ("zoom_out", "zoom_out_reconstruction"),
}

CONTROLS: dict[str, Control] = {
    "dukd-no-teacher": Control(
        "the further inputs without a teacher: zoom out alone has a ground truth",
        change=_with(imitation=0.0, zoom_in=0.0, zoom_out=0.0),
    ),
    "dukd-zoom-in-only": Control(
        "without zoom out", change=_with(zoom_out=0.0, zoom_out_reconstruction=0.0)
    ),
    "dukd-zoom-out-only": Control("without zoom in", change=_with(zoom_in=0.0)),
    "dukd-no-consistency": Control("without label consistency", change=_with(consistency=0.0)),
    "dukd-half-consistency": Control(
        "every augmentation with probability 0.5", change=_with(consistency=0.5)
    ),
    **{
        f"dukd-{operation.replace('_', '-')}-only": Control(
            f"label consistency under {operation} alone", change=_with(operations=(operation,))
        )
        for operation in invertible.OPERATIONS
    },
    **{
        f"dukd-{size}-{weight}": Control(
            f"{words} the weight of {weight}", change=_times(factor, fields)
        )
        for weight, fields in _WEIGHTS.items()
        for size, words, factor in (("low", "a third of", LOW), ("high", "three times", HIGH))
    },
    "dukd-double-windows": Control(
        "twice as many windows per image", change=_times(2, ("windows",))
    ),
    "dukd-tiles": Control(
        "windows on a grid, at one place for the whole batch", change=_with(placement="tiles")
    ),
    "dukd-released-equal-updates": Control(
        "two optimizer steps per batch as in the released code, at as many updates as others",
        ReleasedDUKD(),
        steps=_half,
    ),
    "dukd-released-right-inverse": Control(
        "likewise, with augmentations undone in the right order",
        ReleasedDUKD(),
        change=_with(wrong_inverse=False),
        steps=_half,
    ),
    "dukd-released-one-step": Control(
        "the released code with one optimizer step on the sum",
        ReleasedDUKD(),
        change=_with(two_steps=False),
    ),
    "dukd-late": Control("the teacher is asked in the last fifth of the steps alone", late=0.8),
    "dukd-frugal-replayed": Control(
        "half of the batch is shown reduced once more, and the teacher is asked in the first "
        "tenth of the steps alone",
        FrugalDUKD(),
        period=TENTH,
    ),
    "logits-replayed": Control(
        "logits distillation, and the teacher is asked in the first tenth of the steps alone",
        Logits(),
        period=TENTH,
    ),
    "logits-equal-pixels": Control(
        "logits distillation until it has seen as many pixels as DUKD, in about its time",
        Logits(),
        steps=_pixels,
    ),
}
"""Controls by name."""
