"""Networks as converters of traced modules take them: without checks, padding and crop."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from dukd.networks import Network, Staged


class Padded(nn.Module):
    """A network for images whose sizes are multiples of ``multiple`` already."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network.folded().eval()
        self.multiple = network.size_multiple

    def forward(self, lr: Tensor) -> Tensor:
        """``(n, 3, h, w)`` to ``(n, 3, h * scale, w * scale)``."""
        network = self.network
        return network.run(lr)[0] if isinstance(network, Staged) else network(lr)


def traced(module: nn.Module, h: int, w: int) -> Any:  # noqa: ANN401  torch's types lack it
    """Record a module on a random image of this size."""
    image = torch.rand(1, 3, h, w, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that what Python computes is kept: we compare instead
        return torch.jit.trace(module.eval(), image, check_trace=False)
