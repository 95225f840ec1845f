"""Runs of every shape that a crash can meet, and all that a user reads of one."""

import json
from dataclasses import replace
from pathlib import Path

from dukd.methods import Logits
from dukd.networks.base import NetworkConfig
from dukd.runs.checkpoint import CheckpointError
from dukd.runs.directory import Run
from dukd.training import loop
from dukd.training.experiment import Evaluation, Experiment, Optimization, TeacherCache
from tiny_runs import STUDENT, experiment

SHAPES = ("plain", "best", "cached", "parts")


def shaped(shape: str, folder: Path, root: Path, student: NetworkConfig = STUDENT) -> Experiment:
    """An experiment of four steps whose run is ``root/run``."""
    steps = Optimization(steps=4, learning_rate=1e-3, ema=0.9)
    seldom = Evaluation(every=2, log_every=1, teacher_images=0)
    judged = replace(seldom, sets=(folder / "images",), images=1, samples=1)
    base = experiment(
        folder,
        student=student,
        method=Logits(),
        optimization=steps,
        evaluation=seldom,
        data__workers=0,
    )
    match shape:
        case "best":
            return replace(base, evaluation=judged)
        case "cached":
            cache = TeacherCache(folder=root / "cache", limit_gb=0.1)
            return replace(base, data=replace(base.data, period=2), teacher_cache=cache)
        case "parts":
            return replace(base, optimization=replace(steps, accumulate=2))
        case "ranks":
            return replace(
                replace(base, evaluation=judged),
                optimization=replace(steps, accumulate=2, deterministic=True),
            )
        case _:
            return base


def train(
    shape: str,
    folder: Path,
    root: Path,
    *,
    resume: bool = False,
    student: NetworkConfig = STUDENT,
) -> None:
    """Train, or resume."""
    loop.train(shaped(shape, folder, root, student), root / "run", resume=resume)


def finish(shape: str, folder: Path, root: Path, student: NetworkConfig = STUDENT) -> None:
    """Do what a user does after a crash: resume if there is a run, else begin it."""
    resume = (root / "run" / "experiment.yaml").exists()
    train(shape, folder, root, resume=resume, student=student)


_MEASURED = {"seconds", "cpu_seconds", "images_per_second", "memory_mb"}
_WHERE = {"started", "command", "folder", "folder_from_run"}


def read(run: Path) -> dict[str, object]:
    """All that a user reads of a finished run, without times and places."""
    it = Run.open(run)
    lines = [
        {key: value for key, value in record.items() if key not in _MEASURED}
        for record in it.records()
        if record["kind"] != "event"
    ]
    facts = {key: value for key, value in it.read_facts().items() if key not in _WHERE}
    loaded = it.states.load()
    try:
        best = it.weights(best=True).read_bytes()
    except CheckpointError:
        best = b""
    return {
        "experiment": it.read_experiment().text.split("teacher_cache:")[0],
        "facts": json.dumps(facts, sort_keys=True),
        "log": lines,
        "student": it.weights().read_bytes(),
        "best": best,
        "saved": loaded.step,
        "unusable": loaded.reports,
        "samples": {
            str(path.relative_to(run)): path.read_bytes()
            for path in sorted((run / "samples").rglob("*"))
            if path.is_file()
        },
        "left over": [path.name for path in run.rglob("*.tmp")],
    }
