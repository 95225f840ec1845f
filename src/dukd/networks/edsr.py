"""EDSR: residual blocks without normalization, then sub-pixel convolutions.

Lim, Son, Kim, Nah, Lee, "Enhanced Deep Residual Networks for Single Image Super-Resolution", CVPRW
2017, arXiv:1707.02921. Parameters are named as in BasicSR.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  the name everybody knows

from dukd.networks.base import NetworkConfig, Staged
from dukd.networks.layers import (
    DIV2K_MEAN,
    TAIL_RADIUS,
    Mean,
    Range,
    Upsampler,
    check_numbers,
    upsampler_steps,
)


@dataclass(frozen=True, kw_only=True)
class EDSRConfig(NetworkConfig):
    """The numbers of an EDSR; the defaults are the authors' baseline."""

    name: ClassVar[str] = "edsr"

    width: int = 64
    """Channels of the features."""
    blocks: int = 16
    """Residual blocks."""
    residual_scale: float = 1.0
    """Factor of each block's branch; the wide and the deep ones use 0.1 to stay stable."""
    value_range: float = 255.0
    """White inside the network."""
    mean: Mean = DIV2K_MEAN
    """RGB subtracted from the input and added to the output, in [0, 1]."""
    skip: Literal["none", "nearest"] = "none"
    """``nearest`` adds the input, pixels repeated, to the output: a small network then starts at an
    image."""

    def __post_init__(self) -> None:
        """Refuse numbers that make no network."""
        upsampler_steps(self.scale)
        counts = {"width": self.width, "blocks": self.blocks}
        check_numbers("EDSR", counts=counts, value_range=self.value_range, mean=self.mean)
        if self.skip not in {"none", "nearest"}:
            raise ValueError(f"EDSR: skip is none or nearest, but got {self.skip!r}")

    def build(self) -> "EDSR":
        """Make the network with freshly initialized weights."""
        return EDSR(self)


def edsr_teacher(scale: int) -> EDSRConfig:
    """EDSR as its paper has it: 256 channels, 32 blocks, 43 million parameters."""
    return EDSRConfig(scale=scale, width=256, blocks=32, residual_scale=0.1)


def edsr_student(scale: int) -> EDSRConfig:
    """DUKD's student: 64 channels, 32 blocks, 2.7 million parameters."""
    return EDSRConfig(scale=scale, width=64, blocks=32, residual_scale=0.1)


def edsr_baseline(scale: int) -> EDSRConfig:
    """The authors' baseline: 64 channels, 16 blocks, 1.5 million parameters."""
    return EDSRConfig(scale=scale)


class EDSR(Staged):
    """EDSR; its stages are the blocks and the convolution that closes the body."""

    def __init__(self, config: EDSRConfig) -> None:
        width = config.width
        super().__init__(config, width=width, radius=1 + 2 * config.blocks + 1 + TAIL_RADIUS)
        self.range = Range(config.value_range, config.mean)
        self.skip = config.skip
        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(
            *(ResidualBlock(width, config.residual_scale) for _ in range(config.blocks))
        )
        self.conv_after_body = nn.Conv2d(width, width, 3, padding=1)
        self.upsample = Upsampler(config.scale, width)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    @property
    def stages(self) -> Sequence[nn.Module]:
        """Blocks, then the convolution that closes the body."""
        return [*self.body, self.conv_after_body]

    def head(self, lr: Tensor) -> Tensor:
        """Subtract the mean, widen the range, take the first convolution."""
        return self.conv_first(self.range.enter(lr))

    def tail(self, x: Tensor, kept: Mapping[int, Tensor], lr: Tensor) -> Tensor:
        """Add the kept[0] x, upsample, go back to [0, 1]."""
        values = self.conv_last(self.upsample(x + kept[0]))
        if self.skip == "none":
            return self.range.leave(values)
        # The enlarged input holds the mean already.
        return (
            F.interpolate(lr, scale_factor=self.scale, mode="nearest")
            + values / self.range.value_range
        )


class ResidualBlock(nn.Module):
    """Two convolutions with a rectifier between them, beside the identity."""

    def __init__(self, width: int, residual_scale: float) -> None:
        super().__init__()
        self.residual_scale = residual_scale
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, width, h, w)`` to the same shape."""
        return x + self.conv2(F.relu(self.conv1(x))) * self.residual_scale
