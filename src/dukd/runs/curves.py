"""The curves of a report: validations and losses over steps, from the runs' logs."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, cast

from dukd.runs import charts
from dukd.runs.charts import Line
from dukd.runs.summary import Summary

Points = dict[str, list[tuple[float, float]]]
"""Steps and values, by the name of the curve."""


def section(summaries: Sequence[Summary]) -> str:
    """Charts of all runs; empty if there is nothing to draw."""
    styles = styles_of(summaries)
    validation: dict[str, list[Line]] = {}
    training: dict[str, list[Line]] = {}
    for summary in summaries:
        style = styles[summary.name]
        for name, points in series(summary.records, "validation").items():
            validation.setdefault(name, []).append(Line(summary.name, points, style))
        for name, points in series(summary.records, "train").items():
            training.setdefault(name, []).append(Line(summary.name, points, style))
    if not validation and not training:
        return ""
    figures = [
        _figure(
            f"PSNR-Y on {name}",
            "dB, while training",
            charts.chart(lines, label=f"PSNR-Y on {name}"),
        )
        for name, lines in validation.items()
    ]
    figures += [
        _figure(
            f"Loss: {name.replace('_', ' ')}",
            "weighted, logarithmic",
            charts.chart(lines, label=name, log=True, digits=5),
        )
        for name, lines in training.items()
    ]
    return (
        f'<section><h2>Training</h2><ul class="key">{_legend(styles)}</ul>'
        f'<div class="charts">{"".join(figures)}</div>'
        '<p class="legend">A point names its run and value when the pointer rests on it.</p>'
        "</section>"
    )


def styles_of(summaries: Sequence[Summary]) -> dict[str, int]:
    """The number of each run's color: seeds of one experiment share theirs."""
    kins = list(dict.fromkeys(summary.kin for summary in summaries))
    return {summary.name: kins.index(summary.kin) for summary in summaries}


def series(records: Sequence[Mapping[str, Any]], kind: str) -> Points:
    """Curves by name: losses of training lines, PSNR-Y by set of validation lines."""
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
    return {name: sorted(points) for name, points in found.items()}


def _legend(styles: Mapping[str, int]) -> str:
    names: dict[int, list[str]] = {}
    for name, style in styles.items():
        names.setdefault(style, []).append(name)
    return "".join(
        f"<li>{charts.swatch(style)}{escape(', '.join(those))}</li>"
        for style, those in names.items()
    )


def _figure(title: str, note: str, content: str) -> str:
    caption = f"{escape(title)} <small>{escape(note)}</small>"
    return f"<figure><figcaption>{caption}</figcaption>{content}</figure>"
