"""What every method promises, on every pair of networks and scale; see `dukd.testing.methods`."""

import pytest
import torch
from torch.testing import assert_close

import dukd.methods
from dukd import testing
from dukd.core.registry import known
from dukd.methods import (
    AT,
    CSD,
    DUKD,
    FAKD,
    Adversarial,
    CrossKD,
    Logits,
    Method,
    MiPKD,
    Scratch,
    Upcycling,
)
from dukd.methods.base import needs_teacher
from dukd.networks.base import staged
from dukd.testing.cases import PAIRS, Case, Refused
from dukd.testing.methods import PROMISES

METHODS: dict[str, Method] = {
    name: kind() for name, kind in known(Method).items() if kind.__module__.startswith("dukd.")
}
METHODS |= {
    "adversarial": Adversarial(width=4),  # promises do not depend on it, and 64 takes minutes
    "at+dukd": DUKD(base=AT()),
    "fakd+dukd": DUKD(base=FAKD()),
    "scratch+dukd": DUKD(base=Scratch()),
    "csd+dukd": DUKD(base=CSD()),
    "crosskd+dukd": DUKD(base=CrossKD()),
    "mipkd+dukd": DUKD(base=MiPKD()),
}
SIGNED = {"mcir", "vid"}
"""Methods with a loss that may be negative: a distance to move away from, a logarithm of a
variance."""
EDSRS = PAIRS["edsr-edsr"]

every_method = pytest.mark.parametrize("name", METHODS)


@every_method
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_losses_are_finite_scalars_that_teach_the_student_and_not_the_teacher(name, pair, scale):
    """A loss that is cut from the graph falls in the log and teaches nothing (methods.md D1, D16).

    Every method serves every pair, or says in a sentence why it cannot (methods.md D21).
    """
    try:
        testing.teaches_the_student_and_not_the_teacher(
            METHODS[name], PAIRS[pair], scale, signed=name in SIGNED
        )
    except Refused as refusal:
        pytest.skip(f"{name} does not serve {pair}: {refusal}")


@every_method
@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_every_method(promise, name):
    """What trains beside the student is reachable (methods.md D44), and eleven promises more."""
    promise(METHODS[name], EDSRS)


def test_every_method_has_a_name_of_its_own_and_a_sentence():
    for name, kind in known(Method).items():
        assert kind.name == name
        assert (kind.__doc__ or "").splitlines()[0].endswith(".")
    public = {getattr(dukd.methods, n) for n in dukd.methods.__all__}
    kinds = [*known(Method).values(), *known(Upcycling).values()]
    assert {k for k in kinds if k.__module__.startswith("dukd.")} <= public


def test_a_combination_makes_no_second_pass():
    """FAKD + DUKD runs each network once for each size of image (AugKD, table 8)."""
    case = Case.of(METHODS["fakd+dukd"], EDSRS)
    sizes: list[tuple[int, ...]] = []
    for network in map(staged, (case.student, case.teacher)):
        head = network.head
        network.head = lambda x, head=head: sizes.append(tuple(x.shape)) or head(x)
    case.losses()

    assert sorted(sizes) == sorted([(4, 3, 16, 16), (2, 3, 8, 8)] * 2)


def test_a_combination_has_the_losses_of_both():
    case = Case.of(METHODS["fakd+dukd"], EDSRS)
    both = case.losses(seed=4)
    base = case.losses(FAKD(), seed=4)
    alone = case.losses(DUKD(), seed=4)

    for term, value in base.items():
        assert_close(both[term], value)
    for term in alone.keys() - {"reconstruction", "imitation"}:
        assert_close(both[term], alone[term])


def test_logits_with_no_weight_is_scratch():
    case = Case.of(METHODS["logits"], EDSRS)
    ours, theirs = case.losses(Logits(imitation=0)), case.losses(Scratch())

    assert list(ours) == ["reconstruction"]
    assert torch.equal(ours["reconstruction"], theirs["reconstruction"])
    assert not needs_teacher(Logits(imitation=0), 2)


@every_method
def test_the_teacher_runs_before_the_students_graph_grows(name):
    """What a large teacher needs is free again then: a fifth of the memory of a DUKD step."""
    case = Case.of(METHODS[name], EDSRS)
    for phase in case.method.phases:
        order: list[str] = []
        for who, network in (("student", case.student), ("teacher", case.teacher)):
            network.head = lambda x, head=network.head, who=who, o=order: o.append(who) or head(x)
        case.seen(phase, case.batch())
        assert order == sorted(order, reverse=True)
