"""The scripts in benchmarks/: both sides do the same work, and what was measured is kept."""

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import dukd
from dukd.data import Patches, prepare
from dukd.evaluation import timing
from dukd.evaluation.timing import Ceiling, Result, Timing
from dukd.methods import DUKD, LSFD, CrossKD, Frequency, Logits, ZoomIn, ZoomOut
from dukd.networks import EDSRConfig, SwinIRConfig
from dukd.networks.files import weights
from dukd.recipes.study import Study
from dukd.testing import speed
from dukd.training import loop
from dukd.training.assemble import Training, assemble
from dukd.training.experiment import Experiment, TeacherCache

CPU = torch.device("cpu")
SMALL = EDSRConfig(scale=2, width=4, blocks=1)
FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """Import a script of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.py")))
def test_every_script_finds_what_it_imports(script, name: str) -> None:
    script(name)


def training(tmp_path: Path, method: DUKD, teacher: EDSRConfig | SwinIRConfig = SMALL) -> Training:
    return assemble(speed.trial(SMALL, teacher, method, tmp_path, patch=12, batch=2))


def test_ways_of_upscaling_are_there_or_refused_with_a_reason(
    script, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime", reason="needs dukd[onnx]")
    upscale, network = script("upscale"), SMALL.build().frozen()
    monkeypatch.setattr(upscale, "network", lambda *_: (network, False))
    ways = ["exact", "onnxruntime", "litert"]
    upscale.prepare("small", tmp_path, {"ways": ways, "litert_python": Path("/nowhere/python")})

    facts, *rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert facts == {"scale": 2, "trained": False, "parameters": network.parameter_count()}
    assert [row["way"] for row in rows] == ways
    assert "--python /nowhere/python cannot be run" in rows[2]["refused"]
    lr = torch.rand(1, 3, 12, 9)
    for row in rows[:2]:
        assert row["megabytes"] == pytest.approx(Path(row["path"]).stat().st_size / 1e6)
        upscaler = upscale.opened(row["way"], Path(row["path"]), tmp_path)
        assert_close(upscaler(lr), network(lr), atol=1e-5, rtol=0)


def test_all_ways_of_input_give_the_same_patches(script, tmp_path: Path) -> None:
    """Images of several sub-images a side, some smaller than one, and a side with a rest."""
    for package in ("lmdb", "h5py"):
        pytest.importorskip(package, reason="the benchmark of the input needs dukd[benchmarks]")
    data = script("data")
    rng = np.random.default_rng(0)
    (tmp_path / "source").mkdir()
    for i, (height, width) in enumerate(((1002, 506), (480, 730), (200, 160))):
        image = rng.integers(256, size=(height, width, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "source" / f"{i}.png", compress_level=1)
    pairs = data.write_pngs(tmp_path / "source", tmp_path / "png", scale=2, images=3)
    patches = Patches(prepare(pairs, tmp_path / "pack"), patch=48, batch=6)

    ways = data.sources(pairs, patches, tmp_path)

    assert len(ways) == 7
    for k in range(4):
        expected = patches.batch(k)
        for name, batches in ways.items():
            for part, whole in zip(next(batches), expected, strict=True):
                found = (part * 255).round().to(torch.uint8) if part.is_floating_point() else part
                assert_close(found, whole, rtol=0, atol=0, msg=f"{name}, batch {k}")


@pytest.mark.parametrize(
    ("length", "found"),
    [(100, [0]), (240, [0]), (250, [0, 10]), (360, [0, 120]), (500, [0, 120, 240, 260])],
)
def test_sub_images_cover_a_side(script, length: int, found: list[int]) -> None:
    """As BasicSR's script: 480 pixels of hr, every 240, and one more for what is left."""
    pytest.importorskip("lmdb", reason="the benchmark of the input needs dukd[benchmarks]")
    pytest.importorskip("h5py", reason="the benchmark of the input needs dukd[benchmarks]")

    assert script("data").starts(length, 2) == found


