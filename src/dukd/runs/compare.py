"""Several runs in one table, if they may stand in one: same steps, data, scale, teacher and protocol.

Reads run directories only. Runs that differ in nothing but their seed become one row: mean and
standard deviation.
"""

# ruff: noqa: RUF001 (the times sign, the dash and the minus are meant)

import csv
import io
import json
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from dukd.runs.results import file_name, outdated
from dukd.runs.directory import Run

Model = Literal["bicubic", "baseline", "teacher", "student"]
"""``baseline``: a student trained from scratch whose weights were given to the evaluation."""
METRICS = ("psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb", "agreement")
_SMALLEST_GAP = 0.005  # dB: a share of less would be noise
_LARGEST = 1 << 20
EVALUATION = file_name()
"""The file of a run that holds what was measured of it, unless another is asked for."""


class ReportError(ValueError):
    """Runs that cannot be reported as asked; the message names what is missing or differs."""


@dataclass(frozen=True)
class Spread:
    """A number measured once or several times."""

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
        return Spread(statistics.fmean(values), statistics.stdev(values) if finite else None, len(values))


@dataclass(frozen=True, kw_only=True)
class Score:
    """One model on one set of images."""

    images: int
    values: dict[str, Spread]
    """By the names in ``METRICS``; what was not measured is left out."""
    gain: float | None = None
    """PSNR-Y above bicubic, in dB."""
    gap_closed: float | None = None
    """Share of the way from the student trained from scratch to its teacher, in PSNR-Y."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    label: str
    model: Model
    runs: tuple[str, ...] = ()
    steps: int | None = None
    parameters: int | None = None
    macs: int | None = None
    seconds_per_image: float | None = None
    sets: dict[str, Score] = field(default_factory=dict[str, Score])


@dataclass(frozen=True, kw_only=True)
class Story:
    """What one run directory tells."""

    name: str
    directory: Path
    experiment_text: str
    experiment: dict[str, Any]
    facts: dict[str, Any]
    records: list[dict[str, Any]]
    evaluation: dict[str, Any] | None
    measured: Path
    """The file that the evaluation stands in, or would."""
    reached: int

    @property
    def method(self) -> str:
        """Name of the method."""
        return _name(self.experiment.get("method"), "scratch")

    @property
    def steps(self) -> int | None:
        """Steps asked for."""
        try:
            return int(str(_part(self.experiment, "optimization").get("steps")).replace("_", ""))
        except ValueError:
            return None

    @property
    def finished(self) -> bool:
        """Whether all steps were done, and saved."""
        return self.steps is None or self.saved >= self.steps

    @property
    def saved(self) -> int:
        """The newest step that was saved."""
        return max(Run(self.directory).steps(), default=0)

    @property
    def kin(self) -> str:
        """The same for runs that differ in their seed only."""
        optimization = {key: value for key, value in _part(self.experiment, "optimization").items() if key != "seed"}
        return json.dumps({**self.experiment, "optimization": optimization}, sort_keys=True)


def read(directory: Path, measured: str = EVALUATION) -> Story:
    """Read what a run directory holds; only the experiment has to be there.

    Args:
        directory: The run directory.
        measured: The file in it that holds the evaluation.

    Raises:
        dukd.runs.checkpoint.CheckpointError: If there is no run.
        ReportError: If a file of it cannot be understood.
    """
    directory = Path(directory)
    run = Run.open(directory)
    text = run.experiment.read_text(encoding="utf-8", errors="replace")
    try:
        # Text only: what this loader makes is strings, lists and dictionaries, and nothing is
        # resolved or built.
        experiment = yaml.load(text, Loader=yaml.BaseLoader) if len(text) <= _LARGEST else None  # noqa: S506
    except (yaml.YAMLError, RecursionError) as error:
        raise ReportError(f"{run.experiment} is no YAML: {error}") from error
    if not isinstance(experiment, dict):
        raise ReportError(f"{run.experiment} is no experiment")
    records = cast("list[dict[str, Any]]", run.records())
    logged = [record["step"] for record in records if isinstance(record.get("step"), int)]
    evaluation = directory / measured
    return Story(
        name=directory.resolve().name,
        directory=directory,
        experiment_text=text,
        experiment=cast("dict[str, Any]", experiment),
        facts=_json(run.facts) if run.facts.exists() else {},
        records=records,
        evaluation=_json(evaluation) if evaluation.exists() else None,
        measured=evaluation,
        reached=max([0, *logged, *run.steps()]),
    )


def read_all(directories: Sequence[Path], measured: str = EVALUATION) -> list[Story]:
    """Read runs; those of equal names are told apart by the folder they lie in."""
    stories = [read(directory, measured) for directory in directories]
    names = [story.name for story in stories]
    long = [f"{story.directory.resolve().parent.name}/{story.name}" for story in stories]
    unique = [name if names.count(name) == 1 else other for name, other in zip(names, long, strict=True)]
    if len(set(unique)) < len(unique):
        raise ReportError(f"a run is named twice: {', '.join(unique)}")
    return [replace(story, name=name) for story, name in zip(stories, unique, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Rows that may stand beside each other, and what they have in common."""

    scale: int | None
    steps: int | None
    protocol: dict[str, str]
    sets: tuple[str, ...]
    rows: tuple[Row, ...]

    def to_markdown(self) -> str:
        """A table for a README: PSNR-Y / SSIM-Y per set."""
        head = ["Model", *self.sets, "Gain", "Gap closed", "Parameters", "MACs"]
        lines = [
            "| " + " | ".join(map(_cell, head)) + " |",
            "|" + "|".join([" :-- ", *[" --: "] * (len(head) - 1)]) + "|",
        ]
        for row in self.rows:
            scores = [row.sets.get(name) for name in self.sets]
            first = scores[0] if scores else None
            cells = [
                row.label,
                *(_score_text(score) for score in scores),
                _signed(first.gain if first else None),
                _percent(first.gap_closed if first else None),
                compact(row.parameters),
                compact(row.macs),
            ]
            lines.append("| " + " | ".join(map(_cell, cells)) + " |")
        common = [f"×{self.scale}" if self.scale else "", f"{self.steps} steps" if self.steps else ""]
        told = [*filter(None, common), *(f"{key}: {value}" for key, value in self.protocol.items())]
        first_set = f"Gain over bicubic and share of the gap are in PSNR-Y on {self.sets[0]}." if self.sets else ""
        return "\n".join(lines) + f"\n\nPSNR-Y in dB / SSIM-Y. {_cell(first_set)} {_cell('; '.join(told))}.\n"

    def to_csv(self) -> str:
        """One line per model and set."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        spreads = [name for metric in METRICS for name in (metric, f"{metric}_deviation")]
        head = ["label", "model", "runs", "steps", "parameters", "macs", "seconds_per_image", "set", "images"]
        writer.writerow([*head, *spreads, "gain", "gap_closed"])
        for row in self.rows:
            about = [
                row.label,
                row.model,
                " ".join(row.runs),
                row.steps,
                row.parameters,
                row.macs,
                row.seconds_per_image,
            ]
            for name, score in row.sets.items():
                values = [score.values.get(metric) for metric in METRICS]
                numbers = [
                    number for value in values for number in ((value.mean, value.deviation) if value else (None, None))
                ]
                writer.writerow([*about, name, score.images, *numbers, score.gain, score.gap_closed])
        return out.getvalue()

    def to_json(self) -> str:
        """Everything, in strict JSON; an infinite PSNR (equal images) is the string "inf"."""
        return json.dumps(_finite(asdict(self)), indent=2, ensure_ascii=False) + "\n"


def compare(runs: Sequence[Path], measured: str = EVALUATION) -> Comparison:
    """Put evaluated runs into one table.

    Args:
        runs: Run directories that were evaluated.
        measured: The file of each that holds the evaluation.

    Raises:
        ReportError: If a run was not evaluated or not finished, or if two differ in steps, data,
            scale, teacher or protocol: the message names the runs and what differs.
    """
    stories = read_all(runs, measured)
    for story in stories:
        if story.evaluation is None:
            there = [
                path.name for path in sorted(story.directory.glob("evaluation*.json")) if "-until-" not in path.name
            ]
            advice = f"; it has {', '.join(there)}: see --self-ensemble and --precision" if there else ""
            raise ReportError(f"{story.name} was not evaluated: it has no {measured} (dukd evaluate writes it){advice}")
        if not story.finished:
            raise ReportError(f"{story.name} was saved at step {story.saved} of {story.steps}: resume it first")
    return tabulate(stories)


def tabulate(stories: Sequence[Story]) -> Comparison:
    """Like `compare`, for runs already read; those without an evaluation take part in the checks, but get no row."""
    if not stories:
        raise ReportError("there is no run to report")
    steps = _agreed(stories, "steps", lambda story: story.steps)
    _agreed(stories, "training data (data_digest)", lambda story: story.facts.get("data_digest") or None)
    _agreed(stories, "teacher (teacher_sha256)", lambda story: story.facts.get("teacher_sha256") or None)
    judged = [story for story in stories if story.evaluation is not None]
    runs = [(s, Run(s.directory)) for s in judged]
    if old := [s.name for s, run in runs if outdated((run.student, run.best_student), _rows(s, "student"))]:
        raise ReportError(
            f"{', '.join(old)}: measured before training went on, so the figures are of another student; run dukd "
            "evaluate again"
        )
    scale = _agreed(judged, "scale", lambda story: _evaluation(story).get("scale"))
    _agreed(judged, "precision", lambda story: _evaluation(story).get("precision"))
    _agreed(judged, "self-ensemble (--self-ensemble)", lambda story: "yes" if _averaged(story) else "no")
    protocol = _protocol(judged)
    groups: dict[str, list[Story]] = {}
    for story in judged:
        groups.setdefault(story.kin, []).append(story)
    names = _labels([group[0] for group in groups.values()])
    rows = [*_shared(judged, "bicubic"), *_shared(judged, "baseline")]
    rows += [_student(group, label) for group, label in zip(groups.values(), names, strict=True)]
    rows += _shared(judged, "teacher")
    sets = tuple(dict.fromkeys(name for row in rows for name in row.sets))
    for name in sets:
        counts = {row.sets[name].images for row in rows if name in row.sets}
        if len(counts) > 1:
            raise ReportError(
                f"{name} was measured on {' and '.join(map(str, sorted(counts)))} images: not comparable"
            )
    students = {row.runs: group[0] for row, group in zip(_of(rows, "student"), groups.values(), strict=True)}
    rows = [_placed(row, rows, students) for row in rows]
    return Comparison(scale=scale, steps=steps, protocol=protocol, sets=sets, rows=tuple(rows))


def _agreed(stories: Sequence[Story], what: str, get: Callable[[Story], Any]) -> Any:  # noqa: ANN401
    """The value that all runs share; runs that do not tell theirs agree with any."""
    told = [(story.name, value) for story in stories if (value := get(story)) is not None]
    for name, value in told:
        if value != told[0][1]:
            raise ReportError(
                f"runs that differ in {what} do not belong in one table: {told[0][0]} has {_brief(told[0][1])}, "
                f"{name} has {_brief(value)}; report them apart"
            )
    return told[0][1] if told else None


def _brief(value: object) -> str:
    """A value as a sentence can hold it; of a fingerprint, the beginning."""
    text = str(value)
    return f"{text[:12]}…" if re.fullmatch(r"[0-9a-f]{32,}", text) else text


def _protocol(stories: Sequence[Story]) -> dict[str, str]:
    protocols = {
        story.name: {str(key): str(value) for key, value in _part(_evaluation(story), "protocol").items()}
        for story in stories
    }
    keys = dict.fromkeys(key for protocol in protocols.values() for key in protocol)
    for key in keys:
        _agreed(stories, f"the protocol ({key})", lambda story, key=key: protocols[story.name].get(key, "nothing said"))
    return next(iter(protocols.values()), {})


def _shared(stories: Sequence[Story], model: Model) -> list[Row]:
    """The row of a model that is the same for all runs, as the first run that measured it has it."""
    for story in stories:
        for entry in _rows(story, model):
            return [_row(story, [entry], str(entry.get("label", model)), model)]
    return []


def _student(group: Sequence[Story], label: str) -> Row:
    entries = [_rows(story, "student")[:1] for story in group]
    for story, entry in zip(group, entries, strict=True):
        if not entry:
            raise ReportError(f"{story.measured} has no row for the student")
    label += "+" if _averaged(group[0]) else ""
    row = _row(group[0], [entry[0] for entry in entries], label, "student")
    return replace(row, runs=tuple(story.name for story in group), steps=group[0].steps)


def _row(story: Story, entries: Sequence[dict[str, Any]], label: str, model: Model) -> Row:
    where = story.measured
    sets: dict[str, Score] = {}
    for name in _part(entries[0], "sets"):
        found = [_part(_part(entry, "sets"), name) for entry in entries]
        if not all(found):
            raise ReportError(f"{name} was not measured for every seed of {label}: evaluate them alike")
        measured = {metric: [_number(one.get(metric), where) for one in found] for metric in METRICS}
        values = {metric: Spread.of(cast("list[float]", all_)) for metric, all_ in measured.items() if None not in all_}
        images = _number(found[0].get("images"), where)
        sets[str(name)] = Score(images=int(images or 0), values=values)
    parameters, macs = (_number(entries[0].get(key), where) for key in ("parameters", "macs"))
    times = [_number(entry.get("seconds_per_image"), where) for entry in entries]
    told = [time for time in times if time is not None]
    return Row(
        label=label,
        model=model,
        parameters=None if parameters is None else int(parameters),
        macs=None if macs is None else int(macs),
        seconds_per_image=statistics.fmean(told) if told else None,
        sets=sets,
    )


def _placed(row: Row, rows: Sequence[Row], students: Mapping[tuple[str, ...], Story]) -> Row:
    """The row with its gain over bicubic, and its share of the gap between scratch and teacher."""
    bicubic, teacher = next(iter(_of(rows, "bicubic")), None), next(iter(_of(rows, "teacher")), None)
    story = students.get(row.runs) if row.model == "student" else None
    scratch = [
        other
        for other in _of(rows, "student")
        if story
        and students[other.runs].method == "scratch"
        and students[other.runs].experiment.get("student") == story.experiment.get("student")
    ] or _of(rows, "baseline")
    sets: dict[str, Score] = {}
    for name, score in row.sets.items():
        own, low, high = (_psnr(other, name) for other in (row, bicubic, teacher))
        base = _psnr(scratch[0], name) if len(scratch) == 1 and story and scratch[0] is not row else None
        gain = own - low if own is not None and low is not None and row is not bicubic else None
        share = None
        if own is not None and base is not None and high is not None and high - base >= _SMALLEST_GAP:
            share = (own - base) / (high - base)
        sets[name] = Score(images=score.images, values=score.values, gain=gain, gap_closed=share)
    return replace(row, sets=sets)


def _labels(stories: Sequence[Story]) -> list[str]:
    """The method's name, with the run's where two rows would have the same."""
    methods = [story.method for story in stories]
    return [
        method if methods.count(method) == 1 else f"{method} ({story.name})"
        for method, story in zip(methods, stories, strict=True)
    ]


def _of(rows: Sequence[Row], model: Model) -> list[Row]:
    return [row for row in rows if row.model == model]


def _psnr(row: Row | None, name: str) -> float | None:
    score = row.sets.get(name) if row else None
    value = score.values.get("psnr_y") if score else None
    return value.mean if value and math.isfinite(value.mean) else None


def _evaluation(story: Story) -> dict[str, Any]:
    return story.evaluation or {}


def _rows(story: Story, model: Model) -> list[dict[str, Any]]:
    rows = _evaluation(story).get("rows")
    if not isinstance(rows, list):
        raise ReportError(f"{story.measured} has no list of rows")
    entries = [cast("dict[str, Any]", row) for row in cast("list[object]", rows) if isinstance(row, dict)]
    return [entry for entry in entries if entry.get("model") == model]


def _averaged(story: Story) -> bool:
    """Whether the student was measured as the mean over flips and rotations, which the evaluation marks by a plus."""
    return any(str(entry.get("label")).endswith("+") for entry in _rows(story, "student"))


def _number(value: object, where: Path) -> float | None:
    if value is None:
        return None
    try:
        return float(cast("float", value))
    except (TypeError, ValueError):
        raise ReportError(f"{where}: {value!r} stands where a number belongs") from None


def _part(whole: Mapping[str, Any], key: str) -> dict[str, Any]:
    part = whole.get(key)
    return cast("dict[str, Any]", part) if isinstance(part, dict) else {}


def _name(value: object, default: str) -> str:
    return str(cast("dict[str, object]", value).get("type", default)) if isinstance(value, dict) else default


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ReportError(f"{path} holds no JSON object")
    return cast("dict[str, Any]", content)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in cast("dict[str, object]", value).items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in cast("Sequence[object]", value)]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def compact(value: float | None) -> str:
    """A count as people read it: 1.37 M."""
    if value is None:
        return "–"
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def spread_text(value: Spread | None, digits: int) -> str:
    """``37.12 ± 0.03``, or a dash."""
    if value is None:
        return "–"
    mean = f"{value.mean:.{digits}f}" if math.isfinite(value.mean) else "∞"
    return mean if value.deviation is None else f"{mean} ± {value.deviation:.{digits}f}"


def _score_text(score: Score | None) -> str:
    if score is None:
        return "–"
    return f"{spread_text(score.values.get('psnr_y'), 2)} / {spread_text(score.values.get('ssim_y'), 4)}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}".replace("-", "−")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %".replace("-", "−")


def _cell(text: str) -> str:
    """Text that cannot end a cell, a line, or begin a tag in Markdown."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
