"""Rows of tensors on a device: what is known of each batch, where a CUDA graph finds it.

A graph reads the row whose number lies in a tensor, in one kernel, and what it finds are tensors of
the types, shapes and layouts that were written.
"""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from dukd.core.device import lies_together
from dukd.core.text import amount

_WORD = 8
"""Bytes. Rows are of int64, and every tensor begins with a word."""


class UnsteadyError(Exception):
    """A step that cannot be recorded; the message says why."""


class _Slot(NamedTuple):
    """Where a tensor lies in a row, in words of 8 bytes, and how."""

    first: int
    last: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    last_channels: bool

    def read(self, row: Tensor) -> Tensor:
        """The tensor in a row ``(words,)``."""
        n, *inner = self.shape
        shape = (n, *inner[1:], inner[0]) if self.last_channels else self.shape
        flat = row[self.first : self.last].view(self.dtype)[: prod(shape)]
        found = flat.view(shape)
        return found.permute(0, 3, 1, 2) if self.last_channels else found


class Rows:
    """Tensors of equal layout by number, on a device; those that are the same lie there once."""

    def __init__(self, example: Sequence[Tensor], count: int, device: torch.device) -> None:
        """Make room.

        Args:
            example: Tensors as those of every row will be.
            count: Number of rows.
            device: Where they lie.

        Raises:
            UnsteadyError: If they do not fit.
        """
        self._slots: list[_Slot] = []
        self._of, self._sources = _distinct(example)
        words = 0
        for number in self._sources:
            x = example[number]
            there = -(-x.numel() * x.element_size() // _WORD)
            self._slots.append(_slot(x, words, words + there))
            words += there
        self.bytes = count * words * _WORD
        if device.type == "cuda" and self.bytes > torch.cuda.mem_get_info(device)[0] / 2:
            raise UnsteadyError(f"what is seen of {count} batches takes {amount(self.bytes)}")
        self._rows = torch.empty((count, words), dtype=torch.int64, device=device)

    def write(self, number: int, tensors: Sequence[Tensor]) -> None:
        """Fill a row.

        Raises:
            UnsteadyError: If these lie otherwise than the first ones.
        """
        of, sources = _distinct(tensors)
        same = (of, sources) == (self._of, self._sources)
        if not same or any(
            _slot(tensors[n], s.first, s.last) != s
            for n, s in zip(sources, self._slots, strict=True)
        ):
            raise UnsteadyError("batches are not of equal size")
        for n, slot in zip(sources, self._slots, strict=True):
            slot.read(self._rows[number]).copy_(tensors[n])

    def read(self, number: Tensor) -> list[Tensor]:
        """The tensors of the row whose number lies in ``(1,)``, int64, on the device."""
        row = self._rows.index_select(0, number)[0]
        read = [slot.read(row) for slot in self._slots]
        return [read[n] for n in self._of]


def _distinct(tensors: Sequence[Tensor]) -> tuple[list[int], list[int]]:
    """For each tensor the number of its slot, and for each slot that of its first tensor."""
    slots: dict[int, int] = {}
    sources: list[int] = []
    for n, x in enumerate(tensors):
        if id(x) not in slots:
            slots[id(x)] = len(sources)
            sources.append(n)
    return [slots[id(x)] for x in tensors], sources


def _slot(x: Tensor, first: int, last: int) -> _Slot:
    return _Slot(first, last, x.dtype, tuple(x.shape), lies_together(x))
