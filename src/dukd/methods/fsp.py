"""FSP: how features flow from one depth to the next should be as in the teacher.

Yim et al., "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and
Transfer Learning", CVPR 2017. The flow between two depths is the matrix of products of their
channels, averaged over pixels. Two features are needed for one flow (methods.md D17: published SR
code passes one). Networks of different width have matrices of different shape; a 1x1 convolution
per depth then carries the student to the teacher's width, which the paper has not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from typing_extensions import override

from dukd.methods.base import Losses, Seen
from dukd.methods.features import FeatureMethod, Widths, adapter, in_own_units


@dataclass(frozen=True, kw_only=True)
class FSP(FeatureMethod):
    """Match the ground truth and the flow between consecutive depths."""

    name: ClassVar[str] = "fsp"
    terms: ClassVar[tuple[str, ...]] = ("flow",)

    flow: float = 0.1
    """Weight of the mean squared difference of flow matrices, averaged over pairs of consecutive
    depths."""
    relative: bool = True
    """Whether each network's features are first divided by their own root mean square over the
    batch; without, as in the paper, the weight has to suit the range of values inside the networks
    (255 in EDSR, 1 in SwinIR)."""

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.depths) < 2:
            raise ValueError(
                f"fsp compares flows between depths and takes at least two, but got {self.depths}"
            )

    @override
    def match(self, pair: Seen, state: nn.Module) -> Losses:
        ours, theirs = pair.features()
        own = flows(state(in_own_units(ours, relative=self.relative)))
        wanted = flows(in_own_units(theirs, relative=self.relative))
        distances = [mse_loss(s, t) for s, t in zip(own, wanted, strict=True)]
        return {"flow": self.flow * torch.stack(distances).mean()}

    @override
    def learnt(self, widths: Widths) -> nn.Module:
        return adapter(widths)


def flows(features: Sequence[Tensor]) -> list[Tensor]:
    """Flow matrix of every two consecutive maps.

    ``k`` of ``(n, c_i, h, w)`` to ``k - 1`` of ``(n, c_i, c_i+1)``.
    """
    return [(a.flatten(2) @ b.flatten(2).mT) / a[0, 0].numel() for a, b in pairwise(features)]
