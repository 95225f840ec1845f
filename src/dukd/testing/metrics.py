"""What every metric promises, as a check that needs no test framework."""

import torch

from dukd.core.registry import known
from dukd.evaluation.metrics import Metric, find


def check_metric(metric: Metric, *, side: int = 208) -> None:
    """Hold a metric to what tables, files and evaluations take for granted.

    Args:
        metric: The metric.
        side: Rows and columns of the images it is tried on.

    Raises:
        AssertionError: If a promise is not kept; the message says which.
    """
    name = metric.name
    assert known(Metric).get(name) is type(metric), f"{name} is not found by its name"
    assert type(find([name])[name]) is type(metric), f"{name} cannot be made without arguments"
    assert metric.title, f"{name} has no title"
    assert metric.digits >= 0, f"{name} has {metric.digits} digits"
    assert metric.better in {"higher", "lower"}, f"{name} does not say which values are good"
    assert metric.reference in {"truth", "teacher", "none"}, f"{name} has no reference"
    rng = torch.Generator().manual_seed(0)
    sr = torch.rand(2, 3, side, side, generator=rng)
    other = sr if metric.reference == "none" else torch.rand(2, 3, side, side, generator=rng)
    kept = sr.clone(), other.clone()
    values = metric(sr, other, 4)
    assert values.shape == (2,), f"{name} gives {tuple(values.shape)}, not a value per image"
    assert values.dtype == torch.float64, f"{name} gives {values.dtype}, not float64"
    assert torch.isfinite(values).all(), f"{name} gives {values.tolist()} for noise"
    alone = torch.cat([metric(sr[i : i + 1], other[i : i + 1], 4) for i in range(2)])
    assert torch.allclose(values, alone, rtol=1e-9), f"{name} depends on the batch"
    assert torch.equal(sr, kept[0]), f"{name} changes the output it is shown"
    assert torch.equal(other, kept[1]), f"{name} changes what it compares with"
    framed = sr.clone()
    framed[..., :4, :] = framed[..., -4:, :] = framed[..., :4] = framed[..., -4:] = 0
    shown = framed if metric.reference == "none" else other
    assert torch.allclose(metric(framed, shown, 4), values), f"{name} looks beyond the border"
