"""Judge networks while they train: on small sets, often, and the teacher before hours are spent on it."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dukd import images, metrics
from dukd.data.pairs import Pair, Pairs, find_pairs, load
from dukd.evaluate import answer, tensor
from dukd.experiment import Evaluation
from dukd.files import write_text
from dukd.networks._network import SRNetwork
from dukd.resize import imresize_uint8

CROP = 64
"""Rows and columns of a sample for the report, in high-resolution pixels, times half the scale."""


class ValidationRecord(TypedDict):
    """A line of the log."""

    kind: str
    step: int
    sets: dict[str, dict[str, float]]
    seconds: float


@dataclass
class Validation:
    """Sets of pictures, and the teacher's answers to them, computed once."""

    scale: int
    device: torch.device
    sets: dict[str, Pairs]
    _answers: dict[tuple[str, str], NDArray[np.uint8]] = field(default_factory=dict[tuple[str, str], NDArray[np.uint8]])

    @staticmethod
    def open(evaluation: Evaluation, scale: int, device: torch.device) -> "Validation":
        """Find the sets of an experiment.

        Raises:
            ValueError: If a folder holds no pairs, or two sets have the same name.
        """
        sets: dict[str, Pairs] = {}
        for path in evaluation.sets:
            name = set_name(path)
            if name in sets:
                raise ValueError(f"two sets are called {name}: {path} and another; rename one folder")
            sets[name] = some(find_pairs(path, scale=scale), evaluation.pictures)
        return Validation(scale, device, sets)

    def measure(self, network: SRNetwork, teacher: SRNetwork | None) -> dict[str, dict[str, float]]:
        """Means over each set: PSNR and SSIM of the luma, PSNR of RGB, agreement with the teacher."""
        results: dict[str, dict[str, float]] = {}
        for name, pairs in self.sets.items():
            gathered: dict[str, list[float]] = {}
            for pair in pairs:
                for key, value in self._measure(network, teacher, name, pair).items():
                    gathered.setdefault(key, []).append(value)
            results[name] = {key: float(np.mean(values)) for key, values in gathered.items()}
        return results

    @property
    def first(self) -> str:
        """Name of the set that chooses the best student."""
        return next(iter(self.sets))

    def record(self, step: int, network: SRNetwork, teacher: SRNetwork | None) -> ValidationRecord:
        """The line of the log for a validation."""
        started = time.perf_counter()
        sets = self.measure(network, teacher)
        return {"kind": "validation", "step": step, "sets": sets, "seconds": time.perf_counter() - started}

    def _measure(self, network: SRNetwork, teacher: SRNetwork | None, name: str, pair: Pair) -> dict[str, float]:
        lr, hr = load(pair)
        sr, _ = answer(network, lr, device=self.device)
        truth = tensor(hr)
        values = {
            "psnr_y": metrics.psnr_y(sr, truth, border=self.scale).item(),
            "ssim_y": metrics.ssim_y(sr, truth, border=self.scale).item(),
            "psnr_rgb": metrics.psnr_rgb(sr, truth, border=self.scale).item(),
        }
        if teacher is not None:
            key = (name, pair.name)
            if key not in self._answers:
                self._answers[key] = pixels(answer(teacher, lr, device=self.device)[0])
            values["agreement"] = metrics.agreement(sr, tensor(self._answers[key]), border=self.scale).item()
        return values


def set_name(path: Path) -> str:
    """Name of the set in a folder: that of the folder, or of the one around ``HR``."""
    path = path.resolve()
    return path.parent.name if path.name.upper() in {"HR", "GTMOD12"} else path.name


