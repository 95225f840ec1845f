"""Two quantizers of the literature, for its tables; no runtime computes so.

DAQ: Hong, Kim, Baik, Oh, Lee, "DAQ: Channel-Wise Distribution-Aware Quantization for Deep Image
Super-Resolution Networks", WACV 2022, arXiv:2012.11230, as in Cheeun/DAQ-pytorch. PAMS: Li et al.,
"PAMS: Quantized Super-Resolution via Parameterized Max Scale", ECCV 2020, arXiv:2011.04212, as in
colorjam/PAMS.
"""

import torch
from torch import Tensor, nn
from typing_extensions import override

from dukd.networks.quantize.layers import QuantizedConv2d, straight_through_round

STEPS = {1: 1.596, 2: 0.996, 3: 0.586, 4: 0.335, 5: 0.188, 6: 0.104, 7: 0.057, 8: 0.031}
"""Steps of the best uniform quantizers of a normal distribution, by bits. The authors' code reads
the one of a bit less, and so do we."""
PAMS_GAIN = 100.0
"""PAMS learns its largest values at 1e-2, its weights at 1e-4."""


def daq_activations(x: Tensor, bits: int, *, spread_bits: int | None = None) -> Tensor:
    """Round every channel of every image by its own mean and deviation.

    Behind a rectifier (no value of the tensor is below 0) the statistics are those of the positive
    values and one 0, and nothing is clipped above, as in the authors' code. The gradient is that of
    the identity, also where values are clipped.

    Args:
        x: ``(n, c, h, w)``.
        bits: 2 to 8.
        spread_bits: Bits of the deviations themselves, over the channels of an image; None leaves
            them as they are.
    """
    half = 2**bits / 2 - 0.5
    with torch.no_grad():
        rectified = x.amin() == 0  # stays a tensor, for which no host has to wait
        mean, deviation = _statistics(x, rectified)
        if spread_bits is not None:
            deviation = daq_deviations(deviation, spread_bits)
        step = STEPS[bits - 1] * deviation
        offset = torch.where(rectified, half * step, mean)
        levels = _between_levels((x - offset) / torch.where(step > 0, step, torch.ones_like(step)))
        levels = torch.where(rectified, levels, levels.clamp(-half, half))
        rounded = torch.where(step > 0, levels * step, 0) + offset
    return x + (rounded - x).detach()


def _statistics(x: Tensor, rectified: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every channel of every image, ``(n, c, 1, 1)``.

    If rectified, ``()``, they are those of its positive values and one 0.
    """
    count = (x > 0).sum((2, 3), keepdim=True) + 1
    positive = x.sum((2, 3), keepdim=True) / count
    variance = x.square().sum((2, 3), keepdim=True) / count - positive.square()
    mean = torch.where(rectified, positive, x.mean((2, 3), keepdim=True))
    spread = x.std((2, 3), keepdim=True)
    return mean, torch.where(rectified, variance.clamp(min=0).sqrt(), spread)


def daq_deviations(deviation: Tensor, bits: int) -> Tensor:
    """Round the deviations of channels by their mean and deviation over the channels.

    Args:
        deviation: ``(n, c, 1, 1)``.
        bits: 2 to 8; the authors take 4.
    """
    half = 2**bits / 2 - 0.5
    mean = deviation.mean(1, keepdim=True)
    if deviation.shape[1] == 1:
        return mean
    step = STEPS[bits - 1] * deviation.std(1, keepdim=True)
    levels = _between_levels((deviation - mean) / torch.where(step > 0, step, 1))
    return levels.clamp(-half, half) * step + mean


def daq_weights(weight: Tensor, bits: int) -> Tensor:
    """Round weights by the deviation of the whole tensor, about a mean of 0.

    The gradient is that of the identity.
    """
    half = 2**bits / 2 - 0.5
    fixed = weight.detach()
    step = STEPS[bits - 1] * fixed.std()
    step = torch.where(step > 0, step, torch.ones_like(step))
    return weight + (_between_levels(fixed / step).clamp(-half, half) * step - fixed)


def _between_levels(x: Tensor) -> Tensor:
    """The nearest half of an odd number."""
    return torch.round(x + 0.5) - 0.5


def pams(x: Tensor, largest: Tensor, bits: int) -> Tensor:
    """Clip at ``largest`` on both sides and round to ``2**bits - 1`` levels; both get gradients."""
    top = 2 ** (bits - 1) - 1
    return straight_through_round(x.clamp(-largest, largest) / largest * top) / top * largest


class DAQuantizer(nn.Module):
    """DAQ of activations: nothing is learned.

    The deviations of channels are rounded to 4 bits where activations have 4 or less, as in the
    authors' tables; for more bits nothing is published, and they stay.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.spread_bits = 4 if bits <= 4 else None
        self.enabled = True

    @override
    def forward(self, x: Tensor) -> Tensor:
        if not self.enabled:
            return x
        return daq_activations(x, self.bits, spread_bits=self.spread_bits)


class PAMSQuantizer(nn.Module):
    """PAMS of activations: the largest value is learned, from 10 where nothing is known."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.enabled = True
        self.bound = nn.Parameter(torch.tensor(10.0 / PAMS_GAIN))

    @torch.no_grad()
    def set_range(self, low: float, high: float) -> None:
        """Take the larger of two ends."""
        self.bound.fill_((max(-low, high) or 1.0) / PAMS_GAIN)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return pams(x, (self.bound * PAMS_GAIN).abs(), self.bits) if self.enabled else x


class DAQConv2d(QuantizedConv2d):
    """A convolution with DAQ's weights."""

    @override
    def rounded(self) -> Tensor:
        return daq_weights(self.weight, self.bits)


class PAMSConv2d(QuantizedConv2d):
    """A convolution with PAMS's weights: one scale for the whole tensor, of its largest value."""

    @override
    def rounded(self) -> Tensor:
        largest = self.weight.detach().abs().max()
        return pams(self.weight, torch.where(largest > 0, largest, 1.0), self.bits)
