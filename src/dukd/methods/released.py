"""What the authors' released DUKD code does otherwise than the paper, as one ablation.

yun224/DUKD, models/dukd_model.py (methods.md section 1.3). Each deviation has its switch; all on is
the default. It is here to be measured against, never as a way to train a student:

- ``two_steps`` (D2): an optimizer step on the pair's losses, then, without zeroing the gradient,
  another on the upcycled ones. Twice the optimizer updates of any baseline.
- ``wrong_inverse`` (D3): augmentations are undone in the order in which they were applied.
- tiles shared by the batch (D5, ``placement``), label consistency on zoom in only (``consistent``).

Not reproduced: the teacher's autograd graph (D1), which costs time and changes nothing, and a
teacher left in training mode (D4), whose outputs are random where it has stochastic depth.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from dukd.images import invertible
from dukd.methods.base import Batch, Method, View
from dukd.methods.dukd import DUKD
from dukd.methods.logits import Logits
from dukd.methods.upcycling import Upcycling, ZoomIn, ZoomOut


@dataclass(frozen=True, kw_only=True)
class ReleasedDUKD(DUKD):
    """DUKD as the authors' released code trains it."""

    name: ClassVar[str] = "dukd-released"

    upcyclings: tuple[Upcycling, ...] = (ZoomIn(placement="tiles"), ZoomOut(consistent=False))
    """The further inputs; one whose weights are all 0 is left out."""
    two_steps: bool = True
    """Whether the optimizer steps twice per batch, the second time on the sum of both gradients."""
    wrong_inverse: bool = True
    """Whether augmentations are undone in the order in which they were applied."""

    @property
    @override
    def phases(self) -> tuple[Method, ...]:
        if not self.two_steps:
            return (self,)
        nothing = Logits(reconstruction=0, imitation=0)
        return self.base, replace(self, base=nothing, two_steps=False)

    @override
    def changed(self, upcycling: Upcycling, view: View, batch: Batch) -> View:
        view = super().changed(upcycling, view, batch)
        assert view.change is not None
        return replace(view, change=_AppliedAgain(view.change)) if self.wrong_inverse else view


@dataclass(frozen=True)
class _AppliedAgain(invertible.Invertible):
    """Takes applying a composition again for undoing it."""

    augmentation: invertible.Invertible

    @override
    def apply(self, x: Tensor) -> Tensor:
        return self.augmentation.apply(x)

    @override
    def invert(self, x: Tensor) -> Tensor:
        return self.augmentation.apply(x)
