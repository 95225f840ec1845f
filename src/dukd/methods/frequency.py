"""Frequency distillation: match the wavelet bands of the output, and which places are alike within each band.

After HKDSR (frequency-similarity matrices on a discrete wavelet transform of features) and DTKD
(weights per band of a two-level transform, Electronics 15(10) 1986, 2026), whose definitions are
public only in outline. The formulas here are our reading, not the authors':

    L = L_rec + w_kd |S - T| + w_b  sum over bands k of |band_k(S) - band_k(T)|
      + w_s  mean over depths and bands of  mean |A(band(F_S)) - A(band(F_T))|

with the orthonormal Haar transform, over several levels for the outputs and over one for the
features, and A the matrix of cosines between places (as in FAKD): a quarter of the side of FAKD's,
and independent of width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from dukd.methods.base import Losses
from dukd.methods.fakd import affinity_distance
from dukd.methods.features import FeatureMethod, Seen
from dukd.networks.base import pad_to_multiple


@dataclass(frozen=True, kw_only=True)
class Frequency(FeatureMethod):
    """Match the ground truth, bands of the teacher's output, and affinities in bands of its features (our reading)."""

    name: ClassVar[str] = "frequency"

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
    def compare(self, extras: nn.Module, ours: Seen, theirs: Seen) -> Losses:
        losses: Losses = {}
        if self.bands:
            losses["bands"] = self.bands * band_distance(ours.sr, theirs.sr, self.band_weights)
        if self.similarity:
            distances = [
                affinity_distance(s, t)
                for f, g in zip(ours.features, theirs.features, strict=True)
                for s, t in zip(haar(f), haar(g), strict=True)
            ]
            losses["similarity"] = self.similarity * torch.stack(distances).mean()
        return losses

    @property
    @override
    def compares(self) -> bool:
        return self.bands != 0 or self.similarity != 0

    @property
    @override
    def taps(self) -> tuple[float, ...]:
        return self.depths if self.similarity else ()


def haar(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One level of the orthonormal Haar transform: ``(n, c, h, w)`` to four bands ``(n, c, ceil(h/2), ceil(w/2))``.

    Odd sides are padded by reflection.

    Returns:
        Approximation, and details across columns, across rows, and across both.
    """
    x = pad_to_multiple(x, 2)
    a, b = x[..., 0::2, 0::2], x[..., 0::2, 1::2]
    c, d = x[..., 1::2, 0::2], x[..., 1::2, 1::2]
    return (a + b + c + d) / 2, (a - b + c - d) / 2, (a + b - c - d) / 2, (a - b - c + d) / 2


def band_distance(ours: Tensor, theirs: Tensor, weights: Sequence[float]) -> Tensor:
    """Weighted sum of the mean absolute differences of all Haar bands of two images ``(n, 3, h, w)``.

    Args:
        ours: The student's.
        theirs: The teacher's.
        weights: Of the coarsest approximation, then of each level's three details from coarse to
            fine.
    """
    rest = ours - theirs  # the transform is linear
    total = rest.new_zeros(())
    for weight in reversed(weights[1:]):
        rest, *details = haar(rest)
        total = total + weight * torch.stack([band.abs().mean() for band in details]).sum()
    return total + weights[0] * rest.abs().mean()
