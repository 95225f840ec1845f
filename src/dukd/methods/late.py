"""A late start: train without a teacher first, and ask it when it is worth its price.

Far from convergence a step costs more with a teacher than it gains: at equal time a student alone
takes several steps for each that is distilled, and is ahead. What a teacher adds shows near the
end, where the rate is low. Here the first ``start`` steps are training on the ground truth alone,
at their price, and the rest is any method. It is ours, not a paper's. In docs/results/study.md it
gained nothing over a student alone, at a length where replayed answers did.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Generator, Tensor, nn
from typing_extensions import override

from dukd.methods.base import Counted, Losses, Method
from dukd.methods.dukd import DUKD
from dukd.methods.scratch import Scratch
from dukd.networks.base import Network


@dataclass(frozen=True, kw_only=True)
class Late(Method):
    """Train on the ground truth alone for a while, then by any method."""

    name: ClassVar[str] = "late"

    base: Method = field(default_factory=DUKD)
    """The method that follows."""
    start: int = 0
    """Steps on the ground truth alone before it."""
    reconstruction: float = 1.0
    """Weight of the ground truth in them."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        if self.start < 0:
            raise ValueError(f"start is a number of steps, but got {self.start}")
        if isinstance(self.base, Late) or len(self.base.parts) > 1:
            raise ValueError(
                f"late starts a method of one part, and once, but got {self.base.name}"
            )

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
        assert isinstance(extras, Counted)
        method = (
            self.base if extras.steps >= self.start else Scratch(reconstruction=self.reconstruction)
        )
        return method.losses(
            student=student, teacher=teacher, extras=extras.kept, lr=lr, hr=hr, rng=rng
        )

    @override
    def extras(self, student: Network, teacher: Network) -> nn.Module:
        return Counted(self.base.extras(student, teacher))

    @override
    def after_step(self, *, student: Network, extras: nn.Module, step: int) -> None:
        assert isinstance(extras, Counted)
        extras.steps = step
        self.base.after_step(student=student, extras=extras.kept, step=step)

    @override
    def notes(self) -> tuple[str, ...]:
        return self.base.notes()

    @property
    @override
    def needs_teacher(self) -> bool:
        return self.base.needs_teacher

    @property
    @override
    def runs_teacher(self) -> bool:
        return self.base.runs_teacher

    @property
    @override
    def taps(self) -> tuple[float, ...]:
        return self.base.taps
