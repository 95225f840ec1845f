"""Numbers and words of an experiment, refused where they lie outside their range."""

import math
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from dukd.core.given import refuse

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def check_paths(of: object) -> None:
    """Refuse texts where the fields of a dataclass hold paths.

    Raises:
        ValueError: Naming the field.
    """
    for f in fields(cast("DataclassInstance", of)):
        value: object = getattr(of, f.name)
        values = cast("tuple[object, ...]", value) if isinstance(value, tuple) else (value,)
        if "Path" in str(f.type) and any(isinstance(v, str) for v in values):
            refuse(f.name, "made of paths: pathlib.Path(...)", value)
        if re.match(r"tuple\[[\w.]*Path\b", str(f.type)) and isinstance(value, Path):
            refuse(f.name, "made of paths: (pathlib.Path(...),)", value)


def check(
    name: str,
    value: float,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> None:
    """Refuse a number that is infinite, no number, or outside its range.

    Raises:
        ValueError: Naming the number, its value and the range.
    """
    bounds = {
        f"at least {least:g}": least,
        f"above {above:g}": above,
        f"at most {most:g}": most,
        f"below {below:g}": below,
    }
    if math.isfinite(value) and least <= value <= most and above < value < below:
        return
    stated = [words for words, bound in bounds.items() if math.isfinite(bound)]
    raise ValueError(f"{name} is {value}, but must be {' and '.join(stated) or 'finite'}")


def check_finite(name: str, value: object) -> None:
    """Refuse infinite numbers and those that are none, however deep in dataclasses and tuples.

    Raises:
        ValueError: Naming the number by its path.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}, but must be finite")
    if is_dataclass(value) and not isinstance(value, type):
        for f in fields(value):
            check_finite(f"{name}.{f.name}", getattr(value, f.name))
    elif isinstance(value, tuple):
        for number, item in enumerate(cast("tuple[object, ...]", value)):
            check_finite(f"{name}[{number}]", item)


def check_word(name: str, word: str, words: Sequence[str]) -> None:
    """Refuse a word that is none of ``words``.

    Raises:
        ValueError: Naming the words.
    """
    if word not in words:
        raise ValueError(f"{name} is {word!r}, but must be one of {', '.join(words)}")
