"""How long a step, a batch of patches, a network and an upscaled picture take, and what this machine could do at best.

Ways of doing one thing are timed in turns, so that whatever else slows the machine down slows all of them; the median
counts, and ratios are of medians. On the CPU the clock is processor time, which other programs hardly touch; on a GPU
it is the wall's, with the device waited for.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import override

from dukd import images, train
from dukd.bank import BankError
from dukd.data.patches import Patches
from dukd.experiment import Data, Evaluation, Experiment, Optimisation, Reuse, Teacher
from dukd.logbook import peak_memory
from dukd.methods import DUKD, Combined, Method
from dukd.networks import NetworkConfig, SRNetwork, weights
from dukd.networks._cost import macs
from dukd.networks._network import Wrapped
from dukd.session import Session

Precision = Literal["float32", "bfloat16"]
_PICTURES = 4
_GENTLE = 1e-6
"""A rate that changes untrained weights but little."""


@dataclass(frozen=True)
class Timing:
    """How long one way takes."""

    name: str
    """The way."""
    seconds: tuple[float, ...]
    """Of each repetition."""

    @property
    def median(self) -> float:
        """The middle one, in seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Distance between the slowest and the fastest, as a share of the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median


@dataclass(frozen=True)
class Ceiling:
    """The best this machine does."""

    flops: float
    """Floating-point operations per second in a product of large matrices."""
    bytes: float
    """Bytes per second, read and written, in a copy."""


@dataclass(frozen=True)
class Result:
    """What was measured, fit for a table."""

    what: str
    """What it is about, and on what."""
    timings: tuple[Timing, ...]
    """The first one is what ratios refer to."""
    per_run: float = 1.0
    """Things done by one run, such as patches or pixels."""
    unit: str = "runs"
    """What these things are."""
    flops: Mapping[str, float] = field(default_factory=dict[str, float])
    """Floating-point operations of one run, by way, where they are known."""
    ceiling: Ceiling | None = None
    """To compare with."""
    memory_mb: int = 0
    """Peak memory of the process or the device."""
    notes: tuple[str, ...] = ()
    """What a reader has to know beside the figures."""

    def ratio(self, name: str) -> float:
        """How many times faster than the first way another one is."""
        return self.timings[0].median / self.median(name)

    def median(self, name: str) -> float:
        """Seconds that a way takes."""
        return next(t for t in self.timings if t.name == name).median

    def to_markdown(self) -> str:
        """A table with a line per way."""
        lines = [
            f"{self.what}; peak memory {self.memory_mb} MB",
            *(f"{note}." for note in self.notes),
            "",
            f"| way | median | spread | {self.unit} per second | ratio | share of peak |",
            "|---|---|---|---|---|---|",
        ]
        for t in self.timings:
            share = "-"
            if t.name in self.flops and self.ceiling is not None:
                share = f"{100 * self.flops[t.name] / t.median / self.ceiling.flops:.0f} %"
            lines.append(
                f"| {t.name} | {_seconds(t.median)} | {_spread(t)} | {self.per_run / t.median:.4g} | "
                f"{self.ratio(t.name):.2f} | {share} |"
            )
        return "\n".join(lines) + "\n"


def _spread(timing: Timing) -> str:
    return f"{100 * timing.spread:.0f} %" if len(timing.seconds) > 1 else "-"


def _named(config: NetworkConfig) -> str:
    """A network by what differs from its kind's defaults."""
    own = [
        f"{f.name} {getattr(config, f.name)}"
        for f in fields(config)
        if f.name != "scale" and getattr(config, f.name) != f.default
    ]
    return f"{config.name} x{config.scale}" + (f" ({', '.join(own)})" if own else "")


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1e3 * value:.2f} ms"


def interleaved(
    ways: Mapping[str, Callable[[], object]], *, device: torch.device, repetitions: int = 5, warm_up: int = 1
) -> tuple[Timing, ...]:
    """Time several ways in turns.

    Args:
        ways: What to time, by name.
        device: Where it runs; decides which clock counts.
        repetitions: Of each way.
        warm_up: Further ones before, which do not count.

    Raises:
        ValueError: If there is nothing to time.
    """
    if repetitions < 1 or not ways:
        raise ValueError(f"timing needs a way and at least 1 repetition, but got {len(ways)} and {repetitions}")
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(-warm_up, repetitions):
        for name, way in ways.items():
            _wait(device)
            started = clock()
            way()
            _wait(device)
            if turn >= 0:
                seconds[name].append(clock() - started)
    return tuple(Timing(name, tuple(taken)) for name, taken in seconds.items())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def counted(way: Callable[[], object]) -> float:
    """Floating-point operations of matrix products and convolutions in one run of a way, which is made."""
    with FlopCounterMode(display=False) as counter, torch.compiler.set_stance("force_eager"):
        way()
    return float(counter.get_total_flops())


