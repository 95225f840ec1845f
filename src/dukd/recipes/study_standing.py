"""Where the cells of a study stand: what is trained, measured, or failed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dukd.core.text import shown
from dukd.evaluation.sets import by_name
from dukd.recipes.study import Cell, Study
from dukd.runs import results
from dukd.runs.directory import Run

Stage = Literal["planned", "begun", "trained", "measured", "failed"]
COSTS = "costs.jsonl"
"""What processes have spent on cells, a line for each time."""


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
    failed = failure_file(out, cell)
    if not run.experiment.is_file():
        problem = failed.read_text(encoding="utf-8") if failed.is_file() else ""
        return Standing(cell, "failed" if problem else "planned", 0, problem, seconds)
    step, steps = max(run.steps(), default=0), cell.experiment.optimization.steps
    if step >= steps and run.student.is_file():
        stage: Stage = "measured" if is_measured(study, cell, run) else "trained"
    else:
        stage = "begun"
    problem = failed.read_text(encoding="utf-8") if failed.is_file() else ""
    if problem and stage != "measured":
        return Standing(cell, "failed", step, problem, seconds)
    return Standing(cell, stage, step, "", seconds)


def is_measured(study: Study, cell: Cell, run: Run) -> bool:
    """Whether the student that a run holds was measured on all of the study's sets."""
    return bool(study.sets) and not unmeasured(study, cell, run)


def unmeasured(study: Study, cell: Cell, run: Run) -> dict[str, Path]:
    """Sets on which the student that a run holds has yet to be measured, by name.

    A set counts as measured once it has every metric that the study names; agreement only where
    some cell of the recipe has a teacher.
    """
    wanted = by_name(study.sets)
    try:
        table = results.read(run.directory / figures_file(study, cell))
    except (results.ResultsError, OSError):
        return wanted
    student = next((row for row in table.rows if row.model == "student"), None)
    if student is None or results.outdated((run.student,), table):
        return wanted
    metrics = {m for m in study.metrics if m != "agreement" or study.taught(cell) is not None}
    there = {name for name, values in student.sets.items() if metrics <= values.keys()}
    return {name: images for name, images in wanted.items() if name not in there}


def figures_file(study: Study, cell: Cell) -> str:
    """Name of the file in a run directory that holds what the study measures."""
    own = study.border is None or study.border == cell.experiment.student.scale
    return results.file_name(border=None if own else study.border)


def failure_file(out: Path, cell: Cell) -> Path:
    """Where the reason lies why a cell failed."""
    return out / "failed" / f"{cell.name}.txt"


def _costs(out: Path) -> dict[str, float]:
    path = out / COSTS
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


def described(standings: Sequence[Standing]) -> str:
    """A sentence on how far a study is."""
    counts = {stage: sum(s.stage == stage for s in standings) for stage in Stage.__args__}
    parts = [f"{count} {stage}" for stage, count in counts.items() if count]
    return f"{len(standings)} cells: {', '.join(parts)}"


def failures(standings: Sequence[Standing]) -> list[str]:
    """The cells that failed, and why."""
    return [shown(f"{s.cell.name}: {s.problem}") for s in standings if s.stage == "failed"]
