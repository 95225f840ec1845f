"""Degradations: kernels against formulas, distributions against the papers, bits against resume."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dukd.data import Patches, batches, find_pairs, prepare
from dukd.data.degrading import degrade_folder
from dukd.images import read_rgb8, spoil
from dukd.images.bsrgan import BSRGAN, JPEG
from dukd.images.degrade import Bicubic, preset, presets
from dukd.images.kernels import Kernels, choice, gaussian, plateau, sinc
from dukd.images.resize import imresize_uint8
from dukd.images.two_stage import AdcSR, RealESRGAN, Redux, Stage
from dukd.testing.degradations import check_degradation

LUMA = torch.tensor([0.299, 0.587, 0.114])[:, None, None]


def noise(h: int, w: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)


@pytest.mark.parametrize("name", presets())
def test_every_degradation_keeps_its_promises(name: str) -> None:
    check_degradation(preset(name))


def test_there_are_seven_and_a_wrong_name_lists_them() -> None:
    names = ["adcsr", "bicubic", "bsrgan", "jpeg", "jpeg-40", "real-esrgan", "redux"]
    assert list(presets()) == names
    with pytest.raises(ValueError, match="no degradation 'jpg'; there are adcsr, bicubic, bsrgan"):
        preset("jpg")


def test_gaussian_kernels_have_the_covariance_they_are_made_with() -> None:
    """Turned by 30 degrees, sigma 3 along and 1.5 across: R diag(9, 2.25) R^T."""
    kernel = gaussian(41, (3.0, 1.5), math.pi / 6)
    axis = np.arange(41) - 20
    x, y = axis[None], axis[:, None]
    turn = np.array([[math.cos(math.pi / 6), -0.5], [0.5, math.cos(math.pi / 6)]])
    expected = turn @ np.diag([9.0, 2.25]) @ turn.T

    found = [[(kernel * a * b).sum() for b in (x, y)] for a in (x, y)]

    assert np.allclose(found, expected, atol=1e-4)
    assert np.isclose(gaussian(3, (1.0, 1.0))[1, 1], 1 / (1 + 4 * math.exp(-0.5) + 4 / math.e))


def test_generalized_and_plateau_kernels_by_hand() -> None:
    """At distance 1 with sigma 2, q = 1/4: exp(-q^b / 2) and 1 / (1 + q^b)."""
    a, b = gaussian(3, (2.0, 2.0), shape=3.0), plateau(3, (2.0, 2.0), shape=1.5)

    assert np.isclose(a[1, 2] / a[1, 1], math.exp(-0.5 * 0.25**3))
    assert np.isclose(b[1, 2] / b[1, 1], 1 / (1 + 0.25**1.5))
    assert np.isclose(b[0, 0] / b[1, 1], 1 / (1 + 0.5**1.5))


def test_a_sinc_lets_pass_what_is_below_its_cutoff() -> None:
    """J1(2) = 0.57672: the value at distance 1 for a cutoff of 2, over that in the middle."""
    kernel = sinc(21, 2.0)
    spectrum = np.abs(np.fft.fft2(kernel, (256, 256)))[0]
    frequency = np.arange(128) * 2 * math.pi / 256

    assert np.isclose(
        kernel[10, 11] / kernel[10, 10], 2 * 0.5767248078 / (2 * math.pi) / (1 / math.pi)
    )
    assert spectrum[: int(1.5 / (2 * math.pi) * 256)].min() > 0.8
    assert spectrum[:128][frequency > 2.6].max() < 0.15


@pytest.mark.parametrize("make", [gaussian, plateau])
@pytest.mark.parametrize("size", [7, 13, 21])
def test_kernels_add_up_to_one_and_are_symmetric(make, size: int) -> None:
    for kernel in (make(size, (2.0, 0.7), 0.4, shape=1.3), sinc(size, 1.7)):
        assert np.isclose(kernel.sum(), 1)
        assert np.allclose(kernel, kernel[::-1, ::-1])


def test_kernels_are_drawn_as_the_paper_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sides 7 to 21 alike; kinds .45 .25 .12 .03 .12 .03; a tenth are sincs."""
    rng = np.random.default_rng(0)
    n = 8000
    sides = Counter(Kernels().size(rng) for _ in range(n))
    mixed = Counter(choice(rng, Kernels().mix) for _ in range(n))
    sincs: list[float] = []
    monkeypatch.setattr(
        "dukd.images.kernels.sinc", lambda _, cutoff: sincs.append(cutoff) or np.ones((1, 1))
    )
    monkeypatch.setattr("dukd.images.kernels.gaussian", lambda *_, **__: np.ones((1, 1)))
    monkeypatch.setattr("dukd.images.kernels.plateau", lambda *_, **__: np.ones((1, 1)))
    for _ in range(n):
        Kernels().draw(rng)

    assert set(sides) == {7, 9, 11, 13, 15, 17, 19, 21}
    assert all(abs(count / n - 1 / 8) < 0.02 for count in sides.values())
    assert np.allclose([mixed[k] / n for k in range(6)], Kernels().mix, atol=0.02)
    assert abs(len(sincs) / n - 0.1) < 0.02
    assert math.pi / 5 < min(sincs) < 0.7
    assert 3 < max(sincs) < math.pi


