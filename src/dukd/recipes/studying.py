"""The cells of a study, one at a time: where each stands, its training, and its measurement.

A cell is a run directory. What was trained is continued, what was measured is left alone, so a
study that is stopped anywhere goes on where it was.
"""

import json
import time
from pathlib import Path

import torch

from dukd.core import files
from dukd.core.files import Progress, silent
from dukd.evaluation.candidates import BICUBIC, open_all
from dukd.evaluation.evaluate import evaluate
from dukd.recipes.study import Cell, Study
from dukd.recipes.study_standing import COSTS, failure_file, unmeasured
from dukd.recipes.study_teacher import teacher_on
from dukd.runs import results
from dukd.runs.directory import Run
from dukd.training import loop
from dukd.training.log import Observer, ignore


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
    failed = failure_file(out, cell)
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
        _measure(study, cell, run, device=torch.device(device), progress=progress)
    except (ValueError, ArithmeticError, OSError, RuntimeError) as error:
        files.write_text(failed, f"{type(error).__name__}: {error}")
        raise
    finally:
        record: dict[str, object] = {
            "cell": cell.name,
            "seconds": round(time.process_time() - begun, 3),
            "from": before,
            "to": max(run.steps(), default=0),
        }
        _append(out / COSTS, record)
    failed.unlink(missing_ok=True)
    return run.directory


def _measure(
    study: Study, cell: Cell, run: Run, *, device: torch.device, progress: Progress
) -> None:
    """Measure a student on the sets that are left, beside its teacher's outputs, made once.

    A student without a teacher stands beside the one that the others of its recipe have.
    """
    missing, taught = unmeasured(study, cell, run), study.taught(cell)
    if not missing:
        return
    students, problems = open_all([BICUBIC, run.directory])
    for name, images in missing.items():
        teacher = None
        if taught is not None:
            teacher = teacher_on(
                taught, run.directory.parent, name, images, device=device, progress=progress
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


def _append(path: Path, record: dict[str, object]) -> None:
    """Add a line; several processes may do so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.lock(path.parent), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
