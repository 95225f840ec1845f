"""Line charts as SVG text: no script, colors from the page's style sheet (``--c0`` and on)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 40
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "1 2")
_POINTS = 160


@dataclass(frozen=True)
class Line:
    """One curve: its name, points with x ascending, and the number of its color and dashes."""

    name: str
    points: Sequence[tuple[float, float]]
    style: int


def chart(lines: Sequence[Line], *, label: str, log: bool = False, digits: int = 2) -> str:
    """Draw curves over optimizer steps.

    Args:
        lines: Curves; values that are not finite are left out, and on a logarithmic axis those that
            are not positive.
        label: What the vertical axis shows.
        log: Whether the vertical axis is logarithmic.
        digits: Decimals of a value in the text that appears over a point.

    Returns:
        An ``<svg>``; a sentence if there is nothing to draw.
    """
    shown = [Line(line.name, _thinned(_usable(line.points, log=log)), line.style) for line in lines]
    shown = [line for line in shown if line.points]
    if not shown:
        return f'<p class="none">No values of {escape(label)}.</p>'
    xs = [x for line in shown for x, _ in line.points]
    ys = [_y(y, log=log) for line in shown for _, y in line.points]
    # A first value far off would flatten all that follows; the axis shows what 98 % of the points
    # need.
    low, high = _padded(*_range(ys))
    right = max(xs) if max(xs) > 0 else 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (WIDTH - _LEFT - _RIGHT) * x / right
        up = (min(max(_y(y, log=log), low), high) - low) / (high - low)
        return across, HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * up

    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(label)} over steps">'
    ]
    for tick in _log_ticks(low, high) if log else ticks(low, high):
        _, y = place(0, tick)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>'
        )
    for tick in ticks(0, right):
        x, _ = place(tick, 10**low if log else low)
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - _BOTTOM + 18}" text-anchor="middle">'
            f"{steps(tick)}</text>"
        )
    base = HEIGHT - _BOTTOM
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>')
    parts.append(
        f'<text class="what" x="{WIDTH - _RIGHT}" y="{HEIGHT - 5}" text-anchor="end">step</text>'
    )
    for line in shown:
        parts += _curve(line, [place(x, y) for x, y in line.points], digits)
    return "".join([*parts, "</svg>"])


def _curve(line: Line, placed: Sequence[tuple[float, float]], digits: int) -> list[str]:
    """A curve, and for each of its points a dot that names it; a single point is seen as one."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    parts = [f'<polyline class="s{line.style % 6}" points="{path}"/>']
    if len(placed) == 1:
        x, y = placed[0]
        color = f"var(--c{line.style % 6})"
        parts = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" style="fill:{color}"/>']
    for (x, y), (step, value) in zip(placed, line.points, strict=True):
        text = f"{line.name}, step {step:.0f}: {value:.{digits}f}"
        parts.append(
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="5">'
            f"<title>{escape(text)}</title></circle>"
        )
    return parts


def swatch(style: int) -> str:
    """A short piece of a line, for a legend."""
    line = f'<polyline class="s{style % 6}" points="0,4 28,4"/>'
    return f'<svg class="swatch" viewBox="0 0 28 8" aria-hidden="true">{line}</svg>'


def dashes() -> str:
    """The style sheet's rules for curves: six colors that also differ in their dashes."""
    rules: list[str] = []
    for index, dash in enumerate(_DASHES):
        dashed = f";stroke-dasharray:{dash}" if dash else ""
        rules.append(f".s{index}{{stroke:var(--c{index});fill:none{dashed}}}")
    return "".join(rules)


def ticks(low: float, high: float, *, count: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) between two values, about ``count``."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


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


def _y(value: float, *, log: bool) -> float:
    return math.log10(value) if log else value


def _usable(points: Sequence[tuple[float, float]], *, log: bool) -> list[tuple[float, float]]:
    return [
        (x, y)
        for x, y in points
        if math.isfinite(x) and x >= 0 and math.isfinite(y) and (y > 0 or not log)
    ]


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most ``_POINTS`` points: means of neighbors."""
    size = math.ceil(len(points) / _POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)] if size else []
    return [(group[-1][0], math.fsum(y for _, y in group) / len(group)) for group in groups]


def _range(values: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(values)
    spare = len(ordered) // 100
    return ordered[spare], ordered[-1 - spare]


def _padded(low: float, high: float) -> tuple[float, float]:
    room = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    return low - room, high + room


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten; only powers over many decades, even steps over few."""
    factors = (1,) if high - low > 2.5 else (1, 2, 5)
    found = [
        factor * 10.0**power
        for power in range(math.floor(low), math.ceil(high) + 1)
        for factor in factors
    ]
    inside = [value for value in found if low <= math.log10(value) <= high]
    return inside if len(inside) > 2 else ticks(10**low, 10**high)
