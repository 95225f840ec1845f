"""Resuming a run, or beginning another one where a run ended.

Paths say where images and weights are now; digests in the checkpoint say whether they are the same.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from dukd.runs import log
from dukd.runs.checkpoint import CheckpointError
from dukd.runs.directory import Run
from dukd.training.assemble import Training
from dukd.training.experiment import Experiment
from dukd.training.provenance import warm_start_sha256
from dukd.training.saved import digests


def recorded(run: Run) -> Experiment:
    """The experiment of a run; relative paths lead from where it was begun.

    Raises:
        CheckpointError: If the experiment was altered.
        dukd.core.config.ConfigError: If it cannot be understood.
    """
    text = run.read_experiment().text
    experiment = Experiment.from_yaml(text, source=str(run.experiment))
    try:
        facts = run.read_facts()
    except CheckpointError:
        facts = {}
    folders = [
        run.directory / str(facts.get("folder_from_run", ".")),
        Path(str(facts.get("folder"))),
    ]
    here = Path.cwd().resolve()
    others = [folder for folder in folders if folder.is_dir() and folder.resolve() != here]

    def find(path: Path) -> Path:
        places = (path if path.is_absolute() else folder / path for folder in others)
        return next((place for place in places if place.exists()), path)

    return experiment.relocated(find)


def check_same(experiment: Experiment, run: Run) -> None:
    """Refuse to resume a run as something else than it began.

    Raises:
        CheckpointError: If anything that changes the result differs; it lists what.
    """
    changed = recorded(run).differences(experiment)
    if changed:
        raise CheckpointError(
            f"{run.directory} was begun as another experiment: {'; '.join(changed)}. Resume it as "
            f"it was, or begin a new run where it ended: --from {run.directory} --out NEW"
        )


def check_resumable(run: Run) -> None:
    """Make sure that resuming does not begin anew where a student was saved already.

    Raises:
        CheckpointError: If the checkpoints that it came from are gone.
    """
    if run.student.is_file() and not run.steps():
        raise CheckpointError(
            f"{run.directory} has a {run.student.name}, but the checkpoints that it came from are "
            "gone: bring them back, or begin another run from these weights, with "
            f"--optimization.warm-start {run.student}"
        )


def restore(training: Training, run: Run) -> list[str]:
    """Go back to the newest sound checkpoint, or to the start where nothing was saved yet.

    Returns:
        Sentences about checkpoints that could not be used.

    Raises:
        CheckpointError: If no checkpoint is sound, or the teacher or the images are not those of
            the run.
    """
    if not run.steps():
        training.facts = _facts_of_a_start(training, run)
        return []
    loaded = run.states.load()
    _check_digests(training, loaded.state, run, loaded.step)
    state = cast("dict[str, Any]", loaded.state)
    training.state.restore(loaded.step, state)
    training.facts, training.meter = state["facts"], state["meter"]
    return loaded.reports


def recall_best(training: Training, run: Run) -> bool:
    """Take in a validation that came after the checkpoint was written.

    Returns:
        Whether the step of the checkpoint was validated.
    """
    state, validation = training.state, training.validation
    for record in reversed(log.read(run.log_file).records):
        if record.get("kind") == "validation" and record.get("step") == state.step:
            sets = cast("dict[str, dict[str, float]]", record["sets"])
            score = validation.score(sets) if validation.sets else None
            if score is not None and score > state.best:
                state.best, state.best_step = score, state.step
            return True
    return False


def _facts_of_a_start(training: Training, run: Run) -> dict[str, object]:
    """What ``run.json`` says of a run of which nothing was saved yet."""
    try:
        facts = run.read_facts()
    except CheckpointError as error:
        facts, why = {}, str(error)
    else:
        why = "run.json is missing"
    if not facts or "continued_from" in facts:
        why = "it was to continue another run" if facts else why
        raise CheckpointError(
            f"nothing was saved in {run.directory} yet, and {why}: delete it, and begin it again"
        )
    _check_digests(training, facts, run, 0)
    if facts.get("warm_start_sha256") != warm_start_sha256(training.experiment):
        raise CheckpointError(
            f"{run.directory}: the file of optimization.warm_start changed since the run began: "
            "bring the old one back, or begin another run"
        )
    return facts


def _check_digests(training: Training, known: dict[str, object], run: Run, step: int) -> None:
    names = {"data_digest": "the training images", "teacher_sha256": "the teacher"}
    for name, ours in digests(training).items():
        if (before := str(known.get(name))) != ours:
            raise CheckpointError(
                f"{run.directory}: {names[name]} changed since step {step} ({name} was "
                f"{before[:12]}, is {ours[:12]}): bring the old ones back, or begin another run "
                f"where it ended: --from {run.directory} --out NEW"
            )


def continue_from(training: Training, source: Run) -> list[str]:
    """Begin where another run ended: its weights, averages and moments, at its step.

    What differs between the two experiments is noted in the log and in ``run.json``.

    Returns:
        Sentences for the log.

    Raises:
        CheckpointError: If the run has no sound checkpoint, or its state is of another network or
            method.
        ValueError: If it has made all the steps of this experiment already.
    """
    loaded, state = source.states.load(), training.state
    steps = training.experiment.optimization.steps
    if loaded.step >= steps:
        raise ValueError(
            f"{source.directory} has made {loaded.step} steps already: --optimization.steps, which "
            f"is {steps}, has to be larger"
        )
    try:
        state.restore(loaded.step, loaded.state)
    except (RuntimeError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(
            f"the state of {source.directory} does not fit this experiment's student and method "
            f"({reason}): start from its weights alone, with --optimization.warm-start "
            f"{source.student}"
        ) from error
    state.best, state.best_step = -math.inf, None
    changes = recorded(source).differences(training.experiment)
    known = {name: str(loaded.state.get(name)) for name in digests(training)}
    changes += [
        f"{n} was {known[n][:12]}, is {d[:12]}"
        for n, d in digests(training).items()
        if known[n] != d
    ]
    training.facts["continued_from"] = {
        "run": str(source.directory),
        "experiment_sha256": source.read_experiment().sha256,
        "step": loaded.step,
        "changes": changes,
    }
    what = f"; what changed: {'; '.join(changes)}" if changes else ""
    return [*loaded.reports, f"continues {source.directory} after its step {loaded.step}{what}"]


def without_warm_start(experiment: Experiment) -> Experiment:
    """The experiment of a student that was trained already: what it started from may be gone."""
    optimization = replace(experiment.optimization, warm_start=None)
    return replace(experiment, optimization=optimization, method=experiment.method.resumed())
