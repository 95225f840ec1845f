"""A network of a larger scale whose outputs are reduced: a x4 teacher for a x2 student."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from dukd.images.resize import downscale
from dukd.networks.base import Network, NetworkConfig, Output

HOW = "MATLAB's bicubic with antialiasing"
"""How outputs are reduced."""


@dataclass(frozen=True, kw_only=True)
class _ReducedConfig(NetworkConfig):
    name: ClassVar[str] = "reduced"

    network: str
    """What the network inside is."""

    @override
    def describe(self) -> str:
        return f"{self.network}, whose outputs are reduced to x{self.scale} by {HOW}"

    @override
    def build(self) -> Network:
        raise ValueError("a reduced network is made of another one: Reduced(network, scale)")


class Reduced(Network):
    """A network whose outputs are reduced by a whole factor; its features stay as they are."""

    fp16_safe = False

    def __init__(self, network: Network, scale: int) -> None:
        """Put a reduction behind a network.

        Args:
            network: Of a larger scale, which ``scale`` divides.
            scale: The scale that is wanted.

        Raises:
            ValueError: If it does not divide the network's scale.
        """
        check_reducible(network.config.describe(), network.scale, scale)
        # A pixel of the reduced image reaches two pixels of it in each direction.
        reach = -(-2 // scale)
        super().__init__(
            _ReducedConfig(scale=scale, network=network.config.describe()),
            width=network.width,
            size_multiple=network.size_multiple,
            radius=None if network.radius is None else network.radius + reach,
        )
        self.network = network

    @override
    def observe(self, lr: Tensor, depths: Sequence[float]) -> Output:
        sr, features, _ = self.network.observe(lr, depths)
        return Output(reduced(sr, self.network.scale, self.scale), features, self)

    @override
    def width_at(self, depth: float) -> int:
        return self.network.width_at(depth)


def reduced(sr: Tensor, scale: int, wanted: int) -> Tensor:
    """Outputs of one scale at a smaller one: ``(n, 3, h, w)``, outside autocast."""
    if scale == wanted:
        return sr
    with torch.autocast(sr.device.type, enabled=False):
        return downscale(sr.float(), scale // wanted)


def check_reducible(what: str, scale: int, wanted: int) -> None:
    """Refuse a scale whose outputs cannot be reduced to the wanted one.

    Raises:
        ValueError: If it is smaller, or no multiple; the message says why that makes no sense.
    """
    if scale < wanted:
        raise ValueError(
            f"{what} enlarges x{scale}, but the student x{wanted}: what a teacher does not show "
            f"cannot be imitated. Take a teacher of x{wanted} or a multiple, or a student of x"
            f"{scale}"
        )
    if scale % wanted:
        raise ValueError(
            f"{what} enlarges x{scale}, which the student's x{wanted} does not divide: take a "
            f"teacher of x{wanted} or a multiple of it"
        )
