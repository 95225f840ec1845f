import errno
import fcntl
import json
import math
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from crash_points import Stop, crash_points
from dukd.core import files
from dukd.runs import checkpoint, log
from dukd.runs.checkpoint import CheckpointError, save, verify
from dukd.runs.directory import Run
from operations import memory_folder
from saved import names, state_of


@pytest.fixture
def place() -> Iterator[Path]:
    with memory_folder() as root:
        yield root


# Crash points


@pytest.mark.parametrize("stop", ["kill", "full disk", "power cut"])
def test_no_crash_point_loses_a_checkpoint(place: Path, stop: Stop) -> None:
    """Two checkpoints and the best are there; the third write also deletes the first."""

    def prepare(folder: Path) -> None:
        run = Run.create(folder, experiment_yaml="seed: 1\n", facts={})
        run.log({"kind": "train", "step": 1})
        for step in (1, 2, 3, 4):
            run.states.save(step, state_of(step), best=1)

    points = 0
    for folder, stopped in crash_points(
        stop, prepare, lambda folder: Run(folder).states.save(5, state_of(5), best=1), place
    ):
        points += stopped
        run = Run.open(folder)
        step, state, reports = run.states.load()

        assert step in {4, 5}
        assert stopped or step == 5
        assert reports == []
        assert {1, 3 if step == 4 else 4, step} <= set(run.steps())
        assert_close(state["weights"], state_of(step)["weights"], rtol=0, atol=0)
        with run.lock():
            run.states.save(6, state_of(6), best=1)
        assert run.states.load().step == 6
        assert not list(folder.rglob("*.tmp"))

    assert points >= (5 * 40 if stop == "power cut" else 40)


@pytest.mark.parametrize("stop", ["kill", "full disk", "power cut"])
def test_without_the_rename_most_crash_points_lose_a_checkpoint(place: Path, stop: Stop) -> None:
    """The harness notices: torch.save onto the final name loses 44 of 45 (reliability.md 6.1)."""

    def write(folder: Path, step: int) -> None:
        with (folder / "state.pt").open("wb") as file:
            hashed = checkpoint._Hashed(file)
            torch.save({"step": step}, hashed)  # type: ignore[arg-type]
            if hashed.failure is not None:
                raise hashed.failure
            file.write(b"SHA256:" + hashed.digest.digest())
            file.flush()
            os.fsync(file.fileno())

    lost = 0
    for folder, stopped in crash_points(
        stop, lambda folder: write(folder, 1), lambda folder: write(folder, 2), place
    ):
        lost += stopped and not verify(folder / "state.pt")

    assert lost > 25


# The run directory


def test_a_run_goes_on_from_its_newest_checkpoint(run: Run) -> None:
    run.states.save(10, state_of(10))
    run.states.save(20, state_of(20))
    loaded = Run.open(run.directory).states.load()

    assert loaded.step == 20
    assert loaded.reports == []
    assert_close(loaded.state["weights"], state_of(20)["weights"], rtol=0, atol=0)


def test_what_a_run_is_begun_with(run: Run) -> None:
    assert run.read_experiment().text == "seed: 1\n"
    assert run.read_facts() == {"seed": 1}
    assert json.loads(run.facts.read_text())["seed"] == 1


def test_a_used_directory_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"already \(experiment\.yaml, run\.json, state\): --resume continues it, or choose",
    ):
        Run.create(run.directory, experiment_yaml="", facts={})

    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    with pytest.raises(CheckpointError, match=r"photos is used already \(cat\.png\)"):
        Run.create(tmp_path / "photos", experiment_yaml="", facts={})
    assert names(tmp_path / "photos") == ["cat.png"]

    assert run.read_experiment().text == "seed: 1\n"


FILES = ("experiment.yaml", "run.json", "log.jsonl", "lock", "state/00000001.pt")
FILES += ("student.safetensors", "best.safetensors")


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize(
    ("name", "what", "reason"),
    [
        *((name, "folder", "is a folder, where a run keeps a file") for name in FILES),
        *((name, "pipe", "is a pipe or a device, where a run keeps") for name in FILES),
        *((name, "loop", "is a link that leads nowhere") for name in ("lock", "log.jsonl")),
        *(
            (name, "pipe", "is not a folder, but a run keeps files in")
            for name in ("state", "samples")
        ),
        *(
            (name, "loop", "is not a folder, but a run keeps files in")
            for name in ("state", "samples")
        ),
    ],
)
def test_what_stands_where_a_run_keeps_something_is_named_before_any_work(
    run: Run, *, begun: bool, name: str, what: str, reason: str
) -> None:
    """Not where it is met: after training, or never, as reading a pipe does not end."""
    if not begun:
        run.experiment.unlink()
    path = run.directory / name
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    match what:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case _:
            path.symlink_to(path.name)

    with pytest.raises(CheckpointError, match=f"{re.escape(str(path))} {reason}"):
        Run.open(run.directory) if begun else run.check_unused()


