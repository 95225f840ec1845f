"""Line charts as SVG text; colors and widths are the style sheet's (``.s0`` stands out).

Without a script a point names itself when the pointer rests on it; ``report.js`` shows the values
of all lines at one step, by pointer, touch and keyboard.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import pairwise
from pathlib import Path

from dukd.runs.axes import apart, log_ticks, number, padded, steps, ticks

WIDTH, HEIGHT = 560, 300
_TOP, _BOTTOM = 14, 40
_LETTER = 9.6
"""Width of a letter, in the size that labels have on a narrow screen."""
_LABEL = 17
"""Rows between two labels at the ends of lines."""
_LONGEST = 16
"""Letters of a label; longer names are cut there, and whole in the key."""
_POINTS = 80
_STYLE = Path(__file__).with_name("report.css")

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One curve."""

    name: str
    points: Sequence[Point]
    """Steps, ascending, and values."""
    style: int
    """Number of its look; 0 stands out."""
    band: Sequence[tuple[float, float, float]] = ()
    """Steps with the lowest and the highest value of several seeds."""


@dataclass(frozen=True)
class Level:
    """A value that does not change: a horizontal line."""

    name: str
    value: float


def chart(
    lines: Sequence[Line],
    *,
    label: str,
    log: bool = False,
    digits: int = 2,
    levels: Sequence[Level] = (),
    unit: str = "step",
) -> str:
    """Draw curves over optimizer steps.

    Args:
        lines: Curves; values that are not finite are left out, and on a logarithmic axis those that
            are not positive.
        label: What the vertical axis shows.
        log: Whether the vertical axis is logarithmic.
        digits: Decimals of a value in the text that appears over a point.
        levels: Values to compare with, as horizontal lines.
        unit: One of what the horizontal axis counts.

    Returns:
        An ``<svg>``; a sentence if there is nothing to draw.
    """
    drawn = [_thinned(replace(line, points=_usable(line.points, log=log))) for line in lines]
    drawn = [line for line in drawn if line.points]
    if not drawn:
        return f'<p class="none">No values of {escape(label)}.</p>'
    height = math.log10 if log else float
    ys = [height(y) for line in drawn for _, y in line.points]
    low, high = padded([*ys, *(height(level.value) for level in levels)])
    last = max(x for line in drawn for x, _ in line.points) or 1.0
    marks = log_ticks(low, high) if log else ticks(low, high)
    left = 14 + _LETTER * max((len(number(mark)) for mark in marks), default=1)
    names = [_short(thing.name) for thing in (*drawn, *levels)]
    right = WIDTH - 12 - _LETTER * max(map(len, names))

    def place(x: float, y: float) -> Point:
        up = (min(max(height(y), low), high) - low) / (high - low)
        return left + (right - left) * x / last, HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * up

    ends = [(line.style, place(*line.points[-1])) for line in drawn]
    heights = [y for _, (_, y) in ends] + [place(0, level.value)[1] for level in levels]
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(label)} over {unit}s">',
        *_axes(marks, ticks(0, last), place, last, unit),
        *(_level(place(0, level.value), place(last, level.value)) for level in levels),
    ]
    weakest_first = sorted(drawn, key=lambda line: -line.style)
    parts += [piece for line in weakest_first for piece in _curve(line, place, digits, unit)]
    styles = [f"e{line.style}" for line in drawn] + ["el" for _ in levels]
    parts += _names(names, styles, heights, right)
    parts.append(f'<line class="cursor" x1="0" x2="0" y1="0" y2="{HEIGHT - _BOTTOM}"/>')
    return "".join([*parts, "</svg>"])


