"""Learning curves of a study: each method's mean over seeds, over steps and over CPU seconds."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from typing import Any

from dukd.core import files
from dukd.recipes.study_standing import Standing
from dukd.runs import charts, curves
from dukd.runs.charts import Line
from dukd.runs.directory import Run
from dukd.runs.looks import STRONG, STYLES

UNITS = {"steps": "step", "cpu-seconds": "CPU second"}
"""What curves go over, by the end of their files' names."""
_FROM = 0.25
"""Share of the steps from which on curves are drawn; what is before is so much steeper that methods
could not be told apart."""

Record = Mapping[str, Any]


def cpu_seconds(records: Sequence[Record], spent: float) -> dict[int, float]:
    """CPU seconds of training up to a step, by the steps of a log's lines.

    Args:
        records: The log. Lines of older logs have the clock alone.
        spent: What the processes have spent in all, which is shared out by the clock there.
    """
    lines = [r for r in records if r.get("kind") == "train"]
    if not lines:
        return {}
    steps = [int(r["step"]) for r in lines]
    if all("cpu_seconds" in r for r in lines):
        return dict(zip(steps, accumulate(float(r["cpu_seconds"]) for r in lines), strict=True))
    whole = float(lines[-1]["seconds"])
    return {s: spent * float(r["seconds"]) / whole for s, r in zip(steps, lines, strict=True)}


def learning_curves(out: Path, standings: Sequence[Standing]) -> dict[tuple[str, str], list[Line]]:
    """A line for each method, by the set that judged the training and a key of ``UNITS``.

    Args:
        out: The study's folder.
        standings: Cells of one recipe; those that have begun are drawn as far as they are.
    """
    by_method: dict[str, list[Standing]] = {}
    for s in standings:
        by_method.setdefault(s.cell.method, []).append(s)
    styles = _styles(list(by_method))
    found: dict[tuple[str, str], list[Line]] = {}
    for method, every in by_method.items():
        whole = [s for s in every if s.stage in {"trained", "measured"}]
        cells = whole or every  # a seed that has just begun would cut the others short
        seeds: dict[str, list[list[tuple[float, float]]]] = {}
        clocks: list[dict[int, float]] = []
        for s in cells:
            run = Run(out / s.cell.name)
            records = run.records() if run.log_file.is_file() else []
            judged = curves.series(records, "validation")
            if not judged:
                continue
            clocks.append(cpu_seconds(records, s.seconds))
            for name, points in judged.items():
                late = [(step, y) for step, y in points if step >= _FROM * s.steps]
                seeds.setdefault(name, []).append(late)
        for name, points in seeds.items():
            if not any(points):
                continue
            line = curves.over_seeds(method, points, styles[method])
            found.setdefault((name, "steps"), []).append(line)
            found.setdefault((name, "cpu-seconds"), []).append(_over_time(line, clocks))
    return found


def _over_time(line: Line, clocks: Sequence[Mapping[int, float]]) -> Line:
    """The same values at the mean CPU seconds at which the runs came to the steps."""

    def when(step: float) -> float | None:
        known = [clock[int(step)] for clock in clocks if int(step) in clock]
        return fmean(known) if known else None

    points = [(x, value) for step, value in line.points if (x := when(step)) is not None]
    band = [(x, low, high) for step, low, high in line.band if (x := when(step)) is not None]
    return Line(line.name, points, line.style, band)


def _styles(methods: Sequence[str]) -> dict[str, int]:
    weak = [m for m in methods if m != STRONG]
    return {STRONG: 0} | {m: 1 + i % (STYLES - 1) for i, m in enumerate(weak)}


def drawn(out: Path, networks: str, standings: Sequence[Standing]) -> tuple[str, list[Path]]:
    """Draw the learning curves of a recipe.

    Returns:
        Figures for a page, empty if there is nothing to draw, and the files that were written,
        ``OUT/RECIPE-SET-steps.svg`` and ``OUT/RECIPE-SET-cpu-seconds.svg``.
    """
    figures: list[str] = []
    written: list[Path] = []
    for (name, over), lines in learning_curves(out, standings).items():
        unit, title = UNITS[over], f"{networks}: PSNR-Y on {name}, dB, over {UNITS[over]}s"
        chart = charts.chart(lines, label=f"PSNR-Y on {name}", unit=unit)
        if not chart.startswith("<svg"):
            continue
        path = out / f"{networks}-{name}-{over}.svg"
        files.write_text(path, charts.standalone(chart, title))
        written.append(path)
        if over != "steps":  # the page has these
            figures.append(curves.figure(f"PSNR-Y on {name}", f"dB, over {unit}s", chart))
    return f'<div class="charts">{"".join(figures)}</div>' if figures else "", written