def test_the_released_step_learns_and_fills_the_teachers_gradients(script, tmp_path: Path) -> None:
    """methods.md D1: nothing freezes the teacher. The networks in training stay as they are."""
    made = training(tmp_path, DUKD(upcyclings=(ZoomIn(windows=2), ZoomOut())))
    released = script("released")
    copies = []
    plain, released.as_released = (
        released.as_released,
        lambda network: copies.append(plain(network)) or copies[-1],
    )
    before = [p.clone() for p in made.state.student.parameters()]
    try:
        run = released.released_step(made, *made.share.patches.batch(0))
    finally:
        released.as_released = plain
    run()

    student, teacher = copies
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in teacher.parameters())
    assert all(not torch.equal(p, b) for p, b in zip(student.parameters(), before, strict=True))
    assert all(
        torch.equal(p, b) for p, b in zip(made.state.student.parameters(), before, strict=True)
    )
    assert all(p.grad is None for p in made.teacher.parameters())


def test_both_sides_ask_about_as_many_pixels(script, tmp_path: Path) -> None:
    """Forward passes for everything the method shows, and twice that backwards, for both networks.

    A first layer has no input to blame. Ours has a teacher's forward pass, the student's three, and
    reduces images.
    """
    made = training(tmp_path, DUKD(upcyclings=(ZoomIn(windows=2), ZoomOut())))
    released = timing.counted(script("released").released_step(made, *made.share.patches.batch(0)))
    alone = timing.counted(speed.alone(made, *made.share.patches.batch(0)))
    reduced = 2 * 2 * 3 * (6 * 12 * 12 + 6 * 6 * 12)

    assert released == 2 * alone + reduced


def test_a_released_swinir_leaves_out_branches(script) -> None:
    """methods.md D4: the teacher is in training mode, with stochastic depth."""
    torch.manual_seed(0)
    config = SwinIRConfig(scale=2, width=6, depths=(4,), heads=(1,), window=4)
    network = config.build().frozen()
    released = script("released").as_released(network)
    lr = torch.rand(4, 3, 8, 8)

    assert released.training
    assert any(not torch.equal(released(lr), network(lr)) for _ in range(8))
    assert_close(released.eval()(lr), network(lr))


def steps_result() -> Result:
    seconds = {"live": 2.0, "replayed": 0.5, "alone": 0.4}
    timings = [Timing("released code's step, float32", (8.0, 10.0, 9.0))]
    names = {"live": "teacher live", "replayed": "teacher replayed", "alone": "student alone"}
    for precision, gain in (("float32", 1), ("bfloat16", 2)):
        timings += [Timing(f"{names[n]}, {precision}", (s / gain,)) for n, s in seconds.items()]
    flops = dict.fromkeys((t.name for t in timings), 4e9)
    return Result("a to b", tuple(timings), per_run=2, unit="patches", flops=flops, memory_mb=5)


def test_what_was_measured_is_kept_and_read_again(script) -> None:
    step: ModuleType = script("step")
    request = step.Request("edsr", 2, 2, 48, "cpu")

    assert step.from_line(step.to_line(request, steps_result())) == (request, steps_result())


def test_turns_add_up(script) -> None:
    one = replace(
        steps_result(),
        memory_mb=9,
        timings=tuple(Timing(t.name, (1.0,)) for t in steps_result().timings),
    )

    both = script("step").joined([steps_result(), one])

    assert both.timings[0].seconds == (8.0, 10.0, 9.0, 1.0)
    assert both.memory_mb == 9
    assert both.flops == one.flops


