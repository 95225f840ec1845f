"""Round weights so that their sums stay: maps are smooth, so a kernel's sum is what is felt of it.

That the nearest integer is not the best one: Nagel, Amjad, van Baalen, Louizos, Blankevoort, "Up or
Down? Adaptive Rounding for Post-Training Quantization", ICML 2020, arXiv:2004.10568, who learn the
rounding; here sums decide, and nothing is learned.
"""

import torch
from torch import Tensor

from dukd.networks.quantize.layers import QuantizedConv2d
from dukd.networks.quantized import Quantized


@torch.no_grad()
def settle(network: Quantized) -> None:
    """Put the weights of a network that is balanced on their grids, in place, so that sums stay.

    Of every kernel, and of all kernels of an output channel, the sum changes by about half a step
    at most; those weights are rounded away from the nearest integer that are closest to the other.
    The largest weights of a channel, which give its scale, stay.
    A target of the literature is left as it is published.
    """
    for name in network.quantized if network.runtime_has_integers else ():
        conv = network.convolution(name)
        assert isinstance(conv, QuantizedConv2d)
        integers, scale = conv.quantized()
        scale = scale[:, None, None, None]
        free = integers.abs() < 2 ** (conv.bits - 1) - 1  # the largest gives the scale
        flips = _flips((conv.weight / scale - integers).flatten(2), free.flatten(2))
        conv.weight.copy_((integers + flips.view_as(integers)) * scale)


def _flips(rests: Tensor, free: Tensor) -> Tensor:
    """Which integers are one more or less: ``(out, in, k)`` of what rounding left, to the same."""
    sums = rests.sum(2)
    counts = sums.round()
    left = sums - counts
    more = left.sum(1, keepdim=True).round()
    counts = counts + more.sign() * (_ranks(left * more.sign(), 1) < more.abs())
    signs = counts.sign()[..., None]
    order = _ranks((rests * signs).masked_fill(~free, -1.0), 2)
    return signs * ((order < counts.abs()[..., None]) & free)


def _ranks(values: Tensor, dim: int) -> Tensor:
    """Places of values in their order, the largest first."""
    return values.argsort(dim=dim, descending=True, stable=True).argsort(dim=dim)
