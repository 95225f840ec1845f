"""Pixels to tensors and back: the only place where levels become numbers in [0, 1] and return.

Levels are integers of 8 or 16 bits; full intensity, 255 or 65535, is 1.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Pixels = NDArray[np.uint8 | np.uint16]
"""Levels of 8 or of 16 bits."""


def to_tensor(pixels: Pixels, *, channels: int = 3) -> Tensor:
    """Pixels of one image to a batch of one.

    Args:
        pixels: ``(h, w, 1 or 3)``, 8 or 16 bits.
        channels: How many the result has; 3 repeats gray.

    Returns:
        ``(1, channels, h, w)``, float32 in [0, 1].

    Raises:
        ValueError: If the pixels have neither one channel nor ``channels``.
    """
    if pixels.ndim != 3 or pixels.shape[2] not in (1, channels):
        raise ValueError(f"pixels are (h, w, 1 or {channels}), but got {pixels.shape}")
    levels = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32))
    full = np.iinfo(pixels.dtype).max
    return (levels / full).expand(channels, -1, -1)[None].contiguous()


def from_tensor(x: Tensor, *, bits: int = 8) -> Pixels:
    """Round an image to levels, clamped to what they can hold.

    Args:
        x: ``(1, c, h, w)`` in [0, 1], on any device.
        bits: 8 or 16.

    Returns:
        ``(h, w, c)``.

    Raises:
        ValueError: If ``x`` is not one image, or ``bits`` neither 8 nor 16.
    """
    if x.ndim != 4 or x.shape[0] != 1 or bits not in (8, 16):
        raise ValueError(
            f"an image is (1, c, h, w) with 8 or 16 bits, but got {tuple(x.shape)} and {bits}"
        )
    levels = (x[0].detach().float().clamp(0, 1) * (2**bits - 1)).round()
    whole = levels.permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(whole, dtype=np.uint8 if bits == 8 else np.uint16)


def from_levels(x: Tensor, *, memory_format: torch.memory_format | None = None) -> Tensor:
    """A batch of 8-bit levels ``(n, c, h, w)`` to float32 in [0, 1], on the same device."""
    layout = torch.preserve_format if memory_format is None else memory_format
    return x.to(torch.float32, memory_format=layout).div_(255)
