"""Batches in order, cut ahead by threads."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from types import TracebackType
from typing import Self, final

import torch

from dukd.data.source import Batch, Batches


@final
class Stream(Iterator[Batch]):
    """Batches in order, cut ahead by threads; made by ``batches``. Close it, or use ``with``."""

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
        """Begin a thread: each has a current GPU, and would pin memory for the first one."""
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
        workers: Threads that cut; 0 cuts when a batch is wanted.
        rank: Number of this process.
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
