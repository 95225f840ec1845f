"""LSFD: match local features, most where the student's image differs most from the teacher's.

After Park and Kwak, "Local-Selective Feature Distillation for Single Image Super-Resolution",
arXiv:2111.10988. The abstract says this much: FitNet, restricted to local feature information, with
a soft attention over pixels that comes from the difference between teacher and student. The
formulas here are our reading, not the authors':

    local(F) = F - mean of F over a window around each pixel
    a = d^p / mean d^p,   d = |S(lr) - T(lr)|, mean over channels and the pixels of one pixel of lr
    L = L_rec + w_kd |S(lr) - T(lr)|
      + w  mean over depths of  mean of a (local(r(F_S)) - local(F_T))^2

with r a 1x1 regressor where widths differ. The attention carries no gradient: it chooses where to
look, and is not to be lowered by making the outputs differ evenly. The weights are the best that
docs/results/study.md found.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d
from typing_extensions import override

from dukd.methods.base import Losses, Seen
from dukd.methods.features import FeatureMethod, Widths, adapter, average, in_own_units


@dataclass(frozen=True, kw_only=True)
class LSFD(FeatureMethod):
    """Match ground truth and the teacher's local features, where it matters (our reading)."""

    name: ClassVar[str] = "lsfd"
    terms: ClassVar[tuple[str, ...]] = ("local",)

    imitation: float = 1.0
    """Weight of the mean absolute difference to the teacher's output."""
    local: float = 1.0
    """Weight of the attended mean squared difference of local features, averaged over the
    depths."""
    window: int = 5
    """Side, in pixels of lr and odd, of the neighborhood whose mean is taken out of the
    features."""
    sharpness: float = 1.0
    """Exponent of the difference in the attention; 0 attends everywhere alike."""
    relative: bool = True
    """Whether each network's features are first divided by their own root mean square over the
    batch; without, the weight has to suit the range of values inside the networks (255 in EDSR, 1
    in SwinIR)."""

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 3 or self.window % 2 == 0:
            raise ValueError(
                f"lsfd takes an odd window of at least 3 pixels, but got {self.window}"
            )
        if self.sharpness < 0:
            raise ValueError(f"lsfd takes a sharpness of at least 0, but got {self.sharpness}")

    @override
    def match(self, pair: Seen, state: nn.Module) -> Losses:
        ours, theirs = pair.features()
        regressed: list[Tensor] = state(in_own_units(ours, relative=self.relative))
        wanted = in_own_units(theirs, relative=self.relative)
        terms: list[Tensor] = []
        for s, t in zip(regressed, wanted, strict=True):
            size = (t.shape[-2], t.shape[-1])
            a = attention(pair.student.sr, pair.target.sr, size=size, sharpness=self.sharpness)
            # `local` is linear: once for both. With the root inside, gradients lie in memory as the
            # features do.
            terms.append(average((local(s - t, self.window) * a.sqrt()).square()))
        return {"local": self.local * torch.stack(terms).mean()}

    @override
    def learnt(self, widths: Widths) -> nn.Module:
        return adapter(widths)


def local(features: Tensor, window: int) -> Tensor:
    """Take the mean over a window around each pixel out of ``(n, c, h, w)``.

    At borders it is the mean over what there is of the window.
    """
    # torch's gradient of it on a GPU is wrong where channels lie together (pytorch/pytorch#188344)
    apart = features.contiguous() if features.is_cuda else features
    return features - avg_pool2d(
        apart, window, stride=1, padding=window // 2, count_include_pad=False
    )


@torch.no_grad()
def attention(ours: Tensor, theirs: Tensor, *, size: tuple[int, int], sharpness: float) -> Tensor:
    """Weigh pixels by the difference of two outputs.

    ``(n, 3, H, W)`` each to ``(n, 1, h, w)`` of mean 1 per image.

    Args:
        ours: The student's output.
        theirs: The teacher's.
        size: ``h, w`` of the features to weigh.
        sharpness: Exponent of the difference; 0 makes every weight 1.
    """
    difference = adaptive_avg_pool2d((ours - theirs).abs().mean(1, keepdim=True), size)
    relative = difference / difference.mean((-2, -1), keepdim=True).clamp_min(1e-12)
    weights = relative.pow(sharpness)
    return weights / weights.mean((-2, -1), keepdim=True).clamp_min(1e-12)
