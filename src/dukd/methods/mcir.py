"""MCIR: no teacher; the student is pushed away from what it was, in a perceptual encoder's eyes.

Wu, Jiang, Jiang and Liu, "Learning from History: Task-agnostic Model Contrastive Learning for Image
Restoration", AAAI 2024, arXiv:2309.06023.

    L = w_rec |S(lr) - hr|  -  w_neg |f(S(lr)) - f(P(lr))|

with f the features of VGG19 and P a slow copy of the student, which is its past. Which levels of
VGG19, the weight, how slow the copy is and how often it moves are not published in a form this
project could check; they are its own choice. The paper's second term has no lower bound; here it
saturates, so that no student gains by running away from its past.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from dukd.methods.base import Batch, Losses, Method, Seen, View
from dukd.methods.history import Past
from dukd.networks.base import Network
from dukd.networks.perceptual import LEVEL_WEIGHTS, Encoder, encoder_notes, vgg19


@dataclass(frozen=True, kw_only=True)
class MCIR(Method):
    """Match the ground truth, away from the outputs of the student's own past."""

    name: ClassVar[str] = "mcir"

    reconstruction: float = 1.0
    """Weight of the mean absolute difference to the ground truth."""
    repulsion: float = 0.1
    """Weight of the distance, in a perceptual encoder's features, to the past's output; it is
    subtracted."""
    margin: float = 0.1
    """Feature distance at which the past's push has fallen to a quarter; a level counts less than
    this in all."""
    keep: float = 0.9
    """Part of the past, in [0, 1], that an update keeps; the rest is the student as it is."""
    update_step: int = 100
    """Optimizer steps between updates of the past; up to the first, an untrained network stands for
    it."""
    vgg19: Path | None = None
    """File with VGG19's weights by torchvision's names; without it, fixed filters stand in."""
    vgg19_sha256: str = ""
    """What that file must hash to, in hexadecimal; empty takes any."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        if not 0 <= self.keep <= 1:
            raise ValueError(f"keep is a fraction in [0, 1], but got {self.keep}")
        if not self.margin > 0:
            raise ValueError(f"the margin is above 0, but got {self.margin}")
        if self.update_step < 1:
            raise ValueError(
                f"the past moves every 1 or more steps, but update_step is {self.update_step}"
            )

    @override
    def views(self, batch: Batch) -> list[View]:
        return [View.pair(batch, reconstruction=self.reconstruction)]

    @override
    def compare(self, seen: Sequence[Seen], batch: Batch, state: nn.Module) -> Losses:
        if not isinstance(state, _Beside):
            return {}
        (pair,) = seen
        with torch.no_grad():
            past = state.encoder(state.past(pair.view.image))
        away = repulsion(state.encoder(pair.student.sr), past, margin=self.margin)
        return {"repulsion": -self.repulsion * away}

    @override
    def state(self, student: nn.Module, teacher: nn.Module | None) -> nn.Module:
        if not self.repulsion:
            return nn.Module()
        return _Beside(vgg19(self.vgg19, self.vgg19_sha256), student)

    @override
    def after_step(self, student: nn.Module, state: nn.Module, step: int) -> None:
        if isinstance(state, _Beside) and step % self.update_step == 0:
            state.past.follow(student, keep=0 if step == self.update_step else self.keep)

    @override
    def notes(self) -> tuple[str, ...]:
        return encoder_notes(self.vgg19, "VGG19") if self.repulsion else ()


class _Beside(nn.Module):
    def __init__(self, encoder: Encoder, student: nn.Module) -> None:
        super().__init__()
        if not isinstance(student, Network):
            raise ValueError(  # noqa: TRY004  one type for what a caller can mend
                "mcir begins with an untrained network of the student's sort, which dukd cannot "
                f"build for {type(student).__name__}: write a NetworkConfig for it, or take dckd"
            )
        self.encoder = encoder
        # A copy of the student as it is now gives what it gives, and where both agree nothing
        # repels.
        self.past = Past(student.config.build())


def repulsion(features: Sequence[Tensor], past: Sequence[Tensor], *, margin: float) -> Tensor:
    """Saturating mean absolute difference of features, weighted over the five levels.

    An image's level at distance ``d`` counts ``d / (1 + d / margin)``.

    Args:
        features: ``(n, c_i, h_i, w_i)`` of the five levels, from fine to coarse.
        past: Likewise, of the past's outputs.
        margin: What the count of a level tends to.

    Returns:
        A scalar in [0, ``margin`` times the sum of the levels' weights).
    """
    counts: list[Tensor] = []
    for weight, f, p in zip(LEVEL_WEIGHTS, features, past, strict=True):
        d = (f - p).abs().flatten(1).mean(1)  # (n,)
        counts.append(weight * (d / (1 + d / margin)).mean())
    return torch.stack(counts).sum()
