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
  through; ``--runs`` such runs. Of two ranks one or the other is killed, or both.

It ends with 1 if anything came out otherwise.
"""

import argparse
import errno
import itertools
import json
import os
import random
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dukd.networks import CompactConfig
from dukd.networks.base import NetworkConfig
from dukd.runs.checkpoint import CheckpointError
from operations import classes, memory_folder, operations
from tiny_runs import STUDENT, prepare
from two_ranks import train_two
from whole_programs import PROGRAMS, prepared, result
from whole_runs import SHAPES, finish, read, train

FAILURES = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EACCES": errno.EACCES}
WAYS = ("kill", "power", *FAILURES, "SIGKILL")
_CUTS = 3
_FEW = CompactConfig(scale=2, width=4, blocks=1)
"""A checkpoint has some five operations for each tensor, times five."""
_PATIENCE = 60.0
"""Seconds within which the ranks that were left alone have to end."""


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
    student: NetworkConfig = STUDENT

    def run(self, place: Path) -> None:
        """Begin, in an empty folder or in what a stop left."""
        if self.shape == "ranks":
            train_two(self.folder, place, self.student)
        elif self.shape in SHAPES:
            finish(self.shape, self.folder, place, self.student)
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
        return difference(expected, found)


def difference(expected: dict[str, object], found: dict[str, object]) -> str:
    """What differs; of lists, such as the log, the first items that do."""
    said: list[str] = []
    for key in sorted(expected.keys() | found.keys()):
        was, is_now = expected.get(key), found.get(key)
        if was == is_now:
            continue
        if isinstance(was, list) and isinstance(is_now, list):
            pairs = itertools.zip_longest(was, is_now)
            first = next(f": {a} is now {b}" for a, b in pairs if a != b)[:400]
            said.append(f"{key} ({len(was)} items, now {len(is_now)}){first}")
        else:
            said.append(key)
    return "; ".join(said)


def contents(work: Work, row: Row) -> Iterator[Trial]:
    """A trial for each distinct content that a kill or a power cut leaves."""
    whole, copies = work.root / "whole", work.root / "copies"
    whole.mkdir()
    cuts = _CUTS if row.way == "power" else 0
    row.operations, found = classes(
        whole,
        copies,
        partial(work.run, whole),
        power_cuts=cuts,
        every_thread=work.shape in PROGRAMS,
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
    """A trial for each operation that fails by itself, with a network of few tensors."""
    work = replace(work, student=_FEW)
    whole = work.root / "whole"
    whole.mkdir()
    with operations(whole, lambda *_: None) as done:
        work.run(whole)
    expected = work.read(whole)
    row.operations = row.trials = done.count
    for at in range(1, done.count + 1):
        trial = partial(_failure, work, row.way, at, expected)
        yield partial(_apart, trial) if work.shape == "ranks" else trial


def _apart(trial: Trial) -> str:
    """Try in a process of its own, whose threads and sockets end with it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        with os.fdopen(writing, "w") as said:
            said.write(_outcome(trial))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        text = said.read()
    _, status = os.waitpid(pid, 0)
    return text if not status else f"ended with {os.waitstatus_to_exitcode(status)}"


def _failure(work: Work, way: str, at: int, expected: dict[str, object]) -> str:
    root = work.root / "trial"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()

    def before(number: int, what: str) -> None:
        if number == at:
            raise OSError(FAILURES[way], f"{way} by design", what)

    with operations(root, before):
        try:
            work.run(root)
            ended = "finished"
        except (OSError, CheckpointError, ValueError) as error:
            ended = f"{type(error).__name__}: {error}"[:200]
    if ended == "finished":
        wrong = difference(expected, work.read(root))
    else:
        wrong = work.differs(root, expected)
    return f"operation {at} ({ended}): {wrong}" if wrong else ""


