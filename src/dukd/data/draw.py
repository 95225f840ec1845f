"""What every sample of a run shows: which image, which window, how it is flipped.

Sample ``g`` of a run belongs to epoch ``g // n`` of a set of ``n`` images. Which image it shows is
entry ``g % n`` of that epoch's permutation; where it is cut and how it is flipped comes from
``default_rng([seed, g])``. Only random doubles are drawn, the part of numpy's generator that is
least likely ever to change.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import final

import numpy as np
from numpy.typing import NDArray

_MOST_KEPT = 1 << 18
"""Samples of a period that are kept, 80 MB of them."""


@dataclass(frozen=True)
class Sample:
    """What one patch shows."""

    image: int
    """Index in the pack."""
    top: int
    """First row, in low-resolution pixels."""
    left: int
    """First column, in low-resolution pixels."""
    flip_rows: bool
    """Whether it is turned upside down."""
    flip_columns: bool
    """Whether it is mirrored left to right."""
    transpose: bool
    """Whether rows and columns are exchanged, after the flips."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Draw:
    """The numbers that decide what every sample shows."""

    heights: tuple[int, ...]
    widths: tuple[int, ...]
    patch: int
    batch: int
    seed: int
    flips: bool
    rotations: bool
    period: int
    by_area: bool
    _kept: dict[tuple[int, int], tuple[Sample, ...]] = field(
        default_factory=dict[tuple[int, int], tuple[Sample, ...]], init=False
    )
    """Samples by first number and count, where they come again: drawing takes 60 µs each."""

    def samples(self, k: int, rank: int, world: int) -> list[Sample]:
        """What the share of ``rank`` among ``world`` processes of batch ``k`` shows.

        Raises:
            ValueError: If a number is out of range.
        """
        first, count = self.first(k, rank, world), self.batch // world
        samples = self._kept.get((first, count))
        if samples is None:
            samples = tuple(self.sample(g) for g in range(first, first + count))
            if 0 < self.period * self.batch <= _MOST_KEPT:
                self._kept[first, count] = samples
        return list(samples)

    def first(self, k: int, rank: int, world: int) -> int:
        """Number of the first sample in the share of a process.

        Raises:
            ValueError: If a number is out of range.
        """
        if k < 0:
            raise ValueError(f"batches are numbered from 0, but got {k}")
        if world < 1 or self.batch % world:
            divisors = [n for n in range(1, self.batch + 1) if self.batch % n == 0]
            raise ValueError(
                f"a batch of {self.batch} is shared by {divisors} processes, but got {world}"
            )
        if not 0 <= rank < world:
            raise ValueError(f"a rank lies in 0 to {world - 1}, but got {rank}")
        number = k % self.period if self.period else k
        return number * self.batch + rank * (self.batch // world)

    def sample(self, g: int) -> Sample:
        """What sample ``g`` of the run shows."""
        epoch, position = divmod(g, len(self.heights))
        image = int(_order(self, epoch)[position])
        down, across, rows, columns, turn = np.random.default_rng([self.seed, g]).random(5)
        flip_rows, flip_columns, transpose = rows < 0.5, columns < 0.5, turn < 0.5
        if not self.flips:
            # Without mirroring: half a turn is both flips, a quarter is one flip and the
            # transposition.
            flip_columns = flip_rows != transpose
        if not self.rotations:
            transpose = False
            flip_rows, flip_columns = flip_rows and self.flips, flip_columns and self.flips
        return Sample(
            image=image,
            top=int(down * (self.heights[image] - self.patch + 1)),
            left=int(across * (self.widths[image] - self.patch + 1)),
            flip_rows=bool(flip_rows),
            flip_columns=bool(flip_columns),
            transpose=bool(transpose),
        )


@lru_cache(maxsize=8)
def _order(draw: Draw, epoch: int) -> NDArray[np.int64]:
    """Images of an epoch: each once, or as often as its area says, in random order."""
    n = len(draw.heights)
    rng = np.random.default_rng(
        [draw.seed, epoch, 1]
    )  # the 1 keeps it apart from the samples' [seed, g]
    shift, keys = rng.random(), rng.random(n)
    order = np.argsort(keys, kind="stable").astype(np.int64)
    if not draw.by_area:
        return order
    # n equidistant points on the line of all areas: each image gets its share, rounded down or up.
    areas = np.cumsum(np.array(draw.heights, np.int64) * np.array(draw.widths, np.int64))
    points = (order + shift) / n * areas[-1]
    return np.minimum(np.searchsorted(areas, points, side="right"), n - 1).astype(np.int64)
