"""Axes of charts: round numbers between two values, and how they are written."""

import math
from collections.abc import Sequence


def ticks(low: float, high: float, *, count: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) between two values, about ``count``."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Values between two powers of ten, given by their exponents: 1, 2 and 5 times such powers.

    Only the powers themselves over many decades, even steps over few.
    """
    factors = (1,) if high - low > 2.5 else (1, 2, 5)
    found = [
        factor * 10.0**power
        for power in range(math.floor(low), math.ceil(high) + 1)
        for factor in factors
    ]
    inside = [value for value in found if low <= math.log10(value) <= high]
    return inside if len(inside) > 2 else ticks(10**low, 10**high)


def number(value: float) -> str:
    """A tick's number, short."""
    if value and abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.6g}"


def steps(value: float) -> str:
    """A number of steps, short: 250k."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"


def padded(values: Sequence[float]) -> tuple[float, float]:
    """The range that 98 % of the values need, and 6 % of it on either side.

    A first value far off would flatten all that follows.
    """
    ordered = sorted(values)
    spare = len(ordered) // 100
    low, high = ordered[spare], ordered[-1 - spare]
    room = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    return low - room, high + room


def apart(wanted: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Places for labels near those that are wanted, at least ``distance`` apart.

    Args:
        wanted: In any order; the result has the same.
        distance: Between two neighbors, as far as there is room.
        low: The least place.
        high: The largest.

    Example:
        >>> apart([5.0, 6.0, 50.0], 10.0, 0.0, 100.0)
        [0.5, 10.5, 50.0]
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    distance = min(distance, (high - low) / max(1, len(wanted) - 1))
    groups: list[list[int]] = []
    for index in order:  # neighbors that clash are moved together, around their mean
        groups.append([index])
        while len(groups) > 1 and _start(groups[-1], wanted, distance, low, high) < distance + _end(
            groups[-2], wanted, distance, low, high
        ):
            last = groups.pop()
            groups[-1] += last
    places = [0.0] * len(wanted)
    for group in groups:
        start = _start(group, wanted, distance, low, high)
        for position, index in enumerate(group):
            places[index] = start + position * distance
    return places


def _start(
    group: Sequence[int], wanted: Sequence[float], distance: float, low: float, high: float
) -> float:
    length = (len(group) - 1) * distance
    middle = sum(wanted[i] for i in group) / len(group)
    return min(max(middle - length / 2, low), high - length)


def _end(
    group: Sequence[int], wanted: Sequence[float], distance: float, low: float, high: float
) -> float:
    return _start(group, wanted, distance, low, high) + (len(group) - 1) * distance
