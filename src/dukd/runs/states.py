"""The checkpoints of a run: the last two and the best are kept, each is read back after writing."""

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, cast

from dukd.runs import checkpoint
from dukd.runs.checkpoint import CheckpointError
from dukd.runs.signed import FORMAT

_NAME = re.compile(r"(\d{8,})\.pt")


class Loaded(NamedTuple):
    """What a run is resumed from."""

    step: int
    """Optimizer steps done."""
    state: dict[str, object]
    """As it was given to ``save``."""
    reports: list[str]
    """One sentence for every newer checkpoint that could not be used."""


class States:
    """The checkpoints in a folder.

    Args:
        folder: Where they are.
        experiment: SHA-256 of the experiment they belong to; those of another one are refused.
    """

    def __init__(self, folder: Path, experiment: str) -> None:
        self.folder = folder
        self.experiment = experiment
        self._damaged: set[int] = set()

    def steps(self) -> list[int]:
        """Steps with a checkpoint, sound or not, oldest first."""
        return saved_steps(self.folder)

    def file(self, step: int) -> Path:
        """Where the checkpoint of ``step`` is."""
        return self.folder / checkpoint_name(step)

    def save(self, step: int, state: Mapping[str, object], *, best: int | None = None) -> Path:
        """Write a checkpoint, read it back, and only then delete all but the last two and the best.

        Args:
            step: Optimizer steps done.
            state: Everything needed to resume; `dukd.runs.checkpoint.save` says what it may hold.
            best: Step of the best validation so far, whose checkpoint is kept.

        Raises:
            CheckpointError: If ``state`` holds something else, or a sound checkpoint of a later
                step is here.
            OSError: If it cannot be written; older checkpoints are untouched.
        """
        later = [other for other in self.steps() if other > step and other not in self._damaged]
        if later:
            name = self.file(later[-1]).name
            raise CheckpointError(f"cannot save step {step}: {name} is of a later step")
        path = self.file(step)
        content = {"format": FORMAT, "step": step, "experiment": self.experiment}
        checkpoint.save(path, content | {"state": dict(state)})
        if not checkpoint.verify(path):
            raise OSError(errno.EIO, "the disk did not store what was written", str(path))
        self._damaged.discard(step)
        self._prune(best)
        return path

    def load(self) -> Loaded:
        """Read the newest checkpoint that is sound; nothing is changed on disk.

        Raises:
            CheckpointError: If there is none, or one of another experiment.
        """
        problems: list[str] = []
        for step in reversed(self.steps()):
            try:
                state = self.read(step)
            except _ForeignError as error:
                raise CheckpointError(str(error)) from None
            except (CheckpointError, OSError) as error:
                problems.append(_sentence(error))
                self._damaged.add(step)
            else:
                using = self.file(step).name
                return Loaded(step, state, [f"{problem}; using {using}" for problem in problems])
        found = "; ".join(problems) or "nothing was saved yet"
        raise CheckpointError(
            f"{self.folder.parent} has no checkpoint to resume from ({found}): begin another run, "
            "or delete it"
        )

    def read(self, step: int) -> dict[str, object]:
        """Read the checkpoint of a step.

        Raises:
            CheckpointError: If it is damaged, or of another experiment or version.
            OSError: If it cannot be read.
        """
        path = self.file(step)
        content = checkpoint.load(path)
        match content:
            case {"format": int(version)} if version != FORMAT:
                age = "a later" if version > FORMAT else "an older"
                raise CheckpointError(
                    f"{path.name} was written by {age} version of dukd (format {version})"
                )
            case {"step": int(found)} if found != step:
                raise CheckpointError(f"{path.name} holds step {found}: it was renamed")
            case {"experiment": str(theirs)} if theirs != self.experiment:
                raise _ForeignError(
                    f"{path} belongs to another experiment than {self.folder.parent}: it was "
                    "copied here from another run, or experiment.yaml was exchanged; take it away"
                )
            case {"state": dict() as state, "step": int(), "format": int(), "experiment": str()}:
                return cast("dict[str, object]", state)
            case _:
                raise CheckpointError(f"{path.name} is not a checkpoint of a run")

    def _prune(self, best: int | None) -> None:
        sound = [step for step in self.steps() if step not in self._damaged]
        for step in set(self.steps()) - {*sound[-2:], best}:
            self.file(step).unlink(missing_ok=True)
        self._damaged.clear()


def checkpoint_name(step: int) -> str:
    """What the checkpoint of a step is called."""
    return f"{step:08d}.pt"


def saved_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, sound or not, oldest first."""
    if not folder.is_dir():
        return []
    names = (_NAME.fullmatch(entry.name) for entry in folder.iterdir())
    return sorted(int(name[1]) for name in names if name)


class _ForeignError(CheckpointError):
    """A checkpoint of another experiment."""


def _sentence(error: CheckpointError | OSError) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot read {Path(os.fsdecode(error.filename)).name}: {error.strerror}"
    return str(error)
