"""Every candidate on every image: the loop behind `evaluate`, in which no failure ends the rest."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dukd.core.files import Progress
from dukd.core.text import shown
from dukd.evaluation import ready
from dukd.evaluation.candidates import Candidate
from dukd.evaluation.metrics import Metric, measure
from dukd.evaluation.output import Pixels, output
from dukd.evaluation.sets import ImageSet, Sample, assumed_of
from dukd.images.convert import to_tensor
from dukd.images.resize import imresize_uint8
from dukd.networks.base import set_memory_format

Values = dict[str, list[float]]
"""One number per image, by the metric's name; ``seconds`` where a network ran."""

_FAILURES = (ValueError, OSError, MemoryError, RuntimeError)
"""What a network, a file or a metric may raise; a mistake of ours is none of them."""


class Measuring:
    """Measures candidates image by image, and remembers what failed."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        sets: Mapping[str, ImageSet],
        metrics: Sequence[Metric],
        border: int,
        device: torch.device,
        precision: torch.dtype,
    ) -> None:
        """Move networks to the device, and look through folders of ready images.

        Args:
            candidates: What to measure; the outputs of the one whose model is ``teacher`` are the
                reference of some metrics.
            sets: Images by the name of the set, all of one scale.
            metrics: What to measure of each output.
            border: Pixels left out on every side.
            device: Where networks run.
            precision: float32, or bfloat16 for autocast.
        """
        self.candidates, self.sets, self.metrics = candidates, sets, metrics
        self.border, self.device, self.precision = border, device, precision
        self.problems: list[str] = []
        self.values: list[dict[str, Values]] = [{name: {} for name in sets} for _ in candidates]
        self._ready: dict[tuple[int, str], dict[str, Path]] = {}
        self._failed: set[tuple[int, str]] = set()
        for i, c in enumerate(candidates):
            if c.network is not None:
                set_memory_format(c.network.to(device))
            if c.images is not None:
                for name, images in sets.items():
                    self._look_through(i, c.images, name, images)

    def _look_through(self, i: int, folder: Path, name: str, images: ImageSet) -> None:
        try:
            names = [sample.name for sample in images.samples]
            self._ready[i, name] = ready.find(folder, names, images.scale)
        except _FAILURES as error:
            self._fail(i, name, error)

    def _fail(self, i: int, name: str, error: BaseException, sample: str = "") -> None:
        """Measure the candidate no further on the set: its means would be of fewer images."""
        self._failed.add((i, name))
        self.values[i][name] = {}
        where = f"{name}, {sample}" if sample else name
        reason = str(error) or type(error).__name__
        self.problems.append(shown(f"{self.candidates[i].title} on {where}: {reason}"))

    def assumed(self) -> list[str]:
        """What had to be assumed of images of sets and of ready outputs, a sentence each."""
        found = [f"{name}: {said}." for name, s in self.sets.items() for said in s.assumed]
        for (i, name), files in self._ready.items():
            title = self.candidates[i].title
            found += [f"{title} on {name}: {said}." for said in assumed_of(files.values())]
        return found

    def run(self, progress: Progress) -> None:
        """Measure everything."""
        done, total = 0, sum(len(images.samples) for images in self.sets.values())
        for name, images in self.sets.items():
            for sample in images.samples:
                try:
                    lr, hr = sample.load()
                except _FAILURES as error:  # it was sound a moment ago
                    self.problems.append(f"{name}: {shown(str(error))}")
                else:
                    self._measure(name, images.scale, sample, lr, hr, warm_up=not done)
                done += 1
                progress(done, total, f"{name} {sample.name}")

    def _measure(
        self, name: str, scale: int, sample: Sample, lr: Pixels, hr: Pixels | None, *, warm_up: bool
    ) -> None:
        truth = None if hr is None else to_tensor(hr)
        teacher: Tensor | None = None
        order = sorted(
            range(len(self.candidates)), key=lambda i: self.candidates[i].model != "teacher"
        )
        for i in order:
            if (i, name) in self._failed:
                continue
            try:
                if warm_up and self.device.type == "cuda":
                    self._output(
                        i, name, scale, sample, lr
                    )  # what a GPU does only once is not timed
                sr, seconds = self._output(i, name, scale, sample, lr)
                found = measure(self.metrics, sr, truth=truth, teacher=teacher, border=self.border)
            except _FAILURES as error:
                self._fail(i, name, error, sample.name)
                continue
            if self.candidates[i].model == "teacher":
                teacher = sr
            values = self.values[i][name]
            for key, value in (found | ({} if seconds is None else {"seconds": seconds})).items():
                values.setdefault(key, []).append(value)

    def _output(
        self, i: int, name: str, scale: int, sample: Sample, lr: Pixels
    ) -> tuple[Tensor, float | None]:
        """``(1, 3, h, w)`` in [0, 1], and the seconds a network took."""
        c = self.candidates[i]
        if c.upscaler is not None:
            sr, seconds = output(
                c.upscaler,
                lr,
                device=self.device,
                precision=self.precision,
                averaged=c.self_ensemble,
            )
            if not bool(torch.isfinite(sr).all()):
                raise ValueError("the output holds NaN or infinity")
            return sr, seconds
        if c.images is not None:
            height, width = (scale * n for n in lr.shape[:2])
            return to_tensor(ready.read(self._ready[i, name][sample.name], height, width)), None
        return to_tensor(imresize_uint8(lr, scale)), None
