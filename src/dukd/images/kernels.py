"""Blur kernels of blind super-resolution, by formula, and their distributions.

Wang et al., "Real-ESRGAN", ICCVW 2021, arXiv:2107.10833, with the formulas of BasicSR's
``degradations.py``: Gaussian, generalized Gaussian (Liu et al., 2020), plateau, and the circular
low pass (sinc) that makes ringing. Every kernel is ``(k, k)``, float64, of sum 1 and equal to
itself rotated by 180 degrees.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Kernel = NDArray[np.float64]
"""``(k, k)``, k odd, of sum 1."""
Range = tuple[float, float]
"""Least and largest value."""

FAMILIES = ("iso", "aniso", "generalized iso", "generalized aniso", "plateau iso", "plateau aniso")
"""Families of kernels that are mixed, in the order of their probabilities."""


def gaussian(
    size: int, sigma: tuple[float, float], angle: float = 0.0, *, shape: float = 1.0
) -> Kernel:
    """``exp(-q^shape / 2)``, where ``q`` is the squared distance in units of sigma.

    Args:
        size: Rows and columns, odd.
        sigma: Standard deviations along the two axes, in pixels.
        angle: By which the axes are rotated, in radians.
        shape: 1 for a Gaussian; generalized above (flatter) or below (more pointed).
    """
    kernel = np.exp(-0.5 * _distances(size, sigma, angle) ** shape)
    return kernel / kernel.sum()


def plateau(
    size: int, sigma: tuple[float, float], angle: float = 0.0, *, shape: float = 1.0
) -> Kernel:
    """``1 / (1 + q^shape)``, with the arguments of ``gaussian``."""
    kernel = 1 / (1 + _distances(size, sigma, angle) ** shape)
    return kernel / kernel.sum()


def sinc(size: int, cutoff: float) -> Kernel:
    """The circular low pass of a cutoff in (0, pi]: ``cutoff J1(cutoff r) / (2 pi r)``."""
    axis = np.arange(size) - size // 2
    r = np.hypot(axis[:, None], axis[None])
    r[size // 2, size // 2] = 1.0
    bessel: NDArray[np.float64] = torch.special.bessel_j1(torch.from_numpy(cutoff * r)).numpy()
    kernel = cutoff * bessel / (2 * math.pi * r)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * math.pi)
    return kernel / kernel.sum()


def _distances(size: int, sigma: tuple[float, float], angle: float) -> NDArray[np.float64]:
    axis = np.arange(size) - size // 2
    x, y = axis[None], axis[:, None]
    along = x * math.cos(angle) + y * math.sin(angle)
    across = -x * math.sin(angle) + y * math.cos(angle)
    return (along / sigma[0]) ** 2 + (across / sigma[1]) ** 2


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """A distribution of blur kernels; the defaults are Real-ESRGAN's first stage."""

    sizes: tuple[int, int] = (7, 21)
    """Smallest and largest side in pixels; odd sides between them are equally likely."""
    sigma: Range = (0.2, 3.0)
    """Standard deviation, in pixels, uniform; for both axes by themselves if anisotropic."""
    mix: tuple[float, float, float, float, float, float] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    """Probabilities of ``FAMILIES`` where the kernel is not a sinc."""
    generalized: Range = (0.5, 4.0)
    """Shape of generalized Gaussians: below 1 in half of the cases, above in the others."""
    plateau: Range = (1.0, 2.0)
    """Shape of plateaus, drawn likewise."""
    sinc: float = 0.1
    """Probability of a sinc."""

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn from."""
        small, large = self.sizes
        if not 1 <= small <= large or small % 2 == 0 or large % 2 == 0:
            raise ValueError(f"sizes of kernels are odd and ascend, but got {self.sizes}")
        if not 0 < self.sigma[0] <= self.sigma[1]:
            raise ValueError(f"sigma is positive and ascends, but got {self.sigma}")
        if min(self.mix) < 0 or not math.isclose(sum(self.mix), 1, abs_tol=1e-6):
            raise ValueError(f"the probabilities of kernels add up to 1, but got {self.mix}")
        for name, shape in (("generalized", self.generalized), ("plateau", self.plateau)):
            if not 0 < shape[0] <= 1 <= shape[1]:
                raise ValueError(f"the shape of {name} kernels spans 1, but got {shape}")
        if not 0 <= self.sinc <= 1:
            raise ValueError(f"a probability lies in [0, 1], but sinc is {self.sinc}")

    def draw(self, rng: np.random.Generator) -> Kernel:
        """Draw a kernel."""
        size = self.size(rng)
        if rng.random() < self.sinc:
            return sinc(size, uniform(rng, (math.pi / (3 if size < 13 else 5), math.pi)))
        family = FAMILIES[choice(rng, self.mix)]
        sigma, angle = uniform(rng, self.sigma), 0.0
        both = (sigma, sigma)
        if family.endswith("aniso"):
            both = (sigma, uniform(rng, self.sigma))
            angle = uniform(rng, (-math.pi, math.pi))
        if family.startswith("generalized"):
            return gaussian(size, both, angle, shape=_shape(rng, self.generalized))
        if family.startswith("plateau"):
            return plateau(size, both, angle, shape=_shape(rng, self.plateau))
        return gaussian(size, both, angle)

    def size(self, rng: np.random.Generator) -> int:
        """Draw a side."""
        small, large = self.sizes
        return small + 2 * int(rng.random() * ((large - small) // 2 + 1))


def uniform(rng: np.random.Generator, bounds: Range) -> float:
    """A number between two others, from one random double."""
    return bounds[0] + (bounds[1] - bounds[0]) * rng.random()


def choice(rng: np.random.Generator, probabilities: tuple[float, ...]) -> int:
    """An index with these probabilities, from one random double."""
    below = np.cumsum(probabilities)
    return min(int(np.searchsorted(below, rng.random(), side="right")), len(probabilities) - 1)


def _shape(rng: np.random.Generator, bounds: Range) -> float:
    return uniform(rng, (bounds[0], 1.0) if rng.random() < 0.5 else (1.0, bounds[1]))
