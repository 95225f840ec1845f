"""Candidates beside DUKD's own upcyclings: what else a pair provides to imitate the teacher on.

Ours, each a few lines, to be measured by a search on validation images; what none of them is worth
is not known. `dukd.methods.upcycling` says what an upcycling is. Recipes ending in ``dukd-<name>``
show one more input, those in ``dukd-only-<name>`` that one in place of both of DUKD's.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from typing_extensions import override

from dukd.core.device import to_device
from dukd.images.resize import downscale, imresize, upscale
from dukd.methods.base import Batch, View
from dukd.methods.upcycling import Upcycling, ZoomIn, random_windows


@dataclass(frozen=True, kw_only=True)
class ZoomBetween(Upcycling):
    """A larger window of hr reduced to lr's size, by a factor between 1 (zoom in) and the scale."""

    name: ClassVar[str] = "zoom_between"

    factors: tuple[float, float] = (1.0, 2.0)
    """Least and greatest factor; one is drawn for the batch, whole or not, and at most the scale is
    taken, where the window is the whole of hr."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        if not 1 <= self.factors[0] <= self.factors[1]:
            raise ValueError(f"factors go from 1 or more up, but got {self.factors}")
        _refuse_truth(self)

    @override
    def view(self, batch: Batch) -> View:
        low, high = (min(factor, batch.scale) for factor in self.factors)
        factor = low + (high - low) * torch.rand((), generator=batch.rng).item()
        h, w = batch.lr.shape[-2:]
        size = (round(factor * h), round(factor * w))
        windows = random_windows(batch.hr, size, count=1, rng=batch.rng)
        return View(name=self.name, image=imresize(windows, size=(h, w)), imitation=self.imitation)


@dataclass(frozen=True, kw_only=True)
class ZoomBy(Upcycling):
    """Both lr and hr reduced by a factor that need not be whole: a pair of another size of things.

    At the scale itself this is zoom out, whose ground truth is lr.
    """

    name: ClassVar[str] = "zoom_by"

    reconstruction: float = 1.0
    """Weight of the distance to the ground truth, which is hr reduced."""
    factor: float = 1.5
    """Above 1."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        if not self.factor > 1:
            raise ValueError(f"zoom by reduces by a factor above 1, but got {self.factor}")

    @override
    def view(self, batch: Batch) -> View:
        h, w = (max(1, round(side / self.factor)) for side in batch.lr.shape[-2:])
        return self.pair(
            imresize(batch.lr, size=(h, w)),
            imresize(batch.hr, size=(h * batch.scale, w * batch.scale)),
        )


@dataclass(frozen=True, kw_only=True)
class HardWindows(ZoomIn):
    """Windows of hr, of which those count most where the student is farthest from the teacher."""

    name: ClassVar[str] = "hard_windows"

    windows: int = 2
    """Windows per image and batch."""
    focus: float = 1.0
    """Power of a window's own difference by which it counts; 0 is zoom in, and far above 1 the
    worst window alone."""

    @override
    def view(self, batch: Batch) -> View:
        h, w = (max(1, round(self.window * side)) for side in batch.lr.shape[-2:])
        windows = random_windows(batch.hr, (h, w), count=self.windows, rng=batch.rng)
        return View(name=self.name, image=windows, imitation=self.imitation, focus=self.focus)


@dataclass(frozen=True, kw_only=True)
class DetailedWindows(Upcycling):
    """Of several windows of hr the one that bicubic enlargement of lr misses most.

    A choice by content, as AugKD's paper tried at some cost and little gain.
    """

    name: ClassVar[str] = "detailed_windows"

    candidates: int = 4
    """Windows that one is chosen from."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        if self.candidates < 1:
            raise ValueError(f"candidates are 1 or more windows, but got {self.candidates}")
        _refuse_truth(self)

    @override
    def view(self, batch: Batch) -> View:
        n, size = batch.lr.shape[0], (batch.lr.shape[-2], batch.lr.shape[-1])
        missed = (batch.hr - upscale(batch.lr, batch.scale)).abs().mean(1, keepdim=True)
        both = torch.cat([batch.hr, missed], 1)
        cut = random_windows(both, size, count=self.candidates, rng=batch.rng)
        offered = cut.reshape(self.candidates, n, 4, *size)
        best = offered[:, :, 3].mean((2, 3)).argmax(0)
        image = offered[best, torch.arange(n, device=best.device), :3]
        return View(name=self.name, image=image, imitation=self.imitation)


@dataclass(frozen=True, kw_only=True)
class Noisy(Upcycling):
    """lr with noise: what the teacher makes of what photographs have and bicubic pairs lack."""

    name: ClassVar[str] = "noisy"

    level: float = 0.02
    """Standard deviation, where white is 1."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        _refuse_truth(self)

    @override
    def view(self, batch: Batch) -> View:
        noise = _normal(batch.lr, batch.rng)
        image = (batch.lr + self.level * noise).clamp(0, 1)
        return View(name=self.name, image=image, imitation=self.imitation)


