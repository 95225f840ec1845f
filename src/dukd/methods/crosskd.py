"""CrossKD: the student's front must be something the teacher's rest can work with.

"CrossKD", SSRN 4305289, 2022. Only the idea is public: the front of the student is cascaded into
the rest of the frozen teacher, and the cascade's output is supervised. Where to cut, the weights
and the setting are this project's reading:

    L = w_rec |S(lr) - hr|  +  w_kd |S(lr) - T(lr)|  +  w_cross mean_d |T_>d(a_d S_<=d(lr)) - hr|

with S_<=d the student up to depth d, T_>d the teacher from there on, and a_d a 1x1 convolution
where widths differ. The gradient flows through the teacher, whose weights stay as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn
from torch.nn.functional import l1_loss
from typing_extensions import override

from dukd.methods.base import Batch, Losses, Seen, View
from dukd.methods.features import adapter, widths_at
from dukd.methods.inner import cascades
from dukd.methods.logits import Logits


@dataclass(frozen=True, kw_only=True)
class CrossKD(Logits):
    """Match ground truth and teacher, also by the student's front and the teacher's rest."""

    name: ClassVar[str] = "crosskd"

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
    def views(self, batch: Batch) -> list[View]:
        pair = self.pair(batch, teacher=bool(self.cross))
        return [replace(pair, student_depths=self.depths if self.cross else ())]

    @override
    def compare(self, seen: Sequence[Seen], batch: Batch, state: nn.Module) -> Losses:
        if not self.cross:
            return {}
        (pair,) = seen
        hr, adapted = pair.view.truth, state(pair.student.features)
        assert hr is not None
        made = cascades(pair.target.network, pair.view.image, adapted, self.depths)
        return {"cross": self.cross * torch.stack([l1_loss(x, hr) for x in made]).mean()}

    @override
    def state(self, student: nn.Module, teacher: nn.Module | None) -> nn.Module:
        return adapter(widths_at(student, teacher, self.depths)) if self.cross else nn.Module()
