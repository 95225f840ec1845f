"""A resumed run ends as one that never stopped, or says why it cannot; nothing is lost."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from dukd.cli import run as command
from dukd.data.pairs import PairsError
from dukd.images import ImageError
from dukd.methods import FitNet, Logits
from dukd.networks.files import weights
from dukd.runs.checkpoint import CheckpointError
from dukd.runs.directory import Run
from dukd.training import keeper, loop
from dukd.training.experiment import Experiment
from dukd.training.resume import recorded
from dukd.training.validation import Validation
from tiny_runs import digest, experiment, hexes, prepare


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that never stopped."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    loop.train(experiment(folder), run)
    return run


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def events(run: Path) -> list[str]:
    return [str(r["detail"]) for r in Run.open(run).records() if r["kind"] == "event"]


def interrupt(at: int):
    """An observer that interrupts training after a step."""

    def observe(record: dict[str, object]) -> None:
        if record["kind"] == "step" and record["step"] == at:
            os.kill(os.getpid(), signal.SIGINT)

    return observe


# What a reader uses


@pytest.mark.parametrize("name", ["student.safetensors", "best.safetensors", "run.json"])
@pytest.mark.parametrize("how", ["missing", "altered", "of an earlier step"])
def test_what_follows_from_the_checkpoint_is_made_again(
    folder: Path, whole: Path, run: Path, name: str, how: str
) -> None:
    """A kill between checkpoint and student once left the weights of an earlier save for good."""
    path = run / name
    match how:
        case "missing":
            path.unlink()
        case "altered":
            content = bytearray(path.read_bytes())
            content[-40] ^= 1
            path.write_bytes(content)
        case _:
            network = weights.read(run / "student.safetensors")
            torch.nn.init.zeros_(network.conv_last.weight)
            weights.write(path.with_suffix(".safetensors"), network, metadata={"step": "4"})
            path.with_suffix(".safetensors").replace(path)

    loop.train(experiment(folder), run, resume=True)

    assert path.read_bytes() == (whole / name).read_bytes()
    assert [told for told in events(run) if name in told and "written" in told]
    assert (digest(run), hexes(run)) == (digest(whole), hexes(whole))


def test_a_sound_run_is_left_alone_on_resume(folder: Path, run: Path) -> None:
    before = {
        p: p.stat().st_mtime_ns for p in run.rglob("*") if p.suffix != ".jsonl" and p.is_file()
    }
    loop.train(experiment(folder), run, resume=True)

    after = {p: p.stat().st_mtime_ns for p in before}
    before.pop(run / "lock")
    after.pop(run / "lock")
    assert after == before
    assert not [told for told in events(run) if "written" in told]


def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew_over_its_student(
    folder: Path, run: Path
) -> None:
    student = (run / "student.safetensors").read_bytes()
    for path in (run / "state").iterdir():
        path.unlink()

    with pytest.raises(CheckpointError, match=r"came from are gone.*--optimization\.warm"):
        loop.train(experiment(folder), run, resume=True)
    assert (run / "student.safetensors").read_bytes() == student


def test_a_best_student_of_a_step_that_is_lost_goes_away(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(loop.Interrupted):
        loop.train(experiment(folder), tmp_path / "run", observe=interrupt(2))
    shutil.copy(tmp_path / "run" / "student.safetensors", tmp_path / "run" / "best.safetensors")
    with pytest.raises(loop.Interrupted):
        loop.train(experiment(folder), tmp_path / "run", resume=True, observe=interrupt(3))

    assert not (tmp_path / "run" / "best.safetensors").exists()
    with pytest.raises(CheckpointError, match="nothing was validated there yet"):
        Run.open(tmp_path / "run").weights(best=True)


def test_the_weights_of_a_run_by_name(whole: Path, tmp_path: Path) -> None:
    assert Run(whole).weights() == whole / "student.safetensors"
    assert Run(whole).weights(best=True) == whole / "best.safetensors"
    with pytest.raises(CheckpointError, match=r"has no student\.safetensors: nothing was saved"):
        Run(tmp_path).weights()


def test_a_kill_between_save_and_validation_is_made_good(
    folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The save comes first; on resume the validation of that very step is made up for."""

    class KilledError(BaseException):
        pass

    def kill(self: Validation, step: int, *networks: object) -> object:
        if step == 8:
            raise KilledError
        return record(self, step, *networks)

    record = Validation.record
    monkeypatch.setattr(Validation, "record", kill)
    with pytest.raises(KilledError):
        loop.train(experiment(folder), tmp_path / "run")
    monkeypatch.setattr(Validation, "record", record)
    assert Run(tmp_path / "run").steps() == [4, 8]

    loop.train(experiment(folder), tmp_path / "run", resume=True)

    def validations(run: Path) -> list[object]:
        return [(r["step"], r["sets"]) for r in Run(run).records() if r["kind"] == "validation"]

    assert validations(tmp_path / "run") == validations(whole)
    assert digest(tmp_path / "run") == digest(whole)
    for name in ("student", "best"):
        file = f"{name}.safetensors"
        assert (tmp_path / "run" / file).read_bytes() == (whole / file).read_bytes()