def kills(work: Work, row: Row, runs: int) -> Iterator[Trial]:
    """Trials of a process that is killed after random times until it is through."""
    whole = work.root / "whole"
    whole.mkdir()
    begun = time.monotonic()
    _forked(partial(work.run, whole), 1e9, random.Random(0))
    usual = time.monotonic() - begun
    expected = work.read(whole)
    row.trials = runs
    for number in range(runs):
        yield partial(_killed, work, row, random.Random(number), usual, expected)


def _killed(
    work: Work, row: Row, rng: random.Random, usual: float, expected: dict[str, object]
) -> str:
    root = work.root / "trial"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    while _forked(partial(work.run, root), usual * rng.uniform(0.05, 1), rng):
        row.kills += 1
    return difference(expected, work.read(root))


def _forked(program: Callable[[], object], seconds: float, rng: random.Random) -> bool:
    """Run in a process of its own; whether it, or a process that it began, was killed.

    Raises:
        RuntimeError: If it fails, or if something is left running.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()
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
    everyone = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    for one in rng.choice([everyone, *([one] for one in everyone)]):
        os.kill(one, signal.SIGKILL)
    _wait_for(pid, everyone)
    return True


def _wait_for(pid: int, everyone: list[int]) -> None:
    """Wait until a child and its own children have ended.

    Raises:
        RuntimeError: If one has not after a minute.
    """
    end = time.monotonic() + _PATIENCE
    ended = False
    while time.monotonic() < end:
        ended = ended or os.waitpid(pid, os.WNOHANG)[0] == pid
        if ended and not any(_lives(one) for one in everyone):
            return
        time.sleep(0.005)
    for one in everyone:
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    if not ended:
        os.waitpid(pid, 0)
    raise RuntimeError("a rank that was left alone did not end")


def _lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


def rows(words: list[str]) -> list[Row]:
    """What is to be done, in order."""
    shapes = [w for w in words if w not in WAYS] or [*SHAPES, *PROGRAMS, "ranks"]
    ways = [w for w in words if w in WAYS] or list(WAYS)
    return [
        Row(shape, way)
        for way in ways
        for shape in shapes
        if way in ("kill", "power") or shape not in PROGRAMS
    ]


def soak(row: Row, folder: Path, runs: int, until: float, save: Callable[[], object]) -> None:
    """Go on with a row until it is through, or the time is."""
    ways = {"kill": contents, "power": contents, "SIGKILL": partial(kills, runs=runs)}
    trials = ways.get(row.way, failures)
    skip, begun, saved = row.done, time.monotonic(), time.monotonic()
    before = row.seconds
    with memory_folder() as name:
        for number, trial in enumerate(trials(Work(folder, name, row.shape), row)):
            if number < skip:
                continue
            if time.monotonic() > until:
                break
            if wrong := _outcome(trial):
                row.wrong.append(wrong)
                print(f"    {row.shape}, {row.way}: {wrong}", flush=True)
            row.done += 1
            row.seconds = round(before + time.monotonic() - begun, 1)
            rate = (time.monotonic() - begun) / (row.done - skip)
            left = rate * (row.trials - row.done) / 60
            text = f"\r{row.shape}, {row.way}: {row.done}/{row.trials}, {left:.0f} min left  "
            print(text, end="", file=sys.stderr, flush=True)
            if time.monotonic() - saved > 10:
                save()
                saved = time.monotonic()
    print(file=sys.stderr)


def _outcome(trial: Trial) -> str:
    """What came out wrong; an exception that nobody expected is that as well."""
    try:
        return trial()
    except Exception as error:  # noqa: BLE001  counted as what it is
        return f"{type(error).__name__}: {error}"[:300]


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
    parser.add_argument("--runs", type=int, default=20, help="runs that are killed, of a shape")
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
            if row.way == "SIGKILL":
                row.trials = options.runs
            if not row.complete and time.monotonic() < until:
                soak(row, folder, options.runs, until, save)
                save()
    print(table(list(known.values())))
    return int(any(row.wrong for row in known.values()))


if __name__ == "__main__":
    sys.exit(main())
