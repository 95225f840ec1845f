"""The command line: the only module that prints or exits.

Each command is a frozen dataclass of its options; tyro makes the parser and the help of it. Whatever a user does wrong
gets a sentence and an exit code: 2 for what was asked, 65 for data, 73 for what cannot be written, 75 for an
interrupted run that can be resumed, 1 where some of several inputs failed.
"""

import errno
import importlib.util
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NoReturn, Self, cast

import torch
import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as Grid

from dukd import checkpoint, evaluate, logbook, recipes, train, validation
from dukd._version import __version__
from dukd.checkpoint import CheckpointError, DiskFullError
from dukd.data.pack import Pack, PackError, plan, prepare
from dukd.data.pairs import Pairs, PairsError, find_pairs
from dukd.experiment import Experiment
from dukd.files import write_text
from dukd.images import ImageError
from dukd.kinds import known
from dukd.methods import Method
from dukd.networks import SRNetwork, macs, weights

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Device = Literal["auto", "cpu", "cuda", "mps"]


def chosen(device: Device) -> torch.device:
    """The device meant by a word on the command line.

    Raises:
        ValueError: If there is none of that kind here.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(name for name, present in there.items() if present))
    if not there[device]:
        raise ValueError(f"there is no {device} device here; leave --device out")
    return torch.device(device)


# ---------------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Decode a folder of pictures once into a pack, from which training reads patches."""

    source: tyro.conf.Positional[Path]
    """Folder of pictures, in any layout the field uses."""
    out: Path
    """The pack to write, such as packs/div2k-x4.pack."""
    scale: int
    """Upscaling factor."""
    lr: Path | None = None
    """Folder of low-resolution pictures, where it does not lie beside the others."""
    recursive: bool = False
    """Whether folders below are searched too."""
    verify: bool = False
    """Whether every pixel is read back and compared at the end."""

    def __call__(self) -> int:
        pairs = find_pairs(self.source, scale=self.scale, lr=self.lr, recursive=self.recursive)
        out.print(f"{len(pairs)} pictures, low resolution: {pairs.lr_source}; the pack takes {_bytes(plan(pairs))}")
        with _bar() as progress:
            pack = prepare(pairs, self.out, progress=progress)
            if self.verify:
                pack.verify(progress)
        out.print(f"wrote {self.out}: {len(pack)} pictures, x{pack.scale}, digest {pack.digest[:16]}")
        return 0


@dataclass(frozen=True, kw_only=True)
class CheckData:
    """Check a folder of pictures, or a pack, and list every problem at once."""

    source: tyro.conf.Positional[Path]
    """Folder of pictures, or a pack."""
    scale: int = 4
    """Upscaling factor; a pack knows its own."""
    lr: Path | None = None
    """Folder of low-resolution pictures, where it does not lie beside the others."""

    def __call__(self) -> int:
        if self.source.is_file():
            pack = Pack.open(self.source)
            with _bar() as progress:
                pack.verify(progress)
            out.print(f"{self.source} is sound: {len(pack)} pictures, x{pack.scale}, low resolution: {pack.lr_source}")
            return 0
        pairs = find_pairs(self.source, scale=self.scale, lr=self.lr)
        out.print(
            f"{len(pairs)} pictures for x{self.scale}, low resolution: {pairs.lr_source}; a pack: {_bytes(plan(pairs))}"
        )
        return 0


# ------------------------------------------------------------------------------------------------------------ training


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a student: ``dukd train edsr-x4-dukd --teacher.weights edsr.pth --data.train pictures/``."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    out: Path
    """The run directory."""
    resume: bool = False
    """Whether to go on with the run that is there."""
    device: Device = "auto"
    """Where to train."""

    def __call__(self) -> int:
        with _bar() as progress:
            watcher = _Watcher(progress)
            student = train.train(
                self.experiment,
                self.out,
                resume=self.resume,
                device=chosen(self.device),
                observe=watcher,
                progress=progress,
            )
        out.print(f"the student is [bold]{escape(str(student))}[/bold]; everything about the run is in {self.out}")
        return 0


class _Watcher:
    """Shows what a run tells."""

    def __init__(self, progress: "_Bar") -> None:
        self.progress = progress
        self.text = ""

    def __call__(self, record: logbook.Record) -> None:
        match record:
            case {"kind": "step", "step": int(step), "steps": int(steps)}:
                self.progress(step, steps, self.text)
            case {"kind": "train"}:
                losses = cast("dict[str, float]", record["losses"])
                parts = " ".join(f"{name} {value:.4f}" for name, value in losses.items())
                self.text = f"{parts}  {record['images_per_second']:.0f} patches/s"
            case {"kind": "validation", "step": int(step)}:
                sets = cast("dict[str, dict[str, float]]", record["sets"])
                scores = "  ".join(f"{name} {s['psnr_y']:.3f} dB" for name, s in sets.items())
                self.progress.say(f"step {step:>7}  {scores}")
            case {"kind": "event"}:
                self.progress.say(f"step {record['step']:>7}  {record['detail']}")
            case _:
                pass


