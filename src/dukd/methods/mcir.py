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
from torch import Generator, Tensor, nn
from torch.nn.functional import l1_loss
from typing_extensions import override

from dukd.methods.base import Losses, Method
from dukd.methods.history import Past
from dukd.networks.base import Network
from dukd.networks.perceptual import LEVEL_WEIGHTS, Encoder, encoder_notes, vgg19


@dataclass(frozen=True, kw_only=True)
class MCIR(Method):
    """Match the ground truth, away from the answers of the student's own past."""

    name: ClassVar[str] = "mcir"

    reconstruction: float = 1.0
    """Weight of the mean absolute difference to the ground truth."""
    repulsion: float = 0.1
    """Weight of the distance, in a perceptual encoder's features, to the past's answer; it is
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
        sr = student(lr)
        losses: Losses = {}
        if self.reconstruction:
            losses["reconstruction"] = self.reconstruction * l1_loss(sr, hr)
        if self.repulsion:
            assert isinstance(extras, _Beside)
            with torch.no_grad():
                past = extras.encoder(extras.past(lr))
            losses["repulsion"] = -self.repulsion * repulsion(
                extras.encoder(sr), past, margin=self.margin
            )
        return losses

    @override
    def extras(self, student: Network, teacher: Network) -> nn.Module:
        del teacher
        return (
            _Beside(vgg19(self.vgg19, self.vgg19_sha256), student)
            if self.repulsion
            else nn.Module()
        )

    @override
    def after_step(self, *, student: Network, extras: nn.Module, step: int) -> None:
        if isinstance(extras, _Beside) and step % self.update_step == 0:
            extras.past.follow(student, keep=0 if step == self.update_step else self.keep)

    @override
    def notes(self) -> tuple[str, ...]:
        return encoder_notes(self.vgg19, "VGG19") if self.repulsion else ()

    @property
    @override
    def needs_teacher(self) -> bool:
        return False


class _Beside(nn.Module):
    def __init__(self, encoder: Encoder, student: Network) -> None:
        super().__init__()
        self.encoder = encoder
        # A copy of the student as it is now would answer as it does, and where both agree nothing
        # repels.
        self.past = Past(student.config.build())


def repulsion(features: Sequence[Tensor], past: Sequence[Tensor], *, margin: float) -> Tensor:
    """Saturating mean absolute difference of features, weighted over the five levels.

    An image's level at distance ``d`` counts ``d / (1 + d / margin)``.

    Args:
        features: ``(n, c_i, h_i, w_i)`` of the five levels, from fine to coarse.
        past: Likewise, of the past's answers.
        margin: What the count of a level tends to.

    Returns:
        A scalar in [0, ``margin`` times the sum of the levels' weights).
    """
    counts: list[Tensor] = []
    for weight, f, p in zip(LEVEL_WEIGHTS, features, past, strict=True):
        d = (f - p).abs().flatten(1).mean(1)  # (n,)
        counts.append(weight * (d / (1 + d / margin)).mean())
    return torch.stack(counts).sum()
