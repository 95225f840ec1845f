"""NIQE: how natural an image looks, without anything to compare it with; lower is better.

Mittal, Soundararajan and Bovik, "Making a completely blind image quality analyzer", IEEE Signal
Processing Letters 2013. The figures are those of MATLAB's release by LIVE (UT Austin), whose
pristine model stands beside this file with its notice; blocks of 96 x 96 pixels, two scales.
"""

from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import conv2d, pad
from typing_extensions import override

from dukd.evaluation.metrics import Metric
from dukd.images.color import luma as studio_luma
from dukd.images.resize import imresize

BLOCK = 96
"""Rows and columns of a block, in pixels of the image."""

_PARAMETERS = Path(__file__).with_name("pristine.npz")
_SHAPES = np.arange(0.2, 10.001, 0.001)  # candidates for the shape of a distribution
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))  # neighbors whose products are looked at

Array = NDArray[np.float64]


def niqe(sr: Tensor, *, border: int, studio: bool = False) -> Tensor:
    """Distance of an image's statistics from those of pristine photographs.

    Args:
        sr: ``(n, 3, h, w)``, RGB in [0, 1]; values outside are clamped.
        border: Pixels left out on every side; 0 in the papers of this measure.
        studio: Whether luma goes from 16 to 235, not from 0 to 255 (0.299 R + 0.587 G + 0.114 B).

    Returns:
        ``(n,)``, float64; NaN where fewer than two blocks of 96 x 96 pixels fit.

    Raises:
        ValueError: If ``sr`` is not a batch of RGB images.
    """
    if sr.ndim != 4 or sr.shape[1] != 3:
        raise ValueError(
            f"NIQE takes batches (n, 3, h, w) of RGB images, but got {tuple(sr.shape)}"
        )
    h, w = sr.shape[-2:]
    inside = sr[..., border : h - border, border : w - border]
    levels = (inside.float().clamp(0, 1) * 255).round().double()
    if studio:
        y = 255 * studio_luma(levels / 255)
    else:
        red, green, blue = levels.split(1, dim=1)
        y = 0.299 * red + 0.587 * green + 0.114 * blue
    y = y.round().cpu()
    return torch.tensor([_distance(one[None]) for one in y], dtype=torch.float64)


def _distance(y: Tensor) -> float:
    """NIQE of one luma ``(1, 1, h, w)``, whole levels."""
    rows, columns = (n // BLOCK for n in y.shape[-2:])
    if rows * columns < 2:
        return float("nan")
    y = y[..., : rows * BLOCK, : columns * BLOCK]
    half = imresize(y / 255, 0.5) * 255
    parts = [_features(y, BLOCK), _features(half, BLOCK // 2)]
    features = np.concatenate(parts, axis=1)
    sound = features[~np.isnan(features).any(axis=1)]
    if len(sound) < 2:
        return float("nan")
    mean, covariance, _ = _pristine()
    difference = mean - np.nanmean(features, axis=0, keepdims=True)
    inverse = np.linalg.pinv((covariance + np.cov(sound, rowvar=False)) / 2)
    return float(np.sqrt((difference @ inverse @ difference.T).item()))


@cache
def _pristine() -> tuple[Array, Array, Array]:
    """Mean ``(1, 36)``, covariance ``(36, 36)`` of pristine images, and the window ``(7, 7)``."""
    with np.load(_PARAMETERS) as found:
        return found["mu_pris_param"], found["cov_pris_param"], found["gaussian_window"]


def _features(y: Tensor, block: int) -> Array:
    """Eighteen features of each block: ``(1, 1, h, w)`` to ``(blocks, 18)``."""
    window = torch.from_numpy(_pristine()[2])[None, None]
    padded = pad(y, (3, 3, 3, 3), mode="replicate")
    mean = conv2d(padded, window)
    variance = conv2d(padded * padded, window) - mean * mean
    normal = ((y - mean) / (variance.abs().sqrt() + 1)).numpy()[0, 0]
    return np.array(
        [
            _of_block(normal[row : row + block, column : column + block])
            for column in range(0, normal.shape[1], block)
            for row in range(0, normal.shape[0], block)
        ]
    )


def _of_block(block: Array) -> list[float]:
    alpha, left, right = _fit(block)
    features = [alpha, (left + right) / 2]
    for shift in _SHIFTS:
        alpha, left, right = _fit(block * np.roll(block, shift, axis=(0, 1)))
        mean = (right - left) * float(_gamma(2 / alpha) / _gamma(1 / alpha))
        features += [alpha, mean, left, right]
    return features


def _fit(values: Array) -> tuple[float, float, float]:
    """Shape and the two widths of an asymmetric generalized Gaussian distribution."""
    left, right = _width(values[values < 0]), _width(values[values > 0])
    ratio = left / right
    squares = np.mean(values**2)
    r = np.mean(np.abs(values)) ** 2 / squares if squares else np.float64(np.nan)
    wanted = r * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    alpha = float(_SHAPES[np.argmin((_ratios() - wanted) ** 2)])
    width = float(np.sqrt(_gamma(1 / alpha) / _gamma(3 / alpha)))
    return alpha, float(left) * width, float(right) * width


def _width(values: Array) -> np.float64:
    """Root of the mean square; of nothing, as in a flat block, nan."""
    return np.sqrt(np.mean(values**2)) if values.size else np.float64(np.nan)


@cache
def _ratios() -> Array:
    inverse = 1 / _SHAPES
    return _gamma(2 * inverse) ** 2 / (_gamma(inverse) * _gamma(3 * inverse))


def _gamma(x: Array | float) -> Array:
    return torch.as_tensor(x, dtype=torch.float64).lgamma().exp().numpy()


class NIQE(Metric):
    """NIQE with full-range luma, as MATLAB's ``rgb2gray`` gives it."""

    name = "niqe"
    title = "NIQE"
    digits = 3
    better = "lower"
    reference = "none"
    chosen = False
    protocol: ClassVar = {"NIQE": "luma 0.299 R + 0.587 G + 0.114 B from 0 to 255, blocks of 96"}

    @override
    def __call__(self, sr: Tensor, other: Tensor, border: int) -> Tensor:
        return niqe(sr, border=border)


class NIQEStudio(Metric):
    """NIQE with the luma of MATLAB's ``rgb2ycbcr``, from 16 to 235."""

    name = "niqe_studio"
    title = "NIQE (16-235)"
    digits = 3
    better = "lower"
    reference = "none"
    chosen = False
    protocol: ClassVar = {"NIQE (16-235)": "luma of MATLAB's rgb2ycbcr, blocks of 96"}

    @override
    def __call__(self, sr: Tensor, other: Tensor, border: int) -> Tensor:
        return niqe(sr, border=border, studio=True)
