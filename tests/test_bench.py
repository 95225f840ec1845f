import math
from pathlib import Path

import pytest
import torch

from dukd import bench
from dukd.bench import Ceiling, Result, Timing
from dukd.cli import run
from dukd.experiment import Data, Experiment
from dukd.networks import EDSRConfig

CPU = torch.device("cpu")
SMALL = EDSRConfig(scale=2, width=4, blocks=1)


def test_the_median_counts_and_the_spread_is_told() -> None:
    timing = Timing("a", (1.0, 4.0, 2.0))

    assert timing.median == 2.0
    assert timing.spread == 1.5


def test_ratios_are_to_the_first_way() -> None:
    result = Result("x", (Timing("slow", (4.0,)), Timing("fast", (0.5,))), per_run=2, unit="patches", memory_mb=7)

    assert result.ratio("fast") == 8.0
    assert result.to_markdown().splitlines()[0] == "x; peak memory 7 MB"
    assert result.to_markdown().splitlines()[-1] == "| fast | 500.00 ms | - | 4 | 8.00 | - |"


def test_a_network_is_named_by_what_is_special_about_it() -> None:
    assert bench._named(SMALL) == "edsr x2 (width 4, blocks 1)"
    assert bench._named(EDSRConfig(scale=3)) == "edsr x3"


def test_the_share_of_the_peak_is_of_operations_done() -> None:
    result = Result("x", (Timing("a", (2.0,)),), flops=3e9, ceiling=Ceiling(6e9, 1.0))

    assert result.to_markdown().endswith("| 25 % |\n")


def test_ways_take_turns_after_warming_up() -> None:
    order: list[str] = []
    timings = bench.interleaved(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, device=CPU, repetitions=2, warm_up=1
    )

    assert "".join(order) == "ababab"
    assert [len(t.seconds) for t in timings] == [2, 2]
    with pytest.raises(ValueError, match="at least 1 repetition, but got 1 and 0"):
        bench.interleaved({"a": order.clear}, device=CPU, repetitions=0)


def test_the_ceiling_is_finite_and_positive() -> None:
    found = bench.ceiling(CPU, side=64)

    assert 0 < found.flops < math.inf
    assert 0 < found.bytes < math.inf


def test_a_step_is_timed_with_the_teacher_asked_and_replayed() -> None:
    result = bench.step(SMALL, SMALL, device=CPU, batch=2, patch=12, repetitions=1)

    assert [t.name for t in result.timings] == ["teacher asked", "teacher replayed", "student alone"]
    assert all(t.median > 0 for t in result.timings)


def test_networks_and_pictures_are_timed() -> None:
    assert [t.name for t in bench.network(SMALL, device=CPU, batch=1, patch=8, repetitions=1).timings] == [
        "forward",
        "forward and backward",
    ]
    assert bench.upscale(SMALL, device=CPU, height=8, width=8, repetitions=1).per_run == 256 / 1e6


def test_the_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = Experiment(student=SMALL, data=Data(train=tmp_path))
    (tmp_path / "e.yaml").write_text(experiment.to_yaml(), encoding="utf-8")
    options = ["--batch", "1", "--patch", "8", "--repetitions", "1", "--device", "cpu"]

    assert run(["bench", "network", str(tmp_path / "e.yaml"), *options]) == 0
    assert "| forward and backward |" in capsys.readouterr().out
