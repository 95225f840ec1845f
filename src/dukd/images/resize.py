"""Bicubic resizing as by MATLAB's ``imresize``: differentiable; on 8-bit images bit for bit.

Keys, "Cubic convolution interpolation for digital image processing", IEEE TASSP 1981, with a =
-1/2; the kernel is stretched when shrinking (antialiasing), and images continue by mirroring that
repeats the edge pixel. Other libraries cut the kernel at the border or do not stretch it:
`F.interpolate` without antialiasing is 22 to 28 dB away.

A pass along one axis is a product with a banded matrix. Its bands are cut into dense blocks, kept
on the device: for the patches of a training step this is one product per axis, four times as fast
on a CPU as padding and ``F.interpolate(antialias=True)``, and nothing waits for the device.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BLOCK = (
    128  # rows of one dense block; whole patches fit, and the band of a large image wastes little
)

Size = tuple[int, int]
"""Height and width in pixels."""


def imresize(
    x: Tensor, scale: float | None = None, *, size: Size | None = None, antialias: bool = True
) -> Tensor:
    """Resize as MATLAB's ``imresize`` does on doubles: bicubic, nothing is rounded or clamped.

    Args:
        x: ``(..., h, w)``, floating point, on any device. Half precision is computed in float32.
        scale: Above 1 to enlarge, below to shrink; the size becomes ``ceil(h * scale), ceil(w *
            scale)``.
        size: The new height and width, instead of ``scale``.
        antialias: Stretch the kernel when shrinking; without effect when enlarging.

    Returns:
        ``(..., new h, new w)``, of the same type.

    Raises:
        ValueError: If not exactly one of scale and size is given, if it is not positive, or if
            ``x`` is empty or holds integers (for those there is ``imresize_uint8``).

    Example:
        >>> imresize(torch.arange(4.0).reshape(1, 4), size=(1, 2))
        tensor([[0.4297, 2.5703]])
    """
    if not x.is_floating_point():
        raise ValueError(
            f"imresize takes floating-point images, but got {x.dtype}: see imresize_uint8"
        )
    axes = _axes(x.shape, scale, size, antialias=antialias)
    dtype = _working_type(x)
    with torch.autocast(x.device.type, enabled=False):  # which would multiply in half precision
        y = x.to(dtype)
        for axis in axes:
            y = _resize_axis(y, axis, dtype)
    return y.to(x.dtype)


@overload
def imresize_uint8(
    x: NDArray[np.uint8], scale: float | None = None, *, size: Size | None = None
) -> NDArray[np.uint8]: ...
@overload
def imresize_uint8(
    x: Tensor, scale: float | None = None, *, size: Size | None = None
) -> Tensor: ...
def imresize_uint8(
    x: NDArray[np.uint8] | Tensor, scale: float | None = None, *, size: Size | None = None
) -> NDArray[np.uint8] | Tensor:
    """Resize as MATLAB's ``imresize`` on uint8: what made the LR files of DIV2K, Set5 and others.

    MATLAB rounds half up and clips to 8 bits after each of the two passes, and takes the dimension
    with the smaller scale first. Without the rounding in between, about 14 % of the pixels differ.

    Args:
        x: 8-bit image, ``(h, w)`` or ``(h, w, c)`` as an array, ``(..., h, w)`` as a tensor.
        scale: Above 1 to enlarge, below to shrink.
        size: The new height and width, instead of ``scale``.

    Returns:
        The same kind as ``x``, uint8.

    Raises:
        ValueError: If ``x`` is not 8-bit, or for the reasons of ``imresize``.
    """
    if isinstance(x, Tensor):
        return _imresize_uint8(x, scale, size)
    planes = torch.tensor(x if x.ndim == 2 else np.moveaxis(x, -1, 0))
    resized: NDArray[np.uint8] = _imresize_uint8(planes, scale, size).numpy()
    return resized if x.ndim == 2 else np.ascontiguousarray(np.moveaxis(resized, 0, -1))


def _imresize_uint8(x: Tensor, scale: float | None, size: Size | None) -> Tensor:
    if x.dtype != torch.uint8:
        raise ValueError(f"imresize_uint8 takes 8-bit images, but got {x.dtype}: see imresize")
    for axis in _axes(x.shape, scale, size, antialias=True):
        y = _resize_axis(x.double(), axis, torch.float64)
        x = (y + 0.5).floor().clamp(0, 255).to(torch.uint8)
    return x


def downscale(hr: Tensor, scale: int) -> Tensor:
    """Shrink by an integer factor, for example to reduce ``lr`` once more inside a training step.

    Args:
        hr: ``(n, c, h, w)``, floating point. What exceeds a multiple of ``scale`` at the bottom and
            the right is cut off, as for the data sets.
        scale: Factor, at least 1.

    Returns:
        ``(n, c, h // scale, w // scale)``, neither rounded nor clamped.

    Raises:
        ValueError: If nothing would be left.
    """
    h, w = hr.shape[-2] // scale, hr.shape[-1] // scale
    if not h or not w:
        raise ValueError(
            f"an image of {hr.shape[-2]} x {hr.shape[-1]} pixels cannot be reduced {scale} times"
        )
    return imresize(hr[..., : h * scale, : w * scale], size=(h, w))


def upscale(lr: Tensor, scale: int) -> Tensor:
    """Enlarge ``(n, c, h, w)`` to ``(n, c, h * scale, w * scale)``, neither rounded nor clamped."""
    return imresize(lr, size=(lr.shape[-2] * scale, lr.shape[-1] * scale))


@dataclass(frozen=True)
class _Axis:
    """One pass: from ``before`` to ``after`` pixels along the last axis or the one before it."""

    last: bool
    before: int
    after: int
    scale: float
    antialias: bool


def _axes(
    shape: torch.Size, scale: float | None, size: Size | None, *, antialias: bool
) -> list[_Axis]:
    """Passes in MATLAB's order: the smaller scale first, rows first if they are equal."""
    if (scale is None) == (size is None):
        raise ValueError(f"give either a scale or a size, but got scale {scale} and size {size}")
    if len(shape) < 2 or 0 in shape[-2:]:
        raise ValueError(f"an image has a height and a width, but got the shape {tuple(shape)}")
    h, w = shape[-2:]
    if scale is not None:
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"a scale is a positive number, but got {scale}")
        # 1e-9: a product such as 5 * (1 / 5) that ends a hair above the integer must not add a
        # pixel
        size = math.ceil(h * scale - 1e-9), math.ceil(w * scale - 1e-9)
    assert size is not None
    if min(size) < 1:
        raise ValueError(f"height and width are at least 1 pixel, but got {size}")
    rows = _Axis(
        last=False, before=h, after=size[0], scale=scale or size[0] / h, antialias=antialias
    )
    columns = _Axis(
        last=True, before=w, after=size[1], scale=scale or size[1] / w, antialias=antialias
    )
    return sorted((rows, columns), key=lambda axis: axis.scale)


