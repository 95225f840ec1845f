"""What a distillation method is: its numbers, and the losses they weigh."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from typing_extensions import override

from dukd.networks.base import Network

Losses = dict[str, Tensor]
"""Named scalars, already weighted; their sum is minimized."""


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A method of distillation: a frozen dataclass of its own hyper-parameters.

    It holds no networks and no state: what trains, or is kept, beside the student lives in
    ``extras``.
    """

    name: ClassVar[str]
    """Name in recipes, files and tables, such as ``dukd``."""

    @abstractmethod
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
        """Compare the student with the ground truth and the teacher, for one batch.

        Args:
            student: The network that learns.
            teacher: The frozen one; its parameters take no gradient, so its answers to images carry
                no graph.
            extras: What ``self.extras`` made.
            lr: ``(n, 3, h, w)``, RGB in [0, 1].
            hr: ``(n, 3, h * scale, w * scale)``.
            rng: The only source of randomness, on the CPU.

        Returns:
            Scalars by name, each already weighted. A loss whose weight is 0 is left out, and not
            computed.
        """

    def extras(self, student: Network, teacher: Network) -> nn.Module:
        """Make what is kept beside the student and thrown away at the end.

        It trains where it takes gradients.

        Raises:
            ValueError: If the method cannot serve this pair; the message says why and what would.
        """
        del student, teacher
        return nn.Module()

    def after_step(self, *, student: Network, extras: nn.Module, step: int) -> None:
        """Update what ``extras`` keeps after optimizer step ``step``, counted from 1."""
        del student, extras, step

    def notes(self) -> tuple[str, ...]:
        """Sentences that belong beside any number, such as what stands in for a missing file."""
        return ()

    @property
    def needs_teacher(self) -> bool:
        """Whether ``losses`` asks the teacher."""
        return True

    @property
    def runs_teacher(self) -> bool:
        """Whether ``losses`` runs parts of the teacher on what the student made.

        Its answers cannot be kept then.
        """
        return False

    @property
    def taps(self) -> tuple[float, ...]:
        """Depths at which both networks are read; empty for methods that see outputs only."""
        return ()

    @property
    def parts(self) -> tuple["Method", ...]:
        """The methods whose losses are minimized one after the other on each batch.

        One, but for one ablation.
        """
        return (self,)


class Counted(nn.Module):
    """Extras that know the optimizer steps so far, also in a resumed run."""

    def __init__(self, kept: nn.Module | None = None) -> None:
        super().__init__()
        self.kept = kept or nn.Module()
        self.steps = 0

    @override
    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.steps)

    @override
    def set_extra_state(self, state: Tensor) -> None:
        self.steps = int(state)
