"""Commands that measure and compare: evaluate, compare, report."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from dukd.cli.assumed import note_assumed
from dukd.cli.terminal import PARTIAL, Bar, say, table, warn
from dukd.core.device import DeviceName, by_name
from dukd.core.files import check_target, write_text
from dukd.core.once import once, said_of
from dukd.core.text import amount, shown
from dukd.deploy.model import opened
from dukd.evaluation.candidates import BICUBIC, Candidate, Unsaid, open_all
from dukd.evaluation.evaluate import evaluate
from dukd.evaluation.sets import Inputs, NamedSet
from dukd.evaluation.sets import by_name as sets_by_name
from dukd.evaluation.table import FORMS, Table
from dukd.runs import results
from dukd.runs.compare import compare
from dukd.runs.report import Images, report


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure networks side by side, by the field's protocol, which is printed below the table.

    A run directory stands for its student; the figures are kept in it, for `dukd compare` and `dukd
    report`: sets add up from call to call, and those of another way of measuring have files of
    their own. What cannot be measured is listed at the end, and the rest is measured.

    Example: dukd evaluate student.safetensors --teacher teacher.pth --sets Set5 Set14
    """

    models: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Files of weights, exports (.onnx, .xml, .param), code as file.py:make, run directories, or
    folders of images that another program has made."""
    sets: tuple[Path, ...] = ()
    """Folders of images, in any layout the field uses."""
    inputs: tuple[Path, ...] = ()
    """Folders of low-resolution images without a ground truth."""
    teacher: Path | None = None
    """The teacher: agreement with it is measured. A file of weights or an ONNX file, code as
    file.py:make, or a folder of its outputs; one of a larger scale is reduced."""
    metrics: tuple[str, ...] = ()
    """What is measured, such as psnr_y niqe; what papers print if left out."""
    border: int | None = None
    """Pixels left out on every side; as many as the scale if left out, 0 for the real world."""
    scale: Annotated[int | None, tyro.conf.arg(aliases=["-s"])] = None
    """Upscaling factor, where no network says it."""
    images: int = 0
    """Images used of each set, evenly spaced; 0 for all."""
    best: bool = False
    """Whether a run stands for the student of its best validation."""
    self_ensemble: Annotated[bool, tyro.conf.arg(aliases=["-x"])] = False
    """Whether students' outputs are averaged over eight flips and rotations; marked with a plus."""
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
    """File to write as well: .md, .csv, .json or .tex."""

    def __call__(self) -> int:
        if self.out is not None:
            _check_form(self.out)
            check_target(self.out)
        if self.border is not None and self.border < 0:
            raise ValueError(f"--border is a number of pixels from 0 up, but got {self.border}")
        if self.images < 0:
            raise ValueError(f"--images is a number from 0 (all) up, but got {self.images}")
        device = by_name(self.device)
        said: list[str] = []
        sets = self._sets(said)
        found, problems = self._open(said)
        with Bar() as progress:
            measured = evaluate(
                found,
                sets,
                metrics=self.metrics,
                border=self.border,
                images=self.images,
                scale=self.scale,
                device=device,
                precision=torch.bfloat16 if self.precision == "bfloat16" else torch.float32,
                progress=progress,
            )
        notes = tuple(dict.fromkeys([*said, *measured.notes]))
        measured = replace(measured, notes=notes, problems=(*problems, *measured.problems))
        table(*measured.cells(), right=True)
        say("\n".join(measured.below()))
        _write(measured, self.out)
        runs = {c.title: c.run for c in found if c.run is not None and c.model == "student"}
        for kept in results.keep_each(measured, runs, best=self.best):
            say("; ".join([f"wrote {shown(kept.path)}", *map(shown, kept.notes)]))
        return _problems(measured, "not measured")

    def _sets(self, said: list[str]) -> dict[str, NamedSet]:
        """Sets and inputs by name, each folder once; what was named again is said."""
        folders, again = once(self.sets)
        inputs, more = once(self.inputs)
        said += filter(None, [said_of([*again, *more], "measured")])
        sets: dict[str, NamedSet] = {**sets_by_name(folders)}
        for name, folder in sets_by_name(inputs).items():
            if name in sets:
                raise ValueError(
                    f"{shown(folder)} is called {name} as one of --sets is: name it once, or "
                    "rename one folder"
                )
            sets[name] = Inputs(folder)
        return sets

    def _open(self, said: list[str]) -> tuple[list[Candidate], list[str]]:
        return open_all(
            [*([BICUBIC] if self.bicubic else []), *self.models],
            self.teacher,
            best=self.best,
            self_ensemble=self.self_ensemble,
            unsaid=Unsaid(
                scale=self.scale,
                value_range=self.value_range,
                mean=self.mean,
                residual_scale=self.residual_scale,
            ),
            report=note_assumed,
            opener=opened,
            say=said.append,
        )


