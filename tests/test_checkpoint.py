import argparse
import errno
import fcntl
import hashlib
import io
import json
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import zipfile
from collections import OrderedDict, namedtuple
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from crash_points import Stop, crash_points
from dukd import checkpoint, files
from dukd.checkpoint import CheckpointError, DiskFullError, Run, load, save, verify

SRC = Path(__file__).resolve().parents[1] / "src"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", experiment_yaml="seed: 1\n", facts={"seed": 1})


def _state(step: int) -> dict[str, object]:
    """The step is inside a tensor too, so a torn mixture would show."""
    return {"weights": torch.full((50,), float(step)), "rng": torch.Generator().manual_seed(step).get_state()}


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


def _signed(body: bytes) -> bytes:
    """A file with a correct footer, as someone hostile could write it."""
    return body + b"SHA256:" + hashlib.sha256(body).digest()


def _archive(content: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


# A checkpoint file


def test_the_footer_is_the_digest_of_what_stands_before_it(tmp_path: Path) -> None:
    save(tmp_path / "a.pt", _state(1))
    content = (tmp_path / "a.pt").read_bytes()

    assert content[-39:-32] == b"SHA256:"
    assert content[-32:] == hashlib.sha256(content[:-39]).digest()
    assert verify(tmp_path / "a.pt")


_leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**1024) + 1, 2**1024 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.text(st.characters(categories=["Cs"]), max_size=2)
)
_states = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        _leaves,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3)
            | st.tuples(inner, inner)
        ),
        max_leaves=8,
    ),
    max_size=4,
)


@given(_states)
def test_what_is_saved_is_loaded(tmp_path_factory: pytest.TempPathFactory, state: dict[str, object]) -> None:
    path = tmp_path_factory.getbasetemp() / "same.pt"

    save(path, state)

    assert repr(load(path)) == repr(state)  # repr tells 1 from True and 0.0 from -0.0


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        torch.float64,
        torch.bfloat16,
        torch.float16,
        torch.uint8,
        torch.int64,
        torch.bool,
        torch.complex64,
    ],
)
def test_tensors_come_back_to_the_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = (torch.randn(3, 1, 5) * 10).to(dtype)

    save(tmp_path / "a.pt", {"plain": tensor, "scalar": tensor[0, 0, 0], "empty": tensor[:0], "turned": tensor.mT})
    loaded = load(tmp_path / "a.pt")

    assert_close(loaded["plain"], tensor, rtol=0, atol=0)
    assert_close(loaded["scalar"], tensor[0, 0, 0], rtol=0, atol=0)
    assert_close(loaded["empty"], tensor[:0], rtol=0, atol=0)
    assert_close(loaded["turned"], tensor.mT, rtol=0, atol=0)


def test_a_training_state_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    def steps(net: nn.Module, optimiser: torch.optim.Adam, rng: torch.Generator) -> list[str]:
        losses: list[str] = []
        for _ in range(3):
            loss = net(torch.rand(4, 8, generator=rng)).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item().hex())
        return losses

    net, rng = nn.Linear(8, 2), torch.Generator().manual_seed(1)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    steps(net, optimiser, rng)
    save(tmp_path / "a.pt", {"net": net.state_dict(), "adam": optimiser.state_dict(), "rng": rng.get_state()})
    expected = steps(net, optimiser, rng)

    again, other_rng = nn.Linear(8, 2), torch.Generator()
    other = torch.optim.Adam(again.parameters(), lr=0.5)
    state: dict[str, Any] = load(tmp_path / "a.pt")
    again.load_state_dict(state["net"])
    other.load_state_dict(state["adam"])
    other_rng.set_state(state["rng"])

    assert steps(again, other, other_rng) == expected


def test_numpy_scalars_and_ordered_dictionaries_become_plain(tmp_path: Path) -> None:
    """A file that its own safe reader refuses would lock its owner out: reliability.md 1.11."""
    state = OrderedDict(loss=np.float64(0.5), count=np.int64(3), on=np.bool_(True), name=np.str_("x"))

    save(tmp_path / "a.pt", state)

    assert repr(load(tmp_path / "a.pt")) == "{'loss': 0.5, 'count': 3, 'on': True, 'name': 'x'}"


