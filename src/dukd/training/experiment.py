"""A whole run as one value: student, teacher, method, data, optimization and evaluation."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

from dukd.core import config
from dukd.core.given import refuse
from dukd.core.registry import known
from dukd.data.patches import Residence
from dukd.evaluation.metrics import find
from dukd.images.degrade import Bicubic, Degradation, presets
from dukd.images.invertible import SYMMETRIES, Operation
from dukd.methods import Method, Scratch, Upcycling
from dukd.methods.base import needs_teacher
from dukd.networks import NetworkConfig, QuantizedConfig
from dukd.training.checks import check, check_finite, check_paths, check_word
from dukd.training.teachers import Teacher

REGISTRY: config.Registry = {
    NetworkConfig: lambda: known(NetworkConfig),
    Method: lambda: known(Method),
    Upcycling: lambda: known(Upcycling),
    Degradation: presets,
    Teacher: lambda: known(Teacher),
}


@dataclass(frozen=True, kw_only=True)
class Data:
    """Training images, and how patches are cut from them."""

    train: Path
    """Folder of images in any layout the field uses, or a pack made by ``dukd prepare``."""
    lr: Path | None = None
    """Folder of low-resolution images, where it does not lie beside the others."""
    packs: Path = Path("packs")
    """Folder for packs that training makes from folders."""
    degradation: Degradation = field(default_factory=Bicubic)
    """What makes low-resolution patches: bicubic (or the files that lie beside), or one that is
    drawn anew for every patch: real-esrgan, bsrgan, adcsr, redux, jpeg, jpeg-40; its name, or a
    mapping with numbers of its own."""
    skip_bad: bool = False
    """Whether images that cannot be used are left out, and listed, when a folder is packed."""
    patch: int = 48
    """Side of the training crop of lr, in pixels."""
    batch: int = 16
    """Patches per step, over all processes."""
    flips: bool = True
    """Whether patches are flipped at random."""
    rotations: bool = True
    """Whether patches are transposed at random, which with flips makes every rotation."""
    by_area: bool = False
    """Whether large images are drawn more often; otherwise each image is drawn once per epoch."""
    period: int = 0
    """Number of batches after which the same ones come again, so that the teacher's outputs can be
    kept (see ``teacher_cache``); 0 for never."""
    workers: int = 1
    """Threads that cut patches; the batches are the same for any number."""
    resident: Residence = "auto"
    """Whether all images are copied to the device and cut there; auto does so on a GPU where they
    take at most half of its free memory. The batches are the same."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        check_paths(self)
        check("patch", self.patch, least=1)
        check("batch", self.batch, least=1)
        check("period", self.period, least=0)
        check("workers", self.workers, least=0)
        check_word("resident", self.resident, ("auto", "always", "never"))
        given = cast("object", self.degradation)
        if not isinstance(given, Degradation):
            raise ValueError(  # noqa: TRY004  as everything else that cannot be
                f"degradation is {self.degradation!r}, but must be one of dukd.images.degrade: "
                f"preset(name), with a name of {', '.join(presets())}"
            )


