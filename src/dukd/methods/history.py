"""A slow copy of the student: what methods that learn from its own past keep beside it."""

import copy
from typing import Self

import torch
from torch import Tensor, nn
from typing_extensions import override


class Past(nn.Module):
    """A copy of a network as it was.

    It takes no gradient and is in eval mode whatever happens around it. Its weights are saved with
    a checkpoint, since nothing else could bring them back.
    """

    def __init__(self, network: nn.Module) -> None:
        """Copy ``network`` as it is now."""
        super().__init__()
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @override
    def train(self, mode: bool = True) -> Self:
        del mode
        return super().train(False)

    @torch.no_grad()
    def forward(self, lr: Tensor) -> Tensor:
        """Upscale ``(n, 3, h, w)``; the output carries no graph."""
        return self.network(lr)

    @torch.no_grad()
    def follow(self, network: nn.Module, *, keep: float) -> None:
        """Move towards ``network``: every parameter becomes ``keep * own + (1 - keep) * its``.

        Buffers are copied.
        """
        for own, its in zip(self.network.parameters(), network.parameters(), strict=True):
            own.lerp_(its.detach(), 1 - keep)
        for own, its in zip(self.network.buffers(), network.buffers(), strict=True):
            own.copy_(its)
