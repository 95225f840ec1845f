"""The training loop, and the only place that calls backward or step.

Everything a step does follows from the experiment and the number of the step: the patches are batch ``k`` of a seed,
the method draws from a generator of (seed, k), and so does whatever the networks draw themselves. A run that was
killed therefore continues from its last checkpoint to the same bits it would have reached.
"""

import copy
import hashlib
import math
import os
import platform
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam

from dukd import checkpoint, config
from dukd._version import __version__
from dukd.checkpoint import Run
from dukd.data.pack import Pack, prepare
from dukd.data.pairs import find_pairs
from dukd.data.patches import Patches, batches
from dukd.experiment import KINDS, Experiment, Optimisation
from dukd.files import Progress, sha256, silent
from dukd.networks import weights
from dukd.networks._network import NoTeacher, SRNetwork
from dukd.validation import Validation, try_teacher, write_samples

Record = Mapping[str, object]
Observer = Callable[[Record], None]
"""Told every line of the log as it is written, and ``{"kind": "step", ...}`` after every step."""


class Interrupted(Exception):  # noqa: N818  it is no error: everything is saved
    """Training stopped because it was asked to; the run can be resumed."""

    def __init__(self, step: int, directory: Path) -> None:
        super().__init__(f"stopped after step {step}; everything is in {directory}, continue with --resume")
        self.step = step


class NonFiniteError(ArithmeticError):
    """A loss became infinite or no number; the message says where everything needed to look into it is."""

    def __init__(self, message: str, evidence: Mapping[str, object]) -> None:
        super().__init__(message)
        self.evidence = evidence


def ignore(record: Record) -> None:
    """Tell nobody."""
    del record


def train(
    experiment: Experiment,
    directory: Path,
    *,
    resume: bool = False,
    device: torch.device | str = "cpu",
    observe: Observer = ignore,
    progress: Progress = silent,
) -> Path:
    """Train a student.

    Args:
        experiment: What to do.
        directory: The run directory; see ``docs/architecture.md`` for what is in it.
        resume: Go on with the run that is in the directory, to the same result as if it had never stopped.
        device: Where to train.
        observe: Told of every step and every line of the log.
        progress: Told how far the preparation of data has come.

    Returns:
        The file of the averaged student.

    Raises:
        ValueError: If the experiment cannot be run as it is; nothing is written then.
        dukd.checkpoint.CheckpointError: If the directory is used already, or holds nothing to resume.
        NonFiniteError: If a loss is not finite.
        Interrupted: After SIGINT or SIGTERM, when the step is finished and everything is saved.
    """
    directory = Path(directory)
    if resume:
        _same_experiment(experiment, directory)
    session = _Session.prepare(experiment, torch.device(device), progress)
    run = (
        Run.open(directory)
        if resume
        else Run.create(directory, experiment_yaml=experiment.to_yaml(), facts=session.facts())
    )
    with run.lock(), _stopping() as stop:
        tell = _Teller(run, observe, session.experiment.evaluation.tensorboard)
        if resume:
            session.restore(run, tell)
        for note in session.notes:
            tell.event(session.step, "note", note)
        try:
            _loop(session, run, tell, stop)
        except NonFiniteError as error:
            path = run.directory / f"nonfinite-{session.step + 1:08d}.pt"
            checkpoint.save(path, error.evidence)
            tell.event(session.step + 1, "non-finite", str(error))
            raise NonFiniteError(
                f"{error}. The patches, their pictures' names and the weights before the step are in {path}; the last "
                "checkpoint is sound. A lower learning_rate, clip or float32 often help",
                error.evidence,
            ) from None
        finally:
            tell.close()
    return run.student


def _loop(session: "_Session", run: Run, tell: "_Teller", stop: threading.Event) -> None:
    experiment = session.experiment
    steps, evaluation = experiment.optimisation.steps, experiment.evaluation
    meter = _Meter(session)
    stream = batches(session.patches, session.step, stop=steps, workers=experiment.data.workers, device=session.device)
    with stream:
        for lr, hr in stream:
            losses = session.advance(lr, hr)
            step = session.step
            meter.add(losses, lr.shape[0])
            tell.step(step, steps, meter)
            last = step == steps
            if last or step % evaluation.log_every == 0:
                tell.log(meter.record(step))
            if last or step % evaluation.every == 0:
                meter.paused(lambda: _validate_and_save(session, run, tell))
            if stop.is_set() and not last:
                if step % evaluation.every:
                    session.save(run)
                raise Interrupted(step, run.directory)
    if evaluation.samples:
        write_samples(
            session.validation,
            session.averaged,
            session.teacher if session.teacher_sha256 else None,
            run.directory / "samples",
            evaluation.samples,
            label=experiment.method.name,
        )


