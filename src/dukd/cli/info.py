"""Commands that say what is there: info, methods, recipes."""

import inspect
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, cast

import tyro

from dukd import recipes
from dukd.cli.commands import ABOUT_METHODS
from dukd.cli.listing import show_models, show_recipes
from dukd.cli.terminal import facts, out, say, table
from dukd.core import files
from dukd.core.config import nearest
from dukd.core.registry import known
from dukd.core.schema import field_texts
from dukd.core.text import amount, shown
from dukd.data.pack import Pack
from dukd.deploy.onnx import onnx_metadata
from dukd.evaluation.metrics import Metric
from dukd.images import EXTENSIONS
from dukd.methods import Method
from dukd.networks import Network, NetworkConfig, Opaque, Quantized, macs, shipped
from dukd.networks.code import Called
from dukd.networks.code import opened as opened_code
from dukd.networks.files import weights
from dukd.networks.files.openers import Opening, opening
from dukd.recipes.listing import listing
from dukd.runs.directory import Run
from dukd.runs.summary import Summary
from dukd.runs.summary import read as summarize
from dukd.training.experiment import Experiment
from dukd.training.teachers import Module

_LOOKED_AT = 1000  # files in search of an image
_WIDTH, _HEIGHT = 1280, 720  # of the output for which multiply-accumulates are counted


@dataclass(frozen=True, kw_only=True)
class Info:
    """Say what a file of weights, an ONNX graph, code, a pack or a run directory holds.

    Example: dukd info runs/edsr-x4-dukd
    """

    path: tyro.conf.Positional[Path]
    """File of weights, ONNX graph, code as file.py:make, pack, run directory, or a student that
    comes with dukd, such as x2."""
    value_range: float | None = None
    """Largest value the network computes with, 1 or 255, where the file does not say."""
    scale: Annotated[int | None, tyro.conf.arg(aliases=["-s"])] = None
    """What code is given for its parameter ``scale``, if it has one."""

    def __call__(self) -> int:
        if (code := Module.takes(str(self.path))) is not None:
            facts(code_facts(code.code, self.scale))
            return 0
        path = shipped.named(self.path)
        if not path.exists():
            raise ValueError(
                f"there is no {shown(path)}: name a file of weights, a pack or a run directory"
            )
        if path.is_dir():
            if not (path / "experiment.yaml").exists() and _holds_images(path):
                raise ValueError(
                    f"{shown(path)} is a folder of images, not a run: `dukd check-data "
                    f"{shown(path)} --scale N` looks at them"
                )
            facts(run_facts(path))
        elif path.suffix == ".pack":
            facts(pack_facts(path))
        elif path.suffix == ".onnx":
            facts({"graph": f"{shown(path)}, {amount(path.stat().st_size)}"} | onnx_metadata(path))
        else:
            facts(weights_facts(path, self.value_range))
        return 0


def _holds_images(folder: Path) -> bool:
    """Whether an image is among the first files in a folder and those below it."""
    return any(path.suffix.lower() in EXTENSIONS for path in islice(folder.rglob("*"), _LOOKED_AT))


def pack_facts(path: Path) -> dict[str, object]:
    """What a pack holds."""
    pack = Pack.open(path)
    return {
        "pack": f"{shown(path)}, {amount(path.stat().st_size)}",
        "images": f"{len(pack):,}",
        "scale": pack.scale,
        "low resolution": pack.lr_source,
        "digest": pack.digest,
    }


def weights_facts(path: Path, value_range: float | None = None) -> dict[str, object]:
    """What a file of weights holds, and what the network costs."""
    network, contents = weights.read_and_inspect(path, value_range=value_range)
    metadata = [
        f"{key}: {value}"
        for key, value in contents.metadata.items()
        if key not in {"config", "format"}
    ]
    return {
        "weights": f"{shown(path)}, {amount(path.stat().st_size)}",
        "network": f"{contents.network} x{network.scale}",
        "config": numbers(contents.config),
        "layout": contents.layout + (f", under {contents.key}" if contents.key else ""),
        "tensors": f"{contents.tensors}, {', '.join(contents.dtypes)}",
        "parameters": f"{contents.parameters:,}{_when_folded(network)}",
        "multiply-adds": _cost(network),
        "sees": _sees(network),
        "float16": "safe" if network.fp16_safe else "overflows: use bfloat16 or float32",
        "elsewhere": None if isinstance(network, Opaque) else opening(contents.config),
        "metadata": named_lines(metadata),
        "quantized": named_lines(network.describe()) if isinstance(network, Quantized) else None,
        "notes": named_lines(contents.notes),
    }


