"""Every operation of whole runs, not only the distinct ones: ``make soak``, some forty minutes.

``python tests/soak/soak_runs.py [SHAPE ...] [WAY ...]`` prints a row per shape (plain, best,
cached, parts) and way of stopping (kill, ENOSPC, EIO, EACCES); it ends with 1 if any run came out
otherwise than one that never stopped.
"""

import errno
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dukd.runs.checkpoint import CheckpointError
from operations import Killed, operations
from tiny_runs import prepare
from whole_runs import SHAPES, finish, read, train

FAILURES = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EACCES": errno.EACCES}


def stops(how: str, at: int) -> Callable[[int, str], None]:
    """What happens at an operation: a kill, or a failure of this operation alone."""

    def before(number: int, what: str) -> None:
        if number == at and how == "kill":
            raise Killed
        if number == at:
            raise OSError(FAILURES[how], f"{how} by design", what)

    return before


def count(shape: str, folder: Path, root: Path) -> tuple[int, dict[str, object]]:
    """The operations of an undisturbed run, and what a user reads of it."""
    root.mkdir()
    with operations(root, lambda *_: None) as done:
        train(shape, folder, root)
    return done.count, read(root / "run")


def wrong(shape: str, folder: Path, work: Path, how: str) -> Iterator[tuple[int, str]]:
    """Operations after which a resumed run differs, and in what."""
    points, expected = count(shape, folder, work / "whole")
    for at in range(1, points + 1):
        root = work / "trial"
        root.mkdir()
        ended = False
        with operations(root, stops(how, at)):
            try:
                train(shape, folder, root)
                ended = True
            except (Killed, OSError, CheckpointError, ValueError):
                pass
        try:
            if not ended:
                finish(shape, folder, root)
            found = read(root / "run")
        except Exception as error:  # noqa: BLE001  counted as what it is
            yield at, f"{type(error).__name__}: {error}"
        else:
            if differs := [key for key, value in expected.items() if found[key] != value]:
                yield at, ", ".join(differs)
        shutil.rmtree(root)
    print(f"| {shape} | {how} | {points} |", end=" ", flush=True)
    shutil.rmtree(work / "whole")


def main(words: list[str]) -> int:
    """Print the table."""
    ways = ("kill", *FAILURES)
    shapes = [word for word in words if word in SHAPES] or list(SHAPES)
    chosen = [word for word in words if word in ways] or list(ways)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    bad = 0
    print("| run | stopped by | operations | wrong after the resume |\n| :-- | :-- | --: | --: |")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        folder = prepare(work / "data")
        (work / "first").mkdir()
        train("plain", folder, work / "first")  # which makes the pack
        for shape in shapes:
            for how in chosen:
                found = list(wrong(shape, folder, work, how))
                print(f"{len(found)} |", flush=True)
                bad += len(found)
                for at, what in found:
                    print(f"    {shape}, {how} at operation {at}: {what}", file=sys.stderr)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
