"""A late start: train without a teacher first, and run one when it is worth its price.

Far from convergence a step costs more with a teacher than it gains: at equal time a student alone
takes several steps for each that is distilled, and is ahead. What a teacher adds shows near the
end, where the rate is low. Here the first ``start`` steps are training on the ground truth alone,
at their price, and the rest is any method. It is ours, not a paper's. In docs/results/study.md it
gained nothing over a student alone, at a length where replayed outputs did.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn
from typing_extensions import override

from dukd.methods.base import Around, Batch, Losses, Method, Seen, View
from dukd.methods.dukd import DUKD
from dukd.methods.scratch import Scratch


@dataclass(frozen=True, kw_only=True)
class Late(Around):
    """Train on the ground truth alone for a while, then by any method."""

    name: ClassVar[str] = "late"

    base: Method = field(default_factory=DUKD)
    """The method that follows."""
    start: int = 0
    """Steps on the ground truth alone before it."""
    reconstruction: float = 1.0
    """Weight of the ground truth in them."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        if self.start < 0:
            raise ValueError(f"start is a number of steps, but got {self.start}")
        if isinstance(self.base, Late) or len(self.base.phases) > 1:
            raise ValueError(
                f"late starts a method of one phase, and once, but got {self.base.label}"
            )

    def at(self, step: int) -> Method:
        """The method after ``step`` steps."""
        return self.base if step >= self.start else Scratch(reconstruction=self.reconstruction)

    @override
    def views(self, batch: Batch) -> list[View]:
        return self.at(batch.step).views(batch)

    @override
    def losses(self, seen: Sequence[Seen], batch: Batch, state: nn.Module) -> Losses:
        return self.at(batch.step).losses(seen, batch, state)
