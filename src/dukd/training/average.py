"""The exponential moving average of a student's weights."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """Moves averaged weights towards a student's.

    What both hold is listed once: walking over modules takes longer than a small student's step.
    """

    def __init__(self, averaged: nn.Module, student: nn.Module) -> None:
        self._averaged: list[Tensor] = list(averaged.parameters())
        self._student: list[Tensor] = list(student.parameters())
        self._buffers = buffers_of(averaged), buffers_of(student)

    @torch.no_grad()
    def move(self, decay: float) -> None:
        """Keep ``decay``, in [0, 1), of the averaged weights, and take the rest from the student's.

        Buffers are copied (BasicSR leaves them, methods.md D52).
        """
        get_ema_multi_avg_fn(decay)(self._averaged, self._student, None)
        for table, current in zip(*self._buffers, strict=True):
            for name, buffer in table.items():
                if buffer is not None and (now := current[name]) is not None:
                    buffer.copy_(now)


def buffers_of(network: nn.Module) -> list[dict[str, Tensor | None]]:
    """The modules' own tables of buffers, which stay when a buffer is replaced by another."""
    private = "_buffers"  # torch's own, which gives no other way
    tables: list[dict[str, Tensor | None]] = [getattr(part, private) for part in network.modules()]
    return [table for table in tables if table]