@pytest.mark.parametrize(
    ("stage", "chances", "bounds"),
    [
        (RealESRGAN().first, (0.2, 0.7, 0.1), (0.15, 1.5)),
        (RealESRGAN().second, (0.3, 0.4, 0.3), (0.3, 1.2)),
        (AdcSR().first, (0.2, 0.7, 0.1), (0.3, 1.5)),
        (AdcSR().second, (0.3, 0.4, 0.3), (0.6, 1.2)),
        (Redux().first, (0.2, 0.7, 0.1), (0.4, 1.5)),
        (Redux().second, (0.3, 0.4, 0.3), (0.6, 1.2)),
    ],
)
def test_sizes_are_drawn_as_the_papers_say(stage: Stage, chances, bounds) -> None:
    rng = np.random.default_rng(1)
    factors = np.array([stage.factor(rng) for _ in range(6000)])

    found = [(factors > 1).mean(), (factors < 1).mean(), (factors == 1).mean()]
    assert np.allclose(found, chances, atol=0.02)
    assert bounds[0] <= factors.min() < bounds[0] + 0.02
    assert bounds[1] - 0.02 < factors.max() <= bounds[1]


def test_presets_hold_the_published_numbers() -> None:
    """methods-new.md C1, from the released options."""
    real, adcsr, redux = RealESRGAN(), AdcSR(), Redux()

    assert (real.first.sigma, real.first.poisson, real.first.quality) == (
        (1, 30),
        (0.05, 3),
        (30, 95),
    )
    assert (real.second.sigma, real.second.poisson) == ((1, 25), (0.05, 2.5))
    assert (real.second.blur, real.sinc, real.sharpened, real.first.gray) == (0.8, 0.8, True, 0.4)
    assert real.second.kernels.sigma == (0.2, 1.5)
    assert (adcsr.first.sigma, adcsr.first.quality, adcsr.second.quality) == (
        (1, 15),
        (60, 95),
        (60, 100),
    )
    assert (adcsr.second.blur, adcsr.second.kernels.sizes) == (0.5, (11, 11))
    assert (adcsr.first.kernels.generalized, adcsr.first.kernels.plateau) == ((0.5, 2), (1, 1.5))
    assert (redux.first.blur, redux.sinc, redux.first.sigma, redux.first.quality) == (
        0,
        0,
        (0, 0),
        (75, 95),
    )
    assert (BSRGAN().noise, BSRGAN().quality, BSRGAN().jpeg) == ((2, 25), (30, 95), 0.9)


