"""Find low- and high-resolution images that belong together, and check them before training.

Every layout the field uses is recognized; only headers are read; all problems are reported at once.
"""

import contextlib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from dukd.images import EXTENSIONS, ImageError, header, read_rgb8
from dukd.images.resize import imresize_uint8

_SHOWN = 20
_SUGGESTION_DEPTH, _SUGGESTIONS = 3, 200

MADE = "bicubic, MATLAB's uint8 path"
"""How low-resolution images come about where no file holds them; packs and records keep this
text."""


class PairsError(ValueError):
    """Images that cannot serve as pairs, with every reason found.

    Args:
        heading: What was looked at, without a full stop.
        problems: One sentence each; the message shows the first 20.
    """

    def __init__(self, heading: str, problems: Sequence[str]) -> None:
        self.heading = heading
        self.problems = tuple(problems)
        super().__init__(heading, self.problems)

    def with_hint(self, hint: str) -> "PairsError":
        """The same, with a further sentence that says what to do."""
        return PairsError(self.heading, [*self.problems, hint])

    def __str__(self) -> str:
        lines = [f"{self.heading}:", *(f"  {problem}" for problem in self.problems[:_SHOWN])]
        if (more := len(self.problems) - _SHOWN) > 0:
            lines.append(f"  and {more} more")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An image and its low-resolution version, known by their headers."""

    name: str
    """Unique in its set: the stem of the high-resolution file, with its folders where they are
    searched."""
    hr: Path
    """The high-resolution file; it may exceed ``scale`` times the size below by less than ``scale``
    pixels."""
    lr: Path | None
    """The low-resolution file; None where it is made from ``hr``."""
    scale: int
    """Upscaling factor."""
    height: int
    """Rows of the low-resolution image."""
    width: int
    """Columns of the low-resolution image."""


@dataclass(frozen=True, kw_only=True)
class Pairs(Sequence[Pair]):
    """A set of pairs in natural order of their names."""

    folder: Path
    """Where the high-resolution images were found."""
    scale: int
    """Upscaling factor of every pair."""
    pairs: tuple[Pair, ...]
    """The pairs themselves."""

    @property
    def made(self) -> int:
        """How many low-resolution images are made from the others, for want of a file."""
        return sum(pair.lr is None for pair in self.pairs)

    @property
    def lr_source(self) -> str:
        """Where the low-resolution images come from, in words."""
        if not self.made:
            return "files"
        return (
            MADE if self.made == len(self) else f"{self.made} of {len(self)} {MADE}, the rest files"
        )

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Pair, ...]: ...
    def __getitem__(self, index: int | slice) -> Pair | tuple[Pair, ...]:
        return self.pairs[index]

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)


def find_pairs(
    source: Path | str,
    *,
    scale: int,
    lr: Path | str | None = None,
    lr_from_hr: bool | None = None,
    recursive: bool = False,
) -> Pairs:
    """Find the pairs below ``source`` and check them by their headers.

    Recognized are, with ``4`` for the scale: ``DIV2K_train_HR`` beside
    ``DIV2K_train_LR_bicubic/X4``; ``HR`` beside ``LR_bicubic/X4``; ``GTmod12`` beside ``LRbicx4``;
    ``image_SRF_4``; sub-images in ``..._HR_sub`` beside ``X4_sub``; any two folders, given as
    ``source`` and ``lr``; a folder of images; one image. A low-resolution file has the name of its
    partner, or that name followed by ``x4``.

    Args:
        source: The folder of a data set, its folder of high-resolution images, or one image.
        scale: Upscaling factor, at least 1.
        lr: Folder (or file) of the low-resolution images, where it stands in no place listed above.
        lr_from_hr: True makes low-resolution images even where there are files; False insists on
            files; None takes files where the layout has them.
        recursive: Whether folders below the one with the images are searched as well; links are not
            followed twice.

    Returns:
        The pairs, in natural order: ``img2`` before ``img10``.

    Raises:
        PairsError: If anything is missing, unreadable, ambiguous or of a size that contradicts the
            scale; it lists every problem.
        ValueError: If the scale is not positive, or ``lr`` is given and ``lr_from_hr`` true.
    """
    if scale < 1:
        raise ValueError(f"a scale is at least 1, but got {scale}")
    if lr is not None and lr_from_hr:
        raise ValueError(
            "low-resolution images come from lr or are made from hr: leave out lr or lr_from_hr"
        )
    source = Path(source)
    if source.is_file():
        return _single(
            source, None if lr is None else Path(lr), scale, required=lr_from_hr is False
        )
    if not source.is_dir():
        raise PairsError(
            f"no pairs in {shown(source)}", [f"there is no such folder{_nearest(source)}"]
        )
    folders = _locate(source, scale, recursive=recursive)
    if lr is not None:
        folders = replace(folders, lr=_lr_given(Path(lr), scale))
    elif lr_from_hr:
        folders = replace(folders, lr=None)
    elif lr_from_hr is False and folders.lr is None:
        raise PairsError(
            f"no pairs in {shown(source)}",
            [
                f"low-resolution images for x{scale} are in none of the usual places, such as "
                f"LR_bicubic/X{scale}"
            ],
        )
    return _match(folders, scale, recursive=recursive)


def load(pair: Pair) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read a pair; the high-resolution image is cropped at the bottom and right to the scale.

    Returns:
        ``lr`` ``(h, w, 3)`` and ``hr`` ``(h * scale, w * scale, 3)``, both contiguous.

    Raises:
        PairsError: If a file is no longer of the size its header had.
        ImageError: If a file cannot be read.
    """
    h, w, scale = pair.height, pair.width, pair.scale
    whole = read_rgb8(pair.hr)
    hr = np.ascontiguousarray(whole[: h * scale, : w * scale])
    lr = imresize_uint8(hr, 1 / scale) if pair.lr is None else read_rgb8(pair.lr)
    # An hr that grew by whole multiples of the scale would be cropped without a word.
    grown = whole.shape[0] // scale != h or whole.shape[1] // scale != w
    if grown or lr.shape != (h, w, 3):
        found = (
            f"it is {size(*reversed(whole.shape[:2]))}"
            if grown
            else f"lr is {size(*reversed(lr.shape[:2]))}"
        )
        raise PairsError(
            f"{shown(pair.hr)} is not what its header said",
            [f"{found}, and {size(w, h)} times {scale} was expected: look for the pairs again"],
        )
    return np.ascontiguousarray(lr), hr


