"""Crops of a few images for the report: bicubic, student, teacher and ground truth."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dukd import images
from dukd.core.files import write_text
from dukd.data.pairs import load
from dukd.evaluation import metrics
from dukd.evaluation.output import output
from dukd.evaluation.sets import some
from dukd.images.convert import Pixels, from_tensor, to_tensor
from dukd.images.resize import imresize_uint8
from dukd.networks.base import Network
from dukd.training.validation import Validation

CROP = 64
"""Rows and columns of a sample for the report, in high-resolution pixels, times half the scale."""


def busiest(hr: NDArray[np.uint8], size: int) -> tuple[int, int]:
    """Top left corner of the window of ``hr`` with the most detail, on a grid of half windows."""
    gray = hr.astype(np.float64).mean(2)
    detail = np.abs(np.diff(gray, axis=0))[:, :-1] + np.abs(np.diff(gray, axis=1))[:-1]
    h, w = gray.shape
    step = max(1, size // 2)
    corners = [
        (t, x)
        for t in range(0, max(1, h - size + 1), step)
        for x in range(0, max(1, w - size + 1), step)
    ]
    return max(corners, key=lambda c: detail[c[0] : c[0] + size, c[1] : c[1] + size].sum())


def write_samples(
    validation: Validation,
    network: Network,
    teacher: Network | None,
    folder: Path,
    count: int,
    *,
    label: str,
) -> None:
    """Keep crops for the report: bicubic, this network, the teacher, the ground truth.

    The crops depend on the ground truth alone, so that those of several runs show the same places.
    """
    pairs = validation.sets[validation.first]
    size = CROP * validation.scale // 2
    index: list[dict[str, object]] = []
    for pair in some(pairs, count):
        lr, hr = load(pair)
        top, left = busiest(hr, size)
        outputs: Mapping[str, Pixels | None] = {
            "bicubic": imresize_uint8(lr, validation.scale),
            label: from_tensor(output(network, lr, device=validation.device)[0]),
            "teacher": None
            if teacher is None
            else from_tensor(output(teacher, lr, device=validation.device)[0]),
            "ground truth": hr,
        }
        shown: list[dict[str, object]] = []
        for what, image in outputs.items():
            if image is None:
                continue
            file = f"{pair.name}/{what.replace(' ', '-')}.png"
            crop = np.ascontiguousarray(image[top : top + size, left : left + size])
            images.write(folder / file, images.Image(pixels=crop))
            psnr = metrics.psnr_y(to_tensor(image), to_tensor(hr), border=validation.scale).item()
            shown.append(
                {"label": what, "file": file, "psnr_y": None if what == "ground truth" else psnr}
            )
        index.append({"sample": pair.name, "images": shown})
    write_text(folder / "index.json", json.dumps(index, indent=1) + "\n")
