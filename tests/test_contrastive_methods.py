"""CSD, MCIR, DCKD, CrossKD, MiPKD, MTKD: losses by hand, promises, and published faults."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.testing import assert_close

from distilling import losses_of
from dukd.methods import (
    CSD,
    DCKD,
    MCIR,
    MTKD,
    Aggregation,
    CrossKD,
    Logits,
    Losses,
    Method,
    MiPKD,
    SlimmableCSD,
)
from dukd.methods.csd import contrast, contrast_with_others, enlarged
from dukd.methods.dckd import code_cross_entropy
from dukd.methods.haar import band_distance, haar
from dukd.methods.inner import block, cascades, front
from dukd.methods.mcir import repulsion
from dukd.methods.mipkd import Mixer, random_mask, relative_distance
from dukd.methods.slimmable import Wider, with_corners
from dukd.networks import EDSRConfig, Network, SwinIRConfig
from dukd.networks.perceptual import Filters

ALL: list[Method] = [
    CSD(),
    SlimmableCSD(),
    DCKD(),
    MCIR(),
    MTKD(),
    Aggregation(),
    CrossKD(),
    MiPKD(),
]
NOTED: list[Method] = [CSD(), SlimmableCSD(), DCKD(), MCIR()]
LEVELS = 1 / 32 + 1 / 16 + 1 / 8 + 1 / 4 + 1


def edsr(width: int = 8, blocks: int = 4) -> Network:
    return EDSRConfig(scale=2, width=width, blocks=blocks, value_range=1.0).build()


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def levels(*values: float) -> list[Tensor]:
    return [torch.full((2, 1, 4, 4), value, dtype=torch.float64) for value in values]


def run(
    method: Method,
    student: Network,
    teacher: Network,
    *,
    n: int = 2,
    extras: nn.Module | None = None,
) -> Losses:
    pair = torch.rand(n, 3, 16, 16), torch.rand(n, 3, 32, 32)
    return losses_of(method, student, teacher, pair, extras)


# CSD


def test_the_contrast_is_a_weighted_sum_of_quotients() -> None:
    """At every level |a - p| = 1 and the negatives lie 2 and 3 away: each quotient is 1 / 5."""
    anchor, positive = levels(0, 0, 0, 0, 0), levels(1, 1, 1, 1, 1)
    negatives = [
        [n, m] for n, m in zip(levels(2, 2, 2, 2, 2), levels(-3, -3, -3, -3, -3), strict=True)
    ]

    assert_close(
        contrast(anchor, positive, negatives), torch.tensor(LEVELS / 5).double(), rtol=1e-7, atol=0
    )


def test_the_coarsest_level_weighs_thirty_two_times_the_finest() -> None:
    negatives = [[n] for n in levels(1, 1, 1, 1, 1)]
    fine = contrast(levels(0, 0, 0, 0, 0), levels(1, 0, 0, 0, 0), negatives)
    coarse = contrast(levels(0, 0, 0, 0, 0), levels(0, 0, 0, 0, 1), negatives)

    assert_close(coarse, 32 * fine)


def test_the_contrast_does_not_depend_on_the_scale_of_the_features() -> None:
    anchor, positive, negative = (torch.rand(2, 4, 8, 8, dtype=torch.float64) for _ in range(3))
    small = contrast([anchor] * 5, [positive] * 5, [[negative]] * 5)
    large = contrast([255 * anchor] * 5, [255 * positive] * 5, [[255 * negative]] * 5)

    assert_close(small, large, rtol=1e-6, atol=0)  # the epsilon of 1e-7 is not scaled


def test_the_contrast_has_the_gradient_it_says() -> None:
    others = [[torch.rand(1, 2, 3, 3, dtype=torch.float64) + 2] for _ in range(5)]
    positive = [torch.rand(1, 2, 3, 3, dtype=torch.float64) - 2 for _ in range(5)]
    anchor = torch.rand(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)

    assert gradcheck(lambda a: contrast([a] * 5, positive, others), (anchor,))


def test_no_image_is_its_own_negative() -> None:
    """methods.md D36: a permutation of the first ten images usually has fixed points."""
    lr = torch.rand(6, 3, 8, 8)
    drawn = {tuple(CSD().others(lr, generator(seed))) for seed in range(50)}

    assert len(drawn) > 10  # random, not one order
    for others in drawn:
        assert sorted(others) == [
            1,
            2,
            3,
            4,
            5,
        ]  # each of the others once; 0 or 6 would be the image itself


def test_fewer_negatives_than_the_batch_offers_are_distinct() -> None:
    others = CSD(negatives=3).others(torch.rand(8, 3, 4, 4), generator(0))

    assert len(set(others)) == 3
    assert set(others) <= set(range(1, 8))


def test_negatives_are_the_enlarged_inputs_of_others() -> None:
    """Giving another image's enlargement is lying on a negative: the quotient explodes."""
    lr = torch.rand(2, 3, 16, 16)
    encoder, target = Filters(), torch.rand(2, 3, 32, 32)
    near_negative = contrast_with_others(encoder, enlarged(lr, 2).flip(0), target, lr, [1])
    near_itself = contrast_with_others(encoder, enlarged(lr, 2), target, lr, [1])

    assert near_negative > 1000 * near_itself


