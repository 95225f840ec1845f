"""Cut an image into tiles, ask a network about each, and join its answers.

Tiles see as much of their surroundings as the network's radius, so that the joined answer is that
of the whole image to float noise. Where the radius is the whole image (global pooling), tiles
overlap and fade into each other, which is approximate, and reported. Only one tile is ever on the
device; one that finds no memory there is split and tried again, without losing what is done.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from dukd import images
from dukd.core.device import is_out_of_memory
from dukd.core.files import Progress, silent
from dukd.evaluation.evaluate import self_ensemble as averaged
from dukd.networks import Network

_TILE = 512  # pixels of lr on a side, if the radius is known
_POOLED_TILE = 1024  # if the network pools over the image: as rarely cut as memory allows
_POOLED_HALO = 64  # what each tile of such a network sees beyond its part
_POOLED_BAND = 32  # half the width over which two of its tiles fade into each other

Range = tuple[int, int]
"""First pixel, and first pixel behind."""


@dataclass(frozen=True)
class Tiling:
    """How one image is cut."""

    rows: tuple[int, ...]
    """Where the parts meet, in pixels of lr, from 0 to the height."""
    columns: tuple[int, ...]
    """Likewise from 0 to the width."""
    halo: int
    """Pixels of lr that each part sees beyond its own."""
    band: int
    """Half the width over which neighbors fade into each other; 0 where the parts fit exactly."""
    note: str | None
    """What to tell the user if the answer is approximate."""

    @property
    def count(self) -> int:
        """Number of tiles."""
        return (len(self.rows) - 1) * (len(self.columns) - 1)


def plan(
    network: Network,
    height: int,
    width: int,
    *,
    tile: int | None = None,
    self_ensemble: bool = False,
) -> Tiling:
    """Decide how to cut an image.

    Args:
        network: Its radius and size multiple decide what the tiles must see and where they may
            begin.
        height: Of lr, in pixels.
        width: Of lr, in pixels.
        tile: Largest side of a part, in pixels of lr, rounded up to the network's size multiple; if
            left out, 512, or 1024 where no tile is exact.
        self_ensemble: Whether flips and rotations are averaged; a network that pads to a grid pads
            them elsewhere.

    Raises:
        ValueError: If the tile has no pixel.
    """
    if tile is not None and tile < 1:
        raise ValueError(f"a tile has at least 1 pixel on a side, but got {tile}")
    pooled = network.radius is None
    multiple = network.size_multiple
    side = tile or (_POOLED_TILE if pooled else _TILE)
    band = _aligned(_POOLED_BAND, multiple) if pooled else 0
    side = _aligned(max(side, 2 * band), multiple)
    rows, columns = _cuts(height, side, multiple), _cuts(width, side, multiple)
    count = (len(rows) - 1) * (len(columns) - 1)
    halo = _POOLED_HALO + band if network.radius is None else network.radius
    shifted = self_ensemble and (height % multiple > 0 or width % multiple > 0)
    note = None
    if count > 1 and (pooled or shifted):
        why = "looks at the whole image" if pooled else "pads flipped images elsewhere"
        note = (
            f"joined from {count} overlapping tiles; {network.config.name} {why}, so this is "
            "approximate"
        )
    return Tiling(rows, columns, halo if count > 1 else 0, band if count > 1 else 0, note)


def answer(
    network: Network,
    colors: images.Pixels,
    tiling: Tiling,
    *,
    device: torch.device,
    precision: torch.dtype = torch.float32,
    self_ensemble: bool = False,
    progress: Progress = silent,
) -> tuple[images.Pixels, str | None]:
    """Ask about an image tile by tile.

    Args:
        network: Asked as it is, on the device.
        colors: ``(h, w, channels)``, as ``images.Image`` holds them.
        tiling: What ``plan`` decided for this height and width.
        device: Where the network is; it never holds more than one tile.
        precision: ``torch.float32``, or another for mixed precision.
        self_ensemble: Whether to answer as the mean over the eight flips and rotations.
        progress: Told after every tile.

    Returns:
        The enlarged colors, and what to tell the user if they are approximate.

    Raises:
        ValueError: If the network answers with something that is no number.
        MemoryError: If not even the smallest tile finds memory.
    """
    asked = _Asked(network, colors, tiling, device, precision, ensemble=self_ensemble)
    return _joined(asked, tiling, 8 * colors.itemsize, progress), tiling.note or asked.note


class _Asked:
    """A network being asked about parts of one image; it remembers which size found no memory."""

    def __init__(
        self,
        network: Network,
        colors: images.Pixels,
        tiling: Tiling,
        device: torch.device,
        precision: torch.dtype,
        *,
        ensemble: bool,
    ) -> None:
        self.network, self.colors, self.device, self.precision = network, colors, device, precision
        self.ensemble = ensemble
        self.scale = network.scale
        self.margin = tiling.halo - tiling.band  # the band is part of what is asked for
        self.whole = tiling.count == 1
        self.too_large = math.inf
        self.note: str | None = None

    def answer(self, rows: Range, columns: Range) -> Tensor:
        """Output for a part of lr: ``(channels, rows * scale, columns * scale)``, on the CPU."""
        ys, xs = self._window(rows, 0), self._window(columns, 1)
        area = (ys[1] - ys[0]) * (xs[1] - xs[0])
        if area < self.too_large:
            sr = self._try(self.colors[slice(*ys), slice(*xs)])
            if sr is not None:
                return sr[:, self._inside(rows, ys), self._inside(columns, xs)]
            self.too_large = area
        return self._in_halves(rows, columns)

    def _window(self, part: Range, axis: int) -> Range:
        """Add what the network sees, aligned to its size multiple and clipped at the image."""
        multiple, size = self.network.size_multiple, self.colors.shape[axis]
        low = max(0, part[0] - self.margin) // multiple * multiple
        return low, min(size, _aligned(part[1] + self.margin, multiple))

    def _inside(self, part: Range, window: Range) -> slice:
        return slice((part[0] - window[0]) * self.scale, (part[1] - window[0]) * self.scale)

    def _try(self, window: images.Pixels) -> Tensor | None:
        """Ask about one window; None if there was no memory for it."""
        try:
            lr = images.to_tensor(window).to(self.device)
            mixed = self.precision != torch.float32
            with (
                torch.no_grad(),
                torch.autocast(
                    self.device.type, dtype=self.precision if mixed else None, enabled=mixed
                ),
            ):
                sr = averaged(self.network, lr) if self.ensemble else self.network(lr)
            sr = sr[0].float().cpu()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            sr = None
        # Behind the handler: while it runs, the traceback keeps what the network had allocated.
        if sr is None:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            return None
        if not bool(torch.isfinite(sr).all()):
            raise ValueError(
                f"{self.network.config.name} answers with NaN or infinity in {self.precision}"
            )
        return sr.mean(0, keepdim=True) if window.shape[2] == 1 else sr

    def _in_halves(self, rows: Range, columns: Range) -> Tensor:
        upright = rows[1] - rows[0] >= columns[1] - columns[0]
        low, high = rows if upright else columns
        multiple, radius = self.network.size_multiple, self.network.radius
        if radius is None:
            name = self.network.config.name
            self.note = (
                f"cut for want of memory; {name} looks at the whole image, so this is approximate"
            )
        if self.whole:  # it had no surroundings until now
            self.margin = _POOLED_HALO if radius is None else radius
            self.whole = False
        band = _aligned(_POOLED_BAND, multiple) if radius is None else 0
        middle = (low + high) // 2 // multiple * multiple
        if min(middle - low, high - middle) < max(2 * (radius or band), 1):
            size = f"{rows[1] - rows[0]} x {columns[1] - columns[0]}"
            raise MemoryError(
                f"not even a tile of {size} pixels finds memory on {self.device}; use another "
                "device"
            )
        if upright:
            first, second = (
                self.answer((low, middle + band), columns),
                self.answer((middle - band, high), columns),
            )
        else:
            first, second = (
                self.answer(rows, (low, middle + band)),
                self.answer(rows, (middle - band, high)),
            )
        return _faded(first, second, 2 * band * self.scale, axis=1 if upright else 2)


def _joined(asked: _Asked, tiling: Tiling, bits: int, progress: Progress) -> images.Pixels:
    """Ask for part after part, and put rows of parts together."""
    scale, band = asked.scale, tiling.band
    height, width, channels = asked.colors.shape
    joined = np.empty(
        (height * scale, width * scale, channels), np.uint8 if bits == 8 else np.uint16
    )
    begun: Tensor | None = None  # rows to which the next row of parts contributes
    done = 0
    for y, y_end in pairwise(tiling.rows):
        top, bottom = max(0, y - band), min(height, y_end + band)
        strip: Tensor | None = None
        for x, x_end in pairwise(tiling.columns):
            part = asked.answer((top, bottom), (max(0, x - band), min(width, x_end + band)))
            strip = part if strip is None else _faded(strip, part, 2 * band * scale, axis=2)
            done += 1
            progress(done, tiling.count, "tiles")
        assert strip is not None
        if begun is not None:
            strip = _faded(begun, strip, 2 * band * scale, axis=1)
        finished = (y_end - band if y_end < height else height) - top
        joined[top * scale : (top + finished) * scale] = images.from_tensor(
            strip[None, :, : finished * scale], bits=bits
        )
        begun = strip[:, finished * scale :] if band else None
    return joined


def _faded(first: Tensor, second: Tensor, overlap: int, *, axis: int) -> Tensor:
    """Join two outputs ``(c, h, w)`` that share ``overlap`` pixels along an axis, fading."""
    if not overlap:
        return torch.cat([first, second], dim=axis)
    overlap = min(overlap, second.shape[axis])
    before, of_first = first.split([first.shape[axis] - overlap, overlap], dim=axis)
    of_second, after = second.split([overlap, second.shape[axis] - overlap], dim=axis)
    ramp = (1 - torch.cos((torch.arange(overlap) + 0.5) * (math.pi / overlap))) / 2
    ramp = ramp[:, None] if axis == 1 else ramp
    return torch.cat([before, of_first.lerp(of_second, ramp), after], dim=axis)


def _aligned(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _cuts(n: int, side: int, multiple: int) -> tuple[int, ...]:
    """Cut ``n`` pixels into nearly equal parts, at most ``side``, that begin at multiples."""
    count = -(-n // side)
    length = _aligned(-(-n // count), multiple)
    return (*range(0, n, length), n)
