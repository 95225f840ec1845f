"""SMFANet: local detail beside coarse, image-wide modulation, at half a million parameters.

Zheng, Sun, Dong, Pan, "SMFANet: A Lightweight Self-Modulation Feature Aggregation Network for
Efficient Image Super-Resolution", ECCV 2024. Parameters are named as in the authors' code, whose
files are read as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  the name everybody knows
from typing_extensions import override

from dukd.networks import layouts
from dukd.networks.base import Layout, Network, NetworkConfig, Recognized, Staged
from dukd.networks.layers import check_numbers
from dukd.networks.tracing import cell_maxima, enlarged, variance

_COARSE = 8
"""Pixels on a side of the cells whose maximum modulates the features."""


@dataclass(frozen=True, kw_only=True)
class SMFANetConfig(NetworkConfig):
    """The numbers of an SMFANet; the defaults are SMFANet+.

    It works on [0, 1] and subtracts no mean.
    """

    name: ClassVar[str] = "smfanet"

    width: int = 48
    """Channels of the features."""
    blocks: int = 12
    """Feature modulation blocks."""
    expansion: float = 2.0
    """Channels inside the feed-forward network, as a multiple of the width."""

    def __post_init__(self) -> None:
        """Refuse numbers that make no network."""
        counts = {"scale": self.scale, "width": self.width, "blocks": self.blocks}
        counts["channels of the partial convolution"] = int(self.width * self.expansion) // 4
        check_numbers("SMFANet", counts=counts, value_range=1.0, mean=(0.0, 0.0, 0.0))

    @override
    def build(self) -> "SMFANet":
        return SMFANet(self)

    @classmethod
    @override
    def layouts(cls) -> tuple[Layout, ...]:
        return (Official(), BasicSR())

    @override
    def describe(self) -> str:
        return f"SMFANet x{self.scale}, {self.width} channels, {self.blocks} blocks"


def smfanet_plus(scale: int) -> SMFANetConfig:
    """SMFANet+: 48 channels, 12 blocks, half a million parameters."""
    return SMFANetConfig(scale=scale)


def smfanet_small(scale: int) -> SMFANetConfig:
    """SMFANet without the plus: 36 channels, 8 blocks."""
    return SMFANetConfig(scale=scale, width=36, blocks=8)


class SMFANet(Staged):
    """SMFANet; its stages are the blocks.

    Each block takes the variance of its features over the whole image, so every input pixel can
    change every output pixel: no tile is exact. Images below 8 pixels have one coarse cell, where
    the authors' code fails.
    """

    def __init__(self, config: SMFANetConfig) -> None:
        super().__init__(config, width=config.width, radius=None)
        self.to_feat = nn.Conv2d(3, config.width, 3, padding=1)
        self.feats = nn.Sequential(
            *(ModulationBlock(config.width, config.expansion) for _ in range(config.blocks))
        )
        self.to_img = nn.Sequential(
            nn.Conv2d(config.width, 3 * config.scale**2, 3, padding=1),
            nn.PixelShuffle(config.scale),
        )

    @property
    def stages(self) -> Sequence[nn.Module]:
        """The blocks; no convolution closes the body."""
        return list(self.feats)

    def head(self, lr: Tensor) -> Tensor:
        """Take the first convolution."""
        return self.to_feat(lr)

    def tail(self, x: Tensor, kept: Mapping[int, Tensor], lr: Tensor) -> Tensor:
        """Add the kept[0] x, upsample in one step."""
        del lr
        return self.to_img(x + kept[0])


class ModulationBlock(nn.Module):
    """Self-modulation and a feed-forward network, on features of unit norm, with skips."""

    def __init__(self, width: int, expansion: float) -> None:
        super().__init__()
        self.smfa = SelfModulation(width)
        self.pcfn = PartialFeedForward(width, int(width * expansion))

    def forward(self, x: Tensor) -> Tensor:
        """``(n, width, h, w)`` to the same shape."""
        x = x + self.smfa(F.normalize(x))
        return x + self.pcfn(F.normalize(x))


class SelfModulation(nn.Module):
    """Half of the channels is scaled by what coarse cells and the whole image hold.

    The other half keeps detail.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_0 = nn.Conv2d(width, 2 * width, 1)
        self.linear_1 = nn.Conv2d(width, width, 1)
        self.linear_2 = nn.Conv2d(width, width, 1)
        self.lde = LocalDetail(width)
        self.dw_conv = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.alpha = nn.Parameter(torch.ones(1, width, 1, 1))
        self.belt = nn.Parameter(torch.zeros(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``(n, width, h, w)`` to the same shape."""
        detail, content = self.linear_0(x).chunk(2, dim=1)
        if torch.onnx.is_in_onnx_export():
            pooled, spread = cell_maxima(content, _COARSE), variance(content)
        else:
            h, w = content.shape[-2:]
            pooled = F.adaptive_max_pool2d(content, (max(1, h // _COARSE), max(1, w // _COARSE)))
            spread = content.var((-2, -1), correction=1 if h * w > 1 else 0, keepdim=True)
        modulation = F.gelu(self.linear_1(self.dw_conv(pooled) * self.alpha + spread * self.belt))
        if torch.onnx.is_in_onnx_export():
            modulated = content * enlarged(modulation, content)
        else:
            modulated = content * F.interpolate(modulation, size=content.shape[-2:], mode="nearest")
        return self.linear_2(modulated + self.lde(detail))


class LocalDetail(nn.Module):
    """A depth-wise 3x3 convolution between two mixings of the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_0 = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, padding=1, groups=width),
            nn.Conv2d(2 * width, 2 * width, 1),
        )
        self.conv_1 = nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, width, h, w)`` to the same shape."""
        return self.conv_1(F.gelu(self.conv_0(x)))


class PartialFeedForward(nn.Module):
    """A feed-forward network that looks around a pixel in a quarter of its channels only."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.split = (inner // 4, inner - inner // 4)
        self.conv_0 = nn.Conv2d(width, inner, 1)
        self.conv_1 = nn.Conv2d(inner // 4, inner // 4, 3, padding=1)
        self.conv_2 = nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, width, h, w)`` to the same shape."""
        around, alone = F.gelu(self.conv_0(x)).split(self.split, dim=1)
        return self.conv_2(torch.cat((F.gelu(self.conv_1(around)), alone), dim=1))


class Official(Layout):
    """The authors' names, which are ours."""

    name = "official"
    signature = (r"feats\.\d+\.smfa\.alpha", r"to_feat\.weight")

    @override
    def read(self, tensors: Mapping[str, Tensor]) -> Recognized:
        width = layouts.shape(tensors, "to_feat.weight", 4)[0]
        channels = layouts.shape(tensors, "to_img.0.weight", 4)[0]
        config = SMFANetConfig(
            scale=layouts.shuffle_factor(channels, 3),
            width=width,
            blocks=layouts.count(tensors, r"feats\.(\d+)\.smfa\.alpha"),
            expansion=layouts.shape(tensors, "feats.0.pcfn.conv_0.weight", 4)[0] / width,
        )
        return Recognized(config=config, tensors=tensors)

    @override
    def write(
        self, network: Network, tensors: Mapping[str, Tensor], *, training_size: int
    ) -> dict[str, Tensor]:
        return dict(tensors)


class BasicSR(Official):
    """The same names under BasicSR's, whose trainer the authors use."""

    name = "basicsr"