def test_a_run_that_was_half_begun_is_begun_again(run: Run) -> None:
    """The experiment is written last: without it there is no run yet, unless it has states."""
    run.experiment.unlink()
    assert Run.create(run.directory, experiment_yaml="seed: 2\n", facts={}).read_facts() == {}

    again = Run.open(run.directory)
    again.states.save(1, {})
    run.experiment.unlink()
    with pytest.raises(CheckpointError, match="it holds no run: choose another name"):
        Run.create(run.directory, experiment_yaml="", facts={})


def test_a_directory_that_cannot_be_written_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        CheckpointError, match=r"cannot write to the run directory .*run: Not a directory"
    ):
        Run.create(tmp_path / "file" / "run", experiment_yaml="", facts={})

    def refuse(path: Path, content: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files, "write_text", refuse)
    with pytest.raises(
        CheckpointError, match=r"cannot write to the run directory .*run: Permission denied"
    ):
        Run.create(tmp_path / "run", experiment_yaml="", facts={})


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no run: it has no experiment\.yaml"):
        Run.open(tmp_path)


def test_a_run_without_a_checkpoint_says_so(run: Run) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"no checkpoint to resume from \(nothing was saved yet\): begin another",
    ):
        run.states.load()


def test_a_damaged_checkpoint_is_reported_and_the_one_before_used(run: Run) -> None:
    run.states.save(11000, state_of(1))
    path = run.states.save(12000, state_of(2))
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)

    loaded = run.states.load()

    assert loaded.step == 11000
    assert loaded.reports == ["sha256 mismatch in 00012000.pt; using 00011000.pt"]


