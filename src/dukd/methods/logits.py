"""Logits distillation: match the ground truth and the teacher's output.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, with the
mean absolute difference that super-resolution uses; the "KD" rows of the papers.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor, nn
from torch.nn.functional import l1_loss
from typing_extensions import override

from dukd.methods.base import Losses, Method
from dukd.networks.base import Network


@dataclass(frozen=True, kw_only=True)
class Logits(Method):
    """Match the ground truth and the teacher's output."""

    name: ClassVar[str] = "logits"

    reconstruction: float = 1.0
    """Weight of the mean absolute difference to the ground truth."""
    imitation: float = 1.0
    """Weight of the mean absolute difference to the teacher's output."""

    @override
    def losses(
        self,
        *,
        student: Network,
        teacher: Network,
        extras: nn.Module,
        lr: Tensor,
        hr: Tensor,
        rng: Generator,
    ) -> Losses:
        target = (
            teacher(lr) if self.imitation else None
        )  # before the student's graph needs memory too
        sr = student(lr)
        losses: Losses = {}
        if self.reconstruction:
            losses["reconstruction"] = self.reconstruction * l1_loss(sr, hr)
        if target is not None:
            losses["imitation"] = self.imitation * l1_loss(sr, target)
        return losses

    @property
    @override
    def needs_teacher(self) -> bool:
        return self.imitation != 0
