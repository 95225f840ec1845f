"""What a student learns from: a file of weights, code, a graph, or images that were made before.

A teacher is a frozen dataclass that says where it is; `Teacher.of` makes one of what people write,
as in ``--teacher gan.pth``, ``--teacher file.py:make``, ``--teacher model.onnx`` and ``--teacher
outputs/``. Whatever it is, a digest says which one it was: in ``run.json``, when a run is resumed,
and in the cache of its outputs. A class of your own in a plug-in is one more.
"""

import ast
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

from typing_extensions import override

from dukd.core import files
from dukd.core.files import Progress
from dukd.core.registry import known
from dukd.core.text import shown
from dukd.data.patches import Patches
from dukd.evaluation.candidates import weights_of
from dukd.networks import code
from dukd.networks.base import Network
from dukd.networks.code import network_of
from dukd.networks.files import ncnn, weights
from dukd.networks.reduced import Reduced
from dukd.networks.session import Session
from dukd.training.checks import check, check_paths
from dukd.training.stored import Stored, stored_patches

Report = Callable[[str], None]
"""Called with a sentence for everything that had to be assumed."""


class Opened(NamedTuple):
    """A teacher that is ready."""

    network: Network
    """Frozen, on the CPU, at its own scale."""
    sha256: str
    """Digest of all that its outputs follow from."""
    said: str = ""
    """What the caller said of it beyond its digest: part of what kept outputs follow from."""


@dataclass(frozen=True, kw_only=True)
class Teacher(ABC):
    """What the student learns from."""

    name: ClassVar[str]
    """Its ``type`` in files of experiments."""
    otherwise: ClassVar[str] = "file"
    """The type of one that names none."""

    @abstractmethod
    def open(self, scale: int, report: Report) -> Opened:
        """Make it ready.

        Args:
            scale: The student's; a network of a larger one is given as it is.
            report: Called with a sentence for everything that had to be assumed.

        Raises:
            ValueError: If it cannot be opened; the message says why and what to do.
        """

    @property
    @abstractmethod
    def place(self) -> str:
        """Where it is, in words."""

    def made(
        self,
        patches: Patches,
        packs: Path,
        progress: Progress,
        *,
        prepared: bool = False,
    ) -> Patches | None:
        """What it gave for the training images, cut as these patches are; None if it runs itself.

        Raises:
            ValueError: If it lacks some, or they are of other sizes; all are named.
        """
        del patches, packs, progress, prepared
        return None

    @classmethod
    def takes(cls, text: str) -> Self | None:
        """The teacher that a text names; None where it names none of this class."""
        del text
        return None

    def relocated(self, find: Callable[[Path], Path]) -> Self:
        """The same with every path to a file or folder replaced."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{n: find(v) for n, v in values.items() if isinstance(v, Path)})

    @staticmethod
    def of(what: Path | str) -> "Teacher":
        """The teacher that a path or a text names, as on the command line.

        Example:
            >>> Teacher.of("gan.pth")
            File(weights=PosixPath('gan.pth'), value_range=None, mean=None, residual_scale=None)
        """
        text = str(what)
        for kind in known(Teacher).values():
            if (found := kind.takes(text)) is not None:
                return found
        return File(weights=Path(text))


@dataclass(frozen=True, kw_only=True)
class File(Teacher):
    """A trained network in a file of weights; which one it is, and its size, the file says."""

    name: ClassVar[str] = "file"

    weights: Path
    """File with the weights: safetensors, a .pth that the safe loader takes, or files of ncnn; or
    the directory of a run, whose student it is then."""
    value_range: float | None = None
    """Largest value the network computes with, 1 or 255, where the file does not say."""
    mean: tuple[float, float, float] | None = None
    """RGB mean in [0, 1] that the network subtracts, where the file does not say."""
    residual_scale: float | None = None
    """Factor of each residual block, where the file does not say."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        check_paths(self)
        if self.value_range is not None:
            check("value_range", self.value_range, above=0)
        if self.mean is not None:
            for value in self.mean:
                check("mean", value, least=0, most=1)
        if self.residual_scale is not None:
            check("residual_scale", self.residual_scale)

    @property
    def file(self) -> Path:
        """The file of the weights, of a run too."""
        return weights_of(self.weights)

    @override
    def open(self, scale: int, report: Report) -> Opened:
        network = weights.read(
            self.file,
            value_range=self.value_range,
            mean=self.mean,
            residual_scale=self.residual_scale,
            report=report,
        )
        said = f" {self.value_range} {self.mean} {self.residual_scale}"
        return Opened(network.frozen(), _sha256(self.file), said)

    @property
    @override
    def place(self) -> str:
        return str(self.weights)