@dataclass(frozen=True, kw_only=True)
class TeacherCache:
    """The teacher's outputs, kept on disk where ``data.period`` lets batches come again."""

    enabled: bool = True
    """Whether the teacher's outputs, and the features read with them, are kept and replayed;
    ``--teacher-cache off`` is short for no. Without a period there is nothing to replay."""
    bits: Literal[8, 16, 32] = 8
    """Bits per value; 8 are 58 dB from the teacher's own outputs, 32 are exact."""
    symmetries: tuple[Operation, ...] = SYMMETRIES
    """Symmetries under which the student sees replayed batches, drawn anew for every image and
    step; with none it sees them as they are. Methods that compare features draw none: features do
    not turn with an image."""
    folder: Path = Path("cache")
    """Folder for the outputs; runs that show the same images to the same teacher share them."""
    limit_gb: float = 20.0
    """Most gigabytes that the outputs of a run may take."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        if not self.limit_gb > 0:
            raise ValueError(f"limit_gb is {self.limit_gb}, but must be above 0")


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """How the student is trained. The defaults are the paper's."""

    steps: int = 250_000
    """Optimizer steps."""
    optimizer: Literal["adam", "muon"] = "adam"
    """What moves the weights: Adam, as in all of the papers; or Muon, which takes wide plain
    students fewer steps, for those of convolutions and linear layers, and Adam for the rest."""
    learning_rate: float = 1e-4
    """The optimizer's rate, before the schedule."""
    schedule: Literal["step", "cosine", "one-cycle", "constant"] = "step"
    """How the rate changes: multiplied by ``decay`` at each milestone; along half a cosine to 0; up
    and down once."""
    milestones: tuple[float, ...] = (0.4, 0.8)
    """Where the step schedule decays, as fractions of the steps: at 100k and 200k of 250k in the
    paper."""
    decay: float = 0.1
    """Factor of the rate at each milestone."""
    warm_up: int = 0
    """Steps over which the rate rises linearly from 0."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Adam's decay rates."""
    weight_decay: float = 0.0
    """Weight decay: added to the gradient by Adam, and taken from a weight itself by Muon."""
    ema: float = 0.999
    """Decay of the averaged student, which is evaluated and saved; 0 keeps the last weights
    instead."""
    clip: float = 0.0
    """Largest norm of the gradient; 0 for none."""
    accumulate: int = 1
    """Number of equal parts in which a batch is computed, to save memory; the gradient is that of
    the whole batch, but what a method draws at random, such as windows, is drawn for each part.
    Several ranks share the parts."""
    deterministic: bool = False
    """Whether the weights come out equal to the last bit for any number of ranks that divides
    ``accumulate``; takes memory for ``accumulate`` gradients. Promised on CPUs of one kind, with as
    many threads per rank."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the forward passes; weights stay in float32."""
    channels_last: bool | None = None
    """Whether images lie in memory with their channels together; None for what was measured to be
    faster, network by network."""
    compile: bool = False
    """Whether networks go through torch.compile."""
    cuda_graphs: bool = False
    """Whether the networks' kernels are recorded once and replayed, which spares a GPU waiting for
    launches; by the compiler where networks go through it. Where batches come again, so are whole
    steps."""
    seed: int = 10
    """Seed of weights, patches and everything random."""
    warm_start: Path | None = None
    """Weights to start the student from, also those of another scale: what fits is taken."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        check("steps", self.steps, least=1)
        check_word("optimizer", self.optimizer, ("adam", "muon"))
        check("learning_rate", self.learning_rate, above=0)
        check_word("schedule", self.schedule, ("step", "cosine", "one-cycle", "constant"))
        for milestone in self.milestones:
            check("a milestone, a fraction of the steps,", milestone, above=0, most=1)
        check("decay", self.decay, above=0, most=1)
        check("warm_up", self.warm_up, least=0)
        for beta in self.betas:
            check("a beta", beta, least=0, below=1)
        check("weight_decay", self.weight_decay, least=0)
        check("ema", self.ema, least=0, below=1)
        check("clip", self.clip, least=0)
        check("accumulate", self.accumulate, least=1)
        check_word("precision", self.precision, ("float32", "bfloat16"))
        check("seed", self.seed, least=0, most=2**63 - 1)  # torch takes higher ones for others
        if self.warm_up >= self.steps:
            raise ValueError(f"warm_up is {self.warm_up}, but there are {self.steps} steps")
        if self.warm_up and self.schedule == "one-cycle":
            raise ValueError(
                "the one-cycle schedule rises by itself: leave warm_up out, which is "
                f"{self.warm_up}"
            )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How often, and on what, the student is judged while it trains."""

    sets: tuple[Path, ...] = ()
    """Folders of images; the first one chooses the best student, so it should not be a test set."""
    every: int = 5_000
    """Steps between validations and saves."""
    images: int = 0
    """Images used of each set, evenly spaced; 0 for all."""
    metrics: tuple[str, ...] = ()
    """What is measured beside PSNR-Y, SSIM-Y, PSNR-RGB and agreement, such as niqe."""
    best: str = "psnr_y"
    """What chooses the best student on the first set: any metric; agreement takes the one that is
    nearest to the teacher, as for teachers that are GANs."""
    log_every: int = 100
    """Steps between lines of the log."""
    save_minutes: float = 15.0
    """Most minutes of training between two saves, whatever ``every`` says: what a kill can cost."""
    teacher_images: int = 5
    """Images on which the teacher has to beat bicubic before training starts; 0 leaves the trial
    out."""
    teacher_measure: str = "auto"
    """By what it has to: any metric. Auto takes psnr_y, and niqe for a teacher that loses there but
    whose outputs look more natural and reduce to their inputs, as GANs' do."""
    samples: int = 0
    """Images of the first set of which crops are kept for the report."""
    tensorboard: bool = False
    """Whether a TensorBoard log is written beside the JSON lines (needs ``dukd[tensorboard]``)."""
    wandb: bool = False
    """Whether Weights & Biases takes in the log too (``dukd[wandb]``; ``WANDB_MODE=offline``)."""
    mlflow: bool = False
    """Whether MLflow takes in the log too (``dukd[mlflow]``; ``MLFLOW_TRACKING_URI``)."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        check_paths(self)
        check("every", self.every, least=1)
        check("images", self.images, least=0)
        check("log_every", self.log_every, least=1)
        check("teacher_images", self.teacher_images, least=0)
        find((*self.metrics, self.best))
        if self.teacher_measure != "auto":
            find((self.teacher_measure,))
        check("samples", self.samples, least=0)
        check("save_minutes", self.save_minutes, above=0)

    @property
    def trackers(self) -> tuple[str, ...]:
        """Names of what takes in the log beside the run's own file."""
        wanted = {"tensorboard": self.tensorboard, "wandb": self.wandb, "mlflow": self.mlflow}
        return tuple(name for name, on in wanted.items() if on)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A whole run."""

    student: NetworkConfig
    """The network that learns."""
    data: Data
    """Training images."""
    teacher: Teacher | None = None
    """What it learns from; none for methods that need none."""
    method: Method = field(default_factory=Scratch)
    """How it learns."""
    optimization: Optimization = field(default_factory=Optimization)
    """How it is trained."""
    teacher_cache: TeacherCache = field(default_factory=TeacherCache)
    """What is kept of the teacher's outputs."""
    evaluation: Evaluation = field(default_factory=Evaluation)
    """How it is judged."""

    def __post_init__(self) -> None:
        """Check what crosses the parts."""
        _check_types(self.student, self.teacher, self.method)
        check_finite("method", self.method)
        if self.teacher is None and needs_teacher(self.method, self.student.scale):
            raise ValueError(
                f"the method {self.method.name} needs a teacher: name its file (--teacher FILE)"
            )
        if self.data.batch % self.optimization.accumulate:
            raise ValueError(
                f"a batch of {self.data.batch} does not divide into "
                f"{self.optimization.accumulate} (accumulate)"
            )
        if isinstance(self.student, QuantizedConfig) and self.optimization.precision != "float32":
            raise ValueError(
                "a quantized student computes in float32, in which its integers are simulated: "
                "leave optimization.precision at float32"
            )

    def to_yaml(self) -> str:
        """Write the experiment as YAML."""
        return config.dump(self, registry=REGISTRY)

    @staticmethod
    def from_yaml(text: str, *, source: str = "experiment.yaml") -> "Experiment":
        """Read an experiment.

        Raises:
            dukd.core.config.ConfigError: If it does not fit; with line and column.
        """
        return config.load(text, Experiment, registry=REGISTRY, source=source)

    @staticmethod
    def from_file(path: Path) -> "Experiment":
        """Read an experiment from a YAML file; see `from_yaml`."""
        return config.read_file(path, Experiment, registry=REGISTRY)

    def relocated(self, find: Callable[[Path], Path]) -> "Experiment":
        """The same experiment with every path to a file or folder replaced."""
        data = replace(
            self.data,
            train=find(self.data.train),
            lr=self.data.lr and find(self.data.lr),
            packs=find(self.data.packs),
        )
        warm_start = self.optimization.warm_start
        return replace(
            self,
            data=data,
            teacher=self.teacher and self.teacher.relocated(find),
            optimization=replace(self.optimization, warm_start=warm_start and find(warm_start)),
            teacher_cache=replace(self.teacher_cache, folder=find(self.teacher_cache.folder)),
            evaluation=replace(self.evaluation, sets=tuple(map(find, self.evaluation.sets))),
        )

    def differences(self, now: "Experiment") -> list[str]:
        """What another experiment changes that changes the weights; a phrase each."""
        before, after = _flat(self), _flat(now)
        return [
            f"{key} was {before.get(key)}, is {after.get(key)}"
            for key in sorted(before.keys() | after.keys())
            if before.get(key) != after.get(key) and not _may_change(key)
        ]