def _when_folded(network: Network) -> str:
    used = network.deployed_parameter_count()
    return "" if used == network.parameter_count() else f", {used:,} when branches are folded"


def code_facts(code: str, scale: int | None = None) -> dict[str, object]:
    """What a teacher is that Python code makes, and what it costs."""
    made = opened_code(code, scale=scale)
    network = made.network
    return {
        "code": shown(code),
        "network": network.config.describe(),
        "parameters": f"{network.parameter_count():,}",
        "multiply-adds": _cost(network),
        "sees": _sees(network),
        "digest": made.sha256,
    }


def _cost(network: Network) -> str:
    h, w = _HEIGHT // network.scale, _WIDTH // network.scale
    output = f"{w * network.scale} x {h * network.scale}"
    try:
        count = macs(network, h, w) / 1e9
    except Exception:  # noqa: BLE001  code of the user's fails as it likes
        return "not counted: it does not run on 64 x 64 pixels"
    if not count and isinstance(network, Opaque) and isinstance(network.module, Called):
        return "not counted: it is not a module of torch"
    return f"{count:.1f} G for {w} x {h} to {output}"


def _sees(network: Network) -> str:
    if network.radius is None:
        return "the whole image: tiles are approximate"
    return f"{network.radius} pixels around each"


def named_lines(lines: list[str] | tuple[str, ...]) -> str | None:
    """Lines one below the other; None for none."""
    return "\n".join(map(shown, lines)) or None


def numbers(config: NetworkConfig) -> str:
    """The fields of a config, as they are written in Python."""
    return ", ".join(
        f"{f.name}={getattr(config, f.name)!r}" for f in fields(config) if f.name != "scale"
    )


def run_facts(path: Path) -> dict[str, object]:
    """How far a run has come, how good its student is, and how to go on."""
    found = summarize(path)
    run = Run.open(path)
    holder = holder_of(run)
    steps = found.steps or 0
    trained = [r for r in found.records if r.get("kind") == "train"]
    checks = [r for r in found.records if r.get("kind") == "validation"]
    saved = run.steps()
    if holder:
        state, advice = f"running: {holder}", None
    elif found.finished:
        state, advice = (
            "finished",
            f"dukd evaluate {shown(path)} --sets ..." if found.evaluation is None else None,
        )
    elif saved:
        state, advice = "stopped", f"dukd train {shown(path)} --resume"
    else:
        state, advice = "stopped before anything was saved", "delete it and begin again"
    origin = [
        f"{key}: {found.facts[key]}"
        for key in ("command", "started", "dukd", "torch")
        if key in found.facts
    ]
    return {
        "run": shown(path),
        "state": state,
        "next": advice,
        "student": _described(
            found.experiment.get("student"), found.facts.get("student_parameters")
        ),
        "elsewhere": _elsewhere(run),
        "teacher": _teacher(found),
        "method": _described(found.experiment.get("method")),
        "steps": f"{found.reached:,} of {steps:,}" + (f", saved at {saved[-1]:,}" if saved else ""),
        "losses": _losses(trained[-1]) if trained else None,
        "validation": _scores(checks[-1]) if checks else None,
        "best": _best(found, checks),
        "origin": named_lines(origin),
    }


def _elsewhere(run: Run) -> Opening | None:
    """Which other programs open the student; None where its network is not known here."""
    try:
        text = run.read_experiment().text
        return opening(Experiment.from_yaml(text, source=str(run.experiment)).student)
    except (ValueError, OSError):
        return None


def holder_of(run: Run) -> str | None:
    """Who trains in a run directory now; None if nobody does. Nothing is written."""
    path = run.directory / "lock"
    text = path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
    if not text:  # it is emptied at the end, so only a killed run leaves text and no lock
        return None
    return text if files.is_locked(path) else None


def _described(part: object, parameters: object = None) -> str | None:
    if not isinstance(part, dict):
        return None
    values = dict(cast("dict[str, object]", part))
    name = values.pop("type", "?")
    size = f", {parameters:,} parameters" if isinstance(parameters, int) else ""
    return f"{name} ({', '.join(f'{key}={_short(value)}' for key, value in values.items())}){size}"


