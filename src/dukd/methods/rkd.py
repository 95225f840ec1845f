"""RKD: what is far apart for the teacher should be far apart for the student.

Park et al., "Relational Knowledge Distillation", CVPR 2019, arXiv:1904.05068. Not features are
matched but distances between items, divided by their mean, and angles in triplets of items; so
width plays no part, nor does any rotation, shift or scaling of the feature space.

The paper's items are the images of a batch. How the super-resolution tables used it is not known.
Our reading: an item is a cell of an image, so that places within and across images are related;
``cells=1`` is the paper's.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss
from typing_extensions import override

from dukd.methods.base import Losses, Seen
from dukd.methods.features import FeatureMethod


@dataclass(frozen=True, kw_only=True)
class RKD(FeatureMethod):
    """Match the ground truth, and distances and angles between places of the batch."""

    name: ClassVar[str] = "rkd"
    terms: ClassVar[tuple[str, ...]] = ("distance", "angle")

    distance: float = 1.0
    """Weight of the Huber distance between relative distances; the paper has 1 for metric learning,
    25 for classes."""
    angle: float = 2.0
    """Weight of the Huber distance between cosines of angles; the paper has 2 for metric learning,
    50 for classes."""
    cells: int = 2
    """Cells per side into which each image is cut; each is one item. Memory grows with the cube of
    ``n * cells^2``."""
    depths: tuple[float, ...] = (1.0,)
    """Where to read both networks, as fractions of their depth, in (0, 1]; losses are averaged over
    them."""

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cells < 1:
            raise ValueError(
                f"rkd cuts images into at least one cell per side, but cells is {self.cells}"
            )

    @override
    def match(self, pair: Seen, state: nn.Module) -> Losses:
        ours, theirs = pair.features()
        own = [distances(items(f, cells=self.cells)) for f in ours]
        wanted = [distances(items(f, cells=self.cells)) for f in theirs]
        losses: Losses = {}
        for name, weight, relation in (
            ("distance", self.distance, relative),
            ("angle", self.angle, cosines),
        ):
            if weight:
                terms = [
                    smooth_l1_loss(relation(s), relation(t))
                    for s, t in zip(own, wanted, strict=True)
                ]
                losses[name] = weight * torch.stack(terms).mean()
        return losses


def items(features: Tensor, *, cells: int) -> Tensor:
    """Cut maps into cells and flatten each.

    ``(n, c, h, w)`` to ``(n * cells^2, c * (h // cells) * (w // cells))``.

    Raises:
        ValueError: If a cell would be empty, or if fewer than three items come out: two have no
            relation to learn.
    """
    n, c, h, w = features.shape
    if min(h, w) < cells or n * cells**2 < 3:
        raise ValueError(
            f"rkd relates at least three items, but {n} maps of {h} x {w} pixels in {cells} x "
            f"{cells} cells are too few: use larger batches or other cells"
        )
    features = features[..., : h // cells * cells, : w // cells * cells]
    grid = features.reshape(n, c, cells, h // cells, cells, w // cells)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(n * cells**2, -1)


def distances(x: Tensor) -> Tensor:
    """Euclidean distance between every two items, ``(m, d)`` to ``(m, m)``; exact at 0."""
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")


def relative(d: Tensor) -> Tensor:
    """Distances divided by the mean of those that are not 0: ``(m, m)`` to the same shape."""
    return d / (d.sum() / (d > 0).sum().clamp_min(1)).clamp_min(1e-8)


def cosines(d: Tensor) -> Tensor:
    """Cosine of the angle at item j between i and k, by the law of cosines.

    ``(m, m)`` to ``(m, m, m)`` as [j, i, k]. It is 0 where a side has no length.
    """
    sides = d[:, :, None] * d[:, None, :]
    twice = d.square()[:, :, None] + d.square()[:, None, :] - d.square()[None]
    real = sides > 0
    return torch.where(real, twice, 0) / (2 * torch.where(real, sides, 1))
