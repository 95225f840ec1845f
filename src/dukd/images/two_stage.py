"""Real-ESRGAN's pipeline: blur, resize, noise and JPEG, twice, and a last sinc; and its relatives.

Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data",
ICCVW 2021, arXiv:2107.10833, with the numbers of the released options
(``train_realesrgan_x4plus.yml``). AdcSR (CVPR 2025) and the template of traiNNer-redux change
numbers only; all of them stand side by side in ``docs/degradations.md``.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from typing_extensions import override

from dukd.images import spoil
from dukd.images.degrade import Degradation, Levels, checked
from dukd.images.kernels import Kernels, Range, choice, sinc, uniform
from dukd.images.spoil import Mode, Planes

_TORCH: tuple[Mode, ...] = ("area", "bilinear", "bicubic")
_REDUX: tuple[Mode, ...] = ("bilinear", "bicubic", "nearest-exact", "lanczos")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One round of blur, resizing, noise and compression; the defaults are the first round."""

    blur: float = 1.0
    """Probability of a blur."""
    kernels: Kernels = field(default_factory=Kernels)
    """Its kernels."""
    resize: tuple[float, float, float] = (0.2, 0.7, 0.1)
    """Probabilities to enlarge, to shrink, and to keep the size."""
    factors: Range = (0.15, 1.5)
    """Smallest and largest factor of the resizing, uniform on either side of 1."""
    modes: tuple[Mode, ...] = _TORCH
    """Interpolations, equally likely."""
    gaussian: float = 0.5
    """Probability of Gaussian noise; Poisson noise otherwise."""
    sigma: Range = (1.0, 30.0)
    """Standard deviation of Gaussian noise, in 8-bit levels; 0 for none."""
    poisson: Range = (0.05, 3.0)
    """Factor of Poisson noise; 0 for none."""
    gray: float = 0.4
    """Probability that noise is the same in R, G and B."""
    quality: tuple[int, int] = (30, 95)
    """JPEG quality, uniform, 1 to 100."""

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn from."""
        for name in ("blur", "gaussian", "gray"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"a probability lies in [0, 1], but {name} is {value}")
        if min(self.resize) < 0 or not math.isclose(sum(self.resize), 1, abs_tol=1e-6):
            raise ValueError(f"the probabilities of resize add up to 1, but got {self.resize}")
        if not 0 < self.factors[0] <= 1 <= self.factors[1] <= 8:
            raise ValueError(f"factors span 1 and end at 8, but got {self.factors}")
        for name in ("sigma", "poisson"):
            low, high = getattr(self, name)
            if not 0 <= low <= high or not math.isfinite(high):
                raise ValueError(f"{name} ascends from 0 or more, but got {(low, high)}")
        if not 1 <= self.quality[0] <= self.quality[1] <= 100:
            raise ValueError(f"JPEG quality ascends within 1 to 100, but got {self.quality}")
        if not self.modes:
            raise ValueError("at least one interpolation is needed in modes")

    def factor(self, rng: np.random.Generator) -> float:
        """Draw a factor of the resizing."""
        match choice(rng, self.resize):
            case 0:
                return uniform(rng, (1.0, self.factors[1]))
            case 1:
                return uniform(rng, (self.factors[0], 1.0))
            case _:
                return 1.0

    def mode(self, rng: np.random.Generator) -> Mode:
        """Draw an interpolation."""
        return self.modes[int(rng.random() * len(self.modes))]

    def blurred(self, x: Planes, rng: np.random.Generator) -> Planes:
        """Blur, or not."""
        return spoil.blur(x, self.kernels.draw(rng)) if rng.random() < self.blur else x

    def noisy(self, x: Planes, rng: np.random.Generator) -> Planes:
        """Add noise."""
        gray = rng.random() < self.gray
        if rng.random() < self.gaussian:
            sigma = uniform(rng, self.sigma)
            return spoil.add_gaussian(x, sigma, rng, gray=gray) if sigma else x
        strength = uniform(rng, self.poisson)
        return spoil.add_poisson(x, strength, rng, gray=gray) if strength else x

    def compressed(self, x: Planes, rng: np.random.Generator) -> Planes:
        """Compress."""
        low, high = self.quality
        return spoil.compress(x, low + int(rng.random() * (high - low + 1)))


def _second(**changes: object) -> Stage:
    """Real-ESRGAN's second round, or a relative's."""
    numbers: dict[str, object] = {
        "blur": 0.8,
        "kernels": Kernels(sigma=(0.2, 1.5)),
        "resize": (0.3, 0.4, 0.3),
        "factors": (0.3, 1.2),
        "sigma": (1.0, 25.0),
        "poisson": (0.05, 2.5),
    }
    return Stage(**(numbers | changes))  # pyright: ignore[reportArgumentType]  checked by Stage


@dataclass(frozen=True, kw_only=True)
class _TwoStage(Degradation):
    """Two rounds, then back to the size of the result with a sinc, and JPEG, in random order."""

    fixed: ClassVar[bool] = False
    margin: ClassVar[int] = 8

    first: Stage = field(default_factory=Stage)
    """The first round."""
    second: Stage = field(default_factory=_second)
    """The second round; its blur may be left out."""
    sinc: float = 0.8
    """Probability of the last sinc."""
    sharpened: bool = True
    """Whether the ground truth is sharpened, as for L1 losses; it is degraded sharpened too."""

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn from."""
        if not 0 <= self.sinc <= 1:
            raise ValueError(f"a probability lies in [0, 1], but sinc is {self.sinc}")

    @override
    def apply(self, hr: Levels, scale: int, rng: np.random.Generator) -> Levels:
        checked(hr, scale, least=self.first.kernels.sizes[1])
        h, w = hr.shape[0] // scale, hr.shape[1] // scale
        x = spoil.planes(hr)
        x = self.first.blurred(x, rng)
        factor = self.first.factor(rng)
        x = spoil.resize(x, _scaled(hr.shape[0], hr.shape[1], factor), self.first.mode(rng))
        x = self.first.compressed(self.first.noisy(x, rng), rng)
        x = self.second.blurred(x, rng)
        factor = self.second.factor(rng)
        x = spoil.resize(x, _scaled(h, w, factor), self.second.mode(rng))
        x = self.second.noisy(x, rng)
        mode, compress_last = self.second.mode(rng), rng.random() < 0.5
        if not compress_last:
            x = self.second.compressed(x, rng)
        x = spoil.resize(x, (h, w), mode)
        if rng.random() < self.sinc:
            size = self.second.kernels.size(rng)
            x = spoil.blur(x, sinc(size, uniform(rng, (math.pi / 3, math.pi))))
        if compress_last:
            x = self.second.compressed(x, rng)
        return spoil.levels(x)

    @override
    def truth(self, hr: Levels) -> Levels:
        if not self.sharpened or min(hr.shape[:2]) < 2:
            return hr
        return spoil.levels(spoil.sharpen(spoil.planes(hr)))


