"""Degrade a folder of images once: low-resolution files to look at, to evaluate on, to pair."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dukd.core.files import Progress, make_writable, real, silent
from dukd.core.text import shown
from dukd.data.matching import Noted, assumptions
from dukd.data.names import natural
from dukd.images import Image, ImageError, list_images, read, write
from dukd.images.decode import PLAIN_INKS
from dukd.images.degrade import Degradation, Levels
from dukd.images.io import as_rgb8
from dukd.images.naming import Wanted, distinct

_TILE, _GAP, _ROWS = 192, 8, 6


@dataclass(frozen=True)
class Degraded:
    """What became of a folder."""

    written: tuple[Path, ...]
    """Low-resolution files, with the names of their sources."""
    renamed: Mapping[Path, Path]
    """Of these, the files whose stem is not that of their source, by source: another has it."""
    failed: tuple[str, ...]
    """Why images were left out, a sentence each."""
    passed_over: Mapping[str, int]
    """How many files and folders of each other kind were left alone."""
    sheet: Path | None
    """The contact sheet: sources beside results, enlarged; None if there is nothing to show."""
    assumed: tuple[str, ...] = ()
    """What had to be assumed of images, a sentence each."""


def degrade_folder(
    source: Path,
    out: Path,
    degradation: Degradation,
    *,
    scale: int,
    seed: int = 1,
    recursive: bool = False,
    progress: Progress = silent,
) -> Degraded:
    """Write the low-resolution version of every image of a folder, as PNG of the same name.

    Where names differ in extension or case only, `dukd.images.naming` makes them differ.

    What is drawn for an image depends on the seed and its name alone. Transparency is left out and
    gray repeated; what exceeds a multiple of the scale at the bottom and the right is cut off, as
    ``find_pairs`` expects it. The contact sheet lies beside the folder, as ``OUT-sheet.png``.

    Args:
        source: A folder of images, or one image.
        out: Folder of the results, made if missing.
        degradation: How they come about.
        scale: Factor by which they are smaller.
        seed: Not negative.
        recursive: Whether folders below are entered; they are repeated in ``out``.
        progress: Called after each image, with its name.

    Raises:
        ValueError: If there are no images, ``out`` is the source, an image would be overwritten, or
            a number is out of range.
        OSError: If ``out`` cannot be written.
    """
    targets, folder, passed_over = _planned(source, out, scale, seed, recursive=recursive)
    make_writable(out)
    written: dict[Path, Path] = {}
    failed: list[str] = []
    rows: list[tuple[Levels, Levels]] = []
    notes: list[Noted] = []
    for done, (path, target) in enumerate(targets.items(), start=1):
        try:
            image = read(path)
            hr, lr = _degraded(image, path, folder, degradation, scale, seed)
            write(target, Image(pixels=lr))
        except (ImageError, ValueError, MemoryError) as error:
            text = str(error) or "memory does not suffice"
            failed.append(text if str(path) in text else f"{shown(path)}: {text}")
        else:
            written[path] = target
            notes += [(path, note) for note in image.notes if note == PLAIN_INKS]
            if len(rows) < _ROWS:
                rows.append((_tile(hr, 1), _tile(lr, scale)))
        progress(done, len(targets), path.name)
    sheet = _with_sheet(out, rows, failed)
    renamed = {path: target for path, target in written.items() if path.stem != target.stem}
    done_files, assumed = tuple(written.values()), assumptions(notes)
    return Degraded(done_files, renamed, tuple(failed), passed_over, sheet, assumed)


def _planned(
    source: Path, out: Path, scale: int, seed: int, *, recursive: bool
) -> tuple[dict[Path, Path], Path, Mapping[str, int]]:
    """Sources with their targets, the folder they lie in, and what is passed over."""
    if scale < 1 or seed < 0:
        raise ValueError(f"scale is at least 1 and seed not negative, but got {scale} and {seed}")
    if not out.name:
        raise ValueError(
            f"{out} has nothing beside it, where the contact sheet goes: name a folder"
        )
    if not source.exists():
        raise ValueError(f"there is no {shown(source)}: name a folder of images")
    if real(source) == real(out):
        raise ValueError(f"{shown(out)} is the source: write to another folder")
    passed_over: Mapping[str, int] = {}
    if source.is_dir():
        listing = list_images(source, recursive=recursive)
        images, folder, passed_over = listing.images, source, listing.passed_over
    else:
        images, folder = (source,), source.parent
    results = {real(_sheet(out))}  # an earlier call wrote these
    if real(folder) in real(out).parents:
        results.add(real(out))
    kept = [path for path in images if results.isdisjoint((real(path), *real(path).parents))]
    ordered = sorted(kept, key=lambda path: natural(str(path)))
    if not ordered:
        raise ValueError(f"{shown(source)} holds no images")
    wanted = [Wanted(path, out / path.relative_to(folder).parent, ".png") for path in ordered]
    targets = distinct(wanted)
    inputs = {real(path) for path in ordered}
    if over := [target for target in targets.values() if real(target) in inputs]:
        raise ValueError(f"{shown(over[0])} is a source: write to another folder")
    return targets, folder, passed_over


def _with_sheet(out: Path, rows: Sequence[tuple[Levels, Levels]], failed: list[str]) -> Path | None:
    """Write the contact sheet; None where there is nothing to show, or it fails."""
    try:
        if rows:
            write(_sheet(out), Image(pixels=contact_sheet(rows)))
    except ImageError as error:
        failed.append(str(error))
        return None
    return _sheet(out) if rows else None


def _sheet(out: Path) -> Path:
    return out.with_name(f"{out.name}-sheet.png")


def _degraded(
    image: Image, path: Path, folder: Path, degradation: Degradation, scale: int, seed: int
) -> tuple[Levels, Levels]:
    hr = as_rgb8(image)
    if min(hr.shape[:2]) < scale:
        size = " x ".join(map(str, hr.shape[:2]))
        raise ImageError(f"{path}: {size} pixels are less than one of the result at scale {scale}")
    h, w = (n // scale * scale for n in hr.shape[:2])
    hr = np.ascontiguousarray(hr[:h, :w])
    name = path.relative_to(folder).as_posix().encode("utf-8", "surrogateescape")
    rng = np.random.default_rng([seed, zlib.crc32(name)])
    return hr, degradation.apply(hr, scale, rng)


def _tile(image: Levels, scale: int) -> Levels:
    """The middle of an image, its pixels repeated ``scale`` times, on a gray square."""
    side = max(1, _TILE // scale)
    top, left = (max(0, (n - side) // 2) for n in image.shape[:2])
    part = image[top : top + side, left : left + side].repeat(scale, 0).repeat(scale, 1)
    tile = np.full((_TILE, _TILE, 3), 128, np.uint8)
    tile[: part.shape[0], : part.shape[1]] = part
    return tile


def contact_sheet(rows: Sequence[Sequence[NDArray[np.uint8]]]) -> Levels:
    """Tiles of one size in rows, on white: ``(h, w, 3)``."""
    gap_across = np.full((_TILE, _GAP, 3), 255, np.uint8)
    lines: list[NDArray[np.uint8]] = []
    for row in rows:
        parts = [gap_across]
        for tile in row:
            parts += [tile, gap_across]
        line = np.concatenate(parts, axis=1)
        lines += [np.full((_GAP, line.shape[1], 3), 255, np.uint8), line]
    lines.append(lines[0])
    return np.concatenate(lines, axis=0)
