"""Judge networks while they train, and the teacher before hours are spent on it."""

import json
import os
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain, product
from pathlib import Path
from typing import TypedDict, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from dukd import images
from dukd.core.files import Progress, silent, write_text
from dukd.core.text import shown
from dukd.data.pairs import Pair, Pairs, PairsError, find_pairs, load
from dukd.evaluation import metrics
from dukd.evaluation.evaluate import answer
from dukd.images.convert import Pixels, from_tensor, to_tensor
from dukd.images.resize import imresize_uint8
from dukd.networks.base import Network, Wrapped
from dukd.networks.layers import DIV2K_MEAN
from dukd.training.experiment import Evaluation

_SSIM_WINDOW = 11
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
    """Sets of images, and the teacher's answers to them, computed once."""

    scale: int
    device: torch.device
    sets: dict[str, Pairs]
    _answers: dict[tuple[str, str], Pixels] = field(default_factory=dict[tuple[str, str], Pixels])

    @staticmethod
    def open(
        evaluation: Evaluation, scale: int, device: torch.device, progress: Progress = silent
    ) -> "Validation":
        """Find the sets of an experiment, and decode each image of them once.

        Raises:
            ValueError: If a folder holds no pairs, two sets have the same name, or an image cannot
                be judged; all such images are named.
        """
        try:
            sets = open_sets(evaluation.sets, scale, evaluation.images)
        except PairsError as error:
            raise error.with_hint(
                "name the folders that judge the student with --evaluation.sets"
            ) from None
        check_images(sets, scale, progress)
        return Validation(scale, device, sets)

    def measure(self, network: Network, teacher: Network | None) -> dict[str, dict[str, float]]:
        """Mean PSNR and SSIM of the luma, PSNR of RGB, agreement with the teacher, per set."""
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

    def record(self, step: int, network: Network, teacher: Network | None) -> ValidationRecord:
        """The line of the log for a validation."""
        started = time.perf_counter()
        sets = self.measure(network, teacher)
        return {
            "kind": "validation",
            "step": step,
            "sets": sets,
            "seconds": time.perf_counter() - started,
        }

    def _measure(
        self, network: Network, teacher: Network | None, name: str, pair: Pair
    ) -> dict[str, float]:
        lr, hr = load(pair)
        # Compared where the answer is: on one thread of a GPU's host it would take a second per
        # image of DIV2K.
        there = self.device.type == "cuda"
        sr, _ = answer(network, lr, device=self.device, stay=there)
        truth = to_tensor(hr).to(sr.device)
        values = {
            "psnr_y": metrics.psnr_y(sr, truth, border=self.scale).item(),
            "ssim_y": metrics.ssim_y(sr, truth, border=self.scale).item(),
            "psnr_rgb": metrics.psnr_rgb(sr, truth, border=self.scale).item(),
        }
        if teacher is not None:
            key = (name, pair.name)
            if key not in self._answers:
                self._answers[key] = from_tensor(answer(teacher, lr, device=self.device)[0])
            theirs = to_tensor(self._answers[key]).to(sr.device)
            values["agreement"] = metrics.agreement(sr, theirs, border=self.scale).item()
        return values


def open_sets(paths: Sequence[Path], scale: int, images: int = 0) -> dict[str, Pairs]:
    """Find sets of images, by name.

    Args:
        paths: Folders, in any layout the field uses.
        scale: Upscaling factor.
        images: How many are used of each set, evenly spaced; 0 for all.

    Raises:
        ValueError: If a folder holds no pairs, or two sets have the same name.
    """
    sets: dict[str, Pairs] = {}
    for path in paths:
        name = set_name(path)
        if name in sets:
            raise ValueError(f"two sets are called {name}: {path} and another; rename one folder")
        sets[name] = some(find_pairs(path, scale=scale), images)
    return sets


