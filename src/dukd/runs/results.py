"""What was measured of a run: sets add up, what cannot stand in one table is kept apart.

Each way of measuring has a file: `evaluation.json` for the networks' plain answers in float32,
another for a self-ensemble or bfloat16. Within a file, sets of images join those that were measured
before, as long as the networks, the scale and the protocol are the same. Otherwise the old file is
set aside under its date.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from dukd.core import files
from dukd.evaluation.evaluate import Row, Scores, Table, fingerprint
from dukd.networks.files import weights

SAME = 1e-3
"""dB by which a figure may differ between machines; images whose figures differ by more have
changed."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Where figures were kept, and what became of those that were there."""

    path: Path
    notes: tuple[str, ...] = ()
    """One sentence for each thing that a reader may not expect."""


def file_name(*, precision: str = "float32", self_ensemble: bool = False) -> str:
    """Name of the file for a way of measuring.

    Example:
        >>> file_name(), file_name(precision="bfloat16", self_ensemble=True)
        ('evaluation.json', 'evaluation-bfloat16-self-ensemble.json')
    """
    parts = (
        "evaluation",
        "" if precision == "float32" else precision,
        "self-ensemble" if self_ensemble else "",
    )
    return "-".join(filter(None, parts)) + ".json"


def keep(run: Path, table: Table) -> Kept:
    """Add what was measured of a run's student, and of what stands beside it, to its directory.

    A set is replaced by a later measurement of as many images or more; one of fewer leaves it as it
    is.

    Args:
        run: The run directory.
        table: One row of model ``student``, and any of ``bicubic``, ``teacher`` and ``baseline``.
    """
    student = _row(table, "student")
    assert student is not None, [row.label for row in table.rows]
    with files.lock(Path(run)):
        return _keep(Path(run), table, student)


def _keep(run: Path, table: Table, student: Row) -> Kept:
    path = run / file_name(precision=table.precision, self_ensemble=student.label.endswith("+"))
    notes: list[str] = []
    if path.exists():
        old = _read(path)
        reason = "it cannot be understood" if old is None else _difference(old, table)
        if old is None or reason:
            aside = path.rename(_free_name(path))
            notes.append(f"the {path.name} that was there is now {aside.name}: {reason}")
        else:
            stay = _larger(old, table)
            notes += [
                f"{name} keeps the figures that were there, which are of more images"
                for name in stay
            ]
            table = _joined(old, table, stay)
    files.write_text(path, table.to_json())
    return Kept(path=path, notes=tuple(notes))


def _read(path: Path) -> Table | None:
    """The table that a file holds, or None where it is not one of ours."""
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        rows = tuple(_row_of(row) for row in content["rows"])
        plain = {
            key: content[key]
            for key in ("scale", "protocol", "device", "precision")
            if key in content
        }
        found = Table(rows=rows, **plain)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None
    return found if _row(found, "student") else None


def _row_of(entry: dict[str, Any]) -> Row:
    values: dict[str, Any] = {f.name: entry[f.name] for f in fields(Row) if f.name in entry}
    sets: dict[str, Scores] = {}
    for name, scores in cast("dict[str, dict[str, Any]]", entry["sets"]).items():
        numbers: dict[str, Any] = {f.name: scores.get(f.name) for f in fields(Scores)}
        numbers = {
            key: None if number is None else float(number) for key, number in numbers.items()
        }
        sets[name] = Scores(**numbers | {"images": int(scores["images"])})
    values["sets"] = sets
    return Row(**values)


def _row(table: Table, model: str) -> Row | None:
    return next((row for row in table.rows if row.model == model), None)


def _difference(old: Table, new: Table) -> str:
    """Why two tables cannot be one; empty if they can."""
    if old.scale != new.scale:
        return f"it is of x{old.scale}"
    if dict(old.protocol) != dict(new.protocol):
        return "it was measured by another protocol"
    for row in new.rows:
        before = _row(old, row.model)
        if before is None or before.network == row.network:
            continue
        if before.network is None:
            return f"it does not say which {row.model} it measured"
        return f"it is of another {row.model}" + (
            ", such as before it was trained on" if row.model == "student" else ""
        )
    return ""


def _larger(old: Table, new: Table) -> tuple[str, ...]:
    """Sets of which the old table measured more images."""
    were, are = _student_sets(old), _student_sets(new)
    return tuple(name for name in are if name in were and were[name].images > are[name].images)


def _joined(old: Table, new: Table, stay: Iterable[str]) -> Table:
    """Both tables as one; of the sets in ``stay`` the old figures count, otherwise the new ones."""
    stay = set(stay)
    were, are = _student_sets(old), _student_sets(new)
    changed = {
        name
        for name in are
        if name in were and name not in stay and not _same(were[name], are[name])
    }
    models = dict.fromkeys([row.model for row in (*new.rows, *old.rows)])
    rows: list[Row] = []
    for model in models:
        before, now = _row(old, model), _row(new, model)
        sets = (
            {name: scores for name, scores in before.sets.items() if name not in changed}
            if before
            else {}
        )
        for name, scores in now.sets.items() if now else ():
            if name not in stay:
                sets[name] = _completed(scores, sets.get(name))
        row = now or before
        assert row is not None, model
        rows.append(replace(row, sets=sets, seconds_per_image=_seconds(sets.values())))
    return replace(new, rows=tuple(rows))


def _student_sets(table: Table) -> dict[str, Scores]:
    student = _row(table, "student")
    return student.sets if student else {}


def _same(a: Scores, b: Scores) -> bool:
    """Whether two measurements of one network are of the same images."""
    alike = a.psnr_y == b.psnr_y or abs(a.psnr_y - b.psnr_y) < SAME
    return a.images == b.images and alike


def _completed(scores: Scores, before: Scores | None) -> Scores:
    """Scores, with the agreement that was measured before where this time there was no teacher."""
    if before is None or scores.agreement is not None:
        return scores
    return replace(scores, agreement=before.agreement)


def _seconds(sets: Iterable[Scores]) -> float | None:
    """Seconds per image over all sets that tell theirs."""
    told = [(scores.seconds, scores.images) for scores in sets if scores.seconds is not None]
    count = sum(images for _, images in told)
    return sum(seconds * images for seconds, images in told) / count if count else None


def _free_name(path: Path) -> Path:
    """A name with the file's date that is not taken."""
    when = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    stem = f"{path.stem}-until-{when:%Y%m%dT%H%M%SZ}"
    names = (path.with_name(stem + (f"-{n}" if n else "") + path.suffix) for n in range(1000))
    return next(name for name in names if not name.exists())


def outdated(students: Iterable[Path], rows: Iterable[Mapping[str, object]]) -> bool:
    """Whether figures are of another student than a run holds now; False where nobody can tell.

    Args:
        students: Its files of weights, as far as they are there.
        rows: The students in its file of figures.
    """
    measured = {row.get("network") for row in rows}
    try:
        held = {fingerprint(weights.read(path)) for path in students if path.is_file()}
    except ValueError:  # damaged, or of a kind that is defined elsewhere
        return False
    return None not in measured and bool(held) and not measured <= held
