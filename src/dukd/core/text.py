"""Numbers, names and JSON as people and programs read them: the one home of each form."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

NOTHING = "\u2013"
"""Stands where there is no value."""


def amount(count: int) -> str:
    """Bytes, as people read them.

    Example:
        >>> amount(12), amount(1200), amount(3_400_000), amount(5_600_000_000)
        ('12 bytes', '1.2 kB', '3.4 MB', '5.60 GB')
    """
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:.2f} {unit}" if size == 1e9 else f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def duration(seconds: float) -> str:
    """Time that somebody waits for.

    Example:
        >>> duration(42), duration(600), duration(7300), duration(200_000)
        ('42 s', '10 min', '2 h 02 min', '2 d 8 h')
    """
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if hours < 48:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{hours // 24} d {hours % 24} h"


def elapsed(seconds: float | None) -> str:
    """Time that was measured, to three digits.

    Example:
        >>> elapsed(2.5), elapsed(0.0123), elapsed(None)
        ('2.50 s', '12.3 ms', '\u2013')
    """
    if seconds is None:
        return NOTHING
    return f"{seconds:.2f} s" if seconds >= 0.9995 else f"{1000 * seconds:.3g} ms"


def compact(count: float | None) -> str:
    """A large count, to three digits.

    Example:
        >>> compact(1_369_859), compact(900), compact(None)
        ('1.37 M', '900', '\u2013')
    """
    if count is None:
        return NOTHING
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f}"


def signed(value: float | None, digits: int = 2) -> str:
    """A difference, with its sign.

    Example:
        >>> signed(0.1), signed(-0.25), signed(None)
        ('+0.10', '\u22120.25', '\u2013')
    """
    return NOTHING if value is None else f"{value:+.{digits}f}".replace("-", "\u2212")


def percent(share: float | None, digits: int = 0) -> str:
    """A share of 1.

    Example:
        >>> percent(0.5), percent(-0.125, 1), percent(None)
        ('50 %', '\u221212.5 %', '\u2013')
    """
    return NOTHING if share is None else f"{100 * share:.{digits}f} %".replace("-", "\u2212")


def shown(name: Path | str) -> str:
    """A path that every terminal can print: line breaks and odd bytes are escaped."""
    text = str(name).encode("utf-8", "backslashreplace").decode()
    return text.replace("\n", "\\n").replace("\r", "\\r")


def first_line(error: BaseException) -> str:
    r"""The kind of an error of others, and the first line of what it says, at most 200 characters.

    Example:
        >>> first_line(OSError("no compiler\nand a long story"))
        'OSError: no compiler'
    """
    said = (str(error).strip().splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {said}"


def strict(value: object) -> object:
    """The same value for strict JSON: what is not finite becomes "inf", "-inf" or "nan"."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {str(key): strict(entry) for key, entry in items}
    if isinstance(value, list | tuple):
        return [strict(entry) for entry in cast("Sequence[object]", value)]
    return value


def to_json(value: object) -> str:
    """Strict JSON of several lines, as files hold it; see `strict` for infinities."""
    return json.dumps(strict(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
