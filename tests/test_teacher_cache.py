"""Training whose batches come again asks the teacher once, and learns the same."""

import os
import signal
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dukd.cli import run
from dukd.cli.train import parse
from dukd.methods import (
    DUKD,
    LSFD,
    CrossKD,
    FitNet,
    FrugalDUKD,
    Late,
    Logits,
    Method,
    MiPKD,
    ReleasedDUKD,
    Scratch,
)
from dukd.networks import EDSRConfig
from dukd.networks.files import weights
from dukd.runs.checkpoint import CheckpointError
from dukd.runs.directory import Run
from dukd.training import loop
from dukd.training.assemble import Training, assemble
from dukd.training.experiment import (
    Data,
    Evaluation,
    Experiment,
    Optimization,
    TeacherCache,
)
from dukd.training.records import CacheError
from dukd.training.resume import recorded
from dukd.training.step import advance
from dukd.training.teachers import File

STUDENT = EDSRConfig(scale=2, width=6, blocks=1, value_range=1.0, skip="nearest")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    (root / "images").mkdir()
    for i in range(3):
        Image.fromarray(rng.integers(256, size=(40, 44, 3), dtype=np.uint8)).save(
            root / "images" / f"{i}.png"
        )
    torch.manual_seed(1)
    weights.write(root / "teacher.safetensors", replace(STUDENT, width=8).build())
    return root


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut leaves behind is for test_files.py."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def experiment(
    folder: Path,
    cache: Path,
    *,
    method: Method | None = None,
    steps: int = 9,
    period: int = 3,
    **cached: object,
) -> Experiment:
    return Experiment(
        student=STUDENT,
        teacher=File(weights=folder / "teacher.safetensors"),
        method=method or DUKD(),
        data=Data(
            train=folder / "images", packs=folder / "packs", patch=12, batch=4, period=period
        ),
        optimization=Optimization(steps=steps, learning_rate=1e-3, ema=0.9),
        teacher_cache=replace(TeacherCache(folder=cache, limit_gb=0.1), **cached),
        evaluation=Evaluation(every=4, log_every=1),
    )


def prepared(whole: Experiment) -> Training:
    return assemble(whole)


def trained(training: Training, steps: int) -> list[torch.Tensor]:
    for k in range(training.state.step, training.state.step + steps):
        advance(training, *training.share.patches.batch(k))
    return [p.detach().clone() for p in training.state.student.parameters()]


def computed(training: Training) -> int:
    """Micro-batches on which the teacher itself ran."""
    assert training.objective.cache is not None
    return training.objective.cache.computed


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


TAUGHT = [
    Logits(),
    DUKD(),
    ReleasedDUKD(),
    FrugalDUKD(),
    Late(start=4),
    LSFD(),
    DUKD(base=FitNet()),
]


@pytest.mark.parametrize("method", TAUGHT, ids=lambda m: m.name)
def test_weights_are_those_of_a_teacher_that_runs_every_time(
    folder: Path, tmp_path: Path, method: Method
) -> None:
    """Exact storage, no symmetries: not one bit differs, over three periods."""
    exact = experiment(folder, tmp_path, method=method, bits=32, symmetries=())
    live = replace(exact, teacher_cache=TeacherCache(enabled=False))

    assert equal(trained(prepared(exact), 9), trained(prepared(live), 9))


def test_the_teacher_runs_once_per_batch_of_the_period(folder: Path, tmp_path: Path) -> None:
    training = prepared(experiment(folder, tmp_path))
    trained(training, 9)

    assert computed(training) == 3
    again = prepared(experiment(folder, tmp_path))
    trained(again, 9)
    assert computed(again) == 0


def test_after_a_late_start_it_runs_once_per_batch_too(folder: Path, tmp_path: Path) -> None:
    """Steps 5 to 9 need batches 1, 2 and 0; a cache that is filled beforehand has them all."""
    late = experiment(folder, tmp_path, method=Late(base=Logits(), start=4))
    training = prepared(late)
    trained(training, 4)
    assert computed(training) == 0
    trained(training, 5)
    assert computed(training) == 3

    filled = prepared(
        replace(late, teacher_cache=replace(late.teacher_cache, folder=tmp_path / "other"))
    )
    assert filled.objective.fill() == 3
    assert filled.objective.fill() == 0
    trained(filled, 9)
    assert computed(filled) == 3  # all of them by `fill`


