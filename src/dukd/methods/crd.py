"""CRD: a place should be told from others by the student as by the teacher.

Tian, Krishnan and Isola, "Contrastive Representation Distillation", ICLR 2020, arXiv:1910.10699.
Two learnt heads bring both networks' features into one space, where a critic has to tell pairs of
the same place from pairs of different ones:

    L = L_rec + 2 w mean over places i of  [ -log h(i, i)  -  sum over j != i of log(1 - h(i, j)) ]
    h(i, j) = r / (r + N),   r = exp(g_S(i) . g_T(j) / temperature) / Z,   N negatives per place

The paper draws 16,384 negatives from a memory of the whole data set. Random crops never come twice,
so there is nothing to remember here: the negatives are the other places of the batch. Z is the mean
over all pairs, a constant without a gradient as in the reference implementation, which keeps the
first batch's. The 2 is there because the student's places are told from the teacher's and the
teacher's from the student's; within a batch both are one sum. A place is a cell of an image;
``cells=1`` takes whole images, as the paper does.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, softplus
from typing_extensions import override

from dukd.methods.base import Losses, Seen
from dukd.methods.features import FeatureMethod, Widths, in_own_units, unit


@dataclass(frozen=True, kw_only=True)
class CRD(FeatureMethod):
    """Match the ground truth, and tell places of the batch apart by the teacher's features."""

    name: ClassVar[str] = "crd"
    terms: ClassVar[tuple[str, ...]] = ("contrast",)

    contrast: float = 0.05
    """Weight of the contrastive losses of both directions, averaged over the depths; the paper has
    0.8, for classification."""
    temperature: float = 0.07
    """Divisor of the cosines, above 0; the smaller, the more the nearest negatives count."""
    dimensions: int = 128
    """Size of the space in which features are compared."""
    cells: int = 2
    """Cells per side into which each image is cut; each is one place."""
    relative: bool = True
    """Whether each network's features are first divided by their own root mean square over the
    batch; the paper has no need of it, since it compares networks of one range."""
    depths: tuple[float, ...] = (1.0,)
    """Where to read both networks, as fractions of their depth, in (0, 1]."""

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise ValueError(
                f"crd divides by its temperature, which must be above 0, but got {self.temperature}"
            )
        if self.cells < 1 or self.dimensions < 1:
            raise ValueError(
                f"crd takes at least 1, but cells is {self.cells} and dimensions {self.dimensions}"
            )

    @override
    def match(self, pair: Seen, state: nn.Module) -> Losses:
        ours, theirs = pair.features()
        assert isinstance(state, nn.ModuleList)
        own = in_own_units(ours, relative=self.relative)
        wanted = in_own_units(theirs, relative=self.relative)
        terms = [
            contrast(
                *heads(places(s, cells=self.cells), places(t, cells=self.cells)),
                temperature=self.temperature,
            )
            for heads, s, t in zip(state, own, wanted, strict=True)
        ]
        return {"contrast": self.contrast * torch.stack(terms).mean()}

    @override
    def learnt(self, widths: Widths) -> nn.Module:
        return nn.ModuleList(Heads(ours, theirs, self.dimensions) for ours, theirs in widths)


class Heads(nn.Module):
    """Brings features of two widths to vectors of length 1 in one space."""

    def __init__(self, ours: int, theirs: int, dimensions: int) -> None:
        """Draw two linear maps from torch's global generator."""
        super().__init__()
        self.ours = nn.Linear(ours, dimensions)
        self.theirs = nn.Linear(theirs, dimensions)

    def forward(self, ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(m, c)`` and ``(m, c')`` to ``(m, dimensions)`` each."""
        return unit(self.ours(ours)), unit(self.theirs(theirs))


def places(features: Tensor, *, cells: int) -> Tensor:
    """Average maps over cells: ``(n, c, h, w)`` to ``(n * cells^2, c)``."""
    return adaptive_avg_pool2d(features, cells).flatten(2).mT.flatten(0, 1)


def contrast(ours: Tensor, theirs: Tensor, *, temperature: float) -> Tensor:
    """Noise-contrastive loss of ``m`` pairs ``(m, d)`` of length 1; other pairs serve as noise.

    Both directions are added: each of ``ours`` against all of ``theirs``, and the other way round.

    Raises:
        ValueError: If there is only one pair, which has nothing to be told from.
    """
    m = len(ours)
    if m == 1:
        raise ValueError(
            "crd tells places apart, but a batch of one with cells=1 has a single one: take more "
            "of either"
        )
    logits = ours @ theirs.mT / temperature
    mean = logits.detach().flatten().logsumexp(0) - math.log(m * m)
    # log r - log N; then -log h = softplus(-odds) and -log(1 - h) = softplus(odds), which cannot
    # overflow.
    odds = logits - mean - math.log(m - 1)
    same = torch.eye(m, dtype=torch.bool, device=odds.device)
    return 2 * softplus(torch.where(same, -odds, odds)).sum() / m
