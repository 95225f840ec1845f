"""DUKD is the paper's sum, and none of the released code's faults is in it."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import interpolate, l1_loss
from torch.testing import assert_close

from dukd.images import invertible
from dukd.images.resize import downscale
from dukd.methods import DUKD, FrugalDUKD, Logits, ReleasedDUKD
from dukd.methods.dukd import random_windows, shared_tiles
from dukd.networks import EDSRConfig, SwinIRConfig
from dukd.recipes.papers import recipe
from stand_ins import Nearest, Spy, _NearestConfig

STUDENT = EDSRConfig(scale=2, width=6, blocks=2)
TEACHER = EDSRConfig(scale=2, width=8, blocks=2)


def pair(scale=2, n=3, h=12, w=12):
    return torch.rand(n, 3, h, w), torch.rand(n, 3, h * scale, w * scale)


def losses(method, student, teacher, lr, hr, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return method.losses(
        student=student, teacher=teacher, extras=torch.nn.Module(), lr=lr, hr=hr, rng=rng
    )


def test_the_losses_are_the_papers_equation():
    """Every term against its formula, written out, with windows and augmentations drawn in the same order."""
    lr, hr = pair(h=8, w=12)
    student, teacher = STUDENT.build().double(), TEACHER.build().double().frozen()
    lr, hr = lr.double(), hr.double()
    method = DUKD(
        reconstruction=5,
        imitation=2,
        zoom_in=3,
        zoom_out=0.5,
        zoom_out_reconstruction=7,
        consistency=0.6,
    )
    ours = losses(method, student, teacher, lr, hr, seed=4)

    rng = torch.Generator().manual_seed(4)
    window = random_windows(hr, (8, 12), count=1, rng=rng)
    a = invertible.draw(window.shape, probability=0.6, rng=rng)
    small = downscale(lr, 2)
    b = invertible.draw(small.shape, probability=0.6, rng=rng)
    expected = {
        "reconstruction": 5 * l1_loss(student(lr), hr),
        "imitation": 2 * l1_loss(student(lr), teacher(lr)),
        "zoom_in": 3 * l1_loss(a.invert(student(a.apply(window))), teacher(window)),
        "zoom_out": 0.5 * l1_loss(b.invert(student(b.apply(small))), teacher(small)),
        "zoom_out_reconstruction": 7 * l1_loss(b.invert(student(b.apply(small))), lr),
    }
    assert list(ours) == list(expected)
    for term, value in expected.items():
        assert_close(ours[term], value, rtol=1e-9, atol=1e-12)


def test_hand_computed_losses():
    """Nearest-neighbor networks of gain 1 and 0.5 on constant images: every distance is known."""
    lr, hr = torch.full((1, 3, 4, 4), 0.8), torch.full((1, 3, 8, 8), 0.4)
    student, teacher = Nearest.of(2), Nearest.of(2)
    teacher.gain.data.fill_(0.5)
    values = losses(DUKD(consistency=0), student, teacher.frozen(), lr, hr)

    assert values["reconstruction"].item() == pytest.approx(0.4)  # |0.8 - 0.4|
    assert values["imitation"].item() == pytest.approx(0.4)  # |0.8 - 0.4|
    assert values["zoom_in"].item() == pytest.approx(0.2)  # |0.4 - 0.2|
    assert values["zoom_out"].item() == pytest.approx(0.4)  # |0.8 - 0.4|
    assert values["zoom_out_reconstruction"].item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_nothing_to_learn_from_oneself(scale):
    """A network that commutes with every augmentation agrees with itself on every input, however it is changed."""
    lr, hr = pair(scale, n=6)
    values = losses(DUKD(consistency=0.5), Nearest.of(scale), Nearest.of(scale).frozen(), lr, hr)

    for term in ("imitation", "zoom_in", "zoom_out"):
        assert values[term].item() == pytest.approx(0, abs=1e-6)
    assert values["reconstruction"] > 0.1


def test_the_wrong_inverse_of_the_released_code_gives_wrong_labels():
    """methods.md D3: a transposition with exactly one flip, 0.3 * 2 * 0.3 * 0.7 = 12.6 % of the images."""
    n = 4000
    lr, hr = torch.rand(1, 3, 4, 4).expand(n, 3, 4, 4), torch.rand(1, 3, 8, 8).expand(n, 3, 8, 8)
    student = Nearest.of(2)

    def wrong(method):
        rng = torch.Generator().manual_seed(0)
        zoom_in = method.upcycle(lr, hr, rng)[0]
        answer = zoom_in.augmentation.invert(student(zoom_in.changed))
        return (
            ((answer - student(zoom_in.clean)).abs().flatten(1).amax(1) > 1e-5)
            .double()
            .mean()
            .item()
        )

    assert wrong(DUKD()) == 0
    assert wrong(ReleasedDUKD()) == pytest.approx(0.126, abs=0.02)  # four standard deviations
    assert wrong(ReleasedDUKD(wrong_inverse=False)) == 0


def test_one_step_per_batch_and_two_in_the_ablation():
    """methods.md D2."""
    assert DUKD().parts == (DUKD(),)
    first, second = ReleasedDUKD(reconstruction=5).parts
    assert first == Logits(reconstruction=5)
    lr, hr = pair()
    assert list(losses(second, Nearest.of(2), Nearest.of(2).frozen(), lr, hr)) == [
        "zoom_in",
        "zoom_out",
        "zoom_out_reconstruction",
    ]
    assert ReleasedDUKD(two_steps=False).parts == (ReleasedDUKD(two_steps=False),)


def test_windows_are_anywhere_and_every_image_has_its_own():
    """methods.md D5: not one of s x s tiles, not one draw for the whole batch."""
    hr = torch.arange(16.0 * 16).reshape(1, 1, 16, 16).expand(500, 3, 16, 16)
    windows = random_windows(hr, (4, 4), count=1, rng=torch.Generator().manual_seed(1))
    corners = {int(w[0, 0, 0]) for w in windows}

    assert windows.shape == (500, 3, 4, 4)
    assert {c // 16 for c in corners} == {c % 16 for c in corners} == set(range(13))
    assert all(
        torch.equal(w[0], hr[0, 0, c // 16 : c // 16 + 4, c % 16 : c % 16 + 4])
        for w in windows[:20]
        for c in [int(w[0, 0, 0])]
    )


def test_a_larger_window_is_cut_from_hr_up_to_the_whole_of_it():
    lr, hr = pair(n=2, h=4, w=6)
    (zoom_in, _) = DUKD(window=1.5, consistency=0).upcycle(lr, hr, torch.Generator().manual_seed(2))
    (whole, _) = DUKD(window=2, consistency=0).upcycle(lr, hr, torch.Generator().manual_seed(2))

    assert zoom_in.clean.shape == (2, 3, 6, 9)
    assert torch.equal(whole.clean, hr)
    with pytest.raises(ValueError, match=r"no window of 10 x 15 fits into hr of 8 x 12"):
        DUKD(window=2.5).upcycle(lr, hr, torch.Generator())


def test_several_windows_are_averaged_and_each_has_its_own_place():
    lr, hr = pair(n=2, h=4, w=4)
    (zoom_in, _) = DUKD(windows=3, consistency=0).upcycle(lr, hr, torch.Generator().manual_seed(2))

    assert zoom_in.clean.shape == (6, 3, 4, 4)
    one = losses(DUKD(windows=1), Nearest.of(2), Nearest.of(2).frozen(), lr, hr)
    many = losses(DUKD(windows=3), Nearest.of(2), Nearest.of(2).frozen(), lr, hr)
    assert one.keys() == many.keys()


def test_the_released_grid():
    hr = torch.rand(5, 3, 12, 12)
    tiles = shared_tiles(hr, (4, 4), count=2, rng=torch.Generator().manual_seed(3))
    places = [(4 * i, 4 * j) for i, j in itertools.product(range(3), repeat=2)]
    found = [p for p in places if torch.equal(tiles[:5], hr[..., p[0] : p[0] + 4, p[1] : p[1] + 4])]

    assert len(found) == 1
    assert not torch.equal(tiles[:5], tiles[5:])
    with pytest.raises(ValueError, match="2 x 2 tiles cannot give 5"):
        shared_tiles(torch.rand(1, 3, 8, 8), (4, 4), count=5, rng=torch.Generator())


def test_teacher_sees_clean_images_and_the_student_changed_ones():
    lr, hr = pair(n=8)
    student, teacher = Spy(_NearestConfig(scale=2)), Spy(_NearestConfig(scale=2))
    method = DUKD(consistency=1.0)
    losses(method, student, teacher.frozen(), lr, hr, seed=5)
    zoom_in, zoom_out = method.upcycle(lr, hr, torch.Generator().manual_seed(5))

    assert torch.equal(teacher.shown[0], torch.cat([lr, zoom_in.clean]))
    assert torch.equal(teacher.shown[1], zoom_out.clean)
    assert torch.equal(student.shown[0], torch.cat([lr, zoom_in.changed]))
    assert torch.equal(zoom_in.changed, (1 - zoom_in.clean).rot90(2, (-2, -1)).mT)


def test_equal_sizes_share_a_forward_pass():
    lr, hr = pair(n=2)
    student, teacher = Spy(_NearestConfig(scale=2)), Spy(_NearestConfig(scale=2))
    losses(DUKD(windows=2), student, teacher.frozen(), lr, hr)

    assert [x.shape[0] for x in student.shown] == [x.shape[0] for x in teacher.shown] == [6, 2]


def test_zoom_out_is_the_papers_reduction_of_the_whole_batch_at_once():
    """methods.md D15: no loop over images on the CPU; not clamped, not rounded."""
    lr, hr = pair(n=4, h=12, w=16)
    zoom_out = DUKD(zoom_in=0).upcycle(lr, hr, torch.Generator())[0]

    assert_close(zoom_out.clean, downscale(lr, 2))
    assert torch.equal(zoom_out.truth, lr)


def test_zoom_out_of_sizes_the_scale_does_not_divide():
    lr, hr = pair(3, n=1, h=11, w=10)
    zoom_out = DUKD(zoom_in=0).upcycle(lr, hr, torch.Generator())[0]

    assert zoom_out.clean.shape == (1, 3, 3, 3)
    assert torch.equal(zoom_out.truth, lr[..., :9, :9])


def test_zoom_out_serves_swinir_at_x4():
    """methods.md D8: 48 / 4 = 12 is no multiple of the window of 8, where the released code raises."""
    student = SwinIRConfig(scale=4, width=8, depths=(2,), heads=(2,), window=8).build()
    lr, hr = pair(4, n=1, h=48, w=48)
    values = losses(
        DUKD(),
        student,
        SwinIRConfig(scale=4, width=8, depths=(2,), heads=(2,)).build().frozen(),
        lr,
        hr,
    )

    assert math.isfinite(values["zoom_out"].item())


@pytest.mark.parametrize(
    ("switched", "left"),
    [
        ({"zoom_in": 0}, ["reconstruction", "imitation", "zoom_out", "zoom_out_reconstruction"]),
        ({"zoom_out": 0}, ["reconstruction", "imitation", "zoom_in", "zoom_out_reconstruction"]),
        ({"zoom_out": 0, "zoom_out_reconstruction": 0}, ["reconstruction", "imitation", "zoom_in"]),
        ({"imitation": 0, "reconstruction": 0}, ["zoom_in", "zoom_out", "zoom_out_reconstruction"]),
    ],
)
def test_every_part_can_be_switched(switched, left):
    lr, hr = pair()

    assert list(losses(DUKD(**switched), Nearest.of(2), Nearest.of(2).frozen(), lr, hr)) == left


def test_the_control_without_a_teacher_asks_none():
    """The same upcycled inputs, ground truth only: what the authors were never shown to have measured."""
    control = DUKD(imitation=0, zoom_in=0, zoom_out=0)
    lr, hr = pair()
    teacher = Spy(_NearestConfig(scale=2))

    assert list(losses(control, Nearest.of(2), teacher, lr, hr)) == [
        "reconstruction",
        "zoom_out_reconstruction",
    ]
    assert not teacher.shown
    assert not control.needs_teacher


@pytest.mark.parametrize(
    "field", ["reconstruction", "imitation", "zoom_in", "zoom_out", "zoom_out_reconstruction"]
)
def test_weights_are_factors(field):
    lr, hr = pair()
    networks = STUDENT.build(), TEACHER.build().frozen()
    once, thrice = (losses(DUKD(**{field: w}), *networks, lr, hr) for w in (1.0, 3.0))

    assert_close(thrice[field], 3 * once[field])


def test_label_consistency_can_be_kept_to_one_input_or_one_operation():
    lr, hr = pair(n=50)
    zoom_in, zoom_out = DUKD(
        consistency=1, consistent=("zoom_in",), operations=("invert",)
    ).upcycle(lr, hr, torch.Generator())

    assert torch.equal(zoom_in.changed, 1 - zoom_in.clean)
    assert torch.equal(zoom_out.changed, zoom_out.clean)


@pytest.mark.parametrize(
    "name", ["edsr-x2-dukd", "rcan-x2-dukd", "rcan-x4-dukd", "swinir-x2-dukd", "swinir-x4-dukd"]
)
def test_recipes_use_the_whole_method(name):
    """methods.md D7: the released configurations leave label consistency or zoom out away."""
    method = recipe(name).make().method

    assert isinstance(method, DUKD)
    assert method.zoom_in and method.zoom_out and method.zoom_out_reconstruction  # noqa: PT018
    assert method.consistency == 0.3
    assert method.consistent == ("zoom_in", "zoom_out")
    assert method.placement == "uniform"


@pytest.mark.parametrize(
    ("field", "value"),
    [("windows", 0), ("window", 0.0), ("consistency", -0.1), ("consistency", 1.1)],
)
def test_numbers_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=str(value)):
        replace(DUKD(), **{field: value})


def test_the_frugal_form_asks_for_no_more_images_than_logits():
    lr, hr = pair(n=8)
    student, teacher = Spy(_NearestConfig(scale=2)), Spy(_NearestConfig(scale=2))
    method = FrugalDUKD(share=0.25, zoom_in=1, zoom_out=0, zoom_out_reconstruction=0, consistency=0)
    values = method.losses(
        student=student,
        teacher=teacher.frozen(),
        extras=method.extras(student, teacher),
        lr=lr,
        hr=hr,
        rng=torch.Generator().manual_seed(6),
    )

    assert [x.shape for x in student.shown] == [x.shape for x in teacher.shown] == [(8, 3, 12, 12)]
    assert torch.equal(student.shown[0][:6], lr[2:])
    assert list(values) == ["reconstruction", "imitation", "zoom_in"]


def test_the_frugal_form_shows_half_of_the_batch_reduced():
    """Five eighths of the pixels at x2; what is reduced has the pair's own image as its ground truth."""
    lr, hr = pair(n=8)
    student = Spy(_NearestConfig(scale=2))
    method = FrugalDUKD(consistency=0)
    extras = method.extras(student, student)
    values = method.losses(
        student=student, teacher=student, extras=extras, lr=lr, hr=hr, rng=torch.Generator()
    )

    assert {tuple(x.shape) for x in student.shown} == {(4, 3, 12, 12), (4, 3, 6, 6)}
    assert list(values) == ["reconstruction", "imitation", "zoom_out", "zoom_out_reconstruction"]
    assert_close(
        values["reconstruction"], (interpolate(lr[4:], scale_factor=2) - hr[4:]).abs().mean()
    )
    reduced = interpolate(downscale(lr[:4], 2), scale_factor=2)
    assert_close(values["zoom_out_reconstruction"], (reduced - lr[:4]).abs().mean())


