"""Batches of training patches: batch ``k`` is a pure function of the seed and ``k``.

Sample ``g`` of a run belongs to epoch ``g // n`` of a set of ``n`` images. Which image it shows is
entry ``g % n`` of that epoch's permutation; where it is cut and how it is turned comes from
``default_rng([seed, g])``. So a resumed run, another number of workers and another number of
processes see the same patches, and seeking costs nothing. Only random doubles are drawn, the part
of numpy's generator that is least likely ever to change.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from types import TracebackType
from typing import Literal, Protocol, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dukd.core.device import to_device
from dukd.data.pack import Pack
from dukd.data.pairs import shown, size

Batch = tuple[Tensor, Tensor]
"""``lr`` ``(n, 3, p, p)`` and ``hr`` ``(n, 3, p * scale, p * scale)``, uint8."""
_SHOWN = 20


Residence = Literal["auto", "always", "never"]
"""Whether all images are copied to the device."""


class Batches(Protocol):
    """Whatever has a batch for every number."""

    def batch(self, k: int, rank: int = 0, world: int = 1) -> Batch:
        """The share of ``rank`` among ``world`` processes of batch ``k``."""
        ...


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
class _Draw:
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

    def samples(self, k: int, rank: int, world: int) -> list[Sample]:
        if k < 0:
            raise ValueError(f"batches are numbered from 0, but got {k}")
        if world < 1 or self.batch % world:
            divisors = [n for n in range(1, self.batch + 1) if self.batch % n == 0]
            raise ValueError(
                f"a batch of {self.batch} is shared by {divisors} processes, but got {world}"
            )
        if not 0 <= rank < world:
            raise ValueError(f"a rank lies in 0 to {world - 1}, but got {rank}")
        share = self.batch // world
        first = (k % self.period if self.period else k) * self.batch + rank * share
        return [self.sample(g) for g in range(first, first + share)]

    def sample(self, g: int) -> Sample:
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
def _order(draw: _Draw, epoch: int) -> NDArray[np.int64]:
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


@final
class Patches:
    """Random patches of a pack, in batches that depend on the seed and their number alone.

    Args:
        pack: Where the images are.
        patch: Rows and columns of a low-resolution patch.
        batch: Patches in a batch, over all processes.
        seed: Decides everything that is random; not negative.
        flips: Mirror half of the patches, in each direction.
        rotations: Turn the patches by multiples of 90 degrees, all equally likely.
        period: Number of different batches, after which they repeat; 0 for no end. A teacher that
            has answered them all need not be asked again.
        by_area: Show each image in proportion to its area, in place of once per epoch (which is
            what papers do).

    Raises:
        ValueError: If a number is out of range, or images are smaller than a patch; they are
            listed.
    """

    def __init__(
        self,
        pack: Pack,
        *,
        patch: int = 48,
        batch: int = 16,
        seed: int = 10,
        flips: bool = True,
        rotations: bool = True,
        period: int = 0,
        by_area: bool = False,
    ) -> None:
        for name, value, least in (
            ("patch", patch, 1),
            ("batch", batch, 1),
            ("seed", seed, 0),
            ("period", period, 0),
        ):
            if value < least:
                raise ValueError(f"{name} is at least {least}, but got {value}")
        small = [record for record in pack.records if min(record.height, record.width) < patch]
        if small:
            names = ", ".join(
                f"{shown(record.name)} ({size(record.width, record.height)})"
                for record in small[:_SHOWN]
            )
            more = f" and {len(small) - _SHOWN} more" if len(small) > _SHOWN else ""
            largest = min(min(record.height, record.width) for record in small)
            raise ValueError(
                f"{len(small)} of {len(pack)} low-resolution images are smaller than a patch of "
                f"{patch}: {names}{more}; use a patch of at most {largest}, or leave these images "
                "out"
            )
        self.pack = pack
        self.patch = patch
        self._draw = _Draw(
            heights=tuple(record.height for record in pack.records),
            widths=tuple(record.width for record in pack.records),
            patch=patch,
            batch=batch,
            seed=seed,
            flips=flips,
            rotations=rotations,
            period=period,
            by_area=by_area,
        )

    def samples(self, k: int, rank: int = 0, world: int = 1) -> list[Sample]:
        """What the patches of batch ``k`` show, in order."""
        return self._draw.samples(k, rank, world)

    def names(self, k: int, rank: int = 0, world: int = 1) -> list[str]:
        """Names of the images in batch ``k``, in order."""
        return [self.pack.records[sample.image].name for sample in self.samples(k, rank, world)]

    def batch(self, k: int, rank: int = 0, world: int = 1) -> Batch:
        """Cut batch ``k``, or the share of one of several processes.

        Args:
            k: Number of the batch, from 0.
            rank: Which process asks.
            world: How many processes share the batch; a divisor of it.

        Returns:
            ``lr`` ``(n, 3, p, p)`` and ``hr`` ``(n, 3, p * scale, p * scale)``, uint8, where ``n =
            batch / world``.

        Raises:
            ValueError: If a number is out of range.
        """
        samples = self.samples(k, rank, world)
        p, s = self.patch, self.pack.scale
        lr = np.empty((len(samples), 3, p, p), np.uint8)
        hr = np.empty((len(samples), 3, p * s, p * s), np.uint8)
        for i, sample in enumerate(samples):
            try:
                _cut(self.pack.lr(sample.image), sample, p, 1, lr[i])
                _cut(self.pack.hr(sample.image), sample, p, s, hr[i])
            except Exception as error:
                error.add_note(
                    f"while cutting a patch of {shown(self.pack.records[sample.image].name)}, "
                    f"batch {k}"
                )
                raise
        return torch.from_numpy(lr), torch.from_numpy(hr)

    def near(self, device: torch.device, residence: Residence) -> "Patches | Resident":
        """Decide where patches are cut.

        Args:
            device: Where they are wanted.
            residence: Whether all images are copied there; by default where it is a GPU and they
                take at most half of its free memory.

        Raises:
            ValueError: If they are always to be copied and do not fit.
        """
        if residence == "auto":
            fits = (
                device.type == "cuda"
                and self.pack.pixels.size <= torch.cuda.mem_get_info(device)[0] / 2
            )
            residence = "always" if fits else "never"
        return self.on_device(device) if residence == "always" else self

    def on_device(self, device: torch.device | str) -> "Resident":
        """Copy all images to ``device`` and cut there: the same batches, without the processor.

        Raises:
            ValueError: If a GPU's free memory is too small for the pack.
        """
        return Resident(self, torch.device(device))


def _cut(
    image: NDArray[np.uint8], sample: Sample, patch: int, scale: int, out: NDArray[np.uint8]
) -> None:
    """Copy a patch ``(h, w, 3)`` into ``out`` ``(3, h, w)``."""
    top, left, length = sample.top * scale, sample.left * scale, patch * scale
    # Whole rows are fetched first: reading the map once per channel takes twice as long.
    view = np.ascontiguousarray(image[top : top + length, left : left + length])
    if sample.flip_rows:
        view = view[::-1]
    if sample.flip_columns:
        view = view[:, ::-1]
    out[:] = view.transpose(2, 1, 0) if sample.transpose else view.transpose(2, 0, 1)


@final
class Resident:
    """Patches cut on a device that holds all images; made by ``Patches.on_device``."""

    def __init__(self, patches: Patches, device: torch.device) -> None:
        self.patches = patches
        self.device = device
        if device.type == "cuda":
            free, needed = torch.cuda.mem_get_info(device)[0], patches.pack.pixels.size
            if free < needed:
                raise ValueError(
                    f"{shown(patches.pack.path)} takes {needed / 1e9:.2f} GB, but "
                    f"{free / 1e9:.2f} GB are free on {device}: cut patches on the processor "
                    "instead (--data.resident never)"
                )
        flat = torch.empty(patches.pack.pixels.size, dtype=torch.uint8, device=device)
        for start in range(0, patches.pack.pixels.size, _BLOCK):
            piece = patches.pack.pixels[start : start + _BLOCK]
            flat[start : start + len(piece)] = torch.from_numpy(piece.copy()).to(device)
        self._pixels = flat

    def batch(self, k: int, rank: int = 0, world: int = 1) -> Batch:
        """The same as ``Patches.batch``, on the device."""
        samples = self.patches.samples(k, rank, world)
        return self._gather(samples, high=False), self._gather(samples, high=True)

    def _gather(self, samples: list[Sample], *, high: bool) -> Tensor:
        """One indexed read: flips and transposition are but signs and order of the strides."""
        records = self.patches.pack.records
        scale = self.patches.pack.scale if high else 1
        length = self.patches.patch * scale
        places: list[tuple[int, int, int]] = []
        for sample in samples:
            record = records[sample.image]
            row = record.width * scale * 3
            first = record.offset + (record.height * record.width * 3 if high else 0)
            first += sample.top * scale * row + sample.left * scale * 3
            down, across = row, 3
            if sample.flip_rows:
                first, down = first + (length - 1) * down, -down
            if sample.flip_columns:
                first, across = first + (length - 1) * across, -across
            places.append((first, across, down) if sample.transpose else (first, down, across))
        table = to_device(torch.tensor(places, dtype=torch.int64), self.device)
        first, down, across = table.mT[..., None, None, None]
        steps = torch.arange(length, device=self.device)
        channels = torch.arange(3, device=self.device).view(3, 1, 1)
        return self._pixels[first + channels + down * steps.view(-1, 1) + across * steps]


_BLOCK = 64 << 20


@final
class Stream(Iterator[Batch]):
    """Batches in order, prepared ahead by threads, from ``batches``; close it, or use ``with``."""

    def __init__(
        self,
        source: Batches,
        start: int,
        *,
        stop: int | None,
        workers: int,
        rank: int,
        world: int,
        device: torch.device | str,
    ) -> None:
        if start < 0 or workers < 0:
            raise ValueError(f"start and workers are not negative, but got {start} and {workers}")
        self._source, self._rank, self._world = source, rank, world
        self._device = torch.device(device)
        self._numbers = iter(count(start) if stop is None else range(start, stop))
        self._pool = ThreadPoolExecutor(workers, "patches", self._enter) if workers else None
        self._ahead = 2 * workers
        self._waiting: deque[Future[Batch]] = deque()
        self._closed = False

    def _enter(self) -> None:
        """Begin a thread, which would pin memory for the first GPU if left alone."""
        if self._device.type == "cuda" and self._device != torch.device("cuda"):
            torch.cuda.set_device(self._device)

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            StopIteration: After the last, and after ``close``.
            Exception: Whatever went wrong in a worker, as itself; the stream is closed then.
        """
        if self._closed:
            raise StopIteration
        try:
            batch = self._next()
        except BaseException:
            self.close()
            raise
        return self._placed(batch)

    def _next(self) -> Batch:
        if self._pool is None:
            return self._cut(next(self._numbers))
        while len(self._waiting) < self._ahead and (k := next(self._numbers, None)) is not None:
            self._waiting.append(self._pool.submit(self._cut, k))
        if not self._waiting:
            raise StopIteration
        return self._waiting.popleft().result()

    def _cut(self, k: int) -> Batch:
        lr, hr = self._source.batch(k, self._rank, self._world)
        if self._device.type == "cuda" and lr.device.type == "cpu":
            lr, hr = lr.pin_memory(), hr.pin_memory()
        return lr, hr

    def _placed(self, batch: Batch) -> Batch:
        return batch[0].to(self._device, non_blocking=True), batch[1].to(
            self._device, non_blocking=True
        )

    def close(self) -> None:
        """Stop the threads and wait for them; does no harm twice."""
        self._closed = True
        self._waiting.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def batches(
    source: Batches,
    start: int = 0,
    *,
    stop: int | None = None,
    workers: int = 1,
    rank: int = 0,
    world: int = 1,
    device: torch.device | str = "cpu",
) -> Stream:
    """Deliver batches in order, from number ``start`` on; the same for any number of workers.

    Args:
        source: Where the batches come from.
        start: Number of the first batch.
        stop: Number after the last; no end if None.
        workers: Threads that cut; 0 cuts when a batch is asked for.
        rank: Which process asks.
        world: How many processes share each batch.
        device: Where the batches are wanted; a copy to a GPU goes through pinned memory and does
            not block.

    Raises:
        ValueError: If a number is out of range.

    Example:
        with batches(patches, step, workers=1, device="cuda") as stream:
            for lr, hr in stream:
                ...
    """
    return Stream(source, start, stop=stop, workers=workers, rank=rank, world=world, device=device)