@dataclass(frozen=True, kw_only=True)
class FedAgain(Upcycling):
    """The teacher's output reduced and fed to the student, which is to find back to it.

    hr reduced is lr; of what the teacher makes the student sees what reduction leaves.
    """

    name: ClassVar[str] = "fed_again"

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        _refuse_truth(self)

    @override
    def view(self, batch: Batch) -> View:
        return View(name=self.name, image=batch.lr, imitation=self.imitation, remake=reduced_output)


@dataclass(frozen=True, kw_only=True)
class Recolor(Upcycling):
    """Red, green and blue in another order, drawn per image; ground truth likewise."""

    name: ClassVar[str] = "recolor"

    reconstruction: float = 1.0
    """Weight of the distance to the ground truth."""

    @override
    def view(self, batch: Batch) -> View:
        orders = [torch.randperm(3, generator=batch.rng).tolist() for _ in batch.lr]
        image, truth = (
            torch.stack([one[order] for one, order in zip(x, orders, strict=True)])
            for x in (batch.lr, batch.hr)
        )
        return self.pair(image, truth)


@dataclass(frozen=True, kw_only=True)
class Dim(Upcycling):
    """Both images times a brightness drawn per image: reduction is linear, so they stay a pair."""

    name: ClassVar[str] = "dim"

    reconstruction: float = 1.0
    """Weight of the distance to the ground truth."""
    least: float = 0.25
    """Least brightness, in (0, 1]; 1 is as it was."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        if not 0 < self.least <= 1:
            raise ValueError(f"least is a brightness in (0, 1], but got {self.least}")

    @override
    def view(self, batch: Batch) -> View:
        drawn = torch.rand(batch.lr.shape[0], 1, 1, 1, generator=batch.rng)
        light = to_device(self.least + (1 - self.least) * drawn, batch.lr.device)
        image, truth = (light.to(x.dtype) * x for x in (batch.lr, batch.hr))
        return self.pair(image, truth)


@dataclass(frozen=True, kw_only=True)
class Itself(Upcycling):
    """The pair itself, once more and behind a change: label consistency on what trains anyway."""

    name: ClassVar[str] = "itself"

    reconstruction: float = 1.0
    """Weight of the distance to the ground truth."""

    @override
    def view(self, batch: Batch) -> View:
        return self.pair(batch.lr, batch.hr)


def reduced_output(image: Tensor, sr: Tensor) -> Tensor:
    """A teacher's output for an image ``(n, 3, h, w)``, kept in [0, 1] and reduced to its size."""
    scale = sr.shape[-1] // image.shape[-1]
    return downscale(sr.to(image.dtype).clamp(0, 1), scale)


def _normal(like: Tensor, rng: Generator) -> Tensor:
    return to_device(torch.randn(like.shape, generator=rng), like.device).to(like.dtype)


def _refuse_truth(upcycling: Upcycling) -> None:
    if upcycling.reconstruction:
        raise ValueError(
            f"{upcycling.name} has no ground truth: leave reconstruction at 0, but got "
            f"{upcycling.reconstruction}"
        )


CANDIDATES: tuple[Upcycling, ...] = (
    ZoomBetween(),
    ZoomBy(),
    HardWindows(),
    DetailedWindows(),
    Noisy(),
    FedAgain(),
    Recolor(),
    Dim(),
    Itself(),
)
"""One of each, with the numbers that a search begins with."""
