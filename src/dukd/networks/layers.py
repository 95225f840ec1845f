"""What the convolutional networks share: the sub-pixel upsampler, the range of values, its mean."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Mean = tuple[float, float, float]
DIV2K_MEAN: Mean = (0.4488, 0.4371, 0.4040)
"""Mean RGB of DIV2K's images, as EDSR, RCAN and SwinIR subtract it."""

TAIL_RADIUS = 2
"""Pixels of the low resolution that ``Upsampler`` and one 3x3 convolution behind it reach, at any of its scales.

The last convolution reaches one pixel into the neighbor's block of outputs, and the first one a
pixel further.
"""


class Upsampler(nn.Sequential):
    """Sub-pixel convolutions: one of factor 3, or as many of factor 2 as the scale needs (Shi et al., CVPR 2016)."""

    def __init__(self, scale: int, width: int) -> None:
        layers: list[nn.Module] = []
        for factor in upsampler_steps(scale):
            layers += [nn.Conv2d(width, width * factor**2, 3, padding=1), nn.PixelShuffle(factor)]
        super().__init__(*layers)


def upsampler_steps(scale: int) -> tuple[int, ...]:
    """Factors whose product is the scale.

    Raises:
        ValueError: If the scale is neither 3 nor a power of 2.

    Example:
        >>> upsampler_steps(8)
        (2, 2, 2)
    """
    if scale == 3:
        return (3,)
    if scale < 2 or scale & (scale - 1):
        raise ValueError(f"this upsampler makes the scales 2, 3, 4, 8, ..., but got {scale}")
    return (2,) * (scale.bit_length() - 1)


class Range(nn.Module):
    """The range of values inside a network: ``enter`` takes images in [0, 1] there, ``leave`` brings them back.

    The mean is no entry of the state dict, as in BasicSR.
    """

    mean: Tensor

    def __init__(self, value_range: float, mean: Sequence[float]) -> None:
        super().__init__()
        self.value_range = value_range
        self.register_buffer(
            "mean", torch.tensor(mean, dtype=torch.float32).reshape(1, -1, 1, 1), persistent=False
        )

    def enter(self, x: Tensor) -> Tensor:
        """Subtract the mean and widen the range."""
        return (x - self.mean) * self.value_range

    def leave(self, x: Tensor) -> Tensor:
        """Undo ``enter``."""
        return x / self.value_range + self.mean


def check_numbers(
    owner: str, *, counts: dict[str, int], value_range: float, mean: Sequence[float]
) -> None:
    """Refuse a network of no size, or a range that cannot be undone.

    Raises:
        ValueError: If a count is below 1, the range is not above 0, or the mean has not three
            values.
    """
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{owner}: {name} is at least 1, but got {count}")
    if not value_range > 0:
        raise ValueError(f"{owner}: value_range is above 0, but got {value_range}")
    if len(mean) != 3:
        raise ValueError(
            f"{owner}: mean holds one value for each of R, G and B, but got {tuple(mean)}"
        )
