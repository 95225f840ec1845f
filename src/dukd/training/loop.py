"""The training loop, and the only place that calls backward or step.

Everything a step does follows from the experiment and the number of the step: the patches are batch
``k`` of a seed, the method draws from a generator of (seed, k), and so does whatever the networks
draw themselves. A run that was killed therefore continues from its last checkpoint to the same bits
it would have reached.
"""

import hashlib
import math
import os
import signal
import threading
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dukd.core.device import numbered
from dukd.core.distributed import InOrder, World, fingerprint
from dukd.core.files import Progress, silent
from dukd.data.patches import batches
from dukd.methods import Losses
from dukd.networks.base import SRNetwork
from dukd.networks.compile import as_written, begin_step
from dukd.runs import checkpoint
from dukd.runs.directory import Run
from dukd.training.experiment import Experiment
from dukd.training.log import GRADIENT_NORM, Logbook, Meter, Observer, ignore
from dukd.training.memory import TooLittleMemoryError, advice, is_shortage
from dukd.training.nonfinite import Seen
from dukd.training.schedule import rate_factor, seed_networks
from dukd.training.session import Session, check_same
from dukd.training.validation import write_samples

_FAILED_SAVES = 3
"""Saves in a row that may fail before training stops."""
_ECHO = 2.0
"""Seconds within which a second signal to a rank is the launcher's."""


class Interrupted(Exception):  # noqa: N818  it is no error: everything is saved
    """Training stopped because it was asked to; the run can be resumed."""

    def __init__(self, step: int, directory: Path, *, how: str = "--resume") -> None:
        super().__init__(
            f"stopped after step {step}; everything is in {directory}, continue with {how}"
        )
        self.step = step


