"""Low-rank updates: what trains, what is frozen, and that students are ordinary networks."""

import signal
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import dukd
from distilling import losses_of
from dukd.methods import DUKD, FAKD, CrossKD, Logits, LowRank
from dukd.methods.lowrank import Adapted, adapted, merge
from dukd.networks import (
    CompactConfig,
    EDSRConfig,
    NetworkConfig,
    PlainConfig,
    QuantizedConfig,
    RCANConfig,
    SMFANetConfig,
    SPANConfig,
    SwinIRConfig,
)
from dukd.networks.files import weights
from dukd.recipes import recipe
from dukd.runs.directory import Run
from dukd.training import loop
from dukd.training.distiller import Distiller
from dukd.training.teachers import File
from tiny_runs import digest, experiment, prepare

STUDENT = EDSRConfig(scale=2, width=6, blocks=2)
METHOD = LowRank(base=FAKD(depths=(1.0,), pool=4), rank=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = prepare(tmp_path_factory.mktemp("runs"))
    weights.write(made / "trained.safetensors", STUDENT.build())
    return made


def refined(folder: Path, **changes: object):
    return experiment(
        folder,
        student=STUDENT,
        method=METHOD,
        teacher=File(weights=folder / "trained.safetensors"),
        data__workers=0,
        optimization__warm_start=folder / "trained.safetensors",
        optimization__steps=6,
        evaluation__sets=(),
        **changes,
    )


def interrupt(record: dict[str, object]) -> None:
    if record["kind"] == "step" and record["step"] == 3:
        signal.raise_signal(signal.SIGINT)


def test_an_update_is_a_product() -> None:
    """W_0 of ones, X of 2 and Y of 3 at rank 2: 1 + 2 * 3 * 2."""
    convolution = nn.Conv2d(3, 4, 3)
    nn.init.ones_(convolution.weight)
    (update,) = adapted(convolution, 2)
    assert_close(update(), torch.ones(4, 3, 3, 3))
    nn.init.constant_(update.x, 2.0)
    nn.init.constant_(update.y, 3.0)

    assert_close(update(), torch.full((4, 3, 3, 3), 13.0))
    assert torch.linalg.matrix_rank((update() - update.frozen).flatten(1)) <= 2
    assert isinstance(convolution, Adapted)
    merge(convolution)
    assert torch.equal(convolution.weight, update())


def test_the_student_begins_as_it_was_and_only_factors_train() -> None:
    student, teacher = STUDENT.build(), STUDENT.build().frozen()
    lr, names = torch.rand(1, 3, 9, 7), list(student.state_dict())
    before = student(lr)
    state = METHOD.state(student, teacher)

    assert torch.equal(student(lr), before)
    assert list(student.state_dict()) == names
    assert not any(p.requires_grad for p in student.parameters())
    trained = [name for name, p in state.named_parameters() if p.requires_grad]
    assert {name.rpartition(".")[2] for name in trained} == {"x", "y"}
    convolutions = [m for m in student.modules() if isinstance(m, nn.Conv2d)]
    assert len(trained) == 2 * len(convolutions)


def test_training_sees_what_is_merged() -> None:
    """In training mode and in eval mode the student is the same network after each step."""
    student, teacher = STUDENT.build(), EDSRConfig(scale=2, width=8, blocks=2).build()
    distiller = Distiller(LowRank(base=Logits()), student, teacher)
    optimizer = torch.optim.Adam([p for p in distiller.parameters() if p.requires_grad], lr=1e-2)
    lr, hr = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 16, 16)
    first = student.conv_first.weight.clone()
    for _ in range(2):
        sum(distiller(lr, hr).values()).backward()
        optimizer.step()
    distiller.after_step(2)

    assert not torch.equal(student.conv_first.weight, first)
    assert_close(student.train()(lr), student.eval()(lr), rtol=0, atol=0)


