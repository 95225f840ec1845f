"""What methods that read features share.

One forward pass per network, maps of equal size, full precision.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import l1_loss
from typing_extensions import override

from dukd.methods.base import Losses
from dukd.methods.inner import Adapter
from dukd.methods.logits import Logits
from dukd.networks.base import Network, stage_number

THIRDS = (1 / 3, 2 / 3, 1.0)
"""Where FAKD reads, and the methods that do not say."""


class Seen(NamedTuple):
    """What a network made of a batch."""

    sr: Tensor
    """``(n, 3, h * scale, w * scale)``, unclamped."""
    features: list[Tensor]
    """``(n, width, h, w)`` per depth, without what the network padded."""


@dataclass(frozen=True, kw_only=True)
class FeatureMethod(Logits, ABC):
    """Match the ground truth, the teacher's output by ``imitation``, and something in features."""

    imitation: float = 0.0
    """Weight of the mean absolute difference to the teacher's output; 0 leaves it out."""
    depths: tuple[float, ...] = THIRDS
    """Where to read both networks, as fractions of their depth, in (0, 1]."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        if not self.depths:
            raise ValueError(
                f"{self.name} reads features, but depths names none: give fractions in (0, 1]"
            )
        for depth in self.depths:
            stage_number(depth, 1)  # refuses what is no depth

    @abstractmethod
    def compare(self, extras: nn.Module, ours: Seen, theirs: Seen) -> Losses:
        """Compare what the networks saw, in float32 at least and outside autocast.

        Args:
            extras: What ``self.extras`` made.
            ours: The student's.
            theirs: The teacher's, which carries no graph.

        Returns:
            Scalars by name, weighted; called only where ``compares`` holds.
        """

    @property
    @abstractmethod
    def compares(self) -> bool:
        """Whether any of the weights that ``compare`` applies differs from 0."""

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
        # The teacher first, before the student's graph needs memory too.
        answer, theirs = teacher.observe(lr, self.taps)[:2] if self.needs_teacher else (hr, [])
        sr, ours, _ = student.observe(lr, self.taps)
        losses: Losses = {}
        if self.reconstruction:
            losses["reconstruction"] = self.reconstruction * l1_loss(sr, hr)
        if self.imitation:
            losses["imitation"] = self.imitation * l1_loss(sr, answer)
        if self.compares:
            # Statistics and affinities lose their meaning in half precision; autocast would cast
            # matmul down again.
            with torch.autocast(lr.device.type, enabled=False):
                h, w = lr.shape[-2:]  # what a network has padded is no part of the image
                seen = (
                    Seen(precise(output), [precise(f[..., :h, :w]) for f in features])
                    for output, features in ((sr, ours), (answer, theirs))
                )
                losses |= self.compare(extras, *seen)
        return losses

    @property
    @override
    def needs_teacher(self) -> bool:
        return self.imitation != 0 or self.compares

    @property
    @override
    def taps(self) -> tuple[float, ...]:
        return self.depths if self.compares else ()


def precise(x: Tensor) -> Tensor:
    """Raise half precision to float32; leave float32 and float64 as they are."""
    return x.float() if x.dtype in {torch.bfloat16, torch.float16} else x


def adapter(student: Network, teacher: Network, method: FeatureMethod) -> nn.Module:
    """Make one 1x1 convolution per depth where the widths differ, else an identity."""
    return (
        nn.Identity()
        if student.width == teacher.width
        else Adapter(student, teacher, method.depths)
    )


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

    The root of ``eps`` is the length below which they shrink to 0.

    ``eps`` stands under the root: a vector of zeros has a finite gradient.
    """
    return x * (x.square().sum(1, keepdim=True) + eps).rsqrt()