def _validate_and_save(session: "_Session", run: Run, tell: "_Teller") -> None:
    best = False
    if session.validation.sets:
        record = session.validate()
        tell.log(record)
        first = next(iter(cast("Mapping[str, Mapping[str, float]]", record["sets"]).values()))["psnr_y"]
        best = first > session.best
        session.best = max(first, session.best)
    session.save(run, best=best)


@dataclass
class _Session:
    """Everything that a run changes, and what it needs to change it."""

    experiment: Experiment
    device: torch.device
    student: SRNetwork
    averaged: SRNetwork
    teacher: SRNetwork
    extras: nn.Module
    optimiser: Adam
    patches: Patches
    validation: Validation
    teacher_sha256: str
    notes: list[str] = field(default_factory=list[str])
    step: int = 0
    best: float = -math.inf

    @classmethod
    def prepare(cls, experiment: Experiment, device: torch.device, progress: Progress) -> "_Session":
        """Build everything, and refuse what cannot work, before anything is written."""
        notes: list[str] = []
        optimisation = experiment.optimisation
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(optimisation.seed)
            student = experiment.student.build()
            if optimisation.warm_start is not None:
                notes.append(warm_start(student, optimisation.warm_start))
            teacher, digest = _teacher(experiment, notes)
            extras = experiment.method.extras(student, teacher)
        pack = open_pack(experiment.data.train, experiment.data.lr, student.scale, experiment.data.packs, progress)
        data = experiment.data
        patches = Patches(
            pack,
            patch=data.patch,
            batch=data.batch,
            seed=optimisation.seed,
            flips=data.flips,
            rotations=data.rotations,
            period=data.period,
            by_area=data.by_area,
        )
        layout = torch.channels_last if optimisation.channels_last else torch.contiguous_format
        for network in (student, teacher, extras):
            network.to(device, memory_format=layout)
        validation = Validation.open(experiment.evaluation, student.scale, device)
        session = cls(
            experiment=experiment,
            device=device,
            student=student.train(),
            averaged=copy.deepcopy(student).frozen(),
            teacher=teacher.frozen(),
            extras=extras.train(),
            optimiser=_optimiser(optimisation, student, extras),
            patches=patches,
            validation=validation,
            teacher_sha256=digest,
            notes=notes,
        )
        if experiment.method.needs_teacher and experiment.evaluation.teacher_pictures and validation.sets:
            notes.append(try_teacher(session.teacher, validation, experiment.evaluation.teacher_pictures))
        if optimisation.compile:
            for network in (session.student, session.teacher):
                _compile(network)
        return session

    def advance(self, lr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        """Make one step on a batch of uint8 patches; return its losses by name."""
        optimisation, method = self.experiment.optimisation, self.experiment.method
        k = self.step % self.experiment.data.period if self.experiment.data.period else self.step
        rng = generator(optimisation.seed, 1, k)
        torch.manual_seed(_seed(optimisation.seed, 2, self.step))
        layout = torch.channels_last if optimisation.channels_last else torch.contiguous_format
        lr, hr = (x.to(torch.float32, memory_format=layout).div_(255) for x in (lr, hr))
        for group in self.optimiser.param_groups:
            group["lr"] = optimisation.learning_rate * rate_factor(optimisation, self.step)
        self.optimiser.zero_grad()
        logged: dict[str, Tensor] = {}
        for part in method.parts:
            count = optimisation.accumulate
            for some_lr, some_hr in zip(lr.chunk(count), hr.chunk(count), strict=True):
                with self.autocast():
                    losses = part.losses(
                        student=self.student, teacher=self.teacher, extras=self.extras, lr=some_lr, hr=some_hr, rng=rng
                    )
                total = torch.stack([loss.float() for loss in losses.values()]).sum() / count
                self.check(total, losses, lr, hr)
                total.backward()
                for name, loss in losses.items():
                    logged[name] = logged.get(name, torch.zeros((), device=self.device)) + loss.detach() / count
            parameters = _trained(self.student, self.extras)
            logged["gradient_norm"] = nn.utils.clip_grad_norm_(parameters, optimisation.clip or math.inf)
            self.optimiser.step()
        self.step += 1
        update_average(self.averaged, self.student, optimisation.ema)
        method.after_step(student=self.student, extras=self.extras, step=self.step)
        return logged

    def autocast(self) -> torch.autocast:
        """bfloat16 where the experiment asks for it."""
        enabled = self.experiment.optimisation.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def check(self, total: Tensor, losses: Mapping[str, Tensor], lr: Tensor, hr: Tensor) -> None:
        """Stop before a loss that is not finite reaches the weights."""
        if bool(torch.isfinite(total)):
            return
        names = ", ".join(f"{name} {float(loss):g}" for name, loss in losses.items())
        evidence = {
            "step": self.step + 1,
            "pictures": self.patches.names(self.step),
            "losses": {name: float(loss) for name, loss in losses.items()},
            "lr": lr.cpu(),
            "hr": hr.cpu(),
            "student": _cpu(self.student.state_dict()),
        }
        raise NonFiniteError(f"the loss of step {self.step + 1} is not finite ({names})", evidence)

    def validate(self) -> dict[str, object]:
        """Measure the averaged student on every set."""
        started = time.perf_counter()
        sets = self.validation.measure(self.averaged, self.teacher if self.teacher_sha256 else None)
        return {"kind": "validation", "step": self.step, "sets": sets, "seconds": time.perf_counter() - started}

    def save(self, run: Run, *, best: bool = False) -> None:
        """Write the averaged student and the checkpoint."""
        facts = {"step": str(self.step), "method": self.experiment.method.name, "teacher_sha256": self.teacher_sha256}
        facts["data_digest"] = self.patches.pack.digest
        run.save_state(self.step, self.state(), best=best)
        weights.write(run.student, self.averaged, metadata=facts)
        if best:
            weights.write(run.best_student, self.averaged, metadata=facts)

    def state(self) -> dict[str, object]:
        """Everything needed to go on."""
        return {
            "student": _cpu(self.student.state_dict()),
            "averaged": _cpu(self.averaged.state_dict()),
            "extras": _cpu(self.extras.state_dict()),
            "optimiser": [_cpu(self.optimiser.state[p]) for p in _trained(self.student, self.extras)],
            "best": self.best,
            "data_digest": self.patches.pack.digest,
            "teacher_sha256": self.teacher_sha256,
        }

    def restore(self, run: Run, tell: "_Teller") -> None:
        """Go back to the newest sound checkpoint."""
        loaded = run.load_state()
        state = cast("dict[str, Any]", loaded.state)
        for name, ours in (("data_digest", self.patches.pack.digest), ("teacher_sha256", self.teacher_sha256)):
            if state[name] != ours:
                what = "the training pictures" if name == "data_digest" else "the teacher's file"
                raise checkpoint.CheckpointError(
                    f"{run.directory}: {what} changed since step {loaded.step} ({name} was {state[name][:12]}, is "
                    f"{ours[:12]}): bring the old ones back, or start another run with warm_start"
                )
        for name in ("student", "averaged", "extras"):
            cast("nn.Module", getattr(self, name)).load_state_dict(state[name])
        for p, values in zip(_trained(self.student, self.extras), state["optimiser"], strict=True):
            self.optimiser.state[p] = {n: v.to(p.device) for n, v in values.items()}
        self.best, self.step = float(state["best"]), loaded.step
        run.truncate_log(loaded.step)
        for report in loaded.reports:
            tell.event(self.step, "checkpoint", report)
        tell.event(self.step, "resumed", f"from step {self.step}")

    def facts(self) -> dict[str, object]:
        """What a reader of the results wants to know of how they came to be."""
        pack, teacher = self.patches.pack, self.teacher
        has_teacher = bool(self.teacher_sha256)
        return {
            "dukd": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else platform.machine(),
            "threads": torch.get_num_threads(),
            "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "seed": self.experiment.optimisation.seed,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "method": self.experiment.method.name,
            "scale": self.student.scale,
            "steps": self.experiment.optimisation.steps,
            "data_digest": pack.digest,
            "data_pictures": len(pack),
            "lr_source": pack.lr_source,
            "teacher_sha256": self.teacher_sha256,
            "student_parameters": self.student.parameter_count(),
            "teacher_parameters": teacher.parameter_count() if has_teacher else None,
        }


def generator(seed: int, stream: int, k: int) -> torch.Generator:
    """A generator on the CPU that depends on these numbers alone."""
    return torch.Generator().manual_seed(_seed(seed, stream, k))


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def rate_factor(optimisation: Optimisation, step: int) -> float:
    """Factor of the learning rate for the step after ``step`` steps are done; a pure function of both."""
    steps = optimisation.steps
    if step < optimisation.warm_up:
        return (step + 1) / optimisation.warm_up
    match optimisation.schedule:
        case "constant":
            return 1.0
        case "step":
            return optimisation.decay ** sum(step >= round(m * steps) for m in optimisation.milestones)
        case "cosine":
            done = (step - optimisation.warm_up) / (steps - optimisation.warm_up)
            return 0.5 * (1 + math.cos(math.pi * done))
        case "one-cycle":
            rise = max(1, round(0.3 * steps))
            if step < rise:
                return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * (step + 1) / rise))
            return 0.5 * (1 + math.cos(math.pi * (step + 1 - rise) / (steps - rise + 1)))


