"""What a further loss on the pair's output shares with others, whatever method it stands beside."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import nn
from typing_extensions import override

from dukd.methods.base import PAIR, Around, Batch, Losses, Method, Seen, View, float32
from dukd.methods.logits import Logits


def imitation() -> Method:
    """Regress to the teacher alone: hr and T(lr) differ where a teacher invents detail."""
    return Logits(reconstruction=0.0)


@dataclass(frozen=True, kw_only=True)
class Part(Around, ABC):
    """Any method, and one more loss of its pair, judged by a module kept beside the student."""

    base: Method = field(default_factory=imitation)
    """The method that regresses."""
    weight: float = 1.0
    """Weight of the further loss; 0 leaves it and its module out."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        if self.weight < 0:
            raise ValueError(f"weight is 0 or more, but got {self.weight}")

    @abstractmethod
    def module(self) -> nn.Module:
        """Make what judges."""

    @abstractmethod
    def judge(self, pair: Seen, batch: Batch, module: nn.Module) -> Losses:
        """The further losses, weighted, of the pair in full precision."""

    def follow(self, module: nn.Module) -> None:
        """Update what judges, after a step."""
        del module

    def taught(self) -> bool:
        """Whether the further loss compares with the teacher's output."""
        return False

    @override
    def views(self, batch: Batch) -> list[View]:
        views = self.base.views(batch)
        if self.weight and self.taught():
            return [replace(v, teacher=True) if v.name == PAIR else v for v in views]
        return views

    @override
    def losses(self, seen: Sequence[Seen], batch: Batch, state: nn.Module) -> Losses:
        if not isinstance(state, _Beside):
            return self.base.losses(seen, batch, state)
        pair = [s for s in seen if s.view.name == PAIR]
        if not pair:
            raise ValueError(f"{self.label} has no view of the pair, whose output is judged")
        losses = self.base.losses(seen, batch, state.base)
        with float32(pair) as (precise,):
            return losses | self.judge(precise, batch, state.module)

    @override
    def state(self, student: nn.Module, teacher: nn.Module | None) -> nn.Module:
        beside = self.base.state(student, teacher)
        return _Beside(beside, self.module()) if self.weight else beside

    @override
    def after_step(self, student: nn.Module, state: nn.Module, step: int) -> None:
        if isinstance(state, _Beside):
            self.follow(state.module)
            state = state.base
        self.base.after_step(student, state, step)

    @property
    @override
    def label(self) -> str:
        return self.name if self.base == imitation() else f"{self.base.label}+{self.name}"


class _Beside(nn.Module):
    def __init__(self, base: nn.Module, module: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.module = module
