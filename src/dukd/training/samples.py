"""A few images for the report: bicubic, student, teacher and ground truth."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from torch import Tensor

from dukd import images
from dukd.core.files import write_text
from dukd.data.pairs import load
from dukd.evaluation import metrics
from dukd.evaluation.output import Pixels, output
from dukd.evaluation.sets import some
from dukd.images.convert import from_tensor, to_tensor
from dukd.images.resize import imresize_uint8
from dukd.networks.base import Network
from dukd.runs.windows import Window, busiest
from dukd.training.validation import Validation

SIZE = 384
"""Most rows and columns of a sample, in high-resolution pixels."""
PREVIEW = 192
"""Rows and columns of what trackers show, likewise."""


def preview(validation: Validation, network: Network, teacher: Network | None) -> dict[str, Pixels]:
    """What trackers show of a validation: the busiest part of the first image, by their series."""
    pair = validation.sets[validation.first][0]
    lr, hr = load(pair)
    size = min(PREVIEW, *hr.shape[:2]) // validation.scale
    top, left = busiest(hr[:: validation.scale, :: validation.scale], size)
    part = Window(top, left, size, size).of(lr)
    s = validation.scale
    found: dict[str, Pixels] = {
        "bicubic": imresize_uint8(part, s),
        "student": _levels(output(network, part, device=validation.device)[0]),
        "ground truth": Window(top * s, left * s, size * s, size * s).of(hr),
    }
    if teacher is not None:
        found["teacher"] = _levels(output(teacher, part, device=validation.device)[0])
    return {f"{pair.name}/{label}": pixels for label, pixels in found.items()}


def _levels(sr: Tensor) -> Pixels:
    """An output as 8-bit pixels."""
    return cast("Pixels", from_tensor(sr))


def write_samples(
    validation: Validation,
    network: Network,
    teacher: Network | None,
    folder: Path,
    count: int,
    *,
    label: str,
) -> None:
    """Keep parts of images for reports: bicubic, this network, the teacher, the ground truth.

    The parts depend on the ground truth alone, so that those of several runs show the same places.
    """
    pairs = validation.sets[validation.first]
    index: list[dict[str, object]] = []
    for pair in some(pairs, count):
        lr, hr = load(pair)
        window = Window(*busiest(hr, SIZE), SIZE, SIZE)
        outputs: Mapping[str, Pixels | None] = {
            "bicubic": imresize_uint8(lr, validation.scale),
            label: _levels(output(network, lr, device=validation.device)[0]),
            "teacher": None
            if teacher is None
            else _levels(output(teacher, lr, device=validation.device)[0]),
            "ground truth": hr,
        }
        shown: list[dict[str, object]] = []
        for what, image in outputs.items():
            if image is None:
                continue
            file = f"{pair.name}/{what.replace(' ', '-')}.png"
            images.write(folder / file, images.Image(pixels=window.of(image)))
            psnr = metrics.psnr_y(to_tensor(image), to_tensor(hr), border=validation.scale).item()
            shown.append(
                {"label": what, "file": file, "psnr_y": None if what == "ground truth" else psnr}
            )
        index.append({"sample": pair.name, "images": shown})
    write_text(folder / "index.json", json.dumps(index, indent=1) + "\n")
