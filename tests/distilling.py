"""What tests of methods share: losses of two networks, and features as if made by networks."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dukd.methods import Batch, Losses, Method, Seen, View
from dukd.methods.features import FeatureMethod
from dukd.networks.base import Output
from dukd.training.observe import observe


def batch(lr: Tensor, hr: Tensor, *, seed: int = 0, step: int = 0) -> Batch:
    """A micro-batch whose generator begins with ``seed``."""
    return Batch(lr, hr, torch.Generator().manual_seed(seed), step)


def losses_of(
    method: Method,
    student: nn.Module,
    teacher: nn.Module | None,
    pair: tuple[Tensor, Tensor],
    state: nn.Module | None = None,
    *,
    seed: int = 0,
    step: int = 0,
) -> Losses:
    """The losses of a method on a pair of images; without ``state`` the method makes one."""
    state = method.state(student, teacher) if state is None else state
    shown = batch(*pair, seed=seed, step=step)
    return method.losses(observe(method, student, teacher, shown), shown, state)


class Made(NamedTuple):
    """What a network might have made."""

    sr: Tensor
    features: Sequence[Tensor]


def match(method: FeatureMethod, state: nn.Module, ours: Made, theirs: Made) -> Losses:
    """The losses of a method of features, on outputs that are given."""
    h, w = (ours.features or [ours.sr])[0].shape[-2:]
    n, count = ours.sr.shape[0], len(ours.features)
    view = View(name="pair", image=torch.zeros(n, 3, h, w), depths=(1.0,) * count)
    outputs = [Output(made.sr, list(made.features), nn.Identity()) for made in (ours, theirs)]
    return method.match(Seen(view, *outputs), state)
