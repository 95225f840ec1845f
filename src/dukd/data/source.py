"""Where batches of training come from: the seam that every source of patches satisfies."""

from typing import Protocol, final

from torch import Tensor

from dukd.core.kept import Kept

Batch = tuple[Tensor, Tensor]
"""``lr`` ``(n, 3, p, p)`` and ``hr`` ``(n, 3, p * scale, p * scale)``, uint8."""


class Batches(Protocol):
    """Whatever has a batch for every number."""

    def batch(self, k: int, rank: int = 0, world: int = 1) -> Batch:
        """The share of ``rank`` among ``world`` processes of batch ``k``."""
        ...


class BatchSource(Batches, Protocol):
    """Batches that depend on their number alone, and know where they come from."""

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides what the batches are made of; equal for equal data."""
        ...

    def names(self, k: int, rank: int = 0, world: int = 1) -> list[str]:
        """Names of the images in batch ``k``, in order."""
        ...


@final
class Recurring:
    """Batches that come again after a period, and are dear to make: each is made once.

    Args:
        source: Where they come from.
        period: Number of different batches, at least 1.
        limit: Bytes that those kept may take; others are made every time.
    """

    def __init__(self, source: Batches, period: int, limit: int = 2 << 30) -> None:
        self._source, self._period = source, period
        self._kept = Kept[Batch](lambda batch: sum(x.nbytes for x in batch), limit)

    def batch(self, k: int, rank: int = 0, world: int = 1) -> Batch:
        """The source's batch, which stays as it is."""
        key = (k % self._period if k >= 0 else k, rank, world)
        return self._kept.get(key, lambda: self._source.batch(k, rank, world))