def test_200_truncated_checkpoints_fall_back(run: Run) -> None:
    run.states.save(1, state_of(1))
    path = run.states.save(2, state_of(2))
    content = path.read_bytes()

    for cut in range(200):
        path.write_bytes(content[: len(content) * cut // 200])
        step, state, reports = run.states.load()
        assert step == 1
        assert len(reports) == 1
        assert_close(state["weights"], state_of(1)["weights"], rtol=0, atol=0)


def test_a_run_goes_on_after_its_newest_checkpoints_were_lost(run: Run) -> None:
    for step in (10, 20, 30):
        run.states.save(step, state_of(step), best=10)
    for step in (20, 30):
        run.states.file(step).write_bytes(b"")

    again = Run.open(run.directory)
    assert again.states.load().step == 10
    again.states.save(15, state_of(15))

    assert again.steps() == [10, 15]
    assert Run.open(run.directory).states.load().step == 15


def test_a_sound_later_checkpoint_is_not_thrown_away(run: Run) -> None:
    run.states.save(20, state_of(20))

    with pytest.raises(
        CheckpointError, match=r"cannot save step 10: 00000020\.pt is of a later step"
    ):
        run.states.save(10, state_of(10))

    assert run.steps() == [20]


def test_the_last_two_and_the_best_are_kept(run: Run) -> None:
    for step in range(1, 10):
        run.states.save(step, state_of(step), best=2 if step < 4 else 4)

    assert run.steps() == [4, 8, 9]


def test_older_checkpoints_stay_if_the_new_one_cannot_be_read_back(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        run.states.save(step, state_of(step))
    monkeypatch.setattr(checkpoint, "verify", lambda _: False)

    with pytest.raises(OSError, match="the disk did not store what was written"):
        run.states.save(3, state_of(3))

    assert run.steps() == [1, 2, 3]


@pytest.mark.parametrize(
    ("content", "report"),
    [
        (
            {"format": 2, "step": 3, "experiment": "", "state": {}},
            "00000002.pt holds step 3: it was renamed",
        ),
        ({"format": 9, "step": 2}, "00000002.pt was written by a later version of dukd (format 9)"),
        ({"format": 1}, "00000002.pt was written by an older version of dukd (format 1)"),
        ({"params": {}}, "00000002.pt is not a checkpoint of a run"),
    ],
)
def test_sound_files_that_do_not_belong_are_skipped(
    run: Run, content: dict[str, object], report: str
) -> None:
    run.states.save(1, state_of(1))
    save(run.states.file(2), content)

    assert run.states.load().reports == [f"{report}; using 00000001.pt"]


def test_an_unreadable_checkpoint_is_skipped(run: Run) -> None:
    run.states.save(1, state_of(1))
    run.states.file(2).mkdir()

    assert run.states.load().reports == [
        "cannot read 00000002.pt: Is a directory; using 00000001.pt"
    ]


# The log


def test_the_log_is_one_object_per_line(run: Run) -> None:
    run.log({"kind": "train", "step": 1, "total_hex": (0.1).hex()})
    run.log(
        {"kind": "validation", "step": 2, "psnr_y": math.inf, "gradient": [math.nan, -math.inf]}
    )

    assert run.log_file.read_text().count("\n") == 2
    first, second = run.records()
    assert first == {"kind": "train", "step": 1, "total_hex": "0x1.999999999999ap-4"}
    assert second["psnr_y"] == "inf"
    assert second["gradient"] == ["nan", "-inf"]


def test_a_torn_line_is_left_out_and_cut_off(run: Run) -> None:
    run.log({"step": 1})
    run.log({"step": 2, "text": "grüße"})
    content = run.log_file.read_bytes()
    first = content.index(b"\n") + 1

    for cut in range(first, len(content)):
        run.log_file.write_bytes(content[:cut])
        assert run.records() == [{"step": 1}]
        run.log({"step": 2})
        assert run.records() == [{"step": 1}, {"step": 2}]


def test_a_log_of_one_torn_line_is_empty(run: Run) -> None:
    run.log_file.write_bytes(b'{"step": ')
    assert run.records() == []

    run.log({"step": 1})
    assert run.records() == [{"step": 1}]


def test_damage_inside_the_log_is_named_and_resuming_takes_it_out(run: Run) -> None:
    for step in (1, 2, 3):
        run.log({"step": step})
    whole = run.log_file.read_bytes()
    second = whole.index(b"\n") + 1

    for at in range(second, whole.index(b"\n", second)):
        content = bytearray(whole)
        content[at] ^= 1
        run.log_file.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"log\.jsonl, line [23], is damaged"):
            run.records()
        assert all("it was taken out" in told for told in log.truncate(run.log_file, 9))
        assert [r["step"] for r in run.records()] in ([1, 3], [1])


def test_a_resumed_run_writes_its_lines_again(run: Run) -> None:
    for step in (1, 2, 3, 4):
        run.log({"kind": "train", "step": step, "total_hex": float(step).hex()})
    run.log({"kind": "event", "what": "paused"})
    with run.log_file.open("ab") as file:
        file.write(b'{"kind": "tra')

    assert log.truncate(run.log_file, 2) == []
    assert [record.get("step") for record in run.records()] == [1, 2, None]


def test_a_run_without_a_log_has_none_to_cut(run: Run) -> None:
    assert log.truncate(run.log_file, 0) == []
    assert not run.log_file.exists()


# The lock


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(run: Run) -> None:
    reading, writing = os.pipe()
    other = os.fork()  # whatever it needs is imported already
    if other == 0:
        try:
            with Run.open(run.directory).lock():
                os.write(writing, b"locked")
                time.sleep(100)
        finally:
            os._exit(1)
    assert os.read(reading, 6) == b"locked"

    message = rf"run is in use by pid {other} on host \S+ since 20\d\d-\d\d-\d\d .*: wait for"
    with pytest.raises(CheckpointError, match=message), run.lock():
        pass
    os.kill(other, signal.SIGKILL)
    os.waitpid(other, 0)
    os.close(reading)
    os.close(writing)

    with run.lock():
        assert f"pid {os.getpid()} on host" in (run.directory / "lock").read_text()
    with run.lock():
        pass


def test_what_a_killed_process_left_half_written_is_cleared_away(run: Run) -> None:
    run.states.save(1, state_of(1))
    for stray in (
        run.directory / ".student.safetensors.0a.tmp",
        run.states.file(1).with_name(".00000002.pt.0b.tmp"),
    ):
        stray.write_bytes(b"half")
    (run.directory / "notes.tmp").write_text("somebody's")

    with run.lock():
        pass

    assert [path.name for path in run.directory.rglob("*.tmp")] == ["notes.tmp"]
    assert run.steps() == [1]


def test_a_file_system_without_locks_is_warned_of(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)

    with (
        pytest.warns(
            RuntimeWarning, match="is not locked, as this system cannot: run one process in it"
        ),
        run.lock(),
    ):
        pass
