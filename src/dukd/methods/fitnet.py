"""FitNet: a learnt map of the student's features should be the teacher's features.

Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv:1412.6550. The original trains
up to the hint first, with a factor of 1/2, and distils the logits afterwards; here both are
minimized together, as the super-resolution papers do. "Fitnet" in published SR code has no
regressor at all (methods.md D18, D32).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn.functional import mse_loss
from typing_extensions import override

from dukd.methods.base import Losses, Seen
from dukd.methods.features import FeatureMethod, Widths, adapter, in_own_units


@dataclass(frozen=True, kw_only=True)
class FitNet(FeatureMethod):
    """Match the ground truth and the teacher's features, by 1x1 regressors where widths differ."""

    name: ClassVar[str] = "fitnet"
    terms: ClassVar[tuple[str, ...]] = ("hint",)

    hint: float = 0.1
    """Weight of the mean squared difference of features, averaged over the depths."""
    relative: bool = True
    """Whether each network's features are first divided by their own root mean square over the
    batch; without, as in the paper, the weight has to suit the range of values inside the networks
    (255 in EDSR, 1 in SwinIR)."""
    depths: tuple[float, ...] = (0.5,)
    """Where to read both networks, as fractions of their depth; the original reads the middle."""

    @override
    def match(self, pair: Seen, state: nn.Module) -> Losses:
        ours, theirs = pair.features()
        regressed = state(in_own_units(ours, relative=self.relative))
        hints = in_own_units(theirs, relative=self.relative)
        distances = [mse_loss(s, t) for s, t in zip(regressed, hints, strict=True)]
        return {"hint": self.hint * torch.stack(distances).mean()}

    @override
    def learnt(self, widths: Widths) -> nn.Module:
        return adapter(widths)
