"""Mistakes of type, refused in a sentence that says what to write in the thing's place."""

from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn, cast


def refuse(what: str, wanted: str, given: object) -> NoReturn:
    """Refuse a value of the wrong type.

    Args:
        what: What it is, such as ``student``.
        wanted: What it should be, and how that is written.
        given: What it was.

    Raises:
        ValueError: Always.
    """
    raise ValueError(f"{what} is {wanted}, but got {described(given)}")


def as_paths(what: str, given: Iterable[Path | str] | Path | str) -> list[Path]:
    """One path, or several, as a list of paths: a text is one path, not letters.

    Raises:
        ValueError: If it is something else.

    Example:
        >>> [str(path) for path in as_paths("runs", "runs/mine")]
        ['runs/mine']
    """
    if isinstance(given, Path | str):
        return [Path(given)]
    several = list(given) if isinstance(cast("object", given), Iterable) else [None]
    if not all(isinstance(cast("object", path), Path | str) for path in several):
        refuse(what, "a path, or a list of paths", given)
    return [Path(path) for path in cast("list[Path | str]", several)]


def described(value: object) -> str:
    """What a value is, in a few words.

    Example:
        >>> described(3), described(int), described("a.pth")
        ('int 3', 'the class int itself, which is to be called: int(...)', "the text 'a.pth'")
    """
    match value:
        case type():
            name = value.__name__
            return f"the class {name} itself, which is to be called: {name}(...)"
        case str():
            return f"the text {value[:60]!r}"
        case bool() | int() | float():
            return f"{type(value).__name__} {value}"
        case None:
            return "None"
        case _:
            name = _name(value)
            return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def _name(value: object) -> str:
    kind = type(value)
    module = kind.__module__.partition(".")[0]
    return kind.__name__ if module in {"builtins", "dukd"} else f"{module} {kind.__name__}"
