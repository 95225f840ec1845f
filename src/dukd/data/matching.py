"""Which low-resolution image belongs to which high-resolution one, and whether their sizes fit."""

import contextlib
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dukd.core.text import shown
from dukd.data.layouts import Folders
from dukd.data.names import natural, size
from dukd.data.pair import Pair, Pairs, PairsError
from dukd.images import ImageError, header, list_images, read_rgb8

Noted = tuple[Path, str]
"""A file, and what is assumed of it."""
_NAMED = 5
"""Files that a note names."""


def match(folders: Folders, scale: int, *, recursive: bool, skip_bad: bool = False) -> Pairs:
    """Pair the images of two folders, or of one, and check every pair by its headers.

    Raises:
        PairsError: With all that is wrong, or with nothing but that where ``skip_bad``.
    """
    problems: list[str] = []
    listing = list_images(folders.hr, recursive=recursive)
    high = _by_stem(listing.images, folders.hr, folders.hr_ending, problems)
    if not high:
        beside = f"; {listing.sentence}" if listing.sentence else ""
        raise PairsError(f"no pairs in {shown(folders.hr)}", [f"it holds no images{beside}"])
    partners: Mapping[str, Path | None] = dict.fromkeys(high)
    if folders.lr is None:
        problems += _twins(high) or _versions(high)
    else:
        lower = list_images(folders.lr, recursive=recursive).images
        low = _by_stem(lower, folders.lr, folders.lr_ending, problems)
        if not low:
            raise PairsError(
                f"no pairs in {shown(folders.hr)}", [f"{shown(folders.lr)} holds no images"]
            )
        partners = _partners(high, low, scale, folders, problems)
        if folders.lr == folders.hr:
            problems += _unmarked(listing.images, folders)
    notes: list[Noted] = []
    checked = [
        _check(name, high[name], lr, scale, problems, notes, made=folders.lr is None)
        for name, lr in sorted(partners.items(), key=lambda item: natural(item[0]))
    ]
    pairs = tuple(pair for pair in checked if isinstance(pair, Pair))
    other = [pair for pair in checked if isinstance(pair, int)]
    if other and len(other) == len(checked) and len(set(other)) == 1 and other[0]:
        problems.insert(0, f"every pair fits scale {other[0]}, not {scale}")
    if problems and not (skip_bad and pairs):
        raise PairsError(
            f"{count(problems)} with the pairs in {shown(folders.hr)} at scale {scale}", problems
        )
    return Pairs(
        folder=folders.hr,
        scale=scale,
        pairs=pairs,
        left_out=tuple(problems),
        passed_over=listing.passed_over,
        assumed=assumptions(notes),
    )


def _by_stem(
    images: Sequence[Path], folder: Path, ending: str, problems: list[str]
) -> dict[str, Path]:
    """Map names without ``ending`` to files; names that differ in extension only are problems."""
    found: dict[str, list[Path]] = {}
    for path in sorted(images, key=lambda path: natural(str(path))):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem.endswith(ending):
            # The same letters can be encoded in two ways, and archives made on a Mac use the other.
            name = unicodedata.normalize("NFC", stem.removesuffix(ending))
            found.setdefault(name, []).append(path)
    for stem, paths in found.items():
        if len(paths) > 1:
            names = " and ".join(shown(path.name) for path in paths)
            problems.append(
                f"{names} in {shown(folder)} have the same name ({shown(stem)}): keep one of them"
            )
    return {stem: paths[0] for stem, paths in found.items()}


def _unmarked(images: Sequence[Path], folders: Folders) -> list[str]:
    """Images that are neither kind, where both lie in one folder."""
    marks = (folders.hr_ending, folders.lr_ending)
    return [
        f"{shown(path.name)} is called neither ...{marks[0]} nor ...{marks[1]}: rename or move it"
        for path in images
        if not path.stem.endswith(marks)
    ]


def _twins(high: Mapping[str, Path]) -> list[str]:
    """Images beside a smaller version of themselves, which must not be taken for truth."""
    return [
        f"{shown(high[twin].name)} is {shown(path.name)} made {scale} times smaller: move such "
        f"images into a folder of their own (LR_bicubic/X{scale} beside HR)"
        for name, path in high.items()
        for scale in range(2, 9)
        for twin in (f"{name}x{scale}", f"{name}_x{scale}", f"{name}X{scale}")
        if twin in high and _is_reduced(path, high[twin], scale)
    ]


_PARTS = re.compile(r"(?P<base>.+)[ _.-](?P<ending>[^ _./-]*)")
_ALIKE = 16.0
"""PSNR in dB between a reduced image and another one from which they are taken to show the same;
photographs of different things have 8 to 14."""


def _versions(high: Mapping[str, Path]) -> list[str]:
    """Images that come in two sizes under two endings, whatever these are called."""
    groups: dict[str, dict[str, Path]] = {}
    for name, path in high.items():
        if found := _PARTS.fullmatch(name):
            groups.setdefault(found["base"], {})[found["ending"]] = path
    several = [group for group in groups.values() if len(group) == 2]
    for large, small in (tuple(group.values())[::step] for group in several for step in (1, -1)):
        if times := _shows_the_same(large, small):
            return [
                f"{shown(small.name)} is {shown(large.name)} made {times} times smaller: call such "
                "images ..._hr and ..._lr, or move the small ones into a folder of their own and "
                "name it (--data.lr)"
            ]
    return []


