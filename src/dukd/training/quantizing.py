"""How a quantized student begins: with the weights of its float self, and ranges of its patches."""

from pathlib import Path

from dukd.data.patches import Patches
from dukd.images.convert import from_levels
from dukd.networks.base import Network
from dukd.networks.exits import Exits, ExitsConfig
from dukd.networks.files import weights
from dukd.networks.quantize.balance import balance
from dukd.networks.quantize.calibrate import calibrate
from dukd.networks.quantized import Quantized, QuantizedConfig
from dukd.training.experiment import Experiment


def warm_start(student: Network, path: Path, *, averaged: bool = False) -> str:
    """Start a student from a file of weights, one around a network also from that network's.

    Args:
        student: The network that starts.
        path: The file.
        averaged: Whether it takes averaged weights where the file has others as well.

    Returns:
        A sentence that says how much was taken.

    Raises:
        ValueError: If hardly anything fits.
    """
    if isinstance(student, Exits) and not isinstance(weights.inspect(path).config, ExitsConfig):
        return weights.warm_start(student.network, path, averaged=averaged)
    if not isinstance(student, Quantized) or isinstance(
        weights.inspect(path).config, QuantizedConfig
    ):
        return weights.warm_start(student, path, averaged=averaged)
    inside = student.network_config.build()
    said = weights.warm_start(inside, path, averaged=averaged)
    student.take(inside.state_dict())
    return said


def start_average(averaged: Network, path: Path | None) -> None:
    """Start the average of a student that starts from a file, which may hold averaged weights."""
    if path is not None:
        warm_start(averaged, path, averaged=True)


_PATCHES = 64
"""Patches from which the ranges of a quantized student are set before it trains."""


def calibrated(student: Network, experiment: Experiment, patches: Patches) -> list[str]:
    """Balance a student that starts from its float self, and set its ranges.

    One that was quantized before brings its own.

    Returns:
        What is quantized, and what should be known of the ranges; nothing for a float student.
    """
    if not isinstance(student, Quantized):
        return []
    start = experiment.optimization.warm_start
    if start is not None and isinstance(weights.inspect(start).config, QuantizedConfig):
        return student.describe()
    device = next(student.parameters()).device
    batches = range(-(-_PATCHES // experiment.data.batch))
    images = [from_levels(patches.batch(k)[0].to(device)) for k in batches]
    # Random weights need none; settled ones, on their grids, learn worse (docs/results/int8.md).
    balanced = [] if start is None else balance(student, images)
    return [*student.describe(), *balanced, *calibrate(student, images)]