def ceiling(device: torch.device, precision: Precision = "float32", *, side: int = 0) -> Ceiling:
    """Measure a product of square matrices of ``side`` and a copy of 64 MiB; best of five."""
    side = side or (8192 if device.type == "cuda" else 1024)
    a, b = (torch.rand(side, side, device=device).to(getattr(torch, precision)) for _ in range(2))
    source = torch.zeros(16 << 20, device=device)
    target = torch.empty_like(source)
    ways = {"product": lambda: a @ b, "copy": lambda: target.copy_(source)}
    product, copy = interleaved(ways, device=device)
    return Ceiling(2 * side**3 / min(product.seconds), 2 * source.numel() * source.element_size() / min(copy.seconds))


def network(
    config: NetworkConfig,
    *,
    device: torch.device,
    batch: int = 4,
    patch: int = 48,
    precision: Precision = "float32",
    channels_last: bool = False,
    repetitions: int = 5,
) -> Result:
    """Time a network's forward pass without a graph, and forward and backward together."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    built = config.build().to(device)
    built.to(memory_format=layout)  # pyright: ignore[reportCallIssue]  torch documents it, its types lack it
    lr = torch.rand(batch, 3, patch, patch, device=device).to(memory_format=layout)

    def forward() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            return built(lr)

    def without_graph() -> None:
        with torch.no_grad():
            forward()

    def both() -> None:
        built.zero_grad()
        forward().float().square().mean().backward()

    timings = interleaved(
        {"forward": without_graph, "forward and backward": both}, device=device, repetitions=repetitions
    )
    forwards = 2.0 * batch * macs(built, patch, patch)
    return Result(
        f"{_named(config)}, {batch} patches of {patch}, {precision}",
        timings,
        per_run=batch,
        unit="patches",
        flops={"forward": forwards, "forward and backward": 3 * forwards},
        ceiling=ceiling(device, precision),
        memory_mb=peak_memory(device),
    )


def data(patches: Patches, *, device: torch.device, repetitions: int = 5) -> Result:
    """Time batches of patches, cut from the pack and, on a GPU, on the device."""
    numbers = iter(range(10**9))
    ways: dict[str, Callable[[], object]] = {"cut on the processor": lambda: patches.batch(next(numbers))}
    if device.type == "cuda":
        resident = patches.on_device(device)
        ways["cut on the device"] = lambda: resident.batch(next(numbers))
    n = patches.batch(0)[0].shape[0]
    timings = interleaved(ways, device=device, repetitions=repetitions, warm_up=3)
    return Result(f"{n} patches of {patches.patch}", timings, n, "patches", memory_mb=peak_memory(device))


def upscale(
    config: NetworkConfig,
    *,
    device: torch.device,
    height: int = 180,
    width: int = 320,
    precisions: Sequence[Precision] = ("float32", "bfloat16"),
    repetitions: int = 3,
) -> Result:
    """Time whole pictures, in every precision."""
    built = config.build().to(device).frozen()
    lr = torch.rand(1, 3, height, width, device=device)

    def way(precision: Precision) -> Callable[[], object]:
        def run() -> None:
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                built(lr)

        return run

    timings = interleaved({p: way(p) for p in precisions}, device=device, repetitions=repetitions)
    pixels = height * width * config.scale**2
    return Result(
        f"{_named(config)}, one picture to {width * config.scale} x {height * config.scale}",
        timings,
        per_run=pixels / 1e6,
        unit="megapixels",
        flops=dict.fromkeys(precisions, 2.0 * macs(built, height, width)),
        ceiling=ceiling(device, "float32"),
        memory_mb=peak_memory(device),
    )


Ways = dict[str, Callable[[], object]]
"""What can be timed, by name."""


@dataclass(frozen=True)
class Steps:
    """One training step in its ways, ready to be made over and over."""

    session: Session
    """With the teacher asked; the others are like it."""
    ways: Ways
    notes: tuple[str, ...]
    """What a reader has to know."""

    @property
    def named(self) -> str:
        """Method, networks and batch."""
        session = self.session
        method, data = session.experiment.method, session.experiment.data
        called = f"{method.base.name}+{method.upcycling.name}" if isinstance(method, Combined) else method.name
        taught = f"{_named(session.teacher.config)} to " if session.teacher_sha256 else ""
        return f"{called}, {taught}{_named(session.student.config)}, {data.batch} patches of {data.patch}"


@contextmanager
def steps(
    student: NetworkConfig,
    teacher: NetworkConfig | Teacher | None,
    *,
    device: torch.device,
    method: Method | None = None,
    batch: int = 16,
    patch: int = 48,
    optimisation: Optimisation | None = None,
) -> Generator[Steps, None, None]:
    """Prepare a whole step of training: with the teacher asked, with its answers replayed, and the student alone.

    The pictures are noise, the student untrained: neither changes what a step costs. Answers are replayed where the
    method allows it. The student alone makes its forward and backward passes on the pictures that the method shows it.

    Args:
        student: The network that learns.
        teacher: The other one: its file, or its numbers, which give it random weights; None for methods without one.
        device: Where.
        method: DUKD by default.
        batch: Patches per step.
        patch: Their side.
        optimisation: Precision, memory layout, parts of the batch.

    Raises:
        ValueError: If the method needs a teacher and there is none, or the teacher does not fit.
    """
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        experiment = trial(student, teacher, method or DUKD(), Path(name), patch=patch, batch=batch)
        experiment = replace(experiment, optimisation=optimisation or Optimisation())
        session = Session.prepare(experiment, device)
        lr, hr = (x.to(device) for x in session.patches.batch(0))
        first = "teacher asked" if session.teacher_sha256 else "step"
        ways: Ways = {first: lambda: train.advance(session, lr, hr)}
        replaying = _replaying(experiment, device, notes) if session.teacher_sha256 else None
        if replaying is not None:
            ways["teacher replayed"] = lambda: train.advance(replaying, lr, hr)
        ways["student alone"] = alone(replaying or session, lr, hr)
        try:
            yield Steps(session, ways, tuple(notes))
        finally:
            if replaying is not None and replaying.bank is not None:
                replaying.bank.bank.close()


def step(
    student: NetworkConfig,
    teacher: NetworkConfig | Teacher | None,
    *,
    device: torch.device,
    method: Method | None = None,
    batch: int = 16,
    patch: int = 48,
    precision: Precision = "float32",
    channels_last: bool = False,
    compile: bool = False,  # noqa: A002  the option's name
    repetitions: int = 5,
) -> Result:
    """Time the ways of `steps`. Operations are counted in the run that warms up.

    Args:
        student: The network that learns.
        teacher: The other one, as for `steps`.
        device: Where.
        method: DUKD by default.
        batch: Patches per step.
        patch: Their side.
        precision: Of the forward passes.
        channels_last: Memory layout.
        compile: Whether networks go through torch.compile.
        repetitions: Of each way.

    Raises:
        ValueError: If the method needs a teacher and there is none, or the teacher does not fit.
    """
    optimisation = Optimisation(
        precision=precision, channels_last=channels_last, compile=compile, learning_rate=_GENTLE
    )
    with steps(
        student, teacher, device=device, method=method, batch=batch, patch=patch, optimisation=optimisation
    ) as made:
        operations = {way: counted(run) for way, run in made.ways.items()}
        warm_up = 2 if compile or device.type == "cuda" else 0
        timings = interleaved(made.ways, device=device, repetitions=repetitions, warm_up=warm_up)
        memory = peak_memory(device)
    return Result(
        f"{made.named}, {precision}{', channels last' if channels_last else ''}{', compiled' if compile else ''}",
        timings,
        per_run=batch,
        unit="patches",
        flops=operations,
        ceiling=ceiling(device, precision),
        memory_mb=memory,
        notes=made.notes,
    )


def trial(
    student: NetworkConfig,
    teacher: NetworkConfig | Teacher | None,
    method: Method,
    folder: Path,
    *,
    patch: int,
    batch: int,
) -> Experiment:
    """Describe a run of a method and two networks, and write what it needs into a folder: noise, a teacher's file."""
    side = max(3 * patch, 64) * student.scale
    rng = np.random.default_rng(0)
    for i in range(_PICTURES):
        pixels = rng.integers(256, size=(side, side, 3), dtype=np.uint8)
        images.write(folder / "pictures" / f"{i}.png", images.Picture(pixels=pixels))
    if isinstance(teacher, NetworkConfig):
        weights.write(folder / "teacher.safetensors", teacher.build())
        teacher = Teacher(weights=folder / "teacher.safetensors")
    return Experiment(
        student=student,
        teacher=teacher,
        method=method,
        data=Data(train=folder / "pictures", packs=folder / "packs", patch=patch, batch=batch),
        reuse=Reuse(folder=folder / "banks"),
        evaluation=Evaluation(teacher_pictures=0),
    )


