"""Sets of images that networks are measured on: pairs, or inputs without a ground truth.

Everything that is wrong with a set is found before the first image is measured, and listed; the
other images are measured.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from dukd import images
from dukd.core.once import place
from dukd.core.text import shown
from dukd.data.matching import Noted, assumptions
from dukd.data.names import natural
from dukd.data.pairs import Pair, Pairs, PairsError, find_pairs, load
from dukd.evaluation.output import Pixels
from dukd.images.degrade import Bicubic

T = TypeVar("T")


@dataclass(frozen=True)
class Inputs:
    """A folder of low-resolution images that have no ground truth."""

    folder: Path
    """Where they are; folders below it are not searched."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image of a set."""

    name: str
    """Unique in its set."""
    pair: Pair | None = None
    """Its files, where there is a ground truth."""
    lr: Path | None = None
    """Its file, where there is none."""

    def load(self) -> tuple[Pixels, Pixels | None]:
        """Read ``lr`` ``(h, w, 3)`` and ``hr`` ``(h * scale, w * scale, 3)``, 8 bits.

        Raises:
            ValueError: If a file cannot be read, or has changed since it was found.
        """
        if self.pair is not None:
            return load(self.pair)
        assert self.lr is not None
        return images.read_rgb8(self.lr), None

    def check(self, scale: int, least: int) -> None:
        """Read what will be read, and see that it is large enough.

        Args:
            scale: Upscaling factor.
            least: Rows and columns that an output needs.

        Raises:
            ValueError: If not; the message names the file.
        """
        if self.pair is None:
            assert self.lr is not None
            height, width = images.read_rgb8(self.lr).shape[:2]
        else:
            images.read_rgb8(self.pair.hr)
            if self.pair.lr is not None:
                images.read_rgb8(self.pair.lr)
            height, width = self.pair.height, self.pair.width
        if min(height, width) * scale < least:
            path = self.lr if self.pair is None else self.pair.hr
            size = f"{width * scale} x {height * scale}"
            raise ValueError(
                f"{shown(path or self.name)} is too small: {size} pixels, where the border and the "
                f"metrics need {least} x {least}"
            )


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Images that are measured together."""

    scale: int
    """Upscaling factor."""
    samples: tuple[Sample, ...]
    """The images."""
    truth: bool = True
    """Whether there is a ground truth."""
    left_out: tuple[str, ...] = ()
    """Why images of the folder are not among them, a sentence each."""
    assumed: tuple[str, ...] = ()
    """What had to be assumed of images, a sentence each."""


NamedSet = Pairs | Inputs | Path | str
"""What stands for a set: a folder in any layout the field uses, its pairs, or inputs alone."""


def open_set(what: NamedSet, scale: int, count: int = 0) -> ImageSet:
    """Find the images of a set.

    Args:
        what: Where they are.
        scale: Upscaling factor.
        count: How many are used, evenly spaced; 0 for all.

    Raises:
        PairsError: If there is none, or no two files belong together.
    """
    if isinstance(what, Inputs):
        found = sorted(_files(what.folder), key=lambda path: natural(path.name))
        if not found:
            raise PairsError(f"no inputs in {shown(what.folder)}", ["it holds no images"])
        chosen = some(found, count)
        samples = tuple(Sample(name=path.stem, lr=path) for path in chosen)
        notes = assumed_of(chosen)
        return ImageSet(scale=scale, samples=samples, truth=False, assumed=notes)
    if isinstance(what, Pairs):
        pairs = what
    else:
        pairs = find_pairs(what, scale=scale, skip_bad=True).restored_from(Bicubic())
    samples = tuple(Sample(name=pair.name, pair=pair) for pair in some(pairs, count))
    return ImageSet(
        scale=pairs.scale, samples=samples, left_out=pairs.left_out, assumed=pairs.assumed
    )


def assumed_of(paths: Iterable[Path]) -> tuple[str, ...]:
    """What is assumed in reading files, a sentence each; those that cannot be read say nothing."""
    notes: list[Noted] = []
    for path in paths:
        with suppress(images.ImageError):
            notes += [(path, note)] if (note := images.header(path).note) else []
    return assumptions(notes)


def _files(folder: Path) -> Iterable[Path]:
    try:
        return [path for path in folder.iterdir() if path.suffix.lower() in images.EXTENSIONS]
    except OSError as error:
        raise PairsError(f"no inputs in {shown(folder)}", [f"{error.strerror or error}"]) from error


def usable(sets: Mapping[str, ImageSet], least: int) -> tuple[dict[str, ImageSet], list[str]]:
    """Leave out what cannot be read or is too small to be measured.

    Args:
        sets: By name.
        least: Rows and columns that an output needs.

    Returns:
        The sets with what remains, and a sentence for each image that does not.
    """
    found: dict[str, ImageSet] = {}
    problems: list[str] = []
    for name, whole in sets.items():
        problems += [f"{name}: {reason}" for reason in whole.left_out]
        good: list[Sample] = []
        for sample in whole.samples:
            try:
                sample.check(whole.scale, least)
            except (ValueError, OSError) as error:
                problems.append(f"{name}: {shown(str(error))}")
            else:
                good.append(sample)
        if not whole.samples:
            problems.append(f"{name}: it holds no images")
        if good:
            found[name] = replace(whole, samples=tuple(good))
    return found, problems


def by_name(paths: Iterable[Path]) -> dict[str, Path]:
    """Folders by the names of their sets.

    Raises:
        ValueError: If two sets have the same name.
    """
    found: dict[str, Path] = {}
    for path in paths:
        name = set_name(path)
        if name in found and place(path) == place(found[name]):
            raise ValueError(f"the set {name} is named twice, as {shown(path)}: leave one out")
        if name in found:
            raise ValueError(
                f"two sets are called {name}: {shown(path)} and {shown(found[name])}; rename one "
                "folder"
            )
        found[name] = path
    return found


def open_sets(paths: Sequence[Path], scale: int, count: int = 0) -> dict[str, Pairs]:
    """Find sets of pairs, by name; every image has to be sound.

    Args:
        paths: Folders, in any layout the field uses.
        scale: Upscaling factor.
        count: How many are used of each set, evenly spaced; 0 for all.

    Raises:
        ValueError: If a folder holds no pairs, or two sets have the same name; what is wrong with
            all folders is listed.
    """
    found: dict[str, Pairs] = {}
    errors: list[PairsError] = []
    for name, path in by_name(paths).items():
        try:
            pairs = find_pairs(path, scale=scale)
        except PairsError as error:
            errors.append(error)
            continue
        found[name] = replace(pairs, pairs=tuple(some(pairs, count)))
    if len(errors) == 1:
        raise errors[0]
    if errors:
        problems = [line for error in errors for line in (error.heading, *error.problems)]
        raise PairsError(f"{len(errors)} sets cannot be used", problems)
    return found


def set_name(path: Path) -> str:
    """Name of the set in a folder: the folder's, or that of the one around ``HR``.

    A link keeps its own name.
    """
    path = Path(os.path.normpath(path.absolute()))
    return path.parent.name if path.name.upper() in {"HR", "GTMOD12"} else path.name


def some(items: Sequence[T], count: int) -> Sequence[T]:
    """``count`` of the items, evenly spaced; all of them for 0."""
    if not count or count >= len(items):
        return items
    return [items[i * len(items) // count] for i in range(count)]
