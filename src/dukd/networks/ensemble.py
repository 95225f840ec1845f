"""Several frozen networks and a small one that joins their answers: a better teacher than any of them.

Jiang, Feng, Zhang and Bull, "MTKD: Multi-Teacher Knowledge Distillation for Image
Super-Resolution", ECCV 2024, arXiv:2404.09571. There the joining network is a Swin transformer with
a discrete cosine transform; here it is a row of residual blocks that works at the low resolution
and adds a correction to the mean answer, so that an untrained ensemble already answers with the
mean of its members.

    E(lr) = mean_t T_t(lr) + shuffle(tail(body(head(unshuffle([T_1(lr), ..., T_k(lr)])))))

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

from dukd.networks.base import NetworkConfig, SRNetwork
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
    """The numbers of an ensemble; ``build`` leaves its members untrained, `gather` takes trained ones."""

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


def gather(members: Mapping[str, SRNetwork], *, width: int = 64, blocks: int = 8) -> "Ensemble":
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


class Ensemble(SRNetwork):
    """Frozen members, and residual blocks that join their answers; its stages are the blocks and a last convolution.

    The first ``3 * scale**2`` channels of its features carry the mean answer, folded to the low
    resolution, unchanged.
    """

    fp16_safe: ClassVar[bool] = False

    def __init__(self, config: EnsembleConfig) -> None:
        networks = {member.name: member.network.build() for member in config.members}
        folded = _COLORS * config.scale**2
        reach = [network.radius for network in networks.values() if network.radius is not None]
        super().__init__(
            config,
            width=folded + config.width,
            size_multiple=math.lcm(*(network.size_multiple for network in networks.values())),
            radius=max(reach) + 2 * config.blocks + 3 if len(reach) == len(networks) else None,
        )
        self.folded = folded
        self.members = nn.ModuleDict({name: network.frozen() for name, network in networks.items()})
        self.head = nn.Conv2d(folded * len(networks), config.width, 3, padding=1)
        self.joint = nn.Sequential(*(_Block(folded, config.width) for _ in range(config.blocks)))
        self.joint_end = _Last(folded, config.width)
        self.tail = nn.Conv2d(config.width, folded, 3, padding=1)
        for p in self.tail.parameters():
            nn.init.zeros_(p)

    @property
    def stages(self) -> Sequence[nn.Module]:
        """Blocks, then the convolution that closes them."""
        return [*self.joint, self.joint_end]

    def begin(self, lr: Tensor) -> Tensor:
        """Ask every member, fold the answers to the low resolution, take the first convolution."""
        with torch.no_grad():
            kind = self.head.weight.dtype
            folded = [
                F.pixel_unshuffle(member(lr).to(kind), self.scale)
                for member in self.members.values()
            ]
            answers = torch.stack(folded, 1)  # (n, k, 3 * scale**2, h, w)
            mean = answers.mean(1)
            # Distances to the mean add up to nothing, so that of the first member is known from the
            # others.
            apart = (answers[:, 1:] - mean[:, None]).flatten(1, 2)
        return torch.cat([mean, self.head(torch.cat([mean, apart], 1))], 1)

    def end(self, features: Tensor, shallow: Tensor, lr: Tensor) -> Tensor:
        """Add the correction to the mean answer: ``(n, width, h, w)`` to ``(n, 3, h * scale, w * scale)``."""
        del lr
        own = features[:, self.folded :] + shallow[:, self.folded :]
        return F.pixel_shuffle(shallow[:, : self.folded] + self.tail(own), self.scale)

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


class _Block(nn.Module):
    """Two convolutions with a rectifier between them, beside the identity; the first ``kept`` channels just pass."""

    def __init__(self, kept: int, width: int) -> None:
        super().__init__()
        self.kept = kept
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        kept, own = x[:, : self.kept], x[:, self.kept :]
        return torch.cat([kept, own + self.conv2(F.relu(self.conv1(own)))], 1)


class _Last(nn.Module):
    """A convolution; the first ``kept`` channels pass as they are."""

    def __init__(self, kept: int, width: int) -> None:
        super().__init__()
        self.kept = kept
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, : self.kept], self.conv(x[:, self.kept :])], 1)