_MAY_CHANGE = (
    "evaluation.",
    "data.train",
    "data.lr",
    "data.workers",
    "data.packs",
    "data.resident",
    "teacher.weights",
    "teacher.code",
    "teacher.file",
    "teacher.folder",
    "teacher.validation",
    "optimization.warm_start",
    "optimization.compile",
    "optimization.cuda_graphs",
    "teacher_cache.folder",
    "teacher_cache.limit_gb",
)
"""What may differ when a run is resumed: it has no influence on the weights, or a digest in the
checkpoint says whether it is the same."""


def _check_types(student: object, teacher: object, method: object) -> None:
    if not isinstance(student, NetworkConfig):
        refuse("student", "the numbers of a network, such as dukd.EDSRConfig(scale=2)", student)
    if not isinstance(method, Method):
        refuse("method", "one of dukd.methods, such as dukd.DUKD()", method)
    if teacher is not None and not isinstance(teacher, Teacher):
        how = (
            "what dukd.Teacher.of(...) gives of a file, a folder of outputs or file.py:make, so "
            "that a run can be resumed (a module itself teaches in dukd.Distiller)"
        )
        refuse("teacher", how, teacher)


def _may_change(key: str) -> bool:
    """Whether a field may differ; what has chosen the best student so far may not."""
    return key.startswith(_MAY_CHANGE) and key != "evaluation.best"


def _flat(experiment: Experiment) -> dict[str, object]:
    def walk(value: object, key: str) -> Generator[tuple[str, object], None, None]:
        if isinstance(value, dict):
            for name, inner in cast("dict[str, object]", value).items():
                yield from walk(inner, f"{key}.{name}" if key else name)
        else:
            yield key, value

    return dict(walk(config.plain(experiment, registry=REGISTRY), ""))
