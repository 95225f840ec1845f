"""The run directory: what belongs to one training run, and its lock.

Everything needed to resume is in one checkpoint, so there is one instant at which a step counts as
saved. What a reader uses (``student.safetensors``, ``best.safetensors``, ``run.json``) follows from
the checkpoint and is made again on resume where it does not.
"""

import os
import socket
import warnings
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import IO

from dukd.core import files
from dukd.runs import log
from dukd.runs.checkpoint import CheckpointError
from dukd.runs.signed import Signed, read_with_digest, read_with_header, with_digest, with_header
from dukd.runs.states import States, checkpoint_name, saved_steps

_STATES = "state"


class Run:
    """A run directory (``docs/architecture.md``); made by ``create`` or ``open``."""

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)

    @property
    def experiment(self) -> Path:
        """The resolved experiment, below a line with its checksum."""
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

    @cached_property
    def states(self) -> States:
        """The checkpoints.

        Raises:
            CheckpointError: If the experiment they belong to was altered.
        """
        return States(self._states, self.read_experiment().sha256)

    @property
    def _states(self) -> Path:
        return self.directory / _STATES

    @classmethod
    def create(cls, directory: Path, *, experiment_yaml: str, facts: Mapping[str, object]) -> "Run":
        """Begin a run in a new or empty directory; ``lock`` it first, where others may as well.

        Raises:
            CheckpointError: If something is in the directory already, or if it cannot be written.
        """
        run = cls(directory)
        run.check_unused()
        try:
            run.directory.mkdir(parents=True, exist_ok=True)
            run._states.mkdir(exist_ok=True)
            files.sync_folder(run.directory.parent)
            run.write_facts(facts)
            files.write_text(run.experiment, with_header(experiment_yaml))  # now there is a run
        except OSError as error:
            raise run._cannot_write(error) from error
        return run

    @classmethod
    def open(cls, directory: Path) -> "Run":
        """Open a run that was begun before; nothing is written.

        Raises:
            CheckpointError: If there is none, or one of another version.
        """
        run = cls(directory)
        _check_places(run)
        if not run.experiment.is_file():
            raise CheckpointError(f"{run.directory} holds no run: it has no {run.experiment.name}")
        run.read_experiment()
        return run

    def check_unused(self) -> None:
        """Make sure that a run can begin here, where one may have been half begun.

        Raises:
            CheckpointError: If something is here already; the message says what to do.
        """
        try:
            _check_places(self)
            found = [entry.name for entry in self.directory.iterdir() if not _stray(entry)]
            steps = self.steps()
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._cannot_write(error) from error
        used = sorted(set(found) - {"lock"})
        if not steps and set(used) <= {"state", self.facts.name}:
            return
        names = ", ".join(used[:3]) + (", …" if len(used) > 3 else "")
        how = "--resume continues it, or choose another name"
        if not self.experiment.exists():
            how = "it holds no run: choose another name"
        raise CheckpointError(f"{self.directory} is used already ({names}): {how}")

    def _cannot_write(self, error: OSError) -> CheckpointError:
        return CheckpointError(
            f"cannot write to the run directory {self.directory}: {error.strerror}"
        )

    @contextmanager
    def lock(self) -> Generator[None, None, None]:
        """Keep other processes out, and clear away what a killed one left half written.

        The directory is made if it is missing. The kernel frees the lock when the process ends,
        however it ends. Where there is no ``flock`` (Windows, some network file systems) there
        is a warning in its place.

        Raises:
            CheckpointError: If another process holds the lock, which the message names, or nothing
                can be written here.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            file = (self.directory / "lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise self._cannot_write(error) from error
        with file, _held(file, self.directory):
            try:
                self._clear()
            except OSError as error:
                raise self._cannot_write(error) from error
            yield

    def _clear(self) -> None:
        samples = self.directory / "samples"
        below = (path for path in samples.glob("*") if path.is_dir())
        for folder in (self.directory, self._states, samples, *below):
            for entry in folder.iterdir() if folder.is_dir() else ():
                if _stray(entry):
                    entry.unlink(missing_ok=True)

    def read_experiment(self) -> Signed:
        """The experiment as YAML, and its SHA-256.

        Raises:
            CheckpointError: If it was altered, or is of another version.
        """
        try:
            return read_with_header(self.experiment)
        except OSError as error:
            raise CheckpointError(f"cannot read {self.experiment}: {error.strerror}") from error

    def read_facts(self) -> dict[str, object]:
        """What ``run.json`` says; empty where it is missing.

        Raises:
            CheckpointError: If it was altered or cannot be read.
        """
        try:
            return read_with_digest(self.facts) if self.facts.exists() else {}
        except OSError as error:
            raise CheckpointError(f"cannot read {self.facts}: {error.strerror}") from error

    def write_facts(self, facts: Mapping[str, object]) -> None:
        """Write ``run.json``.

        Raises:
            OSError: If it cannot be written.
        """
        files.write_text(self.facts, with_digest(facts))

    def weights(self, *, best: bool = False) -> Path:
        """The file of the student: of the last save, or of the best validation.

        Raises:
            CheckpointError: If there is none yet; the message says why.
        """
        path = self.best_student if best else self.student
        if path.is_file():
            return path
        if best:
            raise CheckpointError(
                f"{self.directory} has no {path.name}: nothing was validated there yet "
                "(--evaluation.sets); without --best its last student is taken"
            )
        raise CheckpointError(f"{self.directory} has no {path.name}: nothing was saved there yet")

    def steps(self) -> list[int]:
        """Steps with a checkpoint, sound or not, oldest first."""
        return saved_steps(self._states)

    def log(self, record: Mapping[str, object]) -> None:
        """Append a line to the log; see `dukd.runs.log.append`."""
        log.append(self.log_file, record)

    def records(self) -> list[dict[str, object]]:
        """Every line of the log; an unfinished last one is left out.

        Raises:
            CheckpointError: If a line was altered.
        """
        return log.records(self.log_file)


def _check_places(run: Run) -> None:
    """Make sure that nothing stands where a run keeps a file or a folder.

    Raises:
        CheckpointError: With the first that does.
    """
    states = run.directory / _STATES
    named = (run.experiment, run.facts, run.log_file, run.student, run.best_student)
    checkpoints = [states / checkpoint_name(step) for step in run.steps()]
    for path in (*named, run.directory / "lock", *checkpoints):
        if path.is_dir() or (path.exists() and files.is_endless(path)):
            what = "a folder" if path.is_dir() else "a pipe or a device"
            raise CheckpointError(f"{path} is {what}, where a run keeps a file: take it away")
    for path in (run.log_file, run.directory / "lock"):
        if path.is_symlink() and not path.exists():
            raise CheckpointError(f"{path} is a link that leads nowhere: take it away")
    for path in (states, run.directory / "samples"):
        if os.path.lexists(path) and not path.is_dir():
            raise CheckpointError(
                f"{path} is not a folder, but a run keeps files in one of this name: take it away"
            )


@contextmanager
def _held(file: IO[str], directory: Path) -> Generator[None, None, None]:
    """Hold the lock of a run directory, and say in it who does."""
    with ExitStack() as stack:
        try:
            held = stack.enter_context(files.lock(file, wait=False))
        except BlockingIOError:
            file.seek(0)
            holder = file.read(500).strip() or "another process"
            raise CheckpointError(
                f"{directory} is in use by {holder}: wait for it, or choose another name"
            ) from None
        if not held:
            text = f"{directory} is not locked, as this system cannot: run one process in it"
            warnings.warn(text, RuntimeWarning, stacklevel=6)
        since = datetime.now(UTC).astimezone().isoformat(sep=" ", timespec="seconds")
        with suppress(OSError):  # the lock holds on a full disk too, it only has no name
            file.truncate(0)
            file.write(f"pid {os.getpid()} on host {socket.gethostname()} since {since}\n")
            file.flush()
        try:
            yield
        finally:
            file.truncate(0)  # the file stays, since deleting it would race


def _stray(entry: Path) -> bool:
    """Whether ``files.replacing`` left this behind when its process was killed."""
    return entry.name.startswith(".") and entry.name.endswith(".tmp")
