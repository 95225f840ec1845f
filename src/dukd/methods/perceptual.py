"""A perceptual part for any method: alike in the features of a trained encoder.

Johnson, Alahi and Fei-Fei, "Perceptual Losses for Real-Time Style Transfer and Super-Resolution",
ECCV 2016, arXiv:1603.08155, with the mean absolute difference, as Real-ESRGAN has it:

    L = L_base  +  w sum_i w_i |f_i(S(lr)) - f_i(t)|,      t = T(lr), or hr

with f_i the five levels of VGG19. Real-ESRGAN reads conv1_2 to conv5_4 before the rectifier with
weights 0.1, 0.1, 1, 1, 1; here the first convolution of each level is read behind it. Without a
file of weights fixed filters stand in, which know nothing of what images show (see
`dukd.networks.perceptual`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss
from typing_extensions import override

from dukd.methods.base import Batch, Losses, Seen
from dukd.methods.part import Part
from dukd.networks.perceptual import Encoder, encoder_notes, vgg19


@dataclass(frozen=True, kw_only=True)
class Perceptual(Part):
    """Any method, and nearness in a perceptual encoder's features."""

    name: ClassVar[str] = "perceptual"

    levels: tuple[float, float, float, float, float] = (0.1, 0.1, 1.0, 1.0, 1.0)
    """Weights of the five levels, from fine to coarse."""
    toward: Literal["teacher", "hr"] = "teacher"
    """What the student's output is to be near."""
    vgg19: Path | None = None
    """File with VGG19's weights by torchvision's names; without it, fixed filters stand in."""
    vgg19_sha256: str = ""
    """What that file must hash to, in hexadecimal; empty takes any."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        super().__post_init__()
        if min(self.levels) < 0:
            raise ValueError(f"weights of levels are 0 or more, but got {self.levels}")

    @override
    def taught(self) -> bool:
        return self.toward == "teacher"

    @override
    def module(self) -> nn.Module:
        return vgg19(self.vgg19, self.vgg19_sha256)

    @override
    def judge(self, pair: Seen, batch: Batch, module: nn.Module) -> Losses:
        assert isinstance(module, Encoder)
        target = pair.target.sr if self.toward == "teacher" else pair.view.truth
        if target is None:
            raise ValueError(f"{self.label} has no ground truth to be near")
        value = feature_distance(module, pair.student.sr, target, self.levels)
        return {"perceptual": self.weight * value}

    @override
    def notes(self) -> tuple[str, ...]:
        own = encoder_notes(self.vgg19, "VGG19") if self.weight else ()
        return (*self.base.notes(), *own)


def feature_distance(
    encoder: Encoder, sr: Tensor, target: Tensor, levels: Sequence[float]
) -> Tensor:
    """The weighted mean absolute differences of two images' features.

    Args:
        encoder: Where they are compared.
        sr: ``(n, 3, h, w)``, RGB in [0, 1].
        target: Likewise; carries no gradient.
        levels: Weight of each level.
    """
    with torch.no_grad():
        wanted = encoder(target)
    terms = [w * l1_loss(f, t) for w, f, t in zip(levels, encoder(sr), wanted, strict=True) if w]
    return torch.stack(terms).sum() if terms else sr.new_zeros(())