def _experiment(name: str) -> Experiment:
    """The experiment of a recipe's name or of a file.

    Raises:
        ValueError: If there is neither; the nearest name is offered.
    """
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        return Experiment.from_file(path)
    if path.is_dir() and (path / "experiment.yaml").is_file():
        return Experiment.from_file(path / "experiment.yaml")
    return recipes.recipe(name).make()


def _train(arguments: Sequence[str]) -> Train:
    """Read ``dukd train NAME ...``: the options are those of the experiment that NAME gives."""
    arguments = _with_plugins(arguments)
    if not arguments or arguments[0].startswith("-"):
        names = ", ".join(recipes.FAMILIES)
        hint = f"a recipe such as edsr-x4-dukd (networks: {names}), a YAML file, or a run directory"
        if arguments and arguments[0] in {"-h", "--help"}:
            out.print(
                f"usage: dukd train NAME [options]\n\nNAME is {hint}.\n`dukd train NAME --help` lists its options."
            )
            sys.exit(0)
        raise ValueError(f"name what to train first: {hint}")
    name = arguments[0]
    experiment = _experiment(name)
    default = Path(name) if Path(name).is_dir() else Path("runs") / Path(name).stem
    return tyro.cli(
        Train,
        prog=f"dukd train {name}",
        args=list(arguments[1:]),
        default=Train(experiment=experiment, out=default),
        config=(tyro.conf.AvoidSubcommands,),
    )


def _with_plugins(arguments: Sequence[str]) -> list[str]:
    """Import the files named by ``--import FILE`` (they may define methods and networks) and take them out."""
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument != "--import":
            rest.append(argument)
            continue
        path = Path(next(waiting, ""))
        if not path.is_file():
            raise ValueError(f"--import takes a Python file, but there is no {str(path)!r}")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
    return rest


# ---------------------------------------------------------------------------------------------------------- evaluation


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure networks side by side: ``dukd evaluate student.safetensors --teacher t.pth --sets Set5 Set14``."""

    models: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Files of weights, run directories, or folders of pictures that another program has made."""
    sets: tuple[Path, ...]
    """Folders of pictures, in any layout the field uses."""
    teacher: Path | None = None
    """Weights of the teacher: agreement with it and the share of the gap are measured."""
    baseline: Path | None = None
    """Weights of a baseline, such as the student from scratch, in place of bicubic, for the share of the gap."""
    scale: int | None = None
    """Upscaling factor, where no network says it."""
    pictures: int = 0
    """Pictures used of each set, evenly spaced; 0 for all."""
    self_ensemble: bool = False
    """Whether students answer as the mean over eight flips and rotations; marked with a plus."""
    bicubic: bool = True
    """Whether bicubic interpolation is measured too."""
    value_range: float | None = None
    """Largest value the networks compute with, 1 or 255, where a file does not say."""
    mean: tuple[float, float, float] | None = None
    """RGB mean in [0, 1] that the networks subtract, where a file does not say."""
    residual_scale: float | None = None
    """Factor of each residual block, where a file does not say."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the networks."""
    device: Device = "auto"
    """Where networks run."""
    out: Path | None = None
    """File to write as well: .md, .csv or .json."""

    def __call__(self) -> int:
        candidates = list(self._candidates())
        found = {c.network.scale for c in candidates if c.network is not None}
        if self.scale is not None:
            found.add(self.scale)
        if len(found) != 1:
            what = "no network says the scale: give --scale" if not found else f"several scales: {sorted(found)}"
            raise ValueError(f"cannot tell which pictures to measure on, {what}")
        scale = found.pop()
        sets: dict[str, Pairs] = {}
        for path in self.sets:
            sets[validation.set_name(path)] = validation.some(find_pairs(path, scale=scale), self.pictures)
        device = chosen(self.device)
        for c in candidates:
            if c.network is not None:
                c.network.to(device)
        with _bar() as progress:
            precision = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
            table = evaluate.evaluate(candidates, sets, device=device, precision=precision, progress=progress)
        _show(table)
        if self.out is not None:
            forms = {".md": table.to_markdown, ".csv": table.to_csv, ".json": table.to_json}
            if self.out.suffix not in forms:
                raise ValueError(f"--out writes .md, .csv or .json, but got {self.out}")
            write_text(self.out, forms[self.out.suffix]())
            out.print(f"wrote {self.out}")
        for path in self.models:
            if (path / "experiment.yaml").is_file():
                write_text(path / "evaluation.json", table.to_json())
                out.print(f"wrote {path / 'evaluation.json'}")
        return 0

    def _candidates(self) -> Sequence[evaluate.Candidate]:
        found: list[evaluate.Candidate] = []
        if self.bicubic:
            found.append(evaluate.Candidate(model="bicubic", label="bicubic"))
        if self.teacher is not None:
            found.append(evaluate.Candidate(model="teacher", label=self.teacher.stem, network=self._read(self.teacher)))
        if self.baseline is not None:
            network = self._read(_weights_in(self.baseline))
            found.append(evaluate.Candidate(model="baseline", label=self.baseline.stem, network=network))
        for path in self.models:
            if path.is_dir() and not (path / "experiment.yaml").is_file():
                found.append(evaluate.Candidate(model="pictures", label=path.name, pictures=path))
                continue
            label = path.name if path.is_dir() else path.stem
            network = self._read(_weights_in(path))
            found.append(
                evaluate.Candidate(model="student", label=label, network=network, self_ensemble=self.self_ensemble)
            )
        return found

    def _read(self, path: Path) -> SRNetwork:
        return weights.read(
            path,
            scale=self.scale,
            value_range=self.value_range,
            mean=self.mean,
            residual_scale=self.residual_scale,
            report=_note,
        ).frozen()


