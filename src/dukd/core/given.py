"""Mistakes of type, refused in a sentence that says what to write in the thing's place."""

from typing import NoReturn


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
