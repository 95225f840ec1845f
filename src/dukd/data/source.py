"""Where batches of training come from: the seam that every source of patches satisfies."""

from typing import Protocol

from torch import Tensor

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
