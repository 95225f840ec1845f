"""Frugal DUKD: upcycled inputs take a share of the batch in place of enlarging it.

DUKD shows both networks every pair, and a window and a reduced image of each: at x2 that is
2.25 times the pixels of logits distillation per step (methods.md 3.4). Where training is short, the
same time is better spent on more steps. Here half of the batch is shown reduced once more by the
scale, which has a ground truth and is cheaper than what it replaces, so that a step costs less than
one of logits distillation:

    L =  w_rec |S(lr_b) - hr_b|  +  w_kd |S(lr_b) - T(lr_b)|
       + w_out |A^-1 S(A zo_a) - T(zo_a)|  +  w_gt |A^-1 S(A zo_a) - lr_a|

for the batch cut into its first part a and the rest b. Windows of hr can take the place of reduced
images, or stand beside them (``zoom_in``). The first steps can be left to the pair alone, and so
can the last. This is ours, not the paper's; `dukd.methods.dukd` is the paper's. How the defaults
were found stands in docs/results/study.md.
"""

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from dukd.methods.base import Batch, View
from dukd.methods.dukd import DUKD
from dukd.methods.upcycling import Upcycling, ZoomOut


@dataclass(frozen=True, kw_only=True)
class FrugalDUKD(DUKD):
    """DUKD below the price of logits distillation: half of the batch is shown reduced once more."""

    name: ClassVar[str] = "dukd-frugal"

    upcyclings: tuple[Upcycling, ...] = (ZoomOut(),)
    """The inputs that take the place of a share of the batch."""
    share: float = 0.5
    """Share of the batch, in (0, 1), whose images are shown upcycled in place of as they are."""
    late: int = 0
    """Steps at the start that are the base method on the whole batch."""
    until: int = 0
    """Step at which upcycling ends and the rest is the base method again; 0 for never."""

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share < 1:
            raise ValueError(f"share is a part of the batch, in (0, 1), but got {self.share}")
        if self.late < 0:
            raise ValueError(f"late is a number of steps, but got {self.late}")
        if self.until < 0 or 0 < self.until <= self.late:
            raise ValueError(
                f"until is a step after late, which is {self.late}, or 0, but got {self.until}"
            )

    @override
    def views(self, batch: Batch) -> list[View]:
        # without an end or a late start it does not look at the step: such steps can be recorded
        if (self.late and batch.step < self.late) or (self.until and batch.step >= self.until):
            return self.base.views(batch)
        n = batch.lr.shape[0]
        cut = max(1, round(self.share * n))
        if cut == n:
            raise ValueError(
                f"a batch of {n} cannot be shared: use at least 2 images, in each part where "
                "accumulate or several ranks divide the batch, or dukd"
            )
        return [
            *self.base.views(batch.part(slice(cut, None))),
            *self.upcycled(batch.part(slice(cut))),
        ]
