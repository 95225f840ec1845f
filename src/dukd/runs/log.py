"""The log of a run: one JSON object per line, append only; each line ends with its CRC-32."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from dukd.core import files
from dukd.runs.checkpoint import CheckpointError
from dukd.runs.signed import read_with_crc, with_crc


def append(path: Path, record: Mapping[str, object]) -> None:
    """Append a line; it reaches the system now, the disk when the file is synced.

    A line that a kill or a full disk left unfinished is cut off first. Numbers that JSON does not
    know are written as the strings ``"inf"``, ``"-inf"`` and ``"nan"``, which ``float`` reads.

    Raises:
        OSError: If it cannot be written.
    """
    with path.open("a+b") as file:
        end = file.seek(0, 2)
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":
                file.truncate(_whole_lines(path.read_bytes()))
        file.write(with_crc(record))


class Lines(NamedTuple):
    """What a log holds."""

    records: list[dict[str, object]]
    problems: list[str]
    """A sentence for each line that is damaged or was altered."""


def read(path: Path) -> Lines:
    """Read every line of a log; an unfinished last one is left out."""
    content = path.read_bytes() if path.exists() else b""
    found = Lines([], [])
    for number, line in enumerate(content[: _whole_lines(content)].split(b"\n")[:-1], 1):
        try:
            found.records.append(read_with_crc(line))
        except (ValueError, RecursionError) as error:
            found.problems.append(
                f"{path}, line {number}, is damaged or was altered ({error}): delete that line, or "
                "have `dukd train RUN --resume` take it out"
            )
    return found


def records(path: Path) -> list[dict[str, object]]:
    """Every line of a log.

    Raises:
        CheckpointError: If one was altered.
    """
    found = read(path)
    if found.problems:
        raise CheckpointError(found.problems[0])
    return found.records


def truncate(path: Path, step: int) -> list[str]:
    """Take the lines after ``step`` out, since a resumed run writes them again.

    Lines that were altered go with them.

    Returns:
        A sentence for each of those.
    """
    found = read(path)
    kept = [r for r in found.records if not (isinstance(at := r.get("step"), int) and at > step)]
    content = b"".join(map(with_crc, kept))
    if path.exists() and path.read_bytes() != content:
        files.write_bytes(path, content)
    return [problem.split(": delete")[0] + ": it was taken out" for problem in found.problems]


def _whole_lines(content: bytes) -> int:
    return content.rfind(b"\n") + 1