def test_a_run_does_not_depend_on_who_filled_the_cache(folder: Path, tmp_path: Path) -> None:
    first = trained(prepared(experiment(folder, tmp_path)), 7)

    assert equal(trained(prepared(experiment(folder, tmp_path)), 7), first)
    assert equal(trained(prepared(experiment(folder, tmp_path / "other")), 7), first)


def test_eight_bits_change_the_losses_by_less_than_a_gray_level(
    folder: Path, tmp_path: Path
) -> None:
    eight, exact = (prepared(experiment(folder, tmp_path, bits=bits)) for bits in (8, 32))
    losses = [advance(s, *s.share.patches.batch(0)) for s in (eight, exact)]

    for name in ("imitation", "zoom_in_imitation", "zoom_out_imitation"):
        assert float((losses[0][name] - losses[1][name]).abs()) < 0.5 / 224


@pytest.mark.parametrize("stop", [2, 5])
def test_an_interrupted_run_continues_to_the_same_bits(
    folder: Path, tmp_path: Path, stop: int
) -> None:
    """Also within the first period, where the cache knows more batches than the checkpoint."""
    whole = experiment(folder, tmp_path / "cache")
    loop.train(whole, tmp_path / "whole")

    def interrupt(record: dict[str, object]) -> None:
        if record["kind"] == "step" and record["step"] == stop:
            os.kill(os.getpid(), signal.SIGINT)

    cut = replace(whole, teacher_cache=replace(whole.teacher_cache, folder=tmp_path / "more"))
    with pytest.raises(loop.Interrupted):
        loop.train(cut, tmp_path / "cut", observe=interrupt)
    loop.train(cut, tmp_path / "cut", resume=True)

    states = [Run.open(tmp_path / name).states.load().state["student"] for name in ("whole", "cut")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_replayed_images_are_seen_differently_every_time(folder: Path, tmp_path: Path) -> None:
    """With a learning rate of almost 0, losses of a batch differ by their symmetry alone."""
    whole = experiment(folder, tmp_path, method=Logits())
    whole = replace(whole, optimization=replace(whole.optimization, learning_rate=1e-30))
    for symmetries, ways in ((whole.teacher_cache.symmetries, 3), ((), 1)):
        training = prepared(
            replace(whole, teacher_cache=replace(whole.teacher_cache, symmetries=symmetries))
        )
        losses = [
            float(advance(training, *training.share.patches.batch(k))["imitation"])
            for k in (0, 1, 2) * 3
        ]
        assert len(set(losses[::3])) == ways


def test_methods_that_compare_features_see_images_as_they_are(folder: Path, tmp_path: Path) -> None:
    """A feature that points up points right in the transposed image: only outputs flip with it."""
    for method, flips in (
        (LSFD(), False),
        (DUKD(base=FitNet()), False),
        (LSFD(local=0, imitation=1), True),
    ):
        training = prepared(experiment(folder, tmp_path, method=method))
        assert any("do not flip with an image" in note for note in training.notes) != flips


def test_without_a_period_nothing_is_kept(folder: Path, tmp_path: Path) -> None:
    training = prepared(experiment(folder, tmp_path / "cache", period=0))

    assert training.objective.cache is None
    assert training.objective.replay(training.share.first()) is None
    assert not (tmp_path / "cache").exists()


def test_a_method_without_a_teacher_has_symmetries_and_no_cache(
    folder: Path, tmp_path: Path
) -> None:
    training = prepared(experiment(folder, tmp_path / "cache", method=Scratch()))

    assert training.objective.cache is None
    assert training.objective.replay(training.share.first()) is not None
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("method", "runs"),
    [(CrossKD(), 3), (DUKD(base=MiPKD()), 3), (FrugalDUKD(late=4), 6)],
    ids=["crosskd", "mipkd", "late"],
)
def test_methods_that_run_parts_of_the_teacher_or_change_with_time_are_replayed(
    folder: Path, tmp_path: Path, method: Method, runs: int
) -> None:
    """T(lr) comes from the cache while a cascade runs live; what changes has two files."""
    exact = experiment(folder, tmp_path, method=method, bits=32, symmetries=())
    kept, live = (
        prepared(exact),
        prepared(replace(exact, teacher_cache=TeacherCache(enabled=False))),
    )

    assert equal(trained(kept, 12), trained(live, 12))
    assert computed(kept) == runs


def test_the_same_methods_train_where_the_cache_is_off(folder: Path, tmp_path: Path) -> None:
    loop.train(
        experiment(folder, tmp_path, method=FitNet(), enabled=False, steps=4), tmp_path / "run"
    )