def test_the_quotient_does_not_grow_as_the_batch_shrinks() -> None:
    """With one negative, not ten, the sum below the line is a tenth; the loss makes up for it."""
    sr, target, lr = torch.rand(11, 3, 16, 16), torch.rand(11, 3, 16, 16), torch.rand(11, 3, 8, 8)
    one = contrast_with_others(Filters(), sr, target, lr, [1])
    ten = contrast_with_others(Filters(), sr, target, lr, list(range(1, 11)))

    assert_close(
        one, ten, rtol=0.1, atol=0
    )  # images of noise lie about equally far from each other


def test_csd_says_what_a_batch_of_one_lacks() -> None:
    with pytest.raises(ValueError, match="batch of 2 or more"):
        run(CSD(), edsr(), edsr(12, 6), n=1)


# CSD as published


def test_the_student_is_the_first_channels_of_the_wide_network() -> None:
    student = edsr()
    around = SlimmableCSD(widening=2).state(student, student).get_submodule("wider")
    assert isinstance(around, Wider)
    wide, narrow = (dict(network.named_parameters()) for network in (around.network, student))
    made = with_corners(wide, narrow)

    assert made["body.0.conv1.weight"].shape == (16, 16, 3, 3)
    assert_close(made["body.0.conv1.weight"][:8, :8], narrow["body.0.conv1.weight"], rtol=0, atol=0)
    assert_close(made["body.0.conv1.weight"][8:], wide["body.0.conv1.weight"][8:], rtol=0, atol=0)


def test_a_wide_network_of_nothing_else_is_the_student() -> None:
    """With zeros around the student's weights the wide network gives what the student gives."""
    student = edsr()
    around = Wider(student, 2)
    with torch.no_grad():
        for p in around.parameters():
            p.zero_()
    lr = torch.rand(1, 3, 9, 7)

    assert_close(around(student, lr), student(lr))


def test_the_wide_network_teaches_the_shared_weights_and_the_quotient_does_not_teach_it() -> None:
    student = edsr()
    method = SlimmableCSD(widening=2)
    extras = method.state(student, student)
    losses = run(method, student, student, extras=extras)
    shared, around = (
        student.get_parameter("conv_first.weight"),
        list(extras.get_submodule("wider").parameters()),
    )

    assert torch.autograd.grad(losses["wide"], shared, retain_graph=True)[0].abs().sum() > 0
    assert torch.autograd.grad(losses["contrast"], shared, retain_graph=True)[0].abs().sum() > 0
    taught = torch.autograd.grad(losses["contrast"], around, allow_unused=True, retain_graph=True)
    assert all(g is None for g in taught)


def test_networks_of_more_than_convolutions_are_told_what_would_serve_them() -> None:
    student = SwinIRConfig(scale=2, width=12, depths=(1,), heads=(2,), window=4).build()

    with pytest.raises(ValueError, match="csd takes a frozen teacher"):
        SlimmableCSD().state(student, student)


# MCIR


