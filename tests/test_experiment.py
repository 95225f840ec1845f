"""Numbers that cannot work are refused where they are written, with their name, value and range."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dukd.core.config import ConfigError
from dukd.methods import DUKD, Logits, Scratch, ZoomOut
from dukd.networks import CompactConfig, EDSRConfig, RCANConfig, SwinIRConfig
from dukd.training.assemble import assemble
from dukd.training.experiment import Data, Evaluation, Experiment, Optimization, check
from dukd.training.teachers import File

DATA = Data(train=Path("images"))
TEACHER = File(weights=Path("teacher.pth"))
STUDENT = EDSRConfig(scale=2, width=4, blocks=1)

WRONG: list[tuple[object, str, Any, str]] = [
    (TEACHER, "value_range", 0.0, "value_range is 0.0, but must be above 0"),
    (TEACHER, "value_range", math.nan, "value_range is nan, but must be above 0"),
    (TEACHER, "mean", (0.4, 0.4, 114.0), "mean is 114.0, but must be at least 0 and at most 1"),
    (TEACHER, "residual_scale", math.inf, "residual_scale is inf, but must be finite"),
    (DATA, "patch", 0, "patch is 0, but must be at least 1"),
    (DATA, "batch", -16, "batch is -16, but must be at least 1"),
    (DATA, "period", -1, "period is -1, but must be at least 0"),
    (DATA, "workers", -1, "workers is -1, but must be at least 0"),
    (Optimization(), "steps", 0, "steps is 0, but must be at least 1"),
    (Optimization(), "learning_rate", math.nan, "learning_rate is nan, but must be above 0"),
    (Optimization(), "learning_rate", math.inf, "learning_rate is inf, but must be above 0"),
    (Optimization(), "learning_rate", -1e-4, "learning_rate is -0.0001, but must be above 0"),
    (
        Optimization(),
        "schedule",
        "linear",
        "schedule is 'linear', but must be one of step, cosine, one-cycle, ",
    ),
    (
        Optimization(),
        "milestones",
        (0.4, 200_000.0),
        "fraction of the steps, is 200000.0, but must be above 0 and at ",
    ),
    (Optimization(), "milestones", (math.nan,), "fraction of the steps, is nan"),
    (Optimization(), "decay", 0.0, "decay is 0.0, but must be above 0 and at most 1"),
    (Optimization(), "warm_up", -1, "warm_up is -1, but must be at least 0"),
    (Optimization(), "warm_up", 250_000, "warm_up is 250000, but there are 250000 steps"),
    (Optimization(schedule="one-cycle"), "warm_up", 5, "the one-cycle schedule rises by itself"),
    (Optimization(), "betas", (0.9, 1.0), "a beta is 1.0, but must be at least 0 and below 1"),
    (Optimization(), "weight_decay", -0.1, "weight_decay is -0.1, but must be at least 0"),
    (Optimization(), "ema", 1.0, "ema is 1.0, but must be at least 0 and below 1"),
    (Optimization(), "clip", -1.0, "clip is -1.0, but must be at least 0"),
    (Optimization(), "accumulate", 0, "accumulate is 0, but must be at least 1"),
    (
        Optimization(),
        "precision",
        "float16",
        "precision is 'float16', but must be one of float32, bfloat16",
    ),
    (Optimization(), "seed", -1, "seed is -1, but must be at least 0"),
    (Optimization(), "seed", 2**63, "seed is 9223372036854775808, but must be at least 0 and at"),
    (Evaluation(), "every", 0, "every is 0, but must be at least 1"),
    (Evaluation(), "log_every", 0, "log_every is 0, but must be at least 1"),
    (Evaluation(), "images", -1, "images is -1, but must be at least 0"),
    (Evaluation(), "teacher_images", -1, "teacher_images is -1, but must be at least 0"),
    (Evaluation(), "samples", -1, "samples is -1, but must be at least 0"),
]


@pytest.mark.parametrize(("part", "name", "value", "message"), WRONG)
def test_numbers_that_cannot_work(part: Any, name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(part, **{name: value})


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        (TEACHER, "residual_scale", 0.1),
        (TEACHER, "mean", (0.0, 1.0, 0.5)),
        (DATA, "workers", 0),
        (Optimization(), "milestones", (1.0,)),
        (Optimization(), "milestones", ()),
        (Optimization(), "decay", 1.0),
        (Optimization(), "ema", 0.0),
        (Optimization(), "betas", (0.0, 0.0)),
        (Evaluation(), "teacher_images", 0),
    ],
)
def test_numbers_at_the_edge_of_their_range(part: Any, name: str, value: object) -> None:
    assert getattr(replace(part, **{name: value}), name) == value


def test_a_number_is_checked_against_every_bound() -> None:
    check("x", 1.0, least=1, most=1)
    check("x", 0.5, above=0, below=1)
    for bounds in ({"least": 2}, {"above": 1}, {"most": 0}, {"below": 1}):
        with pytest.raises(ValueError, match=r"x is 1\.0, but must be"):
            check("x", 1.0, **bounds)


def test_a_method_with_a_teacher_needs_one() -> None:
    with pytest.raises(
        ValueError, match=r"method logits needs a teacher: name its file \(--teacher FILE\)"
    ):
        Experiment(student=STUDENT, data=DATA, method=Logits())
    alone = DUKD(base=Scratch(), upcyclings=(ZoomOut(imitation=0),))
    assert Experiment(student=STUDENT, data=DATA, method=alone).teacher is None


def test_a_batch_divides_into_its_parts() -> None:
    with pytest.raises(ValueError, match="a batch of 16 does not divide into 3"):
        Experiment(student=STUDENT, data=DATA, optimization=Optimization(accumulate=3))


def test_a_mistake_in_a_file_is_found_where_it_stands(tmp_path: Path) -> None:
    text = Experiment(student=STUDENT, data=DATA).to_yaml()
    path = tmp_path / "experiment.yaml"
    path.write_text(text.replace("log_every: 100", "log_every: 0"))

    with pytest.raises(
        ConfigError, match=r"experiment\.yaml:\d+:3: experiment\.evaluation: log_every is 0"
    ):
        Experiment.from_file(path)
    path.write_text(text)
    assert Experiment.from_file(path) == Experiment(student=STUDENT, data=DATA)


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_a_weight_that_is_not_finite_is_named(weight: float) -> None:
    """Training would end at its first step, with the blame on the loss."""
    inner = DUKD(base=Logits(), upcyclings=(ZoomOut(imitation=weight),))
    path = r"method\.upcyclings\[0\]\.imitation"
    with pytest.raises(ValueError, match=f"{path} is (nan|inf), but must be finite"):
        Experiment(student=STUDENT, data=DATA, teacher=TEACHER, method=inner)


@pytest.mark.parametrize(
    ("experiment", "sentence"),
    [
        (
            Experiment(
                student=STUDENT,
                data=DATA,
                teacher=TEACHER,
                method=Logits(reconstruction=0, imitation=0),
            ),
            "logits compares nothing, since all its weights are 0",
        ),
        (
            Experiment(student=STUDENT, data=replace(DATA, batch=10**12)),
            "a batch of 1000000000000 patches of 48 takes .* more memory than there is",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_read(
    experiment: Experiment, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        assemble(experiment)


def test_networks_without_end_are_refused() -> None:
    """Their modules would be made one by one, for hours."""
    for config in (
        lambda n: EDSRConfig(scale=2, width=4, blocks=n),
        lambda n: CompactConfig(scale=2, width=4, blocks=n),
        lambda n: RCANConfig(scale=2, groups=n),
        lambda n: SwinIRConfig(scale=2, depths=(2, n), heads=(6, 6)),
    ):
        with pytest.raises(ValueError, match=r"is at most 10000, but got 4611686018427387904"):
            config(2**62)