@torch.no_grad()
def update_average(averaged: SRNetwork, student: SRNetwork, decay: float) -> None:
    """Move the averaged weights towards the student's; buffers are copied (BasicSR leaves them, methods.md D52)."""
    torch._foreach_lerp_(list(averaged.parameters()), list(student.parameters()), 1 - decay)
    for ours, theirs in zip(averaged.buffers(), student.buffers(), strict=True):
        ours.copy_(theirs)


def _trained(*modules: nn.Module) -> list[nn.Parameter]:
    return [p for p in chain.from_iterable(m.parameters() for m in modules) if p.requires_grad]


def _optimiser(optimisation: Optimisation, *modules: nn.Module) -> Adam:
    return Adam(
        _trained(*modules),
        lr=optimisation.learning_rate,
        betas=optimisation.betas,
        weight_decay=optimisation.weight_decay,
        fused=True,
    )


def _cpu(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.detach().cpu().clone() if isinstance(value, Tensor) else value for name, value in state.items()}


def _teacher(experiment: Experiment, notes: list[str]) -> tuple[SRNetwork, str]:
    if experiment.teacher is None or not experiment.method.needs_teacher:
        return NoTeacher(experiment.student), ""
    described = experiment.teacher
    teacher = weights.read(
        described.weights,
        scale=experiment.student.scale,
        value_range=described.value_range,
        mean=described.mean,
        residual_scale=described.residual_scale,
    )
    notes.append(f"the teacher is {teacher.config}, {teacher.parameter_count():,} parameters, from {described.weights}")
    return teacher.frozen(), sha256(described.weights)


