"""A network with exits: images are also made of what its features are before its end.

HKDSR's networks (wslgqq277g/HKDSR at b7a1562): behind two of RCAN's ten groups a convolution, the
head's features added, and an upsampler of its own. The network itself is as it was, also in what it
gives; the exits are there for a method to compare.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from typing_extensions import override

from dukd.networks.base import Network, NetworkConfig, Staged, stage_number, staged
from dukd.networks.layers import Mean, Range, Upsampler

DEPTHS = (3 / 11, 7 / 11)
"""Behind groups 3 and 7 of RCAN's ten, whose row has an eleventh stage."""
_NO_MEAN: Mean = (0.0, 0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class ExitsConfig(NetworkConfig):
    """The numbers of a network with exits."""

    name: ClassVar[str] = "exits"

    scale: int = 0
    """Upscaling factor; 0 takes the network's, and no other is allowed."""
    network: NetworkConfig
    """The network inside."""
    depths: tuple[float, ...] = DEPTHS
    """Where its exits are, as fractions of its depth, in (0, 1)."""

    def __post_init__(self) -> None:
        """Refuse exits that are none."""
        if isinstance(self.network, ExitsConfig):
            raise ValueError(  # noqa: TRY004  it is a value of a config
                "the network inside has exits already: name the one without"
            )
        if self.scale not in {0, self.network.scale}:
            raise ValueError(
                f"a network with exits has the scale of the one inside, {self.network.scale}, but "
                f"got {self.scale}"
            )
        object.__setattr__(self, "scale", self.network.scale)
        if not self.depths or not all(0 < depth < 1 for depth in self.depths):
            raise ValueError(f"exits lie inside, at depths in (0, 1), but got {self.depths}")

    @override
    def build(self) -> "Exits":
        return Exits(self)

    @override
    def deployed(self) -> NetworkConfig:
        return self.network.deployed()

    @override
    def describe(self) -> str:
        return f"{self.network.describe()}, with {len(self.depths)} exits"


class Exits(Staged):
    """A network with exits; its stages, and what it gives, are those of the network inside."""

    def __init__(self, config: ExitsConfig) -> None:
        network = staged(config.network.build())
        super().__init__(
            config,
            width=network.width,
            size_multiple=network.size_multiple,
            radius=network.radius,
        )
        # as the one inside has it
        self.channels_last = network.channels_last  # pyright: ignore[reportAttributeAccessIssue]
        self.keeps = network.keeps
        self.network = network
        self.exits = exits_of(network, len(config.depths))

    @property
    @override
    def stages(self) -> Sequence[nn.Module]:
        return self.network.stages

    @override
    def head(self, lr: Tensor) -> Tensor:
        return self.network.head(lr)

    @override
    def tail(self, x: Tensor, kept: Mapping[int, Tensor], lr: Tensor) -> Tensor:
        return self.network.tail(x, kept, lr)

    @override
    def folded(self) -> Network:
        return self.network.folded()

    @override
    def width_at(self, depth: float) -> int:
        stage_number(depth, 1)
        return self.network.width_at(depth)


class Exit(nn.Module):
    """A convolution, the head's features added, and an upsampler."""

    def __init__(self, width: int, scale: int, value_range: float, mean: Mean) -> None:
        """Draw the weights from torch's global generator."""
        super().__init__()
        self.range = Range(value_range, mean)
        self.before = nn.Conv2d(width, width, 3, padding=1)
        self.upsample = Upsampler(scale, width)
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, head: Tensor, features: Tensor) -> Tensor:
        """Make ``(n, 3, h * scale, w * scale)`` of two maps ``(n, width, h, w)``."""
        return self.range.leave(self.last(self.upsample(self.before(features) + head)))


def exits_of(network: Network, count: int) -> nn.ModuleList:
    """New exits for a network, in its range of values.

    Raises:
        ValueError: If the upsampler cannot make its scale.
    """
    config = network.config
    value_range: float = getattr(config, "value_range", 1.0)
    mean: Mean = getattr(config, "mean", _NO_MEAN)
    return nn.ModuleList(
        Exit(network.width, network.scale, value_range, mean) for _ in range(count)
    )
