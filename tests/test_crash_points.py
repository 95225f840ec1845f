"""A run that is stopped at any operation on the disk, and resumed, ends as one that never stopped.

One run gives every content that a kill could leave on the disk; each is resumed. ``make soak``
stops at every single operation instead.
"""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dukd.runs.checkpoint import CheckpointError
from dukd.runs.directory import Run
from operations import classes, operations
from tiny_runs import prepare
from whole_runs import finish, read, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = prepare(tmp_path_factory.mktemp("data"))
    train("plain", made, tmp_path_factory.mktemp("first"))  # which makes the pack
    return made


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["best", "cached"])  # make soak has the other shapes
def test_every_content_that_a_kill_can_leave_resumes_to_the_same_run(
    folder: Path, tmp_path: Path, shape: str
) -> None:
    root = tmp_path / "whole"
    root.mkdir()
    points, copies = classes(root, tmp_path / "copies", lambda: train(shape, folder, root))
    expected = read(root / "run")

    assert points > 90
    assert len(copies) > 12
    for copy in copies:
        finish(shape, folder, copy)
        found = read(copy / "run")
        wrong = [key for key, value in expected.items() if found[key] != value]
        assert not wrong, f"stopped at {copy.name}: {wrong}"


@pytest.mark.slow
def test_an_operation_that_fails_ends_in_the_same_run_or_says_why(
    folder: Path, tmp_path: Path
) -> None:
    """The first write and the first rename of each file fail; what did not finish is resumed."""
    kinds: dict[str, int] = {}
    whole = tmp_path / "whole"
    whole.mkdir()
    with operations(whole, lambda number, what: kinds.setdefault(what, number)):
        train("best", folder, whole)
    expected = read(whole / "run")

    for what, at in kinds.items():
        if not what.startswith(("write", "rename")):
            continue  # make soak has every operation
        root = tmp_path / "trial"
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


def test_two_starts_never_mix(folder: Path, tmp_path: Path) -> None:
    """Between any two operations of a start another one happens: exactly one of them trains."""
    for at in range(1, 14):
        root, second = tmp_path / str(at), []

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
