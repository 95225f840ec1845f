import math
from pathlib import Path

import pytest
import torch

from dukd import networks
from dukd.cli import run
from dukd.evaluation import timing
from dukd.evaluation.timing import Ceiling, Result, Timing
from dukd.methods import AT, DUKD, CrossKD, FrugalDUKD, Logits, Method, Scratch
from dukd.networks import EDSRConfig, NetworkConfig, RCANConfig
from dukd.networks.files import weights
from dukd.testing import speed
from dukd.training.experiment import Data, Experiment
from dukd.training.teachers import File, Teacher

CPU = torch.device("cpu")
SMALL = EDSRConfig(scale=2, width=4, blocks=1)


def test_the_median_counts_and_the_spread_is_told() -> None:
    timing = Timing("a", (1.0, 4.0, 2.0))

    assert timing.median == 2.0
    assert timing.spread == 1.5


def test_ratios_are_to_the_first_way() -> None:
    result = Result(
        "x",
        (Timing("slow", (4.0,)), Timing("fast", (0.5,))),
        per_run=2,
        unit="patches",
        memory_mb=7,
    )

    assert result.ratio("fast") == 8.0
    assert result.table().to_markdown().splitlines()[0] == "x; peak memory 7 MB"
    assert result.table().to_markdown().splitlines()[-1] == "| fast | 500 ms | 4 | 8.00 |"


def test_a_network_is_named_by_what_is_special_about_it() -> None:
    assert speed._named(SMALL) == "edsr x2 (width 4, blocks 1)"
    assert speed._named(EDSRConfig(scale=3)) == "edsr x3"


def test_the_share_of_the_peak_is_of_operations_done() -> None:
    timings = Timing("a", (2.0,)), Timing("b", (1.0,)), Timing("unknown", (1.0,))
    result = Result("x", timings, flops={"a": 3e9, "b": 6e9}, ceiling=Ceiling(6e9, 1.0))

    shares = [line.split(" | ")[-1] for line in result.table().to_markdown().splitlines()[-3:]]
    assert shares == ["25 % |", "100 % |", "\u2013 |"]


def test_ways_take_turns_after_warming_up() -> None:
    order: list[str] = []
    timings = timing.interleaved(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")},
        device=CPU,
        repetitions=2,
        warm_up=1,
    )

    assert "".join(order) == "ababab"
    assert [len(t.seconds) for t in timings] == [2, 2]
    with pytest.raises(ValueError, match="at least 1 repetition, but got 1 and 0"):
        timing.interleaved({"a": order.clear}, device=CPU, repetitions=0)


def test_the_ceiling_is_finite_and_positive() -> None:
    found = timing.ceiling(CPU, side=64)

    assert 0 < found.flops < math.inf
    assert 0 < found.bytes < math.inf


def ways(result: Result) -> list[str]:
    return [t.name for t in result.timings]


def step(method: Method, teacher: NetworkConfig | Teacher | None = SMALL, batch: int = 2) -> Result:
    return speed.step(
        SMALL, teacher, method=method, device=CPU, batch=batch, patch=12, repetitions=1
    )


def test_a_step_is_timed_with_the_teacher_asked_and_replayed() -> None:
    result = step(DUKD(), RCANConfig(scale=2, width=16, groups=1, blocks=1))

    assert ways(result) == ["teacher live", "teacher replayed", "teacher alone", "student alone"]
    assert all(t.median > 0 for t in result.timings)
    assert "rcan x2 (width 16, groups 1, blocks 1) to edsr x2 (width 4, blocks 1)" in result.what


