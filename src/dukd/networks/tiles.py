"""Enlarge an image tile by tile: the one tile engine.

Tiles see as much of their surroundings as the upscaler's radius, so that the joined output is that
of the whole image to float noise. Where the radius is the whole image (global pooling), tiles
overlap and fade into each other, which is approximate, and reported. Only one tile is in work at a
time; one that finds no memory is split and tried again, without losing what is done.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from dukd.core.device import is_out_of_memory
from dukd.core.files import Progress, silent
from dukd.networks.upscaler import SelfEnsemble, Upscaler

_TILE = 512  # pixels of lr on a side, if the radius is known
_POOLED_TILE = 1024  # if the network pools over the image: as rarely cut as memory allows
_POOLED_HALO = 64  # what a tile of such a network sees beyond its part, at most
_POOLED_BAND = 32  # half the width over which two of its tiles fade into each other, at most

Range = tuple[int, int]
"""First pixel, and first pixel behind."""
Read = Callable[[Range, Range], Tensor]
"""Gives a window of lr, by its rows and columns: ``(n, 3, rows, columns)``."""
Write = Callable[[int, int, Tensor], None]
"""Takes a finished part of sr, by its first row and column: ``(n, 3, rows, columns)``."""


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
    """What to say if the output is approximate."""

    @property
    def count(self) -> int:
        """Number of tiles."""
        return (len(self.rows) - 1) * (len(self.columns) - 1)


def plan(
    upscaler: Upscaler, height: int, width: int, *, tile: int | tuple[int, int] | None = None
) -> Tiling:
    """Decide how to cut an image.

    Args:
        upscaler: Its radius and size multiple decide what the tiles must see and where they may
            begin.
        height: Of lr, in pixels.
        width: Of lr, in pixels.
        tile: Largest side of a part, or its largest height and width, in pixels of lr, rounded up
            to the size multiple; if left out, 512, or 1024 where no tile is exact.

    Raises:
        ValueError: If the tile has no pixel.
    """
    pooled = upscaler.radius is None
    tall, wide = (
        tile if isinstance(tile, tuple) else (tile or (_POOLED_TILE if pooled else _TILE),) * 2
    )
    if min(tall, wide) < 1 or tile == 0:
        raise ValueError(f"a tile has at least 1 pixel on a side, but got {tile}")
    multiple = upscaler.size_multiple
    # Small tiles see and share less, so that they cost at most twice the pixels.
    side = min(tall, wide)
    band = _aligned(max(1, min(_POOLED_BAND, side // 16)), multiple) if pooled else 0
    halo = min(_POOLED_HALO, side // 8) + band if upscaler.radius is None else upscaler.radius
    tall, wide = (_aligned(max(n, 2 * band), multiple) for n in (tall, wide))
    rows, columns = _cuts(height, tall, multiple), _cuts(width, wide, multiple)
    count = (len(rows) - 1) * (len(columns) - 1)
    if count == 1:
        return Tiling(rows, columns, 0, 0, None)
    # Flips of an image that is padded to a grid are padded at another side.
    shifted = isinstance(upscaler, SelfEnsemble) and (height % multiple or width % multiple)
    note = None
    if pooled or shifted:
        why = "looks at the whole image" if pooled else "pads flipped images elsewhere"
        note = (
            f"joined from {count} overlapping tiles; {upscaler.name} {why}, so this is approximate"
        )
    return Tiling(rows, columns, halo, band, note)


def run(
    upscaler: Upscaler, read: Read, write: Write, tiling: Tiling, progress: Progress = silent
) -> str | None:
    """Enlarge an image part by part.

    Args:
        upscaler: What enlarges.
        read: Where the input comes from.
        write: Where the output goes; its parts cover sr once, each as soon as it is done.
        tiling: What `plan` decided for this height and width.
        progress: Called after every tile.

    Returns:
        What to say if the output is approximate.

    Raises:
        MemoryError: If not even the smallest tile finds memory.
    """
    tiles = _Tiles(upscaler, read, tiling)
    scale, band = upscaler.scale, tiling.band
    height, width = tiling.rows[-1], tiling.columns[-1]
    above: list[Tensor] = []  # last rows of the parts above, to which the next ones contribute
    done = 0
    for y, y_end in pairwise(tiling.rows):
        top, bottom = max(0, y - band), min(height, y_end + band)
        below: list[Tensor] = []
        beside: Tensor | None = None  # last columns of the part to the left
        for number, (x, x_end) in enumerate(pairwise(tiling.columns)):
            left, right = max(0, x - band), min(width, x_end + band)
            part = tiles.enlarge((top, bottom), (left, right))
            if beside is not None:
                part = _faded(beside, part, axis=-1)
            if band and x_end < width:
                part, beside = _split(part, (right - x_end + band) * scale, axis=-1)
            if band and y:
                part = _faded(above[number], part, axis=-2)
            if band and y_end < height:
                part, kept = _split(part, (bottom - y_end + band) * scale, axis=-2)
                below.append(kept)
            write(top * scale, left * scale, part)
            done += 1
            progress(done, tiling.count, "tiles")
        above = below
    return tiling.note or tiles.note


def enlarge(upscaler: Upscaler, lr: Tensor, tiling: Tiling | None = None) -> Tensor:
    """Enlarge ``(n, 3, h, w)``, cut as planned; the output lies where the upscaler puts it."""
    n, _, h, w = lr.shape
    tiling = tiling or plan(upscaler, h, w)
    if tiling.count == 1:
        return upscaler(lr)
    parts: list[tuple[int, int, Tensor]] = []
    run(
        upscaler,
        lambda rows, columns: lr[..., slice(*rows), slice(*columns)],
        lambda y, x, part: parts.append((y, x, part)),
        tiling,
    )
    sr = parts[0][2].new_empty(n, 3, h * upscaler.scale, w * upscaler.scale)
    for y, x, part in parts:
        sr[..., y : y + part.shape[-2], x : x + part.shape[-1]] = part
    return sr


class _Tiles:
    """The tiles of one image; they remember which size found no memory."""

    def __init__(self, upscaler: Upscaler, read: Read, tiling: Tiling) -> None:
        self.upscaler, self.read = upscaler, read
        self.size = tiling.rows[-1], tiling.columns[-1]
        self.margin = tiling.halo - tiling.band  # the band is part of what is wanted
        self.whole = tiling.count == 1
        self.too_large = math.inf
        self.note: str | None = None

    def enlarge(self, rows: Range, columns: Range) -> Tensor:
        """Output for a part of lr: ``(n, 3, rows * scale, columns * scale)``."""
        ys, xs = self._window(rows, 0), self._window(columns, 1)
        area = (ys[1] - ys[0]) * (xs[1] - xs[0])
        if area < self.too_large:
            sr = self._try(ys, xs)
            if sr is not None:
                return sr[..., self._inside(rows, ys), self._inside(columns, xs)]
            self.too_large = area
        return self._in_halves(rows, columns)

    def _window(self, part: Range, axis: int) -> Range:
        """Add what the upscaler sees, aligned to its size multiple and clipped at the image."""
        multiple = self.upscaler.size_multiple
        low = max(0, part[0] - self.margin) // multiple * multiple
        return low, min(self.size[axis], _aligned(part[1] + self.margin, multiple))

    def _inside(self, part: Range, window: Range) -> slice:
        scale = self.upscaler.scale
        return slice((part[0] - window[0]) * scale, (part[1] - window[0]) * scale)

    def _try(self, rows: Range, columns: Range) -> Tensor | None:
        """Enlarge one window; None if there was no memory for it."""
        try:
            return self.upscaler(self.read(rows, columns))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # Behind the handler: while it runs, the traceback keeps what the network had allocated.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None

    def _in_halves(self, rows: Range, columns: Range) -> Tensor:
        upright = rows[1] - rows[0] >= columns[1] - columns[0]
        low, high = rows if upright else columns
        multiple, radius = self.upscaler.size_multiple, self.upscaler.radius
        if radius is None:
            self.note = (
                f"cut for want of memory; {self.upscaler.name} looks at the whole image, so this "
                "is approximate"
            )
        if self.whole:  # it had no surroundings until now
            self.margin = _POOLED_HALO if radius is None else radius
            self.whole = False
        band = _aligned(_POOLED_BAND, multiple) if radius is None else 0
        middle = (low + high) // 2 // multiple * multiple
        if min(middle - low, high - middle) < max(2 * (radius or band), 1):
            size = f"{rows[1] - rows[0]} x {columns[1] - columns[0]}"
            raise MemoryError(f"not even a tile of {size} pixels finds memory: use another device")
        first, second = (low, middle + band), (middle - band, high)
        halves = [
            self.enlarge(half, columns) if upright else self.enlarge(rows, half)
            for half in (first, second)
        ]
        axis = -2 if upright else -1
        if not band:
            return torch.cat(halves, dim=axis)
        kept, shared = _split(halves[0], 2 * band * self.upscaler.scale, axis=axis)
        return torch.cat([kept, _faded(shared, halves[1], axis=axis)], dim=axis)


def _split(part: Tensor, count: int, *, axis: int) -> tuple[Tensor, Tensor]:
    """All but the last ``count`` pixels along an axis, and the last ones."""
    first, last = part.split([part.shape[axis] - count, count], dim=axis)
    return first, last


def _faded(before: Tensor, part: Tensor, *, axis: int) -> Tensor:
    """Let the first pixels of ``part`` fade in from what is known of them already."""
    overlap = min(before.shape[axis], part.shape[axis])
    first, rest = part.split([overlap, part.shape[axis] - overlap], dim=axis)
    places = torch.arange(overlap, device=part.device) + 0.5
    ramp = (1 - torch.cos(places * (math.pi / overlap))) / 2
    before = before.narrow(axis, 0, overlap)
    return torch.cat([before.lerp(first, ramp[:, None] if axis == -2 else ramp), rest], dim=axis)


def _aligned(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _cuts(n: int, side: int, multiple: int) -> tuple[int, ...]:
    """Cut ``n`` pixels into nearly equal parts, at most ``side``, that begin at multiples."""
    count = -(-n // side)
    length = _aligned(-(-n // count), multiple)
    return (*range(0, n, length), n)
