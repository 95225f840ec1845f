"""HKDSR: several exits, alike in how their details go with those of the ground truth.

Heterogeneous knowledge distillation; its public code (wslgqq277g/HKDSR at b7a1562) says:

    L = |o_3 - hr|  +  sum over exits i of  s_i  sum over bands b of  mean |S_b^T G_b - T_b^T G_b|
                    +  sum over exits i of  a_i  |S_i - F_i|

o_3 is the student's output, o_1 and o_2 come from exits behind three and seven tenths of its body
(`dukd.networks.exits`). The bands are the three details of one level of a Haar transform, S_b, T_b
and G_b = hr's as matrices of 3 x pixels, so that each product holds how every place of an image
goes with every place of the ground truth. The teacher hands out 0.6 of each of its own exits and
0.4 of its output. F mixes student and teacher per color and pixel, by a learned network whose
scores go through a sigmoid and a softmax: the teacher's share stays between 0.27 and 0.73.

The teacher's exits are trained first, by `HKDSRExits`, while the rest of it is frozen. A teacher
without exits hands out its output at every one. What its code gets wrong: methods.md D54 to D58.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.functional import l1_loss
from typing_extensions import override

from dukd.core.autograd import saved
from dukd.methods.base import Batch, Losses, Method, Seen, View, float32
from dukd.methods.features import widths_at
from dukd.methods.haar import haar
from dukd.networks.base import Network, staged
from dukd.networks.exits import DEPTHS, Exit, Exits, exits_of

_OWN = 0.6
"""Share of the teacher's exit in what it hands out there; its output has the rest."""
_ENTRIES, _CACHED = 1 << 24, 1 << 18
"""Of a product that are held at a time: 64 MB in float32, and on a CPU what its cache holds."""


@dataclass(frozen=True, kw_only=True)
class HKDSRExits(Method):
    """Match the ground truth at every exit: how a teacher's exits are trained.

    A student that has exits (`ExitsConfig`) is frozen but for them.
    """

    name: ClassVar[str] = "hkdsr-exits"

    exits: float = 1.0
    """Weight of the mean absolute difference to the ground truth, at each exit."""
    depths: tuple[float, ...] = DEPTHS
    """Where the exits of a student are that has none of its own, as fractions of its depth."""

    @override
    def views(self, batch: Batch) -> list[View]:
        return [replace(View.pair(batch), student_depths=(0.0, *self.depths))]

    @override
    def compare(self, seen: Sequence[Seen], batch: Batch, state: nn.Module) -> Losses:
        (pair,) = seen
        truth = pair.view.truth
        assert truth is not None
        made = _images(pair, pair.student.features, _exits(pair.student.network, state))
        return {
            f"exit_{number}": self.exits * l1_loss(image, truth)
            for number, image in enumerate(made, start=1)
        }

    @override
    def state(self, student: nn.Module, teacher: nn.Module | None) -> nn.Module:
        if isinstance(student, Exits):
            student.network.requires_grad_(requires_grad=False)
            return nn.Module()
        return _beside(student, len(self.depths))


