"""Find low- and high-resolution images that belong together, and check them before training.

Every layout the field uses is recognized; only headers are read; all problems are reported at once.
"""

import os
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dukd.core.files import Progress, silent
from dukd.core.text import shown
from dukd.data.layouts import Folders, locate, lr_given, nothing_at
from dukd.data.matching import count, match, single
from dukd.data.names import size
from dukd.data.pair import MADE, Pair, Pairs, PairsError
from dukd.images import ImageError, read_rgb8

__all__ = [
    "MADE",
    "Pair",
    "Pairs",
    "PairsError",
    "check_readable",
    "find_pairs",
    "join",
    "load",
    "unreadable",
]


def find_pairs(
    source: Path | str,
    *,
    scale: int,
    lr: Path | str | None = None,
    lr_from_hr: bool | None = None,
    recursive: bool = False,
    skip_bad: bool = False,
) -> Pairs:
    """Find the pairs below ``source`` and check them by their headers.

    Recognized are, with ``4`` for the scale: ``DIV2K_train_HR`` beside
    ``DIV2K_train_LR_bicubic/X4``; ``HR`` beside ``LR_bicubic/X4``; ``GTmod12`` beside ``LRbicx4``;
    ``image_SRF_4``; sub-images in ``..._HR_sub`` beside ``X4_sub``; both kinds in one folder, as
    ``a_HR.png`` and ``a_LR4.png``; any two folders, given as ``source`` and ``lr``; a folder of
    images; one image. A low-resolution file has the name of its partner, or that name followed by
    ``x4``.

    Args:
        source: The folder of a data set, its folder of high-resolution images, or one image.
        scale: Upscaling factor, at least 1.
        lr: Folder (or file) of the low-resolution images, where it stands in no place listed above.
        lr_from_hr: True makes low-resolution images even where there are files; False insists on
            files; None takes files where the layout has them.
        recursive: Whether folders below the one with the images are searched as well; links are not
            followed twice.
        skip_bad: Whether images with a problem are left out, and listed in the result, where others
            are left.

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
        return single(source, None if lr is None else Path(lr), scale, required=lr_from_hr is False)
    if not source.is_dir():
        raise PairsError(f"no pairs in {shown(source)}", [nothing_at(source)])
    folders = _folders(source, scale, lr=lr, lr_from_hr=lr_from_hr, recursive=recursive)
    return match(folders, scale, recursive=recursive, skip_bad=skip_bad)


def _folders(
    source: Path, scale: int, *, lr: Path | str | None, lr_from_hr: bool | None, recursive: bool
) -> Folders:
    """Where the images lie, as the layout and the arguments say."""
    folders = locate(source, scale, recursive=recursive)
    if lr is not None:
        folders = replace(folders, lr=lr_given(Path(lr), scale))
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
    return folders


def load(pair: Pair) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read a pair; the high-resolution image is cropped at the bottom and right to the scale.

    Returns:
        ``lr`` ``(h, w, 3)`` and ``hr`` ``(h * scale, w * scale, 3)``, both contiguous.

    Raises:
        PairsError: If a file has another size than its header had.
        ImageError: If a file cannot be read.
    """
    h, w, scale = pair.height, pair.width, pair.scale
    whole = read_rgb8(pair.hr)
    hr = np.ascontiguousarray(whole[: h * scale, : w * scale])
    lr = _made(pair, hr) if pair.lr is None else read_rgb8(pair.lr)
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


def _made(pair: Pair, hr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rng = np.random.default_rng(zlib.crc32(pair.name.encode("utf-8", "surrogateescape")))
    return pair.degradation.apply(hr, pair.scale, rng)


def unreadable(pairs: Pairs, progress: Progress = silent) -> list[str]:
    """Read every pixel of every pair; a sentence for each that cannot be read."""
    problems: list[str] = []
    for done, pair in enumerate(pairs, start=1):
        try:
            load(pair)
        except (ImageError, PairsError) as error:
            problems.append(str(error))
        except MemoryError:
            problems.append(f"{shown(pair.hr)}: memory does not suffice for it")
        progress(done, len(pairs), pair.name)
    return problems


def check_readable(
    pairs: Pairs, progress: Progress = silent, *, headers_only: bool = False
) -> None:
    """Read every pixel, and list all that is wrong: with names, headers and pixels, at once.

    Args:
        pairs: As ``find_pairs`` gives them with ``skip_bad``.
        progress: Called after each image, with its name.
        headers_only: Whether pixels are left alone.

    Raises:
        PairsError: If anything is wrong.
    """
    problems = [*pairs.left_out, *([] if headers_only else unreadable(pairs, progress))]
    if problems:
        heading = (
            f"{count(problems)} with the pairs in {shown(pairs.folder)} at scale {pairs.scale}"
        )
        advice = (
            "replace or delete what cannot be used, or go on without it (dukd prepare --skip-bad); "
            "dukd check-data lists it again"
        )
        raise PairsError(heading, [*problems, advice])


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
    assumed = tuple(dict.fromkeys(note for pairs in sets for note in pairs.assumed))
    return Pairs(folder=folder, scale=scales.pop(), pairs=joined, assumed=assumed)