def test_blur_is_a_convolution_over_reflected_edges() -> None:
    """A point becomes the kernel; one in the corner folds back over the reflection."""
    x = np.zeros((3, 40, 50), np.float32)
    x[:, 20, 25] = 1
    kernel = gaussian(7, (2.0, 1.0), 0.5)

    y = spoil.blur(x, kernel)

    assert np.allclose(y[0, 17:24, 22:29], kernel, atol=1e-6)
    flat = spoil.blur(np.full((3, 30, 30), 0.3, np.float32), kernel)
    assert np.allclose(flat, 0.3, atol=1e-6)
    corner = np.zeros((1, 9, 9), np.float32)
    corner[0, 1, 0] = 1
    expected = kernel[4, 3] + kernel[2, 3]  # from row 1, and from row -1, its reflection
    assert np.isclose(spoil.blur(corner, kernel)[0, 0, 0], expected, atol=1e-6)


def test_noise_has_the_variance_it_is_named_for() -> None:
    """Gaussian: sigma levels. Poisson: gray 64 of one level is 1 photon, so variance x^2."""
    rng = np.random.default_rng(0)
    gray = np.full((3, 100, 100), 64 / 255, np.float32)

    color = spoil.add_gaussian(gray, 10, rng, gray=False) - gray
    shared = spoil.add_gaussian(gray, 10, rng, gray=True) - gray
    photons = spoil.add_poisson(gray, 0.5, rng, gray=False) - gray

    assert np.isclose(color.std() * 255, 10, rtol=0.02)
    assert np.isclose(shared.std() * 255, 10, rtol=0.02)
    assert np.array_equal(shared[0], shared[1])
    assert not np.array_equal(color[0], color[1])
    rate = 64 / 255
    values, counts = np.unique(np.round(photons / 0.5 + rate, 4), return_counts=True)
    assert {0.0, 1.0} <= set(values[:2])  # whole photons, of one level for an image of one level
    assert np.isclose(counts[0] / counts.sum(), math.exp(-rate), atol=0.01)


def test_sharpening_acts_on_strong_detail_only() -> None:
    """A step of 60 levels is made steeper, one of 8 stays; flat parts do not change."""
    x = np.full((3, 80, 80), 0.4, np.float32)
    x[:, :, 40:] += 60 / 255
    weak = np.full((3, 80, 80), 0.4, np.float32)
    weak[:, :, 40:] += 8 / 255

    assert (spoil.sharpen(x)[0, 40, 41] - x[0, 40, 41]) * 255 > 5
    assert np.abs(spoil.sharpen(weak) - weak).max() * 255 < 0.5
    assert np.allclose(spoil.sharpen(np.full((3, 60, 60), 0.7, np.float32)), 0.7, atol=1e-6)


def test_bicubic_is_matlabs() -> None:
    hr = noise(24, 36)

    assert np.array_equal(
        Bicubic().apply(hr, 3, np.random.default_rng()), imresize_uint8(hr, 1 / 3)
    )


