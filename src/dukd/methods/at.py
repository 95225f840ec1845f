"""Attention transfer: where the teacher's features are strong, the student's should be.

Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017, arXiv:1612.03928, equation
2:

    L = L_rec + beta / 2  sum over depths of  mean over images and pixels of (q_S - q_T)^2

with q the energy map: squares summed over channels, unit norm over the image. Width plays no part.
The authors' code leaves out the 1/2 of the equation: its beta of 1000 is 2000 here.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize
from typing_extensions import override

from dukd.methods.base import Losses, Seen
from dukd.methods.features import FeatureMethod


@dataclass(frozen=True, kw_only=True)
class AT(FeatureMethod):
    """Match the ground truth and the energy maps of the teacher's features."""

    name: ClassVar[str] = "at"
    terms: ClassVar[tuple[str, ...]] = ("attention",)

    attention: float = 1000.0
    """Weight (beta) of half the mean squared difference of energy maps, summed over the depths."""
    depths: tuple[float, ...] = (0.5, 1.0)
    """Where to read both networks, as fractions of their depth, in (0, 1]."""

    @override
    def match(self, pair: Seen, state: nn.Module) -> Losses:
        ours, theirs = pair.features()
        distances = [mse_loss(energy(s), energy(t)) for s, t in zip(ours, theirs, strict=True)]
        return {"attention": self.attention / 2 * torch.stack(distances).sum()}


def energy(features: Tensor) -> Tensor:
    """Mean square over channels, unit norm over pixels: ``(n, c, h, w)`` to ``(n, h * w)``."""
    return normalize(features.square().mean(1).flatten(1), dim=1)
