"""Names of results: no two are the same, also where a file system ignores case."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_LONGEST_NAME = 255  # bytes of a file name on common file systems


@dataclass(frozen=True)
class Wanted:
    """A result whose name is wanted."""

    source: Path
    folder: Path
    """Where the result goes."""
    ending: str
    """What follows the stem: ``_x4.png``."""


def distinct(results: Iterable[Wanted]) -> dict[Path, Path]:
    """Name every result after its source.

    ``a.png`` becomes ``a_x4.png``. Where two sources would get one name, as ``a.gif`` and
    ``a.png``, both keep their old extension in it: ``a.gif_x4.png``, ``a.png_x4.png``. If that is
    not enough, as for ``IMG.png`` and ``img.png``, the later ones are numbered: ``img~2_x4.png``.

    Returns:
        The file of each source, in the same order.
    """
    results = list(results)
    sharing: dict[str, set[str]] = {}  # by the plain name of a result, the extensions of its inputs
    for one in results:
        sharing.setdefault(_plain(one), set()).add(one.source.suffix.lower())
    named: dict[Path, Path] = {}
    taken: set[str] = set()
    for one in results:
        stem = one.source.name if len(sharing[_plain(one)]) > 1 else one.source.stem
        path, number = one.folder / _name(stem, 1, one.ending), 1
        while _key(path) in taken:
            number += 1
            path = path.with_name(_name(stem, number, one.ending))
        taken.add(_key(path))
        named[one.source] = path
    return named


def _plain(one: Wanted) -> str:
    return _key(one.folder / (one.source.stem + one.ending))


def _key(path: Path) -> str:
    return str(path).casefold()


def _name(stem: str, number: int, ending: str) -> str:
    """A file name of at most 255 bytes; a shortened one carries a mark of what was cut."""
    mark = f"~{number}" if number > 1 else ""
    if len(os.fsencode(stem + mark + ending)) <= _LONGEST_NAME:
        return stem + mark + ending
    mark = "~" + hashlib.sha256(os.fsencode(stem)).hexdigest()[:8] + mark
    room = _LONGEST_NAME - len(os.fsencode(mark + ending))
    return os.fsencode(stem)[:room].decode(errors="ignore") + mark + ending
