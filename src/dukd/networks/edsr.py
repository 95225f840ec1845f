"""EDSR: residual blocks without normalization, then sub-pixel convolutions.

Lim, Son, Kim, Nah, Lee, "Enhanced Deep Residual Networks for Single Image Super-Resolution", CVPRW
2017, arXiv:1707.02921. Parameters are named as in BasicSR.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  the name everybody knows
from typing_extensions import override

from dukd.networks import layouts
from dukd.networks.base import Layout, Network, NetworkConfig, Recognized, Staged
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
class EDSRConfig(NetworkConfig):
    """The numbers of an EDSR; the defaults are the authors' baseline."""

    name: ClassVar[str] = "edsr"
    unseen = frozenset({"value_range", "mean", "residual_scale", "skip"})

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

    @override
    def build(self) -> "EDSR":
        return EDSR(self)

    @classmethod
    @override
    def layouts(cls) -> tuple[Layout, ...]:
        return (BasicSR(), Official(), MMagic())

    @override
    def describe(self) -> str:
        return f"EDSR x{self.scale}, {self.width} channels, {self.blocks} blocks"


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

    tail_radius = TAIL_RADIUS

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


ENDS = {
    "head.0.{p}": "conv_first.{p}",
    "tail.0.{n}.{p}": "upsample.{n}.{p}",
    "tail.1.{p}": "conv_last.{p}",
}
"""Names of the first and last layers in the authors' code of EDSR and RCAN, and ours."""
_OFFICIAL = ENDS | {
    "body.{n}.body.0.{p}": "body.{n}.conv1.{p}",
    "body.{n}.body.2.{p}": "body.{n}.conv2.{p}",
    "body.{last}.{p}": "conv_after_body.{p}",
}
_TENSORS = Mapping[str, Tensor]
_SHOWN = frozenset({"skip"})
"""No other code's EDSR has a skip."""


def _config(tensors: _TENSORS) -> EDSRConfig:
    """The wide and the deep EDSRs scale their branches by 0.1, which no tensor shows."""
    width = layouts.shape(tensors, "conv_first.weight", 4)[0]
    blocks = layouts.count(tensors, r"body\.(\d+)\.conv1\.weight")
    return EDSRConfig(
        scale=layouts.upsampler_scale(tensors),
        width=width,
        blocks=blocks,
        residual_scale=0.1 if blocks >= 32 or width >= 256 else 1.0,
    )


def _without_skip(network: Network, whose: str) -> EDSRConfig:
    config = cast("EDSRConfig", network.config)
    if config.skip != "none":
        raise layouts.LayoutError(f"{whose} EDSR {layouts.LACKS_SKIP}")
    return config


class BasicSR(Layout):
    """BasicSR's names, which are ours."""

    name = "basicsr"
    signature = (r"body\.\d+\.conv1\.weight", r"upsample\.0\.weight", r"conv_last\.weight")

    @override
    def read(self, tensors: _TENSORS) -> Recognized:
        return Recognized(config=_config(tensors), tensors=tensors, shown=_SHOWN)

    @override
    def write(
        self, network: Network, tensors: _TENSORS, *, training_size: int
    ) -> dict[str, Tensor]:
        _without_skip(network, "BasicSR's")
        return dict(tensors)


class Official(Layout):
    """The authors' names, bare; range and mean stand in two convolutions."""

    name = "official"
    signature = (r"body\.\d+\.body\.0\.weight", r"tail\.1\.weight")
    key = None

    @override
    def read(self, tensors: _TENSORS) -> Recognized:
        rest, value_range, mean, shown = mean_shift(tensors)
        renamed = layouts.ours(rest, _OFFICIAL)
        config = replace(_config(renamed), value_range=value_range, mean=mean)
        return Recognized(config=config, tensors=renamed, shown=shown | _SHOWN)

    @override
    def write(
        self, network: Network, tensors: _TENSORS, *, training_size: int
    ) -> dict[str, Tensor]:
        config = _without_skip(network, "the authors'")
        renamed = layouts.theirs(tensors, _OFFICIAL, {"last": config.blocks})
        return mean_convolutions(config.value_range, config.mean) | renamed


class MMagic(Layout):
    """MMEditing's and MMagic's names: BasicSR's, but for the upsampler."""

    name = "mmagic"
    signature = (r"body\.\d+\.conv1\.weight", r"upsample\.0\.upsample_conv\.weight")
    key = "state_dict"

    @override
    def read(self, tensors: _TENSORS) -> Recognized:
        renamed = {
            re.sub(
                r"^upsample\.(\d{1,2})\.upsample_conv\.",
                lambda found: f"upsample.{2 * int(found[1])}.",
                name,
            ): tensor
            for name, tensor in tensors.items()
        }
        return Recognized(config=_config(renamed), tensors=renamed, shown=_SHOWN)

    @override
    def write(
        self, network: Network, tensors: _TENSORS, *, training_size: int
    ) -> dict[str, Tensor]:
        _without_skip(network, "MMagic's")
        return {
            re.sub(
                r"^upsample\.(\d+)\.",
                lambda found: f"upsample.{int(found[1]) // 2}.upsample_conv.",
                name,
            ): tensor
            for name, tensor in tensors.items()
        }
