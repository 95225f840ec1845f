"""What the convolutional networks share: the sub-pixel upsampler, the range of values, its mean."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

Mean = tuple[float, float, float]
DIV2K_MEAN: Mean = (0.4488, 0.4371, 0.4040)
"""Mean RGB of DIV2K's images, as EDSR, RCAN and SwinIR subtract it."""

TAIL_RADIUS = 2
"""Pixels of the low resolution that ``Upsampler`` and one 3x3 convolution behind it reach.

The last convolution reaches one pixel into the neighbor's block of outputs, and the first one a
pixel further. The same holds for RRDB's and SwinIR's doublings by repeated pixels, each with a
convolution, and two more behind them.
"""


class Upsampler(nn.Sequential):
    """Sub-pixel convolutions (Shi et al., CVPR 2016): one of factor 3, or as many of factor 2."""

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
    """The range of values inside a network: ``enter`` takes images in [0, 1] there, ``leave`` back.

    The mean is not in the state dict, as in BasicSR.
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


_MOST_MODULES = 10_000
"""Most blocks, groups or layers of a network; each takes a millisecond to make."""


def check_numbers(
    owner: str,
    *,
    counts: dict[str, int],
    value_range: float = 1.0,
    mean: Sequence[float] = (0, 0, 0),
) -> None:
    """Refuse a network of no size or without end, or a range that cannot be undone.

    Raises:
        ValueError: If a count is not a whole number from 1 on, there are too many blocks, the range
            is not above 0, or the mean has not three values.
    """
    for name, count in counts.items():
        if type(count) is not int or count < 1:
            raise ValueError(f"{owner}: {name} is a whole number from 1 on, but got {count!r}")
        if count > _MOST_MODULES and any(word in name for word in ("blocks", "groups", "layers")):
            raise ValueError(f"{owner}: {name} is at most {_MOST_MODULES}, but got {count}")
    if not 0 < value_range < math.inf:
        raise ValueError(f"{owner}: value_range is above 0, but got {value_range}")
    if len(mean) != 3 or not all(map(math.isfinite, mean)):
        raise ValueError(
            f"{owner}: mean holds one value for each of R, G and B, but got {tuple(mean)}"
        )


def mean_shift(
    tensors: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], float, Mean, frozenset[str]]:
    """Take the authors' ``sub_mean`` and ``add_mean`` out of a file of EDSR or RCAN.

    Returns:
        What is left, the range, the mean, and the fields that are settled so: none where there are
        no such convolutions and the field's habit has to do.

    Raises:
        ValueError: If they do not undo each other, or scale the colors.
    """
    if "sub_mean.bias" not in tensors:
        return dict(tensors), 255.0, DIV2K_MEAN, frozenset()
    subtracted, added = (tensors[f"{which}_mean.bias"].double() for which in ("sub", "add"))
    for which in ("sub", "add"):
        weight = tensors[f"{which}_mean.weight"]
        if weight.shape != (3, 3, 1, 1) or not torch.equal(
            weight.reshape(3, 3).double(), torch.eye(3).double()
        ):
            raise ValueError(
                f"{which}_mean.weight divides by a deviation, which dukd's networks do not"
            )
    if subtracted.shape != (3,) or not torch.equal(subtracted, -added):
        raise ValueError("sub_mean and add_mean do not undo each other")
    value_range = 255.0 if added.abs().max() > 1 else 1.0
    exact = [float(value) / value_range for value in added]
    # 0.4488 instead of 0.44880001 where float32 cannot tell them apart
    tidy = torch.tensor([round(value, 4) for value in exact], dtype=torch.float64)
    same = torch.allclose(tidy * value_range, added, rtol=1e-6, atol=0)
    r, g, b = tidy.tolist() if same else exact
    rest = {n: t for n, t in tensors.items() if not n.startswith(("sub_mean.", "add_mean."))}
    return rest, value_range, (r, g, b), frozenset({"value_range", "mean"})


def mean_convolutions(value_range: float, mean: Mean) -> dict[str, Tensor]:
    """Undo `mean_shift`: the convolutions that the authors' EDSR and RCAN begin and end with."""
    shift = (torch.tensor(mean, dtype=torch.float64) * value_range).float()
    identity = torch.eye(3).reshape(3, 3, 1, 1)
    return {
        "sub_mean.weight": identity,
        "sub_mean.bias": -shift,
        "add_mean.weight": identity.clone(),
        "add_mean.bias": shift,
    }
