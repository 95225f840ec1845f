"""RGB to YCbCr and back, with the numbers of MATLAB's ``rgb2ycbcr``.

ITU-R BT.601 in studio range: in 8-bit levels luma goes from 16 to 235, chroma from 16 to 240.
Nothing is rounded here; super-resolution papers measure on this luma. The full-range luma of other
libraries gives 1.32 dB less.
"""

from typing import cast

import torch
from torch import Tensor

_TO_YCBCR = ((65.481, 128.553, 24.966), (-37.797, -74.203, 112.0), (112.0, -93.786, -18.214))
_TO_RGB = cast(
    list[list[float]], (255 * torch.tensor(_TO_YCBCR, dtype=torch.float64).inverse()).tolist()
)
_OFFSET = (16.0, 128.0, 128.0)


def luma(rgb: Tensor) -> Tensor:
    """Y of MATLAB's ``rgb2ycbcr``: ``(n, 3, h, w)`` in [0, 1] to ``(n, 1, h, w)``, 16 to 235 / 255.

    Raises:
        ValueError: If ``rgb`` is not a batch of images of three channels.
    """
    red, green, blue = _channels(rgb)
    return (_mix(_TO_YCBCR[0], red, green, blue) + _OFFSET[0]) / 255


def rgb_to_ycbcr(rgb: Tensor) -> Tensor:
    """MATLAB's ``rgb2ycbcr``: ``(n, 3, h, w)``, RGB in [0, 1], to Y, Cb, Cr as fractions of 255.

    Raises:
        ValueError: If ``rgb`` is not a batch of images of three channels.
    """
    channels = _channels(rgb)
    rows = zip(_TO_YCBCR, _OFFSET, strict=True)
    return torch.cat([(_mix(row, *channels) + offset) / 255 for row, offset in rows], dim=1)


def ycbcr_to_rgb(ycbcr: Tensor) -> Tensor:
    """Undo ``rgb_to_ycbcr``: ``(n, 3, h, w)`` to RGB, unclamped.

    Raises:
        ValueError: If ``ycbcr`` is not a batch of images of three channels.
    """
    y, cb, cr = (c - offset / 255 for c, offset in zip(_channels(ycbcr), _OFFSET, strict=True))
    return torch.cat([_mix(row, y, cb, cr) for row in _TO_RGB], dim=1)


def _channels(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if x.ndim != 4 or x.shape[1] != 3:
        raise ValueError(f"a color conversion takes a batch (n, 3, h, w), but got {tuple(x.shape)}")
    return x[:, 0:1], x[:, 1:2], x[:, 2:3]


def _mix(row: tuple[float, ...] | list[float], a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    # Plain numbers rather than a matrix: nothing is copied to the device, so the device is not
    # waited for.
    return row[0] * a + row[1] * b + row[2] * c
