"""How runs stand: what trains now, how fast and how well, what was stopped, what is done.

It is read from the run directories alone, by another process than the one that trains; nothing is
written, and a directory that is damaged does not hide the others.
"""

import itertools
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from dukd.core import files
from dukd.core.text import shown
from dukd.runs import log
from dukd.runs.summary import Summary, part, read

State = Literal["training", "finished", "stopped", "failed", "begun", "damaged"]
_DEEP = 3
"""Folders below the one that is named, down to which runs are looked for."""
_RECENT = 5
"""Lines of the log from which the pace is taken."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How one run stands."""

    name: str
    """Its directory, seen from the folder that was named."""
    state: State
    """``stopped`` can be resumed; ``begun`` has saved nothing yet."""
    step: int = 0
    """The last step that is known of."""
    steps: int | None = None
    """All steps of the run."""
    pace: float | None = None
    """Steps per second, lately."""
    loss: float | None = None
    """The sum of the losses in the last line of the log."""
    psnr: float | None = None
    """PSNR-Y of the last validation, on its first set, in dB."""
    best: float | None = None
    """The best one."""
    seconds_left: float | None = None
    """What the rest takes at this pace; only of a run that trains now."""
    quiet: float | None = None
    """Seconds since the last line of the log."""
    said: str = ""
    """Why a run failed, or cannot be read."""


def find(folder: Path) -> list[Path]:
    """Run directories in a folder, or the folder itself, in the order of their names.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(2, "there is no such folder", str(folder))
    return sorted(_runs(folder, _DEEP))


def _runs(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / "experiment.yaml").is_file():
        yield folder
        return
    if depth:
        with os.scandir(folder) as entries:
            inner = [Path(e.path) for e in entries if e.is_dir() and not e.name.startswith(".")]
        for path in inner:
            try:
                yield from _runs(path, depth - 1)
            except OSError:  # not ours to read
                continue


def standing(run: Path, *, name: str = "") -> Standing:
    """Read how a run stands; one that cannot be read says why."""
    name = name or run.name
    try:
        summary = read(run)
    except (ValueError, OSError) as error:
        return _damaged(run, name, error)
    return _of(summary, name)


def _damaged(run: Path, name: str, error: Exception) -> Standing:
    """What can still be said of a run that is damaged: whether it trains, and its last step."""
    reached = 0
    try:
        steps = [r.get("step") for r in log.read(run / "log.jsonl").records]
        reached = max((step for step in steps if isinstance(step, int)), default=0)
    except OSError:
        pass
    state: State = "training" if trains(run) else "damaged"
    return Standing(name=name, state=state, step=reached, said=shown(str(error)))


def _of(summary: Summary, name: str) -> Standing:
    records = summary.records
    training = [r for r in records if r.get("kind") == "train"]
    scores = [s for r in records if r.get("kind") == "validation" if (s := _score(r)) is not None]
    last = records[-1] if records else {}
    now = trains(summary.directory)
    pace = _pace(training)
    failed = last.get("kind") == "event" and last.get("what") == "non-finite"
    state: State = "begun" if not summary.saved else "stopped"
    if now:
        state = "training"
    elif summary.steps is not None and summary.finished:
        state = "finished"
    elif failed:
        state = "failed"
    rest = None if summary.steps is None else max(0, summary.steps - summary.reached)
    return Standing(
        name=name,
        state=state,
        step=summary.reached,
        steps=summary.steps,
        pace=pace,
        loss=_number(training[-1].get("total")) if training else None,
        psnr=scores[-1] if scores else None,
        best=max(scores, default=None),
        seconds_left=rest / pace if now and pace and rest is not None else None,
        quiet=_quiet(summary.directory / "log.jsonl"),
        said=str(last.get("detail", "")) if failed else "",
    )


def trains(run: Path) -> bool:
    """Whether a process trains in a run directory; on this machine, where there are locks."""
    path = run / "lock"
    try:
        return bool(path.read_bytes().strip()) and files.is_locked(path)
    except OSError:
        return False


def _pace(training: Sequence[Mapping[str, Any]]) -> float | None:
    """Steps per second over the last lines; the seconds in them leave pauses out."""
    marks = [
        (step, seconds)
        for r in training[-_RECENT:]
        if isinstance(step := r.get("step"), int)
        if (seconds := _number(r.get("seconds"))) is not None
    ]
    if len(marks) == 1 and marks[0][1] > 0:
        return marks[0][0] / marks[0][1]
    paces = [
        (b - a) / (end - start)
        for (a, start), (b, end) in itertools.pairwise(marks)
        if end > start and b > a
    ]
    return statistics.median(paces) if paces else None


def _score(record: Mapping[str, Any]) -> float | None:
    """PSNR-Y of a validation's first set."""
    first = next(iter(part(record, "sets").values()), None)
    values = cast("dict[str, Any]", first) if isinstance(first, dict) else {}
    return _number(values.get("psnr_y"))


def _number(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, int | float | str) else None
    except ValueError:
        return None


def _quiet(path: Path) -> float | None:
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return None
