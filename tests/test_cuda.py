"""On a real GPU: the processor's weights, no waits, equal bits after a stop."""

import os
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dukd.core.device import to_device
from dukd.core.distributed import World
from dukd.data import find_pairs
from dukd.deploy.image import upscale_image
from dukd.evaluation.candidates import Candidate
from dukd.evaluation.evaluate import evaluate
from dukd.images import Image
from dukd.methods import DUKD, Method
from dukd.methods.base import needs_teacher
from dukd.networks import (
    CompactConfig,
    EDSRConfig,
    NetworkConfig,
    PlainConfig,
    RCANConfig,
    RRDBConfig,
    SMFANetConfig,
    SPANConfig,
    SwinIRConfig,
)
from dukd.networks.upscaler import OnDevice
from dukd.runs.directory import Run
from dukd.testing import speed
from dukd.training import loop
from dukd.training.assemble import Training, assemble
from dukd.training.experiment import Evaluation, Experiment, Optimization
from dukd.training.step import NonFiniteError, advance, settle
from test_methods import METHODS

DEVICE = torch.device(os.environ.get("DUKD_TEST_DEVICE", "cuda"))
"""The processor, to rehearse."""
REAL = DEVICE.type == "cuda"
pytestmark = [
    pytest.mark.skipif(REAL and not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
    pytest.mark.filterwarnings("ignore:The AccumulateGrad node.s stream"),
]

EDSR = EDSRConfig(scale=2, width=16, blocks=3)
NETWORKS: tuple[NetworkConfig, ...] = (
    EDSR,
    RCANConfig(scale=2, width=16, groups=2, blocks=1, squeeze=4),
    SwinIRConfig(scale=2, width=8, depths=(2, 2), heads=(2, 2), window=4),
    SMFANetConfig(scale=2, width=16, blocks=2),
    CompactConfig(scale=2, width=16, blocks=2),
    PlainConfig(scale=2, width=16, blocks=2),
    SPANConfig(scale=2, width=16),
    RRDBConfig(scale=2, width=16, blocks=1, growth=8),
)


@pytest.fixture(autouse=True)
def exact() -> Generator[None, None, None]:
    """Full float32, and algorithms that give the same every time."""
    flags = (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic)
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = flags


@contextmanager
def no_waits() -> Generator[None, None, None]:
    """An error in whatever makes the host wait for the device."""
    try:
        if REAL:
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        if REAL:
            torch.cuda.set_sync_debug_mode("default")


def experiment(
    folder: Path, method: Method, student: NetworkConfig = EDSR, **changes: object
) -> Experiment:
    teacher = EDSRConfig(scale=2, width=16, blocks=3) if student is EDSR else student
    made = speed.trial(
        student, teacher if needs_teacher(method, 2) else None, method, folder, patch=16, batch=4
    )
    numbers: dict[str, object] = {"steps": 4, "learning_rate": 1e-3, "clip": 1.0} | changes
    optimization = Optimization(**numbers)  # pyright: ignore[reportArgumentType]
    return replace(made, optimization=optimization)


def moved(wanted: Experiment, device: torch.device, *, waits: bool = True) -> Tensor:
    """How far four steps move the student's weights, in one vector."""
    training = assemble(wanted, World(device=device))
    before = flat(training)
    for k in range(2):
        stepped(training, k)
    batches = [tuple(to_device(x, device) for x in training.share.patches.batch(k)) for k in (2, 3)]
    with nullcontext() if waits else no_waits():
        for lr, hr in batches:
            advance(training, lr, hr)
    settle(training)
    return flat(training) - before


def trained(wanted: Experiment, steps: int) -> tuple[Tensor, Training]:
    """How far steps move the weights."""
    training = assemble(wanted, World(device=DEVICE))
    before = flat(training)
    for k in range(steps):
        stepped(training, k)
    settle(training)
    return flat(training) - before, training


def stepped(training: Training, k: int) -> None:
    advance(training, *(to_device(x, training.device) for x in training.share.patches.batch(k)))


def flat(training: Training) -> Tensor:
    return torch.cat([p.detach().cpu().flatten() for p in training.state.student.parameters()])


def apart(found: Tensor, expected: Tensor) -> float:
    """The distance, as a share of the way."""
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("period", [0, 2])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_moves_the_weights_as_on_the_processor(
    name: str, period: int, tmp_path: Path
) -> None:
    """Adam turns the sign of a gradient near zero into a whole step, so some weights differ."""
    wanted = experiment(tmp_path, METHODS[name])
    wanted = replace(wanted, data=replace(wanted.data, period=period))

    found = moved(wanted, DEVICE, waits=False)

    # 3 % of dckd's gradients are rounding: weights that begin 1e-7 apart move 0.25 apart
    assert apart(found, moved(wanted, torch.device("cpu"))) < (0.5 if name == "dckd" else 0.05)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.name)
