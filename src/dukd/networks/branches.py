"""A 3x3 convolution that trains as several branches and is folded into one exactly.

    y = W3 (W2 * (W1 x)) + S x,   W1, W3, S of 1x1, W2 of 3x3

as in SPAN and ECBSR. The image is padded before the first branch, so that the fold is exact at the
borders too. All of it is linear, so that training needs no other way of computing it: the gradient
goes through the fold, which is arithmetic on weights alone, and a step costs what that of a plain
convolution does. Branch by branch the convolution inside would be ``gain`` squared as large.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  the name everybody knows


class Branches(nn.Module):
    """The branches, which are folded into one convolution at each call, in float32."""

    def __init__(self, inside: int, outside: int, *, gain: int = 2) -> None:
        """Make the branches, whose inner convolutions are ``gain`` times as wide."""
        super().__init__()
        self.sk = nn.Conv2d(inside, outside, 1)
        self.conv = nn.Sequential(
            nn.Conv2d(inside, inside * gain, 1),
            nn.Conv2d(inside * gain, outside * gain, 3),
            nn.Conv2d(outside * gain, outside, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(n, inside, h, w)`` to ``(n, outside, h, w)``."""
        device = "cpu" if x.is_meta else x.device.type  # operations are counted without data
        with torch.autocast(device, enabled=False):
            weight, bias = self.folded()
        return F.conv2d(x, weight, bias, padding=1)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight ``(outside, inside, 3, 3)`` and bias of the one convolution that does the same."""
        convolutions = [cast("nn.Conv2d", module) for module in self.conv]
        w1, w2, w3 = (convolution.weight for convolution in convolutions)
        b1, b2, b3 = (cast("Tensor", convolution.bias) for convolution in convolutions)
        first, last = w1[:, :, 0, 0], w3[:, :, 0, 0]
        weight = torch.einsum("om,mkyx,ki->oiyx", last, w2, first)
        weight = weight + F.pad(self.sk.weight, (1, 1, 1, 1))
        inner = torch.einsum("mkyx,k->m", w2, b1) + b2
        bias = last @ inner + b3
        return weight, bias if self.sk.bias is None else bias + self.sk.bias


def unfolded(weight: Tensor, bias: Tensor, *, gain: int = 2) -> dict[str, Tensor]:
    """Branches that do exactly what a 3x3 convolution does: for code that reads nothing else."""
    outside, inside = weight.shape[:2]
    wide_in, wide_out = gain * inside, gain * outside
    first = torch.eye(wide_in, inside).to(weight)[:, :, None, None]
    last = torch.eye(outside, wide_out).to(weight)[:, :, None, None]
    middle = F.pad(weight, (0, 0, 0, 0, 0, wide_in - inside, 0, wide_out - outside))
    return {
        "sk.weight": weight.new_zeros(outside, inside, 1, 1),
        "sk.bias": weight.new_zeros(outside),
        "conv.0.weight": first,
        "conv.0.bias": weight.new_zeros(wide_in),
        "conv.1.weight": middle,
        "conv.1.bias": F.pad(bias, (0, wide_out - outside)),
        "conv.2.weight": last,
        "conv.2.bias": weight.new_zeros(outside),
    }
