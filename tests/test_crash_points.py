"""A run that is stopped at any operation on the disk, and resumed, ends as one that never stopped.

One run gives every content that a kill could leave on the disk; each is resumed. ``make soak``
stops at every single operation instead.
"""

import errno
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from dukd.runs.checkpoint import CheckpointError
from dukd.runs.directory import Run
from operations import classes, memory_folder, operations
from tiny_runs import prepare
from whole_programs import prepared, result
from whole_runs import finish, read, train


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with memory_folder() as root:
        made = prepare(root / "data")
        (root / "first").mkdir()
        train("plain", made, root / "first")  # which makes the pack
        yield made


@pytest.fixture
def place() -> Iterator[Path]:
    with memory_folder() as root:
        yield root


def ends_alike(folder: Path, copies: list[Path], shape: str, expected: dict[str, object]) -> None:
    """Resume every copy, and compare."""
    for copy in copies:
        finish(shape, folder, copy)
        found = read(copy / "run")
        wrong = [key for key, value in expected.items() if found[key] != value]
        assert not wrong, f"stopped at {copy.name}: {wrong}"


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["best", "cached"])  # make soak has the other shapes
def test_every_content_that_a_kill_can_leave_resumes_to_the_same_run(
    folder: Path, place: Path, shape: str
) -> None:
    root = place / "whole"
    root.mkdir()
    points, copies = classes(root, place / "copies", lambda: train(shape, folder, root))

    assert points > 90
    assert len(copies) > 12
    ends_alike(folder, copies, shape, read(root / "run"))


@pytest.mark.slow
def test_a_run_whose_power_was_cut_resumes_to_the_same_run(folder: Path, place: Path) -> None:
    """What was not synced is lost in part; make soak cuts at every operation, three times."""
    root = place / "whole"
    root.mkdir()
    program = partial(train, "best", folder, root)
    points, copies = classes(root, place / "copies", program, power_cuts=2, every=7)

    assert points > 900
    assert len(copies) > 4
    ends_alike(folder, copies, "best", read(root / "run"))


@pytest.mark.parametrize("name", ["prepare", "upscale", "evaluate", "report"])
def test_a_command_that_was_stopped_anywhere_is_done_by_the_next_call(
    folder: Path, place: Path, name: str
) -> None:
    """Every file is as if it had never stopped; make soak has the other commands."""
    root = place / "whole"
    root.mkdir()
    command = prepared(name, folder, place / "beside")
    _, copies = classes(root, place / "copies", lambda: command(root), every_thread=True)
    expected = result(root)

    assert copies
    for copy in copies:
        command(copy)
        assert result(copy) == expected, f"stopped at {copy.name}"


@pytest.mark.slow
def test_an_operation_that_fails_ends_in_the_same_run_or_says_why(
    folder: Path, place: Path
) -> None:
    """The first write and the first rename of each file fail; what did not finish is resumed."""
    kinds: dict[str, int] = {}
    whole = place / "whole"
    whole.mkdir()
    with operations(whole, lambda number, what: kinds.setdefault(what, number)):
        train("best", folder, whole)
    expected = read(whole / "run")

    for what, at in kinds.items():
        if not what.startswith(("write", "rename")):
            continue  # make soak has every operation
        root = place / "trial"
        root.mkdir()

        def fail(number: int, what: str, at: int = at) -> None:
            if number == at:
                raise OSError(errno.ENOSPC, "No space left on device", what)

        ended = "finished"
        with operations(root, fail):
            try:
                train("best", folder, root)
            except (OSError, CheckpointError) as error:
                ended = str(error)
        if ended != "finished":
            finish("best", folder, root)
        found = read(root / "run")
        wrong = [key for key, value in expected.items() if found[key] != value]
        assert not wrong, f"{what} ({ended}): {wrong}"
        shutil.rmtree(root)


def refusal(start: Callable[[], object]) -> str:
    """What a start was refused with; nothing where it trained."""
    try:
        start()
    except CheckpointError as error:
        return str(error)
    return ""


def test_two_starts_never_mix(folder: Path, place: Path) -> None:
    """Between any two operations of a start another one happens: exactly one of them trains."""
    for at in range(1, 14):
        root, second = place / str(at), []

        def meanwhile(number: int, what: str, at: int = at, root: Path = root) -> None:
            if number == at:
                watched.paused = True
                second.append(refusal(lambda: train("parts", folder, root)))  # noqa: B023  at once
                watched.paused = False

        with operations(root, meanwhile) as watched:
            first = refusal(lambda: train("plain", folder, root))  # noqa: B023  at once

        (other,) = second
        assert bool(first) != bool(other)
        assert not first or "is used already" in first
        assert not other or "is in use by pid" in other or "is used already" in other
        accumulate = "accumulate: 2" in Run.open(root / "run").read_experiment().text
        assert accumulate == bool(first)
        assert read(root / "run")["saved"] == 4
