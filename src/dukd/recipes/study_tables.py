"""What a study ends in: a table per recipe, held against one method seed by seed, and pages."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import get_args

from dukd.core import files
from dukd.core.text import signed
from dukd.evaluation.table import FORMS, Column, Row, Spread, Table, Value
from dukd.recipes.study import Cell, Study
from dukd.recipes.study_curves import drawn
from dukd.recipes.study_standing import Standing, described, figures_file
from dukd.runs import results
from dukd.runs.compare import DEFINITION, GAP_CLOSED, Varied, compare
from dukd.runs.report import Section, report
from dukd.runs.summary import ReportError

VARIED: tuple[Varied, ...] = get_args(Varied)
"""What differs where a variant says so, and is then the question of the study."""
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % quantiles of Student's t for 1 to 9 degrees of freedom."""

_SHORTEST = 0.005
"""dB from scratch to the teacher below which a share of it says nothing."""
_DONE = Column(name="done", title="seeds measured")
_SEEDS = Column(name="seeds", title="seeds", show=lambda value: f"{value:.0f}")
_SECONDS = Column(name="seconds", title="CPU s", show=lambda value: f"{value:,.0f}")
_MEAN = Column(name="mean", title="over all sets", show=signed, unit="dB")
_INTERVAL = Column(name="interval", title="95 % interval")
_DIFFERENCE = Column(name="difference", title="PSNR-Y", show=signed, unit="dB")


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Where the mean lies with 95 %, by Student's t; None for fewer than two values.

    Example:
        >>> interval([0.1, 0.3])
        (-1.0706, 1.4706)
    """
    n = len(values)
    if n < 2:
        return None
    half = _T[min(n - 1, len(_T)) - 1] * stdev(values) / n**0.5
    return round(fmean(values) - half, 10), round(fmean(values) + half, 10)


def differences(study: Study, out: Path, networks: str, standings: Sequence[Standing]) -> Table:
    """PSNR-Y of each method less that of the one it is held against, seed by seed.

    Seeds share first weights and batches, so a difference is known better than what it is of. The
    gap closed is the share of the way from scratch, of the same seed, to the teacher; both are
    means over all sets.

    Args:
        study: The study.
        out: Its folder.
        networks: One of its recipes.
        standings: Where its cells stand.
    """
    seconds: dict[str, list[float]] = {}
    figures: dict[str, dict[int, dict[str, float]]] = {}
    teacher: dict[str, float] = {}
    for s in standings:
        if s.stage == "measured" and s.cell.recipe == networks:
            figures.setdefault(s.cell.method, {})[s.cell.seed] = _figures(study, out, s.cell)
            seconds.setdefault(s.cell.method, []).append(s.seconds)
            teacher |= _figures(study, out, s.cell, "teacher")
    base, scratch = figures.get(study.against, {}), figures.get("scratch", {})
    rows: list[Row] = []
    for method, by_seed in figures.items():
        held = _held(by_seed, base) if method != study.against else {}
        closed = _closed(by_seed, scratch, teacher) if method != "scratch" else []
        means = [fmean(values) for values in zip(*held.values(), strict=True)]
        ends = interval(means)
        values: dict[str, Value] = {
            "seeds": len(by_seed),
            "seconds": fmean(seconds[method]),
            "mean": Spread.of(means) if means else None,
            "interval": None if ends is None else " to ".join(signed(e, 3) for e in ends),
            "gap_closed": Spread.of(closed) if closed else None,
        }
        if means or closed:
            sets = {n: {"difference": Spread.of(found)} for n, found in held.items()}
            rows.append(Row(label=method, model="student", values=values, sets=sets))
    against = f"Less {study.against}, seed by seed; ± is the standard deviation over seeds."
    return Table(
        rows=tuple(rows),
        columns=(_SEEDS, _SECONDS, _MEAN, _INTERVAL, GAP_CLOSED),
        measures=(_DIFFERENCE,),
        notes=(against, f"{DEFINITION} Here of the mean over all sets."),
    )


Figures = Mapping[int, Mapping[str, float]]
"""PSNR-Y by seed and set."""


def _held(by_seed: Figures, base: Figures) -> dict[str, list[float]]:
    """Differences on each set, for the seeds that both have."""
    shared = sorted(by_seed.keys() & base.keys())
    if not shared:
        return {}
    names = [n for n in by_seed[shared[0]] if all(n in base[seed] for seed in shared)]
    return {n: [by_seed[seed][n] - base[seed][n] for seed in shared] for n in names}


def _closed(by_seed: Figures, scratch: Figures, teacher: Mapping[str, float]) -> list[float]:
    """The share of the way from scratch to the teacher, by seed."""
    found: list[float] = []
    for seed in sorted(by_seed.keys() & scratch.keys()):
        names = by_seed[seed].keys() & scratch[seed].keys() & teacher.keys()
        whole = math.fsum(teacher[n] - scratch[seed][n] for n in names)
        if names and abs(whole) > _SHORTEST:
            own = math.fsum(by_seed[seed][n] - scratch[seed][n] for n in names)
            found.append(own / whole)
    return found


def _figures(study: Study, out: Path, cell: Cell, model: str = "student") -> dict[str, float]:
    table = results.read(out / cell.name / figures_file(study, cell))
    row = next((row for row in table.rows if row.model == model), None)
    found = {} if row is None else {name: row.value("psnr_y", name) for name in row.sets}
    return {name: value for name, value in found.items() if value is not None}


def compared(study: Study, out: Path, standings: Sequence[Standing]) -> Table:
    """What was measured of a recipe's cells; methods that are not finished say how far they are.

    Args:
        study: The study.
        out: Its folder.
        standings: Cells of one recipe, of which one at least is measured.

    Raises:
        dukd.runs.summary.ReportError: If cells may not stand in one table.
    """
    done = [s for s in standings if s.stage == "measured"]
    measured = figures_file(study, standings[0].cell)
    table = compare([out / s.cell.name for s in done], measured, _labels(done), VARIED)
    wanted = (replace(c, shown=c.shown or c.name in study.metrics) for c in table.measures)
    table = replace(table, measures=tuple(wanted))
    by_method: dict[str, list[Standing]] = {}
    for s in standings:
        by_method.setdefault(s.cell.method, []).append(s)
    if len(done) == len(standings):
        return table
    there = {row.label: row for row in table.rows}
    rows = [
        replace(row, values={**row.values, _DONE.name: _progress(by_method[method])})
        for method in by_method
        for row in [there.get(method, Row(label=method, model="student"))]
    ]
    first, last = (
        [row for row in table.rows if row.model == model] for model in ("bicubic", "teacher")
    )
    return replace(table, rows=(*first, *rows, *last), columns=(_DONE, *table.columns))


def _labels(standings: Sequence[Standing]) -> dict[str, str]:
    return {s.cell.name: s.cell.method for s in standings}


def _progress(standings: Sequence[Standing]) -> str:
    """How far the seeds of a method are: ``2 of 3, begun at step 4,000 of 16,000``."""
    count = sum(s.stage == "measured" for s in standings)
    if count == len(standings):
        return f"{count} of {count}"
    open_ = [
        f"{s.stage} at step {s.step:,} of {s.steps:,}" if s.stage == "begun" else s.stage
        for s in standings
        if s.stage != "measured"
    ]
    return ", ".join([f"{count} of {len(standings)}", *dict.fromkeys(open_)])


def write_tables(
    study: Study, out: Path, standings: Sequence[Standing]
) -> tuple[list[Path], list[str]]:
    """Write ``study.md``, and a page and learning curves for each recipe with a measured cell.

    Returns:
        The files, and what could not be put into a table.
    """
    parts = [f"# Study\n\n{described(standings)}.\n"]
    problems: list[str] = []
    written: list[Path] = []
    for networks in study.recipes:
        own = [s for s in standings if s.cell.recipe == networks]
        parts.append(f"## {networks}\n")
        if not any(s.stage == "measured" for s in own):
            parts.append("Not one cell is measured yet.\n")
            continue
        try:
            parts.append(FORMS[".md"](compared(study, out, own)))
            held = differences(study, out, networks, own)
            if held.rows:
                parts += [f"### Over {study.against}\n", FORMS[".md"](held)]
            written += _page(study, out, networks, own)
        except ReportError as error:
            problems.append(f"{networks}: {error}")
    path = out / "study.md"
    files.write_text(path, "\n".join(parts).rstrip() + "\n")
    return [path, *written], problems


def _page(study: Study, out: Path, networks: str, standings: Sequence[Standing]) -> list[Path]:
    """Write the page of a recipe and its learning curves."""
    done = [s for s in standings if s.stage == "measured"]
    content, written = drawn(out, networks, standings)
    page = report(
        [out / s.cell.name for s in done],
        out / f"{networks}.html",
        title=f"Study: {networks}",
        about="" if len(done) == len(standings) else f"{described(standings)}.",
        measured=figures_file(study, standings[0].cell),
        sections=[Section("Over processor time", content)] if content else [],
        labels=_labels(done),
        varied=VARIED,
    )
    return [page, *written]