def test_a_late_start_is_logits_distillation_until_then():
    lr, hr = pair(n=4)
    method = FrugalDUKD(late=2)
    student, teacher = STUDENT.build(), TEACHER.build().frozen()
    extras = method.extras(student, teacher)
    terms = []
    for step in range(1, 4):
        given = {"student": student, "teacher": teacher, "extras": extras, "lr": lr, "hr": hr}
        terms.append(list(method.losses(**given, rng=torch.Generator())))
        method.after_step(student=student, extras=extras, step=step)

    pair_alone = ["reconstruction", "imitation"]
    assert terms == [pair_alone, pair_alone, [*pair_alone, "zoom_out", "zoom_out_reconstruction"]]
    again = method.extras(student, teacher)
    again.load_state_dict(extras.state_dict())
    assert again.steps == 3


def test_upcycling_can_end_early():
    lr, hr = pair(n=4)
    method = FrugalDUKD(late=1, until=2)
    student, teacher = STUDENT.build(), TEACHER.build().frozen()
    extras = method.extras(student, teacher)
    zoomed = []
    for step in range(1, 4):
        given = {"student": student, "teacher": teacher, "extras": extras, "lr": lr, "hr": hr}
        zoomed.append("zoom_out" in method.losses(**given, rng=torch.Generator()))
        method.after_step(student=student, extras=extras, step=step)

    assert zoomed == [False, True, False]


@pytest.mark.parametrize(
    "changes",
    [{"share": 0.0}, {"share": 1.0}, {"late": -1}, {"until": -1}, {"until": 3, "late": 3}],
)
def test_shares_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match=str(next(iter(changes.values())))):
        FrugalDUKD(**changes)
