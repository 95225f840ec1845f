"""Ablations: what a reviewer asks of DUKD's tables, each one change away from a recipe.

Is it the teacher or the further inputs? Which of the augmentations? How much hangs on a weight?
Does the released code gain by its method or by its second optimizer step? What do baselines reach
in the same time? An ablation stands at the end of a recipe's name, where a method stands:
``small-x2-dukd-no-teacher``. Seeds are ``--optimization.seed``.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch

from dukd.images import invertible
from dukd.methods import (
    DUKD,
    ECO,
    FAKD,
    Batch,
    CutBlur,
    DegradedZoomIn,
    DegradedZoomOut,
    FrugalDUKD,
    Late,
    Logits,
    Luma,
    Method,
    Mixup,
    ReleasedDUKD,
    Scratch,
    Upcycling,
    ZoomIn,
    ZoomOut,
)
from dukd.methods.base import needs_teacher
from dukd.methods.upcycling_candidates import CANDIDATES
from dukd.training.experiment import Experiment

HIGH, LOW = 3.0, 1 / 3
"""Factors by which weights are changed."""
TENTH = 0.1
"""Share of the steps after which batches come again in ablations whose teacher runs but once on
each: it costs no quality that can be measured, see docs/results/reuse.md."""

Change = Callable[[Method], Method]
"""Makes another method of a recipe's."""


@dataclass(frozen=True)
class Ablation:
    """A method to set beside DUKD, and what for."""

    about: str
    """What is changed, in a line."""
    start: Method = DUKD()  # noqa: RUF009 - frozen
    """The method whose recipe is changed."""
    change: Change = lambda method: method
    """Makes the ablation's method of that recipe's."""
    steps: float = 1.0
    """Its steps as a share of the recipe's."""
    equal_pixels: bool = False
    """Whether it takes as many times the steps as the family's DUKD shows a network pixels."""
    late: float = 0.0
    """Share of the steps that are made without a teacher before it; see `dukd.methods.late`."""
    period: float = 0.0
    """Share of the steps after which the same batches come again, with the teacher's outputs
    replayed; 0 for the recipe's own period."""

    def of(self, experiment: Experiment, dukd: Method) -> Experiment:
        """Make the ablation of an experiment with ``start`` as its method.

        Args:
            experiment: What is changed.
            dukd: DUKD with the weights and windows of the same networks.
        """
        method = self.change(experiment.method)
        scale, optimization = experiment.student.scale, experiment.optimization
        times = self.steps * (shown_pixels(dukd, scale) if self.equal_pixels else 1)
        steps = round(times * optimization.steps)
        if self.late:
            method = Late(base=method, start=round(self.late * steps))
        period = round(self.period * steps) or experiment.data.period
        return replace(
            experiment,
            method=method,
            teacher=experiment.teacher if needs_teacher(method, scale) else None,
            data=replace(experiment.data, period=period),
            optimization=replace(optimization, steps=steps),
        )


def _with(**changes: object) -> Change:
    return lambda method: replace(method, **changes)


def _each(part: type, change: Callable[[Any], object]) -> Change:
    """Change what is of a type among a method's base and its upcyclings."""

    def changed(method: Method) -> Method:
        assert isinstance(method, DUKD)
        upcyclings = (change(u) if isinstance(u, part) else u for u in method.upcyclings)
        base = change(method.base) if isinstance(method.base, part) else method.base
        changed = tuple(upcyclings)  # of the types they had
        return replace(method, base=base, upcyclings=changed)  # pyright: ignore[reportArgumentType]

    return changed


def _times(factor: float, weights: dict[type, tuple[str, ...]]) -> Change:
    """Multiply weights, given by the part of the method that has them."""

    def changed(method: Method) -> Method:
        for part, names in weights.items():
            method = _each(
                part,
                lambda p, names=names: replace(p, **{n: factor * getattr(p, n) for n in names}),
            )(method)
        return method

    return changed


def _set(part: type, **changes: object) -> Change:
    return _each(part, lambda p: replace(p, **changes))


def _without(part: type) -> Change:
    def changed(method: Method) -> Method:
        assert isinstance(method, DUKD)
        left = tuple(u for u in method.upcyclings if not isinstance(u, part))
        return replace(method, upcyclings=left)

    return changed


def _degraded(grid: Literal["lr", "window"] = "lr") -> Change:
    """Degrade both views as lr is."""

    def changed(upcycling: Upcycling) -> Upcycling:
        match upcycling:
            case ZoomIn():
                return DegradedZoomIn(grid=grid, **_numbers(upcycling))
            case ZoomOut():
                return DegradedZoomOut(**_numbers(upcycling))
            case _:
                return upcycling

    return _each(Upcycling, changed)


def _numbers(part: DUKD | Upcycling) -> dict[str, Any]:
    return {field.name: getattr(part, field.name) for field in fields(part)}


def _in_place(method: Method) -> Method:
    """Show the same further inputs in place of a part of the batch."""
    assert isinstance(method, DUKD)
    return FrugalDUKD(**_numbers(method))


def _in_luma(method: Method) -> Method:
    return Luma(base=method)


def _and(more: Upcycling) -> Change:
    def changed(method: Method) -> Method:
        assert isinstance(method, DUKD)
        return replace(method, upcyclings=(*method.upcyclings, more))

    return changed


def shown_pixels(method: Method, scale: int) -> float:
    """Pixels that a method shows a network per batch, as a multiple of lr's.

    Example:
        >>> shown_pixels(DUKD(), 2)  # the input, a window of its size, the input reduced
        2.25
    """
    side = 12 * scale
    lr, hr = torch.zeros(2, 3, side, side), torch.zeros(2, 3, side * scale, side * scale)
    views = method.views(Batch(lr, hr, torch.Generator()))
    return sum(view.image.numel() for view in views) / lr.numel()


