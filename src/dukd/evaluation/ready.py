"""Outputs that another program has made: a folder of images, one for each image of a set."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from dukd import images
from dukd.core.text import shown
from dukd.evaluation.output import Pixels


def find(folder: Path, names: Collection[str], scale: int) -> dict[str, Path]:
    """For each image of a set the output that was made for it.

    It is called as the image, or ``NAME_...`` or ``NAMEx4``. A file belongs to the longest name it
    begins with, so ``img_2_SR`` is not an output for ``img``.

    Args:
        folder: The outputs.
        names: Of the set's images.
        scale: Upscaling factor.

    Raises:
        ValueError: If there is no such folder, or an image has none or several outputs; all are
            named.
    """
    if not folder.is_dir():
        raise ValueError(f"{shown(folder)}: there is no such folder of ready images")
    owners: dict[str, list[Path]] = {}
    ends = ("_", f"x{scale}")
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in images.EXTENSIONS:
            fitting = [name for name in names if _fits(path.stem, name, ends)]
            if fitting:
                owners.setdefault(max(fitting, key=len), []).append(path)
    if not owners:
        raise ValueError(
            f"{shown(folder)} is not a run, so its images stand for outputs of another program: "
            f"{_problems(owners, names)[0]}"
        )
    problems = _problems(owners, names)
    if problems:
        raise ValueError(f"{shown(folder)}: {'; '.join(problems)}")
    return {name: owners[name][0] for name in names}


def _fits(stem: str, name: str, ends: Sequence[str]) -> bool:
    return stem == name or stem.startswith(tuple(name + end for end in ends))


def _problems(owners: Mapping[str, Sequence[Path]], names: Collection[str]) -> list[str]:
    missing = [name for name in names if name not in owners]
    several = {name: paths for name, paths in owners.items() if len(paths) > 1}
    found = [f"no output is called NAME or NAME_... for {', '.join(missing)}"] if missing else []
    return found + [
        f"{name} has {len(paths)} outputs: {', '.join(path.name for path in paths)}"
        for name, paths in several.items()
    ]


def read(path: Path, height: int, width: int) -> Pixels:
    """Read an output.

    Returns:
        ``(height, width, 3)``, 8 bits.

    Raises:
        ValueError: If it is of another size, or cannot be read.
    """
    pixels = images.read_rgb8(path)
    if pixels.shape[:2] != (height, width):
        found = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise ValueError(f"{shown(path)}: {found} pixels, but {width} x {height} are expected")
    return pixels