def join(*sets: Pairs) -> Pairs:
    """Put sets of one scale after each other; names get a number in front where sets share one.

    Raises:
        ValueError: If there is none, or the scales differ.
    """
    scales = {pairs.scale for pairs in sets}
    if len(scales) != 1:
        raise ValueError(f"sets of one scale can be joined, but got the scales {sorted(scales)}")
    names = [pair.name for pairs in sets for pair in pairs]
    clash = len(set(names)) < len(names)
    joined = tuple(
        replace(pair, name=f"{number}/{pair.name}") if clash else pair
        for number, pairs in enumerate(sets, start=1)
        for pair in pairs
    )
    folder = Path(os.path.commonpath([pairs.folder.absolute() for pairs in sets]))
    return Pairs(folder=folder, scale=scales.pop(), pairs=joined)


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Key for sorting names as people do: numbers by value, letters without regard to case."""
    parts = re.split(r"([0-9]+)", name)
    return (
        *((0, int(p), "") if p.isascii() and p.isdigit() else (1, 0, p.casefold()) for p in parts),
        (2, 0, name),
    )


def shown(path: Path | str) -> str:
    """A path that can be printed: bytes that are no UTF-8, and line breaks, are escaped."""
    text = str(path).encode("utf-8", "backslashreplace").decode()
    return text.replace("\n", "\\n").replace("\r", "\\r")


def size(width: int, height: int) -> str:
    """Width by height, as people write it."""
    return f"{width}x{height}"


@dataclass(frozen=True, kw_only=True)
class _Folders:
    hr: Path
    lr: Path | None
    hr_ending: str = ""
    """What stems of the high-resolution images end with, where both kinds share a folder."""
    lr_ending: str = ""


_HR_FOLDER = re.compile(
    r"(?P<prefix>.*?)(?:HR|GT|original)(?:mod(?P<modulus>[0-9]+))?(?P<sub>_sub)?", re.IGNORECASE
)


def _locate(source: Path, scale: int, *, recursive: bool) -> _Folders:
    """Decide which folders hold the images of a set."""
    direct = any(_images(source, recursive=False))
    inside: dict[str, list[tuple[int, _Folders]]] = {}
    for child in sorted(source.iterdir(), key=lambda path: natural(path.name)):
        if child.is_dir() and (found := _HR_FOLDER.fullmatch(child.name)):
            modulus = int(found["modulus"] or 1)
            # Of GTmod2, GTmod12 and HR, the one cut to a multiple of this scale was the source of
            # its images.
            fit = modulus if modulus % scale == 0 else -modulus
            folders = _Folders(
                hr=child,
                lr=_lr_beside(
                    source, found["prefix"], found["sub"] or "", scale, recursive=recursive
                ),
            )
            inside.setdefault(found["prefix"] + (found["sub"] or ""), []).append((fit, folders))
    if (both := subfolder(source, f"image_SRF_{scale}")) and not inside:
        return _Folders(hr=both, lr=both, hr_ending="_HR", lr_ending="_LR")
    best = [max(alternatives, key=lambda pair: pair[0])[1] for alternatives in inside.values()]
    if len(best) == 1 and not direct:
        return best[0]
    if best and direct:
        choice = (
            f"name {shown(best[0].hr)}, or move the images beside it into a folder of their own"
        )
        raise PairsError(f"{shown(source)} holds both images and a set", [choice])
    if best:
        choice = f"name the one you mean: {', '.join(shown(folders.hr) for folders in best)}"
        raise PairsError(f"{shown(source)} holds more than one set", [choice])
    if not direct and not recursive:
        raise PairsError(
            f"no pairs in {shown(source)}", [f"it holds no images{_folder_with_images(source)}"]
        )
    if (found := _HR_FOLDER.fullmatch(source.absolute().name)) is not None:
        beside = _lr_beside(
            source.absolute().parent,
            found["prefix"],
            found["sub"] or "",
            scale,
            recursive=recursive,
        )
        return _Folders(hr=source, lr=beside)
    if source.absolute().name.casefold() == f"image_srf_{scale}":
        return _Folders(hr=source, lr=source, hr_ending="_HR", lr_ending="_LR")
    return _Folders(hr=source, lr=None)


def _lr_beside(root: Path, prefix: str, sub: str, scale: int, *, recursive: bool) -> Path | None:
    """Find the folder of low-resolution images that goes with ``<prefix>HR``."""
    bicubic = f"{prefix}LR_bicubic"
    places = (
        f"{bicubic}/X{scale}{sub}",
        f"{bicubic}_X{scale}{sub}",
        f"{bicubic}_X{scale}/{bicubic}/X{scale}{sub}",
        f"{prefix}LRbicx{scale}{sub}",
        f"{prefix}LR/X{scale}{sub}",
        f"{prefix}LR_X{scale}{sub}",
        f"{prefix}LRX{scale}{sub}",
        f"{prefix}LR{sub}",
    )
    found = (
        place
        for name in places
        if (place := subfolder(root, name)) and any(_images(place, recursive=recursive))
    )
    return next(found, None)


def _lr_given(folder: Path, scale: int) -> Path:
    if not folder.is_dir():
        raise PairsError(
            f"no pairs with {shown(folder)}", [f"there is no such folder{_nearest(folder)}"]
        )
    if not any(_images(folder, recursive=False)) and (inner := subfolder(folder, f"X{scale}")):
        return inner
    return folder


def subfolder(root: Path, name: str) -> Path | None:
    """The folder ``name`` below ``root``, whatever the case of its letters."""
    folder = root
    for part in name.split("/"):
        if (exact := folder / part).is_dir():
            folder = exact
            continue
        if not folder.is_dir():
            return None
        alike = [
            path
            for path in folder.iterdir()
            if path.name.casefold() == part.casefold() and path.is_dir()
        ]
        if not alike:
            return None
        folder = min(alike)
    return folder


def _images(folder: Path, *, recursive: bool) -> Iterator[Path]:
    """Files with an image's extension, in no order; a folder is entered once."""
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        state = here.stat()
        if (state.st_dev, state.st_ino) in seen:
            continue
        seen.add((state.st_dev, state.st_ino))
        with os.scandir(here) as entries:
            for entry in entries:
                # Hidden files are other programs' business: macOS writes ._0001.png beside
                # 0001.png.
                if entry.name.startswith("."):
                    continue
                if Path(
                    entry.path
                ).is_dir():  # unlike entry.is_dir(), no error for a link to itself
                    waiting.extend([Path(entry.path)] if recursive else [])
                elif Path(entry.name).suffix.lower() in EXTENSIONS:
                    yield Path(entry.path)


