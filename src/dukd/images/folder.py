"""What a folder holds: the images that can be read, and a count of all that is passed over."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dukd.images.formats import EXTENSIONS, kind_of


@dataclass(frozen=True)
class Listing:
    """The files of a folder."""

    images: tuple[Path, ...]
    """Files that ``read`` can open by their extension, in no order."""
    passed_over: Mapping[str, int] = field(default_factory=dict[str, int])
    """How many files of each other kind, and how many folders, were left alone."""

    @property
    def sentence(self) -> str:
        """What was passed over, in words; nothing if nothing was."""
        return passed_over(self.passed_over)


def passed_over(counts: Mapping[str, int]) -> str:
    """``passed over: 2 HEIC, 1 folder (--recursive enters it)``; nothing if nothing was."""
    parts = [
        f"{number} {kind}" if kind != "folder" else _folders(number)
        for kind, number in sorted(counts.items())
        if number
    ]
    return f"passed over: {', '.join(parts)}" if parts else ""


def _folders(number: int) -> str:
    if number == 1:
        return "1 folder (--recursive enters it)"
    return f"{number} folders (--recursive enters them)"


def list_images(folder: Path, *, recursive: bool = False) -> Listing:
    """Look through a folder; a folder is entered once, whatever links point to it.

    Hidden files are counted as such: they are other programs' business, as ``._0001.png`` beside
    ``0001.png``.

    Args:
        folder: Where to look.
        recursive: Whether folders below are entered too.

    Raises:
        OSError: If a folder cannot be listed.
    """
    seen: set[tuple[int, int]] = set()
    counts: Counter[str] = Counter()
    images: list[Path] = []
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        state = here.stat()
        if (state.st_dev, state.st_ino) in seen:
            continue
        seen.add((state.st_dev, state.st_ino))
        with os.scandir(here) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.name.startswith("."):
                    counts["hidden"] += 1
                elif path.is_dir():  # unlike entry.is_dir(), no error for a link to itself
                    if recursive:
                        waiting.append(path)
                    else:
                        counts["folder"] += 1
                elif path.suffix.lower() in EXTENSIONS:
                    images.append(path)
                else:
                    counts[kind_of(path)] += 1
    return Listing(tuple(images), dict(counts))
