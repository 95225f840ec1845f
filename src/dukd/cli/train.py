"""The command that trains; its options are those of the experiment it is given."""

import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, cast

import tyro

from dukd import recipes
from dukd.cli.choose import chosen
from dukd.cli.finite import finite
from dukd.cli.students import show, with_student
from dukd.cli.terminal import Bar, note, say
from dukd.core import distributed
from dukd.core.device import DeviceName, by_name
from dukd.core.files import silent
from dukd.core.text import amount, shown
from dukd.networks import shipped
from dukd.networks.files import weights
from dukd.networks.files.openers import opening
from dukd.recipes.budget import Choice
from dukd.runs.directory import Run
from dukd.training import loop
from dukd.training.experiment import Experiment
from dukd.training.log import Record, ignore
from dukd.training.resume import recorded
from dukd.training.teachers import File, Teacher

_SHOWN_LOSSES = 4


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a student.

    What to train is a recipe's name, a YAML file, or the directory of a run; every part of it can
    be given another value. The options come from the experiment, so that those of a method appear
    where the method is chosen.

    A teacher is a file of weights, a run, an ONNX file, code (--teacher file.py:make; it runs
    because you name it) or a folder of images that a program made of the training inputs.

    --data.degradation NAME chooses what makes the inputs: bicubic, real-esrgan, bsrgan, ...

    Example: dukd train edsr-x4-dukd --teacher edsr.pth --data.train images/ --out runs/mine

    Interrupted, it saves and can be continued: dukd train runs/mine --resume

    Another student than the recipe's: --student compact --student.width 32, or by its size:
    --student.max-parameters 150k

    On several processors or GPUs: torchrun --nproc-per-node 4 --no-python dukd train ...; see
    docs/distributed.md
    """

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The run directory."""
    resume: bool = False
    """Whether to continue the run that is there, to the same bits as if it had never stopped."""
    continue_from: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Another run, at whose last state this one begins: with more steps, another rate or other
    images. Its steps count."""
    device: DeviceName = "auto"
    """Where to train."""

    def __call__(self) -> int:
        with (
            distributed.join(by_name(self.device)) as world,
            Bar() if world.leads else nullcontext() as progress,
        ):
            if world.leads:
                student = self.experiment.student
                note(f"the student is {student.describe()}: {opening(student)}")
            made = loop.train(
                self.experiment,
                self.out,
                resume=self.resume,
                continue_from=self.continue_from,
                observe=ignore
                if progress is None
                else Watcher(progress, self.experiment.evaluation.best),
                progress=progress or silent,
                world=world,
            )
        if world.leads:
            say(f"the student is {shown(made)}; everything about the run is in {shown(self.out)}")
        return 0


class Watcher:
    """Shows a run: a bar with losses, speed and the time left; validations and events above it."""

    def __init__(self, progress: Bar, best: str = "psnr_y") -> None:
        self.progress, self.best = progress, best
        self.text = ""

    def __call__(self, record: Record) -> None:
        """Show one record."""
        match record:
            case {
                "kind": "step",
                "step": int(step),
                "steps": int(steps),
                "seconds_left": float(left),
            }:
                self.progress(step, steps, self.text, seconds_left=left)
            case {"kind": "train" | "live"}:
                losses = cast("dict[str, float]", record["losses"])
                parts = [f"{name} {value:.4f}" for name, value in losses.items()][:_SHOWN_LOSSES]
                more = " ..." if len(losses) > _SHOWN_LOSSES else ""
                speed = f"{record['images_per_second']:.0f} patches/s"
                memory = amount(int(cast("int", record["memory_mb"])) << 20)
                losses_ = f"{', '.join(parts)}{more}"
                self.text = f"loss {record['total']:.4f}  {speed}  {memory}  {losses_}"
            case {"kind": "validation", "step": int(step)}:
                sets = cast("dict[str, dict[str, float]]", record["sets"])
                scores = "  ".join(f"{name} {self._scores(s)}" for name, s in sets.items())
                self.progress.say(f"step {step:>7}  {scores}")
            case {"kind": "event"}:
                self.progress.say(f"step {record['step']:>7}  {record['detail']}")
            case _:
                pass

    def _scores(self, values: Mapping[str, float]) -> str:
        chosen = values.get(self.best) if self.best != "psnr_y" else None
        by = "" if chosen is None else f", {self.best} {chosen:.3f}"
        return f"{values['psnr_y']:.3f} dB{by}"


def parse(arguments: Sequence[str]) -> Callable[[], int]:
    """Read ``dukd train NAME ...``: the options are those of the experiment that NAME gives.

    Returns:
        The command; the help, if that was asked for.

    Raises:
        ValueError: If no NAME is given, or there is nothing of that name.
    """
    hint = (
        f"a recipe such as edsr-x4-dukd (families: {', '.join(recipes.FAMILIES)}), a YAML file, "
        "or a run directory"
    )
    if arguments and arguments[0] in {"-h", "--help"}:
        return partial(_help, hint)
    if not arguments or arguments[0].startswith("-"):
        raise ValueError(f"name what to train first: {hint}")
    name = arguments[0]
    arguments, experiment = chosen(arguments[1:], experiment_of(name))
    experiment, arguments, choice = with_student(experiment, arguments)
    if experiment.teacher is None and any(
        argument.partition("=")[0] == "--teacher" or argument.startswith("--teacher.")
        for argument in arguments
    ):
        raise ValueError(
            f"{shown(name)} trains without a teacher: leave --teacher and --teacher.… out"
        )
    before = experiment.teacher
    named, rest = _named_teacher(arguments)
    if named is not None:
        experiment = replace(experiment, teacher=_instead(named, before))
    default = Path(name) if Path(name).is_dir() else Path("runs") / Path(name).stem
    command = tyro.cli(
        Train,
        prog=f"dukd train {name}",
        args=_switched(rest),
        default=Train(experiment=experiment, out=default),
        config=(tyro.conf.AvoidSubcommands,),
    )
    finite(command)
    experiment = _started(_with_its_own_facts(command.experiment, before))
    command = replace(command, experiment=experiment)
    return command if choice is None else partial(_shown_first, choice, command)


def _started(experiment: Experiment) -> Experiment:
    """Take a student that comes with the package by its name, where training starts from it."""
    optimization = experiment.optimization
    if optimization.warm_start is None:
        return experiment
    start = shipped.named(optimization.warm_start)
    return replace(experiment, optimization=replace(optimization, warm_start=start))


def _shown_first(choice: Choice, command: Train) -> int:
    if os.environ.get("RANK", "0") == "0":
        show(choice)
    return command()


def _named_teacher(arguments: Sequence[str]) -> tuple[Teacher | None, list[str]]:
    """Take ``--teacher WHAT`` out: whatever teacher that is, its own options follow from it."""
    named, rest = None, list[str]()
    waiting = iter(arguments)
    for argument in waiting:
        name, equals, text = argument.partition("=")
        if name != "--teacher":
            rest.append(argument)
            continue
        what = text if equals else next(waiting, "")
        if not what or what.startswith("--"):
            raise ValueError(
                "--teacher takes a file of weights, a run, an ONNX file, code as file.py:make, or "
                "a folder of outputs"
            )
        named = Teacher.of(what)
    return named, rest


def _instead(named: Teacher, before: Teacher | None) -> Teacher:
    """A teacher in the place of a recipe's; a file keeps that one's facts until it is read."""
    if isinstance(named, File) and isinstance(before, File):
        return replace(before, weights=named.weights)
    return named


def _switched(arguments: Sequence[str]) -> list[str]:
    """Write ``--teacher-cache on`` or ``off`` as the option of the part that it switches."""
    flags = {"on": "--teacher-cache.enabled", "off": "--teacher-cache.no-enabled"}
    rest: list[str] = []
    for argument in arguments:
        name, _, word = argument.partition("=")
        if rest and rest[-1] == "--teacher-cache" and argument in flags:
            rest[-1] = flags[argument]
        elif name == "--teacher-cache" and word in flags:
            rest.append(flags[word])
        else:
            rest.append(argument)
    return rest


def _with_its_own_facts(experiment: Experiment, before: Teacher | None) -> Experiment:
    """Forget what a recipe says of its own teacher's file where another file is named."""
    teacher = experiment.teacher
    if (
        not isinstance(before, File)
        or not isinstance(teacher, File)
        or teacher.weights == before.weights
        or not teacher.weights.is_file()
    ):
        return experiment
    try:
        declares = "dukd" in weights.inspect(teacher.weights).metadata
    except ValueError:  # training reads it again, and complains
        return experiment
    facts = [f.name for f in fields(File) if f.name != "weights"]
    recipes_own = {name: None for name in facts if getattr(teacher, name) == getattr(before, name)}
    alone = replace(teacher, **recipes_own)
    if declares or (not _readable(teacher) and _readable(alone)):
        return replace(experiment, teacher=alone)
    return experiment


