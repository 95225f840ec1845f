"""Stop whole runs and commands wherever they touch the disk: ``make soak``.

``python tests/soak/soak_runs.py [SHAPE ...] [WAY ...] [--seconds 600] [--out FILE]`` goes on where
the last call stopped; without seconds it goes to the end. Shapes are those of training (plain,
best, cached, parts), ``ranks`` (two processes) and the commands (prepare, cache, upscale, export,
evaluate, report). Ways of stopping:

- ``kill`` and ``power``: one undisturbed pass gives every content that a stop before each of its
  operations leaves on the disk, after a power cut in three ways each; every distinct one is taken
  up again, and the end is compared with that of the undisturbed pass.
- ``ENOSPC``, ``EIO``, ``EACCES`` (training only): each operation fails once, by itself.
- ``SIGKILL`` (training only): a process is killed after a random time, again and again until it is
  through; twenty such runs.

It ends with 1 if anything came out otherwise.
"""

import argparse
import errno
import json
import os
import random
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dukd.runs.checkpoint import CheckpointError
from operations import classes, memory_folder, operations
from tiny_runs import prepare
from two_ranks import train_two
from whole_programs import PROGRAMS, prepared, result
from whole_runs import SHAPES, finish, read, train

FAILURES = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EACCES": errno.EACCES}
WAYS = ("kill", "power", *FAILURES, "SIGKILL")
_CUTS, _RUNS = 3, 20


@dataclass
class Row:
    """What one shape and way of stopping came to."""

    shape: str
    way: str
    operations: int = 0
    trials: int = 0
    """Of how many, once that is known."""
    done: int = 0
    kills: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return self.trials > 0 and self.done == self.trials


Trial = Callable[[], str]
"""Says what came out wrong; nothing if nothing did."""


@dataclass
class Work:
    """Folders, and what an undisturbed pass of a shape gives."""

    folder: Path
    root: Path
    shape: str

    def run(self, place: Path) -> None:
        """Begin, in an empty folder or in what a stop left."""
        if self.shape == "ranks":
            train_two(self.folder, place)
        elif self.shape in SHAPES:
            finish(self.shape, self.folder, place)
        else:
            self._command(place)

    def _command(self, place: Path) -> None:
        prepared(self.shape, self.folder, self.root / "beside")(place)

    def read(self, place: Path) -> dict[str, object]:
        """All that a user reads of it."""
        if self.shape in PROGRAMS:
            return dict(result(place))
        return read(place / "run")

    def differs(self, place: Path, expected: dict[str, object]) -> str:
        """Take up what a stop left, and compare."""
        try:
            self.run(place)
            found = self.read(place)
        except Exception as error:  # noqa: BLE001  counted as what it is
            return f"{type(error).__name__}: {error}"[:300]
        return ", ".join(
            k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k)
        )


def contents(work: Work, row: Row) -> Iterator[Trial]:
    """A trial for each distinct content that a kill or a power cut leaves."""
    whole, copies = work.root / "whole", work.root / "copies"
    whole.mkdir()
    cuts = _CUTS if row.way == "power" else 0
    begin = partial(work.run, whole)
    if work.shape == "ranks":
        begin = partial(train_two, work.folder, whole)
    row.operations, found = classes(
        whole, copies, begin, power_cuts=cuts, every_thread=work.shape in PROGRAMS
    )
    expected = work.read(whole)
    row.trials = len(found)
    for copy in found:
        yield partial(_content, work, copy, expected)


def _content(work: Work, copy: Path, expected: dict[str, object]) -> str:
    wrong = work.differs(copy, expected)
    shutil.rmtree(copy)
    return f"{copy.name}: {wrong}" if wrong else ""


def failures(work: Work, row: Row) -> Iterator[Trial]:
    """A trial for each operation that fails by itself."""
    whole = work.root / "whole"
    whole.mkdir()
    with operations(whole, lambda *_: None) as done:
        train(work.shape, work.folder, whole)
    expected = work.read(whole)
    row.operations = row.trials = done.count
    for at in range(1, done.count + 1):
        yield partial(_failure, work, row.way, at, expected)


def _failure(work: Work, way: str, at: int, expected: dict[str, object]) -> str:
    root = work.root / "trial"
    root.mkdir()

    def before(number: int, what: str) -> None:
        if number == at:
            raise OSError(FAILURES[way], f"{way} by design", what)

    with operations(root, before):
        try:
            train(work.shape, work.folder, root)
            wrong = ", ".join(k for k, v in expected.items() if work.read(root)[k] != v)
        except (OSError, CheckpointError, ValueError):
            wrong = "stopped"
    wrong = work.differs(root, expected) if wrong == "stopped" else wrong
    shutil.rmtree(root)
    return f"operation {at}: {wrong}" if wrong else ""


