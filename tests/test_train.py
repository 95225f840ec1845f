"""Training does what the experiment says, survives being killed, and stops where it should."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from dukd.methods import DCKD, DUKD, FAKD, FitNet, Logits, Method, ReleasedDUKD, Scratch
from dukd.networks import EDSRConfig, SwinIRConfig
from dukd.networks.files import weights
from dukd.runs import checkpoint
from dukd.runs.checkpoint import CheckpointError
from dukd.runs.directory import Run
from dukd.runs.states import States
from dukd.training import loop
from dukd.training.assemble import Training, assemble
from dukd.training.distiller import Distiller
from dukd.training.experiment import Optimization
from dukd.training.memory import TooLittleMemoryError
from dukd.training.resume import recorded
from dukd.training.state import State
from dukd.training.step import NonFiniteError, advance
from dukd.training.validation import Validation
from tiny_runs import STUDENT, digest, experiment, hexes, prepare


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data"))


def test_a_run_leaves_what_the_next_command_needs(folder, tmp_path):
    student = loop.train(experiment(folder, evaluation__samples=1), tmp_path / "run")
    run = Run.open(tmp_path / "run")
    kinds = [r["kind"] for r in run.records()]

    assert student == tmp_path / "run" / "student.safetensors"
    assert weights.read(student).config == STUDENT
    assert weights.inspect(student).metadata["method"] == "dukd"
    assert kinds.count("train") == 4
    assert kinds.count("validation") == 3
    assert recorded(run) == experiment(folder, evaluation__samples=1)
    assert (tmp_path / "run" / "best.safetensors").is_file()
    assert run.steps()[-1] == 12
    index = json.loads((tmp_path / "run" / "samples" / "index.json").read_text())
    assert [i["label"] for i in index[0]["images"]] == [
        "bicubic",
        "dukd",
        "teacher",
        "ground truth",
    ]
    assert json.loads(run.facts.read_text())["data_images"] == 5


def test_every_loss_is_in_the_log(folder, tmp_path):
    """The released code does not log its main loss (methods.md D13)."""
    loop.train(experiment(folder), tmp_path / "run")
    first = next(r for r in Run.open(tmp_path / "run").records() if r["kind"] == "train")

    assert list(first["losses"]) == [
        "reconstruction",
        "imitation",
        "zoom_in_imitation",
        "zoom_out_imitation",
        "zoom_out_reconstruction",
    ]
    assert first["total"] == pytest.approx(sum(first["losses"].values()))


def test_the_same_experiment_gives_the_same_bits(folder, tmp_path):
    for name, workers in (("a", 0), ("b", 3)):
        torch.manual_seed(len(name) + workers)
        loop.train(experiment(folder, data__workers=workers), tmp_path / name)

    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert hexes(tmp_path / "a") == hexes(tmp_path / "b")


@pytest.mark.parametrize(
    "method",
    [Scratch(), DUKD(consistency=0.5), DUKD(base=FAKD()), DCKD(), FitNet(), ReleasedDUKD()],
    ids=lambda m: m.name,
)
def test_an_interrupted_run_continues_to_the_same_bits(folder, tmp_path, method):
    """Stopped after step 7, between two saves; everything that was trained comes out equal."""
    whole = experiment(folder, method=method)
    loop.train(whole, tmp_path / "whole")

    def stop_at_seven(record):
        if record["kind"] == "step" and record["step"] == 7:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(loop.Interrupted, match="after step 7"):
        loop.train(whole, tmp_path / "cut", observe=stop_at_seven)
    loop.train(whole, tmp_path / "cut", resume=True)

    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")


KILLED = """
import sys
from pathlib import Path
from dukd.training import loop
from dukd.training.experiment import Experiment
run = Path(sys.argv[2])
loop.train(Experiment.from_file(Path(sys.argv[1])), run, resume=(run / "experiment.yaml").exists())
"""


@pytest.mark.slow
def test_a_killed_process_continues_to_the_same_bits(folder, tmp_path):
    """SIGKILL at random moments: losses and weights are those of a calm run."""
    whole = experiment(folder, optimization__steps=60, evaluation__every=5, evaluation__log_every=5)
    loop.train(whole, tmp_path / "calm")
    (tmp_path / "e.yaml").write_text(whole.to_yaml())
    source = str(Path(loop.__file__).parents[2])
    environment = os.environ | {
        "PYTHONPATH": source,
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    rng = np.random.default_rng(3)
    kills = 0
    for _ in range(12):
        command = [sys.executable, "-c", KILLED, str(tmp_path / "e.yaml"), str(tmp_path / "killed")]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        seen = Run(tmp_path / "killed")
        target = min(60, 5 * int(rng.integers(1, 5)) + (seen.steps() or [0])[-1])
        while process.poll() is None and (seen.steps() or [0])[-1] < target:
            time.sleep(0.002)
        time.sleep(float(rng.random()) * 0.03)
        if process.poll() is None and target < 60 and kills < 3:
            process.kill()
            kills += 1
        _, error = process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, error.decode()

    assert kills == 3
    assert digest(tmp_path / "killed") == digest(tmp_path / "calm")
    assert hexes(tmp_path / "killed") == hexes(tmp_path / "calm")


def test_a_run_killed_before_its_first_save_starts_again(folder, tmp_path):
    loop.train(experiment(folder), tmp_path / "whole")

    def stop(record):
        raise SystemExit

    with pytest.raises(SystemExit):
        loop.train(experiment(folder), tmp_path / "young", observe=stop)
    assert Run(tmp_path / "young").steps() == []
    loop.train(experiment(folder), tmp_path / "young", resume=True)

    assert digest(tmp_path / "young") == digest(tmp_path / "whole")


def test_a_finished_run_can_be_resumed_and_stays_as_it_is(folder, tmp_path):
    loop.train(experiment(folder), tmp_path / "run")
    before = digest(tmp_path / "run")
    loop.train(experiment(folder), tmp_path / "run", resume=True)

    assert digest(tmp_path / "run") == before


def test_a_used_directory_is_refused(folder, tmp_path):
    loop.train(experiment(folder), tmp_path / "run")

    with pytest.raises(
        CheckpointError,
        match=r"is used already .* --resume continues it, or choose another name",
    ):
        loop.train(experiment(folder), tmp_path / "run")


def test_another_experiment_cannot_go_on_with_a_run(folder, tmp_path):
    loop.train(experiment(folder), tmp_path / "run")

    with pytest.raises(
        CheckpointError,
        match=r"method.consistency was 0.3, is 0.5; optimization.learning_rate was 0.001",
    ):
        loop.train(
            experiment(folder, method__consistency=0.5, optimization__learning_rate=0.1),
            tmp_path / "run",
            resume=True,
        )


def test_what_does_not_change_the_weights_may_differ_on_resume(folder, tmp_path):
    loop.train(experiment(folder), tmp_path / "run")
    loop.train(
        experiment(folder, data__workers=2, evaluation__every=2), tmp_path / "run", resume=True
    )


def test_another_teacher_is_refused_on_resume(folder, tmp_path):
    teacher = tmp_path / "t.safetensors"
    teacher.write_bytes((folder / "teacher.safetensors").read_bytes())
    whole = experiment(folder, teacher__weights=teacher)
    loop.train(whole, tmp_path / "run")
    weights.write(teacher, replace(STUDENT, width=8).build())

    with pytest.raises(CheckpointError, match="the teacher changed since step 12"):
        loop.train(whole, tmp_path / "run", resume=True)


@dataclass(frozen=True, kw_only=True)
class _Poisoned(Logits):
    """Turns to infinity at its third batch."""

    name: ClassVar[str] = "poisoned"
    calls: ClassVar[list[int]] = []

    def losses(self, seen, batch, state):
        self.calls.append(1)
        losses = super().losses(seen, batch, state)
        return losses | {"imitation": losses["imitation"] / (0.0 if len(self.calls) == 3 else 1.0)}


def test_a_loss_that_is_not_finite_stops_the_run_with_the_evidence(folder, tmp_path):
    _Poisoned.calls.clear()
    with pytest.raises(
        NonFiniteError,
        match=r"loss of step 3 is not finite \(reconstruction .*, imitation inf\)",
    ):
        loop.train(experiment(folder, method=_Poisoned(), evaluation__every=1), tmp_path / "run")
    evidence = checkpoint.load(tmp_path / "run" / "nonfinite-00000003.pt")

    assert evidence["step"] == 3
    assert len(evidence["images"]) == 4
    assert evidence["lr"].shape == (4, 3, 12, 12)
    assert all(torch.isfinite(v).all() for v in evidence["student"].values())
    assert Run.open(tmp_path / "run").steps()[-1] == 2


def test_a_full_disk_does_not_end_the_run(folder, tmp_path, monkeypatch):
    failures = [0]
    save = States.save

    def full_once(self, step, state, **options):
        if step == 4:
            failures[0] += 1
            raise OSError(28, "No space left on device")
        return save(self, step, state, **options)

    monkeypatch.setattr(States, "save", full_once)
    loop.train(experiment(folder), tmp_path / "run")

    assert failures == [1]
    assert [r["what"] for r in Run.open(tmp_path / "run").records() if r.get("what") == "not saved"]
    assert Run.open(tmp_path / "run").steps() == [8, 12]


def test_a_disk_that_stays_full_ends_the_run(folder, tmp_path, monkeypatch):
    def full(self, step, state, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(States, "save", full)
    with pytest.raises(OSError, match="No space left"):
        loop.train(experiment(folder), tmp_path / "run")


def opened(folder: Path, **changes) -> Training:
    return assemble(experiment(folder, **changes))


def test_the_teacher_is_frozen_and_deterministic(folder, tmp_path):
    """methods.md D1, D4: no gradient, no graph, no training mode, no random depth."""
    config = SwinIRConfig(scale=2, width=8, depths=(2,), heads=(2,), window=4, stochastic_depth=0.5)
    weights.write(tmp_path / "t.safetensors", config.build())
    s = opened(folder, teacher__weights=tmp_path / "t.safetensors")
    lr, hr = s.share.patches.batch(0)
    advance(s, lr, hr)
    image = lr.float() / 255

    assert not s.teacher.training
    assert all(not p.requires_grad and p.grad is None for p in s.teacher.parameters())
    assert torch.equal(s.teacher(image), s.teacher(image))
    assert not s.teacher(image).requires_grad


def test_no_checkpoint_holds_the_teacher(folder, tmp_path):
    loop.train(experiment(folder), tmp_path / "run")
    state = Run.open(tmp_path / "run").states.load().state
    elements = sum(v.numel() for v in state["student"].values())

    assert elements == sum(v.numel() for v in opened(folder).state.student.state_dict().values())
    assert state["extras"] == {}


def counted(s: Training, monkeypatch) -> list[str]:
    calls: list[str] = []
    for name in ("zero_grad", "step"):
        original = getattr(s.state.optimizer, name)
        monkeypatch.setattr(
            s.state.optimizer,
            name,
            lambda *a, n=name, o=original, **k: (calls.append(n), o(*a, **k))[1],
        )
    return calls


def test_one_optimizer_step_per_batch(folder, monkeypatch):
    """methods.md D2."""
    s = opened(folder)
    calls = counted(s, monkeypatch)
    advance(s, *s.share.patches.batch(0))

    assert calls == ["zero_grad", "step"]


def test_the_ablation_steps_twice_on_an_accumulated_gradient(folder, monkeypatch):
    """methods.md D2: the second step adds the fresh gradient to the stale one."""
    s = opened(folder, method=ReleasedDUKD())
    calls = counted(s, monkeypatch)
    gradients: list[torch.Tensor] = []
    step = s.state.optimizer.step
    monkeypatch.setattr(
        s.state.optimizer,
        "step",
        lambda: (gradients.append(s.state.student.conv_last.weight.grad.clone()), step())[1],
    )
    advance(s, *s.share.patches.batch(0))

    assert calls == ["zero_grad", "step", "step"]
    s2 = opened(folder, method=Logits())
    lr, hr = (x.float() / 255 for x in s2.share.patches.batch(0))
    sum(Distiller(Logits(), s2.state.student, s2.teacher)(lr, hr).values()).backward()
    assert_close(gradients[0], s2.state.student.conv_last.weight.grad)
    assert not torch.allclose(gradients[1], gradients[0])


def test_extras_are_trained(folder):
    """methods.md D44: heads that no optimizer knows stay random."""
    s = opened(folder, method=FitNet())
    before = [p.detach().clone() for p in s.state.extras.parameters()]
    for k in range(2):
        advance(s, *s.share.patches.batch(k))

    assert before
    assert all(
        not torch.equal(p, b) for p, b in zip(s.state.extras.parameters(), before, strict=True)
    )


def test_accumulated_parts_give_the_gradient_of_the_whole_batch(folder):
    whole, parts = (opened(folder, method=Logits(), optimization__accumulate=n) for n in (1, 4))
    for s in (whole, parts):
        for k in range(3):
            advance(s, *s.share.patches.batch(k))

    for a, b in zip(
        whole.state.student.parameters(), parts.state.student.parameters(), strict=True
    ):
        assert_close(a, b, rtol=1e-4, atol=2e-6)  # sums in another order, through Adam's division


def test_the_average_follows_the_student():
    """0.9 of the old, 0.1 of the new; buffers are taken over (methods.md D52)."""
    student, other = (EDSRConfig(scale=2, width=4, blocks=1).build() for _ in range(2))
    state = State.begin(student, nn.Module(), Optimization())
    averaged = state.averaged
    averaged.load_state_dict(other.state_dict())
    expected = [
        0.9 * a + 0.1 * s for a, s in zip(averaged.parameters(), student.parameters(), strict=True)
    ]
    student.range.mean.add_(0.25)
    state.average.move(0.9)

    for a, e in zip(averaged.parameters(), expected, strict=True):
        assert_close(a, e)
    assert_close(averaged.range.mean, student.range.mean)


def test_without_averaging_the_student_itself_is_saved(folder, tmp_path):
    loop.train(experiment(folder, optimization__ema=0.0), tmp_path / "run")
    state = Run.open(tmp_path / "run").states.load().state

    assert all(torch.equal(state["student"][n], v) for n, v in state["averaged"].items())


def test_clipping_bounds_the_gradient(folder):
    s = opened(folder, optimization__clip=1e-3)
    losses = advance(s, *s.share.patches.batch(0))
    norm = torch.cat([p.grad.flatten() for p in s.state.student.parameters()]).norm().item()

    assert losses["gradient_norm"].item() > 1e-3
    assert norm == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("options", [{"precision": "bfloat16"}, {"channels_last": False}])
def test_options_of_speed_change_little(folder, options):
    plain, fast = (
        opened(folder),
        opened(folder, **{f"optimization__{k}": v for k, v in options.items()}),
    )
    a, b = (advance(s, *s.share.patches.batch(0)) for s in (plain, fast))

    for term in a:
        assert_close(a[term], b[term], rtol=0.05, atol=1e-3)


def test_a_warm_start_takes_what_fits(folder, tmp_path):
    """An x4 student starts from the x2 one: all but the upsampler, as in the paper's EDSR rows."""
    torch.manual_seed(3)
    x2 = EDSRConfig(scale=2, width=6, blocks=2).build()
    weights.write(tmp_path / "x2.safetensors", x2)
    x4 = EDSRConfig(scale=4, width=6, blocks=2).build()
    sentence = weights.warm_start(x4, tmp_path / "x2.safetensors")

    assert torch.equal(x4.body[1].conv2.weight, x2.body[1].conv2.weight)
    assert "tensors from" in sentence
    for other in (
        EDSRConfig(scale=2, width=10, blocks=1),
        SwinIRConfig(scale=2, width=8, depths=(2,), heads=(2,), window=4),
    ):
        with pytest.raises(ValueError, match="needs a network of the same sort and width"):
            weights.warm_start(other.build(), tmp_path / "x2.safetensors")


