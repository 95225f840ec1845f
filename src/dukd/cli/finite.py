"""Numbers of the command line that are none, or infinite: refused by name, whatever takes them."""

import math
from collections.abc import Generator
from dataclasses import fields, is_dataclass
from typing import TypeVar, cast

T = TypeVar("T")
_UNNAMED = {"experiment", "runtime"}
"""Fields whose own options stand without a prefix."""


def finite(command: T) -> T:
    """The options of a command as they are, if all their numbers can be computed with.

    Raises:
        ValueError: Naming the option that is nan or infinite.
    """
    for name, value in _numbers(command, ()):
        if not math.isfinite(value):
            raise ValueError(f"{name} is a finite number, but got {value}")
    return command


def _numbers(value: object, names: tuple[str, ...]) -> Generator[tuple[str, float], None, None]:
    if isinstance(value, float):
        yield f"--{'.'.join(names)}", value
    elif is_dataclass(value) and not isinstance(value, type):
        for f in fields(value):
            inner = () if f.name in _UNNAMED and not names else (f.name.replace("_", "-"),)
            yield from _numbers(getattr(value, f.name), (*names, *inner))
    elif isinstance(value, tuple):
        for item in cast("tuple[object, ...]", value):
            yield from _numbers(item, names)
