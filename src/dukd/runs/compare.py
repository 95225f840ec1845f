"""Several runs in one table, if they may stand in one: same steps, data, teacher and protocol.

Reads run directories only. Runs that differ in nothing but their seed become one row: mean and
standard deviation. Here alone "gap closed" is computed: the share of the way from the same student
trained from scratch, at equal steps, to the teacher, in PSNR-Y.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from math import isfinite, nan
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

from dukd.core.given import as_paths
from dukd.core.text import compact, elapsed, percent, signed
from dukd.evaluation.columns import columns_of
from dukd.evaluation.evaluate import part_of_way
from dukd.evaluation.table import Column, Row, Spread, Table, Value
from dukd.runs.directory import Run
from dukd.runs.results import outdated
from dukd.runs.summary import EVALUATION, ReportError, Summary, read_all

COLUMNS = (
    Column(name="runs", title="runs", shown=False),
    Column(name="seeds", title="seeds", show=lambda value: f"{value:.0f}"),
    Column(name="steps", title="steps", shown=False),
    Column(name="parameters", title="parameters", show=lambda value: f"{value:,.0f}"),
    Column(name="macs", title="MACs", show=compact),
    Column(name="seconds_per_image", title="time per image", show=elapsed),
)
GAIN = Column(name="gain", title="over bicubic", show=signed, unit="dB", shown=False)
"""PSNR-Y above bicubic interpolation."""
GAP_CLOSED = Column(name="gap_closed", title="gap closed", show=percent)
"""Share of the way from the student trained from scratch to the teacher, in PSNR-Y."""
Varied = Literal["steps", "training data"]
"""What may differ between the rows of a table where it is meant to."""
_STEPS, _DATA = get_args(Varied)
_VARIED: Mapping[str, Callable[[Summary], object]] = MappingProxyType(
    {
        _STEPS: lambda summary: summary.steps,
        _DATA: lambda summary: summary.facts.get("data_digest") or None,
    }
)
_KEYS: Mapping[str, str] = MappingProxyType({_DATA: " (data_digest)"})
"""What ``run.json`` calls it, where that is another word."""
DEFINITION = (
    "Gap closed: share of the way from the same student trained from scratch, at equal steps, to "
    "the teacher, in PSNR-Y."
)

_UNMEASURED = {"images", "seconds", "share", "gain", "gap_closed"}
"""What an evaluation holds of a set beside its metrics."""
_IN_DETAIL = {"psnr_rgb", "ssim_rgb"}
"""Metrics for which there is no room where people read."""


def compare(
    runs: Iterable[Path | str] | Path | str,
    measured: str = EVALUATION,
    labels: Mapping[str, str] = MappingProxyType({}),
    varied: Collection[Varied] = (),
) -> Table:
    """Put evaluated runs into one table.

    Args:
        runs: Run directories that were evaluated, or one.
        measured: The file of each that holds the evaluation.
        labels: What experiments are called, by the names of directories; after their methods
            otherwise.
        varied: What may differ between experiments, because that is the question. The gap closed is
            of those that share it all the same.

    Returns:
        A row per experiment, and rows for bicubic and the teacher; ``problems`` lists runs that
        cannot be read, were not evaluated, or are not finished.

    Raises:
        ReportError: If no run is left, or if two differ in steps, data, scale, teacher or protocol:
            the message names the runs and all that differs.
    """
    directories = as_paths("what is compared", runs)
    if not directories:
        raise ReportError("there is no run to report")
    found, problems = read_all(directories, measured, labels)
    good = [summary for summary in found if not _unready(summary)]
    problems += [problem for summary in found if (problem := _unready(summary))]
    if not good:
        raise ReportError("\n".join(problems))
    return replace(tabulate(good, varied), problems=tuple(problems))


def _unready(summary: Summary) -> str:
    """Why a run cannot be compared; empty if it can."""
    if summary.problem:
        return f"{summary.name}: {summary.problem}"
    if summary.evaluation is None:
        files = sorted(summary.directory.glob("evaluation*.json"))
        there = [path.name for path in files if "-until-" not in path.name]
        options = "see --self-ensemble, --precision, --best and --border"
        advice = f"; it has {', '.join(there)}: {options}" if there else ""
        missing = summary.measured.name
        return (
            f"{summary.name} was not evaluated: it has no {missing} (dukd evaluate writes it)"
            f"{advice}"
        )
    if not summary.finished:
        return (
            f"{summary.name} was saved at step {summary.saved} of {summary.steps}: resume it first"
        )
    return ""


def tabulate(summaries: Sequence[Summary], varied: Collection[Varied] = ()) -> Table:
    """Like `compare`, for runs already read; those without an evaluation are checked only."""
    if not summaries:
        raise ReportError("there is no run to report")
    judged = [(s, s.evaluation) for s in summaries if s.evaluation is not None]
    _check(summaries, judged, varied)
    groups: dict[str, list[tuple[Summary, Row]]] = {}
    for summary, table in judged:
        groups.setdefault(summary.kin, []).append((summary, _first(table, "student")))
    leading = [group[0][0] for group in groups.values()]
    students = [
        _row(group, label) for group, label in zip(groups.values(), called(leading), strict=True)
    ]
    bicubic, teacher = (_shared(judged, model) for model in ("bicubic", "teacher"))
    rows = [
        _placed(row, _scratch(summary, leading, students), teacher)
        for row, summary in zip(students, leading, strict=True)
    ]
    rows = [row for row in (bicubic, *rows, teacher) if row is not None]
    rows = [_gaining(row, bicubic) for row in rows]
    _check_counts(rows)
    return _table(rows, summaries, [table for _, table in judged])


def _table(rows: Sequence[Row], summaries: Sequence[Summary], tables: Sequence[Table]) -> Table:
    names = dict.fromkeys(n for row in rows for values in row.sets.values() for n in values)
    metrics = [name for name in names if name not in _UNMEASURED]
    columns = [
        replace(column, shown=column.name not in _IN_DETAIL)
        for column in columns_of(metrics, joined=("ssim_y",))
    ]
    first = tables[0] if tables else Table(rows=())
    lengths = {summary.steps for summary in summaries}
    differing = [what for what, get in _VARIED.items() if len(set(map(get, summaries))) > 1]
    notes = [f"Rows differ in {' and '.join(differing)}, as meant."] if differing else []
    notes += [DEFINITION] if GAP_CLOSED.name in names else []
    return Table(
        rows=tuple(rows),
        columns=tuple(replace(c, shown=c.shown or c.name in differing) for c in COLUMNS),
        measures=(*columns, GAIN, GAP_CLOSED),
        scale=first.scale,
        border=first.border,
        facts={
            "precision": first.facts.get("precision"),
            "steps": lengths.pop() if len(lengths) == 1 else None,
        },
        protocol={key: words for table in tables for key, words in table.protocol.items()},
        notes=tuple(notes),
    )


Judged = Sequence[tuple[Summary, Table]]


def _check(summaries: Sequence[Summary], judged: Judged, varied: Collection[Varied]) -> None:
    """See that runs may stand in one table.

    Raises:
        ReportError: If not; all differences are listed.
    """

    def differ(what: str, get: Callable[[Summary, Table], object]) -> list[str]:
        return _differences(what, [(s.name, get(s, table)) for s, table in judged])

    def facts(name: str) -> list[tuple[str, object]]:
        return [(s.name, s.facts.get(name) or None) for s in summaries]

    found = [
        *(
            sentence
            for what, get in _VARIED.items()
            if what not in varied
            for sentence in _differences(
                what + _KEYS.get(what, ""), [(s.name, get(s)) for s in summaries]
            )
        ),
        *_differences("teacher (teacher_sha256)", facts("teacher_sha256")),
        *differ("scale", lambda _, table: table.scale),
        *differ("precision", lambda _, table: table.facts.get("precision")),
        *differ("self-ensemble (--self-ensemble)", lambda _, t: "yes" if _averaged(t) else "no"),
    ]
    for key in dict.fromkeys(key for _, table in judged for key in table.protocol):
        found += differ(f"the protocol ({key})", lambda _, t, key=key: t.protocol.get(key))
    runs = [(s.name, Run(s.directory), table) for s, table in judged]
    old = [name for name, run, table in runs if outdated((run.student, run.best_student), table)]
    if old:
        found.append(
            f"{', '.join(old)}: measured before training went on, so the figures are of another "
            "student; run dukd evaluate again"
        )
    found += _twice(judged)
    if found:
        raise ReportError("\n".join(found))


def _twice(judged: Judged) -> list[str]:
    """A sentence for runs whose students are the same, and would count as seeds of their own."""
    first: dict[tuple[str, Value], str] = {}
    found: list[str] = []
    for summary, table in judged:
        for row in (row for row in table.rows if row.model == "student"):
            digest = row.values.get("network")
            other = first.setdefault((summary.kin, digest), summary.name)
            if digest is not None and other != summary.name:
                found.append(
                    f"{other} and {summary.name} hold the same student, so they are one run, or "
                    "one seed that was trained twice: name one of them"
                )
    return found


def _differences(what: str, values: Sequence[tuple[str, object]]) -> list[str]:
    """A sentence if runs do not share a value; one that does not say its own agrees with any."""
    known = [(name, value) for name, value in values if value is not None]
    for name, value in known:
        first, other = known[0]
        if value != other:
            return [
                f"runs that differ in {what} do not belong in one table: {first} has "
                f"{_brief(other)}, {name} has {_brief(value)}; report them apart"
            ]
    return []


def _brief(value: object) -> str:
    """A value as a sentence can hold it; of a digest, the beginning."""
    text = str(value)
    return f"{text[:12]}…" if re.fullmatch(r"[0-9a-f]{32,}", text) else text


def _check_counts(rows: Sequence[Row]) -> None:
    for name in dict.fromkeys(name for row in rows for name in row.sets):
        counts = {row.value("images", name) for row in rows if name in row.sets}
        if len(counts) > 1:
            listed = " and ".join(f"{count or 0:.0f}" for count in sorted(c or 0 for c in counts))
            raise ReportError(f"{name} was measured on {listed} images: not comparable")


def _shared(judged: Judged, model: str) -> Row | None:
    """The row of a model that is the same for all runs, with every set that one of them has."""
    rows = [row for _, table in judged for row in table.rows if row.model == model]
    if not rows:
        return None
    sets = {name: values for row in reversed(rows) for name, values in row.sets.items()}
    return replace(rows[0], sets=_measured(sets))


def _row(group: Sequence[tuple[Summary, Row]], label: str) -> Row:
    """The row of an experiment: means over its seeds."""
    summaries, rows = zip(*group, strict=True)
    first: Row = rows[0]
    times = [time for row in rows if (time := row.value("seconds_per_image")) is not None]
    for name in first.sets:
        if not all(name in row.sets for row in rows):
            raise ReportError(f"{name} was not measured for every seed of {label}")
        if len({row.value("images", name) for row in rows}) > 1:
            raise ReportError(f"{name} was measured on other images for some seeds of {label}")
    values: dict[str, Value] = {
        "runs": " ".join(summary.name for summary in summaries),
        "seeds": len(rows) if len(rows) > 1 else None,
        "steps": summaries[0].steps,
        "parameters": first.values.get("parameters"),
        "macs": first.values.get("macs"),
        "seconds_per_image": sum(times) / len(times) if times else None,
    }
    sets = {name: _over_seeds([row.sets[name] for row in rows]) for name in first.sets}
    label += "+" if first.label.endswith("+") else ""
    return Row(label=label, model="student", values=values, sets=_measured(sets))


def _over_seeds(found: Sequence[Mapping[str, Value]]) -> dict[str, Value]:
    """Means and deviations of what every seed measured."""
    means: dict[str, Value] = {"images": found[0].get("images")}
    for name in found[0]:
        values = [one.get(name) for one in found]
        numbers = [float(v) for v in values if isinstance(v, int | float)]
        if name not in _UNMEASURED and len(numbers) == len(values):
            means[name] = Spread.of(numbers)
    return means


def _measured(sets: Mapping[str, Mapping[str, Value]]) -> dict[str, dict[str, Value]]:
    """Values on sets without what does not measure quality, but for the count of images."""
    return {
        name: {k: v for k, v in values.items() if k == "images" or k not in _UNMEASURED}
        for name, values in sets.items()
    }


def _scratch(summary: Summary, others: Sequence[Summary], rows: Sequence[Row]) -> Row | None:
    """The row of the same student trained from scratch; None where that is not one row."""

    def alike(other: Summary) -> bool:
        ours, theirs = summary.experiment.get("student"), other.experiment.get("student")
        return ours == theirs and all(get(summary) == get(other) for get in _VARIED.values())

    found = [
        row
        for other, row in zip(others, rows, strict=True)
        if other.method == "scratch" and alike(other)
    ]
    return found[0] if len(found) == 1 and summary.method != "scratch" else None


def _placed(row: Row, low: Row | None, high: Row | None) -> Row:
    """The row with its share of the way from scratch to the teacher."""
    if low is None or high is None:
        return row
    sets: dict[str, Mapping[str, Value]] = {}
    for name, values in row.sets.items():
        share = part_of_way(row, low, high, name)
        sets[name] = values if share is None else {**values, GAP_CLOSED.name: share}
    return replace(row, sets=sets)


def _gaining(row: Row, bicubic: Row | None) -> Row:
    """The row with what it gains over bicubic."""
    if bicubic is None or row.model == "bicubic":
        return row
    sets: dict[str, Mapping[str, Value]] = {}
    for name, values in row.sets.items():
        own, low = row.value("psnr_y", name), bicubic.value("psnr_y", name)
        gain = (nan if own is None else own) - (nan if low is None else low)
        sets[name] = {**values, GAIN.name: gain} if isfinite(gain) else values
    return replace(row, sets=sets)


def called(summaries: Sequence[Summary]) -> list[str]:
    """Each run's label or the method's name, with the run's where two rows would have the same."""
    methods = [summary.label or summary.method for summary in summaries]
    return [
        method if methods.count(method) == 1 else f"{method} ({summary.name})"
        for method, summary in zip(methods, summaries, strict=True)
    ]


def _first(table: Table, model: str) -> Row:
    return next(row for row in table.rows if row.model == model)


def _averaged(table: Table) -> bool:
    """Whether the student's outputs were averaged over flips and rotations: it has a plus."""
    return _first(table, "student").label.endswith("+")
