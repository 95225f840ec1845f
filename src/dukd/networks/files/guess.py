"""What files of weights often do not say of their networks, and what else it could be.

No tensor shows the range of values a network computes with, the mean it subtracts, or the factor
of its branches. A file is read by the field's habit (`HABITS`); where the outputs come out wrong,
one of the other readings here is the right one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import override

from dukd.networks.base import Network, NetworkConfig, Output
from dukd.networks.files import weights
from dukd.networks.layers import DIV2K_MEAN, Mean

Number = float | Mean
HABITS: dict[str, tuple[Number, ...]] = {
    "value_range": (1.0, 255.0),
    "mean": ((0.0, 0.0, 0.0), DIV2K_MEAN),
    "residual_scale": (1.0, 0.1),
}
"""Fields of configs that files often do not say, and what they usually are."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A network whose file was read in another way."""

    network: Network
    changed: Mapping[str, Number]
    """Fields of the config that differ from the first reading."""
    exchanged: bool
    """Whether it works on blue, green, red."""

    @property
    def changes(self) -> int:
        """How many things were read otherwise."""
        return len(self.changed) + self.exchanged


def readings(network: Network, changes: int) -> Iterator[Reading]:
    """The same weights with up to so many things read otherwise, frozen, where ``network`` is."""
    config, tensors = network.config, network.state_dict()
    there = {f.name: getattr(config, f.name) for f in fields(config) if f.name in HABITS}
    choices = [[value, *(v for v in HABITS[name] if v != value)] for name, value in there.items()]
    for values in product(*choices):
        changed = {n: v for n, v in zip(there, values, strict=True) if v != there[n]}
        if len(changed) > changes:
            continue
        other = network
        if changed:
            with torch.random.fork_rng(devices=[]):
                other = replace(config, **changed).build()
            other.load_state_dict(tensors)
            other.to(next(network.parameters()).device)
            yield Reading(network=other.frozen(), changed=changed, exchanged=False)
        if len(changed) < changes:
            yield Reading(network=Exchanged(other).frozen(), changed=changed, exchanged=True)


def others(config: NetworkConfig, assumed: frozenset[str]) -> dict[str, Number]:
    """The habit's other value for each field that was assumed."""
    return {
        name: next(value for value in values if value != getattr(config, name))
        for name, values in HABITS.items()
        if name in assumed
    }


def read_where_silent(
    path: Path,
    *,
    scale: int | None = None,
    value_range: float | None = None,
    mean: Mean | None = None,
    residual_scale: float | None = None,
) -> tuple[Network, weights.Contents]:
    """Read a network; numbers count only where its file says nothing and its network has them.

    So that one set of options serves several files.

    Raises:
        dukd.networks.files.weights.WeightsError: As `dukd.networks.files.weights.read` does.
    """
    contents = weights.inspect(path)
    open_fields = frozenset[str]() if contents.declared else contents.config.unseen
    network, contents = weights.read_and_inspect(
        path,
        scale=scale,
        value_range=value_range if "value_range" in open_fields else None,
        mean=mean if "mean" in open_fields else None,
        residual_scale=residual_scale if "residual_scale" in open_fields else None,
    )
    return network.frozen(), contents


class Exchanged(Network):
    """A network that is shown blue for red, and whose output is exchanged back."""

    def __init__(self, network: Network) -> None:
        super().__init__(
            network.config,
            width=network.width,
            size_multiple=network.size_multiple,
            radius=network.radius,
        )
        self.network = network

    @override
    def observe(self, lr: Tensor, depths: Sequence[float]) -> Output:
        sr, features, _ = self.network.observe(lr.flip(1), depths)
        return Output(sr.flip(1), features, self)