def test_the_repulsion_saturates_at_the_margin() -> None:
    """A level at distance d counts d / (1 + d / margin): 1 / (1 + 1) at d = margin = 1."""
    zero, one = levels(0, 0, 0, 0, 0), levels(1, 1, 1, 1, 1)

    assert_close(repulsion(one, zero, margin=1.0), torch.tensor(LEVELS / 2).double())
    assert repulsion(levels(1e6, 1e6, 1e6, 1e6, 1e6), zero, margin=1.0) < LEVELS


def test_the_repulsion_has_the_gradient_it_says() -> None:
    past = [torch.rand(2, 2, 3, 3, dtype=torch.float64) + 2 for _ in range(5)]
    features = torch.rand(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)

    assert gradcheck(lambda f: repulsion([f] * 5, past, margin=0.5), (features,))


def test_mcir_lowers_its_loss_by_moving_away_from_the_past() -> None:
    student = edsr()
    method = MCIR(reconstruction=0)
    extras = method.state(student, student)
    near = run(method, student, student, extras=extras)["repulsion"]
    with torch.no_grad():
        for p in student.parameters():
            p.mul_(2)
    far = run(method, student, student, extras=extras)["repulsion"]

    assert far < near <= 0


def test_the_past_becomes_the_student_and_then_follows_it() -> None:
    student = edsr()
    method = MCIR(update_step=10, keep=0.75)
    extras = method.state(student, student)
    past = extras.get_submodule("past.network")

    method.after_step(student, extras, 9)
    assert not torch.equal(
        past.get_parameter("conv_first.weight"), student.get_parameter("conv_first.weight")
    )

    method.after_step(student, extras, 10)
    before = student.get_parameter("conv_first.weight").detach().clone()
    assert_close(past.get_parameter("conv_first.weight"), before, rtol=0, atol=0)

    with torch.no_grad():
        student.get_parameter("conv_first.weight").add_(4)
    method.after_step(student, extras, 20)
    assert_close(past.get_parameter("conv_first.weight"), before + 1)


# DCKD


def test_two_codes_at_known_distances() -> None:
    """p_T = (3/4, 1/4) from distances (0, ln 3), p_S even: the cross-entropy is ln 2."""
    theirs = torch.tensor([[[0.0, math.log(3)]]])

    assert_close(code_cross_entropy(torch.zeros(1, 1, 2), theirs), torch.tensor(math.log(2)))


def test_the_nearest_code_is_the_likeliest() -> None:
    """methods.md D28: equation 8's softmax of +d would reward the farthest code."""
    theirs = torch.tensor([[[0.0, 9.0, 9.0]]])
    agree, disagree = torch.tensor([[[0.0, 9.0, 9.0]]]), torch.tensor([[[9.0, 0.0, 0.0]]])

    assert code_cross_entropy(agree, theirs) < 0.01
    assert code_cross_entropy(disagree, theirs) > 5


def test_certain_agreement_costs_nothing() -> None:
    """methods.md D27: log_softmax of a softmax of 1,024 stays near 6.9 and teaches nothing."""
    d = torch.full((1, 4, 1024), 50.0)
    d[..., 7] = 0
    wrong = d.roll(1, 2).requires_grad_()

    assert code_cross_entropy(d, d) < 1e-6
    loss = code_cross_entropy(wrong, d)
    loss.backward()
    assert loss > 40
    assert wrong.grad is not None
    assert wrong.grad.abs().sum() > 1  # the faulty form's is below 0.01


def test_the_cross_entropy_is_least_where_both_agree() -> None:
    theirs, ours = 5 * torch.rand(2, 3, 16), 5 * torch.rand(2, 3, 16)

    assert code_cross_entropy(theirs, theirs) < code_cross_entropy(ours, theirs)


def test_the_cross_entropy_does_not_care_about_a_common_distance() -> None:
    ours, theirs = torch.rand(1, 2, 8), torch.rand(1, 2, 8)

    assert_close(code_cross_entropy(ours + 3, theirs + 7), code_cross_entropy(ours, theirs))


