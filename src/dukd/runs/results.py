"""What was measured of a run: sets add up, what cannot stand in one table is kept apart.

Each way of measuring has a file: `evaluation.json` for the last student's plain outputs in float32,
others for the best student, a self-ensemble, bfloat16, or another border. Within a file, sets of
images join those that were measured before, as long as the networks, the scale and the protocol are
the same. Otherwise the old file is set aside under its date. Each file ends with a checksum, so
that figures that were changed afterwards are noticed.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from dukd.core import files
from dukd.evaluation.evaluate import fingerprint
from dukd.evaluation.table import Row, Spread, Table, Value
from dukd.networks.files import weights
from dukd.runs.checkpoint import CheckpointError
from dukd.runs.signed import read_with_digest, with_digest

SAME = 1e-3
"""How far a figure may differ between machines; images whose figures differ by more have
changed."""

_FACTS = ("device", "precision")


class ResultsError(ValueError):
    """A file of figures that cannot be used; the message says why, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Where figures were kept, and what became of those that were there."""

    path: Path
    notes: tuple[str, ...] = ()
    """One sentence for each thing that a reader may not expect."""


def file_name(
    *,
    precision: str = "float32",
    self_ensemble: bool = False,
    best: bool = False,
    border: int | None = None,
) -> str:
    """Name of the file for a way of measuring.

    Args:
        precision: Of the networks.
        self_ensemble: Whether outputs were averaged over eight flips and rotations.
        best: Whether the student of the best validation was measured.
        border: Pixels left out on every side, if not as many as the scale.

    Example:
        >>> file_name(), file_name(precision="bfloat16", self_ensemble=True)
        ('evaluation.json', 'evaluation-bfloat16-self-ensemble.json')
    """
    parts = (
        "evaluation",
        "best" if best else "",
        "" if precision == "float32" else precision,
        "self-ensemble" if self_ensemble else "",
        "" if border is None else f"border-{border}",
    )
    return "-".join(filter(None, parts)) + ".json"


def keep_each(table: Table, runs: Mapping[str, Path], *, best: bool = False) -> list[Kept]:
    """Add to each run's directory what was measured of its student.

    Args:
        table: The students, and bicubic and the teacher, which every file gets.
        runs: Directories by the labels of rows.
        best: Whether the students are those of the best validations.
    """
    shared = [row for row in table.rows if row.model in {"bicubic", "teacher"}]
    return [
        keep(runs[row.label], replace(table, rows=(*shared, row)), best=best)
        for row in table.rows
        if row.label in runs and row.sets
    ]


def keep(run: Path, table: Table, *, best: bool = False) -> Kept:
    """Add what was measured of a run's student, and of what stands beside it, to its directory.

    A set is replaced by a later measurement of as many images or more; one of fewer leaves it as it
    is.

    Args:
        run: The run directory.
        table: One row of model ``student``, and any of ``bicubic`` and ``teacher``.
        best: Whether the student is that of the best validation.
    """
    student = _row(table, "student")
    assert student is not None, [row.label for row in table.rows]
    name = file_name(
        precision=str(table.facts.get("precision", "float32")),
        self_ensemble=student.label.endswith("+"),
        best=best,
        border=None if table.border == table.scale else table.border,
    )
    with files.lock(Path(run)):
        return _keep(Path(run) / name, replace(table, problems=()))


def _keep(path: Path, table: Table) -> Kept:
    notes: list[str] = []
    if path.exists():
        try:
            old = read(path)
            reason = _difference(old, table)
        except ResultsError as error:
            old, reason = table, error.args[1]
        if reason:
            aside = path.rename(_free_name(path))
            notes.append(f"the {path.name} that was there is now {aside.name}: {reason}")
        else:
            stay = _larger(old, table)
            notes += [
                f"{name} keeps the figures that were there, which are of more images"
                for name in stay
            ]
            table = _joined(old, table, stay)
    write(path, table)
    return Kept(path=path, notes=tuple(notes))


def write(path: Path, table: Table) -> None:
    """Write figures with their checksum."""
    files.write_text(path, with_digest(table.to_dict()))


def read(path: Path) -> Table:
    """Read figures.

    Raises:
        ResultsError: If the file was altered, is of an older version, or cannot be understood.
    """
    said = False
    try:
        said = "sha256" in json.loads(path.read_bytes())
        content: dict[str, Any] = read_with_digest(path)
        rows = tuple(_row_of(row) for row in content["rows"])
        table = Table(
            rows=rows,
            scale=content["scale"],
            border=content.get("border"),
            facts={name: content[name] for name in _FACTS if name in content},
            protocol={str(key): str(value) for key, value in content["protocol"].items()},
        )
    except CheckpointError as error:
        why = "it was altered after it was measured" if said else "it is of an older version"
        raise _unusable(path, why) from error
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        why = f"it cannot be understood ({type(error).__name__})"
        raise _unusable(path, why) from error
    if _row(table, "student") is None:
        raise _unusable(path, "it has no row for the student")
    return table


def _unusable(path: Path, why: str) -> ResultsError:
    return ResultsError(f"{path}: {why}; run dukd evaluate again", why)


def _row_of(entry: dict[str, Any]) -> Row:
    own = {key: _value(v) for key, v in entry.items() if key not in {"model", "label", "sets"}}
    sets = cast("dict[str, dict[str, Any]]", entry["sets"])
    return Row(
        model=str(entry["model"]),
        label=str(entry["label"]),
        values=own,
        sets={name: {k: _value(v) for k, v in found.items()} for name, found in sets.items()},
    )


def _value(value: object) -> Value:
    match value:
        case "inf" | "-inf" | "nan":
            return float(str(value))
        case None | str() | int() | float():
            return value
        case {"mean": int() | float() as mean, "deviation": deviation, "n": int(n)}:
            return Spread(mean, deviation if isinstance(deviation, float) else None, n)
        case _:
            raise ValueError(f"{value!r} stands where a value belongs")


def _row(table: Table, model: str) -> Row | None:
    return next((row for row in table.rows if row.model == model), None)


def _difference(old: Table, new: Table) -> str:
    """Why two tables cannot be one; empty if they can."""
    if old.scale != new.scale:
        return f"it is of x{old.scale}"
    if any(old.protocol[key] != new.protocol[key] for key in old.protocol.keys() & new.protocol):
        return "it was measured by another protocol"
    for row in new.rows:
        before = _row(old, row.model)
        if before is None or before.values.get("network") == row.values.get("network"):
            continue
        trained = ", such as before it was trained on" if row.model == "student" else ""
        return f"it is of another {row.model}{trained}"
    return ""


def _larger(old: Table, new: Table) -> tuple[str, ...]:
    """Sets of which the old table measured more images."""
    were, are = _student_sets(old), _student_sets(new)
    return tuple(name for name in are if name in were and _count(were[name]) > _count(are[name]))


def _joined(old: Table, new: Table, stay: Iterable[str]) -> Table:
    """Both tables as one; of the sets in ``stay`` the old figures count, otherwise the new ones."""
    stay = set(stay)
    were, are = _student_sets(old), _student_sets(new)
    both = are.keys() & were.keys() - stay
    changed = {name for name in both if not _same(were[name], are[name])}
    models = dict.fromkeys([row.model for row in (*new.rows, *old.rows)])
    rows: list[Row] = []
    for model in models:
        before, now = _row(old, model), _row(new, model)
        kept = {} if before is None else before.sets
        sets = {name: values for name, values in kept.items() if name not in changed}
        for name, values in ({} if now is None else now.sets).items():
            if name not in stay:  # what this time was not measured stays as it was
                sets[name] = {**sets.get(name, {}), **_present(values)}
        row = now or before
        assert row is not None, model
        seconds = _seconds(sets.values())
        rows.append(replace(row, sets=sets, values={**row.values, "seconds_per_image": seconds}))
    return replace(new, rows=tuple(rows), protocol={**old.protocol, **new.protocol})


def _student_sets(table: Table) -> Mapping[str, Mapping[str, Value]]:
    student = _row(table, "student")
    return student.sets if student else {}


def _present(values: Mapping[str, Value]) -> dict[str, Value]:
    return {name: value for name, value in values.items() if value is not None}


def _count(values: Mapping[str, Value]) -> float:
    return _number(values, "images") or 0


def _number(values: Mapping[str, Value], name: str) -> float | None:
    value = values.get(name)
    return float(value) if isinstance(value, int | float) else None


def _same(a: Mapping[str, Value], b: Mapping[str, Value]) -> bool:
    """Whether two measurements of one network are of the same images."""
    shared = a.keys() & b.keys() - {"seconds", "share", "agreement"}
    pairs = [(_number(a, name), _number(b, name)) for name in shared]
    return all(
        x == y or (x is not None and y is not None and math.isclose(x, y, abs_tol=SAME))
        for x, y in pairs
    )


def _seconds(sets: Iterable[Mapping[str, Value]]) -> float | None:
    """Seconds per image over all sets that say theirs."""
    found = [
        (s, _count(values)) for values in sets if (s := _number(values, "seconds")) is not None
    ]
    count = sum(images for _, images in found)
    return sum(seconds * images for seconds, images in found) / count if count else None


def _free_name(path: Path) -> Path:
    """A name with the file's date that is not taken."""
    when = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    stem = f"{path.stem}-until-{when:%Y%m%dT%H%M%SZ}"
    names = (path.with_name(stem + (f"-{n}" if n else "") + path.suffix) for n in range(1000))
    return next(name for name in names if not name.exists())


def outdated(students: Iterable[Path], table: Table) -> bool:
    """Whether figures are of another student than a run holds; False where that is unknown.

    Args:
        students: Its files of weights, as far as they are there.
        table: Its figures.
    """
    measured = {row.values.get("network") for row in table.rows if row.model == "student"}
    try:
        held = {fingerprint(weights.read(path)) for path in students if path.is_file()}
    except ValueError:  # damaged, or of a class that is defined elsewhere
        return False
    return None not in measured and bool(held) and not measured <= held
