"""Commands that measure and compare: evaluate, compare, report."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from dukd.cli.terminal import Bar, note, say, table
from dukd.core.device import DeviceName, by_name
from dukd.core.files import write_text
from dukd.core.text import shown
from dukd.data.pairs import Pairs, find_pairs
from dukd.deploy.model import file_of
from dukd.evaluation import evaluate
from dukd.networks import Network
from dukd.networks.files import guess
from dukd.networks.files.opening import Contents
from dukd.runs import compare, report, results
from dukd.training import validation


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure networks side by side, by the field's protocol, which is printed below the table.

    A run directory stands for its student; the figures are kept in it, for `dukd compare` and `dukd
    report`: sets add up from call to call, and those of a self-ensemble or of bfloat16 have files
    of their own.

    Example: dukd evaluate student.safetensors --teacher teacher.pth --sets Set5 Set14
    """

    models: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Files of weights, run directories, or folders of images that another program has made."""
    sets: tuple[Path, ...]
    """Folders of images, in any layout the field uses."""
    teacher: Path | None = None
    """Weights of the teacher: agreement with it and the share of the gap are measured."""
    baseline: Path | None = None
    """Weights of a baseline, such as the student from scratch, in place of bicubic, for the share
    of the gap."""
    scale: Annotated[int | None, tyro.conf.arg(aliases=["-s"])] = None
    """Upscaling factor, where no network says it."""
    images: int = 0
    """Images used of each set, evenly spaced; 0 for all."""
    self_ensemble: Annotated[bool, tyro.conf.arg(aliases=["-x"])] = False
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
    device: DeviceName = "auto"
    """Where networks run."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """File to write as well: .md, .csv or .json."""

    def __call__(self) -> int:
        if self.out is not None and self.out.suffix not in {".md", ".csv", ".json"}:
            raise ValueError(f"--out writes .md, .csv or .json, but got {shown(self.out)}")
        if self.images < 0:
            raise ValueError(f"--images is a number from 0 (all) up, but got {self.images}")
        device = by_name(self.device)
        sources = self._sources()
        candidates = [candidate for _, candidate in sources]
        scale = self._scale(candidates)
        sets: dict[str, Pairs] = {}
        for path in self.sets:
            name = validation.set_name(path)
            if name in sets:
                raise ValueError(
                    f"two sets are called {name}: {shown(path)} and another; rename one folder"
                )
            sets[name] = validation.some(find_pairs(path, scale=scale), self.images)
        for candidate in candidates:
            if candidate.network is not None:
                candidate.network.to(device)
        precision = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
        with Bar() as progress:
            measured = evaluate.evaluate(
                candidates, sets, device=device, precision=precision, progress=progress
            )
        table(*measured.header_and_lines(), right=True)
        say(measured.protocol_line())
        if self.out is not None:
            forms = {
                ".md": measured.to_markdown,
                ".csv": measured.to_csv,
                ".json": measured.to_json,
            }
            write_text(self.out, forms[self.out.suffix]())
            say(f"wrote {shown(self.out)}")
        for i, (path, _) in enumerate(sources):
            if path is not None and _is_run(path):
                others = [r for j, r in enumerate(measured.rows) if sources[j][0] is None or j == i]
                kept = results.keep(path, replace(measured, rows=tuple(others)))
                say(
                    f"wrote {shown(kept.path)}" + "".join(f"; {shown(text)}" for text in kept.notes)
                )
        return 0

    def _scale(self, candidates: Sequence[evaluate.Candidate]) -> int:
        found = {c.network.scale for c in candidates if c.network is not None}
        if self.scale is not None:
            found.add(self.scale)
        if len(found) != 1:
            what = (
                "no network says the scale: give --scale"
                if not found
                else f"several scales: {sorted(found)}"
            )
            raise ValueError(f"cannot tell which images to measure on, {what}")
        return found.pop()

    def _sources(self) -> list[tuple[Path | None, evaluate.Candidate]]:
        """What to measure; models with their paths, what all models are compared with without."""
        found: list[tuple[Path | None, evaluate.Candidate]] = []
        if self.bicubic:
            found.append((None, evaluate.Candidate(model="bicubic", label="bicubic")))
        for model, path in (("teacher", self.teacher), ("baseline", self.baseline)):
            if path is not None:
                network = self._read(file_of(path))
                found.append(
                    (None, evaluate.Candidate(model=model, label=path.stem, network=network))
                )
        for path in self.models:
            if path.is_dir() and not _is_run(path):
                found.append(
                    (path, evaluate.Candidate(model="images", label=path.name, images=path))
                )
                continue
            label = path.resolve().name if path.is_dir() else path.stem
            student = evaluate.Candidate(
                model="student",
                label=label,
                network=self._read(file_of(path)),
                self_ensemble=self.self_ensemble,
            )
            found.append((path, student))
        return found

    def _read(self, path: Path) -> Network:
        return read_silent(
            path,
            scale=self.scale,
            value_range=self.value_range,
            mean=self.mean,
            residual_scale=self.residual_scale,
        )


def read_silent(
    path: Path,
    *,
    scale: int | None = None,
    value_range: float | None = None,
    mean: tuple[float, float, float] | None = None,
    residual_scale: float | None = None,
) -> Network:
    """Read a network; options count where its file says nothing; assumptions are reported."""
    network, contents = guess.read_where_silent(
        path, scale=scale, value_range=value_range, mean=mean, residual_scale=residual_scale
    )
    tell(contents)
    return network


def tell(contents: Contents, *, how: str = "try {options}") -> None:
    """Tell what had to be assumed of a file, and what to type if it is not so."""
    for text in contents.notes:
        note(f"{shown(contents.path)}: {text}")
    if options := instead(contents):
        advice = how.format(options=options)
        note(
            f"{shown(contents.path)}: if its outputs look wrong (below bicubic, too dark or "
            f"tinted), {advice}"
        )


def instead(contents: Contents) -> str:
    """Options for what had to be assumed of a file, with the field's other values."""
    found: list[str] = []
    for name, other in guess.others(contents.config, contents.assumed).items():
        text = " ".join(f"{v:g}" for v in other) if isinstance(other, tuple) else f"{other:g}"
        found.append(f"--{name.replace('_', '-')} {text}")
    return " or ".join(found)


