"""RCAN: residual groups of blocks that weigh their channels by what the whole image holds.

Zhang, Li, Li, Wang, Zhong, Fu, "Image Super-Resolution Using Very Deep Residual Channel Attention
Networks", ECCV 2018, arXiv:1807.02758. Parameters are named as in BasicSR.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from dukd.networks.base import NetworkConfig, Staged
from dukd.networks.layers import DIV2K_MEAN, Mean, Range, Upsampler, check_numbers, upsampler_steps


@dataclass(frozen=True, kw_only=True)
class RCANConfig(NetworkConfig):
    """The numbers of an RCAN; the defaults are its paper's."""

    name: ClassVar[str] = "rcan"

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

    def build(self) -> "RCAN":
        """Make the network with freshly initialized weights."""
        return RCAN(self)


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