def test_the_size_is_told_and_limited(folder: Path, tmp_path: Path) -> None:
    notes = prepared(experiment(folder, tmp_path)).notes
    assert any(
        "the teacher's outputs for 3 batches are kept in" in note and "MB) and replayed" in note
        for note in notes
    )

    tight = prepared(experiment(folder, tmp_path, period=10_000))
    assert any("a period of at most" in note for note in tight.notes)
    trained(tight, 2)
    assert computed(tight) == 2
    with pytest.raises(CacheError, match=r"raise --teacher-cache\.limit-gb"):
        prepared(experiment(folder, tmp_path, period=10_000)).objective.fill()


def test_the_cache_belongs_to_the_experiment_but_for_its_folder(
    folder: Path, tmp_path: Path
) -> None:
    whole = experiment(folder, tmp_path / "cache", steps=4)
    loop.train(whole, tmp_path / "run")

    assert recorded(Run.open(tmp_path / "run")) == whole
    loop.train(
        replace(whole, teacher_cache=replace(whole.teacher_cache, folder=tmp_path)),
        tmp_path / "run",
        resume=True,
    )
    with pytest.raises(CheckpointError, match=r"teacher_cache\.bits was 8, is 16"):
        loop.train(
            replace(whole, teacher_cache=replace(whole.teacher_cache, bits=16)),
            tmp_path / "run",
            resume=True,
        )


def test_a_cache_filled_beforehand_serves_training(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command computes what is missing, nothing twice; the run is as without it."""
    whole = experiment(folder, tmp_path / "cache")
    by_itself = trained(prepared(experiment(folder, tmp_path / "others")), 4)
    advance(one := prepared(whole), *one.share.patches.batch(0))
    (tmp_path / "e.yaml").write_text(whole.to_yaml(), encoding="utf-8")

    for count in (2, 0):
        assert run(["cache", str(tmp_path / "e.yaml"), "--device", "cpu"]) == 0
        assert f"{count} of 3 batches computed now" in capsys.readouterr().out
    training = prepared(whole)
    assert equal(trained(training, 4), by_itself)
    assert computed(training) == 0


def test_without_a_period_there_is_nothing_to_fill(folder: Path, tmp_path: Path) -> None:
    training = prepared(experiment(folder, tmp_path, period=0))
    with pytest.raises(ValueError, match=r"keeps no teacher outputs: .* data.period above 0"):
        training.objective.fill()


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="limit_gb is 0, but must be above 0"):
        TeacherCache(limit_gb=0)


@pytest.mark.parametrize(
    ("words", "enabled"),
    [
        (["--teacher-cache", "off"], False),
        (["--teacher-cache=off"], False),
        (["--teacher-cache", "on"], True),
        ([], True),
    ],
)
def test_the_cache_is_switched_by_one_word(words: list[str], enabled: bool) -> None:
    """Also beside its other options, and not taken for the value of another option."""
    command = parse(["tiny-x2-dukd", *words, "--teacher-cache.bits", "16", "--out", "off"])

    assert command.experiment.teacher_cache == TeacherCache(enabled=enabled, bits=16)
    assert command.out == Path("off")


def test_another_word_for_the_cache_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "tiny-x2-dukd", "--teacher-cache", "never"]) == 2
    assert "--teacher-cache" in capsys.readouterr().err


def readers() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("teacher-cache")]


@pytest.mark.parametrize("breaks", [False, True])
def test_a_run_leaves_no_thread_and_no_open_file(
    folder: Path, tmp_path: Path, breaks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one that broke off: a program that trains many students would run out of both.

    What was assembled is held, as a traceback does.
    """
    wanted, before = experiment(folder, tmp_path / "cache"), readers()
    held: list[Training] = []

    def assembled(*given: Any) -> Training:
        held.append(assemble(*given))
        return held[-1]

    monkeypatch.setattr(loop, "assemble", assembled)

    def observe(record: Mapping[str, object]) -> None:
        if breaks and record["kind"] == "step" and record["step"] == 5:
            raise RuntimeError("the observer breaks")

    with pytest.raises(RuntimeError, match="breaks") if breaks else nullcontext():
        loop.train(wanted, tmp_path / "run", observe=observe)

    assert readers() == before
    files = [p.resolve() for p in Path("/proc/self/fd").iterdir() if p.exists()]
    assert not [p for p in files if p.is_relative_to((tmp_path / "cache").resolve())]
