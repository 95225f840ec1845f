"""Resizing is MATLAB's: by hand-computed values, by properties, and bit for bit by the field's
own files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F  # noqa: N812  the name everybody knows
from torch.testing import assert_close

from dukd.images.resize import downscale, imresize, imresize_uint8, upscale

sizes = st.integers(1, 23)


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def test_enlarging_twice_has_the_weights_of_keys() -> None:
    """New pixels lie a quarter of a pixel off: weights -9, 111, 29, -3 of 128; the edge pixel is
    repeated."""
    x = row(0, 0, 0, 128, 0, 0, 0)

    expected = row(0, 0, 0, -3, -9, 29, 111, 111, 29, -9, -3, 0, 0, 0)
    assert_close(imresize(x, size=(1, 14)), expected, rtol=0, atol=1e-9)
    assert_close(
        imresize(row(128, 0, 0, 0), size=(1, 8)),
        row(140, 102, 26, -9, -3, 0, 0, 0),
        rtol=0,
        atol=1e-9,
    )


def test_shrinking_twice_stretches_the_kernel() -> None:
    """Weights of an impulse under the kernel of twice the width: -3, -9, 29, 111, 111, 29, -9,
    -3 of 256."""
    x = torch.zeros(1, 16, dtype=torch.float64)
    x[0, 6] = 256

    assert_close(imresize(x, size=(1, 8)), row(0, -3, 29, 111, -9, 0, 0, 0), rtol=0, atol=1e-9)


def test_without_antialiasing_shrinking_only_samples() -> None:
    """Halfway between two pixels the kernel is -1, 9, 9, -1 of 16."""
    x = row(0, 0, 0, 16, 0, 0, 0, 0)

    assert_close(imresize(x, size=(1, 4), antialias=False), row(0, 9, -1, 0), rtol=0, atol=1e-9)


@given(sizes, sizes, sizes, sizes, st.floats(-2, 2))
def test_a_constant_stays_itself(h: int, w: int, new_h: int, new_w: int, level: float) -> None:
    x = torch.full((1, 1, h, w), level, dtype=torch.float64)

    expected = torch.full((1, 1, new_h, new_w), level, dtype=torch.float64)
    assert_close(imresize(x, size=(new_h, new_w)), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", [2, 3, 4, 1.5, 0.5, 1 / 3, 0.4])
def test_a_ramp_stays_a_ramp_inside(scale: float) -> None:
    """The kernel reproduces straight lines; pixel centers map by ``(x + 0.5) / scale - 0.5``."""
    x = torch.arange(60, dtype=torch.float64).expand(1, 60)

    y = imresize(x, size=(1, round(60 * scale)))

    expected = (torch.arange(y.shape[-1]).double() + 0.5) / scale - 0.5
    inside = (expected > 8) & (expected < 51)
    tolerance = (
        1e-9 if scale >= 1 or scale == 0.5 else 0.02
    )  # the stretched kernel's samples are not quite balanced
    assert_close(y[0, inside], expected[inside], rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("n", "scale", "expected"), [(5, 0.5, 3), (7, 1 / 3, 3), (15, 1 / 5, 3), (5, 1.5, 8)]
)
def test_the_new_size_is_rounded_up(n: int, scale: float, expected: int) -> None:
    assert imresize(torch.zeros(n, n), scale).shape == (expected, expected)


def test_size_and_scale_agree_where_they_divide() -> None:
    x = torch.rand(2, 3, 12, 18, dtype=torch.float64)

    assert_close(imresize(x, 1 / 3), imresize(x, size=(4, 6)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("shape", [(48, 48), (16, 24), (300, 420)])
def test_shrinking_agrees_with_padded_interpolation(shape: tuple[int, int], scale: int) -> None:
    """torch's antialiased bicubic is MATLAB's away from the border: mirror enough pixels around,
    and cut them off."""
    h, w = (n // scale * scale for n in shape)
    x = torch.rand(2, 3, h, w, dtype=torch.float64)
    rows, columns = (np.pad(np.arange(n), 4 * scale, mode="symmetric") for n in (h, w))

    padded = x[..., torch.from_numpy(rows), :][..., torch.from_numpy(columns)]
    expected = F.interpolate(padded, scale_factor=1 / scale, mode="bicubic", antialias=True)[
        ..., 4:-4, 4:-4
    ]
    assert_close(downscale(x, scale), expected, rtol=0, atol=1e-9)


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([2, 3, 4]))
def test_enlarging_commutes_with_the_symmetries_of_the_square(h: int, w: int, scale: int) -> None:
    x = torch.rand(1, 2, h, w, dtype=torch.float64)

    assert_close(upscale(x.mT, scale), upscale(x, scale).mT, rtol=0, atol=1e-9)
    assert_close(upscale(x.flip(-1), scale), upscale(x, scale).flip(-1), rtol=0, atol=1e-9)
    assert_close(upscale(1 - x, scale), 1 - upscale(x, scale), rtol=0, atol=1e-9)


def test_a_long_axis_in_blocks_equals_one_matrix() -> None:
    """Resizing the identity gives the whole matrix of a pass; long axes are cut into blocks of
    it."""
    x = torch.rand(3, 700, dtype=torch.float64)
    for size in (175, 1400, 311, 1500):
        matrix = imresize(torch.eye(700, dtype=torch.float64), size=(700, size))

        assert_close(imresize(x, size=(3, size)), x @ matrix, rtol=0, atol=1e-9)


def test_images_of_a_batch_do_not_mix() -> None:
    x = torch.rand(3, 2, 8, 10, dtype=torch.float64)

    assert_close(
        downscale(x, 2),
        torch.stack([downscale(image[None], 2)[0] for image in x]),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("size", [(3, 3), (4, 9), (13, 5)])
def test_the_gradient_is_that_of_the_function(size: tuple[int, int]) -> None:
    x = torch.rand(1, 2, 6, 7, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda t: imresize(t, size=size), (x,))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)]
)
def test_every_float_type_keeps_its_type(dtype: torch.dtype, tolerance: float) -> None:
    """Half precision is rounded once, at the end: the tolerance is half a unit in its last place
    near 1."""
    x = torch.rand(1, 3, 16, 16).to(dtype)

    y = downscale(x, 2)

    assert y.dtype == dtype
    assert_close(y.double(), downscale(x.double(), 2), rtol=0, atol=tolerance)


def test_autocast_and_shortened_products_change_nothing() -> None:
    """Training runs under autocast or with TF32; the LR image must not become coarser for it."""
    x = torch.rand(1, 3, 16, 16)
    expected = downscale(x, 2)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(downscale(x, 2), expected, rtol=0, atol=0)
    torch.set_float32_matmul_precision("medium")
    try:
        assert_close(downscale(x, 2), expected, rtol=0, atol=2e-7)
    finally:
        torch.set_float32_matmul_precision("highest")


def test_the_excess_is_cut_at_the_bottom_and_the_right() -> None:
    x = torch.rand(1, 3, 11, 10)

    assert_close(downscale(x, 4), downscale(x[..., :8, :8], 4), rtol=0, atol=0)


def test_what_cannot_be_resized_is_refused() -> None:
    with pytest.raises(ValueError, match="either a scale or a size"):
        imresize(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="either a scale or a size"):
        imresize(torch.zeros(2, 2), 2, size=(4, 4))
    with pytest.raises(ValueError, match="positive number, but got -1"):
        imresize(torch.zeros(2, 2), -1)
    with pytest.raises(ValueError, match="at least 1 pixel"):
        imresize(torch.zeros(2, 2), size=(0, 4))
    with pytest.raises(ValueError, match=r"shape \(3, 0, 2\)"):
        imresize(torch.zeros(3, 0, 2), 2)
    with pytest.raises(ValueError, match="see imresize_uint8"):
        imresize(torch.zeros(2, 2, dtype=torch.uint8), 2)
    with pytest.raises(ValueError, match=r"8-bit images, but got torch\.float32"):
        imresize_uint8(torch.zeros(2, 2), 2)
    with pytest.raises(ValueError, match="2 x 9 pixels cannot be reduced 4 times"):
        downscale(torch.zeros(1, 3, 2, 9), 4)


def test_eight_bits_are_rounded_half_up_after_each_pass() -> None:
    """Rows first: 255 * 111 / 256 = 110.6 becomes 111, then 111 * 111 / 256 = 48.1; unrounded it
    were 47.9."""
    x = np.zeros((16, 16), np.uint8)
    x[6, 6] = 255

    y = imresize_uint8(x, 0.5)

    assert y[3, 3] == 48
    assert y[2, 3] == 13  # 255 * 29 / 256 = 28.9 becomes 29, then 29 * 111 / 256 = 12.6
    assert y[4, 3] == 0  # 255 * -9 / 256 is clipped before the second pass
    half = np.array([[0, 1]], np.uint8)
    assert imresize_uint8(half, size=(1, 1)).item() == 1  # 0.5 goes up


def test_the_smaller_scale_goes_first() -> None:
    """Columns are shrunk before rows are enlarged: rounding in between makes the orders differ."""
    x = torch.randint(0, 256, (9, 12), dtype=torch.uint8)

    both = imresize_uint8(x, size=(18, 4))

    assert torch.equal(both, imresize_uint8(imresize_uint8(x, size=(9, 4)), size=(18, 4)))


def test_arrays_and_tensors_are_the_same_images() -> None:
    x = torch.randint(0, 256, (3, 9, 12), dtype=torch.uint8)

    y = imresize_uint8(x, 1 / 3)

    assert np.array_equal(
        imresize_uint8(x.permute(1, 2, 0).numpy(), 1 / 3), y.permute(1, 2, 0).numpy()
    )
    assert np.array_equal(imresize_uint8(x[0].numpy(), 1 / 3), y[0].numpy())


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["Set5", "Set14"])
def test_the_files_of_the_benchmarks_are_reproduced_bit_for_bit(
    real_data: Path, name: str, scale: int
) -> None:
    different: dict[str, int] = {}
    paths = sorted((real_data / "eval" / name / "HR").glob("*.png"))
    for path in paths:
        with Image.open(path) as file:
            hr = np.asarray(file)
        with Image.open(
            real_data / "eval" / name / "LR_bicubic" / f"X{scale}" / f"{path.stem}x{scale}.png"
        ) as file:
            lr = np.asarray(file)
        h, w = (n // scale * scale for n in hr.shape[:2])
        different[path.stem] = int((imresize_uint8(hr[:h, :w], 1 / scale) != lr).sum())

    assert len(paths) == {"Set5": 5, "Set14": 14}[name]
    assert different == dict.fromkeys(different, 0)
