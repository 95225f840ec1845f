"""SRKD: a statistic over the channels should be, at every pixel, as in the teacher.

Gao et al., "Image Super-Resolution Using Knowledge Distillation", ACCV 2018. The statistic is a map
per image, so width plays no part; the paper finds the square of the mean to work best. It has no
term for the teacher's output.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, assert_never

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from typing_extensions import override

from dukd.methods.base import Losses, Seen
from dukd.methods.features import FeatureMethod, in_own_units

Statistic = Literal["mean_power", "power_mean", "max", "min"]
"""A power of the mean over channels, the mean of powers, the greatest value, the least."""


@dataclass(frozen=True, kw_only=True)
class SRKD(FeatureMethod):
    """Match the ground truth and a statistic of the teacher's features."""

    name: ClassVar[str] = "srkd"
    terms: ClassVar[tuple[str, ...]] = ("statistics",)

    statistics: float = 1.0
    """Weight of the mean squared difference of statistics, summed over the depths."""
    statistic: Statistic = "mean_power"
    """What is taken over the channels."""
    power: int = 2
    """Exponent of ``mean_power`` and ``power_mean``; without effect on the others."""
    relative: bool = True
    """Whether each network's features are first divided by their own root mean square over the
    batch; without, as in the paper, the weight has to suit the range of values inside the networks
    (255 in EDSR, 1 in SwinIR)."""

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.power < 1:
            raise ValueError(f"srkd takes a power of at least 1, but got {self.power}")

    @override
    def match(self, pair: Seen, state: nn.Module) -> Losses:
        own, wanted = (
            [
                over_channels(f, self.statistic, self.power)
                for f in in_own_units(features, relative=self.relative)
            ]
            for features in pair.features()
        )
        distances = [mse_loss(s, t) for s, t in zip(own, wanted, strict=True)]
        return {"statistics": self.statistics * torch.stack(distances).sum()}


def over_channels(features: Tensor, statistic: Statistic, power: int) -> Tensor:
    """Reduce channels to one map: ``(n, c, h, w)`` to ``(n, h, w)``."""
    match statistic:
        case "mean_power":
            return features.mean(1).pow(power)
        case "power_mean":
            return features.pow(power).mean(1)
        case "max":
            return features.amax(1)
        case "min":
            return features.amin(1)
        case _:
            assert_never(statistic)
