"""What super-resolution papers measure, with their conventions.

The output and the ground truth are rounded to 8 bits, reduced to luma where the name says so
(BT.601, 16 to 235, not rounded), and compared without a frame of ``border`` pixels, with 255 as the
peak. Tables hold the mean over images of each image's value, never the value of a mean error. The
numbers agree with BasicSR's to 1e-4.

A gray image is measured as its replication in R, G and B, which compresses it to 219 / 255 of its
contrast, as the field's Python code does. Tables that took the gray values of Set14's ``bridge`` as
luma are lower by up to 0.1 dB.

A metric is a function of tensors, and a class that says what the function needs and how its values
are shown. The classes are found by name: a new one, also in a plug-in, appears wherever networks
are measured.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from dukd.core.config import nearest
from dukd.core.registry import known
from dukd.images.color import luma

_WINDOW = 11
_SIGMA = 1.5
_C1 = (0.01 * 255) ** 2
_C2 = (0.03 * 255) ** 2
_STRIP = 1 << 15  # values of a strip that is compared at once


def psnr_y(sr: Tensor, hr: Tensor, *, border: int) -> Tensor:
    """Peak signal-to-noise ratio of the luma.

    Args:
        sr: ``(n, 3, h, w)``, RGB in [0, 1]; values outside are clamped.
        hr: The ground truth, same shape.
        border: Pixels left out on every side; papers use the scale.

    Returns:
        ``(n,)``, in dB, float64; infinite where the images are equal.

    Raises:
        ValueError: If the shapes differ, or the border leaves nothing to compare.

    Example:
        >>> psnr_y(torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8), border=2)
        tensor([1.3219], dtype=torch.float64)
    """
    return _psnr(*_lumas(*_compared(sr, hr, border)))


def psnr_rgb(sr: Tensor, hr: Tensor, *, border: int) -> Tensor:
    """Peak signal-to-noise ratio over all three channels, as ``psnr_y`` otherwise."""
    return _psnr(*_compared(sr, hr, border))


def ssim_y(sr: Tensor, hr: Tensor, *, border: int) -> Tensor:
    """Structural similarity of the luma: window 11 x 11, Gaussian with sigma 1.5.

    Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE
    TIP 2004.

    Only windows that lie inside the image count (MATLAB's "valid"), and the variances are those of
    the window, not sample estimates.

    Args:
        sr: ``(n, 3, h, w)``, RGB in [0, 1]; values outside are clamped.
        hr: The ground truth, same shape.
        border: Pixels left out on every side; papers use the scale.

    Returns:
        ``(n,)``, at most 1, float64.

    Raises:
        ValueError: If the shapes differ, or less than 11 x 11 pixels are left to compare.
    """
    return _ssim(*_lumas(*_compared(sr, hr, border, least=_WINDOW)))


def ssim_rgb(sr: Tensor, hr: Tensor, *, border: int) -> Tensor:
    """Structural similarity, the mean of the three channels', as ``ssim_y`` otherwise."""
    return _ssim(*_compared(sr, hr, border, least=_WINDOW))


def agreement(student: Tensor, teacher: Tensor, *, border: int) -> Tensor:
    """How alike two outputs are: PSNR of the luma between them, both rounded to 8 bits.

    Args:
        student: ``(n, 3, h, w)``, RGB in [0, 1]; values outside are clamped.
        teacher: The other output, same shape.
        border: Pixels left out on every side; the scale, as for ``psnr_y``.

    Returns:
        ``(n,)``, in dB, float64; infinite where no 8-bit value differs.

    Raises:
        ValueError: If the shapes differ, or the border leaves nothing to compare.
    """
    return psnr_y(student, teacher, border=border)


def _compared(sr: Tensor, hr: Tensor, border: int, *, least: int = 1) -> tuple[Tensor, Tensor]:
    """Check both batches, cut the frame off, and round to levels 0 ... 255 in float64."""
    if sr.shape != hr.shape:
        raise ValueError(f"sr is {tuple(sr.shape)} but hr is {tuple(hr.shape)}")
    if sr.ndim != 4 or sr.shape[1] != 3:
        raise ValueError(
            f"a metric takes batches (n, 3, h, w) of RGB images, but got {tuple(sr.shape)}"
        )
    h, w = sr.shape[-2:]
    if border < 0 or min(h, w) - 2 * border < least:
        raise ValueError(
            f"a border of {border} pixels leaves less than {least} x {least} of {h} x {w} pixels "
            "to compare"
        )
    rows, columns = slice(border, h - border), slice(border, w - border)
    return _levels(sr[..., rows, columns]), _levels(hr[..., rows, columns])


def _levels(x: Tensor) -> Tensor:
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    return (x.clamp(0, 1) * 255).round().double()


def _lumas(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return 255 * luma(a / 255), 255 * luma(b / 255)


def _psnr(a: Tensor, b: Tensor) -> Tensor:
    return 10 * torch.log10(255**2 / (a - b).square().mean(dim=(1, 2, 3)))


def _ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean similarity of the windows of ``(n, c, h, w)``: ``(n,)``."""
    n, c, h, w = a.shape
    windows = h - _WINDOW + 1
    # In strips whose intermediate values stay in the cache: twice as fast as the whole image at
    # once.
    step = max(1, _STRIP // (n * c * w))
    total = a.new_zeros(n)
    for top in range(0, windows, step):
        rows = slice(top, min(top + step, windows) + _WINDOW - 1)
        total += _similarity(a[..., rows, :], b[..., rows, :]).sum(dim=(1, 2, 3))
    return total / (c * windows * (w - _WINDOW + 1))


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    """The similarity of each window: ``(n, c, h, w)`` to ``(n, c, h - 10, w - 10)``."""
    # Local means of a, b, ab and a^2 + b^2 are enough: the two variances only occur as their sum.
    means = _blur(torch.cat([a, b, a * b, a * a + b * b], dim=1))
    mean_a, mean_b, product, squares = means.chunk(4, dim=1)
    product_of_means = mean_a * mean_b
    squares_of_means = mean_a * mean_a + mean_b * mean_b
    luminance = (2 * product_of_means + _C1) / (squares_of_means + _C1)
    structure = (2 * (product - product_of_means) + _C2) / (squares - squares_of_means + _C2)
    return luminance * structure


def _blur(x: Tensor) -> Tensor:
    """Gaussian means over windows inside: ``(n, c, h, w)`` to ``(n, c, h - 10, w - 10)``."""
    # Shifted additions: in float64 on a CPU five times as fast as a separable convolution.
    for axis in (-2, -1):
        count = x.shape[axis] - _WINDOW + 1
        shifted = [x.narrow(axis, k, count) for k in range(_WINDOW)]
        half = _WINDOW // 2
        total = _GAUSSIAN[half] * shifted[half]
        for k in range(half):
            total.add_(shifted[k] + shifted[-1 - k], alpha=_GAUSSIAN[k])
        x = total
    return x


def _gaussian() -> list[float]:
    values = [math.exp(-(((k - _WINDOW // 2) / _SIGMA) ** 2) / 2) for k in range(_WINDOW)]
    return [value / sum(values) for value in values]


_GAUSSIAN = _gaussian()


class Metric(ABC):
    """Judges one output at a time, by the truth, by the teacher's output, or alone.

    Values of a set of images are means over the images.
    """

    name: ClassVar[str]
    """Name in options and files, such as ``psnr_y``."""
    title: ClassVar[str]
    """Heading in tables, such as ``PSNR-Y``."""
    unit: ClassVar[str] = ""
    """Unit of its values, such as ``dB``."""
    digits: ClassVar[int] = 2
    """Decimals that papers print."""
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    """Which values are good."""
    reference: ClassVar[Literal["truth", "teacher", "none"]] = "truth"
    """What an output is compared with."""
    least: ClassVar[int] = 1
    """Rows and columns that have to be left inside the border."""
    chosen: ClassVar[bool] = True
    """Whether it is measured where no metrics are named."""
    protocol: ClassVar[Mapping[str, str]] = {}
    """How the value is made, in phrases by their subject, which stand below tables."""

    @abstractmethod
    def __call__(self, sr: Tensor, other: Tensor, border: int) -> Tensor:
        """Measure a batch.

        Args:
            sr: ``(n, 3, h, w)``, RGB in [0, 1]; values outside are clamped.
            other: What ``reference`` names, same shape; ``sr`` itself for ``none``.
            border: Pixels left out on every side.

        Returns:
            ``(n,)``, float64; NaN where an image is none that the metric can judge.
        """


class PSNRY(Metric):
    """See ``psnr_y``."""

    name = "psnr_y"
    title = "PSNR-Y"
    unit = "dB"
    protocol: ClassVar = {"luma": "BT.601 studio range as MATLAB's rgb2ycbcr, not rounded"}

    @override
    def __call__(self, sr: Tensor, other: Tensor, border: int) -> Tensor:
        return psnr_y(sr, other, border=border)


class SSIMY(Metric):
    """See ``ssim_y``."""

    name = "ssim_y"
    title = "SSIM-Y"
    digits = 4
    least = _WINDOW
    protocol: ClassVar = {"ssim": "11 x 11 Gaussian, sigma 1.5, inside the image only"}

    @override
    def __call__(self, sr: Tensor, other: Tensor, border: int) -> Tensor:
        return ssim_y(sr, other, border=border)


class PSNRRGB(Metric):
    """See ``psnr_rgb``."""

    name = "psnr_rgb"
    title = "PSNR-RGB"
    unit = "dB"

    @override
    def __call__(self, sr: Tensor, other: Tensor, border: int) -> Tensor:
        return psnr_rgb(sr, other, border=border)


class SSIMRGB(Metric):
    """See ``ssim_rgb``."""

    name = "ssim_rgb"
    title = "SSIM-RGB"
    digits = 4
    least = _WINDOW

    @override
    def __call__(self, sr: Tensor, other: Tensor, border: int) -> Tensor:
        return ssim_rgb(sr, other, border=border)


class Agreement(Metric):
    """See ``agreement``."""

    name = "agreement"
    title = "agreement"
    unit = "dB"
    reference = "teacher"
    protocol: ClassVar = {"agreement": "PSNR-Y between an output and the teacher's"}

    @override
    def __call__(self, sr: Tensor, other: Tensor, border: int) -> Tensor:
        return agreement(sr, other, border=border)


_FIRST = ("psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb", "agreement")
"""The order of tables; what is not listed follows by name."""


def find(names: Collection[str] = ()) -> dict[str, Metric]:
    """Metrics by name, in the order of tables.

    Args:
        names: Which ones; without any, those that are measured where none is named.

    Raises:
        ValueError: If there is none of a name.
    """
    every: dict[str, type[Metric]] = known(Metric)
    for name in names:
        if name not in every:
            raise ValueError(
                f"there is no metric {name!r}{nearest(name, every)}; there are {', '.join(every)}"
            )
    order = sorted(every, key=lambda name: (*_FIRST, name).index(name))
    wanted = [name for name in order if (name in names if names else every[name].chosen)]
    return {name: every[name]() for name in wanted}


def measure(
    metrics: Sequence[Metric],
    sr: Tensor,
    *,
    truth: Tensor | None = None,
    teacher: Tensor | None = None,
    border: int,
) -> dict[str, float]:
    """Values of one output, by the metrics' names, as far as there is what they compare with.

    Args:
        metrics: What to measure.
        sr: ``(1, 3, h, w)``, RGB in [0, 1].
        truth: The ground truth, same shape.
        teacher: The teacher's output, same shape.
        border: Pixels left out on every side.
    """
    others = {"truth": truth, "teacher": teacher, "none": sr}
    found: dict[str, float] = {}
    for metric in metrics:
        other = others[metric.reference]
        if other is not None:
            found[metric.name] = metric(sr, other, border).item()
    return found
