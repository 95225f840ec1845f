"""Every number of the command line is refused by name where it is none, or infinite."""

import typing
from collections.abc import Generator
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path

import pytest

from dukd.cli import program
from dukd.cli.commands import COMMANDS
from dukd.cli.finite import finite
from dukd.cli.program import USAGE, parse, run
from dukd.cli.train import experiment_of
from dukd.core.registry import known
from dukd.deploy.runtime import Runtime
from dukd.methods import Method
from dukd.networks import NetworkConfig

ODD = ("nan", "inf", "-inf")
OF_EXPERIMENTS = {"train", "export"}  # whose options come from values, not from one class
COUNTED = 14
"""Float options of the commands that have a class of their own; a new one is found by itself."""


def _floats(kind: object) -> int:
    """How many numbers an option takes, if they are floats; else 0."""
    of = typing.get_args(kind)
    if kind is float:
        return 1
    if typing.get_origin(kind) is tuple:
        return len(of) if of and set(of) == {float} else 0
    return max(map(_floats, of), default=0)


def _needed(command: type) -> list[str]:
    """Arguments without which a command cannot be read."""
    hints = typing.get_type_hints(command)
    words: list[str] = []
    for f in fields(command):
        if f.default is MISSING and f.default_factory is MISSING:
            # the marks of tyro are in the text of the annotation alone
            name = [] if "Positional" in str(f.type) else [f"--{f.name.replace('_', '-')}"]
            words += [*name, "2" if hints[f.name] is int else "x"]
    return words


def _options() -> Generator[tuple[str, str, int], None, None]:
    for name, where in COMMANDS.items():
        command = where.load()
        hints = typing.get_type_hints(command)
        for f in fields(command):
            if name not in OF_EXPERIMENTS and (count := _floats(hints[f.name])):
                yield name, f"--{f.name.replace('_', '-')}", count


OPTIONS = list(_options())


def test_the_table_holds_the_options_that_there_are() -> None:
    assert len(OPTIONS) >= COUNTED
    assert {("study", "--watts", 1), ("upscale", "--outscale", 1), ("evaluate", "--mean", 3)} < set(
        OPTIONS
    )


@pytest.mark.parametrize("word", ODD)
@pytest.mark.parametrize(("name", "option", "count"), OPTIONS)
def test_no_option_takes_what_is_no_number(name: str, option: str, count: int, word: str) -> None:
    needed = _needed(COMMANDS[name].load())
    values = ["0.5"] * (count - 1) + [word]

    parse(name, [*needed, option, *(["0.5"] * count)])  # so that it is the value that is refused
    with pytest.raises(ValueError, match=rf"^{option} is a finite number, but got {word}$"):
        parse(name, [*needed, option, *values])


def test_the_complaint_is_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["study", str(tmp_path / "none.yaml"), "--watts", "nan"]) == USAGE
    assert capsys.readouterr().err == "dukd: --watts is a finite number, but got nan\n"
    for below in ("0", "-1"):
        assert run(["study", str(tmp_path / "none.yaml"), "--watts", below]) == USAGE
        assert "--watts is above 0" in capsys.readouterr().err


def _values(value: object, name: str) -> Generator[tuple[str, int], None, None]:
    """Options of an experiment that hold floats, with how many they hold."""
    if isinstance(value, float):
        yield name, 1
    elif isinstance(value, tuple) and value and all(isinstance(v, float) for v in value):
        yield name, len(value)
    elif is_dataclass(value) and not isinstance(value, type):
        for f in fields(value):
            inner = f.name.replace("_", "-")
            yield from _values(getattr(value, f.name), f"{name}.{inner}" if name else inner)


@pytest.mark.parametrize("word", ["nan", "inf"])
def test_no_number_of_an_experiment_is_nan_or_infinite(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a recipe whose student, teacher, method, data and optimization hold some."""
    options = list(_values(experiment_of("edsr-x4-at"), ""))

    for option, count in options:
        code = run(["train", "edsr-x4-at", f"--{option}", *(["0.5"] * (count - 1)), word])
        said = capsys.readouterr().err
        assert code == USAGE, f"{option} took {word}: {said}"
        assert word in said, said
        assert option.rpartition(".")[2].replace("-", "_").rstrip("s") in said.replace("-", "_")
        assert "Traceback" not in said
    assert {"teacher-cache.limit-gb", "optimization.learning-rate"} < {name for name, _ in options}


def test_no_method_takes_a_weight_that_is_nan() -> None:
    experiment = experiment_of("edsr-x4-logits")
    seen = 0
    for kind in known(Method).values():
        for f in fields(kind):
            if f.default is not MISSING and isinstance(f.default, float):
                seen += 1
                with pytest.raises(ValueError, match=r"finite|nan"):
                    replace(experiment, method=kind(**{f.name: float("nan")}))
    assert seen > 20


def test_no_default_is_refused() -> None:
    for kind in (*known(Runtime).values(), *known(Method).values(), *known(NetworkConfig).values()):
        if all(f.default is not MISSING or f.default_factory is not MISSING for f in fields(kind)):
            finite(kind())
    assert program.parse("study", ["x"])


@dataclass(frozen=True)
class Inner:
    numbers: tuple[tuple[float, ...], ...] = ((1.0,), (2.0, float("inf")))


@dataclass(frozen=True)
class Outer:
    experiment: Inner = Inner()
    some_part: Inner = Inner(((0.0,),))


def test_numbers_are_found_however_deep() -> None:
    with pytest.raises(ValueError, match=r"^--numbers is a finite number, but got inf$"):
        finite(Outer())
    with pytest.raises(ValueError, match=r"^--some-part\.numbers is a finite number, but got nan$"):
        finite(Outer(Inner(()), Inner(((float("nan"),),))))
