"""Images of a report: what bicubic interpolation, students and the teacher made of one image.

They come from the samples that runs have kept (``samples.py``) or are computed anew
(``outputs.py``).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from dukd.core.text import shown
from dukd.evaluation.output import Pixels
from dukd.runs import samples
from dukd.runs.looks import Look
from dukd.runs.summary import ReportError, Summary
from dukd.runs.windows import Window, difference, luma

Kind = Literal["bicubic", "student", "teacher", "truth"]
TRUTH = "ground truth"
"""What a page calls the image that the low resolution was made from."""
_ORDER: tuple[Kind, ...] = ("bicubic", "student", "teacher", "truth")


@dataclass(frozen=True, eq=False)
class Layer:
    """What one model made of an image, or the ground truth."""

    label: str
    """What people call it."""
    kind: Kind
    """What it is to the others."""
    pixels: Pixels
    """``(h, w, 3)``."""
    psnr: float | None = None
    """PSNR-Y of the whole image, in dB."""
    strong: bool = False
    """Whether it is the one to look at."""


@dataclass(frozen=True, eq=False)
class Scene:
    """One image as all models give it."""

    name: str
    """The image's."""
    layers: tuple[Layer, ...]
    """Of one size, in the order in which they are shown."""

    @property
    def height(self) -> int:
        """Rows."""
        return self.layers[0].pixels.shape[0]

    @property
    def width(self) -> int:
        """Columns."""
        return self.layers[0].pixels.shape[1]

    @property
    def truth(self) -> Layer | None:
        """The ground truth."""
        return next((layer for layer in self.layers if layer.kind == "truth"), None)

    def outputs(self) -> list[Pixels]:
        """What the models gave; the layers themselves where there is nothing but a truth."""
        return [s.pixels for s in self.layers if s.kind != "truth"] or [self.layers[0].pixels]

    def difference(self) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        """Where the models differ, ``(h, w)``."""
        return difference(self.outputs())

    def cropped(self, window: Window) -> "Scene":
        """A part of it; the figures stay those of the whole image."""
        return replace(
            self, layers=tuple(replace(s, pixels=window.of(s.pixels)) for s in self.layers)
        )


def psnr(pixels: Pixels, truth: Pixels) -> float:
    """PSNR-Y of a part of an image, in dB, without leaving out a border.

    Example:
        >>> round(psnr(np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)), 4)
        1.3219
    """
    error = float(np.square(luma(pixels) - luma(truth)).mean())
    return 20 * math.log10(255) - 10 * math.log10(error) if error else math.inf


def arranged(name: str, layers: Sequence[Layer]) -> Scene:
    """A scene with its layers in the order of pages: bicubic, students, teacher, truth."""
    return Scene(name, tuple(sorted(layers, key=lambda layer: _ORDER.index(layer.kind))))


def kept(summaries: Sequence[Summary], named: Mapping[str, Look]) -> list[Scene]:
    """The samples of runs; of several seeds the first run's are taken.

    Args:
        summaries: The runs.
        named: What a page calls the student of each run, by the run's ``kin``.

    Raises:
        ReportError: If a list of samples is damaged, or names what is not a PNG inside the run.
    """
    found: dict[str, dict[str, Layer]] = {}
    for summary in summaries:
        for sample, crop in samples.listed(summary.directory / "samples"):
            fixed: dict[str, Kind] = {"bicubic": "bicubic", "teacher": "teacher", TRUTH: "truth"}
            kind = fixed.get(crop.label, "student")
            look = named[summary.kin]
            label = look.label if kind == "student" else crop.label
            if label in found.setdefault(sample, {}):
                continue
            strong = kind == "student" and look.strong
            figure = None if kind == "truth" else crop.psnr
            found[sample][label] = Layer(label, kind, samples.pixels(crop), figure, strong)
    scenes = [arranged(name, list(layers.values())) for name, layers in found.items()]
    for scene in scenes:
        sizes = {layer.pixels.shape for layer in scene.layers}
        if len(sizes) > 1:
            listed = " and ".join(sorted(f"{w} x {h}" for h, w, _ in sizes))
            raise ReportError(
                f"the samples of {shown(scene.name)} have unlike sizes, {listed}: let the runs "
                "keep them again (--resume), or report the runs apart"
            )
    return scenes
