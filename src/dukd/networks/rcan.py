"""RCAN: residual groups of blocks that weigh their channels by what the whole image holds.

Zhang, Li, Li, Wang, Zhong, Fu, "Image Super-Resolution Using Very Deep Residual Channel Attention
Networks", ECCV 2018, arXiv:1807.02758. Parameters are named as in BasicSR.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, cast

from torch import Tensor, nn
from typing_extensions import override

from dukd.networks import layouts
from dukd.networks.base import Layout, Network, NetworkConfig, Recognized, Staged
from dukd.networks.edsr import ENDS
from dukd.networks.layers import (
    DIV2K_MEAN,
    TAIL_RADIUS,
    Mean,
    Range,
    Upsampler,
    check_numbers,
    mean_convolutions,
    mean_shift,
    upsampler_steps,
)


@dataclass(frozen=True, kw_only=True)
class RCANConfig(NetworkConfig):
    """The numbers of an RCAN; the defaults are its paper's."""

    name: ClassVar[str] = "rcan"
    unseen = frozenset({"value_range", "mean"})

    width: int = 64
    """Channels of the features."""
    groups: int = 10
    """Residual groups."""
    blocks: int = 20
    """Channel attention blocks in each group."""
    squeeze: int = 16
    """Factor by which channel attention narrows the channels."""
    value_range: float = 255.0
    """White inside the network."""
    mean: Mean = DIV2K_MEAN
    """RGB subtracted from the input and added to the output, in [0, 1]."""

    def __post_init__(self) -> None:
        """Refuse numbers that make no network."""
        upsampler_steps(self.scale)
        counts = {
            "width": self.width,
            "groups": self.groups,
            "blocks": self.blocks,
            "squeeze": self.squeeze,
        }
        check_numbers("RCAN", counts=counts, value_range=self.value_range, mean=self.mean)
        if self.squeeze > self.width:
            raise ValueError(
                f"RCAN: squeeze is at most the width {self.width}, but got {self.squeeze}"
            )

    @override
    def build(self) -> "RCAN":
        return RCAN(self)

    @classmethod
    @override
    def layouts(cls) -> tuple[Layout, ...]:
        return (BasicSR(), Official())

    @override
    def describe(self) -> str:
        size = f"{self.width} channels, {self.groups} groups of {self.blocks} blocks"
        return f"RCAN x{self.scale}, {size}"


def rcan_teacher(scale: int) -> RCANConfig:
    """RCAN as its paper has it: 10 groups of 20 blocks, 15.6 million parameters."""
    return RCANConfig(scale=scale)


def rcan_student(scale: int) -> RCANConfig:
    """The student of FAKD and DUKD: 10 groups of 6 blocks, 5.2 million parameters."""
    return RCANConfig(scale=scale, blocks=6)


class RCAN(Staged):
    """RCAN; its stages are the groups and the convolution that closes the body.

    Channel attention averages over the whole image, so every input pixel can change every output
    pixel: no tile is exact.
    """

    fp16_safe: ClassVar[bool] = False
    tail_radius = TAIL_RADIUS

    def __init__(self, config: RCANConfig) -> None:
        width = config.width
        super().__init__(config, width=width, radius=None)
        self.range = Range(config.value_range, config.mean)
        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        groups = (ResidualGroup(width, config.blocks, config.squeeze) for _ in range(config.groups))
        self.body = nn.Sequential(*groups)
        self.conv_after_body = nn.Conv2d(width, width, 3, padding=1)
        self.upsample = Upsampler(config.scale, width)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    @property
    def stages(self) -> Sequence[nn.Module]:
        """Groups, then the convolution that closes the body."""
        return [*self.body, self.conv_after_body]

    def head(self, lr: Tensor) -> Tensor:
        """Subtract the mean, widen the range, take the first convolution."""
        return self.conv_first(self.range.enter(lr))

    def tail(self, x: Tensor, kept: Mapping[int, Tensor], lr: Tensor) -> Tensor:
        """Add the kept[0] x, upsample, go back to [0, 1]."""
        del lr
        return self.range.leave(self.conv_last(self.upsample(x + kept[0])))