def _replaying(experiment: Experiment, device: torch.device, notes: list[str]) -> Session | None:
    """A session whose bank has all answers; None, and a note, where a method runs the teacher's parts."""
    try:
        session = Session.prepare(replace(experiment, data=replace(experiment.data, period=1)), device)
    except BankError as error:
        notes.append(f"nothing is replayed: {str(error).split(':', maxsplit=1)[0]}")
        return None
    if session.bank is not None:
        session.fill()
    return session


def alone(session: Session, lr: Tensor, hr: Tensor) -> Callable[[], object]:
    """The student's forward and backward passes on the pictures that its method shows it, and nothing else."""
    heard = _Heard(session.student)
    listening = replace(session, student=heard, turned=None)
    pictures, drawn = session.pictures(lr, hr), session.draws(0)
    if session.bank is not None:
        session.bank.at(0)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for part in session.experiment.method.parts:
            for _ in listening.losses(part, *pictures, drawn):
                pass
    bfloat16 = session.experiment.optimisation.precision == "bfloat16"

    def run() -> None:
        session.student.zero_grad()
        with torch.autocast(session.device.type, torch.bfloat16, enabled=bfloat16):
            answers = [session.student(x) for x in heard.inputs]
        torch.stack([answer.float().mean() for answer in answers]).sum().backward()

    return run


class _Heard(Wrapped):
    """A network that remembers what it was shown."""

    def __init__(self, network: SRNetwork) -> None:
        super().__init__(network)
        self.inputs: list[Tensor] = []

    @override
    def begin(self, lr: Tensor) -> Tensor:
        self.inputs.append(lr.detach())
        return super().begin(lr)
