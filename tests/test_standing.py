import json
from pathlib import Path
from typing import Any

import pytest

from dukd.cli import run
from dukd.core import files
from dukd.runs.directory import Run
from dukd.runs.signed import with_crc, with_digest, with_header
from dukd.runs.standing import find, standing


def _run(
    folder: Path, name: str, *, saved: int = 0, steps: int = 100, lines: list[Any] | None = None
) -> Path:
    path = folder / name
    (path / "state").mkdir(parents=True)
    (path / "experiment.yaml").write_text(with_header(f"optimization: {{steps: {steps}}}\n"))
    (path / "run.json").write_text(with_digest({}))
    if saved:
        Run(path).states.file(saved).touch()
    if lines is None:
        lines = [
            *({"kind": "train", "step": n, "total": 1 / n, "seconds": n / 4} for n in (20, 40)),
            {"kind": "validation", "step": 40, "sets": {"Set5": {"psnr_y": 31.5}}},
            {"kind": "train", "step": 60, "total": 0.02, "seconds": 15.0},
            {"kind": "validation", "step": 60, "sets": {"Set5": {"psnr_y": 31.25}}},
        ]
    (path / "log.jsonl").write_bytes(b"".join(map(with_crc, lines)))
    return path


def test_a_run_that_was_stopped_says_where(tmp_path: Path) -> None:
    """20 steps in 5 seconds: 4 a second."""
    found = standing(_run(tmp_path, "a", saved=40))

    assert (found.state, found.step, found.steps) == ("stopped", 60, 100)
    assert found.pace == pytest.approx(4.0)
    assert (found.loss, found.psnr, found.best) == (0.02, 31.25, 31.5)
    assert found.seconds_left is None


def test_a_run_that_trains_says_how_long_it_takes(tmp_path: Path) -> None:
    path = _run(tmp_path, "a", saved=40)
    with Run(path).lock():
        found = standing(path)

    assert found.state == "training"
    assert found.seconds_left == pytest.approx(10.0)  # 40 steps at 4 a second
    assert standing(path).state == "stopped"  # killed or ended: the lock is free


def test_a_killed_run_whose_lock_still_names_it_does_not_train(tmp_path: Path) -> None:
    path = _run(tmp_path, "a", saved=40)
    (path / "lock").write_text("pid 1 on host here\n")

    assert standing(path).state == "stopped"
    assert not files.is_locked(path / "lock")


def test_other_states(tmp_path: Path) -> None:
    assert standing(_run(tmp_path, "done", saved=100)).state == "finished"
    assert standing(_run(tmp_path, "new", lines=[])).state == "begun"
    broken = [{"kind": "event", "step": 9, "what": "non-finite", "detail": "the loss is nan"}]
    failed = standing(_run(tmp_path, "bad", saved=5, lines=broken))
    assert (failed.state, failed.said) == ("failed", "the loss is nan")
    path = _run(tmp_path, "altered")
    text = (path / "log.jsonl").read_text().replace("0.02", "0.01")
    (path / "log.jsonl").write_text(text)
    damaged = standing(path)
    assert (damaged.state, damaged.step) == ("damaged", 60)
    assert "was altered" in damaged.said


def test_runs_are_found_below_a_folder(tmp_path: Path) -> None:
    for name in ("b", "a", "deep/er/c", "much/too/very/deep"):
        _run(tmp_path, name)

    assert [path.name for path in find(tmp_path)] == ["a", "b", "c"]
    assert find(tmp_path / "a") == [tmp_path / "a"]


def test_the_table_of_all_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(tmp_path, "first", saved=100)
    _run(tmp_path, "second", saved=40)
    (_run(tmp_path, "third") / "run.json").write_text(json.dumps({"sha256": "0"}))

    assert run(["watch", str(tmp_path), "--once"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["run", "state", "step", "steps/s", "loss", "PSNR-Y", "best", "left"]
    assert lines[1].split()[:4] == ["first", "finished", "100/100", "(100"]
    assert lines[2].split() == [
        *("second", "stopped", "60/100", "(60", "%)", "4", "0.0200", "31.250", "31.500"),
    ]
    assert lines[3].split()[:3] == ["third", "damaged", "60"]
    assert "third: " in lines[4]


def test_a_folder_without_runs_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["watch", str(tmp_path)]) == 2
    assert "there are no runs in" in capsys.readouterr().err
    assert run(["watch", str(tmp_path / "none")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
