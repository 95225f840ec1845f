"""What a study ends in: a table per recipe, held against one method seed by seed, and pages."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

from dukd.core import files
from dukd.core.text import signed
from dukd.evaluation.table import FORMS, Column, Row, Spread, Table
from dukd.recipes.study import Cell, Study
from dukd.recipes.study_standing import Standing, described, figures_file
from dukd.runs import results
from dukd.runs.compare import compare
from dukd.runs.report import report
from dukd.runs.summary import ReportError

_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % quantiles of Student's t for 1 to 9 degrees of freedom."""

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

    Seeds share first weights and batches, so a difference is known better than what it is of.

    Args:
        study: The study.
        out: Its folder.
        networks: One of its recipes.
        standings: Where its cells stand.
    """
    seconds: dict[str, list[float]] = {}
    figures: dict[str, dict[int, dict[str, float]]] = {}
    for s in standings:
        if s.stage == "measured" and s.cell.recipe == networks:
            figures.setdefault(s.cell.method, {})[s.cell.seed] = _figures(study, out, s.cell)
            seconds.setdefault(s.cell.method, []).append(s.seconds)
    base = figures.get(study.against, {})
    rows: list[Row] = []
    for method, by_seed in figures.items():
        shared = sorted(by_seed.keys() & base.keys())
        if method == study.against or not shared:
            continue
        names = [n for n in by_seed[shared[0]] if all(n in base[seed] for seed in shared)]
        found = {n: [by_seed[seed][n] - base[seed][n] for seed in shared] for n in names}
        means = [fmean(found[n][i] for n in names) for i in range(len(shared))] if names else []
        if not means:
            continue
        ends = interval(means)
        rows.append(
            Row(
                label=method,
                model="student",
                values={
                    "seeds": len(shared),
                    "seconds": fmean(seconds[method]),
                    "mean": Spread.of(means),
                    "interval": "" if ends is None else f"{ends[0]:+.3f} to {ends[1]:+.3f}",
                },
                sets={n: {"difference": Spread.of(values)} for n, values in found.items()},
            )
        )
    return Table(
        rows=tuple(rows),
        columns=(_SEEDS, _SECONDS, _MEAN, _INTERVAL),
        measures=(_DIFFERENCE,),
        notes=(f"Less {study.against}, seed by seed; ± is the standard deviation over seeds.",),
    )


def _figures(study: Study, out: Path, cell: Cell) -> dict[str, float]:
    table = results.read(out / cell.name / figures_file(study, cell))
    row = next(row for row in table.rows if row.model == "student")
    found = {name: row.value("psnr_y", name) for name in row.sets}
    return {name: value for name, value in found.items() if value is not None}


def write_tables(
    study: Study, out: Path, standings: Sequence[Standing]
) -> tuple[list[Path], list[str]]:
    """Write ``study.md``, and a page for each recipe that has a measured cell.

    Returns:
        The files, and what could not be put into a table.
    """
    parts = [f"# Study\n\n{described(standings)}.\n"]
    problems: list[str] = []
    written: list[Path] = []
    for networks in study.recipes:
        own = [s for s in standings if s.cell.recipe == networks]
        runs = [out / s.cell.name for s in own if s.stage == "measured"]
        parts.append(f"## {networks}\n")
        waiting = [
            f"`{s.cell.name}` ({s.stage}, step {s.step:,})" for s in own if s not in _done(own)
        ]
        if waiting:
            parts.append(f"Not finished: {', '.join(waiting)}.\n")
        if not runs:
            continue
        measured = figures_file(study, own[0].cell)
        try:
            parts.append(FORMS[".md"](compare(runs, measured)))
            held = differences(study, out, networks, standings)
            if held.rows:
                parts += [f"### Over {study.against}\n", FORMS[".md"](held)]
            page = report(
                runs, out / f"{networks}.html", title=f"Study: {networks}", measured=measured
            )
        except ReportError as error:
            problems.append(f"{networks}: {error}")
        else:
            written.append(page)
    path = out / "study.md"
    files.write_text(path, "\n".join(parts).rstrip() + "\n")
    return [path, *written], problems


def _done(standings: Sequence[Standing]) -> list[Standing]:
    return [s for s in standings if s.stage == "measured"]
