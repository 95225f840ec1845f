"""Training without a teacher: the baseline every method has to beat, and how teachers are made."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor, nn
from torch.nn.functional import l1_loss
from typing_extensions import override

from dukd.methods.base import Losses, Method
from dukd.networks.base import Network


@dataclass(frozen=True, kw_only=True)
class Scratch(Method):
    """Match the ground truth."""

    name: ClassVar[str] = "scratch"

    reconstruction: float = 1.0
    """Weight of the mean absolute difference to the ground truth."""

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
        return {"reconstruction": self.reconstruction * l1_loss(student(lr), hr)}

    @property
    @override
    def needs_teacher(self) -> bool:
        return False
