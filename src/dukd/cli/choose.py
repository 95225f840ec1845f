"""Options that choose the class of a part, whose own options then follow.

``--data.degradation real-esrgan`` puts Real-ESRGAN's pipeline into the experiment, and
``--data.degradation.second.blur 0.5`` changes a number of it.
"""

from collections.abc import Sequence
from dataclasses import replace

from dukd.core.config import nearest
from dukd.images.degrade import presets
from dukd.training.experiment import Experiment

DEGRADATION = "--data.degradation"


def chosen(arguments: Sequence[str], experiment: Experiment) -> tuple[list[str], Experiment]:
    """Put the parts into an experiment that options choose by name, and take these options out.

    Raises:
        ValueError: If there is none of a name, listing all.
    """
    rest, name = without(arguments, DEGRADATION)
    if name is None:
        return rest, experiment
    found = presets()
    if name not in found:
        raise ValueError(
            f"{DEGRADATION} is {name!r}{nearest(name, found)}; known are {', '.join(found)}"
        )
    own = experiment.data.degradation
    degradation = own if own.name == name else found[name]()
    return rest, replace(experiment, data=replace(experiment.data, degradation=degradation))


def without(arguments: Sequence[str], option: str) -> tuple[list[str], str | None]:
    """The arguments without an option and its value, and the value that was given last.

    Raises:
        ValueError: If the option stands at the end, without a value.
    """
    rest: list[str] = []
    value: str | None = None
    waiting = iter(arguments)
    for argument in waiting:
        name, equals, after = argument.partition("=")
        if name.replace("_", "-") != option:
            rest.append(argument)
            continue
        value = after if equals else next(waiting, None)
        if value is None:
            raise ValueError(f"{option} takes a name")
    return rest, value