def _by_stem(folder: Path, ending: str, problems: list[str], *, recursive: bool) -> dict[str, Path]:
    """Map names without ``ending`` to files; names that differ in extension only are problems."""
    found: dict[str, list[Path]] = {}
    for path in sorted(_images(folder, recursive=recursive), key=lambda path: natural(str(path))):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem.endswith(ending):
            # The same letters can be encoded in two ways, and archives made on a Mac use the other
            # one.
            found.setdefault(unicodedata.normalize("NFC", stem.removesuffix(ending)), []).append(
                path
            )
    for stem, paths in found.items():
        if len(paths) > 1:
            names = " and ".join(shown(path.name) for path in paths)
            problems.append(
                f"{names} in {shown(folder)} have the same name ({shown(stem)}): keep one of them"
            )
    return {stem: paths[0] for stem, paths in found.items()}


def _match(folders: _Folders, scale: int, *, recursive: bool) -> Pairs:
    problems: list[str] = []
    high = _by_stem(folders.hr, folders.hr_ending, problems, recursive=recursive)
    if not high:
        raise PairsError(f"no pairs in {shown(folders.hr)}", ["it holds no images"])
    partners: Mapping[str, Path | None] = dict.fromkeys(high)
    if folders.lr is not None:
        low = _by_stem(folders.lr, folders.lr_ending, problems, recursive=recursive)
        if not low:
            raise PairsError(
                f"no pairs in {shown(folders.hr)}", [f"{shown(folders.lr)} holds no images"]
            )
        partners = _partners(high, low, scale, folders, problems)
    checked = [
        _check(name, high[name], lr, scale, problems, made=folders.lr is None)
        for name, lr in sorted(partners.items(), key=lambda item: natural(item[0]))
    ]
    pairs = tuple(pair for pair in checked if isinstance(pair, Pair))
    other = [pair for pair in checked if isinstance(pair, int)]
    if other and len(other) == len(checked) and len(set(other)) == 1 and other[0]:
        problems.insert(0, f"every pair fits scale {other[0]}, not {scale}")
    if problems:
        raise PairsError(
            f"{_count(problems)} with the pairs in {shown(folders.hr)} at scale {scale}", problems
        )
    return Pairs(folder=folders.hr, scale=scale, pairs=pairs)


