"""How long a step, a batch of patches, a network and an upscaled image take."""

import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dukd import images
from dukd.core.distributed import World
from dukd.data.patches import Patches
from dukd.evaluation.timing import Precision, Result, Ways, ceiling, counted, interleaved
from dukd.methods import DUKD, Batch, Method, View
from dukd.methods.base import checked_views
from dukd.networks import NetworkConfig
from dukd.networks.base import set_memory_format
from dukd.networks.compile import begin_step
from dukd.networks.cost import macs
from dukd.networks.files import weights
from dukd.training.assemble import Training, assemble
from dukd.training.experiment import (
    Data,
    Evaluation,
    Experiment,
    Optimization,
    TeacherCache,
)
from dukd.training.log import peak_memory
from dukd.training.step import advance
from dukd.training.teachers import File, Teacher

_IMAGES = 4
_GENTLE = 1e-6
"""A rate that changes untrained weights but little."""


def _named(config: NetworkConfig) -> str:
    """A network by what differs from its defaults."""
    own = [
        f"{f.name} {getattr(config, f.name)}"
        for f in fields(config)
        if f.name != "scale" and getattr(config, f.name) != f.default
    ]
    return f"{config.name} x{config.scale}" + (f" ({', '.join(own)})" if own else "")


def network(
    config: NetworkConfig,
    *,
    device: torch.device,
    batch: int = 4,
    patch: int = 48,
    precision: Precision = "float32",
    channels_last: bool | None = None,
    repetitions: int = 5,
) -> Result:
    """Time a network's forward pass without a graph, and forward and backward together."""
    built = config.build().to(device)
    set_memory_format(built, channels_last=channels_last)
    lr = torch.rand(batch, 3, patch, patch, device=device)

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
        {"forward": without_graph, "forward and backward": both},
        device=device,
        repetitions=repetitions,
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
    ways: dict[str, Callable[[], object]] = {
        "cut on the processor": lambda: patches.batch(next(numbers))
    }
    if device.type == "cuda":
        resident = patches.on_device(device)
        ways["cut on the device"] = lambda: resident.batch(next(numbers))
    n = patches.batch(0)[0].shape[0]
    timings = interleaved(ways, device=device, repetitions=repetitions, warm_up=3)
    return Result(
        f"{n} patches of {patches.patch}", timings, n, "patches", memory_mb=peak_memory(device)
    )


def upscale(
    config: NetworkConfig,
    *,
    device: torch.device,
    height: int = 180,
    width: int = 320,
    precisions: Sequence[Precision] = ("float32", "bfloat16"),
    repetitions: int = 3,
) -> Result:
    """Time whole images, in every precision."""
    built = config.build().to(device).frozen()
    set_memory_format(built)
    lr = torch.rand(1, 3, height, width, device=device)

    def way(precision: Precision) -> Callable[[], object]:
        def run() -> None:
            with (
                torch.no_grad(),
                torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"),
            ):
                built(lr)

        return run

    timings = interleaved({p: way(p) for p in precisions}, device=device, repetitions=repetitions)
    pixels = height * width * config.scale**2
    return Result(
        f"{_named(config)}, one image to {width * config.scale} x {height * config.scale}",
        timings,
        per_run=pixels / 1e6,
        unit="megapixels",
        flops=dict.fromkeys(precisions, 2.0 * macs(built, height, width)),
        ceilings={p: ceiling(device, p) for p in precisions},
        memory_mb=peak_memory(device),
    )


@dataclass(frozen=True)
class Steps:
    """One training step in its ways, ready to be made over and over."""

    training: Training
    """With the teacher live; the others are like it."""
    ways: Ways
    notes: tuple[str, ...]
    """What a reader has to know."""

    @property
    def named(self) -> str:
        """Method, networks and batch."""
        training = self.training
        method, data = training.experiment.method, training.experiment.data
        taught = f"{_named(training.teacher.config)} to " if training.teacher is not None else ""
        return (
            f"{method.label}, {taught}{_named(training.state.student.config)}, "
            f"{data.batch} patches of {data.patch}"
        )


@contextmanager
def steps(
    student: NetworkConfig,
    teacher: NetworkConfig | Teacher | None,
    *,
    device: torch.device,
    method: Method | None = None,
    batch: int = 16,
    patch: int = 48,
    optimization: Optimization | None = None,
) -> Generator[Steps, None, None]:
    """Prepare a whole step of training: teacher live, teacher replayed, and the student alone.

    The images are noise, the student untrained: neither changes what a step costs. Outputs are
    replayed where the method allows it. The student alone makes its forward and backward passes on
    the images that the method shows it.

    Args:
        student: The network that learns.
        teacher: The other one: its file, or its numbers, which give it random weights; None for
            methods without one.
        device: Where.
        method: DUKD by default.
        batch: Patches per step.
        patch: Their side.
        optimization: Precision, memory layout, parts of the batch.

    Raises:
        ValueError: If the method needs a teacher and there is none, or the teacher does not fit.
    """
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        experiment = trial(student, teacher, method or DUKD(), Path(name), patch=patch, batch=batch)
        experiment = replace(experiment, optimization=optimization or Optimization())
        training = assemble(experiment, World(device=device))
        lr, hr = (x.to(device) for x in training.share.patches.batch(0))
        taught = training.teacher is not None
        first = "teacher live" if taught else "step"
        ways: Ways = {first: lambda: advance(training, lr, hr)}
        replaying = _replaying(experiment, device) if taught else None
        if replaying is not None:
            ways["teacher replayed"] = lambda: advance(replaying, lr, hr)
            notes.extend(replaying.objective.notes())
            ways["teacher alone"] = _taught(training, lr, hr)
        ways["student alone"] = alone(replaying or training, lr, hr)
        try:
            yield Steps(training, ways, tuple(notes))
        finally:
            if replaying is not None and replaying.objective.cache is not None:
                replaying.objective.cache.close()


