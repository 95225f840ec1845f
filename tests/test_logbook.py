"""Lines of the log hold means since the line before, and the time that training took."""

import time
from pathlib import Path

import pytest
import torch

from dukd.networks import EDSRConfig
from dukd.runs.directory import Run
from dukd.training.experiment import Data, Experiment
from dukd.training.log import GRADIENT_NORM, Meter, RunLog, ignore, peak_memory

CPU = torch.device("cpu")


def values(reconstruction: float, imitation: float, norm: float) -> dict[str, torch.Tensor]:
    numbers = {"reconstruction": reconstruction, "imitation": imitation, GRADIENT_NORM: norm}
    return {name: torch.tensor(value) for name, value in numbers.items()}


def test_a_line_holds_the_means_since_the_one_before() -> None:
    meter = Meter(step=0, seconds=0.0, device=CPU)
    meter.add(values(1.0, 3.0, 10.0), patches=16)
    meter.add(values(2.0, 5.0, 20.0), patches=16)

    record = meter.record(2, 1e-4)

    assert record["losses"] == {"reconstruction": 1.5, "imitation": 4.0}
    assert (record["kind"], record["step"], record["learning_rate"]) == ("train", 2, 1e-4)
    assert (record["total"], record["gradient_norm"]) == (5.5, 15.0)
    assert record["total_hex"] == (7.0).hex()  # of the last step alone, without the norm
    meter.add(values(0.5, 0.25, 1.0), patches=16)
    assert meter.record(3, 1e-4)["losses"] == {"reconstruction": 0.5, "imitation": 0.25}


def test_a_loss_that_some_steps_lack_counts_as_0_there() -> None:
    meter = Meter(step=0, seconds=0.0, device=CPU)
    first = values(1.0, 2.0, 0.0)
    meter.add(first | {"zoom_in": torch.tensor(4.0)}, patches=1)
    meter.add(first, patches=1)

    losses = meter.record(2, 1.0)["losses"]

    assert losses == {"reconstruction": 1.0, "imitation": 2.0, "zoom_in": 2.0}


def test_pauses_are_no_training_and_earlier_seconds_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    meter = Meter(step=50, seconds=40.0, device=CPU)

    def wait(seconds: float) -> None:
        now[0] += seconds

    wait(6.0)
    meter.paused(lambda: wait(1000.0))
    wait(4.0)
    meter.add(values(1.0, 1.0, 1.0), patches=30)

    assert meter.seconds() == 50.0
    assert meter.seconds_left(60, 100) == 40.0  # ten steps took ten seconds
    record = meter.record(60, 1.0)
    assert (record["images_per_second"], record["seconds"]) == (3.0, 50.0)


def test_processor_time_is_that_since_the_last_line_without_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And goes on after a resume where it was."""
    now = [100.0]
    monkeypatch.setattr(time, "process_time", lambda: now[0])
    meter = Meter(step=0, seconds=0.0, device=CPU)

    def work(seconds: float) -> None:
        now[0] += seconds

    found: list[object] = []
    for seconds in (3.0, 2.0):
        work(seconds)
        meter.paused(lambda: work(1000.0))
        meter.add(values(1.0, 1.0, 1.0), patches=1)
        found.append(meter.record(1, 1.0)["cpu_seconds"])
    work(4.0)
    saved = meter.to_checkpoint()
    meter = Meter(step=1, seconds=0.0, device=CPU)
    meter.restore(saved)
    work(5.0)
    meter.add(values(1.0, 1.0, 1.0), patches=1)

    assert [*found, meter.record(2, 1.0)["cpu_seconds"]] == [3.0, 2.0, 9.0]


def test_the_first_loss_is_seen_after_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then every five seconds; the means of the log stay those of all its steps."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    meter = Meter(step=0, seconds=0.0, device=CPU)
    assert meter.live(0) is None

    seen: list[tuple[object, ...]] = []
    for step in range(1, 13):
        now[0] += 1.0
        meter.add(values(1.0, float(step), 0.5), patches=4)
        live = meter.live(step)
        seen += [] if live is None else [(step, live["losses"], live["images_per_second"])]

    assert [step for step, *_ in seen] == [1, 6, 11]
    assert seen[0][2] == 4.0
    assert [losses for _, losses, _ in seen] == [
        {"reconstruction": 1.0, "imitation": mean} for mean in (1.0, 3.5, 6.0)
    ]
    assert meter.record(12, 1.0)["losses"] == {"reconstruction": 1.0, "imitation": 6.5}


def test_memory_is_in_mebibytes() -> None:
    """A Python process with torch takes some hundred."""
    assert 50 < peak_memory(CPU) < 100_000


@pytest.fixture
def run(tmp_path: Path) -> Run:
    experiment = Experiment(
        student=EDSRConfig(scale=2, width=4, blocks=1), data=Data(train=Path("images"))
    )
    return Run.create(tmp_path / "run", experiment_yaml=experiment.to_yaml(), facts={})


def test_what_is_written_is_told_and_kept(run: Run) -> None:
    told: list[object] = []
    book = RunLog(run, told.append)

    book.event(5, "resumed", "from step 5")
    book.write({"kind": "train", "step": 6, "total": 0.5})
    book.close()

    lines = run.records()
    assert lines == [
        {"kind": "event", "step": 5, "what": "resumed", "detail": "from step 5"},
        {"kind": "train", "step": 6, "total": 0.5},
    ]
    assert told == lines
    ignore(lines[0])
