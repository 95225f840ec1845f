"""An adversarial part for any method: regress to the teacher, look like the truth.

Goodfellow et al., "Generative Adversarial Networks", arXiv:1406.2661, as super-resolution of the
real world uses them; AdcSR (CVPR 2025) regresses to the teacher and discriminates against hr.

    L = L_base  +  w mean softplus(-D(S(lr)))
    L_D = mean softplus(-D(r))  +  mean softplus(D(S(lr))),      r = hr, or T(lr)

D is Real-ESRGAN's U-Net with spectral normalization. Both losses stand in one sum: in the first D
is a constant, in the second S is, so that one optimizer step moves each by its own.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import softplus
from typing_extensions import override

from dukd.methods.base import Batch, Losses, Seen
from dukd.methods.part import Part
from dukd.networks.discriminator import UNetDiscriminator


@dataclass(frozen=True, kw_only=True)
class Adversarial(Part):
    """Any method, and a discriminator that the student's output is to deceive."""

    name: ClassVar[str] = "adversarial"

    weight: float = 0.1
    """Weight of the adversarial loss; 0 leaves the discriminator out."""
    real: Literal["hr", "teacher"] = "hr"
    """What the discriminator takes for real: the ground truth, or the teacher's output."""
    width: int = 64
    """Channels of the discriminator at full size; 64 are 4.4 million parameters."""
    start: int = 0
    """Optimizer steps before the student is to deceive it; it learns from the first on."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        super().__post_init__()
        if self.width < 1 or self.start < 0:
            raise ValueError(
                "a discriminator has a width of 1 or more, and starts at step 0 or later, but got "
                f"width {self.width} and start {self.start}"
            )

    @override
    def taught(self) -> bool:
        return self.real == "teacher"

    @override
    def module(self) -> nn.Module:
        return UNetDiscriminator(self.width)

    @override
    def follow(self, module: nn.Module) -> None:
        assert isinstance(module, UNetDiscriminator)
        module.follow()

    @override
    def judge(self, pair: Seen, batch: Batch, module: nn.Module) -> Losses:
        fake, real = pair.student.sr, pair.view.truth
        if self.real == "teacher":
            real = pair.target.sr
        if real is None:
            raise ValueError(f"{self.label} has no ground truth to take for real")
        losses = {"discriminator": discriminate(module, fake.detach(), real)}
        if batch.step >= self.start:
            losses["adversarial"] = self.weight * deceive(module, fake)
        return losses

    @property
    @override
    def apart(self) -> frozenset[str]:
        return self.base.apart | {"discriminator"}


def deceive(discriminator: nn.Module, fake: Tensor) -> Tensor:
    """``mean softplus(-D(fake))``, whose gradient goes to ``fake`` alone."""
    constants = {name: p.detach() for name, p in discriminator.named_parameters()}
    logits: Tensor = functional_call(discriminator, constants, (fake,))
    return softplus(-logits).mean()


def discriminate(discriminator: nn.Module, fake: Tensor, real: Tensor) -> Tensor:
    """``mean softplus(-D(real)) + mean softplus(D(fake))``: 2 ln 2 where D cannot tell."""
    truly, falsely = discriminator(torch.cat([real, fake])).chunk(2)
    return softplus(-truly).mean() + softplus(falsely).mean()
