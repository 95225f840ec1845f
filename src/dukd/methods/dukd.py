"""DUKD: teach on images that the training pair itself provides, and consistently under change.

Zhang et al., "Data Upcycling Knowledge Distillation for Image Super-Resolution", arXiv:2309.14162;
published as AugKD, ICLR 2025. A pair (lr, hr) is *upcycled* into two more inputs for which the
teacher has an output:

    zoom in    a random window of hr, of lr's size, taken as if it were a low-resolution image;
    zoom out   lr reduced once more by the scale, for which lr itself is the ground truth as well.

On these, *label consistency*: the student sees the input changed by an invertible augmentation A,
drawn per image, the teacher sees it clean, and the student's output is changed back before the two
are compared.

    L =  w_rec |S(lr) - hr|  +  w_kd |S(lr) - T(lr)|
       + w_in  |A^-1 S(A zi) - T(zi)|
       + w_out |A^-1 S(A zo) - T(zo)|  +  w_gt |A^-1 S(A zo) - lr|

with zi zoomed in, zo zoomed out, and |.| the mean absolute difference. One optimizer step per
batch, on the sum. Any method can stand for the first line, which is logits distillation: FAKD +
DUKD (AugKD, table 8) and DCKD + DUKD (DCKD, table 2) are published. What the authors' released code
does otherwise is in `dukd.methods.released`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import nn
from typing_extensions import override

from dukd.images import invertible
from dukd.methods.base import Around, Batch, Losses, Method, Seen, View, weighted_l1
from dukd.methods.logits import Logits
from dukd.methods.upcycling import Upcycling, ZoomIn, ZoomOut


@dataclass(frozen=True, kw_only=True)
class DUKD(Around):
    """Any method on the pair, and the teacher imitated on what is upcycled from it."""

    name: ClassVar[str] = "dukd"

    base: Method = field(default_factory=Logits)
    """The method that compares on the pair."""
    upcyclings: tuple[Upcycling, ...] = (ZoomIn(), ZoomOut())
    """The further inputs; one whose weights are all 0 is left out."""
    consistency: float = 0.3
    """Probability, in [0, 1], with which each augmentation changes what the student sees; 0
    switches label consistency off."""
    operations: tuple[invertible.Operation, ...] = invertible.OPERATIONS
    """The augmentations that are drawn from."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        if not 0 <= self.consistency <= 1:
            raise ValueError(f"consistency is a probability in [0, 1], but got {self.consistency}")

    @override
    def views(self, batch: Batch) -> list[View]:
        return [*self.base.views(batch), *self.upcycled(batch)]

    def upcycled(self, batch: Batch) -> list[View]:
        """Make the further inputs; each is drawn, then its change, then the next."""
        weighed = [u for u in self.upcyclings if u.imitation or u.reconstruction]
        return [self.changed(u, u.view(batch), batch) for u in weighed]

    def changed(self, upcycling: Upcycling, view: View, batch: Batch) -> View:
        """Put an augmentation before the student."""
        change = invertible.draw(
            view.image.shape,
            probability=self.consistency if upcycling.consistent else 0.0,
            rng=batch.rng,
            operations=self.operations,
        )
        return replace(view, change=change)

    @override
    def losses(self, seen: Sequence[Seen], batch: Batch, state: nn.Module) -> Losses:
        names = {u.name for u in self.upcyclings}
        pair = [s for s in seen if s.view.name not in names]
        upcycled = weighted_l1([s for s in seen if s.view.name in names])
        return self.base.losses(pair, batch, state) | dict(sorted(upcycled.items()))

    @property
    @override
    def label(self) -> str:
        return self.name if type(self.base) is Logits else f"{self.base.label}+{self.name}"
