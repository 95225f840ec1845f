"""Enlarge pictures of any size with a network, and folders of them.

Large pictures are cut into tiles that see as much of their surroundings as the network's radius, so that the joined
answer is that of the whole picture to float noise. Where the radius is the whole picture (global pooling), tiles
overlap and fade into each other, which is approximate, and reported. Only one tile is ever on the device; one
that finds no memory there is split and tried again, without losing what is done.
"""

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  the name everybody knows

from dukd import images, resize
from dukd.evaluate import self_ensemble as averaged
from dukd.files import Progress, silent
from dukd.images import ImageError, Picture
from dukd.networks import SRNetwork

_TILE = 512  # pixels of lr on a side, if the radius is known
_POOLED_TILE = 1024  # if the network pools over the picture: as rarely cut as memory allows
_POOLED_HALO = 64  # what each tile of such a network sees beyond its part
_POOLED_BAND = 32  # half the width over which two of its tiles fade into each other
_LONGEST_NAME = 255  # bytes of a file name on common file systems

Range = tuple[int, int]
"""First pixel, and first pixel behind."""


def _quiet(note: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Tiling:
    """How one picture is cut."""

    rows: tuple[int, ...]
    """Where the parts meet, in pixels of lr, from 0 to the height."""
    columns: tuple[int, ...]
    """Likewise from 0 to the width."""
    halo: int
    """Pixels of lr that each part sees beyond its own."""
    band: int
    """Half the width over which neighbours fade into each other; 0 where the parts fit exactly."""
    note: str | None
    """What to tell the user if the answer is approximate."""

    @property
    def count(self) -> int:
        """Number of tiles."""
        return (len(self.rows) - 1) * (len(self.columns) - 1)


def plan(
    network: SRNetwork, height: int, width: int, *, tile: int | None = None, self_ensemble: bool = False
) -> Tiling:
    """Decide how to cut a picture.

    Args:
        network: Its radius and size multiple decide what the tiles must see and where they may begin.
        height: Of lr, in pixels.
        width: Of lr, in pixels.
        tile: Largest side of a part, in pixels of lr, rounded up to the network's size multiple; if left out, 512, or
            1024 where no tile is exact.
        self_ensemble: Whether flips and rotations are averaged; a network that pads to a grid pads them elsewhere.

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
        why = "looks at the whole picture" if pooled else "pads flipped pictures elsewhere"
        note = f"joined from {count} overlapping tiles; {network.config.name} {why}, so this is approximate"
    return Tiling(rows, columns, halo if count > 1 else 0, band if count > 1 else 0, note)


def upscale_picture(
    network: SRNetwork,
    picture: Picture,
    *,
    tile: int | None = None,
    device: torch.device | str = "cpu",
    precision: torch.dtype = torch.float32,
    self_ensemble: bool = False,
    progress: Progress = silent,
    report: Callable[[str], None] = _quiet,
) -> Picture:
    """Enlarge one picture by the network's scale.

    Gray stays gray, 16 bits stay 16 bits, profile and EXIF are carried over. Transparency is enlarged beside the
    colours, bicubic; colours under full transparency are filled in from their surroundings first, so that none of
    them bleeds into visible edges.

    Args:
        network: Asked in eval mode; it is moved to the device and stays there.
        picture: Of at least one pixel.
        tile: Largest side of a part, as in ``plan``.
        device: Where the network runs; it never holds more than one tile.
        precision: ``torch.float32``, or ``torch.bfloat16`` or ``torch.float16`` for mixed precision.
        self_ensemble: Whether to answer as the mean over the eight flips and rotations.
        progress: Told after every tile.
        report: Told if the answer is approximate, and why.

    Raises:
        ValueError: If the network is not safe in float16, or answers with something that is no number.
        MemoryError: If not even the smallest tile finds memory.
    """
    if precision == torch.float16 and not network.fp16_safe:
        raise ValueError(f"{network.config.name} overflows in float16: use bfloat16 or float32")
    colours = picture.pixels
    if picture.alpha is not None and not picture.alpha.all():
        colours = _filled(colours, picture.alpha)
    height, width = colours.shape[:2]
    tiling = plan(network, height, width, tile=tile, self_ensemble=self_ensemble)
    training = network.training
    network.to(device).eval()
    try:
        asked = _Asked(network, colours, tiling, torch.device(device), precision, ensemble=self_ensemble)
        pixels = _joined(asked, tiling, picture.bits, progress)
    finally:
        network.train(training)
    if note := tiling.note or asked.note:
        report(note)
    return replace(picture, pixels=pixels, alpha=_resized(picture.alpha, pixels.shape[:2]))


class _Asked:
    """A network being asked about parts of one picture; it remembers which size found no memory."""

    def __init__(
        self,
        network: SRNetwork,
        colours: images.Pixels,
        tiling: Tiling,
        device: torch.device,
        precision: torch.dtype,
        *,
        ensemble: bool,
    ) -> None:
        self.network, self.colours, self.device, self.precision = network, colours, device, precision
        self.ensemble = ensemble
        self.scale = network.scale
        self.margin = tiling.halo - tiling.band  # the band is part of what is asked for
        self.whole = tiling.count == 1
        self.too_large = math.inf
        self.note: str | None = None

    def answer(self, rows: Range, columns: Range) -> Tensor:
        """Answer for a part of lr: ``(channels, rows * scale, columns * scale)``, float32 on the CPU."""
        ys, xs = self._window(rows, 0), self._window(columns, 1)
        area = (ys[1] - ys[0]) * (xs[1] - xs[0])
        if area < self.too_large:
            sr = self._try(self.colours[slice(*ys), slice(*xs)])
            if sr is not None:
                return sr[:, self._inside(rows, ys), self._inside(columns, xs)]
            self.too_large = area
        return self._in_halves(rows, columns)

    def _window(self, part: Range, axis: int) -> Range:
        """Add what the network sees, aligned to its size multiple and clipped at the picture."""
        multiple, size = self.network.size_multiple, self.colours.shape[axis]
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
                torch.autocast(self.device.type, dtype=self.precision if mixed else None, enabled=mixed),
            ):
                sr = averaged(self.network, lr) if self.ensemble else self.network(lr)
            sr = sr[0].float().cpu()
        except (MemoryError, RuntimeError) as error:
            if not _no_memory(error):
                raise
            sr = None
        # Behind the handler: while it runs, the traceback keeps what the network had allocated.
        if sr is None:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            return None
        if not bool(torch.isfinite(sr).all()):
            raise ValueError(f"{self.network.config.name} answers with NaN or infinity in {self.precision}")
        return sr.mean(0, keepdim=True) if window.shape[2] == 1 else sr

    def _in_halves(self, rows: Range, columns: Range) -> Tensor:
        upright = rows[1] - rows[0] >= columns[1] - columns[0]
        low, high = rows if upright else columns
        multiple, radius = self.network.size_multiple, self.network.radius
        if radius is None:
            name = self.network.config.name
            self.note = f"cut for want of memory; {name} looks at the whole picture, so this is approximate"
        if self.whole:  # it had no surroundings until now
            self.margin = _POOLED_HALO if radius is None else radius
            self.whole = False
        band = _aligned(_POOLED_BAND, multiple) if radius is None else 0
        middle = (low + high) // 2 // multiple * multiple
        if min(middle - low, high - middle) < max(2 * (radius or band), 1):
            size = f"{rows[1] - rows[0]} x {columns[1] - columns[0]}"
            raise MemoryError(f"not even a tile of {size} pixels finds memory on {self.device}; use another device")
        if upright:
            first, second = self.answer((low, middle + band), columns), self.answer((middle - band, high), columns)
        else:
            first, second = self.answer(rows, (low, middle + band)), self.answer(rows, (middle - band, high))
        return _faded(first, second, 2 * band * self.scale, axis=1 if upright else 2)


def _no_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(words in str(error) for words in ("DefaultCPUAllocator", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED"))


def _joined(asked: _Asked, tiling: Tiling, bits: int, progress: Progress) -> images.Pixels:
    """Ask for part after part, and put rows of parts together."""
    scale, band = asked.scale, tiling.band
    height, width, channels = asked.colours.shape
    joined = np.empty((height * scale, width * scale, channels), np.uint8 if bits == 8 else np.uint16)  # noqa: PLR2004
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
    """Join two answers ``(c, h, w)`` that share ``overlap`` pixels along an axis, one fading into the other."""
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
    """Cut ``n`` pixels into parts of nearly equal length, at most ``side``, that begin at multiples."""
    count = -(-n // side)
    length = _aligned(-(-n // count), multiple)
    return (*range(0, n, length), n)


def _filled(colours: images.Pixels, alpha: images.Pixels) -> images.Pixels:
    """Give fully transparent pixels the colours around them; visible pixels stay as they are."""
    x = torch.from_numpy(colours.astype(np.float32)).permute(2, 0, 1)[None]
    visible = torch.from_numpy(alpha.astype(np.float32) / np.iinfo(alpha.dtype).max)[None, None]
    filled = _pushed(x, visible)[0].permute(1, 2, 0).round().numpy().astype(colours.dtype)
    result: NDArray[np.uint8 | np.uint16] = np.where(alpha[..., None] > 0, colours, filled)
    return result


def _pushed(x: Tensor, weight: Tensor) -> Tensor:
    """Fill where ``weight`` is 0 from ever coarser means of what has weight: ``(1, c, h, w)`` and ``(1, 1, h, w)``."""
    if max(x.shape[-2:]) == 1 or bool((weight > 0).all()):
        return x
    totals, weights = (F.avg_pool2d(a, 2, ceil_mode=True) for a in (x * weight, weight))
    coarse = _pushed(totals / weights.clamp(min=1e-9), weights)
    nearby = F.interpolate(coarse, size=(2 * coarse.shape[-2], 2 * coarse.shape[-1]), mode="nearest")
    return torch.where(weight > 0, x, nearby[..., : x.shape[-2], : x.shape[-1]])


def _resized(plane: images.Pixels | None, size: tuple[int, int]) -> images.Pixels | None:
    """Resize ``(h, w)`` or ``(h, w, c)`` bicubic, rounded and clipped."""
    if plane is None:
        return None
    full = int(np.iinfo(plane.dtype).max)
    x = torch.from_numpy(np.atleast_3d(plane).astype(np.float32) / full).permute(2, 0, 1)[None]
    levels = images.from_tensor(resize.imresize(x, size=size), bits=8 * plane.dtype.itemsize)
    return levels if plane.ndim == 3 else levels[..., 0]  # noqa: PLR2004  with channels


@dataclass(frozen=True)
class Done:
    """A picture that was enlarged."""

    source: Path
    target: Path
    note: str | None
    """That the answer is approximate, if it is."""


@dataclass(frozen=True)
class Failed:
    """A picture that was not."""

    source: Path
    reason: str


@dataclass(frozen=True)
class Upscaled:
    """What became of every input."""

    done: tuple[Done, ...]
    skipped: tuple[Path, ...]
    """Sources whose results were there already."""
    failed: tuple[Failed, ...]


@dataclass(frozen=True)
class _Job:
    source: Path
    folder: Path
    """Below the output folder."""
    head: images.Header

    def name(self, suffix: str, *, whole: bool) -> str:
        """File name of the result; with ``whole``, the old extension stays in it."""
        kept = self.source.suffix.lower()
        transparent = self.head.mode in {"LA", "RGBA", "PA", "La", "RGBa"}
        if not images.can_hold(kept, bits=self.head.bits, alpha=transparent):
            kept = ".png"
        stem = self.source.name if whole else self.source.stem
        if len(os.fsencode(stem + suffix + kept)) > _LONGEST_NAME:
            mark = "~" + hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]
            room = _LONGEST_NAME - len(os.fsencode(mark + suffix + kept))
            stem = os.fsencode(stem)[:room].decode(errors="ignore") + mark
        return stem + suffix + kept


def upscale_files(
    network: SRNetwork,
    inputs: Sequence[Path],
    out: Path,
    *,
    model: str = "",
    suffix: str | None = None,
    recursive: bool = False,
    skip_existing: bool = False,
    outscale: float | None = None,
    quality: int = 95,
    max_pixels: int = images.MAX_PIXELS,
    tile: int | None = None,
    device: torch.device | str = "cpu",
    precision: torch.dtype = torch.float32,
    self_ensemble: bool = False,
    progress: Progress = silent,
) -> Upscaled:
    """Enlarge files and folders of pictures; what cannot be read is listed, and the others are done.

    ``a.png`` becomes ``a_x4.png``. The format stays, or becomes PNG where it cannot hold the picture or is not written
    (GIF). Where two pictures would get one name, as ``a.gif`` and ``a.png``, both keep their old extension in it:
    ``a.gif_x4.png``, ``a.png_x4.png``.

    Args:
        network: As for ``upscale_picture``.
        inputs: Files, whatever their names, and folders, in which the extensions of pictures count.
        out: Folder of the results, made if missing; folders below an input folder are repeated in it.
        model: Name of the model for a text chunk in PNG results.
        suffix: Put behind the name; ``_x4`` for a scale of 4 if left out.
        recursive: Whether folders below the inputs are searched too; links to folders are not followed.
        skip_existing: Whether pictures are left out whose result is there and not older than they are.
        outscale: Final size as a factor of the input's, reached from the network's own scale by bicubic resizing.
        quality: Of JPEG and WebP, as for ``images.write``.
        max_pixels: Largest input.
        tile: As for ``upscale_picture``, like all that follow.
        device: See there.
        precision: See there.
        self_ensemble: See there.
        progress: Told after every tile of all pictures, with the name of the picture.

    Raises:
        ValueError: If there is no picture among the inputs, an input folder is the output folder, or ``outscale`` is
            not positive.
    """
    if outscale is not None and not outscale > 0:
        raise ValueError(f"the final scale is a positive number, but got {outscale}")
    if suffix is None:
        suffix = f"_x{outscale or network.scale:g}"
    failed: list[Failed] = []
    jobs = _jobs(inputs, out, recursive=recursive, max_pixels=max_pixels, failed=failed)
    targets = _targets(jobs, out, suffix, failed)
    skipped = [source for source, (_, target) in targets.items() if skip_existing and _finished(source, target)]
    counts = {
        source: plan(network, job.head.height, job.head.width, tile=tile, self_ensemble=self_ensemble)
        for source, (job, _) in targets.items()
        if source not in skipped
    }
    total, before = sum(tiling.count for tiling in counts.values()), 0
    done: list[Done] = []
    notes = {"Comment": f"enlarged {network.scale} times by {model or network.config.name} with dukd"}
    for source, tiling in counts.items():
        target = targets[source][1]

        def told(count: int, _total: int, _what: str, *, before: int = before, source: Path = source) -> None:
            progress(before + count, total, source.name)

        approximate: list[str] = []
        try:
            picture = images.read(source, max_pixels=max_pixels)
            result = upscale_picture(
                network,
                picture,
                tile=tile,
                device=device,
                precision=precision,
                self_ensemble=self_ensemble,
                progress=told,
                report=approximate.append,
            )
            if outscale is not None and outscale != network.scale:
                result = _rescaled(result, picture, outscale)
            images.write(target, result, quality=quality, text=notes)
            done.append(Done(source, target, next(iter(approximate), None)))
        except ImageError as error:
            failed.append(Failed(source, str(error)))
        except MemoryError as error:
            failed.append(Failed(source, f"{source}: {error}"))
        before += tiling.count
    return Upscaled(tuple(done), tuple(skipped), tuple(failed))


def _rescaled(result: Picture, picture: Picture, outscale: float) -> Picture:
    h, w = (max(1, round(n * outscale)) for n in picture.pixels.shape[:2])
    pixels = _resized(result.pixels, (h, w))
    assert pixels is not None
    return replace(result, pixels=pixels, alpha=_resized(result.alpha, (h, w)))


def _jobs(inputs: Sequence[Path], out: Path, *, recursive: bool, max_pixels: int, failed: list[Failed]) -> list[_Job]:
    """Find the pictures and look at their headers; what fails is added to ``failed``."""
    found: dict[Path, Path] = {}  # source: folder below the output folder
    for path in map(Path, inputs):
        if not path.is_dir():
            found.setdefault(path, Path())
            continue
        if path.resolve() == out.resolve():
            raise ValueError(f"{path}: results would be taken for pictures on the next run; write to another folder")
        for folder, below, names in os.walk(path):
            here = Path(folder)
            below[:] = sorted(b for b in below if recursive and (here / b).resolve() != out.resolve())
            for name in sorted(names):
                if Path(name).suffix.lower() in images.EXTENSIONS and not name.startswith("."):
                    found.setdefault(here / name, here.relative_to(path))
    if not found:
        raise ValueError(
            f"no pictures in {', '.join(map(str, inputs))}" if inputs else "name pictures, or folders of them"
        )
    jobs: list[_Job] = []
    for source, folder in found.items():
        try:
            jobs.append(_Job(source, folder, images.header(source, max_pixels=max_pixels)))
        except ImageError as error:
            failed.append(Failed(source, str(error)))
    return jobs


def _targets(jobs: Sequence[_Job], out: Path, suffix: str, failed: list[Failed]) -> dict[Path, tuple[_Job, Path]]:
    """Name every result such that no two are one, also where file systems ignore case, and no input is overwritten."""
    names = {job.source: out / job.folder / job.name(suffix, whole=False) for job in jobs}
    shared = _repeated(names.values())
    for job in jobs:
        if _key(names[job.source]) in shared:
            names[job.source] = out / job.folder / job.name(suffix, whole=True)
    shared = _repeated(names.values())
    sources = {job.source.resolve() for job in jobs}
    targets: dict[Path, tuple[_Job, Path]] = {}
    for job in jobs:
        target = names[job.source]
        if _key(target) in shared:
            failed.append(Failed(job.source, f"{job.source}: another input would be written to {target} too"))
        elif target.resolve() in sources:
            failed.append(Failed(job.source, f"{job.source}: the result would overwrite the input {target}"))
        else:
            targets[job.source] = (job, target)
    return targets


def _key(path: Path) -> str:
    return str(path).casefold()


def _repeated(paths: Iterable[Path]) -> set[str]:
    return {key for key, count in Counter(map(_key, paths)).items() if count > 1}


def _finished(source: Path, target: Path) -> bool:
    return target.is_file() and target.stat().st_mtime >= source.stat().st_mtime
