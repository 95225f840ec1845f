"""What is left of a study, in time and energy, by prices that were measured."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dukd.recipes.study import Cell
from dukd.recipes.study_standing import Standing


@dataclass(frozen=True)
class Plan:
    """What is left of a study, by measured prices."""

    seconds: dict[str, float]
    """CPU seconds left, by cell."""

    @property
    def total(self) -> float:
        """CPU seconds left."""
        return math.fsum(self.seconds.values())

    def energy(self, watts: float) -> float:
        """Kilowatt-hours of a processor that draws so much for each busy core."""
        return self.total * watts / 3.6e6


Price = Callable[[Cell], tuple[float, float]]
"""CPU seconds of a step with the teacher live, and with its outputs replayed."""


def plan(standings: Sequence[Standing], price: Price, *, evaluation: float = 0.0) -> Plan:
    """What is left to do, by the prices of steps.

    Cells of one recipe and method have one price, which is asked for once; a cell that has run for
    a while prices the rest itself.

    Args:
        standings: Where the cells stand.
        price: Measures a step.
        evaluation: CPU seconds of measuring a student.
    """
    prices: dict[tuple[str, str], tuple[float, float]] = {}
    left: dict[str, float] = {}
    for s in standings:
        if s.stage == "measured":
            continue
        key = (s.cell.recipe, s.cell.method)
        if key not in prices:
            prices[key] = price(s.cell)
        live, replayed = prices[key]
        period = s.cell.experiment.data.period
        first = max(0, min(period, s.steps) - s.step) if period else s.steps - s.step
        rest = max(0, s.steps - s.step - first)
        left[s.cell.name] = live * first + replayed * rest + evaluation
    return Plan(left)