def test_every_network_moves_as_on_the_processor(network: NetworkConfig, tmp_path: Path) -> None:
    wanted = experiment(tmp_path, DUKD(), network)

    found = moved(wanted, DEVICE, waits=False)

    assert apart(found, moved(wanted, torch.device("cpu"))) < 0.05


@pytest.mark.parametrize("layout", [True, False], ids=["last", "apart"])
@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.name)
def test_bfloat16_goes_the_same_way(network: NetworkConfig, layout: bool, tmp_path: Path) -> None:
    wanted = experiment(tmp_path, DUKD(), network, precision="bfloat16", channels_last=layout)
    exactly = replace(wanted, optimization=replace(wanted.optimization, precision="float32"))

    assert apart(moved(wanted, DEVICE), moved(exactly, DEVICE)) < 0.9


@pytest.mark.parametrize("graphs", [False, True], ids=["compiled", "graphs"])
@pytest.mark.parametrize("network", NETWORKS[:3], ids=lambda n: n.name)
@pytest.mark.skipif(not REAL, reason="a compiler for the device is needed")
@pytest.mark.filterwarnings("error:torch.compile failed")
def test_compiled_networks_move_alike(network: NetworkConfig, graphs: bool, tmp_path: Path) -> None:
    wanted = experiment(tmp_path, DUKD(), network)
    options = replace(wanted.optimization, compile=True, cuda_graphs=graphs)
    wanted_compiled = replace(wanted, optimization=options)

    assert apart(moved(wanted_compiled, DEVICE), moved(wanted, DEVICE)) < 0.05


RECORDED: dict[str, Method] = {
    "dukd": DUKD(),
    "frugal": METHODS["dukd-frugal"],
    "features": METHODS["fakd"],
    "adversarial": METHODS["adversarial"],
}


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.name)
@pytest.mark.filterwarnings("error:no CUDA graph")
def test_recorded_passes_move_alike(network: NetworkConfig, name: str, tmp_path: Path) -> None:
    wanted = experiment(tmp_path, RECORDED[name], network)
    graphs = replace(wanted.optimization, cuda_graphs=True)

    found = moved(replace(wanted, optimization=graphs), DEVICE, waits=False)

    assert apart(found, moved(wanted, DEVICE)) < 1e-2


@pytest.mark.parametrize("change", ["accumulate", "period", "bfloat16"])
@pytest.mark.filterwarnings("error:no CUDA graph")
def test_passes_are_recorded_however_a_batch_is_computed(change: str, tmp_path: Path) -> None:
    numbers = {"accumulate": {"accumulate": 2}, "bfloat16": {"precision": "bfloat16"}}
    wanted = experiment(tmp_path, DUKD(), **numbers.get(change, {}))
    period = 2 if change == "period" else 0
    wanted = replace(wanted, data=replace(wanted.data, period=period))
    graphs = replace(wanted.optimization, cuda_graphs=True)

    found = moved(replace(wanted, optimization=graphs), DEVICE, waits=False)

    assert apart(found, moved(wanted, DEVICE)) < 1e-3


