"""Logits distillation: match the ground truth and the teacher's output.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, with the
mean absolute difference that super-resolution uses; the "KD" rows of the papers.
"""

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from dukd.methods.base import Batch, Method, View


@dataclass(frozen=True, kw_only=True)
class Logits(Method):
    """Match the ground truth and the teacher's output."""

    name: ClassVar[str] = "logits"

    reconstruction: float = 1.0
    """Weight of the mean absolute difference to the ground truth."""
    imitation: float = 1.0
    """Weight of the mean absolute difference to the teacher's output."""

    @override
    def views(self, batch: Batch) -> list[View]:
        return [self.pair(batch)] if self.reconstruction or self.imitation else []

    def pair(self, batch: Batch, *, depths: tuple[float, ...] = (), teacher: bool = False) -> View:
        """The training pair with the weights of this method."""
        return View.pair(
            batch,
            reconstruction=self.reconstruction,
            imitation=self.imitation,
            depths=depths,
            teacher=teacher,
        )
