"""What can be measured: networks, their files, run directories, ready images, bicubic.

Whatever is named becomes a `Candidate`; what cannot be opened becomes a sentence, and the others
are measured.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, cast, runtime_checkable

from torch import nn

from dukd.core.files import is_package
from dukd.core.given import refuse
from dukd.core.once import place, said_of
from dukd.core.text import shown
from dukd.networks import shipped
from dukd.networks.base import Network
from dukd.networks.code import is_named
from dukd.networks.code import opened as opened_code
from dukd.networks.files import guess
from dukd.networks.files.weights import Contents
from dukd.networks.opaque import Opaque
from dukd.networks.session import Session
from dukd.networks.upscaler import SelfEnsemble, Upscaler

Model = Literal["bicubic", "teacher", "student", "images"]
"""What a candidate is to the others."""
STUDENT, BEST = "student.safetensors", "best.safetensors"
"""A run directory's students: the one of its last save, and the one of its best validation."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model to measure: a network, or a folder of ready images; with neither, bicubic."""

    model: Model = "student"
    """What it is to the others."""
    label: str
    """What tables call it."""
    upscaler: Upscaler | None = None
    """What upscales: a network, or a session of another runtime."""
    images: Path | None = None
    """Folder of outputs that another program has made."""
    self_ensemble: bool = False
    """Whether the network's outputs are averaged over eight flips and rotations."""
    run: Path | None = None
    """The run directory it was read from."""
    weights: Path | None = None
    """The file it was read from."""
    code: str = ""
    """The code that made it, as file.py:make."""

    @property
    def network(self) -> Network | None:
        """The network, where that is what upscales."""
        return self.upscaler if isinstance(self.upscaler, Network) else None

    @property
    def title(self) -> str:
        """The label, with a plus for a self-ensemble."""
        return f"{self.label}+" if self.self_ensemble else self.label


Named = Candidate | Upscaler | Path | str
"""What stands for a candidate: ``bicubic``, a file of weights, a run directory, a folder of
images, or what upscales itself."""


@runtime_checkable
class Holder(Protocol):
    """A wrapping of an upscaler that changes nothing of its outputs, such as `dukd.load` makes."""

    upscaler: Upscaler


BICUBIC = Candidate(model="bicubic", label="bicubic")
"""MATLAB's bicubic interpolation."""


@dataclass(frozen=True, kw_only=True)
class Unsaid:
    """Numbers of a network that count only where its file does not say them."""

    scale: int | None = None
    """Upscaling factor."""
    value_range: float | None = None
    """Largest value the network computes with."""
    mean: tuple[float, float, float] | None = None
    """RGB mean in [0, 1] that the network subtracts."""
    residual_scale: float | None = None
    """Factor of each residual block."""


Opener = Callable[[Path], Upscaler | None]
"""Opens files that are no weights, such as exports; None for those that it does not know."""


def _weights_only(path: Path) -> None:
    """Open nothing but weights."""
    del path


Report = Callable[[Contents], None]
"""Called with what a file of weights holds, and with what had to be assumed of it."""


def _nobody(contents: Contents) -> None:
    """Report to nobody."""
    del contents


