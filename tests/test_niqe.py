"""NIQE is MATLAB's, and every metric keeps what tables take for granted."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dukd import images
from dukd.core.registry import known
from dukd.evaluation.metrics import Metric, find
from dukd.evaluation.niqe import niqe
from dukd.images.convert import to_tensor
from dukd.testing.metrics import check_metric


def image(path: Path) -> Tensor:
    return to_tensor(images.read_rgb8(path))


def test_baboon_has_matlabs_value(real_data: Path) -> None:
    """MATLAB R2021a gives 5.7296; the luma from 16 to 235 is what agrees with it."""
    baboon = image(real_data / "eval" / "Set14" / "HR" / "baboon.png")

    assert niqe(baboon, border=0, studio=True).item() == pytest.approx(5.7296, abs=1e-3)
    assert niqe(baboon, border=0).item() == pytest.approx(5.7316, abs=1e-3)


@pytest.mark.slow
def test_pairs_of_the_real_world_have_the_known_values(real_data: Path) -> None:
    """The ground truth of RealSR: 6.078 with full-range luma, 6.265 from 16 to 235."""
    found = [image(p) for p in sorted((real_data / "eval" / "RealSR" / "HR").glob("*.webp"))]

    values = torch.tensor([[niqe(x, border=0, studio=s) for s in (False, True)] for x in found])

    assert values.mean(0).tolist() == pytest.approx([6.078, 6.265], abs=1e-3)


def test_what_is_flat_has_no_value_and_no_warning() -> None:
    """A flat part among others leaves a value, as in MATLAB; numpy's warnings are errors here."""
    noise = torch.rand(1, 3, 192, 288, generator=torch.Generator().manual_seed(0))
    partly = noise.clone()
    partly[..., :96, :96] = 0.5

    assert niqe(torch.full((1, 3, 192, 288), 0.5), border=0).isnan().item()
    assert niqe(partly, border=0).isfinite().item()
    assert niqe(partly, border=0).item() != niqe(noise, border=0).item()


def test_what_is_smaller_than_two_blocks_has_no_value() -> None:
    assert niqe(torch.rand(1, 3, 191, 96), border=0).isnan().all()
    assert niqe(torch.rand(1, 3, 192, 96), border=0).isfinite().all()
    assert niqe(torch.rand(1, 3, 192, 96), border=1).isnan().all()
    with pytest.raises(ValueError, match=r"RGB images, but got \(1, 1, 200, 200\)"):
        niqe(torch.rand(1, 1, 200, 200), border=0)


@pytest.mark.parametrize(
    "name", [n for n, kind in known(Metric).items() if kind.__module__.startswith("dukd.")]
)
def test_every_metric_keeps_its_promises(name: str) -> None:
    try:
        metric = find([name])[name]
    except ValueError as error:
        pytest.skip(f"its files are not ours to ship: {error}")
    check_metric(metric)


def test_a_metric_that_looks_beyond_the_border_is_caught() -> None:
    class Mean(Metric):
        name = "mean of everything"
        title = "mean"
        reference = "none"
        chosen = False

        def __call__(self, sr: Tensor, other: Tensor, border: int) -> Tensor:
            return sr.double().mean((1, 2, 3))

    with pytest.raises(AssertionError, match="mean of everything looks beyond the border"):
        check_metric(Mean())
