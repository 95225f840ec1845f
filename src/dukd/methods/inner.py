"""Read or replace features by relative depth, and ask a network several images at once.

Every network is a head, a row of stages and a tail (`dukd.networks`), so reading at a depth,
cutting there and going on from other features are plain calls: no hooks, no names of layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from dukd.networks.base import (
    Network,
    Output,
    Staged,
    Wrapped,
    pad_to_multiple,
    stage_number,
    staged,
)

Answer = tuple[Tensor, list[Tensor]]
"""A network's output, and its features at the depths that were asked for."""


def forward_merged(
    network: Network, inputs: Sequence[Tensor], depths: Sequence[float] = ()
) -> list[Answer]:
    """Upscale several batches, those of equal image size in one forward pass.

    Args:
        network: The network to ask.
        inputs: Batches ``(n_i, 3, h_i, w_i)``, RGB in [0, 1].
        depths: Where to read features, as fractions of the depth.

    Returns:
        One answer per input, in the order of the inputs.
    """
    groups: dict[torch.Size, list[int]] = {}
    for i, x in enumerate(inputs):
        groups.setdefault(x.shape[1:], []).append(i)
    answers: dict[int, Answer] = {}
    for members in groups.values():
        counts = [inputs[i].shape[0] for i in members]
        joined = (
            inputs[members[0]] if len(members) == 1 else torch.cat([inputs[i] for i in members])
        )
        sr, features, _ = network.observe(joined, depths)
        parts = [sr.split(counts), *(f.split(counts) for f in features)]
        answers |= {
            i: (own[0], list(own[1:]))
            for i, own in zip(members, zip(*parts, strict=True), strict=True)
        }
    return [answers[i] for i in range(len(inputs))]


class Recorded(Wrapped):
    """A network that computes its answer to each input once and remembers it.

    Methods that are combined ask for the same images; with this they need not know of each other.
    An input is recognized by being the same tensor object.
    """

    def __init__(self, network: Network, depths: Sequence[float] = ()) -> None:
        """Remember answers of ``network``, with its features at ``depths``."""
        super().__init__(network)
        self.depths = tuple(depths)
        self._memory: dict[int, tuple[Tensor, Answer]] = {}

    def ask(self, inputs: Sequence[Tensor]) -> None:
        """Compute the answers to several batches now, equal sizes merged."""
        for x, answer in zip(
            inputs, forward_merged(self.network, inputs, self.depths), strict=True
        ):
            self._memory[id(x)] = (x, answer)

    @override
    def observe(self, lr: Tensor, depths: Sequence[float]) -> Output:
        _, (sr, features) = self._memory.get(id(lr), (lr, (lr, [])))
        known = dict(zip(self.depths, features, strict=False))
        if id(lr) not in self._memory or not set(depths) <= known.keys():
            return self.network.observe(lr, depths)
        return Output(sr, [known[depth] for depth in depths], self)


@dataclass(frozen=True)
class Cut:
    """A network's forward pass, stopped at a depth."""

    features: Tensor
    """``(n, width, h', w')``, what the next stage would see."""
    kept: dict[int, Tensor]
    """Outputs by stage number that the tail reads; 0 is the head's."""
    padded: Tensor
    """``(n, 3, h', w')``, the input padded to the network's ``size_multiple``."""
    size: tuple[int, int]
    """``h, w`` of the input before padding."""


def front(network: Network, lr: Tensor, depth: float) -> Cut:
    """Run a network's head and its stages up to a depth; depth 0 is the head alone.

    Args:
        network: The network to run.
        lr: ``(n, 3, h, w)``, RGB in [0, 1].
        depth: Fraction of the depth, in [0, 1].

    Raises:
        ValueError: If the depth lies outside [0, 1].
    """
    whole = staged(network)
    h, w = lr.shape[-2:]
    padded = pad_to_multiple(lr, whole.size_multiple)
    features = whole.head(padded)
    kept = {0: features}
    for number, stage in enumerate(whole.stages[: _number(whole, depth)], start=1):
        features = stage(features)
        if number in whole.keeps:
            kept[number] = features
    return Cut(features, kept, padded, (h, w))


def rest(network: Network, cut: Cut, depth: float) -> Tensor:
    """Run a network's stages after a depth and its tail, from anybody's features.

    Args:
        network: The network to run.
        cut: Features of this network's width, with what this network's own head kept and its own
            padded input. Kept outputs of stages before the cut are computed where they lack.
        depth: Fraction of the depth at which ``cut.features`` are taken to stand, in [0, 1].

    Returns:
        ``(n, 3, h * scale, w * scale)``, unclamped.
    """
    whole = staged(network)
    first, kept = _number(whole, depth), dict(cut.kept)
    own = kept[0]
    for number, stage in enumerate(whole.stages[:first], start=1):
        if all(k in kept or k > first for k in whole.keeps):
            break
        own = stage(own)
        if number in whole.keeps:
            kept[number] = own
    features = cut.features
    for number, stage in enumerate(whole.stages[first:], start=first + 1):
        features = stage(features)
        if number in whole.keeps:
            kept[number] = features
    sr = whole.tail(features, kept, cut.padded)
    return sr[..., : cut.size[0] * network.scale, : cut.size[1] * network.scale]


def _number(network: Staged, depth: float) -> int:
    return 0 if depth == 0 else stage_number(depth, len(network.stages))


class Adapter(nn.ModuleList):
    """One 1x1 convolution per depth, from the student's width to the teacher's.

    How unlike networks compare.
    """

    def __init__(self, student: Network, teacher: Network, depths: Sequence[float]) -> None:
        """Make the convolutions, drawn from torch's global generator."""
        super().__init__(nn.Conv2d(student.width, teacher.width, 1) for _ in depths)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Map the student's ``(n, width, h, w)``, one per depth, to the teacher's width."""
        return [convolution(f) for convolution, f in zip(self, features, strict=True)]
