"""The images that a run keeps of its training, for reports.

They are PNG in ``samples/<sample>/<label>.png``, listed in ``samples/index.json``::

    [{"sample": "butterfly", "images": [{"label": "bicubic", "file": "butterfly/bicubic.png",
    "psnr_y": 24.1}]}]

``file`` is relative to ``samples/``; ``psnr_y`` is that of the whole image. Labels are ``bicubic``,
``teacher``, ``ground truth``, and the method's name for the run's own student. Several runs that
kept the same part of the same image are shown side by side.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from dukd.core.files import real
from dukd.core.text import shown
from dukd.evaluation.output import Pixels
from dukd.images import ImageError, read_rgb8
from dukd.runs.summary import ReportError

_PNG = b"\x89PNG\r\n\x1a\n"
_LARGEST_IMAGE = 8 << 20
_LARGEST_SIDE = 4096


@dataclass(frozen=True)
class Sample:
    """What one model made of a piece of an image."""

    label: str
    """The model."""
    file: Path
    """A PNG."""
    psnr: float | None
    """PSNR-Y of the whole image, in dB."""


def listed(folder: Path) -> list[tuple[str, Sample]]:
    """What a folder of samples lists, by sample; empty if there is no list.

    Raises:
        ReportError: If the list is damaged, or names a file outside.
    """
    index = folder / "index.json"
    if not index.exists():
        return []
    try:
        found: list[tuple[str, Sample]] = []
        for entry in json.loads(index.read_bytes()):
            for image in entry["images"]:
                file = real(folder / str(image["file"]))
                if not file.is_relative_to(real(folder)):
                    raise ReportError(
                        f"{shown(index)} names {image['file']}, which lies outside samples"
                    )
                psnr = None if image.get("psnr_y") is None else float(image["psnr_y"])
                found.append((str(entry["sample"]), Sample(str(image["label"]), file, psnr)))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, ReportError):
            raise
        raise ReportError(
            f"{shown(index)} is not a list of samples ({type(error).__name__}: {error})"
        ) from error
    return found


def pixels(sample: Sample) -> Pixels:
    """Read a sample, ``(h, w, 3)``.

    Raises:
        ReportError: If it cannot be read, or is not a PNG of moderate size.
    """
    try:
        with sample.file.open("rb") as file:
            is_png = file.read(len(_PNG)) == _PNG
        if not is_png or sample.file.stat().st_size > _LARGEST_IMAGE:
            limit = f"{_LARGEST_IMAGE >> 20} MB"
            raise ReportError(f"{shown(sample.file)} is not a PNG of at most {limit}")
        return read_rgb8(sample.file, max_pixels=_LARGEST_SIDE**2)
    except OSError as error:
        raise ReportError(f"cannot read {shown(sample.file)}: {error.strerror}") from error
    except ImageError as error:
        raise ReportError(str(error)) from error