@dataclass(frozen=True, kw_only=True)
class Module(Teacher):
    """What Python code of yours makes; it runs because you name it."""

    name: ClassVar[str] = "module"

    code: str
    """``file.py:make``, or ``package.module:make``: a function that gives a module, or anything
    else that maps lr in [0, 1] to sr."""
    arguments: tuple[str, ...] = ()
    """Arguments of the function, as in ``width=64 weights=gan.pth``: numbers, texts and whatever
    else Python writes as a literal. A parameter ``scale`` gets the student's."""
    taps: tuple[str, ...] = ()
    """Where features are read, for methods that compare them: paths of submodules, such as
    body.5 body.11."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        for argument in self.arguments:
            if not argument.partition("=")[0].isidentifier() or "=" not in argument:
                raise ValueError(f"an argument is name=value, but got {argument!r}")

    @override
    def open(self, scale: int, report: Report) -> Opened:
        given = dict(map(_argument, self.arguments))
        made = code.opened(self.code, given, scale=scale, taps=self.taps)
        return Opened(made.network, made.sha256)

    @property
    @override
    def place(self) -> str:
        return self.code

    @override
    @classmethod
    def takes(cls, text: str) -> Self | None:
        if text.endswith(".py"):
            raise ValueError(
                f"{shown(text)} is code: name the function that makes the teacher, {text}:make"
            )
        return cls(code=text) if code.is_named(text) and not Path(text).exists() else None

    @override
    def relocated(self, find: Callable[[Path], Path]) -> Self:
        path, _, name = self.code.rpartition(":")
        return replace(self, code=f"{find(Path(path))}:{name}") if path.endswith(".py") else self


def _argument(text: str) -> tuple[str, object]:
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


@dataclass(frozen=True, kw_only=True)
class Graph(Teacher):
    """An ONNX file that maps ``(n, 3, h, w)`` in [0, 1] to RGB; it runs in onnxruntime, on CPUs."""

    name: ClassVar[str] = "onnx"

    file: Path
    """The file."""

    @override
    def open(self, scale: int, report: Report) -> Opened:
        session = Session(self.file)
        return Opened(network_of(session, self.file.name).frozen(), files.sha256(self.file))

    @property
    @override
    def place(self) -> str:
        return str(self.file)

    @override
    @classmethod
    def takes(cls, text: str) -> Self | None:
        return cls(file=Path(text)) if text.lower().endswith(".onnx") else None


@dataclass(frozen=True, kw_only=True)
class Outputs(Teacher):
    """Images that any program made of the training inputs, called as these, or ``NAME_...``."""

    name: ClassVar[str] = "outputs"

    folder: Path
    """The images; each is a whole multiple of its input in size."""
    validation: Path | None = None
    """Its outputs for the images that judge the student, where agreement is wanted too; folders
    named as the sets, or one for the only set."""

    @override
    def open(self, scale: int, report: Report) -> Opened:
        return Opened(Stored(scale).frozen(), "")

    @property
    @override
    def place(self) -> str:
        return str(self.folder)

    @override
    def made(
        self,
        patches: Patches,
        packs: Path,
        progress: Progress,
        *,
        prepared: bool = False,
    ) -> Patches | None:
        return stored_patches(self.folder, patches, packs, progress, prepared=prepared)

    @override
    @classmethod
    def takes(cls, text: str) -> Self | None:
        path = Path(text)
        is_run = (path / "experiment.yaml").is_file()
        return cls(folder=path) if path.is_dir() and not is_run else None


def at_scale(network: Network, scale: int, place: str) -> Network:
    """A teacher at the student's scale; one of a larger scale is reduced.

    Raises:
        ValueError: If that makes no sense.
    """
    if network.scale == scale:
        return network
    try:
        return Reduced(network, scale).frozen()
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def _sha256(path: Path) -> str:
    """Of a file of weights; of both files where ncnn has two."""
    other = ncnn.partner(path)
    if other is None:
        return files.sha256(path)
    both = sorted((path, other), key=lambda each: each.suffix)
    return sha256(" ".join(map(files.sha256, both)).encode()).hexdigest()
