"""Names that lead to one place: what is named twice, by whatever spelling or link, is done once."""

from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path

from dukd.core.files import real
from dukd.core.text import shown

_LISTED = 5
"""Names that a sentence lists."""

Repeat = tuple[Path, Path]
"""A name, and the earlier one that leads to the same place."""


def place(path: Path) -> Hashable:
    """What is equal for all names of one file or folder: spellings, links, hard links."""
    try:
        state = path.stat()
    except (OSError, ValueError):
        return str(path.absolute())
    return (state.st_dev, state.st_ino) if state.st_ino else str(real(path))


def entry(path: Path) -> Hashable:
    """What is equal for all spellings of an entry of a folder, and for all links to that folder.

    A link to a file is an entry of its own: a folder may hold one image under two names, each of
    which has a result.
    """
    return place(path.parent), path.name


def once(paths: Iterable[Path]) -> tuple[list[Path], list[Repeat]]:
    """Paths without those that lead where an earlier one does, and these with that earlier one."""
    first: dict[Hashable, Path] = {}
    repeated: list[Repeat] = []
    for path in paths:
        key = place(path)
        if key in first:
            repeated.append((path, first[key]))
        else:
            first[key] = path
    return list(first.values()), repeated


def said_of(repeated: Sequence[Repeat], done: str) -> str:
    """A sentence about names that came again; nothing if none did.

    Example:
        >>> said_of([(Path("b.pth"), Path("a.pth"))], "measured")
        'b.pth is a.pth, and is measured once'
        >>> said_of([(Path("a.pth"), Path("a.pth"))], "measured")
        'a.pth comes twice, and is measured once'
    """
    if not repeated:
        return ""
    phrases = [
        f"{shown(path)} comes twice" if path == before else f"{shown(path)} is {shown(before)}"
        for path, before in repeated[:_LISTED]
    ]
    if (more := len(repeated) - _LISTED) > 0:
        phrases.append(f"{more} more were named before")
    each = "is" if len(repeated) == 1 else "each is"
    return f"{'; '.join(dict.fromkeys(phrases))}, and {each} {done} once"