def warm_start(student: SRNetwork, path: Path) -> str:
    """Copy every tensor that has the same name and shape from a file, which may be of another scale.

    Returns:
        A sentence that says how much was taken.

    Raises:
        ValueError: If nothing fits.
    """
    theirs = weights.read(path).state_dict()
    ours = student.state_dict()
    fitting = {name: value for name, value in theirs.items() if name in ours and ours[name].shape == value.shape}
    if not fitting:
        raise ValueError(f"{path}: none of its tensors fits the student, so it cannot start from there")
    student.load_state_dict(ours | fitting)
    left = [name for name in ours if name not in fitting]
    rest = f"; new are {', '.join(left[:4])}{' ...' if len(left) > 4 else ''}" if left else ""  # noqa: PLR2004
    return f"the student starts with {len(fitting)} of {len(ours)} tensors from {path}{rest}"


def open_pack(source: Path, lr: Path | None, scale: int, packs: Path, progress: Progress = silent) -> Pack:
    """Open a pack, or make one from a folder of pictures where there is none yet.

    Raises:
        ValueError: If the pack is of another scale, or the folder's pictures do not pair.
    """
    if source.is_file():
        pack = Pack.open(source)
        if pack.scale != scale:
            raise ValueError(
                f"{source} is a pack for x{pack.scale}, but the student is x{scale}: prepare one for x{scale}"
            )
        return pack
    pairs = find_pairs(source, scale=scale, lr=lr)
    where = source.resolve()
    mark = hashlib.sha256(f"{where} {lr}".encode()).hexdigest()[:8]
    return prepare(pairs, packs / f"{where.name}-x{scale}-{mark}.pack", progress=progress)


def _compile(network: SRNetwork) -> None:
    """Compile the pass that methods ask for; fall back to eager where that fails."""
    eager = network.forward_with_features
    network.forward_with_features = torch.compile(eager)


_MAY_CHANGE = ("evaluation.", "data.workers", "data.packs", "optimisation.compile")


