"""What a run directory holds, as text and numbers; nothing of it is built or executed.

It can be read on another machine than the one that trained, while training goes on, and without the
modules that define a plug-in's method.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import yaml

from dukd.core.text import shown
from dukd.evaluation.table import Table
from dukd.runs import results
from dukd.runs.directory import Run

_LARGEST = 1 << 20
EVALUATION = results.file_name()
"""The file of a run that holds what was measured of it, unless another is wanted."""


class ReportError(ValueError):
    """Runs that cannot be compared or reported; the message names what is missing or differs."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What one run directory holds."""

    name: str
    """The directory's, with the one around it where two are alike."""
    directory: Path
    """Where it is."""
    experiment_text: str
    """The experiment, as YAML."""
    experiment: Mapping[str, Any]
    """The experiment, as strings, lists and dictionaries."""
    facts: Mapping[str, Any]
    """What ``run.json`` says."""
    records: Sequence[Mapping[str, Any]]
    """Lines of the log."""
    evaluation: Table | None
    """What was measured of its student."""
    problem: str
    """Why what was measured cannot be used; empty if it can, or nothing was measured."""
    measured: Path
    """The file that the evaluation stands in, or would."""
    reached: int
    """The last step that was made, saved or not."""
    label: str = ""
    """What tables call its experiment; the method's name if empty."""

    @property
    def method(self) -> str:
        """Name of the method."""
        return type_of(self.experiment.get("method"), "scratch")

    @property
    def steps(self) -> int | None:
        """Steps that the experiment wants."""
        try:
            return int(str(part(self.experiment, "optimization").get("steps")).replace("_", ""))
        except ValueError:
            return None

    @property
    def saved(self) -> int:
        """The newest step that was saved."""
        return max(Run(self.directory).steps(), default=0)

    @property
    def finished(self) -> bool:
        """Whether all steps were made, and saved."""
        return self.steps is None or self.saved >= self.steps

    @property
    def kin(self) -> str:
        """The same for runs that differ in their seed only."""
        optimization = part(self.experiment, "optimization")
        same = {key: value for key, value in optimization.items() if key != "seed"}
        return json.dumps({**self.experiment, "optimization": same}, sort_keys=True)


def read(directory: Path, measured: str = EVALUATION) -> Summary:
    """Read what a run directory holds; only the experiment has to be there.

    Args:
        directory: The run directory.
        measured: The file in it that holds the evaluation.

    Raises:
        dukd.runs.checkpoint.CheckpointError: If it is not a run.
        ReportError: If a file of it cannot be understood.
    """
    directory = Path(directory)
    run = Run.open(directory)
    text = run.read_experiment().text
    try:
        # Text only: this loader makes strings, lists and dictionaries; nothing is resolved or
        # built.
        small = len(text) <= _LARGEST
        experiment = yaml.load(text, Loader=yaml.BaseLoader) if small else None  # noqa: S506
    except (yaml.YAMLError, RecursionError) as error:
        raise ReportError(f"{shown(run.experiment)} is not YAML: {error}") from error
    if not isinstance(experiment, dict):
        raise ReportError(f"{shown(run.experiment)} is not an experiment")
    records = cast("list[dict[str, Any]]", run.records())
    logged = [record["step"] for record in records if isinstance(record.get("step"), int)]
    evaluation, problem = _figures(directory / measured)
    return Summary(
        name=directory.resolve().name,
        directory=directory,
        experiment_text=text,
        experiment=cast("dict[str, Any]", experiment),
        facts=cast("dict[str, Any]", run.read_facts()),
        records=records,
        evaluation=evaluation,
        problem=problem,
        measured=directory / measured,
        reached=max([0, *logged, *run.steps()]),
    )


def _figures(path: Path) -> tuple[Table | None, str]:
    try:
        return (results.read(path), "") if path.exists() else (None, "")
    except results.ResultsError as error:
        return None, shown(str(error))


def read_all(
    directories: Sequence[Path],
    measured: str = EVALUATION,
    labels: Mapping[str, str] = MappingProxyType({}),
) -> tuple[list[Summary], list[str]]:
    """Read runs; those of equal names get the name of their folder too.

    Args:
        directories: Run directories.
        measured: The file of each that holds the evaluation.
        labels: What tables call experiments, by the names of directories.

    Returns:
        The runs that could be read, and a sentence for each of the others.

    Raises:
        ValueError: If none can be read, or one is named twice.
    """
    found: list[Summary] = []
    errors: list[Exception] = []
    for directory in directories:
        try:
            one = read(directory, measured)
            found.append(replace(one, label=labels.get(one.name, "")))
        except (ValueError, OSError) as error:
            errors.append(error)
    if errors and not found:
        raise errors[0] if len(errors) == 1 else ReportError("\n".join(map(str, errors)))
    names = [summary.name for summary in found]
    long = [f"{s.directory.resolve().parent.name}/{s.name}" for s in found]
    unique = [
        name if names.count(name) == 1 else other for name, other in zip(names, long, strict=True)
    ]
    if len(set(unique)) < len(unique):
        raise ReportError(f"a run is named twice: {', '.join(unique)}")
    named = [replace(s, name=name) for s, name in zip(found, unique, strict=True)]
    return named, [shown(str(error)) for error in errors]


def part(whole: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A dictionary inside another one; empty where there is none."""
    found = whole.get(key)
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def type_of(value: object, default: str) -> str:
    """The type that a part of an experiment names."""
    return (
        str(cast("dict[str, object]", value).get("type", default))
        if isinstance(value, dict)
        else default
    )
