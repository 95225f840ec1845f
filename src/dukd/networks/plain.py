"""A plain row of 3x3 convolutions that trains as branches, and is a Compact once it is folded.

Zhang, Zeng, Zhang, "Edge-oriented Convolution Block for Real-time Super Resolution on Mobile
Devices" (ECBSR), ACM MM 2021, has the idea; the branches are SPAN's (`dukd.networks.branches`).
While it trains, each convolution is 1x1, 3x3 and 1x1 beside a skip; files for others hold the
folded network, which every program that knows SRVGGNetCompact opens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  the name everybody knows
from typing_extensions import override

from dukd.networks.base import Layout, Network, NetworkConfig, Recognized, Staged
from dukd.networks.branches import Branches
from dukd.networks.compact import BasicSR, Compact, CompactConfig
from dukd.networks.layers import check_numbers


@dataclass(frozen=True, kw_only=True)
class PlainConfig(NetworkConfig):
    """The numbers of a plain network."""

    name: ClassVar[str] = "plain"

    width: int = 32
    """Channels of the features."""
    blocks: int = 8
    """Convolutions between the first and the last."""
    gain: int = 2
    """Width of the branches while it trains, as a multiple of the channels."""

    def __post_init__(self) -> None:
        """Refuse numbers that make no network."""
        counts = {"scale": self.scale, "width": self.width, "blocks": self.blocks}
        check_numbers("plain", counts=counts | {"gain": self.gain})

    @override
    def build(self) -> "Plain":
        return Plain(self)

    @override
    def deployed(self) -> CompactConfig:
        return CompactConfig(scale=self.scale, width=self.width, blocks=self.blocks)

    @classmethod
    @override
    def layouts(cls) -> tuple[Layout, ...]:
        return (AsCompact(),)

    @override
    def describe(self) -> str:
        return f"plain x{self.scale}, {self.width} channels, {self.blocks} convolutions"


class Plain(Staged):
    """The plain network; its stages are the convolutions between first and last."""

    keeps = ()

    def __init__(self, config: PlainConfig) -> None:
        super().__init__(config, width=config.width, radius=config.blocks + 2)
        self.gain = config.gain
        self.first = self._layer(3, config.width)
        self.body = nn.Sequential(
            *(self._layer(config.width, config.width) for _ in range(config.blocks))
        )
        self.last = Branches(config.width, 3 * config.scale**2, gain=config.gain)

    def _layer(self, inside: int, outside: int) -> nn.Module:
        return nn.Sequential(Branches(inside, outside, gain=self.gain), nn.PReLU(outside))

    @property
    @override
    def stages(self) -> Sequence[nn.Module]:
        return list(self.body)

    @override
    def head(self, lr: Tensor) -> Tensor:
        return self.first(lr)

    @override
    def tail(self, x: Tensor, kept: Mapping[int, Tensor], lr: Tensor) -> Tensor:
        residual = F.pixel_shuffle(self.last(x), self.scale)
        return residual + F.interpolate(lr, scale_factor=self.scale, mode="nearest")

    @override
    def folded(self) -> Compact:
        compact = cast("PlainConfig", self.config).deployed().build()
        tensors: dict[str, Tensor] = {}
        layers = [self.first, *self.body, nn.Sequential(self.last)]
        for number, layer in enumerate(layers):
            branches, *after = cast("nn.Sequential", layer)
            weight, bias = cast("Branches", branches).folded()
            tensors |= {f"body.{2 * number}.weight": weight, f"body.{2 * number}.bias": bias}
            tensors |= {f"body.{2 * number + 1}.weight": cast("nn.PReLU", a).weight for a in after}
        compact.load_state_dict(tensors)
        return compact.to(self.last.sk.weight.device).train(self.training)


class AsCompact(BasicSR):
    """A Compact's names, for the folded network; such a file is read as a Compact."""

    signature = (r"(?!)",)

    @override
    def read(self, tensors: Mapping[str, Tensor]) -> Recognized:
        raise ValueError("a folded network is read as a Compact")

    @override
    def held(self, network: Network) -> Network:
        return network.folded()
