"""Parts of networks: run one up to a depth, or from there on with another one's features.

What was seen holds the network that made it (``Output.network``), so that a method can run its
parts, also where the teacher's outputs come from the cache. It takes `dukd.networks.base.Staged`
networks; reading at a depth, cutting there and going on are plain calls.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from dukd.networks.base import Staged, pad_to_multiple, stage_number, staged


@dataclass(frozen=True)
class Cut:
    """A network's forward pass, stopped at a depth."""

    features: Tensor
    """``(n, width, h', w')``, what the next stage would see."""
    kept: Mapping[int, Tensor]
    """What the tail reads beside the last stage: outputs by stage number, 0 the head's."""
    padded: Tensor
    """``(n, 3, h', w')``, the input padded to the network's ``size_multiple``."""
    size: tuple[int, int]
    """``h, w`` of the input before padding."""


def front(network: nn.Module, lr: Tensor, depth: float) -> Cut:
    """Run a network's head and its stages up to a depth; depth 0 is the head alone.

    Args:
        network: The network to run.
        lr: ``(n, 3, h, w)``, RGB in [0, 1].
        depth: Fraction of the depth, in [0, 1].

    Raises:
        ValueError: If the depth lies outside [0, 1], or the network is one piece.
    """
    network = staged(network)
    return _front(network, lr, _number(network, depth))


def beginning(network: nn.Module, lr: Tensor, depth: float) -> Cut:
    """Run what a network needs of itself to go on from other features; see `entering`."""
    network = staged(network)
    last = _number(network, depth)
    return _front(
        network, lr, max((number for number in network.keeps if number <= last), default=0)
    )


def _front(network: Staged, lr: Tensor, last: int) -> Cut:
    h, w = lr.shape[-2:]
    padded = pad_to_multiple(lr, network.size_multiple)
    features = network.head(padded)
    kept = {0: features}
    for number, stage in enumerate(network.stages[:last], start=1):
        features = stage(features)
        if number in network.keeps:
            kept[number] = features
    return Cut(features, kept, padded, (h, w))


def entering(network: nn.Module, start: Cut, features: Tensor) -> Cut:
    """Put other features ``(n, width, h', w')`` in a cut, padded as ``network`` pads."""
    h, w = start.size
    multiple = staged(network).size_multiple
    return replace(start, features=pad_to_multiple(features[..., :h, :w], multiple))


def rest(network: nn.Module, cut: Cut, depth: float) -> Tensor:
    """Run a network's stages after a depth and its tail, from features of any network.

    Args:
        network: The network to run.
        cut: Features of this network's width, with what this network itself keeps, and its padded
            input.
        depth: Fraction of the depth at which ``cut.features`` are taken to stand, in [0, 1].

    Returns:
        ``(n, 3, h * scale, w * scale)``, unclamped.
    """
    network = staged(network)
    features, kept, first = cut.features, dict(cut.kept), _number(network, depth)
    for number, stage in enumerate(network.stages[first:], start=first + 1):
        features = stage(features)
        if number in network.keeps:
            kept[number] = features
    sr = network.tail(features, kept, cut.padded)
    return sr[..., : cut.size[0] * network.scale, : cut.size[1] * network.scale]


def block(network: nn.Module, features: Tensor, start: float, end: float) -> Tensor:
    """Run a network's stages between two depths."""
    network = staged(network)
    for stage in network.stages[_number(network, start) : _number(network, end)]:
        features = stage(features)
    return features


def cascades(
    network: nn.Module, lr: Tensor, features: Sequence[Tensor], depths: Sequence[float]
) -> list[Tensor]:
    """Go on in a network from features that another one has made.

    Args:
        network: The network whose rest runs; what it needs of its own front is run once.
        lr: ``(n, 3, h, w)``, what both networks were shown.
        features: One ``(n, network.width, h' >= h, w' >= w)`` per depth.
        depths: Where they are taken to stand.

    Returns:
        For each depth, ``(n, 3, h * scale, w * scale)``, unclamped.
    """
    start = beginning(network, lr, max(depths))
    return [
        rest(network, entering(network, start, f), depth)
        for f, depth in zip(features, depths, strict=True)
    ]


def _number(network: Staged, depth: float) -> int:
    return stage_number(depth, len(network.stages))