def candidate(
    what: Named,
    *,
    model: Model = "student",
    label: str = "",
    best: bool = False,
    self_ensemble: bool = False,
    unsaid: Unsaid | None = None,
    report: Report = _nobody,
    opener: Opener = _weights_only,
) -> Candidate:
    """Open what is to be measured.

    Args:
        what: A candidate, a network, ``bicubic``, or a path.
        model: What it is to the others.
        label: What tables call it; by default its file, folder or network does.
        best: Whether a run directory stands for its best student, not its last one.
        self_ensemble: Whether its outputs are averaged over eight flips and rotations.
        unsaid: Numbers that count where a file does not say them.
        report: Called with what each file holds.
        opener: Opens files that are no weights.

    Raises:
        ValueError: If a file cannot be read, or a folder is neither a run nor holds anything.
        OSError: If there is no such file.
    """
    if isinstance(what, Candidate):
        return what
    if not isinstance(what, Path | str):
        what = _upscaler(what)
        return _of_upscaler(what, model, label, self_ensemble=self_ensemble)
    if str(what) == BICUBIC.label and not Path(what).exists():
        return BICUBIC
    unsaid = unsaid or Unsaid()
    path = shipped.named(Path(what))
    if is_named(str(what)) and not path.exists():
        made = opened_code(str(what), scale=unsaid.scale).network
        opened = _of_upscaler(made, model, label or str(what), self_ensemble=self_ensemble)
        return replace(opened, code=str(what))
    is_run = path.is_dir() and (path / "experiment.yaml").is_file()
    of_file = is_package(path) or not path.is_dir()
    label = label or (path.stem if of_file else path.resolve().name)
    if not of_file and not is_run:
        kind: Model = "teacher" if model == "teacher" else "images"
        return Candidate(model=kind, label=label, images=path)
    file = weights_of(path, best=best and is_run)
    return Candidate(
        model=model,
        label=label,
        upscaler=opener(file) or _graph(file) or read(file, unsaid, report),
        self_ensemble=self_ensemble,
        run=path if is_run else None,
        weights=file,
    )


def _upscaler(what: object) -> Upscaler:
    """What upscales by itself; a plain module is made to.

    Raises:
        ValueError: If it does not.
    """
    if isinstance(what, nn.Module) and not isinstance(getattr(what, "scale", None), int):
        return Opaque(what)
    if not callable(what) or not hasattr(what, "scale"):
        refuse(
            "what is measured",
            "a file, a run directory, a folder of images, 'bicubic', a module, or an Upscaler",
            what,
        )
    return cast("Upscaler", what)


def _graph(path: Path) -> Upscaler | None:
    """A graph in onnxruntime; None for other files."""
    return Session(path) if path.suffix.lower() == ".onnx" else None


def _of_upscaler(what: Upscaler, model: Model, label: str, *, self_ensemble: bool) -> Candidate:
    if isinstance(what, SelfEnsemble):
        what, self_ensemble = what.upscaler, True
    name = label or what.name
    while isinstance(what, Holder):
        what = what.upscaler
    upscaler = what.frozen() if isinstance(what, Network) else what
    return Candidate(model=model, label=name, upscaler=upscaler, self_ensemble=self_ensemble)


def weights_of(path: Path, *, best: bool = False) -> Path:
    """The student of a run directory or of the package, or the file itself.

    Args:
        path: A file, a run directory, or the name of a student that comes with the package.
        best: Whether the student of the best validation is wanted instead of the last one.

    Raises:
        ValueError: If the directory is not a run, or has no such student; or if a file is said to
            have a best one.
    """
    path = shipped.named(path)
    if is_package(path) or not path.is_dir():
        if best:
            raise ValueError(f"{shown(path)} is one file: --best is for run directories")
        return path
    if not (path / "experiment.yaml").is_file():
        raise ValueError(
            f"{shown(path)} is a folder, but not a run: name a file of weights, or a run directory"
        )
    student = path / (BEST if best else STUDENT)
    if student.is_file():
        return student
    if best:
        raise ValueError(
            f"{shown(path)} has no best student yet: training writes it at the first validation "
            "(--evaluation.sets); without --best its last student is taken"
        )
    raise ValueError(f"{shown(path)} has no student yet: training writes it at the first save")


def read(path: Path, unsaid: Unsaid, report: Report = _nobody) -> Network:
    """Read a network; ``unsaid`` counts only where the file is silent.

    Raises:
        ValueError: If the file cannot be read, or does not fit.
    """
    network, contents = guess.read_where_silent(
        path,
        scale=unsaid.scale,
        value_range=unsaid.value_range,
        mean=unsaid.mean,
        residual_scale=unsaid.residual_scale,
    )
    report(contents)
    return network.frozen()