def test_the_log_of_a_resumed_run_has_the_same_means(
    folder: Path, whole: Path, tmp_path: Path
) -> None:
    """Stopped between two lines of the log: the first one after it is the mean of all its steps."""
    with pytest.raises(loop.Interrupted):
        loop.train(experiment(folder), tmp_path / "run", observe=interrupt(5))
    loop.train(experiment(folder), tmp_path / "run", resume=True)

    def losses(run: Path) -> list[object]:
        return [(r["step"], r["losses"]) for r in Run(run).records() if r["kind"] == "train"]

    assert losses(tmp_path / "run") == losses(whole)


# Whose checkpoint it is


def test_every_altered_bit_of_the_experiment_is_noticed(folder: Path, run: Path) -> None:
    whole = (run / "experiment.yaml").read_bytes()
    for at in range(0, len(whole), 7):
        content = bytearray(whole)
        content[at] ^= 1 << at % 8
        (run / "experiment.yaml").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"altered|older version|later version"):
            Run.open(run)
    (run / "experiment.yaml").write_bytes(whole)
    assert recorded(Run.open(run)) == experiment(folder)


def test_a_run_of_an_older_version_is_refused_in_a_sentence(folder: Path, run: Path) -> None:
    (run / "experiment.yaml").write_text(experiment(folder).to_yaml())
    with pytest.raises(CheckpointError, match="is a run of an older version of dukd"):
        loop.train(experiment(folder), run, resume=True)


def test_a_checkpoint_of_another_run_is_refused(folder: Path, run: Path, tmp_path: Path) -> None:
    loop.train(experiment(folder, optimization__seed=11), tmp_path / "other")
    shutil.copy(Run(tmp_path / "other").states.file(12), Run(run).states.file(12))
    with pytest.raises(CheckpointError, match=r"00000012.pt belongs to another experiment than"):
        loop.train(experiment(folder), run, resume=True)


def test_an_exchanged_experiment_is_refused(folder: Path, run: Path, tmp_path: Path) -> None:
    other = experiment(folder, evaluation__every=6)  # which may differ on the command line
    Run.create(tmp_path / "other", experiment_yaml=other.to_yaml(), facts={})
    shutil.copy(tmp_path / "other" / "experiment.yaml", run)
    with pytest.raises(CheckpointError, match="belongs to another experiment"):
        loop.train(other, run, resume=True)


# Identity is the digest, not the path


def moved(folder: Path, root: Path) -> tuple[Path, Experiment]:
    """A run in ``root`` with relative paths, stopped after step 2, and its experiment."""
    shutil.copytree(folder / "images", root / "photos")
    shutil.copy(folder / "teacher.safetensors", root)
    named = experiment(
        Path(),
        teacher__weights=Path("teacher.safetensors"),
        data__train=Path("photos"),
        evaluation__sets=(Path("photos"),),
    )
    with pytest.raises(loop.Interrupted):
        loop.train(named, Path("runs/mine"), observe=interrupt(2))
    return root / "runs" / "mine", named


def resumed(*arguments: str) -> int:
    return command(["train", *arguments, "--resume", "--device", "cpu"])