def test_a_teacher_is_trained_by_the_same_command(folder, tmp_path):
    whole = experiment(folder, method=Scratch(), teacher=None)
    student = loop.train(whole, tmp_path / "run")

    assert weights.read(student).config == STUDENT
    assert json.loads(Run.open(tmp_path / "run").facts.read_text())["teacher_parameters"] is None


def test_a_teacher_worse_than_bicubic_stops_before_anything_is_written(folder, tmp_path):
    weights.write(tmp_path / "bad.safetensors", EDSRConfig(scale=2, width=6, blocks=1).build())
    whole = experiment(
        folder, teacher__weights=tmp_path / "bad.safetensors", evaluation__teacher_images=2
    )
    with pytest.raises(
        ValueError, match=r"the teacher does not beat bicubic: .* dB against .* dB on 2 images"
    ):
        loop.train(whole, tmp_path / "run")

    assert not (tmp_path / "run").exists()


def test_a_method_without_its_teacher_is_refused(folder):
    with pytest.raises(
        ValueError, match=r"the method dukd needs a teacher: name its file \(--teacher FILE\)"
    ):
        dataclasses.replace(experiment(folder), teacher=None)


def test_two_processes_cannot_share_a_directory(folder, tmp_path):
    loop.train(experiment(folder), tmp_path / "run")
    with (
        Run.open(tmp_path / "run").lock(),
        pytest.raises(CheckpointError, match="is in use by pid"),
    ):
        loop.train(experiment(folder), tmp_path / "run", resume=True)


