"""Candidate upcyclings: what each shows, by hand, and what every upcycling promises."""

import pytest
import torch
from torch.testing import assert_close

from distilling import batch, losses_of
from dukd.images.resize import downscale, imresize
from dukd.methods import (
    DUKD,
    DetailedWindows,
    Dim,
    FedAgain,
    HardWindows,
    Itself,
    Logits,
    Mixup,
    Noisy,
    Recolor,
    Scratch,
    Seen,
    Upcycling,
    View,
    ZoomBetween,
    ZoomBy,
    ZoomOut,
    weighted_l1,
)
from dukd.methods.upcycling_candidates import CANDIDATES, reduced_output
from dukd.networks import EDSRConfig
from dukd.networks.base import Output
from dukd.recipes import recipe
from dukd.testing.upcyclings import check_upcycling

LR, HR = torch.rand(4, 3, 8, 8), torch.rand(4, 3, 16, 16)


@pytest.mark.parametrize("upcycling", CANDIDATES, ids=lambda u: u.name)
def test_what_every_upcycling_promises(upcycling: Upcycling) -> None:
    check_upcycling(upcycling, scales=(2,))


@pytest.mark.parametrize("upcycling", CANDIDATES, ids=lambda u: u.name)
def test_every_candidate_has_recipes(upcycling: Upcycling) -> None:
    name = upcycling.name.replace("_", "-")
    third = recipe(f"tiny-x2-dukd-{name}").make().method
    only = recipe(f"tiny-x2-dukd-only-{name}").make().method

    assert isinstance(third, DUKD)
    assert third.upcyclings == (*DUKD().upcyclings, upcycling)
    assert only == DUKD(upcyclings=(upcycling,))


def test_zoom_between_goes_from_a_window_to_the_whole() -> None:
    whole = ZoomBetween(factors=(2.0, 2.0)).view(batch(LR, HR)).image
    window = ZoomBetween(factors=(1.0, 1.0)).view(batch(LR, HR)).image
    between = ZoomBetween(factors=(1.5, 1.5)).view(batch(LR, HR)).image

    assert_close(whole, imresize(HR, size=(8, 8)))
    assert any(
        torch.equal(window[0], HR[0, :, y : y + 8, x : x + 8]) for y in range(9) for x in range(9)
    )
    cut = [
        imresize(HR[0, :, y : y + 12, x : x + 12], size=(8, 8)) for y in range(5) for x in range(5)
    ]
    assert min((between[0] - c).abs().max() for c in cut) < 1e-6


def test_zoom_by_the_scale_is_zoom_out() -> None:
    """On a genuine pair: hr reduced is lr."""
    genuine = downscale(HR, 2)
    ours, theirs = (u.view(batch(genuine, HR)) for u in (ZoomBy(factor=2.0), ZoomOut()))

    assert_close(ours.image, theirs.image)
    assert_close(ours.truth, theirs.truth)
    by = ZoomBy(factor=1.6).view(batch(LR, HR))
    assert (by.image.shape[-1], by.truth.shape[-1]) == (5, 10)


def test_far_windows_count_more() -> None:
    """Differences of 1 and 3: (1 * 1 + 3 * 3) / (1 + 3) = 2.5 at power 1, their mean at 0."""
    ours = torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1).expand(2, 3, 4, 4).requires_grad_()
    theirs = torch.zeros(2, 3, 4, 4)
    network = torch.nn.Identity()

    def value(focus: float) -> torch.Tensor:
        view = View(name="w", image=LR[:2], imitation=2.0, focus=focus)
        seen = Seen(view, Output(ours, [], network), Output(theirs, [], network))
        return weighted_l1([seen])["w_imitation"]

    assert_close(value(1.0), torch.tensor(5.0))
    assert_close(value(0.0), torch.tensor(4.0))
    assert_close(value(50.0), torch.tensor(6.0))
    (gradient,) = torch.autograd.grad(value(1.0), ours)
    assert_close(gradient.sum((1, 2, 3)), torch.tensor([0.5, 1.5]))  # weights carry no gradient
    assert HardWindows().view(batch(LR, HR)).focus == 1


def test_detailed_windows_lie_where_bicubic_misses_most() -> None:
    """Flat but for a noisy corner: with many candidates the window lies there."""
    hr = torch.full((1, 3, 16, 16), 0.5)
    hr[..., :8, :8] = torch.rand(1, 3, 8, 8)
    lr = downscale(hr, 2)
    window = DetailedWindows(candidates=500).view(batch(lr, hr)).image

    assert_close(window, hr[..., :8, :8])


def test_noise_has_its_level() -> None:
    gray = torch.full((4, 3, 32, 32), 0.5)
    noisy = Noisy(level=0.05).view(batch(gray, gray.repeat(1, 1, 2, 2))).image

    assert 0.048 < (noisy - gray).std() < 0.052


def test_the_student_is_fed_what_the_teacher_made() -> None:
    teacher, student = (EDSRConfig(scale=2, width=4, blocks=1).build() for _ in range(2))
    shown: list[torch.Tensor] = []
    student.head = lambda x, head=student.head: shown.append(x) or head(x)
    method = DUKD(base=Scratch(), upcyclings=(FedAgain(consistent=False),))
    losses = losses_of(method, student, teacher.frozen(), (LR, HR))
    made = teacher(LR)

    assert_close(shown[0][4:], downscale(made.clamp(0, 1), 2))
    assert_close(reduced_output(LR, made), shown[0][4:])
    expected = (student(shown[0][4:]) - made).abs().mean()
    assert_close(losses["fed_again_imitation"], expected, rtol=1e-4, atol=1e-6)


def test_colors_change_places_in_both_images() -> None:
    view = Recolor().view(batch(LR, HR))

    assert view.truth is not None
    assert_close(view.image.sum(1), LR.sum(1))
    for image, truth, lr, hr in zip(view.image, view.truth, LR, HR, strict=True):
        order = [next(i for i in range(3) if torch.equal(c, lr[i])) for c in image]
        assert torch.equal(truth, hr[order])


def test_a_dimmed_pair_is_a_pair() -> None:
    genuine = downscale(HR, 2)
    view = Dim().view(batch(genuine, HR))

    assert view.truth is not None
    assert_close(downscale(view.truth, 2), view.image)
    assert (view.image.abs().sum() < genuine.abs().sum()).item()


def test_the_pair_itself_is_shown_again() -> None:
    view = Itself().view(batch(LR, HR))

    assert torch.equal(view.image, LR)
    assert view.truth is HR
    assert Logits() == DUKD(upcyclings=(Itself(),)).base


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ZoomBetween(factors=(0.5, 2)), "factors go from 1"),
        (lambda: ZoomBy(factor=1), "factor above 1"),
        (lambda: DetailedWindows(candidates=0), "1 or more windows"),
        (lambda: Dim(least=0), "a brightness"),
        (lambda: Noisy(reconstruction=1), "has no ground truth"),
        (lambda: FedAgain(reconstruction=1), "has no ground truth"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_names_do_not_clash() -> None:
    names = [u.name for u in (*DUKD().upcyclings, Mixup(), *CANDIDATES)]

    assert len(set(names)) == len(names)