@pytest.mark.parametrize("where", ["absolute", "moved", "elsewhere", "project moved"])
def test_a_run_resumes_wherever_its_files_are_now(
    folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    run, _ = moved(folder, tmp_path / "project")
    options: list[str] = []
    match where:
        case "absolute":
            options = ["--data.train", str(tmp_path / "project" / "photos")]
        case "moved":
            Path("photos").rename("pictures")
            Path("teacher.safetensors").rename("t.safetensors")
            options = ["--data.train", "pictures", "--evaluation.sets", "pictures"]
            options += ["--teacher.weights", "t.safetensors"]
        case "elsewhere":
            monkeypatch.chdir(tmp_path / "elsewhere")
        case _:
            (tmp_path / "project").rename(tmp_path / "project 2")
            monkeypatch.chdir(tmp_path / "elsewhere")
            run = tmp_path / "project 2" / "runs" / "mine"

    assert resumed(str(run), *options) == 0
    assert digest(run) == digest(whole)


def test_other_images_under_the_same_name_are_refused(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    run, _ = moved(folder, tmp_path)
    Image.new("RGB", (80, 72), (9, 9, 9)).save("photos/0.png")

    assert resumed(str(run)) == 65
    assert "the training images changed since step 2" in capsys.readouterr().err


def test_nothing_saved_yet_is_no_way_around_the_digests(folder: Path, tmp_path: Path) -> None:
    """What ``run.json`` says of images and teacher is held against them before the first save."""
    shutil.copytree(folder / "images", tmp_path / "images")
    first = experiment(folder, data__train=tmp_path / "images")

    def stop(record: object) -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        loop.train(first, tmp_path / "run", observe=stop)
    assert Run(tmp_path / "run").steps() == []
    (tmp_path / "images" / "4.png").unlink()

    with pytest.raises(CheckpointError, match="the training images changed since step 0"):
        loop.train(first, tmp_path / "run", resume=True)


def test_a_warm_start_is_not_needed_again(folder: Path, whole: Path, tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    shutil.copy(whole / "student.safetensors", start)
    warm = experiment(folder, optimization__warm_start=start)
    loop.train(warm, tmp_path / "calm")
    with pytest.raises(loop.Interrupted):
        loop.train(warm, tmp_path / "run", observe=interrupt(5))
    start.unlink()
    loop.train(warm, tmp_path / "run", resume=True)

    assert digest(tmp_path / "run") == digest(tmp_path / "calm") != digest(whole)


# Beginning where another run ended


def test_a_run_continues_another_one_with_more_steps(folder: Path, tmp_path: Path) -> None:
    """At a constant rate, six steps and six more are twelve, to the bit."""
    constant = experiment(folder, optimization__schedule="constant")
    loop.train(constant, tmp_path / "twelve")
    six = replace(constant, optimization=replace(constant.optimization, steps=6))
    loop.train(six, tmp_path / "six")
    loop.train(constant, tmp_path / "more", continue_from=tmp_path / "six")

    assert digest(tmp_path / "more") == digest(tmp_path / "twelve")
    facts = Run.open(tmp_path / "more").read_facts()["continued_from"]
    assert facts["step"] == 6
    assert facts["changes"] == ["optimization.steps was 6, is 12"]
    assert any("optimization.steps was 6, is 12" in told for told in events(tmp_path / "more"))
    assert Run.open(tmp_path / "six").steps()[-1] == 6


def test_the_state_of_the_other_run_is_saved_before_a_kill_can_lose_it(
    folder: Path, tmp_path: Path
) -> None:
    constant = experiment(folder, optimization__schedule="constant")
    six = replace(constant, optimization=replace(constant.optimization, steps=6))
    loop.train(six, tmp_path / "six")

    def stop(record: object) -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        loop.train(constant, tmp_path / "more", continue_from=tmp_path / "six", observe=stop)
    loop.train(constant, tmp_path / "more", resume=True)
    loop.train(constant, tmp_path / "twelve")

    assert digest(tmp_path / "more") == digest(tmp_path / "twelve")


def test_what_cannot_be_continued_says_why(folder: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has made 12 steps already: --optimization"):
        loop.train(experiment(folder), tmp_path / "run", continue_from=whole)
    with pytest.raises(CheckpointError, match=r"does not fit .* with --optimization.warm-start"):
        loop.train(
            experiment(folder, method=FitNet(), optimization__steps=20),
            tmp_path / "run",
            continue_from=whole,
        )
    assert not (tmp_path / "run" / "experiment.yaml").exists()
    with pytest.raises(CheckpointError, match=r"steps was 12, is 20.* --from .*whole --out NEW"):
        loop.train(experiment(folder, optimization__steps=20), whole, resume=True)


def test_another_run_is_continued_by_a_word(
    folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--from", str(whole), "--optimization.steps", "14", "--out", "longer"]

    assert command(["train", str(whole), *options, "--device", "cpu"]) == 0
    assert Run.open(Path("longer")).states.load().step == 14


# Nothing that can fail comes before the save


def torn(path: Path) -> None:
    Image.effect_noise((96, 64), 60).convert("RGB").save(path, "JPEG", quality=95)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_bad_validation_images_are_named_before_the_first_step(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "images", tmp_path / "valid")
    torn(tmp_path / "valid" / "torn.jpg")
    Image.new("RGB", (60, 14)).save(tmp_path / "valid" / "small.png")
    whole = experiment(folder, evaluation__sets=(tmp_path / "valid",), evaluation__images=0)

    with pytest.raises(PairsError) as caught:
        loop.train(whole, tmp_path / "run")

    text = str(caught.value)
    assert "small.png has 60 x 14 pixels, but SSIM-Y needs 15 a side at x2" in text
    assert "torn.jpg" in text
    assert not (tmp_path / "run").exists()


def test_images_that_are_away_for_a_while_end_no_run(
    folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Validation.record

    def away(self: Validation, step: int, *networks: object) -> object:
        if step == 4:
            raise ImageError("cannot read valid/0.png: No such file or directory")
        return record(self, step, *networks)

    monkeypatch.setattr(Validation, "record", away)
    loop.train(experiment(folder), tmp_path / "run")

    assert digest(tmp_path / "run") == digest(whole)
    assert "could not validate, training goes on: cannot read" in "".join(events(tmp_path / "run"))


@pytest.mark.parametrize("error", [ImageError("gone"), KeyError("odd")], ids=["away", "odd"])
def test_a_validation_that_fails_costs_no_training(
    folder: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def fail(self: Validation, step: int, *networks: object) -> object:
        raise error

    record = Validation.record
    monkeypatch.setattr(Validation, "record", fail)
    with pytest.raises(type(error)):
        loop.train(experiment(folder, evaluation__every=12), tmp_path / "run")
    monkeypatch.setattr(Validation, "record", record)
    assert Run(tmp_path / "run").steps() == [12]
    loop.train(experiment(folder), tmp_path / "run", resume=True)

    best = "best.safetensors"
    assert (tmp_path / "run" / best).read_bytes() == (whole / best).read_bytes()


def test_samples_that_cannot_be_written_are_told_and_made_on_resume(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    sampled = experiment(folder, evaluation__samples=1)
    write = keeper.write_samples
    monkeypatch.setattr(keeper, "write_samples", full)
    with pytest.raises(CheckpointError, match="is trained and saved, but its samples"):
        loop.train(sampled, tmp_path / "run")
    monkeypatch.setattr(keeper, "write_samples", write)
    loop.train(sampled, tmp_path / "run", resume=True)

    assert (tmp_path / "run" / "samples" / "index.json").is_file()


@pytest.mark.parametrize("step", [7, 9, 12])
def test_whatever_ends_training_what_was_trained_is_saved(
    folder: Path, whole: Path, tmp_path: Path, step: int
) -> None:
    """An observer of the caller's fails between two saves, once before the line of the step, and
    once before the last one, which no further step of a resumed run would write."""

    def fail(record: dict[str, object]) -> None:
        if record["kind"] == "step" and record["step"] == step:
            raise RuntimeError("the caller's own")

    with pytest.raises(RuntimeError, match="the caller's own"):
        loop.train(experiment(folder), tmp_path / "run", observe=fail)
    assert Run(tmp_path / "run").steps()[-1] == step
    loop.train(experiment(folder), tmp_path / "run", resume=True)

    assert (digest(tmp_path / "run"), hexes(tmp_path / "run")) == (digest(whole), hexes(whole))


def test_a_step_that_was_half_made_is_not_saved(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("after the optimizer")

    monkeypatch.setattr(Logits, "after_step", fail)
    with pytest.raises(RuntimeError, match="after the optimizer"):
        loop.train(experiment(folder, method=Logits()), tmp_path / "run")

    assert Run(tmp_path / "run").steps() == []


def test_saves_by_time_lose_nothing_and_change_nothing(
    folder: Path, whole: Path, tmp_path: Path
) -> None:
    saved: list[int] = []

    def look(record: dict[str, object]) -> None:
        saved.extend(Run(tmp_path / "run").steps())

    quick = experiment(folder, evaluation__save_minutes=1e-9)
    loop.train(quick, tmp_path / "run", observe=look)

    assert set(saved) >= set(range(1, 12))
    assert (digest(tmp_path / "run"), hexes(tmp_path / "run")) == (digest(whole), hexes(whole))


def test_a_log_that_cannot_be_written_for_a_while_loses_no_line(
    folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk full to the last byte, from step 1 to step 8; the lines come when there is room."""
    write, step = Run.log, [0]

    def full(self: Run, record: dict[str, object]) -> None:
        if 1 <= step[0] <= 8:
            with self.log_file.open("ab") as file:
                file.write(b'{"kind": "tr')  # what still fitted
            raise OSError(28, "No space left on device")
        write(self, record)

    told: list[dict[str, object]] = []

    def observe(record: dict[str, object]) -> None:
        told.append(record)
        step[0] = int(str(record["step"]))

    monkeypatch.setattr(Run, "log", full)
    loop.train(experiment(folder), tmp_path / "run", observe=observe)

    assert hexes(tmp_path / "run") == hexes(whole)
    assert [r["detail"] for r in told if r.get("what") == "not logged"] == [
        "cannot write the log, its lines wait and training goes on: No space left on device"
    ]


def test_a_log_that_can_never_be_written_ends_no_run(
    folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Run, record: object) -> None:
        raise PermissionError(13, "Permission denied")

    told: list[dict[str, object]] = []
    monkeypatch.setattr(Run, "log", full)
    loop.train(experiment(folder), tmp_path / "run", observe=told.append)

    assert digest(tmp_path / "run") == digest(whole)
    assert told[-1]["detail"] == "9 lines of the log are lost"


def test_a_tensorboard_that_fails_ends_no_run(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    written = experiment(folder, evaluation__tensorboard=True)
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    from torch.utils.tensorboard.writer import SummaryWriter  # noqa: PLC0415

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            SummaryWriter, "add_scalar", lambda *_: (_ for _ in ()).throw(OSError("full"))
        )
        loop.train(written, tmp_path / "run")
    assert Run(tmp_path / "run").steps()[-1] == 12


# Two starts


def test_a_second_start_meets_the_lock_or_the_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second looks again once it has the lock: what the first has begun stays the first's."""
    first = experiment(folder)
    second = experiment(folder, optimization__seed=11)
    check, outcome = Run.check_unused, []

    def meanwhile(self: Run) -> None:
        check(self)
        if not outcome:
            outcome.append("raced")
            loop.train(first, tmp_path / "run")

    monkeypatch.setattr(Run, "check_unused", meanwhile)
    with pytest.raises(CheckpointError, match="used already"):
        loop.train(second, tmp_path / "run")

    assert outcome == ["raced"]
    assert recorded(Run.open(tmp_path / "run")) == first
    loop.train(first, tmp_path / "run", resume=True)


def test_altered_facts_are_noticed(whole: Path, run: Path) -> None:
    content = (run / "run.json").read_text()
    for before, after in (('"seed": 10', '"seed": 11'), ('"threads"', '"thread"')):
        (run / "run.json").write_text(content.replace(before, after))
        with pytest.raises(CheckpointError, match=r"run\.json was altered"):
            Run.open(run).read_facts()
    assert Run.open(whole).read_facts()["seed"] == json.loads(content)["seed"]
