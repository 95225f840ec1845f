"""VID: the student's features should tell as much as possible about the teacher's.

Ahn et al., "Variational Information Distillation for Knowledge Transfer", CVPR 2019,
arXiv:1904.05835: a distribution of the teacher's features given the student's is learnt beside the
student, and its negative log-likelihood minimized.

    gaussian   1/2 (mu(F_S) - F_T)^2 / s + 1/2 log s,    one learnt variance s per channel
    laplace    |mu(F_S) - F_T| / b + log 2b,             b predicted per channel and pixel

The second is PISR's (Lee et al., "Learning with Privileged Information for Efficient Image
Super-Resolution", ECCV 2020, arXiv:2007.07524), without the Gaussian constant its code adds
(methods.md D46). Both fall below 0 where the prediction is good and sure.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from typing_extensions import override

from dukd.methods.base import Losses, Seen
from dukd.methods.features import FeatureMethod, Widths, average, in_own_units

_LEAST_VARIANCE = 1e-5
_FIRST_VARIANCE = 5.0
_LEAST_SPREAD = 1e-8


@dataclass(frozen=True, kw_only=True)
class VID(FeatureMethod):
    """Match the ground truth, and make the teacher's features predictable from the student's."""

    name: ClassVar[str] = "vid"
    terms: ClassVar[tuple[str, ...]] = ("information",)

    information: float = 1.0
    """Weight of the mean negative log-likelihood of the teacher's features, averaged over depths;
    PISR has 1e-6."""
    distribution: Literal["gaussian", "laplace"] = "gaussian"
    """Shape of the teacher's features around their prediction: VID's, or PISR's."""
    relative: bool = True
    """Whether each network's features are first divided by their own root mean square over the
    batch; without, as in the paper, the weight has to suit the range of values inside the networks
    (255 in EDSR, 1 in SwinIR)."""
    depths: tuple[float, ...] = (0.5, 1.0)
    """Where to read both networks, as fractions of their depth, in (0, 1]."""

    @override
    def match(self, pair: Seen, state: nn.Module) -> Losses:
        ours, theirs = pair.features()
        assert isinstance(state, nn.ModuleList)
        given = in_own_units(ours, relative=self.relative)
        wanted = in_own_units(theirs, relative=self.relative)
        terms = [
            average(predictor(s, t)) for predictor, s, t in zip(state, given, wanted, strict=True)
        ]
        return {"information": self.information * torch.stack(terms).mean()}

    @override
    def learnt(self, widths: Widths) -> nn.Module:
        shape = Gaussian if self.distribution == "gaussian" else Laplace
        return nn.ModuleList(shape(*both) for both in widths)


class Gaussian(nn.Module):
    """Predicts features with a normal distribution.

    The mean comes from three 1x1 convolutions, without biases as in the reference implementation;
    there is one variance per channel.
    """

    def __init__(self, width: int, target: int) -> None:
        """Start from a variance of 5, as the reference implementation does."""
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(width, target, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(target, target, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(target, target, 1, bias=False),
        )
        self.raw = nn.Parameter(
            torch.full((target,), math.log(math.expm1(_FIRST_VARIANCE - _LEAST_VARIANCE)))
        )

    def forward(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Negative log-likelihood of ``theirs`` by ``ours``, per element.

        ``(n, target, h, w)`` by ``(n, width, h, w)``.
        """
        variance = softplus(self.raw) + _LEAST_VARIANCE
        return gaussian(theirs, mean=self.mean(ours), variance=variance[:, None, None])


class Laplace(nn.Module):
    """Predicts features with a Laplace distribution.

    Mean and spread per element come from two 1x1 convolutions each.
    """

    def __init__(self, width: int, target: int) -> None:
        """Draw the convolutions from torch's global generator."""
        super().__init__()
        self.mean = _two_layers(width, target)
        self.raw = _two_layers(width, target)

    def forward(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Negative log-likelihood of ``theirs`` by ``ours``, per element.

        ``(n, target, h, w)`` by ``(n, width, h, w)``.
        """
        spread = 0.1 * softplus(self.raw(ours)) + _LEAST_SPREAD
        return laplace(theirs, mean=self.mean(ours), spread=spread)


def gaussian(x: Tensor, *, mean: Tensor, variance: Tensor) -> Tensor:
    """Negative log of a normal density, without its constant, per element; arguments broadcast."""
    return 0.5 * ((x - mean).square() / variance + variance.log())


def laplace(x: Tensor, *, mean: Tensor, spread: Tensor) -> Tensor:
    """Negative log of a Laplace density, per element; arguments broadcast."""
    return (x - mean).abs() / spread + (2 * spread).log()


def _two_layers(width: int, target: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(width, target, 1), nn.PReLU(), nn.Conv2d(target, target, 1))
