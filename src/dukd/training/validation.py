"""Judge networks while they train: on small sets, often."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch

from dukd import images
from dukd.core.files import Progress, silent
from dukd.core.text import shown
from dukd.data.pairs import Pair, Pairs, PairsError, load
from dukd.evaluation import ready
from dukd.evaluation.metrics import SSIMY, Metric, find, measure
from dukd.evaluation.output import output
from dukd.evaluation.sets import open_sets
from dukd.images.convert import Pixels, from_tensor, to_tensor
from dukd.images.degrade import Bicubic, Degradation
from dukd.networks.base import Network
from dukd.training.experiment import Evaluation

ALWAYS = ("psnr_y", "ssim_y", "psnr_rgb", "agreement")
"""Metrics of every validation; agreement where there is a teacher."""
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
    metrics: tuple[Metric, ...]
    """What is measured."""
    best: Metric
    """What chooses the best student, on the first set."""
    given: dict[tuple[str, str], Pixels] = field(default_factory=dict[tuple[str, str], Pixels])
    """The teacher's outputs where they were made before, by set and image."""
    _outputs: dict[tuple[str, str], Pixels] = field(default_factory=dict[tuple[str, str], Pixels])

    @staticmethod
    def open(
        evaluation: Evaluation,
        scale: int,
        device: torch.device,
        progress: Progress = silent,
        degradation: Degradation | None = None,
    ) -> "Validation":
        """Find the sets of an experiment, and decode each image of them once.

        Inputs that no file holds are degraded as in training, each with draws of its own that stay.

        Raises:
            ValueError: If a folder holds no pairs, two sets have the same name, or an image cannot
                be judged; all such images are named.
        """
        try:
            sets = {
                name: pairs.restored_from(degradation or Bicubic())
                for name, pairs in open_sets(evaluation.sets, scale, evaluation.images).items()
            }
        except PairsError as error:
            raise error.with_hint(
                "name the folders that judge the student with --evaluation.sets"
            ) from None
        metrics = find((*ALWAYS, *evaluation.metrics, evaluation.best))
        check_images(sets, scale, progress, tuple(metrics.values()))
        return Validation(scale, device, sets, tuple(metrics.values()), metrics[evaluation.best])

    def notes(self) -> list[str]:
        """That inputs are degraded, where no file says what they are."""
        made = [(n, p.pairs[0].degradation.name) for n, p in self.sets.items() if p.made]
        return [
            f"inputs of {name} that no file holds are degraded by {how}, always in the same way"
            for name, how in made
            if how != Bicubic.name
        ] + [f"{name}: {said}" for name, pairs in self.sets.items() for said in pairs.assumed]

    def take_outputs(self, folder: Path) -> None:
        """Take the teacher's outputs from a folder, or from one in it for each set.

        Raises:
            ValueError: If one is missing, or of another size; all missing ones are named.
        """
        alone = len(self.sets) == 1
        for name, pairs in self.sets.items():
            here = folder if alone and not (folder / name).is_dir() else folder / name
            if not here.is_dir() and name != self.first:
                continue
            found = ready.find(here, [pair.name for pair in pairs], self.scale)
            for pair in pairs:
                size = (pair.height * self.scale, pair.width * self.scale)
                self.given[name, pair.name] = ready.read(found[pair.name], *size)

    def score(self, sets: Mapping[str, Mapping[str, float]]) -> float | None:
        """How good a student is by what chooses the best, larger is better; None if not known."""
        value = sets.get(self.first, {}).get(self.best.name)
        if value is None or math.isnan(value):
            return None
        return value if self.best.better == "higher" else -value

    def measure(self, network: Network, teacher: Network | None) -> dict[str, dict[str, float]]:
        """The mean of every metric over the images of each set, by its name.

        A metric that cannot judge an image of a set has none there; agreement only where the
        teacher can be run, or its outputs are stored.
        """
        results: dict[str, dict[str, float]] = {}
        for name, pairs in self.sets.items():
            gathered: dict[str, list[float]] = {}
            for pair in pairs:
                for key, value in self._measure(network, teacher, name, pair).items():
                    gathered.setdefault(key, []).append(value)
            means = {key: float(np.mean(values)) for key, values in gathered.items()}
            results[name] = {key: value for key, value in means.items() if not math.isnan(value)}
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
        key = (name, pair.name)
        if teacher is not None and key not in self._outputs:
            self._outputs[key] = from_tensor(output(teacher, lr, device=self.device)[0])
        kept = self.given.get(key) if teacher is None else self._outputs[key]
        theirs = None if kept is None else to_tensor(kept).to(sr.device)
        return measure(self.metrics, sr, truth=truth, teacher=theirs, border=self.scale)


def check_images(
    sets: Mapping[str, Pairs],
    scale: int,
    progress: Progress = silent,
    metrics: Sequence[Metric] = (SSIMY(),),
) -> None:
    """Decode every image once, so that no validation finds a bad one after hours of training.

    Raises:
        PairsError: If one cannot be read, or is too small to be compared; all of them are named.
    """
    problems: list[str] = []
    strictest = max(metrics, key=lambda metric: metric.least)
    least = strictest.least + 2 * scale
    total = sum(map(len, sets.values()))
    for done, pair in enumerate(chain.from_iterable(sets.values())):
        if total >= _MANY:
            progress(done, total, "checking the images that judge the student")
        width, height = pair.width * scale, pair.height * scale
        if min(width, height) < least:
            problems.append(
                f"{shown(pair.hr)} has {width} x {height} pixels, but {strictest.title} needs "
                f"{least} a side at x{scale}"
            )
        for path in (pair.hr, pair.lr) if pair.lr else (pair.hr,):
            try:
                images.read_rgb8(path)
            except (images.ImageError, OSError) as error:
                problems.append(str(error))
    if problems:
        raise PairsError("images of --evaluation.sets cannot judge the student", problems)
