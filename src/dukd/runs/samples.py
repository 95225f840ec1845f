"""The images of a report: crops that runs have kept, side by side.

They are PNG in ``samples/<sample>/<label>.png``, listed in ``samples/index.json``::

    [{"sample": "butterfly", "images": [{"label": "bicubic", "file": "butterfly/bicubic.png",
    "psnr_y": 24.1}]}]

``file`` is relative to ``samples/``; ``psnr_y`` is that of the whole image. Labels are ``bicubic``,
``teacher``, ``ground truth``, and the method's name for the run's own student. Several runs that
cropped the same sample are shown side by side.
"""

import base64
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from dukd.core.text import shown
from dukd.runs.summary import ReportError, Summary

_PNG = b"\x89PNG\r\n\x1a\n"
_LARGEST_IMAGE = 8 << 20


@dataclass(frozen=True)
class Crop:
    """What one model made of a piece of an image."""

    label: str
    """The model."""
    file: Path
    """A PNG."""
    psnr: float | None
    """PSNR-Y of the whole image, in dB."""


def section(summaries: Sequence[Summary]) -> str:
    """The crops of all runs, by sample; empty if there are none.

    Raises:
        ReportError: If a list of samples is damaged, or names what is not a PNG inside the run.
    """
    samples: dict[str, dict[str, Crop]] = {}
    for summary in summaries:
        for sample, crop in listed(summary.directory / "samples"):
            samples.setdefault(sample, {}).setdefault(crop.label, crop)
    blocks: list[str] = []
    for sample, crops in samples.items():
        order = sorted(crops.values(), key=lambda crop: _rank(crop.label))
        shown_ = "".join(_figure(crop, sample) for crop in order)
        blocks.append(f'<h3>{escape(sample)}</h3><div class="crops">{shown_}</div>')
    if not blocks:
        return ""
    legend = "Pieces of images, enlarged without smoothing; below, the PSNR-Y of the whole image."
    return f'<section><h2>Images</h2><p class="legend">{legend}</p>{"".join(blocks)}</section>'


def listed(folder: Path) -> list[tuple[str, Crop]]:
    """What a folder of samples lists, by sample; empty if there is no list.

    Raises:
        ReportError: If the list is damaged, or names a file outside.
    """
    index = folder / "index.json"
    if not index.exists():
        return []
    try:
        found: list[tuple[str, Crop]] = []
        for entry in json.loads(index.read_bytes()):
            for image in entry["images"]:
                file = (folder / str(image["file"])).resolve()
                if not file.is_relative_to(folder.resolve()):
                    raise ReportError(
                        f"{shown(index)} names {image['file']}, which lies outside samples"
                    )
                psnr = None if image.get("psnr_y") is None else float(image["psnr_y"])
                found.append((str(entry["sample"]), Crop(str(image["label"]), file, psnr)))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, ReportError):
            raise
        raise ReportError(
            f"{shown(index)} is not a list of samples ({type(error).__name__}: {error})"
        ) from error
    return found


def _rank(label: str) -> int:
    return {"bicubic": 0, "teacher": 2, "ground truth": 3}.get(label, 1)


def _figure(crop: Crop, sample: str) -> str:
    try:
        content = crop.file.read_bytes()
    except OSError as error:
        raise ReportError(f"cannot read {shown(crop.file)}: {error.strerror}") from error
    if not content.startswith(_PNG) or len(content) > _LARGEST_IMAGE:
        limit = f"{_LARGEST_IMAGE >> 20} MB"
        raise ReportError(f"{shown(crop.file)} is not a PNG of at most {limit}")
    width, height = struct.unpack(">II", content[16:24])
    psnr = "" if crop.psnr is None else f" <small>{crop.psnr:.2f} dB</small>"
    return (
        f'<figure><img width="{width}" height="{height}" alt="{escape(f"{sample}, {crop.label}")}" '
        f'src="data:image/png;base64,{base64.b64encode(content).decode()}">'
        f"<figcaption>{escape(crop.label)}{psnr}</figcaption></figure>"
    )
