"""How teacher outputs are kept: what is exact, and what is rounded by how much."""

import math

import pytest
import torch
from torch.testing import assert_close

from dukd.training.codec import Codec, FeatureCodec

CPU = torch.device("cpu")


@pytest.mark.parametrize(("bits", "step"), [(8, 1 / 224), (16, 1 / 32768)])
def test_black_and_white_are_kept_exactly_and_the_rest_to_half_a_step(
    bits: int, step: float
) -> None:
    codec = Codec(bits)  # type: ignore[arg-type]
    x = torch.cat([torch.tensor([0.0, 1.0]), torch.rand(10_000)])

    again = codec.decode(codec.encode(x), torch.device("cpu"))

    assert torch.equal(again[:2], x[:2])
    assert float((again - x).abs().max()) <= step / 2 + 1e-7
    assert torch.equal(codec.decode(codec.encode(again), torch.device("cpu")), again)


@pytest.mark.parametrize(
    ("bits", "low", "high"), [(8, -16 / 224, 239 / 224), (16, -0.5, 1.5 - 2**-15)]
)
def test_what_lies_outside_the_range_is_clamped(bits: int, low: float, high: float) -> None:
    codec = Codec(bits)  # type: ignore[arg-type]

    ends = codec.decode(codec.encode(torch.tensor([-9.0, 9.0])), torch.device("cpu"))

    assert_close(ends, torch.tensor([low, high]), rtol=0, atol=1e-7)


def test_thirty_two_bits_keep_every_value() -> None:
    x = torch.randn(100)

    assert torch.equal(Codec(32).decode(Codec(32).encode(x), torch.device("cpu")), x)


def test_features_are_kept_within_the_range_of_each_channel() -> None:
    """By hand: a channel from -200 to 310 in steps of 2, one of a single value, exactly."""
    x = torch.tensor([[[[-200.0, 310.0, 0.9]], [[7.0, 7.0, 7.0]]]])
    stored, scales = FeatureCodec(8).encode(x)

    assert stored.tolist() == [[[[0, 255, 100]], [[0, 0, 0]]]]
    assert FeatureCodec(8).decode(stored, scales, CPU).tolist() == [[[[-200, 310, 0]], [[7, 7, 7]]]]
    sixteen = FeatureCodec(16)
    assert_close(sixteen.decode(*sixteen.encode(x), CPU), x, rtol=0, atol=510 / 65535 / 2 * 1.001)
    exact = FeatureCodec(32)
    assert torch.equal(exact.decode(*exact.encode(x), CPU), x)


def test_eight_bits_are_fifty_seven_decibels_from_the_teacher() -> None:
    """Rounding to steps of 1 / 224 has the variance 1 / (12 * 224^2): 57.8 dB."""
    x = torch.rand(200_000, dtype=torch.float64)
    error = Codec(8).decode(Codec(8).encode(x), torch.device("cpu")).double() - x

    assert -10 * math.log10(error.square().mean()) == pytest.approx(
        10 * math.log10(12 * 224**2), abs=0.05
    )
