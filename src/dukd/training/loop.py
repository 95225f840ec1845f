"""The training loop.

Everything a step does follows from the experiment and the number of the step (``step.py``), so a
run that was killed continues from its last checkpoint to the same bits it would have reached.
"""

import hashlib
import threading
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dukd.core.device import is_out_of_memory, numbered
from dukd.core.distributed import RankError, World
from dukd.core.files import Progress, silent
from dukd.core.given import refuse
from dukd.data.stream import batches
from dukd.runs import checkpoint
from dukd.runs.directory import Run
from dukd.runs.log import truncate
from dukd.training import notebook
from dukd.training.assemble import Training, assemble
from dukd.training.experiment import Experiment
from dukd.training.interrupt import stopping
from dukd.training.keeper import Keeper, compare_ranks, line_is_due, write_line
from dukd.training.log import Meter, Observer, RunLog, ignore
from dukd.training.memory import advice
from dukd.training.provenance import facts
from dukd.training.resume import (
    check_resumable,
    check_same,
    recall_best,
    restore,
    without_warm_start,
)
from dukd.training.resume import continue_from as continue_from_run
from dukd.training.saved import mend, save
from dukd.training.step import NonFiniteError, advance, settle


class Interrupted(Exception):  # noqa: N818  not an error: everything is saved
    """A signal stopped training; the run can be resumed."""

    def __init__(self, step: int, directory: Path, *, how: str = "--resume") -> None:
        super().__init__(
            f"stopped after step {step}; everything is in {directory}, continue with {how}"
        )
        self.step = step


def train(
    experiment: Experiment,
    directory: Path | str,
    *,
    resume: bool = False,
    continue_from: Path | None = None,
    device: torch.device | str = "cpu",
    observe: Observer = ignore,
    progress: Progress = silent,
    world: World | None = None,
    show: bool = True,
) -> Path:
    """Train a student.

    Args:
        experiment: What to do.
        directory: The run directory; see ``docs/architecture.md`` for what is in it.
        resume: Go on with the run that is in the directory, to the same result as if it had never
            stopped.
        continue_from: Another run, at whose last state this one begins; its steps count.
        device: Where to train; of no effect with a ``world``, which knows.
        observe: Told of every step and every line of the log, on the first rank.
        progress: Told how far the preparation of data has come.
        world: The processes that train together (``distributed.join``); each of them calls this.
        show: Whether a notebook shows a bar and a live chart; nothing is shown elsewhere.

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
        dukd.core.distributed.RankError: If ranks cannot share a batch, or do not train the same.
    """
    _check_type(experiment)
    world = world or World(device=numbered(torch.device(device)))
    observe = notebook.around(observe) if show and world.leads else observe
    run = Run(Path(directory))
    source = None if continue_from is None else Run.open(continue_from)
    started = _checked(experiment, run, resume=resume, leads=world.leads)
    training = assemble(without_warm_start(experiment) if started else experiment, world, progress)
    world.wait()
    with (
        closing(training.objective),
        run.lock() if world.leads else nullcontext(),
        stopping(world) as stop,
    ):
        with world.leader_first():
            notes = _begin(training, run, experiment, resume=resume, source=source)
        _train(training, run, observe, notes, stop)
    return run.student


def _checked(experiment: Experiment, run: Run, *, resume: bool, leads: bool) -> bool:
    """Whether a run has a state to go on from; refused where it cannot begin or go on."""
    if resume:
        check_same(experiment, Run.open(run.directory))
        check_resumable(run)
    elif leads:
        run.check_unused()
    return resume and bool(run.steps())


def _check_type(experiment: object) -> None:
    if not isinstance(experiment, Experiment):
        how = "a dukd.Experiment: dukd.recipe(name).make(), or Experiment.from_file(path)"
        refuse("what is trained", how, experiment)


def _train(
    training: Training,
    run: Run,
    observe: Observer,
    notes: list[tuple[str, str]],
    stop: threading.Event,
) -> None:
    """Train from the state that was begun with or restored; the log begins with notes."""
    state, leads = training.state, training.world.leads
    trackers = training.experiment.evaluation.trackers
    log = RunLog(run, observe, trackers=trackers, mute=not leads, step=state.step)
    try:
        for what, detail in notes:
            log.event(state.step, what, detail)
        _loop(training, run, log, stop)
    except NonFiniteError as error:
        raise _explained(error, run, log) if leads else error from None
    finally:
        log.close()


