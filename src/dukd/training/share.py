"""This rank's share of every batch: its micro-batches, and what each of them draws from."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dukd.core.distributed import World
from dukd.data.patches import Patches
from dukd.data.source import Batches
from dukd.images.convert import from_levels
from dukd.networks.base import Network
from dukd.networks.reduced import reduced
from dukd.training.experiment import Experiment, Optimization
from dukd.training.schedule import Draws, draws

_SMALL = 100_000
"""Parameters in use of a student whose graph of a batch takes some hundred megabytes at most."""


class MicroBatch(NamedTuple):
    """What the losses are computed on at once."""

    lr: Tensor
    """``(n, 3, h, w)``, RGB in [0, 1]."""
    hr: Tensor
    """``(n, 3, h * scale, w * scale)``."""
    draws: Draws
    """What it draws from at this step."""
    step: int
    """Steps done."""
    number: int
    """Its own among all of the batch, over all ranks."""
    sr: Tensor | None = None
    """The teacher's outputs for ``lr``, where they were made before."""
    recurs: bool = False
    """Whether it comes again, with the same draws of the method."""


@dataclass(frozen=True)
class Share:
    """What one rank computes of each batch."""

    experiment: Experiment
    world: World
    patches: Patches
    source: Batches
    """Where batches come from: cut on the device if it holds all images, or kept if dear."""
    channels_last: bool
    """The memory format of images."""
    stored: Patches | None = None
    """The teacher's outputs where they were made before, as the high resolution of patches."""

    @property
    def parts(self) -> int:
        """Number of micro-batches of this rank."""
        data, optimization = self.experiment.data, self.experiment.optimization
        return self.world.parts(
            data.batch, optimization.accumulate, deterministic=optimization.deterministic
        )

    def split(self, step: int, lr: Tensor, hr: Tensor) -> list[MicroBatch]:
        """Turn uint8 patches into micro-batches of images.

        Args:
            step: Steps done. What methods draw comes again with the batch.
            lr: ``(n, 3, h, w)``, uint8: this rank's share of the batch.
            hr: ``(n, 3, h * scale, w * scale)``, uint8.
        """
        parts, rank, size = self.parts, self.world.rank, self.world.size
        seed, period = self.experiment.optimization.seed, self.experiment.data.period
        numbers = range(parts * rank, parts * (rank + 1))
        drawn = draws(seed, step, period, numbers, parts * size)
        lr, hr = self.images(lr), self.images(hr)
        sr = self._stored(step, rank, size)
        theirs = [None] * parts if sr is None else sr.chunk(parts)
        chunks = zip(lr.chunk(parts), hr.chunk(parts), drawn, numbers, theirs, strict=True)
        return [
            MicroBatch(x, y, draw, step, number, z, recurs=period > 0)
            for x, y, draw, number, z in chunks
        ]

    def _stored(self, step: int, rank: int, size: int) -> Tensor | None:
        """The teacher's outputs for a share of a batch, at the student's scale."""
        if self.stored is None:
            return None
        sr = self.images(self.stored.batch(step, rank, size)[1].to(self.world.device))
        return reduced(sr, self.stored.pack.scale, self.patches.pack.scale)

    def first(self) -> MicroBatch:
        """Micro-batch 0 of batch 0, on any rank."""
        total = self.parts * self.world.size
        optimization, period = self.experiment.optimization, self.experiment.data.period
        (draw,) = draws(optimization.seed, 0, period, (0,), total)
        lr, hr = (x.to(self.world.device) for x in self.patches.batch(0, 0, total))
        sr = self._stored(0, 0, total)
        recurs = period > 0
        return MicroBatch(self.images(lr), self.images(hr), draw, 0, 0, sr, recurs=recurs)

    def images(self, patches: Tensor) -> Tensor:
        """Uint8 patches as networks take them: float32 in [0, 1]."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return from_levels(patches, memory_format=layout)

    def at(self, step: int) -> list[MicroBatch]:
        """Cut the batch of a step here and now."""
        share = self.source.batch(step, self.world.rank, self.world.size)
        return self.split(step, *(x.to(self.world.device) for x in share))


def memory_format(
    optimization: Optimization, device: torch.device, student: Network
) -> bool | None:
    """Whether to use channels_last; None if each network decides.

    In float32 on a CPU it is off for a large student where nobody has decided: channels_last would
    be 6 to 10 % faster, but it fragments the heap, and the paper's step takes a quarter more memory
    (docs/results/memory.md). A small one never needs much, and is 17 to 37 % faster with it
    (docs/results/layouts.md).
    """
    undecided = optimization.channels_last is None
    large = student.deployed_parameter_count() > _SMALL
    if undecided and large and device.type == "cpu" and optimization.precision == "float32":
        return False
    return optimization.channels_last
