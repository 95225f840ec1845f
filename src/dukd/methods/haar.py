"""The orthonormal Haar transform, and distances between its bands."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  the name everybody knows

from dukd.methods.base import precise


def haar(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One level of the transform: ``(n, c, h, w)`` to four bands ``(n, c, ceil(h/2), ceil(w/2))``.

    Where a side is odd its edge is repeated, so that the details there are 0.

    Returns:
        Approximation, and the differences along the width, along the height, and along both.
    """
    x = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2), mode="replicate")
    a, b = x[..., 0::2, 0::2], x[..., 0::2, 1::2]
    c, d = x[..., 1::2, 0::2], x[..., 1::2, 1::2]
    return (a + b + c + d) / 2, (a - b + c - d) / 2, (a + b - c - d) / 2, (a - b - c + d) / 2


def band_distance(x: Tensor, y: Tensor, weights: Sequence[float]) -> Tensor:
    """Weighted sum of the mean absolute differences of all bands of two images ``(n, c, h, w)``.

    Args:
        x: One of them.
        y: The other, of the same shape.
        weights: Of the coarsest approximation, then of each level's three details from coarse to
            fine; one less than there are is the number of levels.
    """
    rest = precise(x - y)  # the transform is linear: that of the difference is the difference
    total = rest.new_zeros(())
    for weight in reversed(weights[1:]):
        rest, *details = haar(rest)
        total = total + weight * torch.stack([band.abs().mean() for band in details]).sum()
    return total + weights[0] * rest.abs().mean()
