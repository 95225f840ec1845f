"""Compare in luma: where a student is small, spend it on what papers measure and eyes see.

Distances of outputs are means over R, G and B, which weigh an error of color like one of
brightness. PSNR-Y, which tables show, measures luma alone, and eyes resolve color at half the
detail of brightness. A student that cannot get all of it right learns here what matters more: each
mean absolute difference of the outputs, to the ground truth or to the teacher's output, becomes

    (1 - share) |S - T|  +  share |Y(S) - Y(T)|,    Y = 0.299 R + 0.587 G + 0.114 B

around any method that weighs such differences; whatever else the method compares stays as it is.
Networks made for speed train on Y alone (FSRCNN, arXiv:1608.00367; ECBSR, ACM MM 2021) and enlarge
color by bicubic; here it stays one network from RGB to RGB. This is ours, not a paper's. What it
gives in luma and takes in color stands in docs/results/luma.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor, nn
from typing_extensions import override

from dukd.images import color
from dukd.methods.base import Around, Batch, Losses, Method, Seen, View, precise, weighted_l1
from dukd.methods.logits import Logits


@dataclass(frozen=True, kw_only=True)
class Luma(Around):
    """Any method, whose distances of outputs are taken for the most part in luma."""

    name: ClassVar[str] = "luma"

    base: Method = field(default_factory=Logits)
    """The method whose distances are changed."""
    share: float = 0.8
    """Share of each distance that is taken in luma, in [0, 1]; color is left to chance at 1."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is a part of a distance, in [0, 1], but got {self.share}")

    @override
    def views(self, batch: Batch) -> list[View]:
        return self.base.views(batch)

    @override
    def losses(self, seen: Sequence[Seen], batch: Batch, state: nn.Module) -> Losses:
        losses = self.base.losses(seen, batch, state)
        if not self.share:
            return losses
        in_luma = weighted_l1([_in_luma(one) for one in seen])
        if not in_luma.keys() <= losses.keys() or not in_luma:
            raise ValueError(
                f"{self.base.label} compares outputs in a way of its own, which luma cannot "
                "change: use it alone, or luma around a method such as logits or dukd"
            )
        for name, value in in_luma.items():
            losses[name] = (1 - self.share) * losses[name] + self.share * value
        return losses

    @property
    @override
    def phases(self) -> tuple[Method, ...]:
        return tuple(replace(self, base=phase) for phase in self.base.phases)

    @property
    @override
    def label(self) -> str:
        return self.name if self.base == Logits() else f"{self.base.label}-{self.name}"


def _in_luma(seen: Seen) -> Seen:
    view, student, teacher = seen
    return Seen(
        view if view.truth is None else replace(view, truth=_luma(view.truth)),
        student._replace(sr=_luma(student.sr)),
        None if teacher is None else teacher._replace(sr=_luma(teacher.sr)),
    )


def _luma(rgb: Tensor) -> Tensor:
    """Luma from 0 to 1, up to a constant that distances do not see."""
    return color.luma(precise(rgb)) * (255 / 219)
