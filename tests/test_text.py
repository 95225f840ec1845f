"""Numbers, names and JSON have one form each."""

import doctest
import json
import math
from pathlib import Path

import pytest

from dukd.core import text


def test_the_examples_of_the_docstrings_hold() -> None:
    outcome = doctest.testmod(text)

    assert outcome.attempted >= 6
    assert outcome.failed == 0


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.9994, "999 ms"), (0.9996, "1.00 s"), (0.000123456, "0.123 ms"), (61.234, "61.23 s")],
)
def test_measured_times_keep_three_digits(seconds: float, expected: str) -> None:
    assert text.elapsed(seconds) == expected


def test_json_is_strict_and_keeps_what_is_not_finite() -> None:
    value = {"psnr": math.inf, 1: [-math.inf, (math.nan, 0.5)], "name": "größe"}

    written = text.to_json(value)

    read = json.loads(written, parse_constant=pytest.fail)
    assert read == {"psnr": "inf", "1": ["-inf", ["nan", 0.5]], "name": "größe"}
    assert math.isinf(float(read["psnr"]))
    assert "größe" in written


def test_names_are_printable() -> None:
    """A file name of Linux may hold any byte but the slash and 0."""
    name = b"a\xff\nb\r".decode("utf-8", "surrogateescape")

    assert text.shown(Path(name)) == "a\\udcff\\nb\\r"
