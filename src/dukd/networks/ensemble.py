"""Several frozen networks and a small one that joins their outputs: a better teacher than any.

Jiang, Feng, Zhang and Bull, "MTKD: Multi-Teacher Knowledge Distillation for Image
Super-Resolution", ECCV 2024, arXiv:2404.09571. There the joining network is a Swin transformer with
a discrete cosine transform; here it is a row of residual blocks that works at the low resolution
and adds a correction to the mean output, so that an untrained ensemble already gives the mean of
its members.

    E(lr) = mean_t T_t(lr) + shuffle(last(body(first(unshuffle([T_1(lr), ..., T_k(lr)])))))

Members are sorted by name, wherever they come from: whoever trains the ensemble and whoever distils
it see the same order (methods.md D48). They take no gradient and no training mode (methods.md D49).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  the name everybody knows
from typing_extensions import override

from dukd.networks.base import Network, NetworkConfig, Staged
from dukd.networks.edsr import ResidualBlock
from dukd.networks.layers import check_numbers

_COLORS = 3


@dataclass(frozen=True, kw_only=True)
class Member:
    """One of the joined networks."""

    name: str
    """What it is called; members are sorted by it."""
    network: NetworkConfig
    """Its numbers."""


@dataclass(frozen=True, kw_only=True)
class EnsembleConfig(NetworkConfig):
    """The numbers of an ensemble.

    ``build`` leaves its members untrained, `gather` takes trained ones.
    """

    name: ClassVar[str] = "ensemble"

    members: tuple[Member, ...]
    """The joined networks, in any order; at least one."""
    width: int = 64
    """Channels of the joining network's own features."""
    blocks: int = 8
    """Its residual blocks."""

    def __post_init__(self) -> None:
        """Sort the members, and refuse those that cannot be joined."""
        names = [member.name for member in self.members]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"an ensemble has members of different names, but got {names}")
        wrong = [
            f"{m.name} is x{m.network.scale}" for m in self.members if self.scale != m.network.scale
        ]
        if wrong:
            raise ValueError(
                f"an ensemble of x{self.scale} has members of x{self.scale}, but {', '.join(wrong)}"
            )
        if bad := [name for name in names if not name.isidentifier() or name in dir(nn.ModuleDict)]:
            raise ValueError(
                f"a member's name is a word such as edsr_large, but got {', '.join(bad)}"
            )
        check_numbers(
            "ensemble",
            counts={"width": self.width, "blocks": self.blocks},
            value_range=1.0,
            mean=(0, 0, 0),
        )
        object.__setattr__(
            self, "members", tuple(sorted(self.members, key=lambda member: member.name))
        )

    @override
    def build(self) -> "Ensemble":
        return Ensemble(self)


def gather(members: Mapping[str, Network], *, width: int = 64, blocks: int = 8) -> "Ensemble":
    """Join trained networks; what joins them is still to be trained.

    Args:
        members: Networks of one scale by name; their weights are copied.
        width: Channels of the joining network's own features.
        blocks: Its residual blocks.

    Raises:
        ValueError: If there is none, or their scales differ.
    """
    if not members:
        raise ValueError("an ensemble has at least one member")
    scale = next(iter(members.values())).scale
    described = tuple(
        Member(name=name, network=network.config) for name, network in members.items()
    )
    ensemble = EnsembleConfig(scale=scale, members=described, width=width, blocks=blocks).build()
    for name, network in members.items():
        ensemble.members.get_submodule(name).load_state_dict(network.state_dict())
    return ensemble


class Ensemble(Staged):
    """Frozen members, and a small network that joins their outputs.

    Its stages are a first convolution, the blocks and a last convolution; its head is the members.
    """

    fp16_safe: ClassVar[bool] = False
    keeps = (0, 1)

    def __init__(self, config: EnsembleConfig) -> None:
        networks = {member.name: member.network.build() for member in config.members}
        folded = _COLORS * config.scale**2
        reach = [network.radius for network in networks.values() if network.radius is not None]
        super().__init__(
            config,
            width=config.width,
            size_multiple=math.lcm(*(network.size_multiple for network in networks.values())),
            radius=max(reach) + 2 * config.blocks + 3 if len(reach) == len(networks) else None,
        )
        self.colors = folded
        self.members = nn.ModuleDict({name: network.frozen() for name, network in networks.items()})
        self.conv_first = nn.Conv2d(folded * len(networks), config.width, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(config.width, 1.0) for _ in range(config.blocks)))
        self.conv_after_body = nn.Conv2d(config.width, config.width, 3, padding=1)
        self.conv_last = nn.Conv2d(config.width, folded, 3, padding=1)
        for p in self.conv_last.parameters():
            nn.init.zeros_(p)

    @property
    @override
    def stages(self) -> Sequence[nn.Module]:
        return [self.conv_first, *self.body, self.conv_after_body]

    @override
    def head(self, lr: Tensor) -> Tensor:
        """What the members make of ``lr``, folded to its size: ``(n, k * 3 * scale**2, h, w)``.

        The first ``3 * scale**2`` channels are the mean of the outputs, the others the distances
        to it. These add up to nothing, so that of the first member is known from the others.
        """
        with torch.no_grad():
            dtype = self.conv_first.weight.dtype
            folded = [
                F.pixel_unshuffle(member(lr).to(dtype), self.scale)
                for member in self.members.values()
            ]
            outputs = torch.stack(folded, 1)  # (n, k, 3 * scale**2, h, w)
            mean = outputs.mean(1)
            distances = (outputs[:, 1:] - mean[:, None]).flatten(1, 2)
            return torch.cat([mean, distances], 1)

    @override
    def tail(self, x: Tensor, kept: Mapping[int, Tensor], lr: Tensor) -> Tensor:
        """Add the correction to the mean of the outputs."""
        del lr
        mean = kept[0][:, : self.colors]
        return F.pixel_shuffle(mean + self.conv_last(x + kept[1]), self.scale)

    @override
    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.members.train(False)
        return self

    @override
    def requires_grad_(self, requires_grad: bool = True) -> Self:
        super().requires_grad_(requires_grad)
        self.members.requires_grad_(False)
        return self
