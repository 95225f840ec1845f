"""SRVGGNetCompact: a row of 3x3 convolutions at low resolution, added to the pixels repeated.

Wang, Xie, Dong, Shan, "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic
Data", ICCVW 2021, arXiv:2107.10833; its small networks. Parameters are named as in the authors'
code, BasicSR and spandrel.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  the name everybody knows
from typing_extensions import override

from dukd.networks import layouts
from dukd.networks.base import Layout, Network, NetworkConfig, Recognized, Staged
from dukd.networks.layers import check_numbers

Activation = Literal["prelu", "relu", "leakyrelu"]


@dataclass(frozen=True, kw_only=True)
class CompactConfig(NetworkConfig):
    """The numbers of a Compact; the defaults are those of the authors' small video model."""

    name: ClassVar[str] = "compact"
    unseen = frozenset({"activation"})

    width: int = 64
    """Channels of the features."""
    blocks: int = 16
    """Convolutions between the first and the last."""
    activation: Activation = "prelu"
    """What follows each convolution; ``leakyrelu`` has the slope 0.1."""

    def __post_init__(self) -> None:
        """Refuse numbers that make no network."""
        counts = {"scale": self.scale, "width": self.width, "blocks": self.blocks}
        check_numbers("Compact", counts=counts)
        if self.activation not in get_args(Activation):
            raise ValueError(
                f"Compact: activation is one of {', '.join(get_args(Activation))}, but got "
                f"{self.activation!r}"
            )

    @override
    def build(self) -> "Compact":
        return Compact(self)

    @classmethod
    @override
    def layouts(cls) -> tuple[Layout, ...]:
        return (BasicSR(),)

    @override
    def describe(self) -> str:
        return f"Compact x{self.scale}, {self.width} channels, {self.blocks} convolutions"


def compact_general(scale: int) -> CompactConfig:
    """As large as the authors' realesr-general-x4v3: 64 channels, 32 convolutions, 1.2 million."""
    return CompactConfig(scale=scale, blocks=32)


def compact_ultra(scale: int) -> CompactConfig:
    """The community's UltraCompact: 64 channels, 8 convolutions, 0.3 million parameters."""
    return CompactConfig(scale=scale, blocks=8)


def compact_super_ultra(scale: int) -> CompactConfig:
    """The community's SuperUltraCompact: 24 channels, 8 convolutions, 50 thousand parameters."""
    return CompactConfig(scale=scale, width=24, blocks=8)


class Compact(Staged):
    """SRVGGNetCompact; its stages are the convolutions between first and last, with activations."""

    keeps = ()

    def __init__(self, config: CompactConfig) -> None:
        super().__init__(config, width=config.width, radius=config.blocks + 2)
        self.body = nn.ModuleList([nn.Conv2d(3, config.width, 3, padding=1), _activation(config)])
        for _ in range(config.blocks):
            self.body.append(nn.Conv2d(config.width, config.width, 3, padding=1))
            self.body.append(_activation(config))
        self.body.append(nn.Conv2d(config.width, 3 * config.scale**2, 3, padding=1))
        # In a tuple: the parameters are registered above, under the names of published files.
        self.row = tuple(
            nn.Sequential(self.body[i], self.body[i + 1])
            for i in range(2, 2 * config.blocks + 2, 2)
        )

    @property
    @override
    def stages(self) -> Sequence[nn.Module]:
        return self.row

    @override
    def head(self, lr: Tensor) -> Tensor:
        return self.body[1](self.body[0](lr))

    @override
    def tail(self, x: Tensor, kept: Mapping[int, Tensor], lr: Tensor) -> Tensor:
        residual = F.pixel_shuffle(self.body[-1](x), self.scale)
        return residual + F.interpolate(lr, scale_factor=self.scale, mode="nearest")


def _activation(config: CompactConfig) -> nn.Module:
    match config.activation:
        case "prelu":
            return nn.PReLU(config.width)
        case "relu":
            return nn.ReLU()
        case "leakyrelu":
            return nn.LeakyReLU(0.1)


class BasicSR(Layout):
    """The authors' names, which are ours."""

    name = "basicsr"
    signature = (r"body\.0\.weight", r"body\.2\.weight", r"body\.2\.bias")

    @override
    def read(self, tensors: Mapping[str, Tensor]) -> Recognized:
        width = layouts.shape(tensors, "body.0.weight", 4)[0]
        last = max(int(m[1]) for n in tensors if (m := re.fullmatch(r"body\.(\d{1,5})\.bias", n)))
        blocks = layouts.count(tensors, r"body\.(\d+)\.bias") - 2
        if last != 2 * blocks + 2:
            raise layouts.LayoutError(f"body.{last} is not the last of {blocks + 2} convolutions")
        channels = layouts.shape(tensors, f"body.{last}.weight", 4)[0]
        prelu = "body.1.weight" in tensors
        config = CompactConfig(
            scale=layouts.shuffle_factor(channels, 3, least=1),
            width=width,
            blocks=blocks,
            activation="prelu" if prelu else "relu",
        )
        shown = frozenset({"activation"}) if prelu else frozenset[str]()
        return Recognized(config=config, tensors=tensors, shown=shown)

    @override
    def closed(self, config: NetworkConfig) -> str:
        activation = config.activation if isinstance(config, CompactConfig) else "prelu"
        return "" if activation == "prelu" else "spandrel opens a Compact with prelu alone"

    @override
    def write(
        self, network: Network, tensors: Mapping[str, Tensor], *, training_size: int
    ) -> dict[str, Tensor]:
        return dict(tensors)
