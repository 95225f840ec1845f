"""MTKD: several teachers are first joined into one better teacher, which is then distilled.

Jiang, Feng, Zhang and Bull, "MTKD: Multi-Teacher Knowledge Distillation for Image
Super-Resolution", ECCV 2024, arXiv:2404.09571. Two experiments, one after the other:

    1  `Aggregation` trains a `dukd.networks.ensemble.Ensemble`, which holds the frozen teachers,
       as its student:
           L = w_wave W(E(lr), hr)  +  w_rec |E(lr) - hr|
    2  `MTKD` distils that ensemble, as its teacher:
           L = w_kd |S(lr) - E(lr)|  +  w_rec |S(lr) - hr|

with W the mean absolute difference of the details of each level of a Haar transform, one mean over
the three bands as in the authors' code, and of the coarsest approximation. That code compares the
approximation of one image of the batch only (methods.md D53), trains stage 1 with |.| alone (D49)
and hands the teachers to the two stages in different orders (D48); an ensemble keeps its members
sorted by name, so that the order is part of the network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from typing_extensions import override

from dukd.methods.base import Batch, Losses, Method, Seen, View
from dukd.methods.haar import band_distance
from dukd.methods.logits import Logits


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
    def views(self, batch: Batch) -> list[View]:
        return [View.pair(batch, reconstruction=self.reconstruction)]

    @override
    def compare(self, seen: Sequence[Seen], batch: Batch, state: nn.Module) -> Losses:
        if not self.wavelet:
            return {}
        (pair,) = seen
        assert pair.view.truth is not None
        bands = (1.0, *[1 / 3] * self.levels)  # a mean over three bands of one size
        return {"wavelet": self.wavelet * band_distance(pair.student.sr, pair.view.truth, bands)}


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
