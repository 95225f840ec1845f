"""DUKD is the paper's sum, and none of the released code's faults is in it."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import interpolate, l1_loss
from torch.testing import assert_close

from distilling import batch, losses_of
from dukd.images import invertible
from dukd.images.resize import downscale
from dukd.methods import (
    CSD,
    DUKD,
    FAKD,
    CutBlur,
    FrugalDUKD,
    Late,
    Logits,
    Mixup,
    ReleasedDUKD,
    Scratch,
    Upcycling,
    ZoomIn,
    ZoomOut,
)
from dukd.methods.base import View, needs_teacher
from dukd.methods.upcycling import random_rectangles, random_windows, shared_tiles
from dukd.networks import EDSRConfig, SwinIRConfig
from dukd.recipes.families import recipe
from dukd.testing.upcyclings import check_upcycling
from stand_ins import Nearest, Spy, _NearestConfig

STUDENT = EDSRConfig(scale=2, width=6, blocks=2)
TEACHER = EDSRConfig(scale=2, width=8, blocks=2)


def pair(scale=2, n=3, h=12, w=12):
    return torch.rand(n, 3, h, w), torch.rand(n, 3, h * scale, w * scale)


def losses(method, student, teacher, lr, hr, seed=0, step=0):
    return losses_of(method, student, teacher, (lr, hr), torch.nn.Module(), seed=seed, step=step)


def upcycled(method, lr, hr, seed=0):
    return method.upcycled(batch(lr, hr, seed=seed))


def test_the_losses_are_the_papers_equation():
    """Every term against its formula, written out, with draws in the same order."""
    lr, hr = pair(h=8, w=12)
    student, teacher = STUDENT.build().double(), TEACHER.build().double().frozen()
    lr, hr = lr.double(), hr.double()
    method = DUKD(
        base=Logits(reconstruction=5, imitation=2),
        upcyclings=(ZoomIn(imitation=3), ZoomOut(imitation=0.5, reconstruction=7)),
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
        "zoom_in_imitation": 3 * l1_loss(a.invert(student(a.apply(window))), teacher(window)),
        "zoom_out_imitation": 0.5 * l1_loss(b.invert(student(b.apply(small))), teacher(small)),
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
    assert values["zoom_in_imitation"].item() == pytest.approx(0.2)  # |0.4 - 0.2|
    assert values["zoom_out_imitation"].item() == pytest.approx(0.4)  # |0.8 - 0.4|
    assert values["zoom_out_reconstruction"].item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_nothing_to_learn_from_oneself(scale):
    """A network that commutes with every augmentation agrees with itself on every input."""
    lr, hr = pair(scale, n=6)
    values = losses(DUKD(consistency=0.5), Nearest.of(scale), Nearest.of(scale).frozen(), lr, hr)

    for term in ("imitation", "zoom_in_imitation", "zoom_out_imitation"):
        assert values[term].item() == pytest.approx(0, abs=1e-6)
    assert values["reconstruction"] > 0.1


def test_the_wrong_inverse_of_the_released_code_gives_wrong_labels():
    """methods.md D3: a transposition with exactly one flip, 0.3 * 2 * 0.3 * 0.7 = 12.6 %."""
    n = 4000
    lr, hr = torch.rand(1, 3, 4, 4).expand(n, 3, 4, 4), torch.rand(1, 3, 8, 8).expand(n, 3, 8, 8)
    student = Nearest.of(2)

    def wrong(method):
        zoom_in = upcycled(method, lr, hr)[0]
        output = zoom_in.change.invert(student(zoom_in.change.apply(zoom_in.image)))
        off = (output - student(zoom_in.image)).abs().flatten(1).amax(1)
        return (off > 1e-5).double().mean().item()

    assert wrong(DUKD()) == 0
    assert wrong(ReleasedDUKD()) == pytest.approx(0.126, abs=0.02)  # four standard deviations
    assert wrong(ReleasedDUKD(wrong_inverse=False)) == 0


def test_one_step_per_batch_and_two_in_the_ablation():
    """methods.md D2."""
    assert DUKD().phases == (DUKD(),)
    first, second = ReleasedDUKD(base=Logits(reconstruction=5)).phases
    assert first == Logits(reconstruction=5)
    lr, hr = pair()
    assert list(losses(second, Nearest.of(2), Nearest.of(2).frozen(), lr, hr)) == [
        "zoom_in_imitation",
        "zoom_out_imitation",
        "zoom_out_reconstruction",
    ]
    assert ReleasedDUKD(two_steps=False).phases == (ReleasedDUKD(two_steps=False),)


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


def zoomed_in(lr, hr, **numbers):
    return ZoomIn(**numbers).view(batch(lr, hr, seed=2)).image


def test_a_larger_window_is_cut_from_hr_up_to_the_whole_of_it():
    lr, hr = pair(n=2, h=4, w=6)

    assert zoomed_in(lr, hr, window=1.5).shape == (2, 3, 6, 9)
    assert torch.equal(zoomed_in(lr, hr, window=2), hr)
    with pytest.raises(ValueError, match=r"no window of 10 x 15 fits into hr of 8 x 12"):
        zoomed_in(lr, hr, window=2.5)


def test_several_windows_are_averaged_and_each_has_its_own_place():
    lr, hr = pair(n=2, h=4, w=4)

    assert zoomed_in(lr, hr, windows=3).shape == (6, 3, 4, 4)
    one, many = (
        losses(DUKD(upcyclings=(ZoomIn(windows=n),)), Nearest.of(2), Nearest.of(2), lr, hr)
        for n in (1, 3)
    )
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


def spies():
    return Spy(_NearestConfig(scale=2)), Spy(_NearestConfig(scale=2)).frozen()


def test_teacher_sees_clean_images_and_the_student_changed_ones():
    lr, hr = pair(n=8)
    student, teacher = spies()
    method = DUKD(consistency=1.0)
    losses(method, student, teacher, lr, hr, seed=5)
    zoom_in, zoom_out = (view.image for view in upcycled(method, lr, hr, seed=5))

    assert torch.equal(teacher.shown[0], torch.cat([lr, zoom_in]))
    assert torch.equal(teacher.shown[1], zoom_out)
    assert torch.equal(student.shown[0], torch.cat([lr, (1 - zoom_in).rot90(2, (-2, -1)).mT]))


def test_equal_sizes_share_a_forward_pass():
    lr, hr = pair(n=2)
    student, teacher = spies()
    losses(DUKD(upcyclings=(ZoomIn(windows=2), ZoomOut())), student, teacher, lr, hr)

    assert [x.shape[0] for x in student.shown] == [x.shape[0] for x in teacher.shown] == [6, 2]


def test_zoom_out_is_the_papers_reduction_of_the_whole_batch_at_once():
    """methods.md D15: no loop over images on the CPU; not clamped, not rounded."""
    lr, hr = pair(n=4, h=12, w=16)
    zoom_out = ZoomOut().view(batch(lr, hr))

    assert_close(zoom_out.image, downscale(lr, 2))
    assert torch.equal(zoom_out.truth, lr)


def test_zoom_out_of_sizes_the_scale_does_not_divide():
    zoom_out = ZoomOut().view(batch(*(both := pair(3, n=1, h=11, w=10))))

    assert zoom_out.image.shape == (1, 3, 3, 3)
    assert torch.equal(zoom_out.truth, both[0][..., :9, :9])


def test_at_scale_1_zoom_out_reduces_the_pair_and_zoom_in_is_the_clean_image():
    """lr as the ground truth of itself would teach the student to leave its input as it is."""
    lr, hr = torch.rand(2, 3, 9, 8), torch.rand(2, 3, 9, 8)
    zoom_out, zoom_in = ZoomOut().view(batch(lr, hr)), ZoomIn().view(batch(lr, hr))

    assert torch.equal(zoom_out.image, downscale(lr, 2))
    assert torch.equal(zoom_out.truth, downscale(hr, 2))
    assert torch.equal(zoom_in.image, hr)


def test_zoom_out_serves_swinir_at_x4():
    """methods.md D8: 48 / 4 = 12 is not a multiple of the window of 8; the released code raises."""
    student = SwinIRConfig(scale=4, width=8, depths=(2,), heads=(2,), window=8).build()
    lr, hr = pair(4, n=1, h=48, w=48)
    values = losses(
        DUKD(),
        student,
        SwinIRConfig(scale=4, width=8, depths=(2,), heads=(2,)).build().frozen(),
        lr,
        hr,
    )

    assert math.isfinite(values["zoom_out_imitation"].item())


IN, OUT, TRUTH = "zoom_in_imitation", "zoom_out_imitation", "zoom_out_reconstruction"


@pytest.mark.parametrize(
    ("method", "left"),
    [
        (DUKD(upcyclings=(ZoomOut(),)), ["reconstruction", "imitation", OUT, TRUTH]),
        (
            DUKD(upcyclings=(ZoomIn(), ZoomOut(imitation=0))),
            ["reconstruction", "imitation", IN, TRUTH],
        ),
        (
            DUKD(upcyclings=(ZoomIn(), ZoomOut(imitation=0, reconstruction=0))),
            ["reconstruction", "imitation", IN],
        ),
        (DUKD(base=Logits(reconstruction=0, imitation=0)), [IN, OUT, TRUTH]),
        (DUKD(base=Scratch()), ["reconstruction", IN, OUT, TRUTH]),
    ],
)
def test_every_part_can_be_switched(method, left):
    lr, hr = pair()

    assert list(losses(method, Nearest.of(2), Nearest.of(2).frozen(), lr, hr)) == left


def test_the_ablation_without_a_teacher_has_none():
    """The same upcycled inputs, ground truth only: what the authors did not measure."""
    ablation = recipe("small-x2-dukd-no-teacher").make().method
    lr, hr = pair()

    assert list(losses(ablation, Nearest.of(2), None, lr, hr)) == ["reconstruction", TRUTH]
    assert not needs_teacher(ablation, 2)


def weighted(term, weight):
    pair_weight = {"reconstruction": "reconstruction", "imitation": "imitation"}.get(term)
    base = Logits(**{pair_weight: weight}) if pair_weight else Logits()
    zooms = {
        IN: (ZoomIn(imitation=weight), ZoomOut()),
        OUT: (ZoomIn(), ZoomOut(imitation=weight)),
        TRUTH: (ZoomIn(), ZoomOut(reconstruction=weight)),
    }
    return DUKD(base=base, upcyclings=zooms.get(term, (ZoomIn(), ZoomOut())))


@pytest.mark.parametrize("term", ["reconstruction", "imitation", IN, OUT, TRUTH])
def test_weights_are_factors(term):
    lr, hr = pair()
    networks = STUDENT.build(), TEACHER.build().frozen()
    once, thrice = (losses(weighted(term, w), *networks, lr, hr) for w in (1.0, 3.0))

    assert_close(thrice[term], 3 * once[term])


def test_label_consistency_can_be_kept_to_one_input_or_one_operation():
    lr, hr = pair(n=50)
    method = DUKD(
        upcyclings=(ZoomIn(), ZoomOut(consistent=False)), consistency=1, operations=("invert",)
    )
    zoom_in, zoom_out = upcycled(method, lr, hr)

    assert torch.equal(zoom_in.change.apply(zoom_in.image), 1 - zoom_in.image)
    assert torch.equal(zoom_out.change.apply(zoom_out.image), zoom_out.image)


@pytest.mark.parametrize(
    "name", ["edsr-x2-dukd", "rcan-x2-dukd", "rcan-x4-dukd", "swinir-x2-dukd", "swinir-x4-dukd"]
)
def test_recipes_use_the_whole_method(name):
    """methods.md D7: the released configurations leave label consistency or zoom out away."""
    method = recipe(name).make().method

    assert isinstance(method, DUKD)
    zoom_in, zoom_out = method.upcyclings
    assert zoom_in.imitation and zoom_out.imitation and zoom_out.reconstruction  # noqa: PT018
    assert zoom_in.consistent and zoom_out.consistent  # noqa: PT018
    assert method.consistency == 0.3
    assert zoom_in.placement == "uniform"


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (lambda v: ZoomIn(windows=v), 0),
        (lambda v: ZoomIn(window=v), 0.0),
        (lambda v: DUKD(consistency=v), -0.1),
        (lambda v: DUKD(consistency=v), 1.1),
    ],
)
def test_numbers_out_of_range_are_refused(make, value):
    with pytest.raises(ValueError, match=str(value)):
        make(value)
    with pytest.raises(ValueError, match="no ground truth"):
        ZoomIn(reconstruction=1.0)


def test_a_base_takes_what_is_its_own_and_draws_after_the_upcyclings():
    """What FAKD reads, and what CSD draws, is the same alone and within."""
    lr, hr = pair(n=4, h=16, w=16)
    student, teacher = STUDENT.build(), TEACHER.build().frozen()
    fakd = losses(FAKD(), student, teacher, lr, hr)
    both = losses(DUKD(base=FAKD()), student, teacher, lr, hr)
    assert list(both) == [*fakd, IN, OUT, TRUTH]
    assert_close({name: both[name] for name in fakd}, fakd, rtol=1e-4, atol=1e-6)

    assert DUKD(base=CSD()).label == "csd+dukd"
    assert DUKD().label == "dukd"


@pytest.mark.parametrize(
    "method", [DUKD(base=DUKD()), DUKD(base=Late()), DUKD(upcyclings=(ZoomIn(), ZoomIn(windows=2)))]
)
def test_nothing_is_upcycled_twice(method):
    """Two losses of one name would be one, without a word."""
    with pytest.raises(ValueError, match="two views of one name"):
        losses(method, Nearest.of(2), Nearest.of(2), *pair(h=16, w=16))


def test_mixtures_have_the_mixture_of_the_truths():
    """Of black and white images a mixture is gray, by its own share; lr and hr have the same."""
    n = 500
    lr = torch.arange(2.0).repeat(n // 2)[:, None, None, None].expand(n, 3, 4, 4)
    mixed = Mixup().view(batch(lr, lr.repeat_interleave(2, -1).repeat_interleave(2, -2)))
    shares = mixed.image[:, 0, 0, 0]

    assert torch.equal(mixed.image.repeat_interleave(2, -1).repeat_interleave(2, -2), mixed.truth)
    assert shares.mean().item() == pytest.approx(0.5, abs=0.06)  # three standard deviations
    # Half of the images meet one of their own kind and stay; the others are anywhere in between.
    assert ((shares > 0.01) & (shares < 0.99)).float().mean().item() == pytest.approx(0.5, abs=0.09)


def test_cutblur_is_sharp_outside_a_rectangle_and_enlarged_inside():
    hr = torch.rand(6, 3, 16, 16)
    lr = torch.full((6, 3, 8, 8), 0.25)
    image = CutBlur().view(batch(lr, hr, seed=3)).image
    blurred = (image - 0.25).abs().amax(1) < 1e-6

    assert image.shape == lr.shape
    assert blurred.flatten(1).sum(1).tolist() == [16] * 6  # 4 x 4 of 8 x 8
    windows = random_windows(hr, (8, 8), count=1, rng=torch.Generator().manual_seed(3))
    assert torch.equal(
        image[~blurred[:, None].expand_as(image)], windows[~blurred[:, None].expand_as(image)]
    )


def test_rectangles_lie_anywhere():
    masks = random_rectangles(400, (5, 8), rng=torch.Generator().manual_seed(0))

    assert masks.flatten(1).sum(1).eq(2 * 4).all()
    assert masks.any(0).all()


@pytest.mark.parametrize(
    "upcycling", [ZoomIn(windows=2), ZoomOut(), Mixup(), CutBlur()], ids=lambda u: u.name
)
def test_every_upcycling_keeps_its_promises(upcycling):
    check_upcycling(upcycling, scales=(2, 3))


class _Dice(ZoomIn):
    """A zoom in that draws from elsewhere."""

    def view(self, batch):
        return replace(super().view(batch), image=torch.rand(2, 3, 8, 8))


class _Swapped(ZoomOut):
    """A zoom out whose truth is its image."""

    def view(self, batch):
        seen = super().view(batch)
        return replace(seen, truth=seen.image)


class _Unweighed(Upcycling):
    """The pair once more, whatever its weights."""

    name = "again"

    def view(self, batch):
        return View(name=self.name, image=batch.lr, imitation=2.0)


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (_Dice(), "draws from elsewhere than rng"),
        (_Swapped(), "a truth that is not 2 times as large"),
        (_Unweighed(), "not by its own numbers"),
    ],
)
def test_an_upcycling_that_breaks_a_promise_is_told_which(broken, complaint):
    with pytest.raises(AssertionError, match=complaint):
        check_upcycling(broken, scales=(2,))


@pytest.mark.parametrize("name", ["mixup", "cutblur"])
def test_further_upcyclings_are_one_word_away(name):
    """`small-x2-dukd-mixup` is the recipe with one more input."""
    method = recipe(f"small-x2-dukd-{name}").make().method

    assert [u.name for u in method.upcyclings] == ["zoom_in", "zoom_out", name]
    assert replace(method, upcyclings=method.upcyclings[:2]) == DUKD()


def test_the_frugal_form_shows_no_more_images_than_logits():
    lr, hr = pair(n=8)
    student, teacher = spies()
    method = FrugalDUKD(share=0.25, upcyclings=(ZoomIn(),), consistency=0)
    values = losses(method, student, teacher, lr, hr, seed=6)

    assert [x.shape for x in student.shown] == [x.shape for x in teacher.shown] == [(8, 3, 12, 12)]
    assert torch.equal(student.shown[0][:6], lr[2:])
    assert list(values) == ["reconstruction", "imitation", IN]


def test_the_frugal_form_shows_half_of_the_batch_reduced():
    """Five eighths of the pixels at x2; what is reduced has the pair's own lr as its truth."""
    lr, hr = pair(n=8)
    student, teacher = spies()
    values = losses(FrugalDUKD(consistency=0), student, teacher, lr, hr)

    assert {tuple(x.shape) for x in student.shown} == {(4, 3, 12, 12), (4, 3, 6, 6)}
    assert list(values) == ["reconstruction", "imitation", OUT, TRUTH]
    assert_close(
        values["reconstruction"], (interpolate(lr[4:], scale_factor=2) - hr[4:]).abs().mean()
    )
    reduced = interpolate(downscale(lr[:4], 2), scale_factor=2)
    assert_close(values[TRUTH], (reduced - lr[:4]).abs().mean())


def test_upcycling_can_start_late_and_end_early():
    lr, hr = pair(n=4)
    method = FrugalDUKD(late=1, until=2)
    student, teacher = STUDENT.build(), TEACHER.build().frozen()
    terms = [list(losses(method, student, teacher, lr, hr, step=step)) for step in range(3)]

    alone = ["reconstruction", "imitation"]
    assert terms == [alone, [*alone, OUT, TRUTH], alone]


@pytest.mark.parametrize(
    "changes",
    [{"share": 0.0}, {"share": 1.0}, {"late": -1}, {"until": -1}, {"until": 3, "late": 3}],
)
def test_shares_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match=str(next(iter(changes.values())))):
        FrugalDUKD(**changes)
