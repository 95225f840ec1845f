"""The run directory: what belongs to one training run, its checkpoints, its log, and a lock.

Everything needed to go on is in one checkpoint, so there is one instant at which a step counts as
saved.
"""

import errno
import json
import os
import re
import socket
import warnings
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, cast

from dukd.core import files
from dukd.core.text import strict
from dukd.runs import checkpoint
from dukd.runs.checkpoint import CheckpointError

FORMAT = 1
"""Version of a run's checkpoints; one of a later version is refused."""

_NAME = re.compile(r"(\d{8,})\.pt")


class Loaded(NamedTuple):
    """What a run goes on from."""

    step: int
    """Optimizer steps done."""
    state: dict[str, object]
    """As it was given to ``Run.save_state``."""
    reports: list[str]
    """One sentence for every newer checkpoint that could not be used."""


class Run:
    """A run directory (``docs/architecture.md``); made by ``create`` or ``open``."""

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)
        self._damaged: set[int] = set()
        self._known_best: tuple[int | None] | None = None

    @property
    def experiment(self) -> Path:
        """The resolved experiment."""
        return self.directory / "experiment.yaml"

    @property
    def facts(self) -> Path:
        """Versions, command, seed, digests."""
        return self.directory / "run.json"

    @property
    def log_file(self) -> Path:
        """What happened, one JSON object per line."""
        return self.directory / "log.jsonl"

    @property
    def student(self) -> Path:
        """The averaged student of the last save."""
        return self.directory / "student.safetensors"

    @property
    def best_student(self) -> Path:
        """The averaged student of the best validation."""
        return self.directory / "best.safetensors"

    @property
    def _states(self) -> Path:
        return self.directory / "state"

    @classmethod
    def create(cls, directory: Path, *, experiment_yaml: str, facts: Mapping[str, object]) -> "Run":
        """Begin a run in a new or empty directory.

        Raises:
            CheckpointError: If something is in the directory already, or if it cannot be written.
        """
        run = cls(directory)
        try:
            run.directory.mkdir(parents=True, exist_ok=True)
            used = sorted(
                entry.name
                for entry in run.directory.iterdir()
                if entry.name != "lock" and not _stray(entry)
            )
            if used:
                names = ", ".join(used[:3]) + (", …" if len(used) > 3 else "")
                how = "--resume goes on with it, or choose another name"
                if not run.experiment.exists():
                    how = "it holds no run: choose another name"
                elif not run.steps():
                    how = "nothing is saved there yet: delete it, or choose another name"
                raise CheckpointError(f"{run.directory} is used already ({names}): {how}")
            files.write_text(run.experiment, experiment_yaml)
            files.write_text(
                run.facts, json.dumps(strict(facts), indent=2, ensure_ascii=False) + "\n"
            )
            run._states.mkdir(exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"cannot write to the run directory {run.directory}: {error.strerror}"
            ) from error
        return run

    @classmethod
    def open(cls, directory: Path) -> "Run":
        """Open a run that was begun before; nothing is written.

        Raises:
            CheckpointError: If there is none.
        """
        run = cls(directory)
        if not run.experiment.is_file():
            raise CheckpointError(f"{run.directory} holds no run: it has no {run.experiment.name}")
        return run

    @contextmanager
    def lock(self) -> Generator[None, None, None]:
        """Keep other processes out, and clear away what a killed one left half written.

        The kernel frees the lock when the process ends, however it ends. Where there is no
        ``flock`` (Windows, some network file systems) the run goes on without a lock, with a
        warning.

        Raises:
            CheckpointError: If another process holds the lock; the message names it.
        """
        with (self.directory / "lock").open("a+", encoding="utf-8") as file, ExitStack() as stack:
            try:
                held = stack.enter_context(files.lock(file, wait=False))
            except BlockingIOError:
                file.seek(0)
                holder = file.read(500).strip() or "another process"
                raise CheckpointError(
                    f"{self.directory} is in use by {holder}: wait for it, or choose another name"
                ) from None
            if not held:
                text = (
                    f"{self.directory} is not locked, as this system cannot: run one process in it"
                )
                warnings.warn(text, RuntimeWarning, stacklevel=3)
            file.truncate(0)
            since = datetime.now(UTC).astimezone().isoformat(sep=" ", timespec="seconds")
            file.write(f"pid {os.getpid()} on host {socket.gethostname()} since {since}\n")
            file.flush()
            self._clear()
            try:
                yield
            finally:
                file.truncate(0)  # the file stays, since deleting it would race

    def _clear(self) -> None:
        for folder in (self.directory, self._states):
            for entry in folder.iterdir() if folder.is_dir() else ():
                if _stray(entry):
                    entry.unlink(missing_ok=True)

    def log(self, record: Mapping[str, object]) -> None:
        """Append a line to the log; it reaches the system now, the disk with the next checkpoint.

        A line that a kill left unfinished is cut off first. Numbers that JSON does not know are
        written as the strings ``"inf"``, ``"-inf"`` and ``"nan"``, which ``float`` reads.
        """
        line = (
            json.dumps(strict(record), ensure_ascii=False, separators=(", ", ": ")).encode() + b"\n"
        )
        with self.log_file.open("a+b") as file:
            end = file.tell()
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":
                    file.truncate(_whole_lines(self.log_file.read_bytes()))
            file.write(line)

    def records(self) -> list[dict[str, object]]:
        """Every line of the log; an unfinished last one is left out.

        Raises:
            CheckpointError: If another line is damaged.
        """
        content = self.log_file.read_bytes() if self.log_file.exists() else b""
        lines = content[: _whole_lines(content)].splitlines()
        return [self._record(number, line) for number, line in enumerate(lines, 1)]

    def _record(self, number: int, line: bytes) -> dict[str, object]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(
                f"{self.log_file}, line {number}, is damaged ({error}): delete that line"
            ) from error
        if not isinstance(record, dict):
            raise CheckpointError(
                f"{self.log_file}, line {number}, is no JSON object: delete that line"
            )
        return cast("dict[str, object]", record)

    def truncate_log(self, step: int) -> list[dict[str, object]]:
        """Take the lines after ``step`` out of the log, since a resumed run writes them again.

        Returns:
            The lines taken out. On the same machine the steps come out equal to the last bit, so a
            caller can compare their ``total_hex`` with what is logged next.
        """
        kept: list[dict[str, object]] = []
        dropped: list[dict[str, object]] = []
        for record in self.records():
            at = record.get("step")
            (dropped if isinstance(at, int) and at > step else kept).append(record)
        text = "".join(
            json.dumps(record, ensure_ascii=False, separators=(", ", ": ")) + "\n"
            for record in kept
        )
        if self.log_file.exists() and self.log_file.read_bytes() != text.encode():
            files.write_text(self.log_file, text)
        return dropped

    def steps(self) -> list[int]:
        """Steps with a checkpoint, valid or not, oldest first."""
        if not self._states.is_dir():
            return []
        names = (_NAME.fullmatch(entry.name) for entry in self._states.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def state_file(self, step: int) -> Path:
        """Where the checkpoint of ``step`` is."""
        return self._states / f"{step:08d}.pt"

    def save_state(self, step: int, state: Mapping[str, object], *, best: bool = False) -> Path:
        """Write a checkpoint, read it back, and only then delete all but the last two and the best.

        Args:
            step: Optimizer steps done.
            state: Everything needed to go on; see `dukd.runs.checkpoint.save` for what it may hold.
            best: Whether this is the best so far; it is then kept until a better one is saved.

        Raises:
            CheckpointError: If ``state`` holds something else, or a sound checkpoint of a later
                step is here.
            OSError: If it cannot be written; older checkpoints are untouched.
        """
        known_best = self._best_step()
        later = [other for other in self.steps() if other > step and other not in self._damaged]
        if step < 0 or later:
            reason = (
                f"{self.state_file(later[-1]).name} is of a later step"
                if later
                else "steps count from 0"
            )
            raise CheckpointError(f"cannot save step {step} in {self.directory}: {reason}")
        best_step = step if best else known_best
        path = self.state_file(step)
        if self.log_file.exists():
            files.sync(self.log_file)
        checkpoint.save(
            path, {"format": FORMAT, "step": step, "best_step": best_step, "state": dict(state)}
        )
        if not checkpoint.verify(path):
            raise OSError(errno.EIO, "the disk did not store what was written", str(path))
        self._known_best = (best_step,)
        self._damaged.discard(step)
        self._prune(best_step)
        return path

    def load_state(self) -> Loaded:
        """Read the newest checkpoint that is sound; nothing is changed on disk.

        Raises:
            CheckpointError: If there is none.
        """
        problems: list[str] = []
        for step in reversed(self.steps()):
            try:
                best, state = self._read(step)
            except (CheckpointError, OSError) as error:
                problems.append(_sentence(error))
                self._damaged.add(step)
            else:
                self._known_best = (best,)
                using = self.state_file(step).name
                return Loaded(step, state, [f"{problem}; using {using}" for problem in problems])
        found = "; ".join(problems) or "nothing was saved yet"
        raise CheckpointError(
            f"{self.directory} has no checkpoint to resume from ({found}): begin another run, "
            "or delete it"
        )

    def _read(self, step: int) -> tuple[int | None, dict[str, object]]:
        """The best step as of then, and the state."""
        path = self.state_file(step)
        match checkpoint.load(path):
            case {"format": int(version)} if version > FORMAT:
                raise CheckpointError(
                    f"{path.name} was written by a later version of dukd (format {version})"
                )
            case {"step": int(found)} if found != step:
                raise CheckpointError(f"{path.name} holds step {found}: it was renamed")
            case {
                "best_step": int() | None as best,
                "state": dict() as state,
                "step": int(),
                "format": int(),
            }:
                return best, cast("dict[str, object]", state)
            case _:
                raise CheckpointError(f"{path.name} is no checkpoint of a run")

    def _best_step(self) -> int | None:
        """The best step, as the newest sound checkpoint has it."""
        if self._known_best is None:
            self._known_best = (None,)
            with suppress(CheckpointError):
                self.load_state()
        return self._known_best[0]

    def _prune(self, best_step: int | None) -> None:
        sound = [step for step in self.steps() if step not in self._damaged]
        keep = {*sound[-2:], best_step}
        for step in self.steps():
            if step not in keep:
                self.state_file(step).unlink(missing_ok=True)
        self._damaged.clear()


def _stray(entry: Path) -> bool:
    """Whether ``files.replacing`` left this behind when its process was killed."""
    return entry.name.startswith(".") and entry.name.endswith(".tmp")


def _sentence(error: CheckpointError | OSError) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot read {Path(os.fsdecode(error.filename)).name}: {error.strerror}"
    return str(error)


def _whole_lines(content: bytes) -> int:
    return content.rfind(b"\n") + 1
