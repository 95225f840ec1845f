"""What follows from the number of a step alone: its learning rate, and its randomness."""

import math

import numpy as np
import torch

from dukd.experiment import Optimisation

_RISE = 0.3
"""Share of the steps over which the one-cycle schedule rises."""
_START = 0.04
"""Factor at which it starts."""


def rate_factor(optimisation: Optimisation, step: int) -> float:
    """Factor of the learning rate for the step that follows ``step`` finished ones, in [0, 1].

    Example:
        >>> [rate_factor(Optimisation(steps=10), s) for s in (0, 3, 4, 8)]
        [1.0, 1.0, 0.1, 0.010000000000000002]
    """
    steps = optimisation.steps
    if step < optimisation.warm_up:
        return (step + 1) / optimisation.warm_up
    match optimisation.schedule:
        case "constant":
            return 1.0
        case "step":
            return optimisation.decay ** sum(step >= round(m * steps) for m in optimisation.milestones)
        case "cosine":
            return _half_cosine((step - optimisation.warm_up) / (steps - optimisation.warm_up))
        case "one-cycle":
            rise = max(1, round(_RISE * steps))
            if step < rise:
                return 1 - (1 - _START) * _half_cosine((step + 1) / rise)
            return _half_cosine((step + 1 - rise) / (steps - rise + 1))


def _half_cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))


def seed_of(*numbers: int) -> int:
    """A seed of 63 bits that depends on these numbers alone, and on their order."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(*numbers: int) -> torch.Generator:
    """A generator on the CPU that depends on these numbers alone."""
    return torch.Generator().manual_seed(seed_of(*numbers))
