"""DCKD: negatives from the student's own history, and codes as a common language.

Zhou et al., "Dynamic Contrastive Knowledge Distillation for Efficient Image Restoration", AAAI
2025, arXiv:2412.08939.

    L = w_rec |S - hr|  +  w_kd |S - T|
      + w_dcl sum_i w_i |f_i(S) - f_i(T)| / (sum_j |f_i(S) - f_i(n_j)| + 1e-7)
      + w_ce  mean over positions of  - sum_k p_T(k) log p_S(k),      p(k) = softmax_k(-|z - c_k|^2)

with f_i the five levels of a VQGAN encoder, z its latent at a position, c_k its codes, and the
negatives n_j the outputs of a slow copy of the student to lr and to noisy copies of lr. Near codes
are likely codes, and the logarithm is taken of one softmax; the paper's equation 8 has the sign the
other way round (methods.md D28), the released code takes softmax twice (D27), shows the encoder [0,
1] (D29) and adds a label-consistency term the paper's method has not (D26).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import log_softmax, softmax
from typing_extensions import override

from dukd.core.device import to_device
from dukd.methods.base import Batch, Losses, Seen, View
from dukd.methods.csd import contrast
from dukd.methods.history import Past
from dukd.methods.logits import Logits
from dukd.networks.perceptual import CodedEncoder, encoder_notes, vqgan


@dataclass(frozen=True, kw_only=True)
class DCKD(Logits):
    """Match ground truth, teacher and its codes, away from the student's history."""

    name: ClassVar[str] = "dckd"

    contrast: float = 0.1
    """Weight of the contrastive quotient."""
    distribution: float = 0.001
    """Weight of the cross-entropy between the teacher's and the student's distributions over
    codes."""
    noisy: int = 4
    """Noisy copies of lr whose outputs are negatives, beside that of lr itself."""
    noise: tuple[float, float] = (1.0, 30.0)
    """Least and greatest standard deviation of the noise, in gray levels of 255; drawn per
    image."""
    gray: float = 0.5
    """Probability, in [0, 1], that an image's noise is the same in R, G and B."""
    keep: float = 0.1
    """Part of the history, in [0, 1], that an update keeps; the rest is the student as it is."""
    update_steps: tuple[int, ...] = (1000, 2000, 3000)
    """Optimizer steps between updates of the history, one number per phase; the last holds to the
    end."""
    phase: int = 100_000
    """Optimizer steps in a phase."""
    vqgan: Path | None = None
    """File with the VQGAN's weights by taming-transformers' names; without it, fixed filters and
    codes stand in."""
    vqgan_sha256: str = ""
    """What that file must hash to, in hexadecimal; empty takes any."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        if self.noisy < 0:
            raise ValueError(f"the noisy copies are 0 or more, but noisy is {self.noisy}")
        if not 0 <= self.noise[0] <= self.noise[1]:
            raise ValueError(
                f"noise goes from a least to a greatest deviation, but got {self.noise}"
            )
        for name, value in (("keep", self.keep), ("gray", self.gray)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is a fraction in [0, 1], but got {value}")
        if not self.update_steps or min(*self.update_steps, self.phase) < 1:
            raise ValueError(
                f"the history moves every 1 or more steps, but got {self.update_steps} of "
                f"{self.phase}"
            )

    @override
    def views(self, batch: Batch) -> list[View]:
        return [self.pair(batch, teacher=bool(self.contrast or self.distribution))]

    @override
    def compare(self, seen: Sequence[Seen], batch: Batch, state: nn.Module) -> Losses:
        losses: Losses = {}
        if not isinstance(state, _Beside):
            return losses
        (pair,), encoder = seen, state.encoder
        lr, sr, target = pair.view.image, pair.student.sr, pair.target.sr
        if self.contrast:
            shown = [lr, *(self.noised(lr, batch.rng) for _ in range(self.noisy))]
            with torch.no_grad():
                features = encoder(state.history(torch.cat(shown)))
                positive = encoder(target)
            negatives = [f.chunk(len(shown)) for f in features]
            losses["contrast"] = self.contrast * contrast(encoder(sr), positive, negatives)
        if self.distribution:
            with torch.no_grad():
                theirs = encoder.distances(target)
            entropy = code_cross_entropy(encoder.distances(sr), theirs)
            losses["distribution"] = self.distribution * entropy
        return losses

    def noised(self, lr: Tensor, rng: Generator) -> Tensor:
        """Add Gaussian noise to ``(n, 3, h, w)``, each image's own, kept in [0, 1]."""
        n = lr.shape[0]
        low, high = self.noise
        deviation = (low + (high - low) * torch.rand(n, 1, 1, 1, generator=rng)) / 255
        gray = torch.rand(n, 1, 1, 1, generator=rng) < self.gray
        noise = torch.randn(lr.shape, generator=rng)
        noise = deviation * torch.where(gray, noise[:, :1], noise)
        return (lr + to_device(noise, lr.device).to(lr.dtype)).clamp(0, 1)

    @override
    def state(self, student: nn.Module, teacher: nn.Module | None) -> nn.Module:
        if not (self.contrast or self.distribution):
            return nn.Module()
        return _Beside(vqgan(self.vqgan, self.vqgan_sha256), student)

    @override
    def after_step(self, student: nn.Module, state: nn.Module, step: int) -> None:
        every = self.update_steps[min((step - 1) // self.phase, len(self.update_steps) - 1)]
        if isinstance(state, _Beside) and step % every == 0:
            state.history.follow(student, keep=self.keep)

    @override
    def notes(self) -> tuple[str, ...]:
        return encoder_notes(self.vqgan, "VQGAN") if self.contrast or self.distribution else ()


class _Beside(nn.Module):
    def __init__(self, encoder: CodedEncoder, student: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.history = Past(student)


def code_cross_entropy(ours: Tensor, theirs: Tensor) -> Tensor:
    """Cross-entropy of distributions over codes, in nats, mean over positions.

    Args:
        ours: ``(n, positions, k)``, squared distances to the codes; a near code is a likely one.
        theirs: Likewise, of what is to be imitated.

    Returns:
        A scalar; least, at the entropy of their distribution, where both agree.
    """
    return -(softmax(-theirs.float(), 2) * log_softmax(-ours.float(), 2)).sum(2).mean()