def check_images(sets: Mapping[str, Pairs], scale: int, progress: Progress = silent) -> None:
    """Decode every image once, so that no validation finds a bad one after hours of training.

    Raises:
        PairsError: If one cannot be read, or is too small to be compared; all of them are named.
    """
    problems: list[str] = []
    least = _SSIM_WINDOW + 2 * scale
    total = sum(map(len, sets.values()))
    for done, pair in enumerate(chain.from_iterable(sets.values())):
        progress(done, total, "checking the images that judge the student")
        width, height = pair.width * scale, pair.height * scale
        if min(width, height) < least:
            problems.append(
                f"{shown(pair.hr)} has {width} x {height} pixels, but SSIM needs {least} a side at "
                f"x{scale}"
            )
        for path in (pair.hr, pair.lr) if pair.lr else (pair.hr,):
            try:
                images.read_rgb8(path)
            except (images.ImageError, OSError) as error:
                problems.append(str(error))
    if problems:
        raise PairsError("images of --evaluation.sets cannot judge the student", problems)


def set_name(path: Path) -> str:
    """Name of the set in a folder: that of the folder, or of the one around ``HR``.

    A link keeps its own name.
    """
    path = Path(os.path.normpath(path.absolute()))
    return path.parent.name if path.name.upper() in {"HR", "GTMOD12"} else path.name