def test_a_view_takes_only_its_own_elements_along(tmp_path: Path) -> None:
    save(tmp_path / "a.pt", {"row": torch.zeros(1_000_000)[:10]})

    assert (tmp_path / "a.pt").stat().st_size < 3000


def test_parameters_that_share_elements_are_stored_once(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.rand(100_000))

    save(tmp_path / "a.pt", {"a": weight, "b": weight})
    loaded = load(tmp_path / "a.pt")

    assert (tmp_path / "a.pt").stat().st_size < 410_000
    assert type(loaded["a"]) is Tensor
    assert_close(loaded["b"], weight.detach(), rtol=0, atol=0)


Pair = namedtuple("Pair", "a b")  # noqa: PYI024 (the odd type is the point)


class Odd(Tensor):
    pass


_circle: dict[str, object] = {}
_circle["again"] = _circle


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {"optimiser": {"groups": [{"lr": np.ones(2)}]}},
            r"optimiser\.groups\[0\]\.lr is numpy\.ndarray; a checkpoint",
        ),
        ({"net": nn.Linear(1, 1)}, r"net is torch\.nn\.modules\.linear\.Linear; a checkpoint holds tensors"),
        ({"path": Path("x")}, r"path is pathlib\..*Path; "),
        ({"when": np.datetime64("2026-01-01")}, r"when is datetime\.date; "),
        ({"pair": Pair(1, 2)}, r"pair is .*Pair; "),
        ({"b": b"bytes"}, r"b is bytes; "),
        ({"steps": {1, 2}}, r"steps is set; "),
        ({"x": {1.5: 0}}, r"x: the key 1\.5 is float; keys are str or int"),
        ({"x": {True: 0}}, r"x: the key True is bool; keys are str or int"),
        ({(1, 2): 0}, r"the state: the key \(1, 2\) is tuple"),
        ({"n": 2**1024}, r"n: an integer in a checkpoint has at most 1024 bits"),
        ({"odd": torch.rand(2).as_subclass(Odd)}, r"odd is .*Odd"),
        ({"sparse": torch.eye(2).to_sparse()}, r"sparse is torch\.Tensor \(torch\.sparse_coo\); only dense"),
        ({"meta": torch.empty(2, device="meta")}, r"meta is a tensor without data"),
        (
            {"wide": torch.zeros(1).expand(10**9)},
            r"wide repeats its elements \(shape \(1000000000,\), 4 bytes stored\)",
        ),
        (_circle, r"a checkpoint is at most 64 levels deep"),
    ],
)
def test_what_is_no_data_is_refused_before_anything_is_written(
    tmp_path: Path, state: dict[str, object], message: str
) -> None:
    save(tmp_path / "a.pt", {"old": 1})

    with pytest.raises(CheckpointError, match=message):
        save(tmp_path / "a.pt", state)

    assert load(tmp_path / "a.pt") == {"old": 1}
    assert _names(tmp_path) == ["a.pt"]


def test_every_flipped_byte_is_detected(tmp_path: Path) -> None:
    """torch.load alone accepted 951 of 1000 flipped bits (reliability.md 1.3)."""
    path = tmp_path / "a.pt"
    save(path, {"weights": torch.rand(20)})
    content = path.read_bytes()

    for index in range(len(content)):
        for mask in (1, 0x80, 0xFF):
            damaged = bytearray(content)
            damaged[index] ^= mask
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=r"sha256 mismatch in a\.pt|no SHA-256 footer in a\.pt"):
                load(path)
        assert not verify(path)