def some(pairs: Pairs, count: int) -> Pairs:
    """``count`` pairs, evenly spaced; all of them for 0."""
    if not count or count >= len(pairs):
        return pairs
    return replace(pairs, pairs=tuple(pairs[i * len(pairs) // count] for i in range(count)))


def pixels(sr: Tensor) -> NDArray[np.uint8]:
    """``(1, 3, h, w)`` in [0, 1] to ``(h, w, 3)``, uint8."""
    return sr[0].clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def try_teacher(teacher: SRNetwork, validation: Validation, count: int) -> str:
    """Compare a teacher with bicubic interpolation on a few pictures of the first set.

    Returns:
        A sentence with both figures.

    Raises:
        ValueError: If the teacher is not better; the message says what is likely wrong.
    """
    name, pairs = next(iter(validation.sets.items()))
    ours: list[float] = []
    bicubic: list[float] = []
    low, high = np.inf, -np.inf
    for pair in some(pairs, count):
        lr, hr = load(pair)
        sr, _ = answer(teacher, lr, device=validation.device)
        low, high = min(low, sr.min().item()), max(high, sr.max().item())
        ours.append(metrics.psnr_y(sr, tensor(hr), border=validation.scale).item())
        enlarged = tensor(imresize_uint8(lr, validation.scale))
        bicubic.append(metrics.psnr_y(enlarged, tensor(hr), border=validation.scale).item())
    figures = f"{np.mean(ours):.2f} dB against {np.mean(bicubic):.2f} dB on {len(ours)} pictures of {name}"
    if np.mean(ours) > np.mean(bicubic):
        return f"the teacher beats bicubic: {figures}"
    raise ValueError(f"the teacher does not beat bicubic: {figures}. {_likely_cause(low, high)}")


def _likely_cause(low: float, high: float) -> str:
    given = "Say so with --teacher.value-range, --teacher.mean or --teacher.residual-scale."
    if high - low > 8:  # noqa: PLR2004  far outside [0, 1]
        return f"Its answers reach from {low:.3g} to {high:.3g}: it seems to compute with values up to 255. {given}"
    if high - low < 0.05:  # noqa: PLR2004  hardly anything in [0, 1]
        return f"Its answers reach only from {low:.3g} to {high:.3g}: it seems to expect values up to 255. {given}"
    return (
        f"Its answers reach from {low:.3g} to {high:.3g}. Likely causes: another mean or residual scale than the file "
        f"was trained with, BGR in place of RGB, or weights that were never trained. {given}"
    )


def busiest(hr: NDArray[np.uint8], size: int) -> tuple[int, int]:
    """Top left corner of the window with the most detail, on a grid of half windows; it depends on ``hr`` alone."""
    gray = hr.astype(np.float64).mean(2)
    detail = np.abs(np.diff(gray, axis=0))[:, :-1] + np.abs(np.diff(gray, axis=1))[:-1]
    h, w = detail.shape
    step = max(1, size // 2)
    corners = [(t, x) for t in range(0, max(1, h - size + 1), step) for x in range(0, max(1, w - size + 1), step)]
    return max(corners, key=lambda c: detail[c[0] : c[0] + size, c[1] : c[1] + size].sum())


def write_samples(
    validation: Validation, network: SRNetwork, teacher: SRNetwork | None, folder: Path, count: int, *, label: str
) -> None:
    """Keep crops of a few pictures for the report: bicubic, this network, the teacher, the ground truth.

    The crops depend on the ground truth alone, so that those of several runs show the same places.
    """
    pairs = validation.sets[validation.first]
    size = CROP * validation.scale // 2
    index: list[dict[str, object]] = []
    for pair in some(pairs, count):
        lr, hr = load(pair)
        top, left = busiest(hr, size)
        answers: Mapping[str, NDArray[np.uint8] | None] = {
            "bicubic": imresize_uint8(lr, validation.scale),
            label: pixels(answer(network, lr, device=validation.device)[0]),
            "teacher": None if teacher is None else pixels(answer(teacher, lr, device=validation.device)[0]),
            "ground truth": hr,
        }
        shown: list[dict[str, object]] = []
        for what, picture in answers.items():
            if picture is None:
                continue
            file = f"{pair.name}/{what.replace(' ', '-')}.png"
            crop = np.ascontiguousarray(picture[top : top + size, left : left + size])
            images.write(folder / file, images.Picture(pixels=crop))
            psnr = metrics.psnr_y(tensor(picture), tensor(hr), border=validation.scale).item()
            shown.append({"label": what, "file": file, "psnr_y": None if what == "ground truth" else psnr})
        index.append({"sample": pair.name, "images": shown})
    write_text(folder / "index.json", json.dumps(index, indent=1) + "\n")
