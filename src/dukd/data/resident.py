"""Patches cut on a device that holds all images."""

from typing import final

import torch
from torch import Tensor

from dukd.core.device import to_device
from dukd.core.text import shown
from dukd.data.draw import Draw, Sample
from dukd.data.pack import Pack
from dukd.data.source import Batch

_BLOCK = 64 << 20


@final
class Resident:
    """Patches cut on a device that holds all images; made by ``Patches.on_device``."""

    def __init__(self, pack: Pack, draw: Draw, device: torch.device) -> None:
        self.pack, self.patch, self._draw = pack, draw.patch, draw
        self.device = device
        if device.type == "cuda":
            free, needed = torch.cuda.mem_get_info(device)[0], pack.pixels.size
            if free < needed:
                raise ValueError(
                    f"{shown(pack.path)} takes {needed / 1e9:.2f} GB, but "
                    f"{free / 1e9:.2f} GB are free on {device}: cut patches on the processor "
                    "instead (--data.resident never)"
                )
        pack.verify()
        flat = torch.empty(pack.pixels.size, dtype=torch.uint8, device=device)
        for start in range(0, pack.pixels.size, _BLOCK):
            piece = pack.pixels[start : start + _BLOCK]
            flat[start : start + len(piece)] = torch.from_numpy(piece.copy()).to(device)
        self._pixels = flat

    @property
    def digest(self) -> str:
        """The pack's: equal for equal images."""
        return self.pack.digest

    def names(self, k: int, rank: int = 0, world: int = 1) -> list[str]:
        """Names of the images in batch ``k``, in order."""
        return [self.pack.records[one.image].name for one in self._draw.samples(k, rank, world)]

    def batch(self, k: int, rank: int = 0, world: int = 1) -> Batch:
        """The same as ``Patches.batch``, on the device."""
        samples = self._draw.samples(k, rank, world)
        return self._gather(samples, high=False), self._gather(samples, high=True)

    def _gather(self, samples: list[Sample], *, high: bool) -> Tensor:
        """One indexed read: flips and transposition are but signs and order of the strides."""
        records = self.pack.records
        scale = self.pack.scale if high else 1
        length = self.patch * scale
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