def test_stronger_presets_are_further_from_bicubic() -> None:
    hr = np.asarray(Image.fromarray(noise(12, 12)).resize((96, 96), Image.Resampling.BICUBIC))

    def distance(name: str) -> float:
        results = [preset(name).apply(hr, 4, np.random.default_rng(k)) for k in range(12)]
        reference = imresize_uint8(hr, 1 / 4).astype(int)
        return float(np.mean([np.abs(r - reference).mean() for r in results]))

    assert distance("jpeg") < distance("adcsr") < distance("real-esrgan")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Kernels(sizes=(8, 21)), "odd and ascend"),
        (lambda: Kernels(sigma=(3.0, 0.2)), "sigma is positive and ascends"),
        (lambda: Kernels(mix=(1.0, 1.0, 0, 0, 0, 0)), "add up to 1"),
        (lambda: Kernels(sinc=1.5), "sinc is 1.5"),
        (lambda: Stage(factors=(1.5, 0.15)), "factors span 1"),
        (lambda: Stage(factors=(0.0, 1.5)), "factors span 1"),
        (lambda: Stage(quality=(95, 30)), "quality ascends within 1 to 100"),
        (lambda: Stage(sigma=(0, math.inf)), "sigma ascends"),
        (lambda: Stage(gaussian=-0.1), "gaussian is -0.1"),
        (lambda: Stage(resize=(0.5, 0.2, 0.1)), "resize add up to 1"),
        (lambda: Stage(modes=()), "one interpolation"),
        (lambda: RealESRGAN(sinc=2), "sinc is 2"),
        (lambda: BSRGAN(sizes=(7, 22)), "odd and ascend"),
        (lambda: JPEG(quality=(0, 50)), "within 1 to 100"),
    ],
)
def test_impossible_ranges_are_refused(make, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make()


@pytest.mark.parametrize("name", ["real-esrgan", "bsrgan", "adcsr", "redux", "jpeg", "bicubic"])
def test_images_that_cannot_be_degraded_are_refused(name: str) -> None:
    rng = np.random.default_rng(0)
    for wrong, reason in (
        (noise(9, 8), "8 x 9 pixels is not a multiple of the scale 4"),
        (noise(8, 8)[..., :1], "repeat gray three times"),
        (np.dstack([noise(8, 8), noise(8, 8)[..., :1]]), "leave alpha out"),
        (noise(8, 8).astype(np.float32), "RGB of 8 bits"),
    ):
        with pytest.raises(ValueError, match=reason):
            preset(name).apply(wrong, 4, rng)
    if name not in ("jpeg", "bicubic"):
        with pytest.raises(
            ValueError, match="1 x 1 pixels is smaller than the largest blur kernel"
        ):
            preset(name).apply(noise(1, 1), 1, rng)


@pytest.fixture
def pack(tmp_path: Path):
    for i in range(3):
        big = Image.fromarray(noise(20, 24, i)).resize((160, 128), Image.Resampling.BICUBIC)
        big.save(tmp_path / f"{i}.png")
    return prepare(find_pairs(tmp_path, scale=2), tmp_path / "a.pack")


@pytest.mark.parametrize("name", ["real-esrgan", "bsrgan", "jpeg"])
def test_degraded_batches_depend_on_seed_and_number_alone(pack, name: str) -> None:
    """The same bits for 0 and 3 workers, one and two ranks, and whatever was cut before."""
    patches = Patches(pack, patch=24, batch=4, seed=3, degradation=preset(name))
    whole = [patches.batch(k) for k in range(3)]

    with batches(patches, 1, stop=3, workers=3) as stream:
        ahead = list(stream)
    for (lr, hr), (lr2, hr2) in zip(whole[1:], ahead, strict=True):
        assert lr.equal(lr2)
        assert hr.equal(hr2)
    halves = [patches.batch(2, rank, 2)[0] for rank in range(2)]
    assert whole[2][0].equal(type(whole[2][0])(np.concatenate([h.numpy() for h in halves])))
    assert not whole[0][0].equal(Patches(pack, patch=24, batch=4, seed=3).batch(0)[0])
    other = Patches(pack, patch=24, batch=4, seed=4, degradation=preset(name))
    assert not whole[0][0].equal(other.batch(0)[0])
    again = Patches(pack, patch=24, batch=4, seed=3, period=2, degradation=preset(name))
    assert again.batch(3)[0].equal(whole[1][0])


class _Drawn(Bicubic):
    """Paints a patch with its first draw; its underscore keeps it off the list of names."""

    fixed = False
    margin = 0

    def apply(self, hr: np.ndarray, scale: int, rng: np.random.Generator) -> np.ndarray:
        small = super().apply(hr, scale, rng)
        return np.full_like(small, int(rng.random() * 256))


def test_every_sample_draws_from_its_own_number(pack) -> None:
    """Sample 4 k + i of a run with 4 patches per batch: default_rng([seed, 4 k + i, 2])."""
    patches = Patches(pack, patch=8, batch=4, seed=3, degradation=_Drawn())

    lr = patches.batch(2, 1, 2)[0]

    expected = [int(np.random.default_rng([3, g, 2]).random() * 256) for g in (10, 11)]
    assert lr[:, 0, 0, 0].tolist() == expected


def test_degraded_patches_show_what_their_truth_shows(pack) -> None:
    """With light JPEG they are the bicubic patches but for its error; truth is cut as before."""
    plain = Patches(pack, patch=24, batch=8, seed=3).batch(5)
    light = Patches(pack, patch=24, batch=8, seed=3, degradation=JPEG(quality=(95, 95))).batch(5)

    assert light[1].equal(plain[1])
    luma = [(x.float() * LUMA).sum(1) for x in (light[0], plain[0])]
    assert (luma[0] - luma[1]).abs().mean() < 3  # color is halved, and the images are noise


def test_the_digest_tells_degradations_apart(pack) -> None:
    digests = {
        Patches(pack, patch=24, degradation=d).digest
        for d in (None, Bicubic(), JPEG(), JPEG(quality=(50, 60)), RealESRGAN())
    }

    assert len(digests) == 4
    assert Patches(pack, patch=24, degradation=Bicubic()).digest == pack.digest
    assert RealESRGAN(first=replace(Stage(), blur=0.5)) != RealESRGAN()


def test_a_folder_is_degraded_by_seed_and_name(tmp_path: Path) -> None:
    """Whatever else lies there; what cannot be used is left out and named, and pairs are found."""
    for name, side in (("a", 64), ("b", 70), ("c", 64)):
        Image.fromarray(noise(side, 65, 7)).save(tmp_path / f"{name}.png")
    (tmp_path / "notes.txt").write_text("x")
    made = degrade_folder(tmp_path, tmp_path / "lr", RealESRGAN(), scale=2, seed=5)
    alone = degrade_folder(
        tmp_path / "b.png", tmp_path / "lr" / "one", RealESRGAN(), scale=2, seed=5
    )

    assert [path.name for path in made.written] == ["a.png", "b.png", "c.png"]
    assert made.passed_over == {".txt": 1}
    assert alone.written[0].read_bytes() == (tmp_path / "lr" / "b.png").read_bytes()
    a, c = (read_rgb8(tmp_path / "lr" / f"{n}.png") for n in "ac")
    assert not np.array_equal(a, c)  # equal images, other names
    assert made.sheet == tmp_path / "lr-sheet.png"
    assert read_rgb8(made.sheet).shape == (3 * 192 + 4 * 8, 2 * 192 + 3 * 8, 3)
    (tmp_path / "d.png").write_bytes(b"")
    Image.fromarray(noise(4, 4)).save(tmp_path / "e.png")
    again = degrade_folder(tmp_path, tmp_path / "lr", RealESRGAN(), scale=2, seed=5)
    assert len(again.written) == 3  # the sheet is no source
    assert len(again.failed) == 2
    assert any("d.png" in reason for reason in again.failed)
    assert any("e.png: an image of 4 x 4 pixels is smaller" in r for r in again.failed)
    tall = degrade_folder(tmp_path, tmp_path / "lr", RealESRGAN(), scale=66, seed=5)
    assert len(tall.failed) == 5
    assert any("a.png: 64 x 65 pixels are less than one of the result" in r for r in tall.failed)


def test_wrong_arguments_of_degrading_are_sentences(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    Image.fromarray(noise(32, 32)).save(tmp_path / "a.png")
    for source, out, options, reason in (
        (tmp_path, tmp_path, {}, "is the source"),
        (tmp_path / "no", tmp_path / "o", {}, "there is no"),
        (tmp_path, tmp_path / "o", {"scale": 0}, "scale is at least 1"),
        (tmp_path, tmp_path / "o", {"seed": -1}, "seed not negative"),
        (tmp_path, Path(), {}, r"^\. has nothing beside it"),
        (tmp_path, Path("/"), {}, "^/ has nothing beside it"),
        (tmp_path, tmp_path / "a.txt", {}, r"go into a folder, but .*a\.txt is a file"),
    ):
        with pytest.raises(ValueError, match=reason):
            degrade_folder(source, out, JPEG(), **{"scale": 2, **options})
    assert not (tmp_path / "o").exists()


def test_sources_of_one_name_all_become_files_of_their_own(tmp_path: Path) -> None:
    """Names that differ in extension or case only, by the rule of `dukd upscale`; each is told."""
    for number, name in enumerate(("a.png", "a.bmp", "IMG.png", "img.png", "b.tif")):
        Image.fromarray(noise(32, 32, number)).save(tmp_path / name)

    made = degrade_folder(tmp_path, tmp_path / "lr", Bicubic(), scale=2)

    expected = {"a.png": "a.png.png", "a.bmp": "a.bmp.png", "IMG.png": "IMG.png"}
    expected |= {"img.png": "img~2.png", "b.tif": "b.png"}
    for source, target in expected.items():
        lr = imresize_uint8(read_rgb8(tmp_path / source), 1 / 2)
        assert np.array_equal(read_rgb8(tmp_path / "lr" / target), lr), source
    renamed = {path.name: target.name for path, target in made.renamed.items()}
    kept = {"IMG.png", "b.tif"}
    assert renamed == {s: t for s, t in expected.items() if s not in kept}
    assert len({path.name.casefold() for path in made.written}) == 5


def test_degrading_overwrites_no_source_and_takes_no_result_for_one(tmp_path: Path) -> None:
    Image.fromarray(noise(32, 32)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(ValueError, match=r"a\.png is a source: write to another folder"):
        degrade_folder(tmp_path / "a.png", tmp_path, Bicubic(), scale=2)
    assert (tmp_path / "a.png").read_bytes() == before
    for _ in range(2):
        made = degrade_folder(tmp_path, tmp_path / "lr", Bicubic(), scale=2, recursive=True)
        assert made.written == (tmp_path / "lr" / "a.png",)
    above = degrade_folder(tmp_path / "lr" / "a.png", tmp_path / "lr" / "x", Bicubic(), scale=2)
    assert above.written == (tmp_path / "lr" / "x" / "a.png",)
    (tmp_path / "deep").mkdir()
    Image.fromarray(noise(32, 32)).save(tmp_path / "deep" / "z.png")
    assert degrade_folder(tmp_path / "deep", tmp_path, Bicubic(), scale=2).written == (
        tmp_path / "z.png",
    )


def test_a_sheet_that_cannot_be_written_is_said_beside_the_images_that_were(tmp_path: Path) -> None:
    Image.fromarray(noise(32, 32)).save(tmp_path / "a.png")
    (tmp_path / "lr-sheet.png").mkdir()

    made = degrade_folder(tmp_path, tmp_path / "lr", Bicubic(), scale=2)

    assert made.written == (tmp_path / "lr" / "a.png",)
    assert made.sheet is None
    assert "lr-sheet.png: cannot be written" in made.failed[0]


def test_a_contact_sheet_beside_its_folder_is_no_image_of_the_set(tmp_path):
    """What `dukd degrade set/HR -o set/LR` leaves is a set of pairs."""
    (tmp_path / "HR").mkdir()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "HR" / "a.png")

    made = degrade_folder(tmp_path / "HR", tmp_path / "LR", preset("jpeg"), scale=2)

    assert made.sheet == tmp_path / "LR-sheet.png"
    (pair,) = find_pairs(tmp_path, scale=2)
    assert pair.lr == tmp_path / "LR" / "a.png"


def test_one_image_is_not_degraded_into_itself(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(image)

    with pytest.raises(ValueError, match="is the source: write to another folder"):
        degrade_folder(image, image, preset("bicubic"), scale=2)
