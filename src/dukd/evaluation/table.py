"""One table for everything that is measured: networks on sets of images, runs, ways that are timed.

A row has values of its own (parameters, steps, seconds) and values on each set (PSNR-Y, gap
closed). Columns say how a value is shown. Markdown and LaTeX hold what a reader wants to see; CSV
and JSON hold everything, unrounded.
"""

import csv
import io
import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from html import escape
from typing import Literal

from dukd.core import text


@dataclass(frozen=True)
class Spread:
    """A number that was measured several times."""

    mean: float
    deviation: float | None = None
    """Standard deviation of a sample (n - 1); None for a single value."""
    n: int = 1

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        """Mean and standard deviation."""
        if len(values) == 1:
            return Spread(values[0])
        finite = all(math.isfinite(value) for value in values)
        deviation = statistics.stdev(values) if finite else None
        return Spread(statistics.fmean(values), deviation, len(values))


Value = Spread | float | str | None
"""What stands in a cell."""


def decimals(digits: int) -> Callable[[float], str]:
    """How a number of so many decimals is shown."""

    def show(value: float) -> str:
        return f"{value:.{digits}f}" if math.isfinite(value) else str(value).replace("inf", "∞")

    return show


@dataclass(frozen=True, kw_only=True)
class Column:
    """What stands in a column, and how it is shown."""

    name: str
    """Key in JSON, heading in CSV."""
    title: str
    """Heading where people read it."""
    show: Callable[[float], str] = str
    """A number as people read it."""
    unit: str = ""
    """Of its numbers, where they do not say it themselves."""
    better: Literal["", "higher", "lower"] = ""
    """Which values are good, if any."""
    joined: bool = False
    """Whether it shares a cell with the column before it."""
    shown: bool = True
    """Whether people see it; CSV and JSON hold it in any case."""

    def text(self, value: Value) -> str:
        """A value as people read it: ``32.12 ± 0.03``, or a dash."""
        match value:
            case None:
                return text.NOTHING
            case str():
                return value
            case Spread():
                mean = self.show(value.mean)
                if value.deviation is None:
                    return mean
                return f"{mean} ± {self.show(value.deviation).removeprefix('+')}"
            case _:
                return self.show(value)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was measured of one model, run or way."""

    label: str
    """What people call it."""
    model: str = ""
    """What it is: ``bicubic``, ``teacher``, ``student``, ``images``; empty where that says
    nothing."""
    values: Mapping[str, Value] = field(default_factory=dict[str, Value])
    """Of the row itself, by the names of columns."""
    sets: Mapping[str, Mapping[str, Value]] = field(default_factory=dict[str, Mapping[str, Value]])
    """On each set of images, by the names of columns."""

    def value(self, name: str, on: str | None = None) -> float | None:
        """A number of the row, or on a set; the mean of several; None where there is none."""
        found = (self.values if on is None else self.sets.get(on, {})).get(name)
        if isinstance(found, Spread):
            return found.mean
        return None if isinstance(found, str) or found is None else float(found)


@dataclass(frozen=True)
class Group:
    """Columns that share one cell."""

    title: str
    on: str | None
    """The set whose values it shows; None for values of the row itself."""
    columns: tuple[Column, ...]

    def values(self, row: Row) -> list[Value]:
        """A row's values in it."""
        values = row.values if self.on is None else row.sets.get(self.on, {})
        return [values.get(column.name) for column in self.columns]

    def text(self, row: Row) -> str:
        """A row's cell."""
        values = self.values(row)
        if not any(value is not None for value in values):
            return text.NOTHING
        return " / ".join(c.text(v) for c, v in zip(self.columns, values, strict=True))


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of measured values, and how they were measured."""

    of: str = "model"
    """What a row is about."""
    rows: tuple[Row, ...]
    columns: tuple[Column, ...] = ()
    """Of the rows' own values, in order."""
    measures: tuple[Column, ...] = ()
    """Of the values on a set, in order."""
    scale: int | None = None
    """Upscaling factor."""
    border: int | None = None
    """Pixels that metrics leave out on every side."""
    facts: Mapping[str, str | int | None] = field(default_factory=dict[str, str | int | None])
    """What holds for the whole table: device, precision, steps."""
    protocol: Mapping[str, str] = field(default_factory=dict[str, str])
    """How the numbers are made; it stands below them everywhere."""
    heading: tuple[str, ...] = ()
    """Sentences above the table."""
    notes: tuple[str, ...] = ()
    """Sentences below the table."""
    problems: tuple[str, ...] = ()
    """What could not be measured, and why."""

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of the sets of images, in order."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row.sets))

    def best(self, measure: Column, on: str) -> Row | None:
        """The student that is best by a measure on a set; None where that cannot be said."""
        if not measure.better:
            return None
        values = {
            i: value
            for i, row in enumerate(self.rows)
            if row.model == "student" and (value := row.value(measure.name, on)) is not None
        }
        sign = 1 if measure.better == "higher" else -1
        return self.rows[max(values, key=lambda i: sign * values[i])] if values else None

    def groups(self) -> list[Group]:
        """What people see beside the label, from left to right; what no row has is left out."""
        single = [Group(_titled(c), None, (c,)) for c in self.columns if c.shown]
        together: list[list[Column]] = []
        for column in self.measures:
            if column.shown and column.joined and together:
                together[-1].append(column)
            elif column.shown:
                together.append([column])
        single += [
            Group(f"{name} {' / '.join(map(_titled, columns))}", name, tuple(columns))
            for name in self.sets
            for columns in together
        ]
        return [g for g in single if any(v is not None for r in self.rows for v in g.values(r))]

    def only(self, *names: str) -> "Table":
        """The same table, of which people see these columns alone, in this order."""
        columns = {column.name: column for column in (*self.columns, *self.measures)}
        chosen = [replace(columns[name], shown=True) for name in names if name in columns]
        own = {column.name for column in self.columns}
        return replace(
            self,
            columns=tuple(c for c in chosen if c.name in own),
            measures=tuple(c for c in chosen if c.name not in own),
        )

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Heading and lines as people read them."""
        groups = self.groups()
        lines = [[row.label, *(group.text(row) for group in groups)] for row in self.rows]
        return [self.of, *(group.title for group in groups)], lines

    def to_markdown(self) -> str:
        """The table as Markdown, with the protocol below."""
        header, lines = self.cells()
        rule = ["---"] + ["---:"] * (len(header) - 1)
        shown = [[_inline(cell) for cell in cells] for cells in [header, *lines]]
        grid = ["| " + " | ".join(cells) + " |" for cells in [shown[0], rule, *shown[1:]]]
        blocks = [
            "\n".join(map(_inline, self.heading)),
            "\n".join(grid),
            *map(_inline, self.below()),
        ]
        return "\n\n".join(filter(None, blocks)) + "\n"

    def _repr_html_(self) -> str:
        """The table as a notebook shows it: the best of each measure bold, the protocol below."""
        header, lines = self.cells()
        groups = self.groups()
        grid = ["".join(f"<th>{escape(cell)}</th>" for cell in header)]
        for row, cells in zip(self.rows, lines, strict=True):
            best = [False, *(self._is_best(group, row) for group in groups)]
            grid.append("".join(map(_cell_of_html, cells, best)))
        rows = "".join(f"<tr>{cells}</tr>" for cells in grid)
        below = "".join(f"<p><small>{escape(sentence)}</small></p>" for sentence in self.below())
        return f"<table>{rows}</table>{below}"

    def _is_best(self, group: Group, row: Row) -> bool:
        """Whether a row is the best student by the first measure of a cell."""
        return group.on is not None and self.best(group.columns[0], group.on) is row

    def to_csv(self) -> str:
        """Everything, unrounded: one line per row and set."""
        spreads = {
            name
            for row in self.rows
            for values in (row.values, *row.sets.values())
            for name, value in values.items()
            if isinstance(value, Spread) and value.deviation is not None
        }
        own = list(dict.fromkeys(name for row in self.rows for name in row.values))
        on_sets = list(
            dict.fromkeys(n for row in self.rows for values in row.sets.values() for n in values)
        )
        head = ["label", "model", *_headings(own, spreads), *self.facts, "scale", "set"]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([*head, *_headings(on_sets, spreads), "protocol"])
        for row in self.rows:
            about = [row.label, row.model, *_numbers(own, row.values, spreads)]
            for name, values in (row.sets or {"": {}}).items():
                where = [*self.facts.values(), self.scale, name]
                numbers = _numbers(on_sets, values, spreads)
                writer.writerow([*about, *where, *numbers, self.protocol_line()])
        return out.getvalue()

    def to_dict(self) -> dict[str, object]:
        """Everything, as JSON holds it; a number with a deviation is an object of its parts."""
        facts = {name: value for name, value in self.facts.items() if value is not None}
        rows = [
            {
                "model": row.model,
                "label": row.label,
                **_plain(row.values),
                "sets": {name: _plain(values) for name, values in row.sets.items()},
            }
            for row in self.rows
        ]
        size = {"scale": self.scale, "border": self.border}
        whole: dict[str, object] = {
            **{name: value for name, value in size.items() if value is not None},
            **facts,
            "protocol": dict(self.protocol),
            "rows": rows,
        }
        return whole | ({"problems": list(self.problems)} if self.problems else {})

    def to_json(self) -> str:
        """Everything, as strict JSON; an infinite PSNR (equal images) is the string "inf"."""
        return text.to_json(self.to_dict())

    def protocol_line(self) -> str:
        """How the numbers were made, in one line; empty where there is nothing to say."""
        facts = [f"x{self.scale}"] if self.scale else []
        facts += [
            f"{value} {name}" if isinstance(value, int) else value
            for name, value in self.facts.items()
            if value is not None
        ]
        words = [", ".join(facts), "; ".join(f"{k}: {what}" for k, what in self.protocol.items())]
        return "".join(f"{part}. " for part in words if part).rstrip()

    def below(self) -> list[str]:
        """Sentences that belong below the table."""
        missing = [f"Not measured: {problem}" for problem in self.problems]
        return [sentence for sentence in [*self.notes, self.protocol_line(), *missing] if sentence]


FORMS: dict[str, Callable[[Table], str]] = {
    ".md": Table.to_markdown,
    ".csv": Table.to_csv,
    ".json": Table.to_json,
}
"""What a table can be written as, by the ending of the file."""


def _titled(column: Column) -> str:
    return f"{column.title} ({column.unit})" if column.unit else column.title


def _inline(sentence: str) -> str:
    """Text that cannot end a cell or a line, or begin a tag, in Markdown."""
    return " ".join(sentence.replace("|", "\\|").replace("<", "&lt;").split())


def _cell_of_html(words: str, best: bool) -> str:  # noqa: FBT001  mapped over cells
    shown = f"<b>{escape(words)}</b>" if best else escape(words)
    return f'<td style="white-space: nowrap">{shown}</td>'


def _headings(names: Sequence[str], spreads: Collection[str]) -> list[str]:
    """CSV's headings of some values, each with its deviation's where it has one."""
    return [h for n in names for h in ([n, f"{n}_deviation"] if n in spreads else [n])]


def _numbers(
    names: Sequence[str], values: Mapping[str, Value], spreads: Collection[str]
) -> list[float | str | None]:
    """Values in the order of ``_headings``."""
    found: list[float | str | None] = []
    for name in names:
        value = values.get(name)
        parts = (value.mean, value.deviation) if isinstance(value, Spread) else (value, None)
        found += parts if name in spreads else parts[:1]
    return found


def _plain(values: Mapping[str, Value]) -> dict[str, object]:
    """Values as JSON holds them."""
    return {
        name: value.mean
        if isinstance(value, Spread) and value.deviation is None
        else asdict(value)
        if isinstance(value, Spread)
        else value
        for name, value in values.items()
    }