def _weights_in(path: Path) -> Path:
    """The student of a run directory, or the file itself."""
    return path / "student.safetensors" if path.is_dir() else path


def _show(table: evaluate.Table) -> None:
    header, lines = table.header_and_lines()
    grid = Grid(box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(header):
        grid.add_column(name, justify="left" if i == 0 else "right", overflow="fold")
    for cells in lines:
        grid.add_row(*(escape(cell) for cell in cells))
    out.print(grid)
    out.print(f"[dim]{escape(table.protocol_line())}[/dim]")


# --------------------------------------------------------------------------------------------------------------- using


@dataclass(frozen=True, kw_only=True)
class Upscale:
    """Enlarge pictures: ``dukd upscale photos/ -o out/ -m student.safetensors``."""

    inputs: tyro.conf.Positional[tuple[Path, ...]]
    """Pictures, or folders of them."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder for the results."""
    model: Annotated[Path, tyro.conf.arg(aliases=["-m"])]
    """File of weights, or a run directory."""
    tile: Annotated[int | None, tyro.conf.arg(aliases=["-t"])] = None
    """Side of the pieces large pictures are cut into, in pixels of the input; chosen by itself if left out."""
    self_ensemble: Annotated[bool, tyro.conf.arg(aliases=["-x"])] = False
    """Whether to answer as the mean over eight flips and rotations: slower, a little better."""
    recursive: bool = False
    """Whether folders below are searched too."""
    skip_existing: bool = False
    """Whether pictures that are finished already are left out."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the network."""
    device: Device = "auto"
    """Where the network runs."""

    def __call__(self) -> int:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Info:
    """Say what a file of weights, a pack or a run directory holds."""

    path: tyro.conf.Positional[Path]

    def __call__(self) -> int:
        if self.path.is_dir():
            return _info_run(self.path)
        if self.path.suffix == ".pack":
            pack = Pack.open(self.path)
            _facts(
                {
                    "pack": self.path,
                    "pictures": len(pack),
                    "scale": pack.scale,
                    "low resolution": pack.lr_source,
                    "digest": pack.digest,
                    "size": _bytes(self.path.stat().st_size),
                }
            )
            return 0
        return _info_weights(self.path)


def _info_weights(path: Path) -> int:
    contents = weights.inspect(path)
    facts: dict[str, object] = {"file": path, "size": _bytes(path.stat().st_size)}
    facts |= {name: value for name, value in vars(contents).items() if name not in {"tensors", "notes"}}
    _facts(facts)
    network = contents.config.build()
    _facts({"MACs for 1280 x 720": f"{macs(network, 720 // network.scale, 1280 // network.scale) / 1e9:.1f} G"})
    return 0


def _info_run(path: Path) -> int:
    run = checkpoint.Run.open(path)
    out.print(run.facts.read_text(encoding="utf-8"))
    records = run.records()
    steps = [r for r in records if r.get("kind") == "train"]
    if steps:
        out.print(f"last line of the log: step {steps[-1]['step']}, loss {steps[-1]['total']}")
    checks = [r for r in records if r.get("kind") == "validation"]
    if checks:
        out.print(f"last validation: {checks[-1]['sets']}")
    return 0


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """List the named experiments, or show one as YAML."""

    name: tyro.conf.Positional[str] = ""
    """A recipe's name."""

    def __call__(self) -> int:
        if self.name:
            print(recipes.recipe(self.name).make().to_yaml(), end="")
            return 0
        grid = Grid(box=None, pad_edge=False, header_style="bold")
        for column in ("recipe", "what it is"):
            grid.add_column(column)
        for name, maker in recipes.FAMILIES.items():
            about = (maker.__doc__ or "").splitlines()[0]
            grid.add_row(f"{name}-x[2|3|4]-[scratch|logits|dukd|...]".replace("[", r"\["), escape(about))
        out.print(grid)
        out.print("\nAny method of `dukd methods` can stand at the end, alone or as METHOD+dukd.")
        return 0


@dataclass(frozen=True, kw_only=True)
class Methods:
    """List the methods of distillation."""

    def __call__(self) -> int:
        grid = Grid(box=None, pad_edge=False, header_style="bold")
        for column in ("method", "what it does"):
            grid.add_column(column)
        for name, kind in known(Method).items():
            grid.add_row(name, escape((kind.__doc__ or "").splitlines()[0]))
        out.print(grid)
        return 0


# ------------------------------------------------------------------------------------------------------------- running

COMMANDS: dict[str, type[Callable[[], int]]] = {
    "prepare": Prepare,
    "check-data": CheckData,
    "train": Train,
    "evaluate": Evaluate,
    "upscale": Upscale,
    "info": Info,
    "recipes": Recipes,
    "methods": Methods,
}


def main() -> NoReturn:
    """Run the command that the arguments name."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    try:
        sys.exit(_run(arguments))
    except train.Interrupted as stopped:
        err.print(f"dukd: {escape(str(stopped))}")
        sys.exit(75)
    except KeyboardInterrupt:
        err.print("dukd: interrupted")
        sys.exit(130)
    except Exception as error:  # noqa: BLE001  the last place where anything can be caught
        if debug:
            traceback.print_exc()
        sys.exit(_complain(error))


def _run(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in {"-h", "--help"}:
        grid = Grid(box=None, pad_edge=False, show_header=False)
        for name, kind in COMMANDS.items():
            grid.add_row(f"  {name}", escape((kind.__doc__ or "").splitlines()[0]))
        out.print("usage: dukd COMMAND [options]", end="\n\n")
        out.print("Turn a large super-resolution network into a small, fast one that looks the same.", end="\n\n")
        out.print(grid)
        out.print("\n`dukd COMMAND --help` lists a command's options; --debug shows where an error came from.")
        return 0
    if arguments[0] in {"-V", "--version"}:
        out.print(f"dukd {__version__}, torch {torch.__version__}")
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        raise ValueError(f"there is no command {name!r}{recipes.nearest(name, COMMANDS)}; `dukd --help` lists them")
    command = (
        _train(arguments[1:])
        if name == "train"
        else tyro.cli(COMMANDS[name], prog=f"dukd {name}", args=list(arguments[1:]))
    )
    return command()


def _complain(error: Exception) -> int:
    match error:
        case DiskFullError() | OSError(errno=errno.ENOSPC | errno.EROFS | errno.EACCES):
            code = 73
        case ImageError() | PairsError() | PackError() | CheckpointError():
            code = 65
        case ValueError() | OSError() | train.NonFiniteError():
            code = 2
        case _:
            what = escape(f"{type(error).__name__}: {error}")
            err.print(f"[bold red]dukd:[/] this should not have happened: {what}")
            err.print("Please run it again with --debug and report what it prints.")
            return 70
    err.print(f"[bold red]dukd:[/] {escape(str(error))}")
    return code


def _note(text: str) -> None:
    err.print(f"[dim]{escape(text)}[/dim]")


def _facts(facts: dict[str, object]) -> None:
    grid = Grid(box=None, pad_edge=False, show_header=False)
    for name, value in facts.items():
        grid.add_row(f"[bold]{escape(name)}[/bold]", escape(str(value)))
    out.print(grid)


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"  # noqa: PLR2004


class _Bar:
    """A bar that shows how far long work has come; on no terminal, a line now and then."""

    def __init__(self) -> None:
        self.bar = Progress(
            TextColumn("{task.fields[what]}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=err,
            transient=True,
        )
        self.task = self.bar.add_task("", what="", total=None)
        self.shown = -1

    def __call__(self, done: int, total: int, what: str) -> None:
        if err.is_terminal:
            self.bar.update(self.task, completed=done, total=total, what=escape(what))
        elif (tenth := 10 * done // max(1, total)) != self.shown:
            self.shown = tenth
            err.print(f"{done}/{total} {escape(what)}")

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.bar.console.print(escape(text))

    def __enter__(self) -> Self:
        if err.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()


def _bar() -> _Bar:
    return _Bar()
