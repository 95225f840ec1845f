"""The cells of a study, one at a time: where each stands, its training, and its measurement.

A cell is a run directory. What was trained is continued, what was measured is left alone, so a
study that is stopped anywhere goes on where it was.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from dukd.core import files
from dukd.core.files import Progress, silent
from dukd.core.text import shown
from dukd.evaluation.candidates import BICUBIC, open_all
from dukd.evaluation.evaluate import evaluate
from dukd.evaluation.sets import by_name
from dukd.recipes.study import Cell, Study
from dukd.recipes.study_teacher import teacher_on
from dukd.runs import results
from dukd.runs.directory import Run
from dukd.training import loop
from dukd.training.log import Observer, ignore

Stage = Literal["planned", "begun", "trained", "measured", "failed"]
_COSTS = "costs.jsonl"


@dataclass(frozen=True)
class Standing:
    """How far a cell has come."""

    cell: Cell
    stage: Stage
    step: int = 0
    """Optimizer steps that are saved."""
    problem: str = ""
    """Why it failed."""
    seconds: float = 0.0
    """CPU seconds that this machine's processes have spent on it."""

    @property
    def steps(self) -> int:
        """Optimizer steps that it takes."""
        return self.cell.experiment.optimization.steps


def standing(study: Study, out: Path) -> list[Standing]:
    """Where every cell of a study stands, in the order in which they are run."""
    costs = _costs(out)
    return [_standing(study, cell, out, costs.get(cell.name, 0.0)) for cell in study.cells()]


def _standing(study: Study, cell: Cell, out: Path, seconds: float) -> Standing:
    run = Run(out / cell.name)
    failed = _failure(out, cell)
    if not run.experiment.is_file():
        problem = failed.read_text(encoding="utf-8") if failed.is_file() else ""
        return Standing(cell, "failed" if problem else "planned", 0, problem, seconds)
    step, steps = max(run.steps(), default=0), cell.experiment.optimization.steps
    if step >= steps and run.student.is_file():
        stage: Stage = "measured" if _is_measured(study, cell, run) else "trained"
    else:
        stage = "begun"
    problem = failed.read_text(encoding="utf-8") if failed.is_file() else ""
    if problem and stage != "measured":
        return Standing(cell, "failed", step, problem, seconds)
    return Standing(cell, stage, step, "", seconds)


def _is_measured(study: Study, cell: Cell, run: Run) -> bool:
    try:
        table = results.read(run.directory / figures_file(study, cell))
    except (results.ResultsError, OSError):
        return False
    student = next((row for row in table.rows if row.model == "student"), None)
    if student is None or results.outdated((run.student,), table):
        return False
    return all(name in student.sets for name in by_name(study.sets))


def run_cell(
    study: Study,
    cell: Cell,
    out: Path,
    *,
    device: torch.device | str = "cpu",
    observe: Observer = ignore,
    progress: Progress = silent,
) -> Path:
    """Train a cell from where it stands, and measure its student.

    Args:
        study: What it belongs to.
        cell: Which one.
        out: The study's folder.
        device: Where.
        observe: Told of every step.
        progress: Told of the preparation, and of the measurement.

    Returns:
        Its run directory.

    Raises:
        ValueError: If it cannot be trained or measured; the reason is kept beside the runs.
        dukd.training.loop.Interrupted: If it was stopped; everything is saved.
    """
    run = Run(out / cell.name)
    failed = _failure(out, cell)
    begun, before = time.process_time(), max(run.steps(), default=0)
    try:
        if before < cell.experiment.optimization.steps or not run.student.is_file():
            resume = run.experiment.is_file()
            loop.train(
                cell.experiment,
                run.directory,
                resume=resume,
                device=device,
                observe=observe,
                progress=progress,
            )
        if study.sets and not _is_measured(study, cell, run):
            _measure(study, cell, run, device=torch.device(device), progress=progress)
    except (ValueError, ArithmeticError, OSError, RuntimeError) as error:
        files.write_text(failed, f"{type(error).__name__}: {error}")
        raise
    finally:
        record = {
            "cell": cell.name,
            "seconds": round(time.process_time() - begun, 3),
            "from": before,
            "to": max(run.steps(), default=0),
        }
        _append(out / _COSTS, record)
    failed.unlink(missing_ok=True)
    return run.directory