def _reduce(function: object, *arguments: object) -> object:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return function, arguments

    return Payload()


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, "posix.system"), (eval, "builtins.eval"), (exec, "builtins.exec"), (open, "io.open")],
)
def test_no_pickle_is_executed(tmp_path: Path, form: str, function: Any, name: str) -> None:
    flag = tmp_path / "flag"
    argument = {"posix.system": f"touch {flag}", "io.open": str(flag)}.get(name, f"open({str(flag)!r}, 'w')")
    content = {"step": 1, "deep": [_reduce(function, argument, *(["w"] if name == "io.open" else []))]}
    body = {
        "zip": lambda: _archive(content),
        "legacy": lambda: _archive(content, _use_new_zipfile_serialization=False),
        "pickle": lambda: pickle.dumps(content),
    }[form]()
    (tmp_path / "a.pt").write_bytes(_signed(body))

    expected = (
        f"refused a.pt: it asks for {name}" if form == "zip" else "refused a.pt: its content is not torch's archive"
    )
    with pytest.raises(CheckpointError, match=expected):
        load(tmp_path / "a.pt")

    assert not flag.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"net": nn.Linear(1, 1)}, r"it asks for torch\.nn\.modules\.linear\.Linear"),
        ({"args": argparse.Namespace(a=1)}, r"it asks for argparse\.Namespace"),
        ({"loss": np.float64(1)}, r"it asks for numpy"),
        ([1, 2], r"it holds list instead of a dictionary"),
        ({"x": {1, 2}}, r"x is set"),
        ({"huge": torch.zeros(1).expand(2 * 10**10)}, r"huge repeats its elements"),
    ],
)
def test_files_with_more_than_data_are_refused(tmp_path: Path, content: object, message: str) -> None:
    (tmp_path / "a.pt").write_bytes(_signed(_archive(content)))

    with pytest.raises(CheckpointError, match=rf"refused a\.pt: {message}"):
        load(tmp_path / "a.pt")


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    bomb = io.BytesIO()
    source = zipfile.ZipFile(io.BytesIO(_archive({"x": torch.zeros(100_000)})))
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    (tmp_path / "a.pt").write_bytes(_signed(bomb.getvalue()))

    with pytest.raises(CheckpointError, match=r"compressed members"):
        load(tmp_path / "a.pt")