def _check_form(out: Path, *more: str) -> None:
    forms = (*FORMS, *more)
    if out.suffix not in forms:
        listed = f"{', '.join(forms[:-1])} or {forms[-1]}"
        raise ValueError(f"--out writes {listed}, but got {shown(out)}")


def _write(measured: Table, out: Path | None) -> None:
    if out is not None:
        write_text(out, FORMS[out.suffix](measured))
        say(f"wrote {shown(out)}")


def _problems(measured: Table, what: str) -> int:
    """List what could not be done, and give the exit code."""
    if measured.problems:
        warn(f"{len(measured.problems)} {what}:", measured.problems)
    return PARTIAL if measured.problems else 0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Which figures of a run are meant."""

    self_ensemble: Annotated[bool, tyro.conf.arg(aliases=["-x"])] = False
    """Whether to take what was measured with --self-ensemble."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Which arithmetic's figures to take."""
    best: bool = False
    """Whether to take what was measured with --best."""
    border: int | None = None
    """Which border's figures to take, where it was not the scale."""

    @property
    def file(self) -> str:
        """The file of a run that holds them."""
        return results.file_name(
            precision=self.precision,
            self_ensemble=self.self_ensemble,
            best=self.best,
            border=self.border,
        )


@dataclass(frozen=True, kw_only=True)
class Compare(Measured):
    """Put evaluated runs into one table: those of equal steps, data, teacher and protocol.

    Runs that differ in their seed only become one row, with mean and standard deviation.

    Example: dukd compare runs/edsr-x4-scratch runs/edsr-x4-dukd -o table.md
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories that `dukd evaluate` has measured."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """File to write: .md, .csv, .json, .tex or .html; otherwise the table is printed."""

    def __call__(self) -> int:
        if self.out is not None:
            _check_form(self.out, ".html")
            check_target(self.out)
        compared = compare(self.runs, measured=self.file)
        if self.out is None:
            say(compared.to_markdown().rstrip())
        elif self.out.suffix == ".html":
            report(self.runs, self.out, title="Comparison", measured=self.file)
            say(f"wrote {shown(self.out)}")
        else:
            _write(compared, self.out)
        return _problems(compared, "not compared")


@dataclass(frozen=True, kw_only=True)
class Report(Measured):
    """Write one HTML page about runs: images, table, curves and origin.

    It needs no network and no other file. Runs that are still going, or were not evaluated, may be
    among them. Images are those that the runs have kept, or some of those that judged the training,
    enlarged anew.

    Example: dukd report runs/edsr-x4-scratch runs/edsr-x4-dukd -o report.html --images Set5
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("report.html")
    """The page to write."""
    title: str = "Distillation report"
    """Headline of the page."""
    images: tuple[Path, ...] = ()
    """High-resolution images to show, or folders of them."""
    teacher: Path | None = None
    """Weights of the teacher, where the runs' own path is not valid any more."""
    count: int = 3
    """Images to compare by hand, where --images names none; 0 leaves images out."""
    crops: int = 3
    """Crops that are shown large: those where outputs differ most."""
    megabytes: float = 3.0
    """Size of all images; larger ones are cut."""

    def __call__(self) -> int:
        if self.out.suffix not in {".html", ".htm"}:
            raise ValueError(
                f"the report is a page: --out ends in .html, but got {shown(self.out)}"
            )
        check_target(self.out)
        images = Images(
            files=self.images,
            teacher=self.teacher,
            count=self.count,
            crops=self.crops,
            megabytes=self.megabytes,
        )
        with Bar() as bar:
            report(
                self.runs,
                self.out,
                title=self.title,
                measured=self.file,
                images=images,
                progress=bar,
            )
        say(f"wrote {shown(self.out)} ({amount(self.out.stat().st_size)})")
        return 0
