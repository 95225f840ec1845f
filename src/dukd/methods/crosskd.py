"""CrossKD: the student's front must be something the teacher's rest can work with.

"CrossKD", SSRN 4305289, 2022. Only the idea is public: the front of the student is cascaded into
the rest of the frozen teacher, and the cascade's output is supervised. Where to cut, the weights
and the setting are this project's reading:

    L = w_rec |S(lr) - hr|  +  w_kd |S(lr) - T(lr)|  +  w_cross mean_d |T_>d(a_d S_<=d(lr)) - hr|

with S_<=d the student up to depth d, T_>d the teacher from there on, and a_d a 1x1 convolution
where widths differ. The gradient flows through the teacher, whose weights stay as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import l1_loss
from typing_extensions import override

from dukd.methods.base import Losses, Method
from dukd.methods.inner import Adapter, Cut, front, rest
from dukd.networks.base import Network, pad_to_multiple


@dataclass(frozen=True, kw_only=True)
class CrossKD(Method):
    """Match ground truth and teacher, also by the student's front and the teacher's rest."""

    name: ClassVar[str] = "crosskd"

    reconstruction: float = 1.0
    """Weight of the mean absolute difference to the ground truth."""
    imitation: float = 1.0
    """Weight of the mean absolute difference to the teacher's output."""
    cross: float = 0.1
    """Weight of the cascades' mean absolute difference to the ground truth."""
    depths: tuple[float, ...] = (0.5,)
    """Where the student's front ends and the teacher's rest begins, as fractions of the depth; one
    cascade each."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        if not self.depths:
            raise ValueError("CrossKD cuts the networks at one depth or more, but depths is empty")

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
        sr, ours, _ = student.observe(lr, self.taps)
        losses: Losses = {}
        if self.reconstruction:
            losses["reconstruction"] = self.reconstruction * l1_loss(sr, hr)
        if self.imitation:
            losses["imitation"] = self.imitation * l1_loss(sr, teacher(lr))
        if self.cross:
            adapted = extras(ours) if isinstance(extras, Adapter) else ours
            distances = [l1_loss(x, hr) for x in cascades(teacher, lr, adapted, self.depths)]
            losses["cross"] = self.cross * torch.stack(distances).mean()
        return losses

    @override
    def extras(self, student: Network, teacher: Network) -> nn.Module:
        if not self.cross or student.width == teacher.width:
            return nn.Module()
        return Adapter(student, teacher, self.depths)

    @property
    @override
    def needs_teacher(self) -> bool:
        return self.imitation != 0 or self.cross != 0

    @property
    @override
    def runs_teacher(self) -> bool:
        return self.cross != 0

    @property
    @override
    def taps(self) -> tuple[float, ...]:
        return self.depths if self.cross else ()


def cascades(
    network: Network, lr: Tensor, features: Sequence[Tensor], depths: Sequence[float]
) -> list[Tensor]:
    """Go on in a network from features that another one has made.

    Args:
        network: The network whose rest runs; its own head is run once.
        lr: ``(n, 3, h, w)``, what both networks were shown.
        features: One ``(n, network.width, h' >= h, w' >= w)`` per depth.
        depths: Where they are taken to stand.

    Returns:
        For each depth, ``(n, 3, h * scale, w * scale)``, unclamped.
    """
    start = front(network, lr, 0)
    return [
        rest(network, entering(network, start, f), depth)
        for f, depth in zip(features, depths, strict=True)
    ]


def entering(network: Network, start: Cut, features: Tensor) -> Cut:
    """Put other features ``(n, width, h', w')`` in a cut, padded as ``network`` pads."""
    h, w = start.size
    return Cut(
        pad_to_multiple(features[..., :h, :w], network.size_multiple),
        start.kept,
        start.padded,
        start.size,
    )
