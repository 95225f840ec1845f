"""Any method together with DUKD's upcycled inputs.

FAKD + DUKD (AugKD, table 8) and DCKD + DUKD (DCKD, table 2) are published.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Generator, Tensor, nn
from typing_extensions import override

from dukd.methods.base import Losses, Method
from dukd.methods.dukd import DUKD, asked, upcycled_losses
from dukd.methods.late import Late
from dukd.methods.logits import Logits
from dukd.networks.base import Network


@dataclass(frozen=True, kw_only=True)
class Combined(Method):
    """A method's losses on the pair, and DUKD's on what is upcycled from it.

    No forward pass is made twice.
    """

    name: ClassVar[str] = "combined"

    base: Method = field(default_factory=Logits)
    """The method that compares on the pair."""
    upcycling: DUKD = field(default_factory=DUKD)
    """How inputs are upcycled and weighted; its weights for the pair itself are not used."""

    def __post_init__(self) -> None:
        """Refuse what would be upcycled twice, and variants whose numbers would have no effect."""
        if isinstance(self.base, DUKD | Combined | Late):
            raise ValueError(  # noqa: TRY004  its type is a method's, as asked for
                f"{self.base.name} upcycles its inputs already, or can; combined takes a method "
                "that does not"
            )
        if type(self.upcycling) is not DUKD:
            raise ValueError(
                f"combined takes the inputs of dukd itself, but got {self.upcycling.name}"
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
        upcycled = self.upcycling.upcycle(lr, hr, rng)
        imitates, depths = self.base.needs_teacher, self.base.taps
        student, teacher = asked(student, teacher, lr, upcycled, imitates=imitates, depths=depths)
        pair = self.base.losses(
            student=student, teacher=teacher, extras=extras, lr=lr, hr=hr, rng=rng
        )
        return pair | upcycled_losses(student, teacher, upcycled)

    @override
    def extras(self, student: Network, teacher: Network) -> nn.Module:
        return self.base.extras(student, teacher)

    @override
    def after_step(self, *, student: Network, extras: nn.Module, step: int) -> None:
        self.base.after_step(student=student, extras=extras, step=step)

    @override
    def notes(self) -> tuple[str, ...]:
        return self.base.notes()

    @property
    @override
    def needs_teacher(self) -> bool:
        return self.base.needs_teacher or self.upcycling.needs_teacher

    @property
    @override
    def runs_teacher(self) -> bool:
        return self.base.runs_teacher

    @property
    @override
    def taps(self) -> tuple[float, ...]:
        return self.base.taps