def _working_type(x: Tensor) -> torch.dtype:
    """Type to multiply in: float64 where torch may shorten float32 to TF32 or bfloat16."""
    if x.dtype == torch.float64:
        return torch.float64
    shortened = x.device.type != "mps" and torch.get_float32_matmul_precision() != "highest"
    return torch.float64 if shortened else torch.float32


def _resize_axis(x: Tensor, axis: _Axis, dtype: torch.dtype) -> Tensor:
    if axis.before == axis.after and axis.scale == 1:
        return x
    if axis.last:
        parts = [x[..., low:high] @ matrix for low, high, matrix in _blocks(axis, dtype, x.device)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
    parts = [
        matrix.mT @ x[..., low:high, :] for low, high, matrix in _blocks(axis, dtype, x.device)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2)


@lru_cache(maxsize=128)
def _blocks(axis: _Axis, dtype: torch.dtype, device: torch.device) -> list[tuple[int, int, Tensor]]:
    """The matrix ``(before, after)`` of a pass in blocks: ``[(low, high, rows low:high)]``."""
    indices, weights = _taps(axis)
    count = max(1, min(_BLOCK, round(_BLOCK * axis.after / axis.before)))
    blocks: list[tuple[int, int, Tensor]] = []
    for start in range(0, axis.after, count):
        rows, values = indices[start : start + count], weights[start : start + count]
        low, high = int(rows.min()), int(rows.max()) + 1
        matrix = np.zeros((high - low, len(rows)))
        np.add.at(matrix, (rows - low, np.arange(len(rows))[:, None]), values)
        blocks.append((low, high, torch.from_numpy(matrix).to(dtype).to(device)))
    return blocks


def _taps(axis: _Axis) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Pixels that each new pixel is a mean of, and their weights: ``(after, taps)`` each."""
    stretch = min(axis.scale, 1.0) if axis.antialias else 1.0
    # Center of a new pixel among the old ones, whose centers are 0, 1, 2, ...
    centers = (np.arange(axis.after) + 0.5) / axis.scale - 0.5
    taps = math.ceil(4 / stretch) + 2
    positions = np.floor(centers - 2 / stretch)[:, None] + np.arange(taps)
    weights = _keys((stretch * (centers[:, None] - positions)).astype(np.float64))
    weights /= weights.sum(axis=1, keepdims=True)
    used = weights.any(axis=0)
    mirrored = positions[:, used].astype(np.int64) % (
        2 * axis.before
    )  # MATLAB repeats the edge pixel; "reflect" not
    return np.where(mirrored < axis.before, mirrored, 2 * axis.before - 1 - mirrored), weights[
        :, used
    ]


def _keys(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cubic kernel of Keys with a = -1/2, zero from 2 on."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
