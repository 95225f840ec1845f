"""Upcycling for teachers of the real world, and training for the look."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from dukd.cli.choose import chosen
from dukd.core.config import ConfigError
from dukd.images.bsrgan import JPEG
from dukd.images.degrade import Bicubic, Degradation
from dukd.images.resize import downscale
from dukd.images.two_stage import RealESRGAN
from dukd.methods import (
    DUKD,
    Adversarial,
    Batch,
    DegradedZoomIn,
    DegradedZoomOut,
    Logits,
    Perceptual,
    ZoomIn,
    ZoomOut,
)
from dukd.methods.adversarial import deceive, discriminate
from dukd.methods.base import Seen
from dukd.methods.degraded import degraded
from dukd.methods.perceptual import feature_distance
from dukd.networks.base import Output
from dukd.networks.discriminator import SpectralConv2d, UNetDiscriminator
from dukd.networks.perceptual import Filters
from dukd.recipes import recipe
from dukd.testing.methods import check_method
from dukd.testing.upcyclings import check_upcycling
from dukd.training.experiment import Experiment


def smooth_batch(scale=2, side=16, seed=0):
    torch.manual_seed(seed)
    small = torch.rand(3, 3, 4, 4)
    size = (side * scale, side * scale)
    hr = nn.functional.interpolate(small, size=size, mode="bicubic")
    hr = ((0.25 + 0.5 * hr) * 255).round() / 255
    return Batch(downscale(hr, scale), hr, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "upcycling", [DegradedZoomOut(), DegradedZoomIn(), DegradedZoomIn(grid="window")]
)
def test_degraded_views_keep_every_promise_of_an_upcycling(upcycling):
    check_upcycling(upcycling, scales=(2,))


def test_without_degradation_zooming_out_is_the_papers():
    """Bicubic for D: what is left between both is rounding to 8 bits, at most half a level."""
    batch = smooth_batch()
    ours = DegradedZoomOut(degradation=Bicubic()).view(batch)
    papers = ZoomOut().view(batch)
    assert torch.equal(ours.truth, papers.truth)
    assert (ours.image - papers.image).abs().max() <= 1 / 255 + 1e-6


def test_without_degradation_zooming_in_is_the_papers():
    """The enlarged window comes back, to a level where an image is smooth."""
    batch, again = smooth_batch(), smooth_batch()
    ours = DegradedZoomIn(degradation=Bicubic()).view(batch)
    papers = ZoomIn().view(again)
    assert ours.image.shape == papers.image.shape
    assert (ours.image - papers.image).abs().mean() < 1.5 / 255
    exact = DegradedZoomIn(degradation=Bicubic(), grid="window").view(smooth_batch())
    assert torch.allclose(exact.image, papers.image, atol=1e-6)


def test_the_truth_of_zooming_out_is_clean_however_bad_lr_is():
    batch = smooth_batch()
    noisy = replace(batch, lr=torch.rand_like(batch.lr), rng=torch.Generator().manual_seed(0))
    view = DegradedZoomOut(degradation=JPEG()).view(noisy)
    assert torch.equal(view.truth, downscale(batch.hr, 2))


def test_images_are_degraded_once():
    calls = []

    class Counted(Degradation):
        name = "counted"
        fixed = False

        def apply(self, hr, scale, rng):
            calls.append((hr.shape, scale))
            return Bicubic().apply(hr, scale, rng)

    batch = smooth_batch(scale=4, side=12)
    DegradedZoomOut(degradation=Counted()).view(batch)
    assert calls == [((32, 32, 3), 4)] * 3  # 12 pixels, continued to 32 for kernels to fit
    calls.clear()
    DegradedZoomIn(degradation=Counted(), windows=2).view(batch)
    assert calls == [((48, 48, 3), 4)] * 6
    calls.clear()
    DegradedZoomIn(degradation=Counted(), grid="window").view(batch)
    assert calls == [((32, 32, 3), 1)] * 3


def test_each_image_has_draws_of_its_own_and_the_same_seed_the_same():
    images = torch.full((2, 3, 64, 64), 0.5)
    drawn = [
        degraded(images, JPEG(quality=(5, 95)), 2, rng=torch.Generator().manual_seed(s))
        for s in (1, 1)
    ]
    assert torch.equal(*drawn)
    noise = torch.rand(1, 3, 64, 64).expand(2, -1, -1, -1)
    one, other = degraded(noise, JPEG(quality=(5, 95)), 2, rng=torch.Generator().manual_seed(2))
    assert not torch.equal(one, other)


def test_what_is_stretched_most_is_stretched_to_one():
    torch.manual_seed(0)
    convolution = SpectralConv2d(4, 6, 3)
    for _ in range(100):
        convolution.follow()
    matrix = convolution.weight.flatten(1)
    v = torch.nn.functional.normalize(matrix.T @ convolution.u, dim=0)
    largest = torch.linalg.svdvals(matrix.detach())[0]
    assert torch.dot(convolution.u, matrix @ v).item() == pytest.approx(largest.item(), rel=1e-4)
    x = torch.rand(1, 4, 5, 5)
    wanted = nn.functional.conv2d(x, convolution.weight / largest, padding=1)
    assert torch.allclose(convolution(x), wanted, rtol=1e-3, atol=1e-5)


def test_the_discriminator_judges_every_pixel_of_any_size():
    torch.manual_seed(0)
    discriminator = UNetDiscriminator(4)
    assert discriminator(torch.rand(2, 3, 17, 30)).shape == (2, 1, 17, 30)
    full = sum(p.numel() for p in UNetDiscriminator().parameters())
    assert full == 4_376_897  # as Real-ESRGAN's has


def test_losses_of_a_discriminator_that_cannot_tell():
    blind = nn.Conv2d(3, 1, 1)
    nn.init.zeros_(blind.weight)
    nn.init.zeros_(blind.bias)
    x = torch.rand(2, 3, 4, 4)
    assert deceive(blind, x).item() == pytest.approx(math.log(2))
    assert discriminate(blind, x, x).item() == pytest.approx(2 * math.log(2))


def test_each_loss_moves_its_own_side_alone():
    judge = nn.Conv2d(3, 1, 1)
    fake = torch.rand(1, 3, 4, 4, requires_grad=True)
    deceive(judge, fake).backward()
    assert fake.grad is not None
    assert judge.weight.grad is None
    # d/dx softplus(-y) = -sigmoid(-y) w, by pixel
    y = judge(fake)
    wanted = -torch.sigmoid(-y) * judge.weight.reshape(1, 3, 1, 1) / y.numel()
    assert torch.allclose(fake.grad, wanted, atol=1e-7)
    with torch.no_grad():
        assert deceive(judge, fake).item() == pytest.approx(softplus(-y).mean().item())


@pytest.mark.parametrize(
    "method",
    [
        Adversarial(width=2),
        Adversarial(width=2, real="teacher", base=DUKD()),
        Perceptual(),
        Perceptual(toward="hr", base=Adversarial(width=2)),
        DUKD(base=Adversarial(width=2), upcyclings=(ZoomIn(),)),
    ],
    ids=lambda method: method.label,
)
def test_parts_keep_every_promise_of_a_method(method):
    check_method(method, scales=(2,))


def test_a_part_of_no_weight_is_its_base():
    plain = Adversarial().base
    for part in (Adversarial(weight=0.0), Perceptual(weight=0.0)):
        state = part.state(nn.Identity(), None)
        assert not list(state.parameters())
        batch = smooth_batch()
        assert [v.name for v in part.views(batch)] == [v.name for v in plain.views(batch)]


def test_the_student_is_left_alone_until_the_start():
    part = Adversarial(width=2, start=5)
    state = part.state(nn.Identity(), None)
    batch = smooth_batch()
    view = part.views(batch)[0]
    output = Output(batch.hr, [], nn.Identity())
    for step, expected in ((4, False), (5, True)):
        losses = part.losses([Seen(view, output, output)], replace(batch, step=step), state)
        assert ("adversarial" in losses) == expected
        assert "discriminator" in losses


def test_features_of_equal_images_do_not_differ_and_levels_add_up():
    torch.manual_seed(0)
    encoder = Filters()
    a, b = torch.rand(2, 1, 3, 32, 32)
    assert feature_distance(encoder, a, a, (1, 1, 1, 1, 1)) == 0
    single = [
        feature_distance(encoder, a, b, [float(i == k) for i in range(5)]).item() for k in range(5)
    ]
    both = feature_distance(encoder, a, b, (0.5, 0, 2.0, 0, 0)).item()
    assert both == pytest.approx(0.5 * single[0] + 2 * single[2], rel=1e-5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Adversarial(weight=-1.0), "weight is 0 or more"),
        (lambda: Adversarial(width=0), "width of 1 or more"),
        (lambda: Perceptual(levels=(-1, 0, 0, 0, 0)), "levels"),
        (lambda: DegradedZoomIn(window=-1.0), "window"),
    ],
)
def test_impossible_numbers_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_tiny_images_are_continued_not_refused():
    out = degraded(torch.rand(1, 3, 2, 2), JPEG(), 2, rng=torch.Generator())
    assert out.shape == (1, 3, 1, 1)
    assert np.isfinite(out.numpy()).all()


def test_the_recipe_learns_from_real_esrgan_on_what_it_expects():
    made = recipe("compact-x4-real-dukd").make()
    assert made.student == recipe("compact-x4-dukd").make().student
    assert made.data.degradation == RealESRGAN()
    assert made.teacher is not None
    assert made.teacher.weights.name == "RealESRGAN_x4plus.pth"
    zoom_in, zoom_out = made.method.upcyclings
    assert zoom_in == ZoomIn()
    assert zoom_out == ZoomOut(reconstruction=0.0)
    assert made.method.base == Logits(reconstruction=0.0)
    assert Experiment.from_yaml(made.to_yaml()) == made
    with pytest.raises(ValueError, match="x2 and x4, but got x3"):
        recipe("compact-x3-real-dukd").make()


def test_its_views_can_be_degraded_as_the_pair_is():
    made = recipe("compact-x4-real-dukd-degraded").make()
    zoom_in, zoom_out = made.method.upcyclings
    assert zoom_in == DegradedZoomIn()
    assert zoom_out == DegradedZoomOut(reconstruction=0.0)
    window, _ = recipe("compact-x4-real-dukd-degraded-window").make().method.upcyclings
    assert window == DegradedZoomIn(grid="window")
    weighed = recipe("edsr-x4-dukd-degraded").make().method.upcyclings  # the papers' weights stay
    plain = recipe("edsr-x4-dukd").make().method.upcyclings
    assert [u.imitation for u in weighed] == [u.imitation for u in plain]
    assert weighed[1].reconstruction == plain[1].reconstruction > 0
    assert Experiment.from_yaml(made.to_yaml()) == made


def test_a_degradation_is_written_by_its_name_or_with_its_numbers():
    made = recipe("small-x2-scratch").make()
    assert "\n  degradation: bicubic\n" in made.to_yaml()
    light = replace(made, data=replace(made.data, degradation=JPEG(quality=(90, 95))))
    assert "type: jpeg" in light.to_yaml()
    assert Experiment.from_yaml(light.to_yaml()) == light
    with pytest.raises(ConfigError, match="degradation is 'jepg'; did you mean jpeg"):
        Experiment.from_yaml(made.to_yaml().replace(": bicubic", ": jepg"))


def test_an_option_chooses_a_degradation_and_others_its_numbers():
    made = recipe("small-x2-scratch").make()
    rest, changed = chosen(["--data.degradation", "real-esrgan", "--out", "x"], made)
    assert rest == ["--out", "x"]
    assert changed.data.degradation == RealESRGAN()
    own = replace(made, data=replace(made.data, degradation=JPEG(quality=(5, 6))))
    assert chosen(["--data.degradation=jpeg"], own)[1].data.degradation == JPEG(quality=(5, 6))
    with pytest.raises(ValueError, match="takes a name"):
        chosen(["--data.degradation"], made)
    with pytest.raises(ValueError, match="'real'; did you mean real-esrgan"):
        chosen(["--data.degradation", "real"], made)