def kills(work: Work, row: Row) -> Iterator[Trial]:
    """Trials of a process that is killed after random times until it is through."""
    whole = work.root / "whole"
    whole.mkdir()
    begun = time.monotonic()
    _forked(partial(train, work.shape, work.folder, whole), 1e9)
    usual = time.monotonic() - begun
    expected = work.read(whole)
    row.trials = _RUNS
    for number in range(_RUNS):
        yield partial(_killed, work, row, random.Random(number), usual, expected)


def _killed(
    work: Work, row: Row, rng: random.Random, usual: float, expected: dict[str, object]
) -> str:
    root = work.root / "trial"
    root.mkdir()
    while _forked(partial(finish, work.shape, work.folder, root), usual * rng.uniform(0.05, 1)):
        row.kills += 1
    wrong = [key for key, value in expected.items() if work.read(root)[key] != value]
    shutil.rmtree(root)
    return ", ".join(wrong)


def _forked(program: Callable[[], object], seconds: float) -> bool:
    """Run in a process of its own; whether it had to be killed.

    Raises:
        RuntimeError: If it fails.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            program()
            code = 0
        finally:
            os._exit(code)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            if status:
                raise RuntimeError(f"a run ended with {os.waitstatus_to_exitcode(status)}")
            return False
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True


def rows(words: list[str]) -> list[Row]:
    """What is to be done, in order."""
    shapes = [w for w in words if w not in WAYS] or [*SHAPES, *PROGRAMS, "ranks"]
    ways = [w for w in words if w in WAYS] or list(WAYS)
    return [
        Row(shape, way)
        for way in ways
        for shape in shapes
        if way in ("kill", "power") or shape in SHAPES
    ]


def soak(row: Row, folder: Path, until: float, save: Callable[[], object]) -> None:
    """Go on with a row until it is through, or the time is."""
    trials = {"kill": contents, "power": contents, "SIGKILL": kills}.get(row.way, failures)
    skip, begun, saved = row.done, time.monotonic(), time.monotonic()
    with memory_folder() as name:
        for number, trial in enumerate(trials(Work(folder, name, row.shape), row)):
            if number < skip:
                continue
            if time.monotonic() > until:
                break
            if wrong := trial():
                row.wrong.append(wrong)
                print(f"    {row.shape}, {row.way}: {wrong}", flush=True)
            row.done += 1
            rate = (time.monotonic() - begun) / (row.done - skip)
            left = rate * (row.trials - row.done) / 60
            text = f"\r{row.shape}, {row.way}: {row.done}/{row.trials}, {left:.0f} min left  "
            print(text, end="", file=sys.stderr, flush=True)
            if time.monotonic() - saved > 10:
                save()
                saved = time.monotonic()
    row.seconds = round(row.seconds + time.monotonic() - begun, 1)
    print(file=sys.stderr)


def table(found: list[Row]) -> str:
    """The rows that were begun."""
    lines = ["| run | stopped by | operations | trials | of | wrong |"]
    lines.append("| :-- | :-- | --: | --: | --: | --: |")
    for row in found:
        if row.done:
            what = f"{row.way}, {row.kills} kills" if row.kills else row.way
            counts = (row.operations or "", row.done, row.trials, len(row.wrong))
            lines.append(f"| {row.shape} | {what} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


def main() -> int:
    """Read the options, go on, print the table."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="shapes and ways; all if left out")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--out", type=Path, default=Path("soak.json"), help="what was done so far")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    until = time.monotonic() + options.seconds
    before = json.loads(options.out.read_text()) if options.out.exists() else []
    known = {(r["shape"], r["way"]): Row(**r) for r in before}
    chosen = [known.setdefault((r.shape, r.way), r) for r in rows(options.words)]

    def save() -> None:
        options.out.write_text(json.dumps([asdict(row) for row in known.values()], indent=1))

    with memory_folder() as name:
        folder = prepare(name / "data")
        (name / "first").mkdir()
        train("plain", folder, name / "first")  # which makes the pack
        for row in chosen:
            if not row.complete and time.monotonic() < until:
                soak(row, folder, until, save)
                save()
    print(table(list(known.values())))
    return int(any(row.wrong for row in known.values()))


if __name__ == "__main__":
    sys.exit(main())
