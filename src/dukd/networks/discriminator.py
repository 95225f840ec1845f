"""The discriminator of Real-ESRGAN: a U-Net that says of every pixel how real it looks.

Wang et al., arXiv:2107.10833, section 3.3; the layers are those of BasicSR's
``UNetDiscriminatorSN``: three halvings, three doublings with skips, and spectral normalization
(Miyato et al., arXiv:1802.05957) of all convolutions but the first and the last.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  the name everybody knows
from typing_extensions import override

_SLOPE = 0.2
_FIRST_TURNS = 15  # of the power method, from which the first estimate comes


class SpectralConv2d(nn.Conv2d):
    """A convolution without bias whose weight, as a matrix, is divided by its largest stretch.

    The stretch is estimated by the power method. It takes a turn when ``follow`` is called, not in
    ``forward`` as elsewhere, so that a loss is a function of weights and images alone.
    """

    u: Tensor

    def __init__(self, inputs: int, outputs: int, size: int, *, stride: int = 1) -> None:
        """Draw weights, and estimate how far they stretch."""
        super().__init__(inputs, outputs, size, stride=stride, padding=1, bias=False)
        self.register_buffer("u", F.normalize(torch.randn(outputs), dim=0))
        for _ in range(_FIRST_TURNS):
            self.follow()

    @torch.no_grad()
    def follow(self) -> None:
        """Take a turn of the power method towards the weights as they are."""
        matrix = self.weight.flatten(1)
        v = F.normalize(matrix.T @ self.u, dim=0)
        self.u.copy_(F.normalize(matrix @ v, dim=0))

    @override
    def forward(self, input: Tensor) -> Tensor:
        matrix = self.weight.flatten(1)
        with torch.no_grad():
            v = F.normalize(matrix.T @ self.u, dim=0)
        stretch = torch.dot(self.u, matrix @ v)
        return F.conv2d(input, self.weight / stretch, stride=self.stride, padding=self.padding)


class UNetDiscriminator(nn.Module):
    """``(n, 3, h, w)`` of RGB in [0, 1] to ``(n, 1, h, w)``, positive where it looks real.

    Any size from 8 x 8 pixels on.
    """

    def __init__(self, width: int = 64) -> None:
        """Make one of ``width`` channels at full size, and up to eight times as many inside."""
        super().__init__()
        w = width
        self.first = nn.Conv2d(3, w, 3, padding=1)
        self.down = nn.ModuleList(SpectralConv2d(w << i, w << i + 1, 4, stride=2) for i in range(3))
        self.up = nn.ModuleList(SpectralConv2d(w << i + 1, w << i, 3) for i in reversed(range(3)))
        self.last = nn.ModuleList(SpectralConv2d(w, w, 3) for _ in range(2))
        self.out = nn.Conv2d(w, 1, 3, padding=1)

    def follow(self) -> None:
        """Estimate anew how far the convolutions stretch; called after every step."""
        for module in self.modules():
            if isinstance(module, SpectralConv2d):
                module.follow()

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = _active(self.first(x))
        skips: list[Tensor] = []
        for convolution in self.down:
            skips.append(x)
            x = _active(convolution(x))
        for convolution in self.up:
            skip = skips.pop()
            size = skip.shape[-2:]
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
            x = _active(convolution(x)) + skip
        for convolution in self.last:
            x = _active(convolution(x))
        return self.out(x)


def _active(x: Tensor) -> Tensor:
    return F.leaky_relu(x, _SLOPE)
