"""The training loop.

Everything a step does follows from the experiment and the number of the step (``step.py``), so a
run that was killed continues from its last checkpoint to the same bits it would have reached.
"""

import hashlib
import threading
from contextlib import nullcontext
from pathlib import Path

import torch

from dukd.core.device import numbered
from dukd.core.distributed import World
from dukd.core.files import Progress, silent
from dukd.data.patches import batches
from dukd.runs import checkpoint
from dukd.runs.directory import Run
from dukd.training.assemble import Training, assemble
from dukd.training.experiment import Experiment
from dukd.training.interrupt import stopping
from dukd.training.keeper import Keeper, compare_ranks
from dukd.training.log import Logbook, Meter, Observer, ignore
from dukd.training.memory import advice, is_shortage
from dukd.training.provenance import facts
from dukd.training.resume import check_same, restore
from dukd.training.schedule import rate_factor
from dukd.training.step import NonFiniteError, advance, settle


class Interrupted(Exception):  # noqa: N818  it is no error: everything is saved
    """Training stopped because it was asked to; the run can be resumed."""

    def __init__(self, step: int, directory: Path, *, how: str = "--resume") -> None:
        super().__init__(
            f"stopped after step {step}; everything is in {directory}, continue with {how}"
        )
        self.step = step


def train(
    experiment: Experiment,
    directory: Path,
    *,
    resume: bool = False,
    device: torch.device | str = "cpu",
    observe: Observer = ignore,
    progress: Progress = silent,
    world: World | None = None,
) -> Path:
    """Train a student.

    Args:
        experiment: What to do.
        directory: The run directory; see ``docs/architecture.md`` for what is in it.
        resume: Go on with the run that is in the directory, to the same result as if it had never
            stopped.
        device: Where to train; of no effect with a ``world``, which knows.
        observe: Told of every step and every line of the log, on the first rank.
        progress: Told how far the preparation of data has come.
        world: The processes that train together, from ``distributed.join``; each of them calls this
            function.

    Returns:
        The file of the averaged student.

    Raises:
        ValueError: If the experiment cannot be run as it is; nothing is written then.
        dukd.runs.checkpoint.CheckpointError: If the directory is used already, or holds nothing to
            resume.
        NonFiniteError: If a loss is not finite.
        Interrupted: After SIGINT or SIGTERM to any rank, when the step is finished and everything
            is saved.
        dukd.core.distributed.PeerError: If another rank died or hangs.
        dukd.core.distributed.RankError: If the ranks cannot share a batch, or do not train the
            same.
    """
    world = world or World(device=numbered(torch.device(device)))
    directory = Path(directory)
    if resume:
        check_same(experiment, Run.open(directory))
    training = assemble(experiment, world, progress)
    world.wait()
    if resume:
        run = Run.open(directory)
    elif world.leads:
        run = Run.create(directory, experiment_yaml=experiment.to_yaml(), facts=facts(training))
    else:
        run = Run(directory)
    with run.lock() if world.leads else nullcontext(), stopping(world) as stop:
        logbook = Logbook(
            run, observe, tensorboard=experiment.evaluation.tensorboard, mute=not world.leads
        )
        try:
            with world.leader_first():
                _begin(training, run, logbook, resume=resume)
            _loop(training, run, logbook, stop)
        except NonFiniteError as error:
            raise _explained(error, run, logbook) if world.leads else error from None
        finally:
            logbook.close()
    return run.student


def _begin(training: Training, run: Run, logbook: Logbook, *, resume: bool) -> None:
    reports = restore(training, run) if resume else training.notes
    step = training.state.step
    for report in reports:
        logbook.event(step, "note", report)
    if resume:
        logbook.event(step, "resumed", f"resumed after step {step}")


def _loop(training: Training, run: Run, logbook: Logbook, stop: threading.Event) -> None:
    experiment, state, world = training.experiment, training.state, training.world
    evaluation, steps = experiment.evaluation, experiment.optimization.steps
    _agree(training)
    meter = Meter(step=state.step, seconds=state.seconds, device=training.device)
    keeper = Keeper(training, run, logbook, meter)
    stream = batches(
        training.share.source,
        state.step,
        stop=steps,
        workers=experiment.data.workers,
        rank=world.rank,
        world=world.size,
        device=training.device,
    )
    with stream:
        for lr, hr in stream:
            try:
                meter.add(advance(training, lr, hr), lr.shape[0] * world.size)
            except (RuntimeError, MemoryError) as error:
                if is_shortage(error):
                    raise advice(experiment, training.device) from error
                raise
            step, last = state.step, state.step == steps
            left = meter.seconds_left(step, steps)
            logbook.observe({"kind": "step", "step": step, "steps": steps, "seconds_left": left})
            if last or step % evaluation.log_every == 0:
                _log(training, logbook, meter)
            stopped = world.any(stop.is_set())
            if last or step % evaluation.every == 0:
                meter.paused(keeper.validate_and_save)
            elif stopped:
                meter.paused(keeper.save)
            if stopped and not last:
                raise Interrupted(step, run.directory)
    keeper.finish()


def _log(training: Training, logbook: Logbook, meter: Meter) -> None:
    settle(training)
    compare_ranks(training)
    optimization, step = training.experiment.optimization, training.state.step
    rate = optimization.learning_rate * rate_factor(optimization, step - 1)
    logbook.write(meter.record(step, rate))


def _agree(training: Training) -> None:
    """Make sure that all ranks begin with the same experiment, files, torch and weights."""
    if training.world.size == 1:
        return
    common = (
        training.experiment.to_yaml(),
        training.share.patches.pack.digest,
        training.teacher_sha256,
        torch.__version__,
    )
    digest = hashlib.sha256(" ".join(common).encode()).digest()
    training.world.agree("the experiment, its files or torch", digest)
    compare_ranks(training)


def _explained(error: NonFiniteError, run: Run, logbook: Logbook) -> NonFiniteError:
    path = run.directory / f"nonfinite-{error.step:08d}.pt"
    checkpoint.save(path, error.evidence)
    logbook.event(error.step, "non-finite", str(error))
    sound = "the last checkpoint is sound, and a new run can start from it (warm_start)"
    text = (
        f"{error}. The patches, their images' names and the weights before that step are in "
        f"{path}; {sound if run.steps() else 'nothing had been saved yet'}. A lower "
        "learning_rate, clip, or float32 often help"
    )
    return NonFiniteError(text, error.evidence, error.step)
