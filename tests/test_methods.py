"""What every method promises, on every pair of networks and every scale; the promises are in `dukd.testing`."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch.testing import assert_close

import dukd.methods
from dukd import testing
from dukd.kinds import known
from dukd.methods import AT, DUKD, FAKD, Combined, Logits, Method, Scratch
from dukd.testing import PAIRS, PROMISES, Case, Refused, check_method

METHODS: dict[str, Method] = {
    name: kind() for name, kind in known(Method).items() if kind.__module__.startswith("dukd.")
}
METHODS |= {
    "at+dukd": Combined(base=AT()),
    "fakd+dukd": Combined(base=FAKD()),
    "scratch+dukd": Combined(base=Scratch()),
}
SIGNED = {"mcir", "vid"}
"""Methods with a loss that may be negative: a distance to move away from, a logarithm of a variance."""
EDSRS = PAIRS["edsr-edsr"]

every_method = pytest.mark.parametrize("name", METHODS)


@every_method
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_losses_are_finite_scalars_that_teach_the_student_and_not_the_teacher(name, pair, scale):
    """A loss that is cut from the graph falls in the log and teaches nothing (methods.md D1, D16)."""
    try:
        testing.teaches_the_student_and_not_the_teacher(METHODS[name], PAIRS[pair], scale, signed=name in SIGNED)
    except Refused as refusal:
        pytest.skip(f"{name} does not serve {pair}: {refusal}")


@every_method
@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_every_method(promise, name):
    """What trains beside the student must be reachable by the optimiser (methods.md D44), and ten promises more."""
    promise(METHODS[name], EDSRS)


def test_every_method_has_a_name_of_its_own_and_a_sentence():
    for name, kind in known(Method).items():
        assert kind.name == name
        assert (kind.__doc__ or "").splitlines()[0].endswith(".")
    public = {getattr(dukd.methods, n) for n in dukd.methods.__all__} - {Method}
    assert {k for k in known(Method).values() if k.__module__.startswith("dukd.")} <= public


def test_a_combination_makes_no_second_pass():
    """FAKD + DUKD asks each network for each size of picture once (AugKD, table 8)."""
    case = Case.of(METHODS["fakd+dukd"], EDSRS)
    sizes: list[tuple[int, ...]] = []
    for network in (case.student, case.teacher):
        begin = network.begin
        network.begin = lambda x, begin=begin: sizes.append(tuple(x.shape)) or begin(x)
    case.losses()

    assert sorted(sizes) == sorted([(4, 3, 16, 16), (2, 3, 8, 8)] * 2)


def test_a_combination_has_the_losses_of_both():
    case = Case.of(METHODS["fakd+dukd"], EDSRS)
    both = case.losses(seed=4)
    base = case.losses(FAKD(), seed=4)
    alone = case.losses(DUKD(), seed=4)

    for term, value in base.items():
        assert_close(both[term], value)
    for term in ("zoom_in", "zoom_out", "zoom_out_reconstruction"):
        assert_close(both[term], alone[term])


def test_logits_with_no_weight_is_scratch():
    case = Case.of(METHODS["logits"], EDSRS)
    ours, theirs = case.losses(Logits(imitation=0)), case.losses(Scratch())

    assert list(ours) == ["reconstruction"]
    assert torch.equal(ours["reconstruction"], theirs["reconstruction"])
    assert not Logits(imitation=0).needs_teacher


@dataclass(frozen=True, kw_only=True)
class _Broken(Logits):
    """Keeps every promise but the one that a subclass breaks."""

    name: ClassVar[str] = "broken"


class _CutFromTheGraph(_Broken):
    def losses(self, **given):
        return {name: torch.tensor(loss.item()) for name, loss in super().losses(**given).items()}


class _NoScalar(_Broken):
    def losses(self, **given):
        return {name: loss.expand(2) for name, loss in super().losses(**given).items()}


class _TrainsTheTeacher(_Broken):
    def losses(self, **given):
        given["teacher"].train()
        return super().losses(**given)


class _OwnDice(_Broken):
    def losses(self, **given):
        return {name: loss * torch.rand(()) for name, loss in super().losses(**given).items()}


class _InPlace(_Broken):
    def losses(self, **given):
        given["hr"].mul_(0.5)
        return super().losses(**given)


class _Square(_Broken):
    def losses(self, *, lr, hr, **given):
        n, side = lr.shape[0], lr.shape[-1]
        return super().losses(lr=lr.reshape(n, 3, side, side), hr=hr, **given)


class _Infinite(_Broken):
    def losses(self, **given):
        return {name: loss / 0 for name, loss in super().losses(**given).items()}


class _Rough(_Broken):
    def losses(self, **given):
        losses = super().losses(**given)
        factor = 2 if torch.is_autocast_enabled("cpu") else 1
        return {name: factor * loss for name, loss in losses.items()}


class _Idle(_Broken):
    def extras(self, student, teacher):
        return torch.nn.Linear(2, 2)


class _Ascends(_Broken):
    def losses(self, **given):
        return {name: 2 * loss.detach() - loss for name, loss in super().losses(**given).items()}


class _KeepsItElsewhere(_Broken):
    def extras(self, student, teacher):
        made = torch.nn.Module()
        made.factor = 1.0
        return made

    def after_step(self, *, student, extras, step):
        extras.factor = 2.0

    def losses(self, *, extras, **given):
        return {name: extras.factor * loss for name, loss in super().losses(extras=extras, **given).items()}


class _SilentReader(_Broken):
    def losses(self, *, student, lr, **given):
        _, (features,) = student.forward_with_features(lr, (0.5,))
        return super().losses(student=student, lr=lr, **given) | {"size": features.abs().mean()}


class _SaysItNeedsNone(_Broken):
    @property
    def needs_teacher(self):
        return False


class _Refuses(_Broken):
    def extras(self, student, teacher):
        raise ValueError("this method serves networks of another kind only: take one that has no parameters")


class _RefusesCurtly(_Broken):
    def extras(self, student, teacher):
        raise ValueError("no")


@dataclass(kw_only=True, unsafe_hash=True)
class _Thawed:
    """No method, but all of one that the promise looks at."""

    name: ClassVar[str] = "thawed"
    weight: float = 1.0


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (_CutFromTheGraph, "cut from the graph"),
        (_NoScalar, "no scalar"),
        (_TrainsTheTeacher, "training mode"),
        (_OwnDice, "elsewhere than rng"),
        (_InPlace, "changes hr in place"),
        (_Square, "invalid for input of size"),
        (_Infinite, "is inf"),
        (_Rough, "in bfloat16"),
        (_Ascends, "20 steps take broken from"),
        (_Idle, "trains none of its extras"),
        (_KeepsItElsewhere, "do not hold"),
        (_SilentReader, "taps"),
        (_SaysItNeedsNone, "needs no teacher, but asks one"),
        (_Refuses, "serves no pair"),
        (_RefusesCurtly, "a refusal says why"),
    ],
)
def test_a_broken_promise_is_named(broken, complaint):
    broken.__doc__ = _Broken.__doc__
    with pytest.raises((AssertionError, RuntimeError), match=complaint):
        check_method(broken(), scales=(2,))


def test_a_method_that_can_be_changed_is_no_value():
    with pytest.raises(AssertionError, match="lets its weight be changed"):
        testing.is_a_frozen_value(_Thawed(), EDSRS)


def test_a_check_on_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing to check logits on"):
        check_method(Logits(), pairs={})