@dataclass(frozen=True, kw_only=True)
class HKDSR(Method):
    """Match the ground truth, and at every exit how the teacher's details go with it."""

    name: ClassVar[str] = "hkdsr"

    reconstruction: float = 1.0
    """Weight of the mean absolute difference of the output to the ground truth."""
    similarity: tuple[float, ...] = (0.8, 0.8, 3.2)
    """Weight of the products' distance at each exit, the output last; at x2 the authors have 0.0005
    and 0.0025."""
    fusion: tuple[float, ...] = (0.5, 0.5, 1.0)
    """Weight of the distance to the mixture at each exit, the output last; at x2 the authors have
    0.02 and 0.4."""
    depths: tuple[float, ...] = DEPTHS
    """Where the exits are, as fractions of the depth, in (0, 1)."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        for name, weights in (("similarity", self.similarity), ("fusion", self.fusion)):
            if len(weights) != len(self.depths) + 1:
                raise ValueError(
                    f"{name} has a weight for each of {len(self.depths)} exits and the output, but "
                    f"got {weights}"
                )

    @override
    def views(self, batch: Batch) -> list[View]:
        depths = (0.0, *self.depths)
        return [View.pair(batch, reconstruction=self.reconstruction, depths=depths)]

    @override
    def compare(self, seen: Sequence[Seen], batch: Batch, state: nn.Module) -> Losses:
        with float32(seen) as (pair,):
            truth, (ours, theirs) = pair.view.truth, self.images(pair, state)
            assert truth is not None
            losses: Losses = {}
            if any(self.similarity):
                terms = [
                    weight * detail_distance(s, t, truth)
                    for weight, s, t in zip(self.similarity, ours, theirs, strict=True)
                ]
                losses["similarity"] = torch.stack(terms).sum()
            if any(self.fusion):
                fusion = state.get_submodule("fusion")
                terms = [
                    weight * l1_loss(s, fusion(s, t))
                    for weight, s, t in zip(self.fusion, ours, theirs, strict=True)
                ]
                losses["fusion"] = torch.stack(terms).sum()
        return losses

    def images(self, pair: Seen, state: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        """What student and teacher make at each exit, their output last."""
        features, given = pair.features()
        ours = _images(pair, features, _exits(pair.student.network, state))
        final, teacher = pair.target.sr, pair.target.network
        theirs = [final] * len(ours)
        if isinstance(teacher, Exits):
            with torch.no_grad():
                made = _images(pair, given, _exits(teacher, state))
                theirs = [_OWN * image + (1 - _OWN) * final for image in made]
        return [*ours, pair.student.sr], [*theirs, final]

    @override
    def state(self, student: nn.Module, teacher: nn.Module | None) -> nn.Module:
        widths_at(student, teacher, self.depths)
        if isinstance(teacher, Exits) and len(teacher.exits) != len(self.depths):
            raise ValueError(
                f"the teacher has {len(teacher.exits)} exits, but depths names "
                f"{len(self.depths)}: name its own"
            )
        made = nn.Module() if isinstance(student, Exits) else _beside(student, len(self.depths))
        made.add_module("fusion", Fusion())
        return made


class Fusion(nn.Module):
    """Mixes two images, color by color and pixel by pixel."""

    def __init__(self) -> None:
        """Draw the weights from torch's global generator."""
        super().__init__()
        self.scores = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2, 32, 1), nn.ReLU(), nn.Conv2d(32, 2, 1), nn.Sigmoid())
            for _ in range(3)
        )

    def forward(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Mix ``(n, 3, H, W)`` and ``(n, 3, H, W)``."""
        mixed: list[Tensor] = []
        for score, s, t in zip(self.scores, ours.split(1, 1), theirs.split(1, 1), strict=True):
            both = torch.cat([s, t], 1)
            mixed.append((score(both).softmax(1) * both).sum(1, keepdim=True))
        return torch.cat(mixed, 1)


def detail_distance(ours: Tensor, theirs: Tensor, truth: Tensor) -> Tensor:
    """Distance of how two images' details go with a third's, all ``(n, 3, H, W)``.

    The sum over three bands of the mean of ``|S_b^T G_b - T_b^T G_b|``, which have ``(H * W /
    4)^2`` entries: they are made a few rows at a time.
    """
    bands = zip(haar(ours - theirs)[1:], haar(truth)[1:], strict=True)
    means = [_ProductMean.apply(d.flatten(2), g.flatten(2)) for d, g in bands]
    return torch.stack(cast("list[Tensor]", means)).sum()


class _ProductMean(torch.autograd.Function):
    """Mean of ``|D^T G|`` of ``(n, 3, places)`` both; ``S^T G - T^T G`` is one product.

    Its gradient, ``G sign(D^T G)^T``, is made on the way: no product is kept, or made again.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, difference: Tensor, truth: Tensor) -> Tensor:
        n, _, places = difference.shape
        rows = max(1, (_ENTRIES if difference.is_cuda else _CACHED) // places)
        slope, total = torch.empty_like(difference), difference.new_zeros(())
        for image in range(n):
            for start in range(0, places, rows):
                part = (image, slice(None), slice(start, start + rows))
                product = difference[part].mT @ truth[image]
                total += product.abs().sum()
                slope[part] = truth[image] @ product.sign_().mT
        count = n * places**2
        ctx.save_for_backward(slope / count)
        return total / count

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * saved(ctx)[0], None


def _beside(student: nn.Module, count: int) -> nn.Module:
    """A state with exits for a student."""
    made = nn.Module()
    network = staged(student)
    assert isinstance(network, Network)
    made.add_module("exits", exits_of(network, count))
    return made


def _exits(network: nn.Module, state: nn.Module) -> list[Exit]:
    """A network's own exits, or those beside it."""
    exits = network.exits if isinstance(network, Exits) else state.get_submodule("exits")
    return [cast("Exit", exit_) for exit_ in cast("nn.ModuleList", exits)]


def _images(pair: Seen, features: Sequence[Tensor], exits: Sequence[Exit]) -> list[Tensor]:
    """What exits make of features, the first of which are the head's; without what was padded."""
    h, w = pair.view.image.shape[-2:]
    head, *read = features
    scale = pair.student.sr.shape[-1] // w
    made: list[Tensor] = []
    for exit_, f in zip(exits, read, strict=True):
        own = exit_.last.weight.dtype  # bfloat16 in a teacher that was lowered
        image = exit_(head.to(own), f.to(own)).to(f.dtype)
        made.append(image[..., : h * scale, : w * scale])
    return made