def some(pairs: Pairs, count: int) -> Pairs:
    """``count`` pairs, evenly spaced; all of them for 0."""
    if not count or count >= len(pairs):
        return pairs
    return replace(pairs, pairs=tuple(pairs[i * len(pairs) // count] for i in range(count)))


def try_teacher(teacher: Network, validation: Validation, count: int) -> str:
    """Compare a teacher with bicubic, and with itself read otherwise, on images of the first set.

    A file does not say everything about a network: the range of its values, the mean it subtracts,
    the order of its colors. Each that could be otherwise is tried on small crops.

    Returns:
        A sentence with both figures, and what would be better, if anything is.

    Raises:
        ValueError: If the teacher is not better than bicubic; the message says what is likely
            wrong.
    """
    name = validation.first
    pairs = some(validation.sets[name], count)
    loaded = [load(pair) for pair in pairs]
    ours = _mean_psnr(teacher, loaded, validation)
    truth = [(to_tensor(imresize_uint8(lr, validation.scale)), to_tensor(hr)) for lr, hr in loaded]
    bicubic = float(
        np.mean([metrics.psnr_y(sr, hr, border=validation.scale).item() for sr, hr in truth])
    )
    figures = f"{ours:.2f} dB against {bicubic:.2f} dB on {len(pairs)} images of {name}"
    crops = [_crop(lr, hr, validation.scale) for lr, hr in loaded[:_TRIALS]]
    as_read = _mean_psnr(teacher, crops, validation)
    beaten = ours > bicubic
    others = _read_otherwise(teacher, changes=1 if beaten else len(UNSAID) + 1)
    measured = [
        (_mean_psnr(other, crops, validation), count, what) for count, what, other in others
    ]
    # Of readings that are nearly as good, the one with the fewest changes: blue for red costs some
    # files little.
    best, _, what = max(measured, key=lambda m: m[0] - m[1] * _PER_CHANGE)
    advice = ""
    if best > as_read + _CLEARLY_BETTER:
        advice = f"on crops it has {best:.2f} dB with {what}, but {as_read:.2f} dB as it was read"
    if beaten:
        return f"the teacher beats bicubic: {figures}{f'; but {advice}' if advice else ''}"
    cause = (
        f"Likely it was read wrongly: {advice}."
        if advice and best > bicubic - _NEAR
        else _UNTRAINED
    )
    raise ValueError(f"the teacher does not beat bicubic: {figures}. {cause}")


_TRIALS = 2
"""Images on which a teacher is read otherwise."""
_TRIAL_SIZE = 64
"""Rows and columns of lr of such an image."""
_CLEARLY_BETTER = 0.5
"""dB by which another reading has to be better to be spoken of. The right one is better by several;
on crops of two images EDSR 64 x 5 once read 0.3 dB better with blue and red exchanged, but 0.05 dB
worse on all of Set5."""
_PER_CHANGE = 0.3
"""dB that a reading has to be better for each further thing that is read otherwise."""
_NEAR = 3.0
"""dB below bicubic from which a teacher read otherwise may still be the right one: crops differ
from images."""
_UNTRAINED = (
    "No other range, mean, residual scale or order of colors helps either: likely its weights "
    "were never trained, or were trained for something else, such as another scale or degraded "
    "images. --evaluation.teacher-images 0 trains with it all the same."
)


def _mean_psnr(
    network: Network,
    loaded: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]],
    validation: Validation,
) -> float:
    answers = [
        (answer(network, lr, device=validation.device)[0], to_tensor(hr)) for lr, hr in loaded
    ]
    values = [
        metrics.psnr_y(sr.nan_to_num(), hr, border=validation.scale).item() for sr, hr in answers
    ]
    return float(np.mean(values))


def _crop(
    lr: NDArray[np.uint8], hr: NDArray[np.uint8], scale: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The middle of a pair."""
    top, left = (max(0, size - _TRIAL_SIZE) // 2 for size in lr.shape[:2])
    small = lr[top : top + _TRIAL_SIZE, left : left + _TRIAL_SIZE]
    top, left, height, width = (scale * n for n in (top, left, *small.shape[:2]))
    return small, hr[top : top + height, left : left + width]


def _read_otherwise(
    teacher: Network, changes: int
) -> Generator[tuple[int, str, Network], None, None]:
    """The same weights with other numbers that a file may not say, and as BGR."""
    config, tensors = teacher.config, teacher.state_dict()
    there = {f.name: getattr(config, f.name) for f in fields(config) if f.name in UNSAID}
    alternatives = [
        [value, *(v for v in UNSAID[name] if v != value)] for name, value in there.items()
    ]
    for values in product(*alternatives):
        changed = {n: v for n, v in zip(there, values, strict=True) if v != there[n]}
        options = " ".join(
            f"--teacher.{n.replace('_', '-')} {_shown(v)}" for n, v in changed.items()
        )
        if len(changed) > changes:
            continue
        other = teacher
        if changed:
            with torch.random.fork_rng(devices=[]):
                other = replace(config, **changed).build()
            other.load_state_dict(tensors)
            other.to(next(teacher.parameters()).device)
            yield len(changed), options, other.frozen()
        if len(changed) < changes:
            yield len(changed) + 1, f"{options} and {_BGR}" if options else _BGR, _Exchanged(other)


_BGR = "blue and red exchanged (its first and last layers are for BGR: convert the file)"
UNSAID: dict[str, tuple[float | tuple[float, float, float], ...]] = {
    "value_range": (1.0, 255.0),
    "mean": ((0.0, 0.0, 0.0), DIV2K_MEAN),
    "residual_scale": (1.0, 0.1),
}
"""What files often do not say of their networks, and what it usually is."""


def _shown(value: object) -> str:
    return (
        " ".join(map(str, cast("tuple[float, ...]", value)))
        if isinstance(value, tuple)
        else str(value)
    )


class _Exchanged(Wrapped):
    """A network that is shown blue for red, and whose answer is turned back."""

    @override
    def forward(self, lr: Tensor) -> Tensor:
        return self.network(lr.flip(1)).flip(1)


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
        answers: Mapping[str, Pixels | None] = {
            "bicubic": imresize_uint8(lr, validation.scale),
            label: from_tensor(answer(network, lr, device=validation.device)[0]),
            "teacher": None
            if teacher is None
            else from_tensor(answer(teacher, lr, device=validation.device)[0]),
            "ground truth": hr,
        }
        shown: list[dict[str, object]] = []
        for what, image in answers.items():
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
