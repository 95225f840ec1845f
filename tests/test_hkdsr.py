"""HKDSR: exits, products of details, the mixture; by hand, and what its code gets wrong."""

import math
from dataclasses import replace

import pytest
import torch
from torch.autograd import gradcheck
from torch.testing import assert_close

from dukd.core.config import ConfigError
from dukd.methods import HKDSR, HKDSRExits
from dukd.methods.haar import haar
from dukd.methods.hkdsr import Fusion, detail_distance
from dukd.networks import EDSRConfig, Exits, ExitsConfig, rcan_teacher
from dukd.networks.files import weights
from dukd.recipes import recipe
from dukd.testing.cases import PAIRS, Case, Pair
from dukd.testing.methods import teaches_the_student_and_not_the_teacher
from dukd.training import loop
from dukd.training.distiller import Distiller
from dukd.training.experiment import Experiment
from dukd.training.quantizing import warm_start
from dukd.training.teachers import File
from tiny_runs import experiment, prepare

PLAIN = EDSRConfig(scale=2, width=6, blocks=10, value_range=1.0)
EXITS = ExitsConfig(network=PLAIN)
WITH_EXITS = Pair(
    lambda s: replace(PLAIN, scale=s, width=4),
    lambda s: ExitsConfig(network=replace(PLAIN, scale=s)),
)


def images(count: int) -> tuple[torch.Tensor, ...]:
    return torch.rand(count, 2, 3, 8, 8, dtype=torch.float64).unbind(0)


def test_products_of_details_are_compared() -> None:
    """Three bands of one level, each ``|S^T G - T^T G|`` over all pairs of places."""
    ours, theirs, truth = images(3)
    expected = sum(
        (s.flatten(2).mT @ g.flatten(2) - t.flatten(2).mT @ g.flatten(2)).abs().mean()
        for s, t, g in zip(*(haar(x)[1:] for x in (ours, theirs, truth)), strict=True)
    )

    assert_close(detail_distance(ours, theirs, truth), expected)
    assert detail_distance(ours, ours, truth) == 0


def test_the_distance_has_the_gradient_it_says() -> None:
    ours, theirs, truth = images(3)

    assert gradcheck(lambda x: detail_distance(x, theirs, truth), (ours.requires_grad_(),))


def test_a_product_by_hand() -> None:
    """One place: details of (1, 0, 0, 0) are 1/2 each, times twice that, in one color of three."""
    spot = torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    spot[0, 0, 0, 0] = 1

    assert detail_distance(spot, torch.zeros_like(spot), 2 * spot) == 3 * 0.5 * 1.0


def test_the_teachers_transform_has_as_many_levels_as_the_truths() -> None:
    """methods.md D57: theirs takes two levels of the teacher and one of hr.

    A difference that only the second level sees is none here.
    """
    ours = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    blocks = torch.rand(1, 3, 4, 4, dtype=torch.float64).repeat_interleave(2, 2)

    coarse = blocks.repeat_interleave(2, 3)
    assert detail_distance(ours + coarse, ours, ours) < 1e-12


def test_the_mixture_is_of_student_and_teacher() -> None:
    """methods.md D55: their call fuses hr with the student, and weighs by the teacher's pixels."""
    case = Case.of(HKDSR(similarity=(0, 0, 0)), WITH_EXITS)
    before = case.losses()["fusion"]

    assert_close(replace(case, hr=case.hr / 2).losses()["fusion"], before)
    ours, theirs = images(2)
    mixed = Fusion().double()(ours, theirs)
    low, high = torch.minimum(ours, theirs), torch.maximum(ours, theirs)
    assert ((mixed >= low - 1e-9) & (mixed <= high + 1e-9)).all()


@pytest.mark.parametrize("score", [-50.0, 0.0, 50.0])
def test_the_teachers_share_is_bounded(score: float) -> None:
    """methods.md D56: a softmax of sigmoids lies between 1 / (1 + e) and e / (1 + e)."""
    fusion = Fusion().double()
    with torch.no_grad():
        for layers in fusion.scores:
            layers[2].weight.zero_()
            layers[2].bias.copy_(torch.tensor([-score, score]))
    zeros, ones = torch.zeros(1, 3, 2, 2).double(), torch.ones(1, 3, 2, 2).double()
    bound = 1 / (1 + math.e)
    expected = {-50.0: bound, 0.0: 0.5, 50.0: 1 - bound}[score]

    assert_close(fusion(zeros, ones), torch.full_like(ones, expected))
    assert bound == pytest.approx(0.2689, abs=1e-4)


def test_the_mixture_acts_by_default_and_a_misspelt_option_is_refused() -> None:
    """methods.md D54: theirs needs `adpat_gt_opt`, and two configurations say `adpat_opt`."""
    case = Case.of(HKDSR(), WITH_EXITS)
    losses = case.losses()
    losses["fusion"].backward()

    assert losses.keys() == {"reconstruction", "similarity", "fusion"}
    assert all(p.grad is not None for p in case.state.get_submodule("fusion").parameters())
    text = recipe("rcan-x4-hkdsr").make().to_yaml()
    with pytest.raises(ConfigError, match="fusoin"):
        Experiment.from_yaml(text.replace("  fusion:", "  fusoin:"))


