"""MTKD: several teachers are first joined into one better teacher, which is then distilled.

Jiang, Feng, Zhang and Bull, "MTKD: Multi-Teacher Knowledge Distillation for Image
Super-Resolution", ECCV 2024, arXiv:2404.09571. Two experiments, one after the other:

    1  `Aggregation` trains a `dukd.networks.ensemble.Ensemble`, which holds the frozen teachers, as
    its student:
           L = w_wave W(E(lr), hr)  +  w_rec |E(lr) - hr|
    2  `MTKD` distils that ensemble, as its teacher:
           L = w_kd |S(lr) - E(lr)|  +  w_rec |S(lr) - hr|

with W the mean absolute difference of every detail band of a Haar transform and of its coarsest
approximation. The released code trains stage 1 with |.| alone (methods.md D49) and hands the
teachers to the two stages in different orders (D48); an ensemble keeps its members sorted by name,
so that the order is part of the network.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F  # noqa: N812  the name everybody knows
from typing_extensions import override

from dukd.methods.base import Losses, Method
from dukd.methods.logits import Logits
from dukd.networks.base import Network


@dataclass(frozen=True, kw_only=True)
class Aggregation(Method):
    """Match the ground truth band by band: how an ensemble of teachers is trained.

    It serves any network.
    """

    name: ClassVar[str] = "mtkd-aggregation"

    wavelet: float = 1.0
    """Weight of the distance between the bands of a wavelet transform."""
    reconstruction: float = 0.0
    """Weight of the mean absolute difference to the ground truth; the released code's loss is this
    one alone."""
    levels: int = 1
    """Times the approximation is transformed again."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        if self.levels < 1:
            raise ValueError(
                f"a wavelet transform has one level or more, but levels is {self.levels}"
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
            losses["reconstruction"] = self.reconstruction * F.l1_loss(sr, hr)
        if self.wavelet:
            losses["wavelet"] = self.wavelet * wavelet_distance(sr, hr, levels=self.levels)
        return losses

    @property
    @override
    def needs_teacher(self) -> bool:
        return False


@dataclass(frozen=True, kw_only=True)
class MTKD(Logits):
    """Match the ensemble of teachers, and a little the ground truth.

    With one plain teacher this is `Logits`.
    """

    name: ClassVar[str] = "mtkd"

    reconstruction: float = 0.1
    """Weight of the mean absolute difference to the ground truth."""
    imitation: float = 1.0
    """Weight of the mean absolute difference to the teacher's output."""


def wavelet_distance(x: Tensor, y: Tensor, *, levels: int) -> Tensor:
    """Mean absolute difference of each detail band and the coarsest approximation, summed.

    Args:
        x: ``(n, c, h, w)``.
        y: Same shape.
        levels: Times the approximation is transformed again, 1 or more.

    Returns:
        A scalar.
    """
    # The transform is linear: that of the difference is the difference of the transforms.
    rest = (x - y).float() if x.dtype != torch.float64 else x - y
    bands: list[Tensor] = []
    for _ in range(levels):
        rest, *details = haar(rest)
        bands += details
    return torch.stack([band.abs().mean() for band in (*bands, rest)]).sum()


def haar(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One level of the orthonormal Haar transform.

    ``(n, c, h, w)`` to four ``(n, c, ceil(h / 2), ceil(w / 2))``.

    Returns:
        Approximation, and the differences along the width, along the height, and along both. Odd
        sizes repeat the edge.
    """
    x = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2), mode="replicate")
    a, b = x[..., ::2, ::2], x[..., ::2, 1::2]
    c, d = x[..., 1::2, ::2], x[..., 1::2, 1::2]
    return (a + b + c + d) / 2, (a - b + c - d) / 2, (a + b - c - d) / 2, (a - b - c + d) / 2
