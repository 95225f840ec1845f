"""Distances in luma: what they weigh, around which methods, and what is refused."""

import pytest
import torch
from torch import nn

from dukd.images.color import luma
from dukd.methods import (
    DUKD,
    ECO,
    FAKD,
    Batch,
    CrossKD,
    FrugalDUKD,
    Logits,
    Luma,
    Method,
    ReleasedDUKD,
    Scratch,
    Seen,
    View,
)
from dukd.methods.base import needs_teacher
from dukd.networks.base import Output
from dukd.recipes.families import recipe
from dukd.testing.cases import PAIRS, Case
from dukd.training.experiment import Experiment

EDSRS = PAIRS["edsr-edsr"]
RED = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1)
GRAY = torch.ones(1, 3, 1, 1)


def reconstruction(method: Method, difference: torch.Tensor) -> float:
    """Of an output that is off by so much everywhere."""
    hr = torch.full((2, 3, 8, 8), 0.5)
    batch = Batch(hr[..., ::2, ::2], hr, torch.Generator())
    view = View.pair(batch, reconstruction=1.0)
    seen = [Seen(view, Output(hr + difference, [], nn.Identity()), None)]
    return float(method.losses(seen, batch, nn.Module())["reconstruction"])


@pytest.mark.parametrize(
    ("difference", "share", "value"),
    [
        (0.1 * GRAY, 0.0, 0.1),  # brightness counts the same at any share
        (0.1 * GRAY, 0.8, 0.1),
        (0.3 * RED, 0.0, 0.1),  # a third of the channels
        (0.3 * RED, 1.0, 0.0897),  # 0.299 of it
        (0.3 * RED, 0.5, 0.09485),
        (0.1 * GRAY - 0.1 * RED / 0.299, 1.0, 0.0),  # color alone
        (0.1 * GRAY - 0.1 * RED / 0.299, 0.0, 0.144816),  # (0.1 + 0.1 + 0.234448) / 3
    ],
)
def test_what_a_difference_costs(difference: torch.Tensor, share: float, value: float) -> None:
    method = Luma(base=Scratch(), share=share)

    assert reconstruction(method, difference) == pytest.approx(value, abs=1e-4)


def test_every_distance_of_outputs_is_in_luma() -> None:
    """At a share of 1 each is the mean absolute difference of BT.601's luma, by its own weight."""
    case = Case.of(Luma(base=DUKD(consistency=0.0), share=1.0), EDSRS)
    inside = Case.of(DUKD(consistency=0.0), EDSRS)

    values = case.losses(seed=3)

    assert list(values) == list(inside.losses(seed=3))
    with torch.no_grad():
        ours, theirs = case.student(case.lr), case.teacher(case.lr)
    distance = (luma(ours) - luma(theirs)).abs().mean() * 255 / 219
    assert values["imitation"].item() == pytest.approx(distance.item(), rel=1e-5)


@pytest.mark.parametrize("base", [Logits(), DUKD(), FrugalDUKD(), FAKD(depths=(1.0,), pool=4)])
def test_without_a_share_it_is_the_method_itself(base: Method) -> None:
    changed, alone = Case.of(Luma(base=base, share=0.0), EDSRS), Case.of(base, EDSRS)
    pairs = zip(changed.losses(seed=3).items(), alone.losses(seed=3).items(), strict=True)

    for (name, ours), (same, theirs) in pairs:
        assert name == same
        assert torch.equal(ours, theirs), name


def test_what_else_a_method_compares_stays_as_it_is() -> None:
    base = FAKD(depths=(1.0,), pool=4)
    changed, alone = Case.of(Luma(base=base), EDSRS).losses(), Case.of(base, EDSRS).losses()

    assert torch.equal(changed["affinity"], alone["affinity"])
    assert not torch.equal(changed["imitation"], alone["imitation"])


def test_phases_and_teachers_are_the_methods() -> None:
    released = Luma(base=ReleasedDUKD())

    assert len(released.phases) == len(ReleasedDUKD().phases) == 2
    assert [type(p) for p in released.phases] == [Luma, Luma]
    case = Case.of(released, EDSRS)
    changed = [case.losses(phase) for phase in released.phases]
    alone = [case.losses(phase) for phase in ReleasedDUKD().phases]
    assert [list(c) for c in changed] == [list(a) for a in alone]
    assert all(not torch.equal(c[n], a[n]) for c, a in zip(changed, alone, strict=True) for n in a)
    assert needs_teacher(Luma(), 2)
    assert not needs_teacher(Luma(base=Scratch()), 2)
    assert Luma().label == "luma"
    assert Luma(base=DUKD()).label == "dukd-luma"


def test_a_method_with_distances_of_its_own_is_refused() -> None:
    with pytest.raises(ValueError, match="eco compares outputs in a way of its own, which luma"):
        Case.of(Luma(base=ECO()), EDSRS).losses()
    with pytest.raises(ValueError, match=r"in \[0, 1\], but got 2"):
        Luma(share=2)


def test_a_method_with_more_losses_keeps_them() -> None:
    assert "cross" in Case.of(Luma(base=CrossKD()), EDSRS).losses()


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("compact-x2-scratch-luma", Scratch()),
        ("compact-x2-logits-luma", None),
        ("compact-x2-dukd-luma", None),
        ("compact-x2-dukd-frugal-both-luma", None),
    ],
)
def test_recipes_in_luma(name: str, base: Method | None) -> None:
    made = recipe(name).make()
    plain = recipe(name.removesuffix("-luma")).make()

    assert isinstance(made.method, Luma)
    assert made.method.base == (base or plain.method)
    assert made.optimization == plain.optimization
    assert (made.teacher is None) == (base is not None)
    assert Experiment.from_yaml(made.to_yaml()) == made
