"""The checks see what they are there for: each broken promise is named."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate, pixel_shuffle

from dukd.methods import Logits, View
from dukd.networks import (
    EDSRConfig,
    NetworkConfig,
    RCANConfig,
    SMFANetConfig,
    SwinIRConfig,
)
from dukd.networks.base import Staged
from dukd.testing.cases import PAIRS, Pair
from dukd.testing.methods import (
    check_method,
    is_a_frozen_value,
    is_the_same_from_the_cache,
)
from dukd.testing.networks import check_network

EDSRS = PAIRS["edsr-edsr"]


@dataclass(frozen=True, kw_only=True)
class _Broken(Logits):
    """Keeps every promise but the one that a subclass breaks."""

    name: ClassVar[str] = "broken"


class _CutFromTheGraph(_Broken):
    def losses(self, *given):
        return {name: torch.tensor(loss.item()) for name, loss in super().losses(*given).items()}


class _NoScalar(_Broken):
    def losses(self, *given):
        return {name: loss.expand(2) for name, loss in super().losses(*given).items()}


class _TrainsTheTeacher(_Broken):
    def losses(self, seen, *given):
        seen[0].teacher.network.train()
        return super().losses(seen, *given)


class _OwnDice(_Broken):
    def losses(self, *given):
        return {name: loss * torch.rand(()) for name, loss in super().losses(*given).items()}


class _InPlace(_Broken):
    def losses(self, seen, *given):
        seen[0].view.truth.mul_(0.5)
        return super().losses(seen, *given)


class _OutputInPlace(_Broken):
    def losses(self, seen, *given):
        seen[0].teacher.sr.mul_(0.5)
        return super().losses(seen, *given)


class _Square(_Broken):
    def compare(self, seen, batch, state):
        side = seen[0].view.image.shape[-1]
        return {"square": seen[0].student.sr.reshape(2, 3, 2 * side, 2 * side).abs().mean()}


class _OtherDiceInViews(_Broken):
    def views(self, batch):
        (pair,) = super().views(batch)
        return [pair, View(name="noise", image=torch.rand_like(batch.lr), imitation=1.0)]


class _TwiceTheName(_Broken):
    def views(self, batch):
        return [*super().views(batch), View(name="pair", image=batch.lr, imitation=1.0)]


class _WrongTruth(_Broken):
    def views(self, batch):
        (pair,) = super().views(batch)
        own = View(name="own", image=batch.lr, truth=batch.lr, imitation=1.0)
        return [pair, own]


class _Infinite(_Broken):
    def losses(self, *given):
        return {name: loss / 0 for name, loss in super().losses(*given).items()}


class _Rough(_Broken):
    def losses(self, *given):
        factor = 2 if torch.is_autocast_enabled("cpu") else 1
        return {name: factor * loss for name, loss in super().losses(*given).items()}


class _Idle(_Broken):
    def state(self, student, teacher):
        return torch.nn.Linear(2, 2)


class _Ascends(_Broken):
    def losses(self, *given):
        return {name: 2 * loss.detach() - loss for name, loss in super().losses(*given).items()}


class _KeepsItElsewhere(_Broken):
    def state(self, student, teacher):
        made = torch.nn.Module()
        made.factor = 1.0
        return made

    def after_step(self, student, state, step):
        state.factor = 2.0

    def losses(self, seen, batch, state):
        return {n: state.factor * loss for n, loss in super().losses(seen, batch, state).items()}


class _ComparesWhatIsPadded(_Broken):
    def views(self, batch):
        return [self.pair(batch, depths=(1.0,))]

    def compare(self, seen, batch, state):
        ours, theirs = seen[0].student.features[0], seen[0].target.features[0]
        return {"magnitude": ours.abs().mean() * theirs.numel()}


class _TakesATeacherItDoesNotShow(_Broken):
    def views(self, batch):
        return [View.pair(batch, reconstruction=1.0)]

    def compare(self, seen, batch, state):
        return {"imitation": (seen[0].student.sr - seen[0].target.sr).abs().mean()}


class _Refuses(_Broken):
    def state(self, student, teacher):
        raise ValueError(
            "this method serves networks of another sort only: take one that has no parameters"
        )


class _RefusesCurtly(_Broken):
    def state(self, student, teacher):
        raise ValueError("no")


@dataclass(kw_only=True, unsafe_hash=True)
class _Thawed:
    """Not a method, but all of one that the promise looks at."""

    name: ClassVar[str] = "thawed"
    weight: float = 1.0


PADDED = Pair(
    EDSRS.student,
    lambda s: SwinIRConfig(scale=s, width=8, depths=(1,), heads=(2,), window=6),
)
"""A teacher that pads 16 pixels to 18."""


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (_CutFromTheGraph, "cut from the graph"),
        (_NoScalar, "not a scalar"),
        (_TrainsTheTeacher, "training mode"),
        (_OwnDice, "elsewhere than rng"),
        (_InPlace, "changes hr in place"),
        (_OutputInPlace, "changes in place what the networks made"),
        (_Square, "invalid for input of size"),
        (_OtherDiceInViews, "view noise of broken follows from more than the batch"),
        (_TwiceTheName, "two views of one name"),
        (_WrongTruth, "a truth that is not 2 times as large"),
        (_Infinite, "is inf"),
        (_Rough, "in bfloat16"),
        (_Ascends, "20 steps take broken from"),
        (_Idle, "trains nothing of its state"),
        (_KeepsItElsewhere, "do not hold"),
        (_TakesATeacherItDoesNotShow, "the teacher does not see view pair"),
        (_Refuses, "serves no pair"),
        (_RefusesCurtly, "a refusal says why"),
    ],
)
def test_a_broken_promise_is_named(broken, complaint):
    broken.__doc__ = _Broken.__doc__
    with pytest.raises((AssertionError, RuntimeError, ValueError), match=complaint):
        check_method(broken(), scales=(2,))


def test_a_method_that_compares_what_the_teacher_padded_is_named():
    """What comes from the cache has no padding; only on inputs that are padded does it differ."""
    with pytest.raises(AssertionError, match="is another where the teacher's outputs come from"):
        is_the_same_from_the_cache(_ComparesWhatIsPadded(), PADDED)


def test_a_method_that_can_be_changed_is_not_a_value():
    with pytest.raises(AssertionError, match="lets its weight be changed"):
        is_a_frozen_value(_Thawed(), EDSRS)


def test_a_check_on_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing to check logits on"):
        check_method(Logits(), pairs={})


@pytest.mark.parametrize(
    "config",
    [
        EDSRConfig(scale=3, width=6, blocks=2),
        RCANConfig(scale=2, width=8, groups=2, blocks=1, squeeze=4),
        SMFANetConfig(scale=4, width=8, blocks=2),
        SwinIRConfig(scale=2, width=8, depths=(2, 2), heads=(2, 2), window=4),
    ],
    ids=lambda config: config.name,
)
def test_every_network_keeps_its_promises(config):
    check_network(config)


class _Plain(Staged):
    """A convolution, a stage, a convolution."""

    def __init__(self, config: NetworkConfig, radius: int = 3) -> None:
        super().__init__(config, width=4, radius=radius)
        self.first, self.last = (
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Conv2d(4, 3 * config.scale**2, 3, padding=1),
        )
        self.row = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1)])

    @property
    def stages(self) -> Sequence[nn.Module]:
        return list(self.row)

    def head(self, lr):
        return self.first(lr)

    def tail(self, x, kept, lr):
        return pixel_shuffle(self.last(x + kept[0]), self.scale)


class _WritesInPlace(_Plain):
    def tail(self, x, kept, lr):
        return super().tail(x.mul_(0.5), kept, lr)


class _Idles(_Plain):
    def __init__(self, config):
        super().__init__(config)
        self.spare = nn.Linear(2, 2)


class _SaysLess(_Plain):
    def __init__(self, config):
        super().__init__(config, radius=2)


class _Forgets(_Plain):
    def tail(self, x, kept, lr):
        return interpolate(super().tail(x, kept, lr), scale_factor=0.5)


class _Dithers(_Plain):
    def tail(self, x, kept, lr):
        return super().tail(x, kept, lr) + torch.rand(())


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (_WritesInPlace, r"writes into features it has handed out, of stages \[1\]"),
        (_Idles, "no output depends on"),
        (_SaysLess, "reaches 3 pixels, but says its radius is 2"),
        (_Forgets, r"not \(2, 3, 2, 2\)"),
        (_Dithers, "when it runs again"),
    ],
)
def test_a_network_that_breaks_a_promise_is_told_which(broken, complaint):
    @dataclass(frozen=True, kw_only=True)
    class _Config(NetworkConfig):
        name: ClassVar[str] = "broken"

        def build(self):
            return broken(self)

    with pytest.raises(AssertionError, match=complaint):
        check_network(_Config(scale=2))