def figures_file(study: Study, cell: Cell) -> str:
    """Name of the file in a run directory that holds what the study measures."""
    own = study.border is None or study.border == cell.experiment.student.scale
    return results.file_name(border=None if own else study.border)


def _measure(
    study: Study, cell: Cell, run: Run, *, device: torch.device, progress: Progress
) -> None:
    """Measure a student set by set, beside its teacher's outputs, which are made once."""
    students, problems = open_all([BICUBIC, run.directory])
    for name, images in by_name(study.sets).items():
        teacher = teacher_on(
            cell, run.directory.parent, name, images, device=device, progress=progress
        )
        table = evaluate(
            [*students, *([] if teacher is None else [teacher])],
            {name: images},
            metrics=study.metrics,
            border=study.border,
            device=device,
            progress=progress,
        )
        if found := (*problems, *table.problems):
            raise ValueError("; ".join(found))
        titles = [c.title for c in students if c.run is not None]
        results.keep_each(table, dict.fromkeys(titles, run.directory))


def _failure(out: Path, cell: Cell) -> Path:
    return out / "failed" / f"{cell.name}.txt"


def _append(path: Path, record: dict[str, object]) -> None:
    """Add a line; several processes may do so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.lock(path.parent), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def _costs(out: Path) -> dict[str, float]:
    path = out / _COSTS
    found: dict[str, float] = {}
    if not path.is_file():
        return found
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
            found[record["cell"]] = found.get(record["cell"], 0.0) + float(record["seconds"])
        except (ValueError, KeyError, TypeError):  # half a line, of a process that was killed
            continue
    return found


@dataclass(frozen=True)
class Plan:
    """What is left of a study, by measured prices."""

    seconds: dict[str, float]
    """CPU seconds left, by cell."""

    @property
    def total(self) -> float:
        """CPU seconds left."""
        return math.fsum(self.seconds.values())

    def energy(self, watts: float) -> float:
        """Kilowatt-hours of a processor that draws so much for each busy core."""
        return self.total * watts / 3.6e6


Price = Callable[[Cell], tuple[float, float]]
"""CPU seconds of a step with the teacher live, and with its outputs replayed."""


def plan(standings: Sequence[Standing], price: Price, *, evaluation: float = 0.0) -> Plan:
    """What is left to do, by the prices of steps.

    Cells of one recipe and method have one price, which is asked for once; a cell that has run for
    a while prices the rest itself.

    Args:
        standings: Where the cells stand.
        price: Measures a step.
        evaluation: CPU seconds of measuring a student.
    """
    prices: dict[tuple[str, str], tuple[float, float]] = {}
    left: dict[str, float] = {}
    for s in standings:
        if s.stage == "measured":
            continue
        key = (s.cell.recipe, s.cell.method)
        if key not in prices:
            prices[key] = price(s.cell)
        live, replayed = prices[key]
        period = s.cell.experiment.data.period
        first = max(0, min(period, s.steps) - s.step) if period else s.steps - s.step
        rest = max(0, s.steps - s.step - first)
        left[s.cell.name] = live * first + replayed * rest + evaluation
    return Plan(left)


def described(standings: Sequence[Standing]) -> str:
    """A sentence on how far a study is."""
    counts = {stage: sum(s.stage == stage for s in standings) for stage in Stage.__args__}
    parts = [f"{count} {stage}" for stage, count in counts.items() if count]
    return f"{len(standings)} cells: {', '.join(parts)}"


def failures(standings: Sequence[Standing]) -> list[str]:
    """The cells that failed, and why."""
    return [shown(f"{s.cell.name}: {s.problem}") for s in standings if s.stage == "failed"]
