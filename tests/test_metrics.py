"""Metrics are those of the field's tables."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import structural_similarity
from torch.testing import assert_close

from dukd.evaluation import metrics
from dukd.evaluation.metrics import (
    agreement,
    find,
    measure,
    psnr_rgb,
    psnr_y,
    ssim_rgb,
    ssim_y,
)
from dukd.images.resize import imresize_uint8

GRAY = torch.full((2, 3, 16, 16), 100 / 255)
MEASURED = {
    ("Set5", 2): 33.673,
    ("Set5", 3): 30.403,
    ("Set5", 4): 28.429,
    ("Set14", 2): 30.325,
    ("Set14", 3): 27.631,
    ("Set14", 4): 26.088,
}
"""Bicubic down and up, both as MATLAB does it on 8 bits, by an independent implementation."""
RCAN = {2: 38.274, 3: 34.742, 4: 32.634}
"""The authors' own images for Set5; the paper says 38.27, 34.74 and 32.63."""


def read(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB"))


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.tensor(pixels).permute(2, 0, 1)[None] / 255


def noisy(
    levels: float, *, n: int = 1, h: int = 40, w: int = 31
) -> tuple[torch.Tensor, torch.Tensor]:
    """A smooth image and the same with noise of so many gray levels."""
    waves = torch.sin(torch.arange(h)[:, None] / 5) * torch.cos(torch.arange(w) / 7)
    hr = (0.5 + 0.4 * waves * torch.tensor([1.0, 0.8, 0.5])[:, None, None]).expand(n, 3, h, w)
    return (hr + levels / 255 * torch.randn(n, 3, h, w)).clamp(0, 1), hr


def test_one_gray_level_of_error() -> None:
    """An error of one level in R, G and B is 219 / 255 of a level in luma: 49.45 dB; in RGB
    48.13 dB."""
    expected = 20 * math.log10(255 / (219 / 255))

    assert_close(psnr_y(GRAY + 1 / 255, GRAY, border=2), torch.full((2,), expected).double())
    assert_close(
        psnr_rgb(GRAY + 1 / 255, GRAY, border=2), torch.full((2,), 20 * math.log10(255)).double()
    )


def test_equal_images_are_infinitely_alike() -> None:
    assert torch.isinf(psnr_y(GRAY, GRAY, border=2)).all()
    assert_close(ssim_y(GRAY, GRAY, border=2), torch.ones(2).double())


def test_outputs_are_rounded_to_eight_bits_and_clamped() -> None:
    """0.4 of a level is no error; what lies beyond black or white counts as black or white."""
    assert torch.isinf(psnr_y(GRAY + 0.4 / 255, GRAY, border=0)).all()
    assert torch.isinf(
        psnr_rgb(torch.full((1, 3, 4, 4), 1.3), torch.ones(1, 3, 4, 4), border=0)
    ).all()


def test_the_frame_is_left_out() -> None:
    spoilt = GRAY.clone()
    spoilt[..., :2, :] = spoilt[..., -2:, :] = spoilt[..., :2] = spoilt[..., -2:] = 0

    assert torch.isinf(psnr_y(spoilt, GRAY, border=2)).all()
    assert not torch.isinf(psnr_y(spoilt, GRAY, border=1)).any()
    assert_close(ssim_y(spoilt, GRAY, border=2), torch.ones(2).double())


def test_every_image_has_its_own_value() -> None:
    sr, hr = noisy(9, n=3)

    for metric in (psnr_y, psnr_rgb, ssim_y, ssim_rgb):
        alone = torch.cat([metric(sr[k : k + 1], hr[k : k + 1], border=3) for k in range(3)])
        assert metric(sr, hr, border=3).dtype == torch.float64
        assert_close(metric(sr, hr, border=3), alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("levels", [1, 8, 60])
def test_ssim_is_that_of_scikit_image(levels: float) -> None:
    """With its Gaussian window and without sample covariance, over the windows inside the image."""
    sr, hr = ((x * 255).round().double().numpy()[0] for x in noisy(levels))
    weights = np.array([65.481, 128.553, 24.966]) / 255

    def reference(a: np.ndarray, b: np.ndarray) -> float:
        options = {
            "gaussian_weights": True,
            "sigma": 1.5,
            "use_sample_covariance": False,
            "data_range": 255,
        }
        _, windows = structural_similarity(a, b, full=True, **options)
        return float(windows[5:-5, 5:-5].mean())

    luma = [16 + np.tensordot(weights, x, 1)[4:-4, 4:-4] for x in (sr, hr)]
    channels = [reference(a[4:-4, 4:-4], b[4:-4, 4:-4]) for a, b in zip(sr, hr, strict=True)]
    batch = [torch.from_numpy(x)[None] / 255 for x in (sr, hr)]
    assert ssim_y(*batch, border=4).item() == pytest.approx(reference(*luma), abs=1e-7)
    assert ssim_rgb(*batch, border=4).item() == pytest.approx(float(np.mean(channels)), abs=1e-7)


def test_ssim_of_two_constants_is_their_luminance_term() -> None:
    """Luma has its offset of 16, without which the value is another (methods.md D47)."""
    a, b = 16 + 219 * 100 / 255, 16 + 219 * 120 / 255
    c1 = 6.5025

    expected = (2 * a * b + c1) / (a * a + b * b + c1)
    assert_close(ssim_y(GRAY + 20 / 255, GRAY, border=0), torch.full((2,), expected).double())


def test_metrics_are_found_in_the_order_of_tables() -> None:
    assert list(find())[:5] == ["psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb", "agreement"]
    assert list(find(["ssim_y", "psnr_y"])) == ["psnr_y", "ssim_y"]
    with pytest.raises(ValueError, match="no metric 'psnr'; did you mean psnr_y"):
        find(["psnr"])


def test_what_is_measured_is_what_there_is_to_compare_with() -> None:
    sr, hr = noisy(8.0)
    teacher, _ = noisy(4.0)
    metrics_ = list(find(["psnr_y", "ssim_rgb", "agreement"]).values())

    found = measure(metrics_, sr, truth=hr, teacher=teacher, border=3)

    assert found == {
        "psnr_y": psnr_y(sr, hr, border=3).item(),
        "ssim_rgb": ssim_rgb(sr, hr, border=3).item(),
        "agreement": agreement(sr, teacher, border=3).item(),
    }
    assert list(measure(metrics_, sr, truth=hr, border=3)) == ["psnr_y", "ssim_rgb"]
    assert measure(metrics_, sr, border=3) == {}


def test_a_large_image_is_compared_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is blurred at once fits into a cache, whatever the image's size, and the value is
    that of the whole."""
    sr, hr = noisy(8.0, h=211, w=97)
    blurred: list[int] = []
    blur = metrics._blur
    monkeypatch.setattr(metrics, "_blur", lambda x: blurred.append(x.numel()) or blur(x))

    whole = _with_strip(monkeypatch, 1 << 40, sr, hr)
    assert blurred == [4 * 3 * 211 * 97]
    blurred.clear()
    for strip in (1, 3 * 97 * 7, 1 << 13):
        assert_close(_with_strip(monkeypatch, strip, sr, hr), whole, rtol=1e-13, atol=0)
        assert max(blurred) <= 4 * max(strip + 10 * 3 * 97, 11 * 3 * 97)
        blurred.clear()


def _with_strip(
    monkeypatch: pytest.MonkeyPatch, strip: int, sr: torch.Tensor, hr: torch.Tensor
) -> torch.Tensor:
    monkeypatch.setattr(metrics, "_STRIP", strip)
    return ssim_rgb(sr, hr, border=0)


def test_agreement_is_psnr_on_luma_and_symmetric() -> None:
    student, teacher = noisy(5)

    assert_close(
        agreement(student, teacher, border=2), psnr_y(student, teacher, border=2), rtol=0, atol=0
    )
    assert_close(
        agreement(student, teacher, border=2), agreement(teacher, student, border=2), rtol=0, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_measured_in_double(dtype: torch.dtype) -> None:
    levels = torch.arange(0, 256, 16).expand(
        1, 3, 16, 16
    )  # exact in half precision after rounding to 8 bits

    assert torch.isinf(psnr_y((levels / 256).to(dtype), levels / 256, border=0)).all()


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sr is \(1, 3, 8, 8\) but hr is \(1, 3, 8, 9\)"):
        psnr_y(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 9), border=0)
    with pytest.raises(ValueError, match=r"RGB images, but got \(1, 1, 8, 8\)"):
        psnr_y(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), border=0)
    with pytest.raises(ValueError, match="a border of 4 pixels leaves less than 1 x 1 of 8 x 9"):
        psnr_rgb(torch.zeros(1, 3, 8, 9), torch.zeros(1, 3, 8, 9), border=4)
    with pytest.raises(ValueError, match="leaves less than 11 x 11"):
        ssim_y(torch.zeros(1, 3, 14, 20), torch.zeros(1, 3, 14, 20), border=2)


@pytest.mark.parametrize(("name", "scale"), MEASURED)
def test_bicubic_has_the_known_value(real_data: Path, name: str, scale: int) -> None:
    values: list[torch.Tensor] = []
    for path in sorted((real_data / "eval" / name / "HR").glob("*.png")):
        lr = read(
            real_data / "eval" / name / "LR_bicubic" / f"X{scale}" / f"{path.stem}x{scale}.png"
        )
        sr = imresize_uint8(lr, scale)
        hr = read(path)[: sr.shape[0], : sr.shape[1]]
        values.append(psnr_y(tensor(sr), tensor(hr), border=scale))

    assert torch.cat(values).mean().item() == pytest.approx(MEASURED[name, scale], abs=5.1e-4)


@pytest.mark.parametrize("scale", RCAN)
def test_the_images_of_rcan_have_their_published_value(real_data: Path, scale: int) -> None:
    values: list[torch.Tensor] = []
    for path in sorted((real_data / "eval" / "Set5" / "HR").glob("*.png")):
        sr = read(
            real_data / "sr_outputs" / "RCAN_Set5" / f"x{scale}" / f"{path.stem}_RCAN_x{scale}.png"
        )
        hr = read(path)[: sr.shape[0], : sr.shape[1]]
        values.append(psnr_y(tensor(sr), tensor(hr), border=scale))

    assert torch.cat(values).mean().item() == pytest.approx(RCAN[scale], abs=5.1e-4)
