"""What a step does on a GPU alone: where its tensors lie, and when the host waits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dukd.core import distributed
from dukd.core.device import to_device
from dukd.core.distributed import World
from dukd.data import find_pairs
from dukd.data.patches import Patches
from dukd.data.resident import Resident
from dukd.deploy.image import upscale_image
from dukd.evaluation.candidates import Candidate
from dukd.evaluation.evaluate import evaluate
from dukd.evaluation.output import output
from dukd.images import Image
from dukd.methods import DUKD, Method
from dukd.methods.base import needs_teacher
from dukd.networks import (
    CompactConfig,
    EDSRConfig,
    NetworkConfig,
    PlainConfig,
    QuantizedConfig,
    RCANConfig,
    RRDBConfig,
    SMFANetConfig,
    SPANConfig,
    SwinIRConfig,
)
from dukd.networks.files import weights as files
from dukd.networks.upscaler import OnDevice
from dukd.runs.directory import Run
from dukd.testing import speed
from dukd.training import loop
from dukd.training.assemble import Training, assemble
from dukd.training.experiment import Evaluation, Experiment, Optimization
from dukd.training.step import advance, settle
from pretended import GPU, OnGPU, gpu_stand_in
from test_methods import METHODS

EDSR = EDSRConfig(scale=2, width=6, blocks=3)
NETWORKS: tuple[NetworkConfig, ...] = (
    EDSR,
    RCANConfig(scale=2, width=8, groups=2, blocks=1, squeeze=4),
    SwinIRConfig(scale=2, width=8, depths=(2, 2), heads=(2, 2), window=4),
    SMFANetConfig(scale=2, width=8, blocks=2),
    CompactConfig(scale=2, width=8, blocks=2),
    PlainConfig(scale=2, width=8, blocks=2),
    SPANConfig(scale=2, width=8),
    RRDBConfig(scale=2, width=8, blocks=1, growth=4),
)
TARGETS = ("openvino", "onnxruntime", "litert", "ncnn", "pams", "daq")
"""For which students are quantized."""
CPU = torch.device("cpu")


def experiment(
    folder: Path,
    method: Method,
    student: NetworkConfig = EDSR,
    teacher: NetworkConfig | None = None,
) -> Experiment:
    teacher = teacher or EDSRConfig(scale=2, width=8, blocks=3)
    made = speed.trial(
        student, teacher if needs_teacher(method, 2) else None, method, folder, patch=16, batch=4
    )
    # Left alone, channels would lie otherwise on the processor, in float32.
    return replace(
        made, optimization=Optimization(steps=4, learning_rate=1e-3, clip=1.0, channels_last=True)
    )


def stepped(training: Training, k: int) -> None:
    advance(training, *(to_device(x, training.device) for x in training.share.patches.batch(k)))


def weights(training: Training) -> list[Tensor]:
    settle(training)
    return [p.detach().cpu() for p in training.state.student.parameters()]


def compared(wanted: Experiment, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make four steps on the processor and on the stand-in, which must agree to the bit.

    Returns:
        Where the host waited in the last two: before, matrices are cached, and answers are fetched
            to be kept.
    """
    at_home = assemble(wanted)
    for k in range(4):
        stepped(at_home, k)
    with gpu_stand_in(monkeypatch) as gpu:
        training = assemble(wanted, World(device=torch.device("cuda")))
        assert training.device == GPU
        assert all(isinstance(p, OnGPU) for p in training.state.trained())
        stepped(training, 0)
        stepped(training, 1)
        gpu.waits.clear()
        stepped(training, 2)
        stepped(training, 3)
        waits = list(dict.fromkeys(gpu.waits))
        found = weights(training)
    for ours, theirs in zip(found, weights(at_home), strict=True):
        assert torch.equal(ours, theirs)
    return waits


