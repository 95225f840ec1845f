"""What the authors' released DUKD code does otherwise than the paper, as one ablation.

yun224/DUKD, models/dukd_model.py (methods.md section 1.3). Each deviation has its switch; all on is
the default. It is here to be measured against, never as a way to train a student:

- ``two_steps`` (D2): an optimizer step on the pair's losses, then, without zeroing the gradient,
  another on the upcycled ones. Twice the optimizer updates of any baseline.
- ``wrong_inverse`` (D3): augmentations are undone in the order in which they were applied.
- tiles shared by the batch (D5, ``placement``), label consistency on zoom in only (``consistent``).

Not reproduced: the teacher's autograd graph (D1), which costs time and changes nothing, and a
teacher left in training mode (D4), whose answers are random where it has stochastic depth.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal

from torch import Generator, Tensor, nn
from typing_extensions import override

from dukd.images import invertible
from dukd.methods.base import Losses, Method
from dukd.methods.dukd import DUKD, Upcycled, upcycled_losses
from dukd.methods.logits import Logits
from dukd.networks.base import Network


@dataclass(frozen=True, kw_only=True)
class ReleasedDUKD(DUKD):
    """DUKD as the authors' released code trains it."""

    name: ClassVar[str] = "dukd-released"

    placement: Literal["uniform", "tiles"] = "tiles"
    """Where windows lie; see `DUKD`."""
    consistent: tuple[Literal["zoom_in", "zoom_out"], ...] = ("zoom_in",)
    """The upcycled inputs on which label consistency acts."""
    two_steps: bool = True
    """Whether the optimizer steps twice per batch, the second time on the sum of both gradients."""
    wrong_inverse: bool = True
    """Whether augmentations are undone in the order in which they were applied."""

    @property
    @override
    def parts(self) -> tuple[Method, ...]:
        if not self.two_steps:
            return (self,)
        pair = Logits(reconstruction=self.reconstruction, imitation=self.imitation)
        return pair, _SecondStep(**{f.name: getattr(self, f.name) for f in fields(self)})

    @override
    def upcycle(self, lr: Tensor, hr: Tensor, rng: Generator) -> list[Upcycled]:
        upcycled = super().upcycle(lr, hr, rng)
        if not self.wrong_inverse:
            return upcycled
        return [replace(u, augmentation=_AppliedAgain(u.augmentation)) for u in upcycled]


@dataclass(frozen=True, kw_only=True)
class _SecondStep(ReleasedDUKD):
    """The upcycled losses alone."""

    name: ClassVar[str] = "dukd-released-second-step"

    @override
    def losses(
        self,
        *,
        student: Network,
        teacher: Network,
        extras: nn.Module,
        lr: Tensor,
        hr: Tensor,
        rng: Generator,
    ) -> Losses:
        upcycled: Sequence[Upcycled] = self.upcycle(lr, hr, rng)
        return upcycled_losses(student, teacher, upcycled)


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