class NonFiniteError(ArithmeticError):
    """A loss became infinite or no number; the message says where everything needed to look into it is."""

    def __init__(self, message: str, evidence: Mapping[str, object], step: int) -> None:
        super().__init__(message)
        self.evidence = evidence
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
        is saved. dukd.core.distributed.PeerError: If another rank died or hangs.
        dukd.core.distributed.RankError: If the ranks cannot share a batch, or do not train the
        same.
    """
    world = world or World(device=numbered(torch.device(device)))
    directory = Path(directory)
    if resume:
        check_same(experiment, Run.open(directory))
    session = Session.prepare(experiment, world.device, progress, world)
    world.wait()
    if resume:
        run = Run.open(directory)
    elif world.leads:
        run = Run.create(directory, experiment_yaml=experiment.to_yaml(), facts=session.facts())
    else:
        run = Run(directory)
    with run.lock() if world.leads else nullcontext(), _stopping(world) as stop:
        logbook = Logbook(
            run, observe, tensorboard=experiment.evaluation.tensorboard, mute=not world.leads
        )
        try:
            with world.leader_first():
                _begin(session, run, logbook, resume=resume)
            _loop(session, run, logbook, stop)
        except NonFiniteError as error:
            raise _explained(error, run, logbook) if world.leads else error from None
        finally:
            logbook.close()
    return run.student


def _begin(session: Session, run: Run, logbook: Logbook, *, resume: bool) -> None:
    reports = session.restore(run) if resume else session.notes
    for report in reports:
        logbook.event(session.step, "note", report)
    if resume:
        logbook.event(session.step, "resumed", f"resumed after step {session.step}")


def _compare(session: Session) -> None:
    """Make sure that every rank has the same student and extras."""
    if session.world.size > 1:
        session.world.agree(
            f"the weights at step {session.step}", fingerprint(session.student, session.extras)
        )


def _loop(session: Session, run: Run, logbook: Logbook, stop: threading.Event) -> None:
    experiment, evaluation, world = session.experiment, session.experiment.evaluation, session.world
    optimization = experiment.optimization
    if world.size > 1:
        common = (
            experiment.to_yaml(),
            session.patches.pack.digest,
            session.teacher_sha256,
            torch.__version__,
        )
        world.agree(
            "the experiment, its files or torch", hashlib.sha256(" ".join(common).encode()).digest()
        )
        _compare(session)
    meter = Meter(step=session.step, seconds=session.seconds, device=session.device)
    keeper = _Keeper(session, run, logbook, meter)
    stream = batches(
        session.source,
        session.step,
        stop=optimization.steps,
        workers=experiment.data.workers,
        rank=world.rank,
        world=world.size,
        device=session.device,
    )
    with stream:
        for lr, hr in stream:
            try:
                meter.add(advance(session, lr, hr), lr.shape[0] * world.size)
            except (RuntimeError, MemoryError) as error:
                if is_shortage(error):
                    raise advice(experiment, session.device) from error
                raise
            step, last = session.step, session.step == optimization.steps
            left = meter.seconds_left(step, optimization.steps)
            logbook.observe(
                {"kind": "step", "step": step, "steps": optimization.steps, "seconds_left": left}
            )
            if last or step % evaluation.log_every == 0:
                settle(session)
                _compare(session)
                rate = optimization.learning_rate * rate_factor(optimization, step - 1)
                logbook.write(meter.record(step, rate))
            stopping = world.any(stop.is_set())
            if last or step % evaluation.every == 0:
                meter.paused(keeper.validate_and_save)
            elif stopping:
                meter.paused(keeper.save)
            if stopping and not last:
                raise Interrupted(step, run.directory)
    if world.leads and evaluation.samples and session.validation.sets:
        folder, label = run.directory / "samples", experiment.method.name
        with keeper.as_written():
            write_samples(
                session.validation,
                session.averaged,
                session.scored(),
                folder,
                evaluation.samples,
                label=label,
            )
    world.wait()


def advance(session: Session, lr: Tensor, hr: Tensor) -> dict[str, Tensor]:
    """Make one step.

    Args:
        session: What is trained; its step goes up by one.
        lr: ``(n, 3, h, w)``, uint8: this rank's share of the batch.
        hr: ``(n, 3, h * scale, w * scale)``, uint8.

    Returns:
        The losses by name, as the method weighs them, and the norm of the gradient; of the whole
        batch.

    Raises:
        NonFiniteError: If a loss is not finite; the weights are as before.
        dukd.core.distributed.PeerError: If another rank died or hangs.
    """
    optimization, method = session.experiment.optimization, session.experiment.method
    drawn = session.draws(session.step)
    seed_networks(optimization.seed, session.step)
    images = session.images(lr, hr)
    for group in session.optimizer.param_groups:
        group["lr"] = optimization.learning_rate * rate_factor(optimization, session.step)
    if session.bank is not None:
        session.bank.at(session.step)
    logged: dict[str, Tensor] = {}
    session.optimizer.zero_grad()
    if optimization.cuda_graphs:
        begin_step()
    for part in method.parts:
        losses, totals = _gradients(session, session.losses(part, *images, drawn))
        norm = nn.utils.clip_grad_norm_(session.trained(), optimization.clip or math.inf)
        seen = Seen(session.step + 1, lr, hr, losses, norm)
        if (bad := session.watch.look(seen, [*totals, norm])) is not None:
            raise _non_finite(session, bad)
        session.optimizer.step()
        logged |= losses | {GRADIENT_NORM: norm}
    if session.bank is not None:
        session.bank.done()
    session.step += 1
    update_average(session.averaged, session.student, optimization.ema)
    method.after_step(student=session.student, extras=session.extras, step=session.step)
    return logged


def _gradients(
    session: Session, micro_batches: Iterable[Losses]
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Add the gradient of a batch to what is there: its mean over micro-batches and ranks.

    Returns:
        The losses by name, means as well, and what has to be finite.
    """
    world, parameters = session.world, session.trained()
    in_order = InOrder(world, parameters) if session.experiment.optimization.deterministic else None
    share = 1 if in_order is not None else session.parts
    losses: dict[str, Tensor] = {}
    totals: list[Tensor] = []
    for named in micro_batches:
        total = torch.stack([loss.float() for loss in named.values()]).sum() / share
        total.backward()
        totals.append(total.detach())
        if in_order is not None:
            in_order.add(torch.stack([loss.detach().float() for loss in named.values()]))
        for name, loss in named.items():
            value = loss.detach().float() / share
            losses[name] = losses[name] + value if name in losses else value
    if in_order is not None:
        means = in_order.mean()
    elif world.size > 1:
        means = world.mean(parameters, torch.stack(list(losses.values())))
    else:
        return losses, totals
    return dict(zip(losses, means.unbind(), strict=True)), [means.sum()]


