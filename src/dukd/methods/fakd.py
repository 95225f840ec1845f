"""FAKD: pixels that are alike to the teacher should be alike to the student.

He et al., "FAKD: Feature-Affinity Based Knowledge Distillation for Efficient Image
Super-Resolution", ICIP 2020. The affinity of two places is the cosine of their feature vectors, so
width plays no part:

    L = 0.5 |S - hr| + 0.5 |S - T| + 10  sum over depths of  mean |A_S - A_T|
    A = F^T F,   columns of F of length 1

The copy of FAKD that DUKD's tables were made with rebuilds the feature loss with `torch.tensor`,
which has no gradient: those rows are logits distillation (methods.md D16). Both copies read the
last depth after the global skip was added in place (D19, D31); here it is read before.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, l1_loss
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from dukd.methods.base import Losses, Seen
from dukd.methods.features import FeatureMethod, unit

_ENTRIES = 1 << 24
"""Of all the affinity matrices that are held at a time: 64 MB in float32."""


@dataclass(frozen=True, kw_only=True)
class FAKD(FeatureMethod):
    """Match the ground truth, the teacher's output and the spatial affinity of its features."""

    name: ClassVar[str] = "fakd"
    terms: ClassVar[tuple[str, ...]] = ("affinity",)

    reconstruction: float = 0.5
    """Weight of the mean absolute difference to the ground truth."""
    imitation: float = 0.5
    """Weight of the mean absolute difference to the teacher's output."""
    affinity: float = 10.0
    """Weight of the mean absolute difference of affinities, summed over the depths."""
    pool: int = 1
    """Side, in pixels, of the squares over which features are averaged first. A matrix has ``(h *
    w)^2`` entries, 5.3 million at 48 x 48; pooling by 2 divides that by 16."""

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool < 1:
            raise ValueError(f"fakd pools squares of at least one pixel, but pool is {self.pool}")

    @override
    def match(self, pair: Seen, state: nn.Module) -> Losses:
        ours, theirs = pair.features()
        distances = [
            affinity_distance(s, t, pool=self.pool) for s, t in zip(ours, theirs, strict=True)
        ]
        return {"affinity": self.affinity * torch.stack(distances).sum()}


def affinity_distance(ours: Tensor, theirs: Tensor, *, pool: int = 1) -> Tensor:
    """Mean absolute difference of affinities, of maps ``(n, c, h, w)`` and ``(n, c', h, w)``.

    The matrices of a whole batch may fill a GPU: 340 MB per network at 16 images of 48 x 48, and as
    much again for each step of the way back. They are made for a few images at a time, and made
    again for the gradient.
    """
    h, w = (-(-side // pool) for side in ours.shape[-2:])
    count = max(1, _ENTRIES // (h * w) ** 2)
    sums: list[Tensor] = [
        checkpoint(_summed, s, t, pool, use_reentrant=False, preserve_rng_state=False)
        for s, t in zip(ours.split(count), theirs.split(count), strict=True)
    ]
    return torch.stack(sums).sum() / (len(ours) * (h * w) ** 2)


def _summed(ours: Tensor, theirs: Tensor, pool: int) -> Tensor:
    return l1_loss(affinity(ours, pool=pool), affinity(theirs, pool=pool), reduction="sum")


def affinity(features: Tensor, *, pool: int = 1) -> Tensor:
    """Cosine between the feature vectors of every two places.

    ``(n, c, h, w)`` to ``(n, h * w, h * w)``.

    Args:
        features: Of any width.
        pool: Side of the squares averaged first; incomplete squares at the bottom and the right
            count as well.
    """
    if pool > 1:
        features = avg_pool2d(features, pool, ceil_mode=True, count_include_pad=False)
    columns = unit(features.flatten(2))
    return columns.mT @ columns
