"""Judge networks while they train: on small sets, often."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import TypedDict

import numpy as np
import torch

from dukd import images
from dukd.core.files import Progress, silent
from dukd.core.text import shown
from dukd.data.pairs import Pair, Pairs, PairsError, load
from dukd.evaluation import metrics
from dukd.evaluation.output import output
from dukd.evaluation.sets import open_sets
from dukd.images.convert import Pixels, from_tensor, to_tensor
from dukd.networks.base import Network
from dukd.training.experiment import Evaluation

_SSIM_WINDOW = 11
_MANY = 20
"""Images from which on decoding them takes long enough to be shown."""


class ValidationRecord(TypedDict):
    """A line of the log."""

    kind: str
    step: int
    sets: dict[str, dict[str, float]]
    seconds: float


@dataclass
class Validation:
    """Sets of images, and the teacher's outputs for them, computed once."""

    scale: int
    device: torch.device
    sets: dict[str, Pairs]
    _outputs: dict[tuple[str, str], Pixels] = field(default_factory=dict[tuple[str, str], Pixels])

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
        # Compared where the output is: on one thread of a GPU's host it would take a second per
        # image of DIV2K.
        there = self.device.type == "cuda"
        sr, _ = output(network, lr, device=self.device, stay=there)
        truth = to_tensor(hr).to(sr.device)
        values = {
            "psnr_y": metrics.psnr_y(sr, truth, border=self.scale).item(),
            "ssim_y": metrics.ssim_y(sr, truth, border=self.scale).item(),
            "psnr_rgb": metrics.psnr_rgb(sr, truth, border=self.scale).item(),
        }
        if teacher is not None:
            key = (name, pair.name)
            if key not in self._outputs:
                self._outputs[key] = from_tensor(output(teacher, lr, device=self.device)[0])
            theirs = to_tensor(self._outputs[key]).to(sr.device)
            values["agreement"] = metrics.agreement(sr, theirs, border=self.scale).item()
        return values


def check_images(sets: Mapping[str, Pairs], scale: int, progress: Progress = silent) -> None:
    """Decode every image once, so that no validation finds a bad one after hours of training.

    Raises:
        PairsError: If one cannot be read, or is too small to be compared; all of them are named.
    """
    problems: list[str] = []
    least = _SSIM_WINDOW + 2 * scale
    total = sum(map(len, sets.values()))
    for done, pair in enumerate(chain.from_iterable(sets.values())):
        if total >= _MANY:
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