def open_all(
    named: Iterable[Named],
    teacher: Named | None = None,
    *,
    best: bool = False,
    self_ensemble: bool = False,
    unsaid: Unsaid | None = None,
    report: Report = _nobody,
    opener: Opener = _weights_only,
    say: Callable[[str], None] = lambda _note: None,
) -> tuple[list[Candidate], list[str]]:
    """Open several candidates; the arguments are those of `candidate`.

    Args:
        named: What is to be measured.
        teacher: What agreement is measured against; it comes first.
        best: Whether run directories stand for their best students.
        self_ensemble: Whether students' outputs are averaged over eight flips and rotations.
        unsaid: Numbers that count where a file does not say them.
        report: Called with what each file holds.
        opener: Opens files that are no weights.
        say: Called with a sentence about what was named twice, and is measured once.

    Returns:
        Those that could be opened, each under a label of its own, and a sentence for each of the
        others.

    Raises:
        ValueError: If several were named and none could be opened.
        OSError: If the only one that was named is not there.
    """
    wanted = [(what, False) for what in named]
    found: list[Candidate] = []
    errors: list[Exception] = []
    for what, teaches in [*([] if teacher is None else [(teacher, True)]), *wanted]:
        model: Model = "teacher" if teaches else "student"
        averaged = self_ensemble and not teaches
        try:
            opened = candidate(
                what,
                model=model,
                best=best,
                self_ensemble=averaged,
                unsaid=unsaid,
                report=report,
                opener=opener,
            )
        except (ValueError, OSError, MemoryError) as error:
            errors.append(error)
        else:
            found.append(opened)
    if errors and all(c.model == "bicubic" for c in found):
        if len(errors) == 1:
            raise errors[0]
        raise ValueError("\n".join(map(_sentence, errors)))
    return _distinct(_once(found, say)), [_sentence(error) for error in errors]


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return shown(f"{error.filename}: {error.strerror}")
    return shown(str(error) or "not enough memory")


def _once(candidates: Sequence[Candidate], say: Callable[[str], None]) -> list[Candidate]:
    """The same without what is there twice; of a run and its student's file, the run is left.

    A student that is the teacher too keeps its row, since it is asked for in both.
    """
    kept: dict[Hashable, Candidate] = {}
    for c in candidates:
        before = kept.setdefault(key := _identity(c), c)
        if before is c:
            continue
        if before.run is None and c.run is not None:
            kept[key] = c
        if c.model != "bicubic":  # which is among the candidates unasked
            say(said_of([(_named(c), _named(before))], "measured"))
    files = {place(c.weights): c for c in kept.values() if c.weights and c.model == "teacher"}
    for c in kept.values():
        if c.model == "student" and c.weights is not None and place(c.weights) in files:
            say(f"{shown(c.weights)} is the teacher too, and has a row as either")
    return list(kept.values())


def _named(c: Candidate) -> Path:
    return c.run or c.weights or c.images or Path(c.label)


def _identity(c: Candidate) -> Hashable:
    """What is equal for two candidates that are one."""
    if (of := c.weights or c.images) is not None:
        return place(of), c.model == "teacher", c.self_ensemble
    what = c.code or (c.model if c.upscaler is None else id(c.upscaler))
    return what, c.model == "teacher", c.self_ensemble


def _distinct(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The same with labels that differ: the folder's name, then a number, is added."""
    titles = [c.title for c in candidates]
    found: list[Candidate] = []
    for c in candidates:
        label, place = c.label, c.images or c.run or c.weights
        if titles.count(c.title) > 1 and place is not None:
            label = f"{place.resolve().parent.name}/{label}"
        names = (label if n == 1 else f"{label} ({n})" for n in range(1, len(titles) + 1))
        renamed = (replace(c, label=name) for name in names)
        found.append(next(r for r in renamed if r.title not in {other.title for other in found}))
    return found