@pytest.mark.parametrize("period", [0, 2])
@pytest.mark.parametrize("name", METHODS)
def test_no_method_makes_the_host_wait(
    name: str, period: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = experiment(tmp_path, METHODS[name])
    wanted = replace(wanted, data=replace(wanted.data, period=period))

    assert not compared(wanted, monkeypatch)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.name)
def test_no_network_makes_the_host_wait(
    network: NetworkConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not compared(experiment(tmp_path, DUKD(), network, network), monkeypatch)


@pytest.mark.parametrize("target", TARGETS)
def test_a_quantized_student_starts_there_and_does_not_make_the_host_wait(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its float self, which is balanced first."""
    files.write(tmp_path / "float.safetensors", EDSR.build())
    wanted = experiment(tmp_path, DUKD(), QuantizedConfig(network=EDSR, target=target))
    start = replace(wanted.optimization, warm_start=tmp_path / "float.safetensors")

    assert not compared(replace(wanted, optimization=start), monkeypatch)


def test_parts_of_a_batch_do_not_make_the_host_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = experiment(tmp_path, DUKD())
    wanted = replace(wanted, optimization=replace(wanted.optimization, accumulate=2))

    assert not compared(wanted, monkeypatch)


def test_a_whole_run_ends_with_the_same_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the loop, the trial of the teacher, validation, checkpoints and the log."""
    wanted = experiment(tmp_path, DUKD())
    judged = Evaluation(
        sets=(tmp_path / "images",), images=1, every=2, log_every=2, teacher_images=0, samples=1
    )
    wanted = replace(wanted, evaluation=judged, data=replace(wanted.data, workers=0))
    loop.train(wanted, tmp_path / "cpu")
    with gpu_stand_in(monkeypatch), distributed.join(torch.device("cuda"), environment={}) as world:
        loop.train(wanted, tmp_path / "gpu", world=world)
    here, there = Run.open(tmp_path / "cpu"), Run.open(tmp_path / "gpu")

    assert here.student.read_bytes() == there.student.read_bytes()
    notes = [r["detail"] for r in there.records() if r["kind"] == "event"]
    assert "the training images, 0.00 GB, lie on cuda:0" in notes


# Where patches are cut


def test_a_thread_that_cuts_patches_serves_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = experiment(tmp_path, DUKD())
    loop.train(wanted, tmp_path / "cpu")
    wanted = replace(wanted, data=replace(wanted.data, workers=1, resident="never"))
    with gpu_stand_in(monkeypatch):
        loop.train(wanted, tmp_path / "gpu", device="cuda")

    assert (
        Run.open(tmp_path / "cpu").student.read_bytes()
        == Run.open(tmp_path / "gpu").student.read_bytes()
    )


def test_images_lie_on_the_device_where_they_take_at_most_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = assemble(experiment(tmp_path, DUKD()))
    patches, size = training.share.patches, training.share.patches.pack.pixels.size

    assert isinstance(training.share.source, Patches)
    with gpu_stand_in(monkeypatch, free=2 * size):
        resident = patches.near(GPU, "auto")
        assert isinstance(resident, Resident)
        for k in range(3):
            for here, there in zip(patches.batch(k), resident.batch(k), strict=True):
                assert torch.equal(there.cpu(), here)
        assert patches.near(GPU, "never") is patches
    with gpu_stand_in(monkeypatch, free=2 * size - 1):
        assert patches.near(GPU, "auto") is patches
        assert isinstance(patches.near(GPU, "always"), Resident)
    with (
        gpu_stand_in(monkeypatch, free=size - 1),
        pytest.raises(
            ValueError, match=r"cut patches on the processor instead \(--data.resident never\)"
        ),
    ):
        patches.near(GPU, "always")


# The stand-in itself: what it finds


def image() -> Tensor:
    return torch.rand(2, 3, requires_grad=True).to(GPU)


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).all()),
        lambda x: x.cpu(),
        lambda x: x.to("cpu", torch.float64),
        lambda x: x[x > 0],
        torch.nonzero,
        lambda x: torch.rand(3).to(GPU) * x,
        lambda x: x.copy_(torch.rand(2, 3)),
        lambda x: x[0] + torch.tensor([1.0, 2.0, 3.0], device=GPU),
        lambda x: torch.equal(x, x),
    ],
)
def test_the_stand_in_tells_who_waits(
    wait: Callable[[Tensor], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    with gpu_stand_in(monkeypatch) as gpu, torch.no_grad():
        x = image()
        gpu.waits.clear()
        wait(x)

    assert len(gpu.waits) == 1


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x + 1,
        lambda x: x * torch.tensor(2.0),
        lambda x: torch.rand(3).pin_memory().to(GPU, non_blocking=True) * x,
        lambda x: x[:, torch.arange(2, device=GPU)],
        lambda x: torch.zeros(3, device=GPU) + x,
        lambda x: x.copy_(x.flip(0)),
    ],
)
def test_the_stand_in_leaves_others_alone(
    work: Callable[[Tensor], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    with gpu_stand_in(monkeypatch) as gpu, torch.no_grad():
        x = image()
        gpu.waits.clear()
        work(x)

    assert not gpu.waits


def test_the_stand_in_refuses_operands_from_two_places(monkeypatch: pytest.MonkeyPatch) -> None:
    with gpu_stand_in(monkeypatch), pytest.raises(RuntimeError, match=r"\(3,\) is on the CPU"):
        image() + torch.rand(3)


def test_gradients_pass_through_the_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    at_home = torch.nn.Conv2d(3, 2, 3)
    x = torch.rand(1, 3, 5, 5)
    at_home(x).square().mean().backward()
    with gpu_stand_in(monkeypatch):
        away = torch.nn.Conv2d(3, 2, 3)
        away.load_state_dict(at_home.state_dict())
        away.to(GPU)
        away(x.to(GPU)).square().mean().backward()
        found = [p.grad.cpu() for p in away.parameters() if p.grad is not None]

    assert all(
        torch.equal(ours, p.grad)
        for ours, p in zip(found, at_home.parameters(), strict=True)
        if p.grad is not None
    )


# Images


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.name)
def test_a_image_is_enlarged_to_the_same_pixels(
    network: NetworkConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(30, 37, 3), dtype=np.uint8)
    built = network.build()
    expected, _ = upscale_image(OnDevice(built), Image(pixels=pixels), tile=20)
    with gpu_stand_in(monkeypatch):
        found, _ = upscale_image(OnDevice(built, "cuda"), Image(pixels=pixels), tile=20)

    assert np.array_equal(found.pixels, expected.pixels)


def test_networks_are_measured_to_the_same_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = experiment(tmp_path, DUKD())
    sets = {"Noise": find_pairs(wanted.data.train, scale=2)}
    built = [Candidate(model=m, label=m, upscaler=EDSR.build()) for m in ("student", "teacher")]
    expected = figures(evaluate(built, sets).to_markdown())
    with gpu_stand_in(monkeypatch):
        found = figures(evaluate(built, sets, device="cuda").to_markdown())

    assert len(expected) == 4
    assert found == expected


@pytest.mark.parametrize(
    ("precision", "rounds"), [(torch.float32, False), (torch.bfloat16, True)], ids=str
)
def test_what_is_said_to_be_float32_is_not_rounded_to_tf32(
    precision: torch.dtype, rounds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In measuring and in upscaling; training may round, as the papers' did."""
    seen: list[bool] = []
    built = EDSR.build()
    built.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    pixels = np.zeros((12, 13, 3), np.uint8)

    output(built, pixels, precision=precision)
    OnDevice(built, "cpu", precision)(torch.zeros(1, 3, 12, 13))

    assert seen == [rounds] * 2
    assert torch.backends.cudnn.allow_tf32


def figures(table: str) -> list[list[str]]:
    """Lines of cells; how long it took is left out."""
    rows = [line.split("|") for line in table.splitlines() if line.startswith("|")]
    return [[*cells[:4], *cells[5:]] for cells in rows]