def _shows_the_same(large: Path, small: Path) -> int:
    """How many times smaller the second image is, where it shows what the first one does; or 0."""
    with contextlib.suppress(ImageError):
        sizes = [(head.height, head.width) for head in (header(large), header(small))]
        (h, w), (lower, narrower) = sizes
        times = h // lower
        if not 2 <= times <= 8 or (h // times, w // times) != (lower, narrower):
            return 0
        theirs = read_rgb8(small).astype(float)
        blocks = read_rgb8(large)[: lower * times, : narrower * times].astype(float)
        reduced = blocks.reshape(lower, times, narrower, times, 3).mean((1, 3))
        error = max(float(np.square(reduced - theirs).mean()), 1e-9)
        return times if 10 * math.log10(255**2 / error) > _ALIKE else 0
    return 0


def _is_reduced(path: Path, twin: Path, scale: int) -> bool:
    with contextlib.suppress(ImageError):
        large, small = header(path), header(twin)
        return (large.width // scale, large.height // scale) == (small.width, small.height)
    return False


def _partners(
    high: Mapping[str, Path],
    low: Mapping[str, Path],
    scale: int,
    folders: Folders,
    problems: list[str],
) -> dict[str, Path]:
    left = dict(low)
    partners: dict[str, Path] = {}
    for name, path in high.items():
        spellings = (
            f"{name}x{scale}",
            f"{name}_x{scale}",
            f"{name}X{scale}",
            f"{name}_X{scale}",
            name,
        )
        if (spelling := next((s for s in spellings if s in left), None)) is not None:
            partners[name] = left.pop(spelling)
        else:
            expected = f"{shown(name)}x{scale}{path.suffix} or {shown(path.name)}"
            problems.append(
                f"{shown(path.name)} has no partner in {shown(folders.lr or '')}: {expected} is "
                "missing"
            )
    problems.extend(
        f"{shown(path.name)} has no partner in {shown(folders.hr)}: no high-resolution image of "
        "that name"
        for path in left.values()
    )
    return partners


def _check(
    name: str,
    hr: Path,
    lr: Path | None,
    scale: int,
    problems: list[str],
    notes: list[Noted],
    *,
    made: bool,
) -> Pair | int:
    """Check a pair by its headers; gives the scale that wrong sizes would fit, or 0."""
    sizes: list[tuple[int, int]] = []
    for path in (hr, lr):
        if path is not None:
            try:
                head = header(path)
            except ImageError as error:
                problems.append(shown(str(error)))
                return 0
            if head.problem:
                problems.append(f"{shown(path)}: {head.problem}")
                return 0
            notes += [(path, head.note)] if head.note else []
            sizes.append((head.width, head.height))
    width, height = sizes[0][0] // scale, sizes[0][1] // scale
    if not width or not height:
        problems.append(
            f"{shown(hr.name)} is {size(*sizes[0])}, smaller than one pixel of scale {scale}"
        )
        return 0
    if not made and sizes[1] != (width, height):
        lr_name = shown((lr or hr).name)
        problems.append(
            f"{lr_name} is {size(*sizes[1])}, but {shown(hr.name)} is {size(*sizes[0])}, "
            f"so {size(width, height)} is expected at scale {scale}"
        )
        fits = [s for s in range(1, 17) if (sizes[0][0] // s, sizes[0][1] // s) == sizes[1]]
        return fits[0] if fits else 0
    return Pair(name=name, hr=hr, lr=lr, scale=scale, height=height, width=width)


def single(hr: Path, lr: Path | None, scale: int, *, required: bool) -> Pairs:
    """One image, with or without its partner.

    Raises:
        PairsError: If it cannot be used.
    """
    problems: list[str] = []
    if lr is None and required:
        problems.append(
            "low-resolution images are to come from files, and a single image has none: name it "
            "as lr"
        )
    elif lr is not None and not lr.is_file():
        problems.append(f"{shown(lr)} is not a file, and one image has one partner")
    notes: list[Noted] = []
    pair = 0 if problems else _check(hr.stem, hr, lr, scale, problems, notes, made=lr is None)
    if not isinstance(pair, Pair):
        raise PairsError(f"{shown(hr)} cannot be used at scale {scale}", problems)
    return Pairs(folder=hr.parent, scale=scale, pairs=(pair,), assumed=assumptions(notes))


def assumptions(notes: Sequence[Noted]) -> tuple[str, ...]:
    """What was assumed of images, a sentence for each assumption, with the first names."""
    files: dict[str, list[str]] = {}
    for path, note in notes:
        files.setdefault(note, []).append(shown(path.name))
    return tuple(
        f"{', '.join(names[:_NAMED])}"
        f"{f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''}: {note}"
        for note, names in files.items()
    )


def count(problems: Sequence[object]) -> str:
    """How many problems, in words."""
    return "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
