"""What a step of training changes: saved in one checkpoint, and brought back from it."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self, cast

from torch import Tensor, nn
from torch.optim import Adam

from dukd.networks.base import Network
from dukd.training.average import Average, buffers_of
from dukd.training.experiment import Optimization
from dukd.training.optimizers import moment_names, optimizer_of


@dataclass
class State:
    """What a step of training changes."""

    student: Network
    averaged: Network
    """The exponential moving average of the student: what is validated and saved."""
    extras: nn.Module
    """What trains, or is kept, beside the student and is thrown away at the end."""
    optimizer: Adam
    step: int = 0
    """Optimizer steps done."""
    best: float = -math.inf
    """Best value on the first validation set so far, by what chooses; negated where less is
    better."""
    best_step: int | None = None
    """The step after which it was measured."""
    seconds: float = 0.0
    """Seconds of training before the run was resumed."""
    _marks: tuple[tuple[int, int], ...] | None = None
    _touched: bool = False

    def __post_init__(self) -> None:
        """List once what every step goes through."""
        self.average = Average(self.averaged, self.student)
        every = (self.student, self.averaged, self.extras)
        self._buffers = [table for network in every for table in buffers_of(network)]

    @classmethod
    def begin(cls, student: Network, extras: nn.Module, optimization: Optimization) -> Self:
        """The state before the first step; the networks are where they are to be trained."""
        optimizer = optimizer_of(optimization, student, extras)
        averaged = copy.deepcopy(student).frozen()
        return cls(student.train(), averaged, extras.train(), optimizer)

    def open_step(self, *, hidden: bool = False) -> None:
        """A step begins; ``hidden`` where what it changes does not show, as in CUDA graphs."""
        self._marks, self._touched = self._marked(), hidden

    def touch(self) -> None:
        """The step changes weights from here on."""
        self._touched = True

    def close_step(self) -> None:
        """The step is done."""
        self.step += 1
        self._marks, self._touched = None, False

    @property
    def sound(self) -> bool:
        """Whether no step has changed a part of it alone; one that only computes has not."""
        return not self._touched and self._marks in (None, self._marked())

    def _marked(self) -> tuple[tuple[int, int], ...]:
        """What a step may change before its optimizer does, with the number of its changes."""
        buffers = chain.from_iterable(table.values() for table in self._buffers)
        return tuple((id(b), b._version) for b in buffers if b is not None)  # noqa: SLF001

    def trained(self) -> list[nn.Parameter]:
        """The parameters that the optimizer changes, in a fixed order."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def to_checkpoint(self, seconds: float) -> dict[str, object]:
        """What brings the state back, on the CPU; ``seconds`` of training are noted with it."""
        return {
            "student": _copied(self.student.state_dict()),
            "averaged": _copied(self.averaged.state_dict()),
            "extras": _copied(self.extras.state_dict()),
            "optimizer": [_copied(self.optimizer.state[p]) for p in self.trained()],
            "best": self.best,
            "best_step": self.best_step,
            "seconds": seconds,
        }

    def restore(self, step: int, saved: Mapping[str, object]) -> None:
        """Go back to what ``to_checkpoint`` gave after ``step`` steps.

        Raises:
            ValueError: If it was of another optimizer.
        """
        content = cast("Mapping[str, Any]", saved)
        for name, moments in zip(moment_names(self.optimizer), content["optimizer"], strict=True):
            if moments and name not in moments:
                raise ValueError("its moments are those of another optimizer")
        self.student.load_state_dict(content["student"])
        self.averaged.load_state_dict(content["averaged"])
        self.extras.load_state_dict(content["extras"])
        for p, values in zip(self.trained(), content["optimizer"], strict=True):
            self.optimizer.state[p] = {name: value.to(p.device) for name, value in values.items()}
        self.step, self.best = step, float(content["best"])
        self.best_step = content["best_step"]
        self.seconds = float(content["seconds"])


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.detach().cpu().clone() if isinstance(value, Tensor) else value
        for name, value in state.items()
    }