@given(st.data())
def test_signed_nonsense_gives_one_kind_of_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "nonsense.pt"
    body = bytearray(_archive({"weights": torch.ones(3), "names": ["a", "b"]}))
    for _ in range(data.draw(st.integers(1, 8))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(_signed(bytes(body)))

    with suppress(CheckpointError):
        load(path)


def test_a_full_disk_is_noticed_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.pt", {"old": 1})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 3_000_000))

    with pytest.raises(DiskFullError) as caught:
        save(tmp_path / "a.pt", {"weights": torch.zeros(43_000_000 // 4)})

    assert str(caught.value) == f"disk full: need 43 MB, 3 MB free on {tmp_path}; a.pt was not written"
    assert caught.value.errno == errno.ENOSPC
    assert load(tmp_path / "a.pt") == {"old": 1}


def test_a_full_quota_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    save(tmp_path / "a.pt", {"old": 1})
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(DiskFullError, match=r"disk full: need 1 kB, .* free on"):
        save(tmp_path / "a.pt", {"new": 1})

    assert load(tmp_path / "a.pt") == {"old": 1}
    assert _names(tmp_path) == ["a.pt"]


# Crash points


@pytest.mark.parametrize("stop", ["kill", "full disk", "power cut"])
def test_no_crash_point_loses_a_checkpoint(tmp_path: Path, stop: Stop) -> None:
    """Two checkpoints and the best are there; the third write also deletes the first."""

    def prepare(folder: Path) -> None:
        run = Run.create(folder, experiment_yaml="seed: 1\n", facts={})
        run.log({"kind": "train", "step": 1})
        run.save_state(1, _state(1), best=True)
        run.save_state(2, _state(2))
        run.save_state(3, _state(3))
        run.save_state(4, _state(4))

    points = 0
    for folder, stopped in crash_points(stop, prepare, lambda folder: Run(folder).save_state(5, _state(5)), tmp_path):
        points += stopped
        run = Run.open(folder)
        step, state, reports = run.load_state()

        assert step in {4, 5}
        assert stopped or step == 5
        assert reports == []
        assert {1, 3 if step == 4 else 4, step} <= set(run.steps())
        assert_close(state["weights"], _state(step)["weights"], rtol=0, atol=0)
        with run.lock():
            run.save_state(6, _state(6))
        assert run.load_state().step == 6
        assert not list(folder.rglob("*.tmp"))

    assert points >= (5 * 40 if stop == "power cut" else 40)


@pytest.mark.parametrize("stop", ["kill", "full disk", "power cut"])
def test_without_the_rename_most_crash_points_lose_a_checkpoint(tmp_path: Path, stop: Stop) -> None:
    """The harness would notice: torch.save onto the final name loses 44 of 45 (reliability.md 6.1)."""

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
        stop, lambda folder: write(folder, 1), lambda folder: write(folder, 2), tmp_path
    ):
        lost += stopped and not verify(folder / "state.pt")

    assert lost > 25


# The run directory


def test_a_run_goes_on_from_its_newest_checkpoint(run: Run) -> None:
    run.save_state(10, _state(10))
    run.save_state(20, _state(20))
    loaded = Run.open(run.directory).load_state()

    assert loaded.step == 20
    assert loaded.reports == []
    assert_close(loaded.state["weights"], _state(20)["weights"], rtol=0, atol=0)


def test_what_a_run_is_begun_with(run: Run) -> None:
    assert run.experiment.read_text() == "seed: 1\n"
    assert json.loads(run.facts.read_text()) == {"seed": 1}


def test_a_used_directory_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"run is used already \(experiment\.yaml, run\.json, state\): --resume goes on with it, or",
    ):
        Run.create(run.directory, experiment_yaml="", facts={})

    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    with pytest.raises(CheckpointError, match=r"photos is used already \(cat\.png\)"):
        Run.create(tmp_path / "photos", experiment_yaml="", facts={})
    assert _names(tmp_path / "photos") == ["cat.png"]

    assert run.experiment.read_text() == "seed: 1\n"


def test_a_directory_that_cannot_be_written_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot write to the run directory .*run: Not a directory"):
        Run.create(tmp_path / "file" / "run", experiment_yaml="", facts={})

    def refuse(path: Path, content: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files, "write_text", refuse)
    with pytest.raises(CheckpointError, match=r"cannot write to the run directory .*run: Permission denied"):
        Run.create(tmp_path / "run", experiment_yaml="", facts={})


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no run: it has no experiment\.yaml"):
        Run.open(tmp_path)


def test_a_run_without_a_checkpoint_says_so(run: Run) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint to go on from \(nothing was saved yet\): begin another"):
        run.load_state()


def test_a_damaged_checkpoint_is_reported_and_the_one_before_used(run: Run) -> None:
    run.save_state(11000, _state(1))
    path = run.save_state(12000, _state(2))
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)

    loaded = run.load_state()

    assert loaded.step == 11000
    assert loaded.reports == ["sha256 mismatch in 00012000.pt; using 00011000.pt"]


def test_200_truncated_checkpoints_fall_back(run: Run) -> None:
    run.save_state(1, _state(1))
    path = run.save_state(2, _state(2))
    content = path.read_bytes()

    for cut in range(200):
        path.write_bytes(content[: len(content) * cut // 200])
        step, state, reports = run.load_state()
        assert step == 1
        assert len(reports) == 1
        assert_close(state["weights"], _state(1)["weights"], rtol=0, atol=0)


def test_a_run_goes_on_after_its_newest_checkpoints_were_lost(run: Run) -> None:
    for step in (10, 20, 30):
        run.save_state(step, _state(step), best=step == 10)
    for step in (20, 30):
        run.state_file(step).write_bytes(b"")

    again = Run.open(run.directory)
    assert again.load_state().step == 10
    again.save_state(15, _state(15))

    assert again.steps() == [10, 15]
    assert Run.open(run.directory).load_state().step == 15


def test_a_sound_later_checkpoint_is_not_thrown_away(run: Run) -> None:
    run.save_state(20, _state(20))

    with pytest.raises(CheckpointError, match=r"cannot save step 10 .*: 00000020\.pt is of a later step"):
        run.save_state(10, _state(10))

    assert run.steps() == [20]


def test_the_last_two_and_the_best_are_kept(run: Run) -> None:
    for step in range(1, 10):
        run.save_state(step, _state(step), best=step in {2, 4})

    assert run.steps() == [4, 8, 9]


def test_the_best_is_known_to_the_next_process(run: Run) -> None:
    for step in range(1, 4):
        run.save_state(step, _state(step), best=step == 1)
    again = Run.open(run.directory)
    for step in range(4, 7):
        again.save_state(step, _state(step))

    assert again.steps() == [1, 5, 6]


def test_older_checkpoints_stay_if_the_new_one_cannot_be_read_back(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        run.save_state(step, _state(step))
    monkeypatch.setattr(checkpoint, "verify", lambda _: False)

    with pytest.raises(OSError, match="the disk did not store what was written"):
        run.save_state(3, _state(3))

    assert run.steps() == [1, 2, 3]


@pytest.mark.parametrize(
    ("content", "report"),
    [
        ({"format": 1, "step": 3, "best_step": None, "state": {}}, "00000002.pt holds step 3: it was renamed"),
        ({"format": 9, "step": 2}, "00000002.pt was written by a later version of dukd (format 9)"),
        ({"params": {}}, "00000002.pt is no checkpoint of a run"),
    ],
)
def test_sound_files_that_do_not_belong_are_skipped(run: Run, content: dict[str, object], report: str) -> None:
    run.save_state(1, _state(1))
    save(run.state_file(2), content)

    assert run.load_state().reports == [f"{report}; using 00000001.pt"]


def test_an_unreadable_checkpoint_is_skipped(run: Run) -> None:
    run.save_state(1, _state(1))
    run.state_file(2).mkdir()

    assert run.load_state().reports == ["cannot read 00000002.pt: Is a directory; using 00000001.pt"]


# The log


def test_the_log_is_one_object_per_line(run: Run) -> None:
    run.log({"kind": "train", "step": 1, "total_hex": (0.1).hex()})
    run.log({"kind": "validation", "step": 2, "psnr_y": math.inf, "gradient": [math.nan, -math.inf]})

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


def test_damage_inside_the_log_is_named(run: Run) -> None:
    run.log_file.write_bytes(b'{"step": 1}\n{"step": \n{"step": 3}\n')

    with pytest.raises(CheckpointError, match=r"log\.jsonl, line 2, is damaged .*: delete that line"):
        run.records()


def test_a_resumed_run_writes_its_lines_again(run: Run) -> None:
    for step in (1, 2, 3, 4):
        run.log({"kind": "train", "step": step, "total_hex": float(step).hex()})
    run.log({"kind": "event", "what": "paused"})
    with run.log_file.open("ab") as file:
        file.write(b'{"kind": "tra')

    dropped = run.truncate_log(2)

    assert [record["step"] for record in dropped] == [3, 4]
    assert [record.get("step") for record in run.records()] == [1, 2, None]
    assert run.truncate_log(2) == []


def test_a_run_without_a_log_has_none_to_cut(run: Run) -> None:
    assert run.truncate_log(0) == []
    assert not run.log_file.exists()


# The lock


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(run: Run) -> None:
    code = (
        "import sys; from dukd.checkpoint import Run\n"
        f"with Run.open({str(run.directory)!r}).lock():\n"
        "    print('locked', flush=True); sys.stdin.read()"
    )
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"

        message = rf"run is in use by pid {other.pid} on host \S+ since 20\d\d-\d\d-\d\d .*: wait for it, or choose"
        with pytest.raises(CheckpointError, match=message), run.lock():
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()

    with run.lock():
        assert f"pid {os.getpid()} on host" in (run.directory / "lock").read_text()
    with run.lock():
        pass


def test_what_a_killed_process_left_half_written_is_cleared_away(run: Run) -> None:
    run.save_state(1, _state(1))
    for stray in (run.directory / ".student.safetensors.0a.tmp", run.state_file(1).with_name(".00000002.pt.0b.tmp")):
        stray.write_bytes(b"half")
    (run.directory / "notes.tmp").write_text("somebody's")

    with run.lock():
        pass

    assert [path.name for path in run.directory.rglob("*.tmp")] == ["notes.tmp"]
    assert run.steps() == [1]


def test_a_file_system_without_locks_is_warned_of(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)

    with pytest.warns(RuntimeWarning, match="is not locked: No locks available; run one process here"), run.lock():
        pass
