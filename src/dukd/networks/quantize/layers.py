"""Layers whose numbers have few bits: a quantizer with a learned range, and a convolution.

Rounding is simulated in float32, and its gradient is that of the identity inside the range
(straight-through). The range of an activation is learned along with the weights: Esser et al.,
"Learned Step Size Quantization", ICLR 2020, arXiv:1902.08153, here as two ends, from which scale
and zero point follow. Zero is always an integer, so padding with zeros stays exact.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

GAIN = 16.0
"""How much faster ends move than weights: Adam moves each parameter by about its rate, and an end
is ``unit * GAIN`` times its parameter."""


class Grid(NamedTuple):
    """The real numbers that integers stand for: ``scale * (integer - zero)``."""

    scale: Tensor
    """Above 0; a scalar, or one per output channel of weights."""
    zero: Tensor
    """The integer that stands for 0, as a float."""


class Quantizer(nn.Module):
    """Rounds to the integers between two levels, over a range that is learned."""

    unit: Tensor
    bounds: nn.Parameter

    def __init__(
        self, levels: tuple[int, int], *, symmetric: bool = False, positive: bool = False
    ) -> None:
        """Start with the range from -1 to 1, or from 0 to 1.

        Args:
            levels: Smallest and largest integer.
            symmetric: Whether the zero point is 0 and both ends are as far from it.
            positive: Whether no value is below 0, as behind a rectifier; the smallest integer
                stands for 0 then.
        """
        super().__init__()
        self.levels = levels
        self.symmetric = symmetric
        self.positive = positive and not symmetric
        self.enabled = True
        self.bounds = nn.Parameter(torch.tensor([-1.0, 1.0]) / GAIN)
        self.register_buffer("unit", torch.tensor(1.0))

    @torch.no_grad()
    def set_range(self, low: float, high: float) -> None:
        """Take a range; zero is included, and one without extent gets that of one level."""
        low, high = min(low, 0.0), max(high, 0.0)
        unit = max(-low, high) or 1.0
        self.unit.fill_(unit)
        self.bounds.copy_(torch.tensor([low, high]) / (unit * GAIN))

    def ends(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest value that is not clipped, as they are learned."""
        low, high = (self.bounds * (self.unit * GAIN)).unbind()
        low, high = low.clamp(max=0), high.clamp(min=0)
        if self.symmetric:
            high = torch.maximum(-low, high)
            return -high, high
        return (torch.zeros_like(low) if self.positive else low), high

    def grid(self) -> Grid:
        """The integers' scale and zero point; differentiable in the ends."""
        low, high = self.ends()
        smallest, largest = self.levels
        scale = (high - low) / (largest - smallest)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        if self.symmetric:
            return Grid(scale, torch.zeros_like(scale))
        return Grid(scale, smallest - straight_through_round(low / scale))

    @override
    def forward(self, x: Tensor) -> Tensor:
        """``(n, c, h, w)`` to the same shape, on the grid."""
        if not self.enabled:
            return x
        scale, zero = self.grid()
        smallest, largest = self.levels
        if torch.onnx.is_in_onnx_export():
            return torch.fake_quantize_per_tensor_affine(  # numbers become constants of the graph
                x, float(scale), int(zero), smallest, largest
            )
        if not torch.is_grad_enabled():  # the same numbers, in the memory of one map
            levels = (x / scale).round_().add_(zero).clamp_(smallest, largest)
            return levels.sub_(zero).mul_(scale)
        return _Rounded.apply(x, scale, zero, smallest, largest)

    def integers(self, x: Tensor) -> Tensor:
        """The integers themselves, as floats: rounded half to even, clipped."""
        scale, zero = self.grid()
        return (torch.round(x / scale) + zero).clamp(*self.levels)


class _Rounded(torch.autograd.Function):
    """A value on its grid, with the gradients of a learned scale and zero point."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  torch's base takes anything
        ctx: Any,  # noqa: ANN401  torch's own
        x: Tensor,
        scale: Tensor,
        zero: Tensor,
        smallest: int,
        largest: int,
    ) -> Tensor:
        integers = torch.round(x / scale).add_(zero)
        ctx.save_for_backward(x, scale, zero, integers)
        ctx.levels = smallest, largest
        return integers.clamp(smallest, largest).sub_(zero).mul_(scale)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  likewise
        ctx: Any,  # noqa: ANN401  torch's own
        gradient: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, scale, zero, integers = ctx.saved_tensors
        smallest, largest = ctx.levels
        below, above = integers < smallest, integers > largest
        inside = gradient.masked_fill(below | above, 0)
        at_smallest, at_largest = (gradient * below).sum(), (gradient * above).sum()
        errors = (inside * (integers - zero - x / scale)).sum()
        clipped = at_smallest * (smallest - zero) + at_largest * (largest - zero)
        return inside, errors + clipped, -scale * (at_smallest + at_largest), None, None


class QuantizedConv2d(nn.Conv2d):
    """A convolution whose weights have a scale per output channel and no zero point."""

    bits: int = 8
    """Of weights."""
    enabled: bool = True

    @classmethod
    def of(cls, conv: nn.Conv2d, bits: int) -> "QuantizedConv2d":
        """Take over a convolution's weights."""
        made = cls(
            conv.in_channels,
            conv.out_channels,
            (conv.kernel_size[0], conv.kernel_size[1]),
            stride=(conv.stride[0], conv.stride[1]),
            padding=conv.padding
            if isinstance(conv.padding, str)
            else (conv.padding[0], conv.padding[1]),
            dilation=(conv.dilation[0], conv.dilation[1]),
            groups=conv.groups,
            bias=conv.bias is not None,
            padding_mode=conv.padding_mode,  # pyright: ignore[reportArgumentType]  torch's own word
        )
        made.weight, made.bias, made.bits = conv.weight, conv.bias, bits
        return made

    def quantized(self) -> tuple[Tensor, Tensor]:
        """Integers of the weights, as floats, and their scales ``(out,)``.

        A channel of zeros has the scale 1.
        """
        largest = 2 ** (self.bits - 1) - 1
        scale = self.weight.detach().abs().amax((1, 2, 3)) / largest
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        integers = torch.round(self.weight.detach() / scale[:, None, None, None])
        return integers.clamp(-largest, largest), scale

    def rounded(self) -> Tensor:
        """The weights on their grid; the gradient is that of the identity."""
        integers, scale = self.quantized()
        if torch.onnx.is_in_onnx_export():
            constants = torch.tensor(scale.tolist()), torch.zeros(len(scale), dtype=torch.int32)
            return torch.fake_quantize_per_channel_affine(
                self.weight.detach(), *constants, 0, -128, 127
            )
        return self.weight + (integers * scale[:, None, None, None] - self.weight).detach()

    @override
    def forward(self, input: Tensor) -> Tensor:
        if not self.enabled:
            return super().forward(input)
        return self._conv_forward(input, self.rounded(), self.bias)


def straight_through_round(x: Tensor) -> Tensor:
    """Round half to even; the gradient is that of the identity."""
    return x + (torch.round(x) - x).detach()
