"""The command that makes a grid of crops for a paper."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dukd.cli.assumed import note_assumed
from dukd.cli.terminal import PARTIAL, Bar, note, say, warn
from dukd.core.device import DeviceName, by_name
from dukd.core.files import check_target
from dukd.core.once import once, said_of
from dukd.core.text import shown
from dukd.deploy.model import opened
from dukd.evaluation.candidates import Candidate, open_all
from dukd.runs.figure import SUFFIXES, Region, Style, figure
from dukd.runs.outputs import Model, check_scales, named_images, scenes


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Write a grid of crops as PNG or PDF: one row for each place, one column for each model.

    Columns are bicubic interpolation, the models in the order named, the teacher and the ground
    truth; below each crop stand its name and PSNR-Y. Places are named (--regions), or those in
    which the outputs differ most. Exact pixels, enlarged without smoothing.

    Example: dukd figure runs/scratch runs/dukd --teacher teacher.pth --images Set14/comic.png
    """

    models: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories, files of weights, or exported networks."""
    images: tuple[Path, ...]
    """High-resolution images, or folders of them."""
    teacher: Path | None = None
    """Weights of the teacher."""
    regions: tuple[str, ...] = ()
    """Places, as NAME:X,Y,WIDTH,HEIGHT in high-resolution pixels, such as comic:60,110,64,64."""
    labels: tuple[str, ...] = ()
    """What the columns of the models are called; the names of their runs or files if left out."""
    count: int = 1
    """Places chosen of each image, where none is named."""
    size: int = 64
    """Rows and columns of a chosen place."""
    zoom: int = 4
    """Pixels of the figure for one of a crop, each way."""
    overview: bool = True
    """Whether each row begins with the whole image, in which the place is framed."""
    best: bool = False
    """Whether a run stands for the student of its best validation."""
    device: DeviceName = "auto"
    """Where networks run."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("figure.png")
    """The file to write: .png or .pdf."""

    def __call__(self) -> int:
        if self.out.suffix.lower() not in SUFFIXES:
            raise ValueError(f"a figure is written as .png or .pdf, but got {shown(self.out)}")
        if min(self.count, self.size, self.zoom) < 1:
            raise ValueError("--count, --size and --zoom are at least 1")
        if self.labels and len(self.labels) != len(self.models):
            raise ValueError(f"{len(self.labels)} --labels do not fit {len(self.models)} models")
        if not self.models and self.teacher is None:
            raise ValueError("name what is shown: run directories, files of weights or exports")
        regions = [Region.of(text) for text in self.regions]
        device = by_name(self.device)
        named, repeated = once(self.models)
        if repeated and self.labels:
            raise ValueError(f"{said_of(repeated, 'shown')}: leave it and its label out")
        found, problems = open_all(
            named, self.teacher, best=self.best, report=note_assumed, opener=opened
        )
        models = self._models(found, labelled=not problems)
        check_scales(models)
        with Bar() as bar:
            pairs, notes = named_images(self.images, models[0].upscaler.scale)
            for said in filter(None, (said_of(repeated, "shown"), *notes)):
                note(said)
            check_target(self.out, sources=[path for p in pairs for path in (p.hr, p.lr) if path])
            shown_ = scenes(models, pairs, device=device, progress=bar, whole=True)
        style = Style(zoom=self.zoom, overview=self.overview)
        figure(shown_, self.out, regions=regions, count=self.count, size=self.size, style=style)
        say(f"wrote {shown(self.out)}")
        if problems:
            warn(f"{len(problems)} not shown:", problems)
        return PARTIAL if problems else 0

    def _models(self, found: list[Candidate], *, labelled: bool) -> list[Model]:
        """What enlarges, under the names that were given."""
        names = iter(self.labels if labelled else ())
        models: list[Model] = []
        for c in found:
            if c.upscaler is None:
                raise ValueError(f"{c.label} does not enlarge: name a run, weights or an export")
            if c.model == "teacher":
                models.append(Model("teacher", "teacher", c.upscaler))
            else:
                models.append(Model(next(names, c.title), "student", c.upscaler))
        return models