@torch.no_grad()
def update_average(averaged: SRNetwork, student: SRNetwork, decay: float) -> None:
    """Move the averaged weights towards the student's; buffers are copied (BasicSR leaves them, methods.md D52)."""
    get_ema_multi_avg_fn(decay)(list(averaged.parameters()), list(student.parameters()), None)
    for buffer, current in zip(averaged.buffers(), student.buffers(), strict=True):
        buffer.copy_(current)


def settle(session: Session) -> None:
    """Wait for what a GPU still has to say about the steps so far; called before anything is logged or saved.

    Raises:
        NonFiniteError: If a loss was not finite.
        dukd.training.cache.BankError: If an answer of the teacher's was to another question.
    """
    if (bad := session.watch.settle()) is not None:
        raise _non_finite(session, bad)
    if session.bank is not None:
        session.bank.verify()


def _non_finite(session: Session, bad: Seen) -> NonFiniteError:
    values = {name: loss.item() for name, loss in bad.losses.items()}
    norm = math.nan if bad.norm is None else bad.norm.item()
    lr, hr = (bad.lr, bad.hr) if session.world.size == 1 else session.patches.batch(bad.step - 1)
    evidence = {
        "step": bad.step,
        "images": session.patches.names(bad.step - 1),
        "losses": values,
        "gradient_norm": norm,
        "lr": lr.cpu(),
        "hr": hr.cpu(),
        "student": {name: value.cpu() for name, value in session.student.state_dict().items()},
    }
    names = ", ".join(f"{name} {value:g}" for name, value in values.items())
    if all(math.isfinite(value) for value in values.values()):
        text = f"the gradient of step {bad.step} is not finite, though its losses are ({names})"
    else:
        text = f"the loss of step {bad.step} is not finite ({names})"
    return NonFiniteError(text, evidence, bad.step)


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


class _Keeper:
    """Validates and saves; a disk that is full for a while does not end the run."""

    def __init__(self, session: Session, run: Run, logbook: Logbook, meter: Meter) -> None:
        self.session, self.run, self.logbook, self.meter = session, run, logbook, meter
        self._failed = 0

    def as_written(self) -> AbstractContextManager[object]:
        """A context in which nothing is compiled for the sizes of test images."""
        return as_written() if self.session.experiment.optimization.compile else nullcontext()

    def validate_and_save(self) -> None:
        session = self.session
        settle(session)
        if not session.world.leads:
            self.save()
            return
        best = False
        if session.validation.sets:
            try:
                with self.as_written():
                    record = session.validation.record(
                        session.step, session.averaged, session.scored()
                    )
            except (RuntimeError, MemoryError) as error:
                if not is_shortage(error):
                    raise
                if session.world.size == 1:  # the others are not there to agree
                    self.save()
                raise TooLittleMemoryError(
                    f"validating after step {session.step} does not fit into the memory of "
                    f"{session.device}: judge by smaller images (--evaluation.sets), then go on "
                    "with --resume"
                ) from error
            self.logbook.write(record)
            best = record["sets"][session.validation.first]["psnr_y"] > session.best
            session.best = max(record["sets"][session.validation.first]["psnr_y"], session.best)
        self.save(best=best)

    def save(self, *, best: bool = False) -> None:
        settle(self.session)
        # until the first rank has validated, which may take longer than a message may
        self.session.world.wait()
        _compare(self.session)
        if self.session.world.leads:
            self._save(best=best)
        self.session.world.wait()

    def _save(self, *, best: bool) -> None:
        try:
            self.session.save(self.run, seconds=self.meter.seconds(), best=best)
        except OSError as error:
            self._failed += 1
            last = self.session.step == self.session.experiment.optimization.steps
            if self._failed >= _FAILED_SAVES or last:
                raise
            self.logbook.event(
                self.session.step, "not saved", f"could not save, training goes on: {error}"
            )
        else:
            self._failed = 0


@contextmanager
def _stopping(world: World) -> Generator[threading.Event, None, None]:
    """Turn the first SIGINT or SIGTERM into a wish to stop; the second one ends the process at once.

    A launcher of several ranks passes on what the terminal has sent to each: that repeats a wish,
    and is no second one.
    """
    stop = threading.Event()
    wished = 0.0
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def wish(number: int, frame: FrameType | None) -> None:
        nonlocal wished
        del frame
        now = time.monotonic()
        if stop.is_set() and (world.size == 1 or now - wished > _ECHO):
            os._exit(128 + number)
        wished = now
        stop.set()

    before = {number: signal.signal(number, wish) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
