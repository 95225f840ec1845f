"""A run's state on disk: written, and gone back to when the run is resumed."""

from dukd.networks.files import weights
from dukd.runs.checkpoint import CheckpointError
from dukd.runs.directory import Run
from dukd.training.assemble import Training
from dukd.training.experiment import Experiment
from dukd.training.provenance import origin


def save(training: Training, run: Run, *, seconds: float, best: bool = False) -> None:
    """Write the checkpoint and the averaged student.

    Raises:
        OSError: If it cannot be written; what was there is untouched.
    """
    training.objective.sync()
    state = training.state
    content = state.to_checkpoint(seconds) | _digests(training)
    run.save_state(state.step, content, best=best)
    weights.write(run.student, state.averaged, metadata=origin(training))
    if best:
        weights.write(run.best_student, state.averaged, metadata=origin(training))


def _digests(training: Training) -> dict[str, str]:
    return {
        "data_digest": training.share.patches.pack.digest,
        "teacher_sha256": training.teacher_sha256,
    }


def restore(training: Training, run: Run) -> list[str]:
    """Go back to the newest sound checkpoint, or to the start where nothing was saved yet.

    Returns:
        Sentences about checkpoints that could not be used.

    Raises:
        CheckpointError: If no checkpoint is sound, or the teacher or the images are not those of
            the run.
    """
    if not run.steps():
        if training.world.leads:
            run.truncate_log(0)
        return []
    loaded = run.load_state()
    names = {"data_digest": "the training images", "teacher_sha256": "the teacher's file"}
    for name, ours in _digests(training).items():
        if (before := str(loaded.state.get(name))) != ours:
            raise CheckpointError(
                f"{run.directory}: {names[name]} changed since step {loaded.step} ({name} was "
                f"{before[:12]}, is {ours[:12]}): bring the old ones back, or start another run "
                "with warm_start"
            )
    training.state.restore(loaded.step, loaded.state)
    if training.world.leads:
        run.truncate_log(loaded.step)
    return loaded.reports


def check_same(experiment: Experiment, run: Run) -> None:
    """Refuse to go on with a run as something else than it began.

    Raises:
        CheckpointError: If anything that changes the result differs; it lists what.
    """
    changed = Experiment.from_file(run.experiment).differences(experiment)
    if changed:
        raise CheckpointError(
            f"{run.directory} was begun as another experiment: {'; '.join(changed)}. Resume it as "
            "it was, or choose another directory"
        )