def test_history_keeps_a_tenth_every_thousand_steps_then_less_often() -> None:
    """methods.md D30: 1,000, 2,000 and 3,000 steps in phases of 100,000, a tenth kept."""
    student = edsr()
    method = DCKD()
    extras = method.state(student, student)
    history = extras.get_submodule("history.network").get_parameter("conv_first.weight")
    before = history.clone()
    with torch.no_grad():
        student.get_parameter("conv_first.weight").add_(1)
    moved: list[int] = []
    for step in (999, 1000, 101_000, 102_000, 201_000, 202_000, 203_000, 204_000, 999_000):
        history.copy_(before)
        method.after_step(student, extras, step)
        if not torch.equal(history, before):
            moved.append(step)
            assert_close(history, before + 0.9)

    assert moved == [1000, 102_000, 201_000, 204_000, 999_000]


def test_noise_has_the_deviation_and_the_grayness_asked_for() -> None:
    lr = torch.full((4, 3, 64, 64), 0.5)
    noise = DCKD(noise=(20, 20), gray=0.5).noised(lr, generator(3)) - lr
    gray = [(image[0] == image[1]).all().item() for image in noise]

    assert_close(
        noise.flatten(1).std(1), torch.full((4,), 20 / 255), rtol=0.03, atol=0
    )  # 4,096 draws or more each
    assert set(gray) == {True, False}
    assert torch.equal(lr, torch.full_like(lr, 0.5))


def test_noise_keeps_images_in_range() -> None:
    noised = DCKD(noise=(200, 200)).noised(torch.rand(2, 3, 16, 16), generator(0))

    assert noised.min() >= 0
    assert noised.max() <= 1


# CrossKD


def test_the_teachers_own_features_give_the_teachers_own_answer() -> None:
    teacher = edsr(12, 6).frozen()
    lr = torch.rand(1, 3, 15, 13)
    sr, features, _ = teacher.observe(lr, (0.5, 1.0))

    for cascade in cascades(teacher, lr, features, (0.5, 1.0)):
        assert_close(cascade, sr)


def test_networks_of_equal_width_need_no_adapter() -> None:
    assert not list(CrossKD().state(edsr(), edsr()).parameters())
    assert [p.shape for p in CrossKD().state(edsr(), edsr(12, 6)).parameters()] == [
        (12, 8, 1, 1),
        (12,),
    ]


def test_the_cascade_teaches_the_students_front_and_not_its_end() -> None:
    student, teacher = edsr(), edsr(12, 6).frozen()
    run(CrossKD(), student, teacher)["cross"].backward()

    assert student.get_parameter("conv_first.weight").grad is not None
    assert student.get_parameter("conv_last.weight").grad is None
    assert all(p.grad is None for p in teacher.parameters())


# MiPKD


def test_the_mask_decides_whose_element_is_kept() -> None:
    mixer = Mixer(8, 12, 5)
    ours, theirs = torch.rand(1, 8, 4, 4), torch.rand(1, 12, 4, 4)
    whole = torch.ones(1, 5, 4, 4, dtype=torch.bool)

    assert_close(mixer.mix(ours, theirs, whole), mixer.student_encoder(ours))
    assert_close(mixer.mix(ours, theirs, ~whole), mixer.teacher_encoder(theirs))


def test_the_mask_is_three_dimensional() -> None:
    """Elements differ along channels, rows and columns, and between images."""
    mask = random_mask((2, 16, 16, 16), 0.25, generator(0))

    assert 0.22 < mask.float().mean() < 0.28
    for axis in range(4):
        assert (
            mask.any(axis).all() != mask.all(axis).any() or axis
        )  # no axis along which it is constant
        assert (mask != mask.roll(1, axis)).any()


def test_a_relative_distance_does_not_depend_on_the_range() -> None:
    x, y = torch.rand(2, 4, 8, 8), torch.rand(2, 4, 8, 8)

    assert_close(relative_distance(255 * x, 255 * y), relative_distance(x, y))
    assert_close(
        relative_distance(torch.tensor([3.0, 1.0]), torch.tensor([2.0, 2.0])), torch.tensor(0.5)
    )


def test_blocks_between_cuts_make_the_whole() -> None:
    student = edsr()
    lr = torch.rand(1, 3, 8, 8)
    first = front(student, lr, 1 / 3).features
    expected = front(student, lr, 1.0).features

    assert_close(block(student, block(student, first, 1 / 3, 2 / 3), 2 / 3, 1.0), expected)


