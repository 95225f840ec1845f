"""Commands about speed: bench, and cache, which runs a teacher before training starts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from dukd import recipes
from dukd.cli.terminal import Bar, note, say
from dukd.cli.train import experiment_of
from dukd.core.device import DeviceName, by_name
from dukd.core.distributed import World
from dukd.core.text import shown
from dukd.data.pack import Pack
from dukd.data.patches import Patches
from dukd.networks import NetworkConfig
from dukd.testing import speed
from dukd.training.assemble import assemble
from dukd.training.experiment import Experiment
from dukd.training.teachers import File, Teacher

_MOST_THREADS = 4096


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure speed: of a training step, a network, whole images, or the cutting of patches.

    Ways of doing one thing are timed in turns; medians, spread, ratios to the first way, and the
    share of what this machine does at best. On a CPU the clock is processor time.

    Example: dukd bench step edsr-x2-dukd --batch 4 --precision bfloat16
    """

    what: tyro.conf.Positional[Literal["step", "network", "upscale", "data"]]
    """What to measure."""
    on: tyro.conf.Positional[Path]
    """A recipe, a YAML file or a run, whose student is measured, for a step with its teacher and
    method; for data a pack."""
    batch: Annotated[int, tyro.conf.arg(aliases=["-b"])] = 4
    """Patches per step."""
    patch: int = 48
    """Side of a patch of lr, in pixels."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the forward passes."""
    channels_last: bool | None = None
    """Whether images lie in memory with their channels together; None for what was measured to be
    faster."""
    compile: bool = False
    """Whether networks go through torch.compile, for a step."""
    cuda_graphs: bool = False
    """Whether the networks' kernels are recorded and replayed, for a step on a GPU."""
    repetitions: int = 5
    """Of each way."""
    threads: int = 0
    """Threads on the CPU; 0 leaves the number alone."""
    device: DeviceName = "auto"
    """Where."""

    def __call__(self) -> int:
        if not 0 <= self.threads <= _MOST_THREADS:
            raise ValueError(
                f"--threads is {self.threads}, but lies between 0, which leaves the number alone, "
                f"and {_MOST_THREADS}"
            )
        for name in ("batch", "patch", "repetitions"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}, but at least 1 is needed")
        if self.threads:
            torch.set_num_threads(self.threads)
        say(self.measured(by_name(self.device)).table().to_markdown())
        return 0

    def measured(self, device: torch.device) -> speed.Result:
        """The measurement."""
        if self.what == "data":
            patches = Patches(Pack.open(self.on), patch=self.patch, batch=self.batch)
            return speed.data(patches, device=device, repetitions=self.repetitions)
        experiment = experiment_of(str(self.on))
        student = experiment.student
        match self.what:
            case "step":
                return speed.step(
                    student,
                    _teacher_of(experiment),
                    device=device,
                    method=experiment.method,
                    batch=self.batch,
                    patch=self.patch,
                    precision=self.precision,
                    channels_last=self.channels_last,
                    compile=self.compile,
                    cuda_graphs=self.cuda_graphs,
                    repetitions=self.repetitions,
                )
            case "network":
                return speed.network(
                    student,
                    device=device,
                    batch=self.batch,
                    patch=self.patch,
                    precision=self.precision,
                    channels_last=self.channels_last,
                    repetitions=self.repetitions,
                )
            case "upscale":
                return speed.upscale(student, device=device, repetitions=self.repetitions)


def _teacher_of(experiment: Experiment) -> NetworkConfig | Teacher | None:
    """The experiment's teacher; with random weights where a recipe's own file is absent."""
    teacher = experiment.teacher
    if not isinstance(teacher, File) or teacher.weights.exists():
        return teacher
    config = recipes.config_of(teacher, experiment.student.scale)
    if config is None:
        return teacher  # which says that there is no file
    note(
        f"{shown(teacher.weights)} is not there: the teacher has random weights, which cost the "
        "same"
    )
    return config


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Compute a teacher's outputs before training starts.

    Training does this by itself in its first period. A cache that is filled beforehand serves every
    run that shows the same images to the same teacher; interrupted, it continues where it stopped.

    Example: dukd cache mine.yaml
    """

    experiment: tyro.conf.Positional[Path]
    """A YAML file or a run, with a data.period above 0."""
    device: DeviceName = "auto"
    """Where the teacher runs."""

    def __call__(self) -> int:
        with Bar() as progress:
            world = World(device=by_name(self.device))
            training = assemble(experiment_of(str(self.experiment)), world, progress)
            computed = training.objective.fill(progress)
        cache = training.objective.cache
        assert cache is not None
        for text in [*training.notes, *cache.notes()]:
            say(text)
        say(f"{shown(cache.folder)}: {computed} of {cache.source.records} batches computed now")
        return 0