def test_tensorboard_is_written_where_it_is_installed(folder, tmp_path):
    pytest.importorskip("tensorboard")
    loop.train(experiment(folder, evaluation__tensorboard=True), tmp_path / "run")

    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


def test_a_method_stays_a_value(folder):
    assert isinstance(experiment(folder).method, Method)


def test_the_teacher_runs_with_lowered_weights_and_scored_with_its_own(folder):
    training = opened(folder, optimization__precision="bfloat16")
    own, shown = training.teacher.state_dict(), training.objective.distiller.teacher.state_dict()

    assert {v.dtype for v in own.values() if v.is_floating_point()} == {torch.float32}
    assert torch.bfloat16 in {v.dtype for v in shown.values()}
    assert training.teacher is not training.objective.distiller.teacher
    in_full = opened(folder)
    assert in_full.objective.distiller.teacher is in_full.teacher


@pytest.mark.parametrize(
    ("width", "precision", "together"),
    [(8, "float32", True), (64, "float32", False), (64, "bfloat16", True)],
)
def test_where_channels_lie_while_training_on_a_processor(folder, width, precision, together):
    """Apart in float32 for the sake of memory, but for students that need little."""
    student = EDSRConfig(scale=2, width=width, blocks=1)
    training = opened(folder, student=student, optimization__precision=precision)
    lr, _ = training.share.at(0)[0][:2]

    weight = next(p for p in training.state.student.parameters() if p.ndim == 4)
    for x in (weight, lr):
        assert x.is_contiguous(memory_format=torch.channels_last) == together
        assert x.is_contiguous() != together


def test_a_validation_that_does_not_fit_is_told_and_loses_nothing(folder, tmp_path, monkeypatch):
    """Test images may be much larger than patches; what was trained until then is saved."""

    def short_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Validation, "measure", short_of_memory)
    with pytest.raises(
        TooLittleMemoryError,
        match=r"validating after step 4 does not fit .*--evaluation.sets.*--resume",
    ):
        loop.train(experiment(folder), tmp_path / "run")
    monkeypatch.undo()

    assert Run.open(tmp_path / "run").steps() == [4]
    loop.train(experiment(folder), tmp_path / "run", resume=True)
    assert Run.open(tmp_path / "run").steps()[-1] == 12