@pytest.mark.parametrize(
    "config",
    [
        STUDENT,
        CompactConfig(scale=2, width=4, blocks=1),
        PlainConfig(scale=2, width=4, blocks=1),
        SPANConfig(scale=2, width=4),
        RCANConfig(scale=2, width=4, groups=1, blocks=1, squeeze=1),
        SMFANetConfig(scale=2, width=8, blocks=1),
        SwinIRConfig(scale=2, width=8, depths=(1,), heads=(2,), window=4),
    ],
    ids=lambda config: config.name,
)
def test_every_update_trains_in_every_network(config: NetworkConfig) -> None:
    """Also where a network folds its weights and never calls the convolution."""
    torch.manual_seed(0)
    student = config.build().train()
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    updates = adapted(student, 2)
    lr = torch.rand(1, 3, 8, 8)
    (student(lr) ** 2).mean().backward()
    assert all(update.y.grad is not None for update in updates)
    assert not any(p.requires_grad for p in student.parameters())
    assert all(map(torch.equal, student.state_dict().values(), before.values()))
    with torch.no_grad():
        for update in updates:
            update.y += 0.01
    merge(student)
    assert_close(student.eval()(lr), student.train()(lr))


def test_a_refined_student_is_an_ordinary_file(folder: Path, tmp_path: Path) -> None:
    """Frozen weights and factors of the checkpoint give the student, to the bit."""
    made = loop.train(refined(folder, optimization__ema=0.0), tmp_path / "run")
    student, trained = weights.read(made), weights.read(folder / "trained.safetensors")
    state = Run.open(tmp_path / "run").states.load().state["extras"]
    first = state["updates.0.frozen"]
    whole = first + (state["updates.0.x"] @ state["updates.0.y"]).reshape(first.shape)

    assert student.config == trained.config
    assert torch.equal(first, trained.conv_first.weight)
    assert torch.equal(student.conv_first.weight, whole)
    assert not torch.equal(student.conv_first.weight, first)
    assert torch.equal(student.conv_first.bias, trained.conv_first.bias)
    assert type(student.conv_first) is nn.Conv2d
    dukd.export(student, tmp_path / "student.pth")
    assert torch.load(tmp_path / "student.pth")["params"].keys() == student.state_dict().keys()


def test_it_can_be_resumed_without_the_file_it_began_with(folder: Path, tmp_path: Path) -> None:
    loop.train(refined(folder), tmp_path / "calm")
    with pytest.raises(loop.Interrupted):
        loop.train(refined(folder), tmp_path / "run", observe=interrupt)
    loop.train(refined(folder), tmp_path / "run", resume=True)

    assert digest(tmp_path / "run") == digest(tmp_path / "calm")


def test_any_method_can_be_inside() -> None:
    networks = (EDSRConfig(scale=2, width=8, blocks=3).build() for _ in range(2))
    student, teacher = networks
    teacher.frozen()
    lr, hr = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 32, 32)

    for base in (DUKD(base=FAKD()), CrossKD()):
        method = LowRank(base=base)
        losses = losses_of(method, student, teacher, (lr, hr))
        alone = losses_of(base, student, teacher, (lr, hr))
        assert losses.keys() == alone.keys()
    assert LowRank().label == "lowrank"
    assert LowRank(base=DUKD()).label == "dukd-lowrank"


def test_networks_without_float_convolutions_are_refused() -> None:
    quantized = QuantizedConfig(network=STUDENT).build()

    with pytest.raises(ValueError, match="quantize it afterwards"):
        adapted(quantized, 4)
    with pytest.raises(ValueError, match="has none"):
        adapted(nn.Linear(3, 3), 4)
    with pytest.raises(ValueError, match="rank is a whole number from 1"):
        LowRank(rank=0)


def test_the_recipe_refines_dukds_student_beside_itself() -> None:
    made = recipe("small-x2-lowrank").make()
    start = Path("runs/small-x2-dukd/student.safetensors")

    assert made.method == LowRank()
    assert made.optimization.warm_start == start
    assert made.teacher == File(weights=start)
    assert made.student == recipe("small-x2-dukd").make().student