WHOLE: dict[str, tuple[Method, dict[str, object]]] = {
    "dukd": (DUKD(), {}),
    "scratch": (METHODS["scratch"], {}),
    "frugal": (METHODS["dukd-frugal"], {}),
    "affinities": (METHODS["fakd"], {}),
    "local": (METHODS["lsfd"], {}),
    "luma": (METHODS["luma"], {}),
    "muon": (DUKD(), {"optimizer": "muon"}),
    "bfloat16": (DUKD(), {"precision": "bfloat16"}),
    "clip": (DUKD(), {"clip": 1e-3, "schedule": "one-cycle"}),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("network", [NETWORKS[0], *NETWORKS[4:6]], ids=lambda n: n.name)
@pytest.mark.skipif(not REAL, reason="nothing is recorded on a processor")
def test_whole_steps_move_alike(network: NetworkConfig, name: str, tmp_path: Path) -> None:
    """Twelve steps of two batches: two are kept, three made by hand, the others replayed."""
    method, numbers = WHOLE[name]
    wanted = experiment(tmp_path, method, network, steps=12, **numbers)
    wanted = replace(wanted, data=replace(wanted.data, period=2))
    graphs = replace(wanted.optimization, cuda_graphs=True)

    found, training = trained(replace(wanted, optimization=graphs), 12)
    expected, _ = trained(wanted, 12)

    assert training.recording is not None
    assert "recorded as a whole and replayed" in " ".join(training.recording.notes())
    assert apart(found, expected) < (0.5 if name == "bfloat16" else 0.05)


@pytest.mark.skipif(not REAL, reason="nothing is recorded on a processor")
def test_a_recorded_step_that_is_not_finite_changes_nothing(tmp_path: Path) -> None:
    wanted = experiment(tmp_path, DUKD(), steps=12, cuda_graphs=True)
    training = assemble(replace(wanted, data=replace(wanted.data, period=2)), World(device=DEVICE))
    for k in range(8):
        stepped(training, k)
    settle(training)
    first = next(training.state.student.parameters())
    with torch.no_grad():
        first[(0,) * first.ndim] = float("nan")
    before = flat(training)

    stepped(training, 8)
    with pytest.raises(NonFiniteError, match="step 9"):
        settle(training)

    assert torch.equal(flat(training)[1:], before[1:])


@pytest.mark.parametrize("period", [0, 2])
def test_a_run_that_was_stopped_ends_in_equal_bits(period: int, tmp_path: Path) -> None:
    made = experiment(tmp_path, DUKD(), steps=8)
    judged = Evaluation(
        sets=(tmp_path / "images",), images=1, every=4, log_every=2, teacher_images=0, samples=1
    )
    wanted = replace(
        made, evaluation=judged, data=replace(made.data, period=period, resident="auto")
    )

    def stop(record: dict[str, object]) -> None:
        if record["kind"] == "step" and record["step"] == 5:
            raise KeyboardInterrupt

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    loop.train(wanted, whole, device=DEVICE)
    with pytest.raises(KeyboardInterrupt):
        loop.train(wanted, stopped, device=DEVICE, observe=stop)
    assert Run.open(stopped).steps()
    loop.train(wanted, stopped, device=DEVICE, resume=True)

    assert Run.open(stopped).student.read_bytes() == Run.open(whole).student.read_bytes()


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.name)
def test_images_are_enlarged_to_the_same_levels(network: NetworkConfig) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(60, 77, 3), dtype=np.uint8)
    built = network.build()
    expected, _ = upscale_image(OnDevice(built), Image(pixels=pixels), tile=40)
    found, _ = upscale_image(OnDevice(built, DEVICE), Image(pixels=pixels), tile=40)
    differs = np.abs(found.pixels.astype(int) - expected.pixels)

    assert differs.max() <= 1
    assert (differs > 0).mean() < 1e-3


def test_networks_are_measured_alike(tmp_path: Path) -> None:
    made = experiment(tmp_path, DUKD())
    sets = {"Noise": find_pairs(made.data.train, scale=2)}
    built = [Candidate(model=m, label=m, upscaler=EDSR.build()) for m in ("student", "teacher")]

    here, there = (
        [row.sets["Noise"] for row in evaluate(built, sets, device=device).rows]
        for device in ("cpu", DEVICE)
    )
    assert here
    for a, b in zip(here, there, strict=True):
        for name in ("psnr_y", "ssim_y"):
            assert a[name] == pytest.approx(b[name], abs=1e-3)