def _begin(
    training: Training, run: Run, experiment: Experiment, *, resume: bool, source: Run | None
) -> list[tuple[str, str]]:
    """Begin a run or go back to its last state, under its lock; events for the log come back."""
    state, leads = training.state, training.world.leads
    reports = training.notes
    if not resume:
        training.facts = facts(training, run.directory)
        if source is not None:
            reports = reports + continue_from_run(training, source)
        if leads:
            Run.create(run.directory, experiment_yaml=experiment.to_yaml(), facts=training.facts)
            if source is not None:  # or a kill before the first save would begin at step 0
                save(training, run, seconds=state.seconds, meter={"sums": {}, "count": 0})
        return [("note", report) for report in reports]
    check_same(experiment, Run.open(run.directory))  # again, now that nobody else changes it
    saved = bool(run.steps())
    unusable = restore(training, run)
    reports = unusable if saved else reports + unusable
    if leads:
        reports = reports + truncate(run.log_file, state.step if saved else -1)
    training.validated = recall_best(training, run)
    if leads and saved:
        reports = reports + mend(training, run)
    resumed = ("resumed", f"resumed after step {state.step}")
    return [*(("note", report) for report in reports), resumed]


def _loop(training: Training, run: Run, log: RunLog, stop: threading.Event) -> None:
    experiment, state, world = training.experiment, training.state, training.world
    _agree(training)
    meter = Meter(step=state.step, seconds=state.seconds, device=training.device)
    if training.meter:
        meter.restore(training.meter)
    keeper = Keeper(training, run, log, meter)
    if world.any(_is_judged(training) and not training.validated):
        meter.paused(keeper.validate)
    stream = batches(
        training.share.source,
        state.step,
        stop=experiment.optimization.steps,
        workers=experiment.data.workers,
        rank=world.rank,
        world=world.size,
        device=training.device,
    )
    try:
        with stream:
            for lr, hr in stream:
                _step(training, lr, hr, log, meter)
                _keep(training, keeper, meter, stop)
    except (NonFiniteError, RankError):  # the weights are not to be trusted
        raise
    except Exception:
        keeper.rescue()
        raise
    keeper.finish()


def _is_judged(training: Training) -> bool:
    """Whether the student of this step is to be validated."""
    step, steps = training.state.step, training.experiment.optimization.steps
    return step > 0 and (step == steps or step % training.experiment.evaluation.every == 0)


def _step(training: Training, lr: Tensor, hr: Tensor, log: RunLog, meter: Meter) -> None:
    """Make a step, and log it."""
    experiment, state = training.experiment, training.state
    try:
        meter.add(advance(training, lr, hr), lr.shape[0] * training.world.size)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise advice(experiment, training.device) from error
        raise
    step, steps = state.step, experiment.optimization.steps
    left = meter.seconds_left(step, steps)
    log.observe({"kind": "step", "step": step, "steps": steps, "seconds_left": left})
    if not log.mute and (live := meter.live(step)) is not None:
        log.observe(live)
    if line_is_due(training):
        _log(training, log, meter)


def _keep(training: Training, keeper: Keeper, meter: Meter, stop: threading.Event) -> None:
    """Save and validate where it is time to, on all ranks alike; stop where a signal said so."""
    last = training.state.step == training.experiment.optimization.steps
    mine = torch.tensor([stop.is_set(), keeper.due], dtype=torch.uint8)
    stopped, due = torch.stack(training.world.gather(mine)).any(0).tolist()
    stopped = stopped and not last
    if _is_judged(training):
        meter.paused(partial(keeper.save, needed=stopped or last))
        meter.paused(keeper.validate)
    elif stopped or due:
        meter.paused(partial(keeper.save, needed=stopped))
    if stopped:
        raise Interrupted(training.state.step, keeper.run.directory)


def _log(training: Training, log: RunLog, meter: Meter) -> None:
    settle(training)
    compare_ranks(training)
    recorded = training.recording.notes() if training.recording else []
    for note in [*training.objective.notes(), *recorded]:
        log.event(training.state.step, "note", note)
    write_line(training, log, meter)


def _agree(training: Training) -> None:
    """Make sure that all ranks begin with the same experiment, files, torch and weights."""
    if training.world.size == 1:
        return
    common = (
        training.experiment.to_yaml(),
        training.share.patches.digest,
        training.teacher_sha256,
        torch.__version__,
    )
    digest = hashlib.sha256(" ".join(common).encode()).digest()
    training.world.agree("the experiment, its files or torch", digest)
    compare_ranks(training)


def _explained(error: NonFiniteError, run: Run, log: RunLog) -> NonFiniteError:
    path = run.directory / f"nonfinite-{error.step:08d}.pt"
    log.event(error.step, "non-finite", str(error))
    try:
        checkpoint.save(path, error.evidence)
        where = f"are in {path}"
    except OSError as failure:
        where = f"could not be written ({failure})"
    sound = "the last checkpoint is sound, and a new run can start from it (warm_start)"
    text = (
        f"{error}. The patches, their images' names and the weights before that step "
        f"{where}; {sound if run.steps() else 'nothing had been saved yet'}. A lower "
        "learning_rate, clip, or float32 often help"
    )
    return NonFiniteError(text, error.evidence, error.step)