def _axes(
    marks: Sequence[float],
    across: Sequence[float],
    place: Callable[[float, float], Point],
    last: float,
    unit: str,
) -> list[str]:
    """Grid lines with their numbers, the steps below, and the line they stand on."""
    left, right = place(0, 1)[0], place(last, 1)[0]
    parts: list[str] = []
    for mark in marks:
        y = place(0, mark)[1]
        parts.append(
            f'<line class="grid" x1="{left:.0f}" x2="{right:.0f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(
            f'<text x="{left - 8:.0f}" y="{y + 4:.1f}" text-anchor="end">{number(mark)}</text>'
        )
    bottom = HEIGHT - _BOTTOM
    for mark in across:
        x = place(mark, 1)[0]
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{steps(mark)}</text>'
        )
    parts.append(
        f'<line class="axis" x1="{left:.0f}" x2="{right:.0f}" y1="{bottom}" y2="{bottom}"/>'
    )
    middle = (left + right) / 2
    parts.append(
        f'<text class="what" x="{middle:.0f}" y="{HEIGHT - 5}" text-anchor="middle">{unit}</text>'
    )
    return parts


def _names(
    names: Sequence[str], styles: Sequence[str], heights: Sequence[float], right: float
) -> list[str]:
    """The names of lines and levels beside their ends."""
    places = apart(heights, _LABEL, _TOP, HEIGHT - _BOTTOM)
    return [
        f'<text class="{style}" x="{right + 8:.0f}" y="{y + 4:.1f}">{escape(name)}</text>'
        for name, style, y in zip(names, styles, places, strict=True)
    ]


def _level(start: Point, end: Point) -> str:
    return (
        f'<line class="level" x1="{start[0]:.1f}" x2="{end[0]:.1f}" y1="{start[1]:.1f}" '
        f'y2="{end[1]:.1f}"/>'
    )


def _curve(line: Line, place: Callable[[float, float], Point], digits: int, unit: str) -> list[str]:
    """A curve, its band, and for each point a dot that names it; a single point is seen as one."""
    placed = [place(x, y) for x, y in line.points]
    parts: list[str] = []
    if len(line.band) > 1:
        upper = [place(x, high) for x, _, high in line.band]
        lower = [place(x, low) for x, low, _ in reversed(line.band)]
        parts.append(f'<polygon class="b{line.style}" points="{_path([*upper, *lower])}"/>')
    if len(placed) == 1:
        x, y = placed[0]
        parts.append(f'<circle class="f{line.style}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
    else:
        parts.append(f'<polyline class="s{line.style}" points="{_path(placed)}"/>')
    for (x, y), (step, value) in zip(placed, line.points, strict=True):
        text = f"{line.name}, {unit} {step:.0f}: {value:.{digits}f}"
        parts.append(
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="5">'
            f"<title>{escape(text)}</title></circle>"
        )
    return parts


def _path(points: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def standalone(chart: str, title: str) -> str:
    """A chart as a file of its own: an SVG with its title and its colors, on white."""
    sheet = _STYLE.read_text(encoding="utf-8")
    colors = sheet[sheet.index(":root") : sheet.index("}") + 1]
    looks = sheet[sheet.index("/* Charts */") : sheet.index("/* Origin */")]
    style = f"svg {{ font-family: system-ui, sans-serif; }} {colors} {looks}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 -24 {WIDTH} {HEIGHT + 24}"'
    _, _, inside = chart.partition(">")
    return (
        f'{head} class="chart"><style>{style}</style>'
        f'<rect x="0" y="-24" width="{WIDTH}" height="{HEIGHT + 24}" fill="#fff"/>'
        f'<text class="title" x="14" y="-8">{escape(title)}</text>{inside}\n'
    )


def swatch(style: int) -> str:
    """A short piece of a line, for a key."""
    line = f'<polyline class="s{style}" points="0,4 28,4"/>'
    return f'<svg class="swatch" viewBox="0 0 28 8" aria-hidden="true">{line}</svg>'


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _usable(points: Sequence[Point], *, log: bool) -> list[Point]:
    return [
        (x, y)
        for x, y in points
        if math.isfinite(x) and x >= 0 and math.isfinite(y) and (y > 0 or not log)
    ]


def _thinned(line: Line) -> Line:
    """A curve of at most 80 points: means of neighbors, in groups that differ by one at most.

    A shorter group at the end would look like a cliff.
    """
    count = len(line.points)
    if count <= _POINTS:
        return line
    bounds = [count * i // _POINTS for i in range(_POINTS + 1)]
    groups = [line.points[a:b] for a, b in pairwise(bounds)]
    means = [(group[-1][0], math.fsum(y for _, y in group) / len(group)) for group in groups]
    return replace(line, points=means)
