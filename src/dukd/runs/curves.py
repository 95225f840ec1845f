"""The curves of a report: validations and losses over steps, from the runs' logs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any, cast

from dukd.evaluation.table import Table
from dukd.runs import charts
from dukd.runs.charts import Level, Line
from dukd.runs.looks import Look
from dukd.runs.summary import Summary

Points = dict[str, list[tuple[float, float]]]
"""Steps and values, by the name of the curve."""

_SAME = 0.02
"""How far, in dB, the figure of an evaluation may be from the last validation of the same student
if both are of the same images."""


def section(summaries: Sequence[Summary], looks: Mapping[str, Look], table: Table) -> str:
    """Charts of all runs; empty if there is nothing to draw.

    Args:
        summaries: The runs.
        looks: How the lines of each experiment look, by ``kin``.
        table: What was measured of them, for the levels of bicubic and the teacher.
    """
    validation = _gathered(summaries, looks, "validation")
    training = _gathered(summaries, looks, "train")
    if not validation and not training:
        return ""
    figures = [
        figure(
            f"PSNR-Y on {name}",
            "dB, while training",
            charts.chart(lines, label=f"PSNR-Y on {name}", levels=_levels(table, name, lines)),
        )
        for name, lines in validation.items()
    ]
    figures += [
        figure(
            f"Loss: {name.replace('_', ' ')}",
            "weighted, logarithmic",
            charts.chart(lines, label=name, log=True, digits=5),
        )
        for name, lines in training.items()
    ]
    several = any(
        line.band for lines in (*validation.values(), *training.values()) for line in lines
    )
    bands = (
        " Bands reach from the lowest to the highest seed, lines are their mean." if several else ""
    )
    return (
        f'<section><h2>Training</h2><ul class="key">{_key(looks)}</ul>'
        f'<div class="charts">{"".join(figures)}</div>'
        '<p class="legend">Point at a chart, touch it, or use the arrow keys to read values.'
        f"{bands}</p></section>"
    )


def _gathered(
    summaries: Sequence[Summary], looks: Mapping[str, Look], kind: str
) -> dict[str, list[Line]]:
    """A line of each experiment, by the name of the curve."""
    found: dict[str, dict[str, list[Sequence[tuple[float, float]]]]] = {}
    for summary in summaries:
        for name, points in series(summary.records, kind).items():
            found.setdefault(name, {}).setdefault(summary.kin, []).append(points)
    return {
        name: [over_seeds(looks[kin].label, those, looks[kin].style) for kin, those in kins.items()]
        for name, kins in found.items()
    }


def over_seeds(name: str, seeds: Sequence[Sequence[tuple[float, float]]], style: int) -> Line:
    """The mean of several seeds at the steps that all of them have, with a band around it."""
    if len(seeds) == 1:
        return Line(name, seeds[0], style)
    maps = [dict(points) for points in seeds]
    shared = sorted(set.intersection(*(set(found) for found in maps)))
    values = {step: [found[step] for found in maps] for step in shared}
    points = [(step, math.fsum(those) / len(those)) for step, those in values.items()]
    finite = {step: those for step, those in values.items() if all(map(math.isfinite, those))}
    band = [(step, min(those), max(those)) for step, those in finite.items()]
    return replace(Line(name, points, style), band=band)


def series(records: Sequence[Mapping[str, Any]], kind: str) -> Points:
    """Curves by name: losses of training lines, PSNR-Y by set of validation lines.

    A loss is the mean since the line before it. The last line may be the mean of a few steps only;
    it is joined with the one before.
    """
    found: Points = {}
    for record in records:
        step = record.get("step")
        values = record.get("losses" if kind == "train" else "sets")
        if record.get("kind") != kind or not isinstance(step, int) or not isinstance(values, dict):
            continue
        for name, value in cast("dict[str, Any]", values).items():
            number: Any = value
            if isinstance(value, dict):
                number = cast("dict[str, Any]", value).get("psnr_y")
            try:
                found.setdefault(str(name), []).append((float(step), float(number)))
            except (TypeError, ValueError):
                continue
    curves = {name: sorted(points) for name, points in found.items()}
    return {name: _full(points) for name, points in curves.items()} if kind == "train" else curves


def _full(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same, so that the last mean is of as many steps as the others."""
    if len(points) < 3:
        return points
    (a, _), (b, before), (c, last) = points[-3:]
    usual, few = b - a, c - b
    if few >= usual:
        return points
    return [*points[:-2], (c, (usual * before + few * last) / (usual + few))]


def _levels(table: Table, name: str, lines: Sequence[Line]) -> list[Level]:
    """Bicubic's and the teacher's figures, if they are of the images that judged the training.

    They are where an evaluated student has the figure that its last validation gave.
    """
    measured = {row.label.removesuffix("+"): row.value("psnr_y", name) for row in table.rows}
    same = [
        abs(value - line.points[-1][1]) < _SAME
        for line in lines
        if (value := measured.get(line.name)) is not None and line.points
    ]
    if not same or not all(same):
        return []
    rows = [row for row in table.rows if row.model in {"bicubic", "teacher"}]
    found = [(row.model, row.value("psnr_y", name)) for row in rows]
    return [Level(label, v) for label, v in found if v is not None and math.isfinite(v)]


def _key(looks: Mapping[str, Look]) -> str:
    return "".join(
        f"<li>{charts.swatch(look.style)}{escape(look.label)}</li>" for look in looks.values()
    )


def figure(title: str, note: str, content: str) -> str:
    """A chart under its title, as a page has it."""
    caption = f"{escape(title)} <small>{escape(note)}</small>"
    return f"<figure><figcaption>{caption}</figcaption>{content}</figure>"