def _partners(
    high: Mapping[str, Path],
    low: Mapping[str, Path],
    scale: int,
    folders: _Folders,
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
    name: str, hr: Path, lr: Path | None, scale: int, problems: list[str], *, made: bool
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


def _single(hr: Path, lr: Path | None, scale: int, *, required: bool) -> Pairs:
    problems: list[str] = []
    if lr is None and required:
        problems.append(
            "low-resolution images are to come from files, and a single image has none: name it "
            "as lr"
        )
    elif lr is not None and not lr.is_file():
        problems.append(f"{shown(lr)} is no file, and one image has one partner")
    pair = 0 if problems else _check(hr.stem, hr, lr, scale, problems, made=lr is None)
    if not isinstance(pair, Pair):
        raise PairsError(f"{shown(hr)} cannot be used at scale {scale}", problems)
    return Pairs(folder=hr.parent, scale=scale, pairs=(pair,))


def _count(problems: Sequence[str]) -> str:
    return "1 problem" if len(problems) == 1 else f"{len(problems)} problems"


def _nearest(path: Path) -> str:
    """A suggestion for a folder that does not exist."""
    parent = path.absolute().parent
    if not parent.is_dir():
        return f", nor is there {shown(parent)}"
    alike = _alike(path.name, (entry.name for entry in parent.iterdir() if entry.is_dir()))
    return f": did you mean {shown(parent / alike)}?" if alike else ""


def _alike(name: str, names: Iterable[str]) -> str | None:
    by_case = {other.casefold(): other for other in names}
    close = get_close_matches(name.casefold(), by_case, n=1)
    return by_case[close[0]] if close else None


def _folder_with_images(source: Path) -> str:
    """A suggestion for a folder without images: the nearest below it that has some."""
    level = [source]
    for _ in range(_SUGGESTION_DEPTH):
        level = [path for folder in level for path in _folders_in(folder)][:_SUGGESTIONS]
        for folder in sorted(level, key=lambda path: _HR_FOLDER.fullmatch(path.name) is None):
            with contextlib.suppress(OSError):
                if any(_images(folder, recursive=False)):
                    return f": did you mean {shown(folder)}?"
    return ""


def _folders_in(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):  # a folder that may not be read is no suggestion
        return sorted(path for path in folder.iterdir() if path.is_dir())
    return []