def test_a_run_goes_on_where_it_stopped(
    script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pair with a turn of two is given one more; one that has them all, none."""
    step = script("step")
    request = [step.Request(pair, 2, 2, 48, "cpu") for pair in ("edsr", "rcan")]
    lines = [step.to_line(request[0], one_turn()), *2 * [step.to_line(request[1], one_turn())]]
    (tmp_path / "step.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    made = []
    monkeypatch.setattr(
        step,
        "turns",
        lambda a, count, _profile: made.append((a.pair, count)) or [one_turn()] * count,
    )
    monkeypatch.setattr(step, "ceiling", lambda *_: Ceiling(8e9, 1e9))
    options = ["--pairs", "edsr", "rcan", "--repetitions", "2", "--out", str(tmp_path / "step.md")]
    monkeypatch.setattr("sys.argv", ["step.py", *options])

    (tmp_path / "step.md").write_text(
        "an old table\n\n## Reading\n\nwritten by hand\n", encoding="utf-8"
    )

    step.main()

    page = (tmp_path / "step.md").read_text(encoding="utf-8")
    assert page.endswith("\n\n## Reading\n\nwritten by hand\n")
    assert "an old table" not in page
    assert made == [("edsr", 1)]
    assert len((tmp_path / "step.jsonl").read_text(encoding="utf-8").splitlines()) == 4
    assert page.count("| teacher live, bfloat16 | 1.00 s | 0 % |") == 2


def one_turn() -> Result:
    result = steps_result()
    return replace(result, timings=tuple(Timing(t.name, t.seconds[:1]) for t in result.timings))


def test_a_profile_names_the_dearest_operations(script) -> None:
    x = torch.rand(64, 64)
    lines = (
        script("step")
        .profiled(lambda: [x @ x for _ in range(50)], torch.device("cpu"))
        .splitlines()
    )

    assert lines[3].split()[0] in {"aten::mm", "aten::matmul"}


def test_the_page_of_steps_says_what_was_promised(script) -> None:
    step = script("step")
    request = step.Request("edsr", 2, 2, 48, "cpu")
    ceilings = {"float32": Ceiling(8e9, 1e9), "bfloat16": Ceiling(16e9, 1e9)}

    page = step.page({request: steps_result()}, ceilings, "command").splitlines()

    assert "| released code's step, float32 | 9.00 s | 22 % | 0.2222 | 1.00 | 6 % |" in page
    assert "| teacher live, bfloat16 | 1.00 s | \u2013 | 2 | 9.00 | 25 % |" in page
    assert page[-1] == (
        "- bfloat16: 9.0 times faster than the released code, 36.0 times with outputs replayed, "
        "which is 1.25 times the student's two passes alone and 4.0 times faster than running it."
    )


def test_memory_is_measured_and_drawn_on_to_the_papers_batch(script) -> None:
    memory = script("memory")
    released, ours = memory.WAYS[0].name, memory.WAYS[2].name
    one = memory.Request(released, "edsr", 2, 48, 1, "cpu")
    found = {one: 700, replace(one, batch=2): 1300}
    found |= {replace(one, way=ours, batch=b): 100 * b for b in (1, 2, 16)}

    page = memory.page(found, "command").splitlines()

    assert page[-2] == f"| {released} | 700 | 1300 |  | 600 | ~9700 | 100 % |"
    assert page[-1] == f"| {ours} | 100 | 200 | 1600 | 100 | 1600 | 16 % |"


PEAK = """
import sys

import torch

sys.path.insert(0, sys.argv[1])
import memory

held = torch.ones(10_000_000)
before = memory.restart(torch.device("cpu"))
torch.ones(20_000_000).sum()
print(memory.peak(torch.device("cpu")) - before)
"""


def test_the_peak_is_that_of_what_was_done_meanwhile() -> None:
    """80 MB that are there for a moment count; what was there before does not.

    In a process of its own, since what other tests freed may serve in place of new memory.
    """
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the account of a process's memory that is read here is Linux's")
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(FOLDER)],
        env=os.environ | {"PYTHONPATH": str(Path(dukd.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )

    assert 70 <= float(done.stdout) <= 120


def test_what_a_graph_keeps_is_counted(script) -> None:
    """One block of four channels: convolutions keep their inputs, the ReLU its output."""
    kept = script("memory").kept
    pixels = 2 * 8 * 8 * 4  # bytes of one channel of two patches
    # 3 in; 4 into the block, its ReLU, its sum, the body's sum; 16 that are shuffled to 4 at twice
    # the side.
    low, high = (3 + 4 + 4 + 4 + 4) * pixels, 4 * 4 * pixels

    assert kept(SMALL, [(2, 8)]) == low + high
    assert kept(SMALL, [(2, 8), (1, 4)]) == (low + high) * 9 // 8


def test_ours_keeps_less_than_half_of_what_the_released_step_keeps(script) -> None:
    """At the paper's batch; the teacher has a graph on one side only."""
    released, whole, part = script("memory").counts("edsr", 2, 48, 16, 4)

    assert whole < 0.5 * released
    assert part * 4 == pytest.approx(whole, rel=0.01)


def test_at_equal_time_steps_follow_from_costs(script, tmp_path: Path) -> None:
    """By hand: scratch 0.05 s, logits 0.1 s; replaying pays that 200 times, then as scratch."""
    equal = script("equal_time")
    costs = {name: {"seconds": 0.2} for name in equal.shares()}
    costs |= {"scratch": {"seconds": 0.05}, "logits": {"seconds": 0.1}}
    (tmp_path / "costs.json").write_text(json.dumps(costs))

    entries = equal.at_equal_time(tmp_path, 30.0)

    assert entries["scratch"].steps == 600
    assert entries["logits"].steps == 300
    assert entries["dukd"].steps == 150
    assert (
        entries["logits, replayed"].steps,
        entries["logits, replayed"].period,
    ) == (400, 200)
    assert entries["scratch, then logits at 80%"].steps == 480 + 60


@cache
def cells_of(name: str) -> dict[str, Experiment]:
    """The first seed of a study that lies beside the scripts, by method."""
    study = Study.from_file(FOLDER / "studies" / name)
    return {c.method: c.experiment for c in replace(study, seeds=study.seeds[:1]).cells()}


@pytest.mark.parametrize("path", sorted((FOLDER / "studies").glob("*.yaml")), ids=lambda p: p.name)
def test_studies_that_come_along_fit(path: Path) -> None:
    assert cells_of(path.name)


def test_tuning_found_the_defaults_of_the_methods_that_are_our_reading() -> None:
    tuned = {name: experiment.method for name, experiment in cells_of("tuned.yaml").items()}

    assert tuned["lsfd-x10-imitation"] == LSFD()
    assert tuned["crosskd-by10"] == CrossKD()
    assert tuned["frequency-by100"] == Frequency()


def test_ablations_take_equal_steps_and_a_late_start_is_late_in_them() -> None:
    cells = cells_of("ablations.yaml")

    assert {e.optimization.steps for e in cells.values()} == {400}
    assert cells["dukd-late"].method.start == 320


def test_periods_differ_in_nothing_else() -> None:
    cells = cells_of("reuse.yaml")

    assert {name: e.data.period for name, e in cells.items() if name.startswith("dukd")} == {
        "dukd-period-none": 0,
        "dukd-period-400": 400,
        "dukd-period-100": 100,
        "dukd-period-25": 25,
    }
    alike = [
        replace(e, data=replace(e.data, period=0), teacher_cache=TeacherCache(), method=Logits())
        for name, e in cells.items()
        if name != "scratch"
    ]
    assert all(e == alike[0] for e in alike)


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """Images, and teachers under the names of SMFANet+'s files."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(2):
        image = rng.integers(256, size=(64, 64, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "images" / f"{i}.png")
    for scale in (2, 4):
        teacher = EDSRConfig(scale=scale, width=4, blocks=1).build()
        path = tmp_path / f"smfanet_plus_df2k_x{scale}.pth"
        weights.write(path, teacher, layout="basicsr")
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(300)  # 15 s of CPU; in turn with other tests it waits
def test_the_command_for_a_gpu_is_rehearsed_and_goes_on_where_it_stopped(
    script, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = script("gpu")
    monkeypatch.setattr(gpu, "VARIANTS", {"bfloat16": gpu.VARIANTS["bfloat16"]})
    monkeypatch.setattr(gpu, "SCALES", (2,))
    folder = [f"--{name}={desk / value}" for name, value in {"train": "images", "out": "o"}.items()]
    rest = [f"--weights={desk}", "--sets", str(desk / "images"), "--rehearse", "--pairs", "edsr"]
    monkeypatch.setattr("sys.argv", ["gpu.py", *folder, *rest])
    run_cell, seen = gpu.run_cell, []

    def stopped(study, cell, out, *, device):
        seen.append(f"{out.name} {cell.name}")
        if len(seen) == 3:
            raise loop.Interrupted(0, out)
        return run_cell(study, cell, out, device=device)

    monkeypatch.setattr(gpu, "run_cell", stopped)
    gpu.main()

    page = (desk / "o" / "gpu.md").read_text(encoding="utf-8")
    lines = gpu.lines_of(desk / "o" / "profile.jsonl")
    ways = ["teacher live", "teacher replayed", "teacher alone", "student alone"]
    assert [x["way"] for x in lines] == ways
    assert all(x["seconds"] > 0 and x["share_of_peak"] > 0 and x["memory_mb"] > 0 for x in lines)
    assert "| dukd | 0 of 1, planned |" in page
    gpu.main()

    assert lines == gpu.lines_of(desk / "o" / "profile.jsonl")
    names = [
        f"x{s} edsr-16-x{s}-{m}-seed1" for s in gpu.SCALES for m in ("scratch", "logits", "dukd")
    ]
    assert seen == [*names[:3], *names]
    page = (desk / "o" / "gpu.md").read_text(encoding="utf-8")
    assert page.count("3 cells: 3 measured") == 1
    assert page.count("| dukd |") == 2  # the table, and the differences


def test_students_that_are_trained_at_once_are_stopped_in_time(
    script, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study's process for each scale, which gets the same study, and is told to save and end."""
    gpu, commands, sent = script("gpu"), [], []

    class Endless:
        def __init__(self, command: list[str]) -> None:
            commands.append(command)

        def wait(self, timeout: float | None = None) -> None:
            if timeout is not None:
                raise subprocess.TimeoutExpired("study", timeout)
            assert len(sent) == 2

        def send_signal(self, number: int) -> None:
            sent.append(number)

    out = desk / "at-once"
    options = argparse.Namespace(
        train=desk / "images", sets=[desk / "images"], weights=desk, out=out, seeds=[1, 2]
    )
    out.mkdir()
    monkeypatch.setattr(gpu.subprocess, "Popen", Endless)
    wanted = gpu.studies(options, gpu.TINY)

    gpu.at_once(wanted, out, CPU, time.monotonic(), 3)

    assert [command[2:5] for command in commands] == [
        ["dukd", "study", str(out / f"x{scale}.yaml")] for scale in (2, 4)
    ]
    assert all(command[-4:] == ["--workers", "3", "--device", "cpu"] for command in commands)
    assert sent == [signal.SIGINT] * 2
    for scale, study in wanted.items():
        assert Study.from_file(out / f"x{scale}.yaml") == study
        assert len(list((out / "packs").glob(f"*-x{scale}-*.pack"))) == 1


def test_measuring_on_a_gpu_ends_with_its_time(
    script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What took too long is left out, and measured by the next command."""
    gpu = script("gpu")
    monkeypatch.setattr(gpu, "measured", lambda *_: time.sleep(60))
    begun = time.monotonic()

    gpu.profile(["edsr"], gpu.TINY, CPU, tmp_path, begun + 1.0)

    assert time.monotonic() - begun < 30
    assert not gpu.lines_of(tmp_path / "profile.jsonl")