_WEIGHTS: dict[str, dict[type, tuple[str, ...]]] = {
    "reconstruction": {Logits: ("reconstruction",), ZoomOut: ("reconstruction",)},
    "imitation": {Logits: ("imitation",)},
    "zoom-in": {ZoomIn: ("imitation",)},
    "zoom-out": {ZoomOut: ("imitation", "reconstruction")},
}
_IMITATIONS: dict[type, tuple[str, ...]] = {Logits: ("imitation",), Upcycling: ("imitation",)}

ABLATIONS: dict[str, Ablation] = {
    "dukd-no-teacher": Ablation(
        "the further inputs without a teacher: zoom out alone has a ground truth",
        change=_times(0.0, _IMITATIONS),
    ),
    "dukd-zoom-in-only": Ablation("without zoom out", change=_without(ZoomOut)),
    "dukd-zoom-out-only": Ablation("without zoom in", change=_without(ZoomIn)),
    "dukd-no-consistency": Ablation("without label consistency", change=_with(consistency=0.0)),
    "dukd-half-consistency": Ablation(
        "every augmentation with probability 0.5", change=_with(consistency=0.5)
    ),
    **{
        f"dukd-{operation.replace('_', '-')}-only": Ablation(
            f"label consistency under {operation} alone", change=_with(operations=(operation,))
        )
        for operation in invertible.OPERATIONS
    },
    **{
        f"dukd-{size}-{name}": Ablation(
            f"{words} the weight of {name}", change=_times(factor, weights)
        )
        for name, weights in _WEIGHTS.items()
        for size, words, factor in (("low", "a third of", LOW), ("high", "three times", HIGH))
    },
    "dukd-double-windows": Ablation(
        "twice as many windows per image",
        change=_each(ZoomIn, lambda zoom: replace(zoom, windows=2 * zoom.windows)),
    ),
    "dukd-tiles": Ablation(
        "windows on a grid, at one place for the whole batch",
        change=_set(ZoomIn, placement="tiles"),
    ),
    "dukd-degraded": Ablation(
        "both views degraded by Real-ESRGAN's pipeline, for inputs that are", change=_degraded()
    ),
    "dukd-degraded-window": Ablation(
        "likewise, and windows on their own grid", change=_degraded("window")
    ),
    "dukd-mixup": Ablation("mixtures of two images as a third input", change=_and(Mixup())),
    "dukd-cutblur": Ablation(
        "windows that are partly blurred as a third input", change=_and(CutBlur())
    ),
    **{
        f"dukd-{more.name.replace('_', '-')}": Ablation(
            f"{more.name} as a third input", change=_and(more)
        )
        for more in CANDIDATES
    },
    **{
        f"dukd-only-{only.name.replace('_', '-')}": Ablation(
            f"{only.name} in place of zoom in and zoom out", change=_with(upcyclings=(only,))
        )
        for only in (Mixup(), CutBlur(), *CANDIDATES)
    },
    "dukd-released-equal-updates": Ablation(
        "two optimizer steps per batch as in the released code, at as many updates as others",
        ReleasedDUKD(),
        steps=0.5,
    ),
    "dukd-released-right-inverse": Ablation(
        "likewise, with augmentations undone in the right order",
        ReleasedDUKD(),
        change=_with(wrong_inverse=False),
        steps=0.5,
    ),
    "dukd-released-one-step": Ablation(
        "the released code with one optimizer step on the sum",
        ReleasedDUKD(),
        change=_with(two_steps=False),
    ),
    "dukd-late": Ablation("the teacher runs in the last fifth of the steps alone", late=0.8),
    "dukd-frugal-both": Ablation(
        "both of DUKD's inputs in place of half of the batch, and twice the steps: about its time",
        change=_in_place,
        steps=2.0,
    ),
    "dukd-frugal-replayed": Ablation(
        "half of the batch is shown reduced once more, and the teacher runs in the first tenth "
        "of the steps alone",
        FrugalDUKD(),
        period=TENTH,
    ),
    "dukd-frugal-both-luma": Ablation(
        "dukd-frugal-both, compared in luma for the most part",
        change=lambda method: Luma(base=_in_place(method)),
        steps=2.0,
    ),
    **{
        f"{start.name}-luma": Ablation(
            f"{start.name}, compared in luma for the most part", start, change=_in_luma
        )
        for start in (Scratch(), Logits(), DUKD())
    },
    "eco-hr-only": Ablation(
        "the teacher's output in early targets, and lr as the input",
        ECO(),
        change=_with(mode="hr_only"),
    ),
    "fakd-he": Ablation(
        "EDSR of 32 blocks read where He et al. read it, after 10 and 21 of them",
        FAKD(),
        change=_with(depths=(10 / 33, 21 / 33, 1.0)),
    ),
    "fakd-four": Ablation(
        "features behind the first convolution as well, as in DUKD's copy of FAKD",
        FAKD(),
        change=_with(depths=(0.0, 1 / 3, 2 / 3, 1.0)),
    ),
    "logits-replayed": Ablation(
        "logits distillation, and the teacher runs in the first tenth of the steps alone",
        Logits(),
        period=TENTH,
    ),
    "logits-equal-pixels": Ablation(
        "logits distillation until it has seen as many pixels as DUKD, in about its time",
        Logits(),
        equal_pixels=True,
    ),
}
"""Ablations by name."""
