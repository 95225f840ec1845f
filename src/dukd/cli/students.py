"""The student that ``dukd train`` is given by name or by budget, in place of the experiment's."""

from collections.abc import Sequence
from dataclasses import replace

from dukd.cli.terminal import say, table
from dukd.networks import NetworkConfig, QuantizedConfig
from dukd.recipes.budget import Choice, parsed_count, student_named, within
from dukd.training.experiment import Experiment

_NAME, _MOST = "--student", "--student.max-parameters"


def with_student(
    experiment: Experiment, arguments: Sequence[str]
) -> tuple[Experiment, list[str], Choice | None]:
    """Take ``--student`` and ``--student.max-parameters`` out of the arguments, and obey them.

    Returns:
        The experiment with that student, the other arguments, and what was chosen by the budget.

    Raises:
        ValueError: If there is no such network, or none of its sizes fits the budget.
    """
    rest, given = _taken(arguments, (_NAME, _MOST))
    if not given:
        return experiment, rest, None
    student = _bare(experiment)
    if _NAME in given:
        student = student_named(given[_NAME], student.scale)
    if _MOST not in given:
        return _replaced(experiment, student), rest, None
    _, fixed = _taken(rest, ("--student.width", "--student.blocks"))
    choice = within(
        student,
        parsed_count(given[_MOST]),
        width=_number(fixed, "--student.width"),
        blocks=_number(fixed, "--student.blocks"),
    )
    return _replaced(experiment, choice.chosen.config), rest, choice


def show(choice: Choice) -> None:
    """Print what was considered, and what it costs."""
    chosen = choice.chosen
    say(f"{choice.tried} widths fit the budget; nearest to the network's usual proportion is")
    table(
        ("student", "parameters", "multiply-adds to 1280 x 720", ""),
        (
            (
                one.config.describe(),
                f"{one.parameters:,}",
                f"{one.macs / 1e9:.1f} G",
                "chosen" if one is chosen else "",
            )
            for one in choice.considered
        ),
        right=True,
    )


def _bare(experiment: Experiment) -> NetworkConfig:
    student = experiment.student
    return student.network if isinstance(student, QuantizedConfig) else student


def _replaced(experiment: Experiment, student: NetworkConfig) -> Experiment:
    whole = experiment.student
    if isinstance(whole, QuantizedConfig):
        student = replace(whole, network=student)
    return replace(experiment, student=student)


def _taken(arguments: Sequence[str], names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Take options out of the arguments: what is left, and their values."""
    rest: list[str] = []
    found: dict[str, str] = {}
    waiting = iter(arguments)
    for argument in waiting:
        name, equals, value = argument.partition("=")
        name = name.replace("_", "-")
        if name not in names:
            rest.append(argument)
            continue
        found[name] = value if equals else next(waiting, "")
        if not found[name] or found[name].startswith("--"):
            raise ValueError(f"{name} takes a value, as in {_EXAMPLES.get(name, name + ' 32')}")
    return rest, found


_EXAMPLES = {_NAME: "--student compact", _MOST: "--student.max-parameters 150k"}


def _number(given: dict[str, str], name: str) -> int | None:
    if name not in given:
        return None
    if not given[name].isdigit():
        raise ValueError(f"{name} is a whole number, but got {given[name]!r}")
    return int(given[name])