def test_the_teacher_has_no_graph() -> None:
    """methods.md D58: theirs runs it without no_grad, its exits too."""
    case = Case.of(HKDSR(), WITH_EXITS)
    (pair,) = case.seen(case.method, case.batch())
    _, theirs = case.method.images(pair, case.state)

    assert not any(image.requires_grad for image in theirs)


def test_the_teacher_hands_out_six_tenths_of_an_exit() -> None:
    case = Case.of(HKDSR(), WITH_EXITS)
    (pair,) = case.seen(case.method, case.batch())
    _, theirs = case.method.images(pair, case.state)
    teacher = case.teacher
    assert isinstance(teacher, Exits)
    head, third, _ = teacher.observe(case.lr, (0, 3 / 11, 7 / 11)).features
    own = teacher.exits[0](head, third)

    assert_close(theirs[0], 0.6 * own + 0.4 * teacher(case.lr))
    assert_close(theirs[2], teacher(case.lr))
    plain = Case.of(HKDSR(), PAIRS["edsr-edsr"])
    (pair,) = plain.seen(plain.method, plain.batch())
    _, theirs = plain.method.images(pair, plain.state)
    assert all(torch.equal(image, theirs[2]) for image in theirs)


def test_teachers_with_exits_are_served_at_every_scale() -> None:
    for scale in (2, 3, 4):
        teaches_the_student_and_not_the_teacher(HKDSR(), WITH_EXITS, scale)


def test_exits_alone_are_trained_first() -> None:
    network = EXITS.build()
    distiller = Distiller(HKDSRExits(), network)
    lr, hr = torch.rand(2, 3, 9, 7), torch.rand(2, 3, 18, 14)
    losses = distiller(lr, hr)
    sum(losses.values()).backward()

    assert list(losses) == ["exit_1", "exit_2"]
    with_gradient = {name for name, p in network.named_parameters() if p.grad is not None}
    assert with_gradient == {f"exits.{name}" for name, _ in network.exits.named_parameters()}
    assert not list(distiller.state.parameters())


def test_a_network_with_exits_is_the_network_inside(tmp_path) -> None:
    network, lr = EXITS.build().eval(), torch.rand(1, 3, 6, 5)
    weights.write(tmp_path / "exits.safetensors", network)
    weights.write(tmp_path / "plain.safetensors", network.network)
    again, started = weights.read(tmp_path / "exits.safetensors"), EXITS.build()
    said = warm_start(started, tmp_path / "plain.safetensors")

    assert torch.equal(network(lr), network.network(lr))
    assert torch.equal(again(lr), network(lr))
    assert torch.equal(started(lr), network(lr))
    assert again.config == EXITS
    assert network.folded() is network.network
    assert "tensors from" in said
    assert network.width_at(0.5) == 6


def test_the_recipes_are_two_stages() -> None:
    first, second = (recipe(f"rcan-{n}").make() for n in ("teacher-x4-hkdsr-exits", "x4-hkdsr"))

    assert first.student == ExitsConfig(network=rcan_teacher(4))
    assert first.student.depths == (3 / 11, 7 / 11)
    assert (first.optimization.steps, first.optimization.milestones) == (100_000, (0.6,))
    assert first.optimization.warm_start.name == "RCAN_BIX4.pt"
    assert first.teacher is None
    assert second.teacher.weights.parts[1] == "rcan-teacher-x4-hkdsr-exits"
    assert second.method == HKDSR(similarity=(0.8, 0.8, 3.2), fusion=(0.5, 0.5, 1.0))
    assert recipe("rcan-x2-hkdsr").make().method.similarity == (0.0005, 0.0005, 0.0025)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="has a weight for each of 2 exits"):
        HKDSR(fusion=(1.0,))
    with pytest.raises(ValueError, match="has exits already"):
        ExitsConfig(network=EXITS)
    with pytest.raises(ValueError, match="the scale of the one inside"):
        ExitsConfig(network=PLAIN, scale=4)
    with pytest.raises(ValueError, match="exits lie inside"):
        ExitsConfig(network=PLAIN, depths=(1.0,))
    three = ExitsConfig(network=PLAIN, depths=(0.2, 0.4, 0.6)).build()
    with pytest.raises(ValueError, match="name its own"):
        HKDSR().state(PLAIN.build(), three)


def test_both_stages_run_one_after_the_other(tmp_path) -> None:
    folder = prepare(tmp_path)
    weights.write(folder / "plain.safetensors", PLAIN.build())
    short = experiment(
        folder, evaluation__sets=(), data__workers=0, data__patch=8, optimization__steps=2
    )
    optimization = replace(short.optimization, warm_start=folder / "plain.safetensors")
    exits = replace(short, student=EXITS, method=HKDSRExits(), teacher=None)
    made = loop.train(replace(exits, optimization=optimization), tmp_path / "exits")
    trained, before = weights.read(made), weights.read(folder / "plain.safetensors")
    done = loop.train(
        replace(short, method=HKDSR(), teacher=File(weights=made)), tmp_path / "student"
    )

    assert isinstance(trained, Exits)
    assert torch.equal(trained.network.conv_last.weight, before.conv_last.weight)
    assert weights.read(done).config == short.student
