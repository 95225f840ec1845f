"""Bar charts for pages: a table whose middle column is drawn, so that text stays text.

It needs no script, wraps on narrow screens, prints, and is read aloud as a table.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Bar:
    """One bar."""

    label: str
    """What it stands for."""
    value: float
    """Its length; a bar below 0 points to the left."""
    strong: bool = False
    """Whether it is the one to look at."""


def bars(items: Sequence[Bar], *, label: str, unit: str = "", digits: int = 2) -> str:
    """Draw bars, from top to bottom in the order given.

    Args:
        items: Bars; those whose value is not finite are left out.
        label: What is measured, as the caption.
        unit: Of the values, such as ``dB``.
        digits: Decimals of the values.

    Returns:
        A ``<table class="bars">``; a sentence if there is nothing to draw.

    Example:
        >>> bars([], label="loss by layer")
        '<p class="none">No values of loss by layer.</p>'
    """
    shown = [bar for bar in items if math.isfinite(bar.value)]
    if not shown:
        return f'<p class="none">No values of {escape(label)}.</p>'
    low = min(0.0, *(bar.value for bar in shown))
    high = max(0.0, *(bar.value for bar in shown))
    rows = "".join(_row(bar, low, (high - low) or 1.0, unit, digits) for bar in shown)
    return f'<table class="bars"><caption>{escape(label)}</caption><tbody>{rows}</tbody></table>'


def _row(bar: Bar, low: float, length: float, unit: str, digits: int) -> str:
    """A line of the table; the drawing is 1000 wide and takes the width that is there."""
    start = 1000 * (min(bar.value, 0.0) - low) / length
    zero, width = 1000 * -low / length, 1000 * abs(bar.value) / length
    strong = ' class="strong"' if bar.strong else ""
    text = f"{bar.value:.{digits}f} {unit}".rstrip().replace("-", "\u2212")
    return (
        f'<tr{strong}><th scope="row">{escape(bar.label)}</th><td><svg viewBox="0 0 1000 10" '
        'preserveAspectRatio="none" aria-hidden="true">'
        f'<rect x="{start:.1f}" y="0" width="{max(width, 2):.1f}" height="10"/>'
        f'<line x1="{zero:.1f}" x2="{zero:.1f}" y1="0" y2="10"/></svg></td>'
        f"<td>{escape(text)}</td></tr>"
    )