def _scaled(h: int, w: int, factor: float) -> tuple[int, int]:
    return max(1, int(h * factor)), max(1, int(w * factor))


@dataclass(frozen=True, kw_only=True)
class RealESRGAN(_TwoStage):
    """Real-ESRGAN's own numbers: heavy blur, noise and compression."""

    name: ClassVar[str] = "real-esrgan"


@dataclass(frozen=True, kw_only=True)
class AdcSR(_TwoStage):
    """AdcSR's numbers: the same pipeline, milder."""

    name: ClassVar[str] = "adcsr"

    first: Stage = field(
        default_factory=lambda: Stage(
            kernels=Kernels(
                sizes=(21, 21), sigma=(0.2, 1.5), generalized=(0.5, 2.0), plateau=(1.0, 1.5)
            ),
            factors=(0.3, 1.5),
            sigma=(1.0, 15.0),
            poisson=(0.05, 2.0),
            quality=(60, 95),
        )
    )
    second: Stage = field(
        default_factory=lambda: _second(
            blur=0.5,
            kernels=Kernels(
                sizes=(11, 11), sigma=(0.2, 1.0), generalized=(0.5, 2.0), plateau=(1.0, 1.5)
            ),
            factors=(0.6, 1.2),
            sigma=(1.0, 12.0),
            poisson=(0.05, 1.0),
            quality=(60, 100),
        )
    )
    sharpened: bool = False


@dataclass(frozen=True, kw_only=True)
class Redux(_TwoStage):
    """The template of traiNNer-redux: resizing and light JPEG, no blur and no noise."""

    name: ClassVar[str] = "redux"

    first: Stage = field(
        default_factory=lambda: Stage(
            blur=0.0,
            factors=(0.4, 1.5),
            modes=_REDUX,
            sigma=(0.0, 0.0),
            poisson=(0.0, 0.0),
            gray=0.0,
            quality=(75, 95),
        )
    )
    second: Stage = field(
        default_factory=lambda: _second(
            blur=0.0,
            kernels=Kernels(sigma=(0.2, 1.0)),
            factors=(0.6, 1.2),
            modes=_REDUX,
            sigma=(0.0, 0.0),
            poisson=(0.0, 0.0),
            gray=0.0,
            quality=(75, 95),
        )
    )
    sinc: float = 0.0
    sharpened: bool = False
