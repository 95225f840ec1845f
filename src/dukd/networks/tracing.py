"""Pooling and enlarging in operations that a traced graph can repeat at any size.

The exporter to ONNX records what happens for one image. torch's own adaptive pooling would be
recorded for the size of that image; these functions compute the same from index arithmetic, which
is recorded as arithmetic.
"""

import torch
from torch import Tensor


def cell_maxima(x: Tensor, cell: int) -> Tensor:
    """``F.adaptive_max_pool2d`` to an output of ``max(1, size // cell)`` on each side, bit for bit.

    Args:
        x: ``(n, c, h, w)``.
        cell: Pixels on a side of a cell; cells of other sizes, up to ``2 * cell``, fill what is
            left over.

    Returns:
        ``(n, c, max(1, h // cell), max(1, w // cell))``.
    """
    for _ in range(2):
        size = torch.as_tensor(x.shape[-1])
        count = (size // cell).clamp(min=1)
        number = torch.arange(count)  # type: ignore[call-overload]
        first = number * size // count
        last = ((number + 1) * size + count - 1) // count - 1
        places = torch.minimum(first[:, None] + torch.arange(2 * cell), last[:, None])
        cells = x.index_select(3, places.flatten()).reshape(
            x.shape[0], x.shape[1], x.shape[2], -1, 2 * cell
        )
        x = cells.amax(-1).transpose(2, 3)
    return x


def enlarged(x: Tensor, like: Tensor) -> Tensor:
    """``F.interpolate(x, size=like.shape[-2:], mode="nearest")``, bit for bit."""
    for _ in range(2):
        like = like.transpose(2, 3)
        few, many = torch.as_tensor(x.shape[-2]), torch.as_tensor(like.shape[-1])
        columns = torch.arange(many)  # type: ignore[call-overload]
        places = (columns * (few.float() / many.float())).long()
        x = x.index_select(2, torch.minimum(places, few - 1)).transpose(2, 3)
    return x


def variance(x: Tensor) -> Tensor:
    """Variance of each channel over the image, ``(n, c, 1, 1)``; 0 for a single pixel."""
    count = torch.as_tensor(x.shape[-2] * x.shape[-1])
    centered = x - x.mean((-2, -1), keepdim=True)
    return centered.square().sum((-2, -1), keepdim=True) / (count - 1).clamp(min=1)