def _is_run(path: Path) -> bool:
    return (path / "experiment.yaml").is_file()


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Put evaluated runs into one table, if their steps, data, teacher and protocol are the same.

    Runs that differ in their seed only become one row, with mean and standard deviation.

    Example: dukd compare runs/edsr-x4-scratch runs/edsr-x4-dukd -o table.md
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories that `dukd evaluate` has measured."""
    self_ensemble: Annotated[bool, tyro.conf.arg(aliases=["-x"])] = False
    """Whether to take what was measured with --self-ensemble."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Which arithmetic's figures to take."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """File to write: .md, .csv, .json or .html; otherwise the table is printed."""

    def __call__(self) -> int:
        if self.out is not None and self.out.suffix not in {".md", ".csv", ".json", ".html"}:
            raise ValueError(f"--out writes .md, .csv, .json or .html, but got {shown(self.out)}")
        measured = results.file_name(precision=self.precision, self_ensemble=self.self_ensemble)
        compared = compare.compare(self.runs, measured=measured)
        if self.out is None:
            say(compared.to_markdown().rstrip())
            return 0
        if self.out.suffix == ".html":
            report.report(self.runs, self.out, title="Comparison", measured=measured)
        else:
            forms = {
                ".md": compared.to_markdown,
                ".csv": compared.to_csv,
                ".json": compared.to_json,
            }
            write_text(self.out, forms[self.out.suffix]())
        say(f"wrote {shown(self.out)}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write one HTML page about runs: table, curves, images and origin, in one file.

    Runs that are still going, or were not evaluated, may be among them.

    Example: dukd report runs/edsr-x4-scratch runs/edsr-x4-dukd -o report.html
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("report.html")
    """The page to write."""
    title: str = "Distillation report"
    """Headline of the page."""
    self_ensemble: Annotated[bool, tyro.conf.arg(aliases=["-x"])] = False
    """Whether the table holds what was measured with --self-ensemble."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Which arithmetic's figures the table holds."""

    def __call__(self) -> int:
        if self.out.suffix not in {".html", ".htm"}:
            raise ValueError(
                f"the report is a page: --out ends in .html, but got {shown(self.out)}"
            )
        measured = results.file_name(precision=self.precision, self_ensemble=self.self_ensemble)
        report.report(self.runs, self.out, title=self.title, measured=measured)
        say(f"wrote {shown(self.out)}")
        return 0