def _readable(teacher: File) -> bool:
    """Whether a file goes with what is said of it."""
    said = {f.name: getattr(teacher, f.name) for f in fields(File) if f.name != "weights"}
    try:
        weights.read(teacher.weights, **said)
    except ValueError:
        return False
    return True


def _help(hint: str) -> int:
    say("usage: dukd train NAME [--import FILE] [options]\n")
    say(f"{inspect.getdoc(Train)}\n")
    say(
        f"NAME is {hint}.\n"
        "--import FILE runs a Python file first, which may define methods and networks."
    )
    say("`dukd train NAME --help` lists the options.")
    return 0


def experiment_of(name: str) -> Experiment:
    """The experiment of a recipe's name, of a file, or of a run.

    Raises:
        ValueError: If there is none; the nearest name is offered.
    """
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        return Experiment.from_file(path)
    if path.is_dir():
        if not (path / "experiment.yaml").is_file():
            raise ValueError(f"{shown(path)} is a folder, but no run: it has no experiment.yaml")
        return recorded(Run.open(path))
    if path.name != name:  # a path, which no recipe's name is
        raise ValueError(
            f"there is no run {shown(path)}; a new run is begun with a recipe's name or a YAML file"
        )
    return recipes.recipe(name).make()


def with_plugins(arguments: Sequence[str]) -> list[str]:
    """Import the files named by ``--import FILE``, and take these options out."""
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
        if spec is None or spec.loader is None:
            raise ValueError(f"--import takes a Python file, but {shown(path)} is none")
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise ValueError(
                f"--import {shown(path)} failed: {type(error).__name__}: {error}"
            ) from error
    return rest
