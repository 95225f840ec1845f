"""Low-rank updates: a trained student is refined while its own weights stay frozen.

Distillation-Supervised Convolutional Low-Rank Adaptation (DSCF), first place of the NTIRE 2025
challenge on efficient super-resolution; arXiv:2504.11271, Yaozzz666/DSCF-SR at 0532888:

    W = W_0 + X Y,   X (out, rank),  Y (rank, in k^2),  Y = 0 at the start

for every convolution of k x k, with W_0 the trained weights. X and Y alone are trained, by any
method; the winners compare with the network that the student was, by ground truth, output and
FAKD's affinity. After each step the student's weights are W: it is an ordinary network at any time,
its average and its files too, and costs no more than before. How the paper shapes X and Y, its rank
and its weights are not known to us.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from dukd.methods.base import Around, Batch, Losses, Method, Seen, View
from dukd.methods.fakd import FAKD
from dukd.networks.quantized import Quantized


@dataclass(frozen=True, kw_only=True)
class LowRank(Around):
    """Any method, by updates of low rank to a student whose own weights are frozen."""

    name: ClassVar[str] = "lowrank"

    base: Method = field(default_factory=FAKD)
    """The method that compares."""
    rank: int = 8
    """Rank of each convolution's update, from 1 on."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        if self.rank < 1:
            raise ValueError(f"rank is a whole number from 1 on, but got {self.rank}")

    @override
    def views(self, batch: Batch) -> list[View]:
        return self.base.views(batch)

    @override
    def losses(self, seen: Sequence[Seen], batch: Batch, state: nn.Module) -> Losses:
        return self.base.losses(seen, batch, state.get_submodule("base"))

    @override
    def state(self, student: nn.Module, teacher: nn.Module | None) -> nn.Module:
        made = nn.Module()
        made.add_module("base", self.base.state(student, teacher))
        made.add_module("updates", adapted(student, self.rank))
        return made

    @override
    def after_step(self, student: nn.Module, state: nn.Module, step: int) -> None:
        self.base.after_step(student, state.get_submodule("base"), step)
        merge(student)

    @property
    @override
    def label(self) -> str:
        return self.name if type(self.base) is FAKD else f"{self.base.label}-{self.name}"


class Update(nn.Module):
    """The frozen weights of a convolution, and the factors that are trained."""

    frozen: Tensor

    def __init__(self, weight: Tensor, rank: int) -> None:
        """Draw X as linear layers are drawn, from torch's global generator; Y is 0."""
        super().__init__()
        outside, inside = weight.shape[0], weight[0].numel()
        self.register_buffer("frozen", weight.detach().clone())
        self.x = nn.Parameter(
            nn.init.kaiming_uniform_(weight.new_empty(outside, rank), math.sqrt(5))
        )
        self.y = nn.Parameter(weight.new_zeros(rank, inside))

    def forward(self) -> Tensor:
        """``W_0 + X Y``, of the shape of the convolution's weights."""
        with torch.autocast(self.x.device.type, enabled=False):
            return self.frozen + (self.x @ self.y).reshape(self.frozen.shape)


class Adapted(nn.Conv2d):
    """A convolution that computes with its update while it trains, and with its weights else.

    Whoever reads its weight gets the same, so that networks that fold branches train it as well.
    """

    update: tuple[Update]
    """In a tuple, so that the student's files and parameters do not hold it."""

    @property
    def merged(self) -> nn.Parameter:
        """The weights that the student's files hold."""
        return cast("nn.Parameter", self._parameters["weight"])

    @property
    @override
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.update[0]() if self.training else self.merged


def adapted(student: nn.Module, rank: int) -> nn.ModuleList:
    """Freeze a student in place, and give every convolution of one group an update.

    Raises:
        ValueError: If it has no convolution, or is quantized.
    """
    convolutions = [m for m in student.modules() if isinstance(m, nn.Conv2d) and m.groups == 1]
    if isinstance(student, Quantized) or not convolutions:
        raise ValueError(
            f"low-rank updates are for the convolutions of a float network, and "
            f"{type(student).__name__} has none: refine a convolutional student, and quantize it "
            "afterwards"
        )
    student.requires_grad_(requires_grad=False)
    updates = nn.ModuleList()
    for convolution in convolutions:
        update = Update(convolution.weight, rank)
        convolution.__class__ = Adapted  # as torch's own parametrizations do
        cast("Adapted", convolution).update = (update,)
        updates.append(update)
    return updates


@torch.no_grad()
def merge(student: nn.Module) -> None:
    """Set the weights of every adapted convolution to what it trains with, exactly."""
    for convolution in adapted_convolutions(student):
        convolution.merged.copy_(convolution.update[0]())


def adapted_convolutions(student: nn.Module) -> Iterator[Adapted]:
    """The convolutions that have an update."""
    return (m for m in student.modules() if isinstance(m, Adapted))