def step(
    student: NetworkConfig,
    teacher: NetworkConfig | Teacher | None,
    *,
    device: torch.device,
    method: Method | None = None,
    batch: int = 16,
    patch: int = 48,
    precision: Precision = "float32",
    channels_last: bool | None = None,
    compile: bool = False,  # noqa: A002  the option's name
    cuda_graphs: bool = False,
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
        channels_last: Memory layout; None for each network's own.
        compile: Whether networks go through torch.compile.
        cuda_graphs: Whether their kernels are recorded and replayed.
        repetitions: Of each way.

    Raises:
        ValueError: If the method lacks its teacher, or the teacher does not fit.
    """
    optimization = Optimization(
        precision=precision,
        channels_last=channels_last,
        compile=compile,
        cuda_graphs=cuda_graphs,
        learning_rate=_GENTLE,
    )
    size = {"batch": batch, "patch": patch}
    with steps(
        student, teacher, device=device, method=method, optimization=optimization, **size
    ) as made:
        operations = {way: counted(run) for way, run in made.ways.items()}
        warm_up = 3 if compile or device.type == "cuda" else 0
        timings = interleaved(made.ways, device=device, repetitions=repetitions, warm_up=warm_up)
    return Result(
        f"{made.named}, {', '.join(_chosen(optimization))}",
        timings,
        per_run=batch,
        unit="patches",
        flops=operations,
        ceiling=ceiling(device, precision),
        memory_mb=peak_memory(device),
        notes=made.notes,
    )


def _chosen(optimization: Optimization) -> list[str]:
    """How a step is made, as far as it is special."""
    layout = {None: "", True: "channels last", False: "channels first"}[optimization.channels_last]
    graphs = "CUDA graphs" if optimization.cuda_graphs else ""
    compiled = "compiled" if optimization.compile else ""
    return [word for word in (optimization.precision, layout, compiled, graphs) if word]


def trial(
    student: NetworkConfig,
    teacher: NetworkConfig | Teacher | None,
    method: Method,
    folder: Path,
    *,
    patch: int,
    batch: int,
) -> Experiment:
    """Describe a run of a method and two networks; noise and a teacher's file go into a folder."""
    side = max(3 * patch, 64) * student.scale
    rng = np.random.default_rng(0)
    for i in range(_IMAGES):
        pixels = rng.integers(256, size=(side, side, 3), dtype=np.uint8)
        images.write(folder / "images" / f"{i}.png", images.Image(pixels=pixels))
    if isinstance(teacher, NetworkConfig):
        weights.write(folder / "teacher.safetensors", teacher.build())
        teacher = File(weights=folder / "teacher.safetensors")
    return Experiment(
        student=student,
        teacher=teacher,
        method=method,
        data=Data(train=folder / "images", packs=folder / "packs", patch=patch, batch=batch),
        teacher_cache=TeacherCache(folder=folder / "cache"),
        evaluation=Evaluation(teacher_images=0),
    )


def _replaying(experiment: Experiment, device: torch.device) -> Training:
    """Training whose teacher outputs are all kept."""
    once = replace(experiment, data=replace(experiment.data, period=1))
    training = assemble(once, World(device=device))
    training.objective.fill()
    return training


def alone(training: Training, lr: Tensor, hr: Tensor) -> Callable[[], object]:
    """The student's forward and backward passes on the images that its method shows it, alone."""
    student = training.state.student
    views = _views(training, lr, hr)
    passes = _merged([v.change.apply(v.image) if v.change else v.image for v in views])

    def run() -> None:
        student.zero_grad()
        _begin(training)
        with _autocast(training):
            made = [student(x) for x in passes]
        torch.stack([sr.float().mean() for sr in made]).sum().backward()

    return run


def _taught(training: Training, lr: Tensor, hr: Tensor) -> Callable[[], object]:
    """The teacher's forward passes on the images that the method shows it, and nothing else."""
    teacher = training.objective.distiller.teacher
    assert teacher is not None
    passes = _merged([v.image for v in _views(training, lr, hr) if v.taught])

    def run() -> None:
        _begin(training)
        with torch.no_grad(), _autocast(training):
            for x in passes:
                teacher(x)

    return run


def _begin(training: Training) -> None:
    optimization = training.experiment.optimization
    if optimization.cuda_graphs:
        begin_step(compiles=optimization.compile)


def _autocast(training: Training) -> torch.autocast:
    bfloat16 = training.experiment.optimization.precision == "bfloat16"
    return torch.autocast(training.device.type, torch.bfloat16, enabled=bfloat16)


def _views(training: Training, lr: Tensor, hr: Tensor) -> list[View]:
    """What the method shows of a batch, in all micro-batches and phases."""
    batches = [
        Batch(part.lr, part.hr, part.draws.method, part.step)
        for part in training.share.split(0, lr, hr)
    ]
    phases = training.experiment.method.phases
    return [view for phase in phases for batch in batches for view in checked_views(phase, batch)]


def _merged(images: Sequence[Tensor]) -> list[Tensor]:
    """Images of equal size in one batch, as they are shown."""
    sizes: dict[torch.Size, list[Tensor]] = {}
    for x in images:
        sizes.setdefault(x.shape[1:], []).append(x)
    return [torch.cat(some) for some in sizes.values()]
