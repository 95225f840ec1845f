"""ECO: early targets without noise, which become the ground truth as training goes on.

"Noise-free Optimization in Early Training Steps for Image Super-Resolution", arXiv:2312.17526, as
community trainers ship it (traiNNer-redux at 6862931, neosr at 31c7022). A network cannot guess the
details of hr yet; what a trained one makes of lr it can. With k optimizer steps done,

    L = w |S(x) - y|,   y = (1 - a) T + a hr,   x = (1 - a) reduced(T) + a lr,   a = min(1, k / end)

where T is the teacher's output for lr, kept in [0, 1], and *reduced* is MATLAB's bicubic. Mode
``hr_only`` leaves x at lr. From ``end`` on this is training without a teacher, which does not run
any more. It is a schedule of targets: any method with upcycled inputs can stand on it.

`SelfECO` needs no teacher: T is the network's own output, and a = sigmoid(10 (k / end - 1/4)) after
a start on the ground truth alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss
from typing_extensions import override

from dukd.images.resize import downscale
from dukd.methods.base import Batch, Losses, Method, Seen, View


@dataclass(frozen=True, kw_only=True)
class ECO(Method):
    """Match a mixture of teacher and ground truth that ends as the ground truth."""

    name: ClassVar[str] = "eco"

    reconstruction: float = 1.0
    """Weight of the mean absolute difference to the mixture."""
    mode: Literal["full", "hr_only"] = "full"
    """Whether the input is mixed as the target is, or stays lr."""
    end: int = 187_500
    """Optimizer steps until the target is the ground truth; recipes take three quarters of
    theirs."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        if self.end < 1:
            raise ValueError(f"end is a number of steps from 1 on, but got {self.end}")

    def share(self, step: int) -> float:
        """Share of the ground truth in the target after ``step`` steps, in [0, 1]."""
        return min(1.0, step / self.end)

    @override
    def views(self, batch: Batch) -> list[View]:
        share = self.share(batch.step)
        if share == 1:
            return [View.pair(batch, reconstruction=self.reconstruction)]
        view = View.pair(batch, teacher=True)
        if self.mode == "hr_only":
            return [view]
        return [replace(view, remake=partial(mixed_input, share=share))]

    @override
    def compare(self, seen: Sequence[Seen], batch: Batch, state: nn.Module) -> Losses:
        (pair,), share = seen, self.share(batch.step)
        if share == 1:
            return {}
        assert pair.view.truth is not None
        target = mixed_target(pair.target.sr, pair.view.truth, share)
        return {"reconstruction": self.reconstruction * l1_loss(pair.student.sr, target)}


@dataclass(frozen=True, kw_only=True)
class SelfECO(Method):
    """Match a mixture of the network's own output and the ground truth."""

    name: ClassVar[str] = "eco-self"

    reconstruction: float = 1.0
    """Weight of the mean absolute difference to the mixture."""
    start: int = 15_000
    """Optimizer steps on the ground truth alone before it; 0 for a trained network."""
    end: int = 80_000
    """Optimizer steps that scale the schedule: half of the mixture is the ground truth after a
    quarter of them."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        if self.start < 0 or self.end < 1:
            raise ValueError(
                f"start and end are numbers of steps, but got {self.start} and {self.end}"
            )

    def share(self, step: int) -> float:
        """Share of the ground truth in the target after ``step`` steps, in [0, 1]."""
        return 1.0 if step < self.start else 1 / (1 + math.exp(-10 * (step / self.end - 0.25)))

    @override
    def views(self, batch: Batch) -> list[View]:
        plain = batch.step < self.start
        return [View.pair(batch, reconstruction=self.reconstruction if plain else 0)]

    @override
    def compare(self, seen: Sequence[Seen], batch: Batch, state: nn.Module) -> Losses:
        if batch.step < self.start:
            return {}
        (pair,), share = seen, self.share(batch.step)
        lr, hr, own = pair.view.image, pair.view.truth, pair.student.sr.detach()
        assert hr is not None
        sr: Tensor = pair.student.network(mixed_input(lr, own, share))
        target = mixed_target(own, hr, share)
        return {"reconstruction": self.reconstruction * l1_loss(sr, target)}


def mixed_target(sr: Tensor, hr: Tensor, share: float) -> Tensor:
    """An output mixed with the ground truth ``(n, 3, H, W)``, of which there is ``share``."""
    return sr.to(hr.dtype).clamp(0, 1).lerp(hr, share)


def mixed_input(lr: Tensor, sr: Tensor, share: float) -> Tensor:
    """A reduced output mixed with the input ``(n, 3, h, w)``, of which there is ``share``."""
    with torch.no_grad():
        scale = sr.shape[-1] // lr.shape[-1]
        return downscale(sr.to(lr.dtype).clamp(0, 1), scale).lerp(lr, share)
