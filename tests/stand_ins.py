"""Small, honest networks for tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from typing_extensions import override

from dukd.networks import NetworkConfig, Staged


@dataclass(frozen=True, kw_only=True)
class _NearestConfig(NetworkConfig):
    name: ClassVar[str] = "nearest"

    @override
    def build(self) -> "Nearest":
        return Nearest(self)


class Nearest(Staged):
    """Repeats pixels, times a gain of 1: it commutes with every augmentation."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config, width=3, radius=0)
        self.gain = nn.Parameter(torch.ones(()))
        self.row = nn.ModuleList([nn.Identity(), nn.Identity()])

    @classmethod
    def of(cls, scale: int) -> "Nearest":
        return cls(_NearestConfig(scale=scale))

    @property
    @override
    def stages(self) -> Sequence[nn.Module]:
        return list(self.row)

    @override
    def head(self, lr: Tensor) -> Tensor:
        return lr

    @override
    def tail(self, x: Tensor, kept: Mapping[int, Tensor], lr: Tensor) -> Tensor:
        return interpolate(x, scale_factor=self.scale) * self.gain


class Spy(Nearest):
    """Remembers what it was shown."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        self.shown: list[Tensor] = []

    @override
    def head(self, lr: Tensor) -> Tensor:
        self.shown.append(lr)
        return super().head(lr)
