"""What methods that read features share: maps of equal size, in full precision, of known widths."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from typing_extensions import override

from dukd.methods.base import Batch, Losses, Seen, View, float32
from dukd.methods.logits import Logits
from dukd.networks.base import Network, stage_number

THIRDS = (1 / 3, 2 / 3, 1.0)
"""Where FAKD reads, and the methods that do not say."""
Widths = Sequence[tuple[int, int]]
"""The student's and the teacher's number of channels per depth."""


@dataclass(frozen=True, kw_only=True)
class FeatureMethod(Logits, ABC):
    """Match the ground truth, the teacher's output by ``imitation``, and something in features."""

    terms: ClassVar[tuple[str, ...]]
    """Names of the weights that ``match`` applies."""

    imitation: float = 0.0
    """Weight of the mean absolute difference to the teacher's output; 0 leaves it out."""
    depths: tuple[float, ...] = THIRDS
    """Where to read both networks, as fractions of their depth, in [0, 1]; 0 is the first
    convolution."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        if not self.depths:
            raise ValueError(
                f"{self.name} reads features, but depths names none: give fractions in [0, 1]"
            )
        for depth in self.depths:
            stage_number(depth, 1)  # refuses what is not a depth

    @abstractmethod
    def match(self, pair: Seen, state: nn.Module) -> Losses:
        """Compare what the networks made of the pair, in float32 at least and outside autocast.

        Called only where ``compares`` holds.
        """

    @property
    def compares(self) -> bool:
        """Whether any of ``terms`` differs from 0."""
        return any(getattr(self, term) for term in self.terms)

    @property
    def read(self) -> tuple[float, ...]:
        """The depths that ``match`` needs."""
        return self.depths if self.compares else ()

    def learnt(self, widths: Widths) -> nn.Module:
        """Make what trains beside the student, of the widths at each depth."""
        del widths
        return nn.Module()

    @override
    def views(self, batch: Batch) -> list[View]:
        return [self.pair(batch, depths=self.read, teacher=self.compares)]

    @override
    def compare(self, seen: Sequence[Seen], batch: Batch, state: nn.Module) -> Losses:
        if not self.compares:
            return {}
        with float32(seen) as (pair,):
            return self.match(pair, state)

    @override
    def state(self, student: nn.Module, teacher: nn.Module | None) -> nn.Module:
        return self.learnt(widths_at(student, teacher, self.read)) if self.read else nn.Module()


def widths_at(student: nn.Module, teacher: nn.Module | None, depths: Sequence[float]) -> Widths:
    """Channels of both networks' features at each depth.

    Raises:
        ValueError: If the features of one cannot be read.
    """
    for who, network in (("student", student), ("teacher", teacher)):
        if not isinstance(network, Network):
            raise ValueError(  # noqa: TRY004  one type for what a caller can mend
                f"this method reads features, and the {who} is {type(network).__name__}, which "
                "does not say where: Opaque(module, taps=('body.3', ...)) names its submodules"
            )
    assert isinstance(student, Network)
    assert isinstance(teacher, Network)
    return [(student.width_at(depth), teacher.width_at(depth)) for depth in depths]


class Adapter(nn.ModuleList):
    """One 1x1 convolution per depth, from the student's width to the teacher's."""

    def __init__(self, widths: Widths) -> None:
        """Make the convolutions, drawn from torch's global generator."""
        super().__init__(nn.Conv2d(ours, theirs, 1) for ours, theirs in widths)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Map features ``(n, width, h, w)``, one per depth, to the teacher's width."""
        return [convolution(f) for convolution, f in zip(self, features, strict=True)]


def adapter(widths: Widths) -> nn.Module:
    """An `Adapter` where widths differ, and what changes nothing where they agree."""
    return nn.Identity() if all(a == b for a, b in widths) else Adapter(widths)


def in_own_units(features: Sequence[Tensor], *, relative: bool) -> list[Tensor]:
    """Divide each map by its root mean square if ``relative``: weights then suit any network."""
    return (
        [f * (average(f.square()) + 1e-8).rsqrt() for f in features] if relative else list(features)
    )


def average(x: Tensor) -> Tensor:
    """Mean of all values, whose gradient lies in memory as ``x`` does.

    That of ``Tensor.mean`` is contiguous whatever ``x`` is, and slows down every layer before it in
    channels-last.
    """
    return x.sum() / x.numel()


def unit(x: Tensor, *, eps: float = 1e-8) -> Tensor:
    """Scale the vectors along dimension 1 to length 1.

    The root of ``eps`` is the length below which they shrink to 0. It stands under the root, so
    that a vector of zeros has a finite gradient.
    """
    return x * (x.square().sum(1, keepdim=True) + eps).rsqrt()