class ResidualGroup(nn.Module):
    """Blocks and a convolution, beside the identity."""

    def __init__(self, width: int, blocks: int, squeeze: int) -> None:
        super().__init__()
        self.residual_group = nn.Sequential(
            *(AttentionBlock(width, squeeze) for _ in range(blocks))
        )
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, width, h, w)`` to the same shape."""
        return x + self.conv(self.residual_group(x))


class AttentionBlock(nn.Module):
    """Two convolutions and channel attention, beside the identity."""

    def __init__(self, width: int, squeeze: int) -> None:
        super().__init__()
        self.rcab = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            ChannelAttention(width, squeeze),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(n, width, h, w)`` to the same shape."""
        return x + self.rcab(x)


class ChannelAttention(nn.Module):
    """Each channel times a weight in (0, 1) that follows from the means of all channels."""

    def __init__(self, width: int, squeeze: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, width // squeeze, 1),
            nn.ReLU(),
            nn.Conv2d(width // squeeze, width, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(n, width, h, w)`` to the same shape."""
        return x * self.attention(x)


_OFFICIAL = ENDS | {
    "body.{g}.body.{n}.body.0.{p}": "body.{g}.residual_group.{n}.rcab.0.{p}",
    "body.{g}.body.{n}.body.2.{p}": "body.{g}.residual_group.{n}.rcab.2.{p}",
    "body.{g}.body.{n}.body.3.conv_du.0.{p}": "body.{g}.residual_group.{n}.rcab.3.attention.1.{p}",
    "body.{g}.body.{n}.body.3.conv_du.2.{p}": "body.{g}.residual_group.{n}.rcab.3.attention.3.{p}",
    "body.{g}.body.{inner}.{p}": "body.{g}.conv.{p}",
    "body.{last}.{p}": "conv_after_body.{p}",
}
_TENSORS = Mapping[str, Tensor]


def _config(tensors: _TENSORS) -> RCANConfig:
    width = layouts.shape(tensors, "conv_first.weight", 4)[0]
    narrow = layouts.shape(tensors, "body.0.residual_group.0.rcab.3.attention.1.weight", 4)[0]
    return RCANConfig(
        scale=layouts.upsampler_scale(tensors),
        width=width,
        groups=layouts.count(tensors, r"body\.(\d+)\.residual_group\."),
        blocks=layouts.count(tensors, r"body\.0\.residual_group\.(\d+)\.rcab\.0\.weight"),
        squeeze=width // narrow,
    )


class BasicSR(Layout):
    """BasicSR's names, which are ours."""

    name = "basicsr"
    signature = (r"body\.\d+\.residual_group\.\d+\.rcab\.0\.weight",)

    @override
    def read(self, tensors: _TENSORS) -> Recognized:
        return Recognized(config=_config(tensors), tensors=tensors)

    @override
    def write(
        self, network: Network, tensors: _TENSORS, *, training_size: int
    ) -> dict[str, Tensor]:
        return dict(tensors)


class Official(Layout):
    """The authors' names, bare; range and mean stand in two convolutions."""

    name = "official"
    signature = (r"body\.\d+\.body\.\d+\.body\.0\.weight",)
    key = None

    @override
    def read(self, tensors: _TENSORS) -> Recognized:
        rest, value_range, mean, shown = mean_shift(tensors)
        renamed = layouts.ours(rest, _OFFICIAL)
        config = replace(_config(renamed), value_range=value_range, mean=mean)
        return Recognized(config=config, tensors=renamed, shown=shown)

    @override
    def closed(self, config: NetworkConfig) -> str:
        usual = getattr(config, "value_range", None) == 255
        return "" if usual else "spandrel takes every RCAN for one of the range 255"

    @override
    def write(
        self, network: Network, tensors: _TENSORS, *, training_size: int
    ) -> dict[str, Tensor]:
        config = cast("RCANConfig", network.config)
        numbers = {"last": config.groups, "inner": config.blocks}
        renamed = layouts.theirs(tensors, _OFFICIAL, numbers)
        return mean_convolutions(config.value_range, config.mean) | renamed
