"""Color is converted as MATLAB does it."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from dukd.images.color import luma, rgb_to_ycbcr, ycbcr_to_rgb


def pixel(*rgb: float) -> torch.Tensor:
    return torch.tensor(rgb, dtype=torch.float64).reshape(1, 3, 1, 1)


@pytest.mark.parametrize(
    ("rgb", "ycbcr"),
    [
        ((0, 0, 0), (16, 128, 128)),
        ((1, 1, 1), (235, 128, 128)),
        ((1, 0, 0), (81.481, 90.203, 240)),
        ((0, 1, 0), (144.553, 53.797, 34.214)),
        ((0, 0, 1), (40.966, 240, 109.786)),
    ],
)
def test_primaries_have_the_levels_of_bt601(
    rgb: tuple[float, ...], ycbcr: tuple[float, ...]
) -> None:
    """Sums of MATLAB's coefficients, by hand."""
    assert_close(rgb_to_ycbcr(pixel(*rgb)) * 255, pixel(*ycbcr), rtol=0, atol=1e-9)


def test_luma_is_the_first_channel_and_is_not_rounded() -> None:
    rgb = torch.rand(2, 3, 5, 4, dtype=torch.float64)

    assert_close(luma(rgb), rgb_to_ycbcr(rgb)[:, :1], rtol=0, atol=0)
    assert_close(
        luma(pixel(1 / 255, 0, 0)) * 255, torch.full((1, 1, 1, 1), 16 + 65.481 / 255).double()
    )


@given(st.integers(0, 2**31))
def test_conversion_is_undone(seed: int) -> None:
    rgb = torch.rand(1, 3, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

    assert_close(ycbcr_to_rgb(rgb_to_ycbcr(rgb)), rgb, rtol=0, atol=1e-12)


@pytest.mark.parametrize("convert", [luma, rgb_to_ycbcr, ycbcr_to_rgb])
def test_other_shapes_are_refused(convert: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"\(n, 3, h, w\), but got \(1, 1, 4, 4\)"):
        convert(torch.zeros(1, 1, 4, 4))


def test_float32_stays_float32_and_takes_a_gradient() -> None:
    rgb = torch.rand(1, 3, 2, 2, requires_grad=True)

    y = luma(rgb)
    y.sum().backward()

    assert y.dtype == torch.float32
    assert rgb.grad is not None
    assert_close(rgb.grad[0, :, 0, 0], torch.tensor([65.481, 128.553, 24.966]) / 255)