def test_operations_of_a_step_are_those_of_the_networks() -> None:
    """A pass back costs two forward ones, less the first layer's, which has no input to blame."""
    pixels = 2 * (2 * 12 * 12 + 6 * 6)  # the pair and a window, and the reduced image
    forward = 2 * networks.macs(SMALL.build(), 12, 12) / 144 * pixels
    first = 2 * 4 * 3 * 9 * pixels

    reduced = 2 * 2 * 3 * (6 * 12 * 12 + 6 * 6 * 12)  # by a matrix for rows, then one for columns
    fingerprints = 2 * 4 * 3 * pixels  # four projections, by which a kept output is recognized

    flops = step(DUKD()).flops

    assert flops["student alone"] == 3 * forward - first
    assert flops["teacher live"] == flops["student alone"] + reduced + forward
    assert flops["teacher replayed"] == flops["student alone"] + reduced + fingerprints
    assert flops["teacher alone"] == forward


@pytest.mark.parametrize("method", [AT(), DUKD(base=AT()), CrossKD()])
def test_a_method_that_reads_features_is_replayed(method: Method) -> None:
    result = step(method)

    assert ways(result) == ["teacher live", "teacher replayed", "teacher alone", "student alone"]
    assert not result.notes
    assert result.what.startswith(method.label + ", edsr")


def test_a_method_without_a_teacher_has_but_a_step() -> None:
    assert ways(step(Scratch(), None)) == ["step", "student alone"]
    with pytest.raises(ValueError, match="dukd needs a teacher"):
        step(DUKD(), None)


def test_the_student_alone_sees_what_its_method_shows_it() -> None:
    """Half of the batch is shown at a quarter of its pixels: five eighths of a plain step."""
    frugal, plain = (step(m, batch=4).flops["student alone"] for m in (FrugalDUKD(), Scratch()))

    assert frugal == plain * 5 / 8


def test_networks_and_images_are_timed() -> None:
    assert [
        t.name for t in speed.network(SMALL, device=CPU, batch=1, patch=8, repetitions=1).timings
    ] == [
        "forward",
        "forward and backward",
    ]
    assert speed.upscale(SMALL, device=CPU, height=8, width=8, repetitions=1).per_run == 256 / 1e6


def test_the_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = Experiment(student=SMALL, data=Data(train=tmp_path))
    (tmp_path / "e.yaml").write_text(experiment.to_yaml(), encoding="utf-8")
    options = ["--batch", "1", "--patch", "8", "--repetitions", "1", "--device", "cpu"]

    assert run(["bench", "network", str(tmp_path / "e.yaml"), *options]) == 0
    assert "| forward and backward |" in capsys.readouterr().out


def test_a_step_is_that_of_the_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Teacher and method are the experiment's own; a recipe's absent file is stood in for."""
    teacher = tmp_path / "mine.safetensors"
    weights.write(teacher, EDSRConfig(scale=2, width=6, blocks=1).build())
    options = ["--batch", "1", "--patch", "12", "--repetitions", "1", "--device", "cpu"]
    for name, file in (
        ("own", teacher),
        ("stood-in", tmp_path / "smfanet_plus_df2k_x2.pth"),
        ("no", tmp_path / "no"),
    ):
        experiment = Experiment(
            student=SMALL, teacher=File(weights=file), method=Logits(), data=Data(train=tmp_path)
        )
        (tmp_path / f"{name}.yaml").write_text(experiment.to_yaml(), encoding="utf-8")

    assert run(["bench", "step", str(tmp_path / "own.yaml"), *options]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(
        "logits, edsr x2 (width 6, blocks 1) to edsr x2 (width 4, blocks 1), 1 patches of 12"
    )
    assert "%" in said.out.splitlines()[-2].split(" | ")[-1]
    assert not said.err

    assert run(["bench", "step", str(tmp_path / "stood-in.yaml"), *options]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("logits, smfanet x2 to edsr x2")
    assert (
        "smfanet_plus_df2k_x2.pth is not there: the teacher has random weights, which cost the same"
        in said.err
    )

    assert run(["bench", "step", str(tmp_path / "no.yaml"), *options]) == 65
    assert str(tmp_path / "no") in capsys.readouterr().err
