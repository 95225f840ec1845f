"""Frequency distillation: match wavelet bands of the output, and affinities within each band.

After the ideas of HKDSR (similarity on a discrete wavelet transform; its own code is
`dukd.methods.hkdsr`) and DTKD (weights per band of a two-level transform, Electronics 15(10) 1986,
2026). The formulas here are our reading, not the authors':

    L = L_rec + w_kd |S - T| + w_b  sum over bands k of |band_k(S) - band_k(T)|
      + w_s  mean over depths and bands of  mean |A(band(F_S)) - A(band(F_T))|

with the orthonormal Haar transform, over several levels for the outputs and over one for the
features, and A the matrix of cosines between places (as in FAKD): a quarter of the side of FAKD's,
and independent of width.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from typing_extensions import override

from dukd.methods.base import Losses, Seen
from dukd.methods.fakd import affinity_distance
from dukd.methods.features import FeatureMethod
from dukd.methods.haar import band_distance, haar


@dataclass(frozen=True, kw_only=True)
class Frequency(FeatureMethod):
    """Match the ground truth, bands of the output, and affinities in bands of features.

    The formulas are our reading.
    """

    name: ClassVar[str] = "frequency"
    terms: ClassVar[tuple[str, ...]] = ("bands", "similarity")

    imitation: float = 1.0
    """Weight of the mean absolute difference to the teacher's output."""
    bands: float = 0.001
    """Weight of the mean absolute differences of wavelet bands of the output, summed over bands."""
    band_weights: tuple[float, ...] = (1.0, 1.0, 1.0)
    """Weights of the coarsest approximation, of the coarsest details, and so on to the finest
    details; one less than there are is the number of levels."""
    similarity: float = 0.01
    """Weight of the mean absolute difference of cosines between places, within bands of the
    features."""

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.band_weights) < 2:
            raise ValueError(
                "band_weights names the approximation and each level of details, but got "
                f"{self.band_weights}"
            )

    @override
    def match(self, pair: Seen, state: nn.Module) -> Losses:
        losses: Losses = {}
        if self.bands:
            losses["bands"] = self.bands * band_distance(
                pair.student.sr, pair.target.sr, self.band_weights
            )
        if self.similarity:
            distances = [
                affinity_distance(s, t)
                for f, g in zip(*pair.features(), strict=True)
                for s, t in zip(haar(f), haar(g), strict=True)
            ]
            losses["similarity"] = self.similarity * torch.stack(distances).mean()
        return losses

    @property
    @override
    def read(self) -> tuple[float, ...]:
        return self.depths if self.similarity else ()