def _short(value: object) -> str:
    if isinstance(value, dict):
        return str(cast("dict[str, object]", value).get("type", "..."))
    return (
        f"[{', '.join(map(str, cast('list[object]', value)))}]"
        if isinstance(value, list)
        else str(value)
    )


def _teacher(found: Summary) -> str | None:
    teacher = found.experiment.get("teacher")
    if not isinstance(teacher, dict):
        return None
    parameters = found.facts.get("teacher_parameters")
    size = f", {parameters:,} parameters" if isinstance(parameters, int) else ""
    said = cast("dict[str, object]", teacher)
    places = ("weights", "code", "file", "folder")
    place = next((said[p] for p in places if p in said), said.get("type"))
    reduced = found.facts.get("teacher_reduced")
    return f"{place}{size}" + (f", its outputs reduced from {reduced}" if reduced else "")


def _losses(record: Mapping[str, Any]) -> str:
    parts = ", ".join(f"{name} {float(value):.4f}" for name, value in record["losses"].items())
    speed = float(record["images_per_second"])
    return (
        f"{float(record['total']):.4f} at step {record['step']:,} ({parts}), {speed:.0f} patches/s"
    )


def _scores(record: Mapping[str, Any]) -> str:
    scores = ", ".join(f"{name} {float(s['psnr_y']):.3f} dB" for name, s in record["sets"].items())
    return f"{scores} at step {record['step']:,}"


def _best(found: Summary, checks: Sequence[Mapping[str, Any]]) -> str | None:
    """The scores at the validation whose student is the best, and by what, if not by PSNR-Y."""
    said = found.experiment.get("evaluation")
    name = str(said.get("best", "psnr_y")) if isinstance(said, dict) else "psnr_y"
    better = known(Metric)[name].better if name in known(Metric) else "higher"
    values = [(next(iter(r["sets"].values())).get(name), r) for r in checks]
    judged = [
        (float(v) if better == "higher" else -float(v), r) for v, r in values if v is not None
    ]
    if not judged:
        return None
    value, best = max(judged, key=lambda pair: pair[0])
    by = "" if name == "psnr_y" else f", by {name} {abs(value):.3f}"
    return _scores(best) + by


@dataclass(frozen=True, kw_only=True)
class Methods:
    """List the methods of distillation, or say everything about one.

    Example: dukd methods dukd
    """

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[NAME]")] = ""
    """A method's name."""

    def __call__(self) -> int:
        methods = known(Method)
        if not self.name:
            table(
                ("method", "what it does"), ((name, summary(one)) for name, one in methods.items())
            )
            say(f"\n{ABOUT_METHODS}")
            return 0
        if self.name not in methods:
            near = nearest(self.name, methods)
            raise ValueError(
                f"there is no method {self.name!r}{near}; known are {', '.join(methods)}"
            )
        method = methods[self.name]
        out.print(f"[bold]{self.name}[/bold]", end="  ")
        say(inspect.getdoc(method) or "")
        say("")
        say(inspect.getdoc(inspect.getmodule(method)) or "")
        texts = field_texts(method)
        for field in fields(method):
            out.print(f"\n[bold]--method.{field.name.replace('_', '-')}[/bold]", end="")
            say(f" = {_default(field)}")
            say(textwrap.indent(textwrap.fill(texts.get(field.name, ""), 100), "    "))
        return 0


def summary(kind: type) -> str:
    """First line of a class's docstring."""
    return (kind.__doc__ or "").splitlines()[0]


def _default(field: "Field[Any]") -> str:
    if field.default is not MISSING:
        return repr(field.default)
    return "(required)" if field.default_factory is MISSING else repr(field.default_factory())


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """List the named experiments, or show one as YAML, which can be edited and trained.

    Example: dukd recipes edsr-x4-dukd > mine.yaml
    """

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[NAME]")] = ""
    """A recipe's name."""

    def __call__(self) -> int:
        if self.name:
            text = recipes.recipe(self.name).make().to_yaml().rstrip()
            say(f"# yaml-language-server: $schema=dukd.schema.json\n{text}")  # `dukd schema`
            return 0
        return show_recipes(listing())


@dataclass(frozen=True, kw_only=True)
class Models:
    """List the small students that come with dukd, and what they reach.

    Example: dukd models
    """

    def __call__(self) -> int:
        return show_models()
