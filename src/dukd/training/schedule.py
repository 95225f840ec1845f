"""What follows from the number of a step alone: its learning rate, and its randomness."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dukd.core.device import seed_all
from dukd.training.experiment import Optimization

_RISE = 0.3
"""Share of the steps over which the one-cycle schedule rises."""
_START = 0.04
"""Factor at which it starts."""
_FIRST_LEFT = 0.01
"""Share of the first weights that may be left in the averaged ones."""
_METHOD, _NETWORKS, _SYMMETRIES = 1, 2, 3
"""Streams of randomness: what methods draw, what networks do, and how the student sees replayed
images."""


def rate_factor(optimization: Optimization, step: int) -> float:
    """Factor of the learning rate for the step that follows ``step`` finished ones, in [0, 1].

    Example:
        >>> [rate_factor(Optimization(steps=10), s) for s in (0, 3, 4, 8)]
        [1.0, 1.0, 0.1, 0.010000000000000002]
    """
    steps = optimization.steps
    if step < optimization.warm_up:
        return (step + 1) / optimization.warm_up
    match optimization.schedule:
        case "constant":
            return 1.0
        case "step":
            return optimization.decay ** sum(
                step >= round(m * steps) for m in optimization.milestones
            )
        case "cosine":
            return _half_cosine((step - optimization.warm_up) / (steps - optimization.warm_up))
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


def method_generator(seed: int, step: int, number: int = 0) -> torch.Generator:
    """What a method draws from for micro-batch ``number`` of a step."""
    return generator(seed, _METHOD, step, *((number,) if number else ()))


def symmetry_generator(seed: int, step: int, number: int = 0) -> torch.Generator:
    """What the symmetries are drawn from behind which a student sees what comes again."""
    return generator(seed, _SYMMETRIES, step, *((number,) if number else ()))


@dataclass
class Draws:
    """What a micro-batch draws from at a step; it follows from its number, not from the process."""

    method: torch.Generator
    """For the method."""
    symmetries: torch.Generator
    """For how the student sees replayed images."""
    networks: torch.Generator | None
    """Seeds of what networks draw themselves; None where the step's own seed serves its only
    micro-batch."""

    def begin(self) -> None:
        """Seed what networks draw, for one pass of a method over the micro-batch."""
        if self.networks is not None:
            seed_all(int(torch.randint(2**62, (), generator=self.networks)))


def draws(seed: int, step: int, period: int, numbers: Sequence[int], total: int) -> list[Draws]:
    """What some micro-batches draw from at a step.

    Args:
        seed: Of the run.
        step: Steps done.
        period: Number of batches after which what methods draw comes again; 0 for never.
        numbers: Of the micro-batches; number 0 draws what the whole batch would.
        total: How many micro-batches the batch has.
    """
    drawn: list[Draws] = []
    for number in numbers:
        which = (number,) if number else ()
        drawn.append(
            Draws(
                method=method_generator(seed, step % period if period else step, number),
                symmetries=symmetry_generator(seed, step, number),
                networks=generator(seed, _NETWORKS, step, *which) if total > 1 else None,
            )
        )
    return drawn


def seed_networks(seed: int, step: int) -> None:
    """Seed what networks draw themselves at a step."""
    seed_all(seed_of(seed, _NETWORKS, step))


def notes_on_average(optimization: Optimization) -> list[str]:
    """What to say where the averaged weights still hold much of the first ones at the end.

    An average that begins with the first weights holds ``ema ** steps`` of them. Of random ones 5 %
    undo a student: EDSR 64 x 16 at x2 ended below bicubic after 3,000 steps at 0.999.

    Example:
        >>> notes_on_average(Optimization(steps=250_000))
        []
    """
    share = optimization.ema**optimization.steps
    if share <= _FIRST_LEFT:
        return []
    shorter = math.floor(1000 * _FIRST_LEFT ** (1 / optimization.steps)) / 1000
    return [
        f"the averaged student, which is judged and kept, will hold {share:.1%} of the weights it "
        f"begins with: {optimization.steps:,} steps are few for an ema of {optimization.ema:g}; "
        f"train longer, or take {shorter:g} (--optimization.ema), which leaves {_FIRST_LEFT:.0%}"
    ]