def _same_experiment(experiment: Experiment, directory: Path) -> None:
    """Refuse to go on with a run as something else than it began.

    Raises:
        CheckpointError: If anything that changes the result differs; it lists what.
    """
    before = _flat(Experiment.from_file(Run.open(directory).experiment))
    now = _flat(experiment)
    changed = [
        f"{key} was {before.get(key)}, is {now.get(key)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(_MAY_CHANGE)
    ]
    if changed:
        raise checkpoint.CheckpointError(
            f"{directory} was begun as another experiment: {'; '.join(changed)}. Resume it as it was, or choose another"
        )


def _flat(experiment: Experiment) -> dict[str, object]:
    def walk(value: object, key: str) -> Generator[tuple[str, object], None, None]:
        if isinstance(value, dict):
            for name, inner in cast("dict[str, object]", value).items():
                yield from walk(inner, f"{key}.{name}" if key else name)
        else:
            yield key, value

    return dict(walk(config.plain(experiment, kinds=KINDS), ""))


class _Meter:
    """Means of what happens between two lines of the log; nothing is fetched from the device before that."""

    def __init__(self, session: _Session) -> None:
        self.session = session
        self.begun = time.perf_counter()
        self.first = session.step
        self.reset()

    def reset(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0
        self.pictures = 0
        self.total = torch.zeros(())
        self.since = time.perf_counter()

    def add(self, values: Mapping[str, Tensor], pictures: int) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
        self.total = torch.stack([v.float() for n, v in values.items() if n != "gradient_norm"]).sum()
        self.count += 1
        self.pictures += pictures

    def paused(self, action: Callable[[], None]) -> None:
        """Do something that is no training, without counting its time."""
        started = time.perf_counter()
        action()
        lost = time.perf_counter() - started
        self.begun += lost
        self.since += lost

    def seconds(self) -> float:
        return time.perf_counter() - self.begun

    def record(self, step: int) -> dict[str, object]:
        optimisation = self.session.experiment.optimisation
        means = {name: float(value) / self.count for name, value in self.sums.items()}
        norm = means.pop("gradient_norm")
        spent = max(time.perf_counter() - self.since, 1e-9)
        record: dict[str, object] = {
            "kind": "train",
            "step": step,
            "losses": means,
            "total": sum(means.values()),
            "total_hex": float(self.total).hex(),
            "gradient_norm": norm,
            "learning_rate": optimisation.learning_rate * rate_factor(optimisation, step - 1),
            "images_per_second": self.pictures / spent,
            "seconds": self.seconds(),
            "memory_mb": _memory(self.session.device),
        }
        self.reset()
        return record


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> 20 if sys.platform == "darwin" else peak >> 10


class _Teller:
    """Writes the log, and tells the observer."""

    def __init__(self, run: Run, observe: Observer, tensorboard: bool) -> None:  # noqa: FBT001
        self.run = run
        self.observe = observe
        self.board = _board(run.directory / "tensorboard") if tensorboard else None

    def log(self, record: Record) -> None:
        self.run.log(record)
        self.observe(record)
        if self.board is not None:
            step = cast("int", record["step"])
            for name, value in _scalars(record, ""):
                self.board.add_scalar(name, value, step)

    def step(self, step: int, steps: int, meter: _Meter) -> None:
        done = max(1, step - meter.first)
        left = meter.seconds() / done * (steps - step)
        self.observe({"kind": "step", "step": step, "steps": steps, "seconds_left": left})

    def event(self, step: int, what: str, detail: str) -> None:
        self.log({"kind": "event", "step": step, "what": what, "detail": detail})

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


def _scalars(record: object, name: str) -> Generator[tuple[str, float], None, None]:
    if isinstance(record, Mapping):
        for key, value in cast("Mapping[str, object]", record).items():
            yield from _scalars(value, f"{name}/{key}" if name else key)
    elif isinstance(record, int | float) and name != "step":
        yield name, float(record)


def _board(folder: Path) -> Any:  # noqa: ANN401  an optional package's class
    try:
        from torch.utils.tensorboard.writer import SummaryWriter  # noqa: PLC0415
    except ImportError:
        raise ValueError("evaluation.tensorboard needs the package: pip install 'dukd[tensorboard]'") from None
    return SummaryWriter(str(folder))


@contextmanager
def _stopping() -> Generator[threading.Event, None, None]:
    """Turn the first SIGINT or SIGTERM into a wish to stop; the second one ends the process at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def wish(number: int, frame: FrameType | None) -> None:
        del frame
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    before = {number: signal.signal(number, wish) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