@pytest.mark.parametrize("teacher_block", [0.0, 0.5, 1.0])
def test_every_path_reaches_the_student_and_spares_the_teacher(teacher_block: float) -> None:
    student, teacher = edsr(), edsr(12, 6).frozen()
    run(MiPKD(teacher_block=teacher_block), student, teacher)["block"].backward()
    gradient = student.get_parameter("conv_first.weight").grad

    assert gradient is not None
    assert gradient.abs().sum() > 0
    if teacher_block != 0.5:  # one half leaves it to chance whose tail ends the path
        assert (student.get_parameter("conv_last.weight").grad is None) == (teacher_block == 1)
    assert all(p.grad is None for p in teacher.parameters())


# MTKD


def test_one_pixel_in_every_haar_band() -> None:
    """The block [[1, 0], [0, 0]] is half in every band."""
    x = torch.zeros(1, 1, 2, 2)
    x[..., 0, 0] = 1

    for band in haar(x):
        assert_close(band, torch.full((1, 1, 1, 1), 0.5))


def test_haar_keeps_energy() -> None:
    x = torch.rand(2, 3, 8, 6, dtype=torch.float64)

    assert_close(sum(band.square().sum() for band in haar(x)), x.square().sum(), rtol=1e-9, atol=0)


def test_a_constant_difference_is_all_in_the_approximation() -> None:
    """Each level doubles it: 0.1 becomes 0.2 after one and 0.4 after two."""
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64)

    for count in (1, 2):
        assert_close(
            band_distance(x + 0.1, x, (1.0,) * (count + 1)), torch.tensor(0.1 * 2**count).double()
        )


def test_the_wavelet_distance_has_the_gradient_it_says() -> None:
    x = torch.rand(1, 1, 5, 7, dtype=torch.float64, requires_grad=True)

    assert gradcheck(lambda v: band_distance(v, torch.full_like(v, 3), (1.0, 1.0, 1.0)), (x,))


def test_mtkd_leans_on_the_ensemble_ten_times_more_than_on_the_truth() -> None:
    student, teacher = edsr(), edsr(12, 6).frozen()
    torch.manual_seed(1)
    ours = run(MTKD(), student, teacher)
    torch.manual_seed(1)
    plain = run(Logits(), student, teacher)

    assert_close(ours["reconstruction"], 0.1 * plain["reconstruction"])
    assert_close(ours["imitation"], plain["imitation"])


# What all of them promise


@pytest.mark.parametrize("method", ALL, ids=lambda m: m.name)
def test_bfloat16_gives_nearly_the_same_losses(method: Method) -> None:
    student, teacher = edsr(), edsr(12, 6).frozen()
    extras = method.state(student, teacher)
    torch.manual_seed(1)
    exact = run(method, student, teacher, extras=extras)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = run(method, student, teacher, extras=extras)

    for name, loss in exact.items():
        assert torch.isfinite(rounded[name])
        assert_close(rounded[name].float(), loss, rtol=0.1, atol=1e-3)  # outputs carry 8 bits


@pytest.mark.parametrize("method", ALL, ids=lambda m: m.name)
def test_only_what_trains_takes_gradients_and_only_what_changed_is_saved(method: Method) -> None:
    student, teacher = edsr(), edsr(12, 6).frozen()
    extras = method.state(student, teacher)
    extras.train()
    saved = extras.state_dict()

    assert not any("encoder.weight" in name or "codes" in name for name in saved)
    for name, part in extras.named_modules():
        if name.startswith(("encoder", "past", "history")):
            assert not part.training
            assert not any(p.requires_grad for p in part.parameters())
    method.state(student, teacher).load_state_dict(saved)


@pytest.mark.parametrize("method", NOTED, ids=lambda m: m.name)
def test_a_stand_in_encoder_is_confessed(method: Method) -> None:
    assert "not from" in method.notes()[0]


@pytest.mark.parametrize("method", [CrossKD(), MTKD(), MiPKD()], ids=lambda m: m.name)
def test_a_method_without_a_stand_in_has_nothing_to_confess(method: Method) -> None:
    assert method.notes() == ()
