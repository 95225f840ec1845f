"""BSRGAN's pipeline, its steps in random order, and light JPEG alone.

Zhang et al., "Designing a Practical Degradation Model for Deep Blind Image Super-Resolution",
ICCV 2021, arXiv:2103.14006, with the numbers of KAIR's ``utils_blindsr.py``. The step through a
camera's signal processing is left out, as it is there without its model.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from typing_extensions import override

from dukd.images import spoil
from dukd.images.degrade import Degradation, Levels, checked
from dukd.images.kernels import Kernel, Range, gaussian, uniform
from dukd.images.resize import imresize_uint8
from dukd.images.spoil import Mode, Planes

_MODES: tuple[Mode, ...] = ("bilinear", "bicubic", "area")
_BLUR, _BLUR_AGAIN, _REDUCE, _TO_SIZE, _NOISE, _JPEG = range(6)


@dataclass(frozen=True, kw_only=True)
class BSRGAN(Degradation):
    """Two blurs, two reductions, noise and JPEG, shuffled; JPEG again at the end."""

    name: ClassVar[str] = "bsrgan"
    fixed: ClassVar[bool] = False
    margin: ClassVar[int] = 8

    sizes: tuple[int, int] = (7, 23)
    """Smallest and largest side of a blur kernel, odd, in pixels."""
    noise: Range = (2, 25)
    """Level of Gaussian noise, an integer, in 8-bit levels."""
    quality: tuple[int, int] = (30, 95)
    """JPEG quality, uniform, 1 to 100."""
    jpeg: float = 0.9
    """Probability of JPEG among the shuffled steps; the last one is always there."""
    half: float = 0.25
    """Probability that an image is halved before, at scale 4."""

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn from."""
        if not 1 <= self.sizes[0] <= self.sizes[1] or {n % 2 for n in self.sizes} != {1}:
            raise ValueError(f"sizes of kernels are odd and ascend, but got {self.sizes}")
        if not 0 <= self.noise[0] <= self.noise[1]:
            raise ValueError(f"noise ascends from 0 or more, but got {self.noise}")
        if not 1 <= self.quality[0] <= self.quality[1] <= 100:
            raise ValueError(f"JPEG quality ascends within 1 to 100, but got {self.quality}")
        for name, value in (("jpeg", self.jpeg), ("half", self.half)):
            if not 0 <= value <= 1:
                raise ValueError(f"a probability lies in [0, 1], but {name} is {value}")

    @override
    def apply(self, hr: Levels, scale: int, rng: np.random.Generator) -> Levels:
        checked(hr, scale, least=self.sizes[1])
        h, w = hr.shape[0] // scale, hr.shape[1] // scale
        x, left = spoil.planes(hr), scale
        if scale == 4 and rng.random() < self.half:
            x = spoil.resize(x, (hr.shape[0] // 2, hr.shape[1] // 2), _mode(rng))
            left = 2
        order = list(np.argsort(rng.random(6), kind="stable"))
        first, second = order.index(_REDUCE), order.index(_TO_SIZE)
        if first > second:  # the reduction to the final size comes after the other
            order[first], order[second] = order[second], order[first]
        for step in order:
            x = np.clip(self._step(int(step), x, left, (h, w), rng), 0, 1)
        return spoil.levels(self._jpeg(x, rng))

    def _step(
        self, step: int, x: Planes, scale: int, size: tuple[int, int], rng: np.random.Generator
    ) -> Planes:
        if step in (_BLUR, _BLUR_AGAIN):
            return spoil.blur(x, self._kernel(scale, rng))
        if step == _REDUCE:
            return self._reduced(x, scale, rng)
        if step == _TO_SIZE:
            return spoil.resize(x, size, _mode(rng))
        if step == _NOISE:
            return self._noisy(x, rng)
        return self._jpeg(x, rng) if rng.random() < self.jpeg else x

    def _kernel(self, scale: int, rng: np.random.Generator) -> Kernel:
        """A blur whose width grows with the scale: variances up to ``4 + s``, or isotropic."""
        small, large = self.sizes
        size = small + 2 * int(rng.random() * ((large - small) // 2 + 1))
        if rng.random() < 0.5:
            sigma = [math.sqrt(max(1e-3, (4 + scale) * rng.random())) for _ in range(2)]
            return gaussian(size, (sigma[0], sigma[1]), math.pi * rng.random())
        width = max(1e-2, (2 + 0.2 * scale) * rng.random())
        return gaussian(size, (width, width))

    def _reduced(self, x: Planes, scale: int, rng: np.random.Generator) -> Planes:
        """Shrink by a random factor, or blur and take every ``scale``-th pixel."""
        h, w = x.shape[1:]
        if rng.random() < 0.75:
            factor = 1 / uniform(rng, (1.0, 2.0 * scale))
            return spoil.resize(x, (max(1, int(h * factor)), max(1, int(w * factor))), _mode(rng))
        width = uniform(rng, (0.1, 0.6 * scale))
        start = scale // 2  # the middle of each block, as KAIR's shifted kernel has it
        return np.ascontiguousarray(
            spoil.blur(x, gaussian(25, (width, width)))[:, start::scale, start::scale]
        )

    def _noisy(self, x: Planes, rng: np.random.Generator) -> Planes:
        """Noise in color, in gray, or correlated between the channels."""
        low, high = self.noise
        level = low + int(rng.random() * (high - low + 1))
        kind = rng.random()
        if kind > 0.6 or kind < 0.4:
            return spoil.add_gaussian(x, level, rng, gray=kind < 0.4)
        turn, _ = np.linalg.qr(rng.random((3, 3)))
        spread = np.abs((high / 255) ** 2 * (turn.T @ np.diag(rng.random(3)) @ turn))
        values, vectors = np.linalg.eigh(spread)
        mixing = (vectors * np.sqrt(np.clip(values, 0, None))).astype(np.float32)
        noise = rng.standard_normal(x.shape, np.float32)
        return np.clip(x + np.einsum("ij,jhw->ihw", mixing, noise), 0, 1)

    def _jpeg(self, x: Planes, rng: np.random.Generator) -> Planes:
        low, high = self.quality
        return spoil.compress(x, low + int(rng.random() * (high - low + 1)))


def _mode(rng: np.random.Generator) -> Mode:
    return _MODES[int(rng.random() * len(_MODES))]


@dataclass(frozen=True, kw_only=True)
class JPEG(Degradation):
    """Bicubic interpolation and light compression: what most images of the web went through."""

    name: ClassVar[str] = "jpeg"
    fixed: ClassVar[bool] = False
    margin: ClassVar[int] = 4

    quality: tuple[int, int] = (75, 95)
    """JPEG quality, uniform, 1 to 100; traiNNer-redux's range."""

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn from."""
        if not 1 <= self.quality[0] <= self.quality[1] <= 100:
            raise ValueError(f"JPEG quality ascends within 1 to 100, but got {self.quality}")

    @override
    def apply(self, hr: Levels, scale: int, rng: np.random.Generator) -> Levels:
        checked(hr, scale)
        low, high = self.quality
        reduced = spoil.planes(imresize_uint8(hr, 1 / scale))
        return spoil.levels(spoil.compress(reduced, low + int(rng.random() * (high - low + 1))))


@dataclass(frozen=True, kw_only=True)
class JPEG40(JPEG):
    """JPEG of quality 40, where restoration is measured, as SwinIR's and others' tables have it."""

    name: ClassVar[str] = "jpeg-40"
    varies: ClassVar[bool] = False

    quality: tuple[int, int] = (40, 40)
    """JPEG quality."""
