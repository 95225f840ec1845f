"""Muon's updates, against torch's own and by hand; what it moves, and what a run keeps of it."""

import math
import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from dukd.networks import CompactConfig, NetworkConfig, SwinIRConfig
from dukd.networks.smfanet import SMFANetConfig
from dukd.runs.checkpoint import CheckpointError
from dukd.training import loop
from dukd.training.experiment import Optimization
from dukd.training.nonfinite import CheckedStep, NonFiniteGuard
from dukd.training.optimizers import Muon, optimizer_of, orthogonal, parted
from tiny_runs import digest, experiment, prepare

TORCHS = getattr(torch.optim, "Muon", None)


def scalar(s: float) -> float:
    """The iteration on one singular value."""
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return s


def test_the_iteration_acts_on_singular_values_and_leaves_directions() -> None:
    values = torch.tensor([3.0, 2.0, 1.0, 0.02])
    u, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)))
    v, _ = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(2)))
    x = u @ torch.diag(values) @ v[:4]
    wanted = torch.tensor([scalar(float(s)) for s in values / values.norm()])

    both = orthogonal(torch.stack([x, 1e-8 * x]))

    torch.testing.assert_close(both[0], u @ torch.diag(wanted) @ v[:4], atol=2e-6, rtol=0)
    torch.testing.assert_close(both[1], both[0], atol=2e-6, rtol=0)
    torch.testing.assert_close(orthogonal(x.mT[None])[0], both[0].mT, atol=2e-6, rtol=0)


def test_singular_values_end_where_they_are_said_to() -> None:
    ends = [scalar(s) for s in torch.logspace(math.log10(0.003), 0, 2000).tolist()]

    assert min(ends) > 0.68
    assert max(ends) < 1.21
    assert scalar(0.0) == 0


def test_a_gradient_of_zeros_moves_nothing() -> None:
    weight = nn.Parameter(torch.ones(3, 5))
    muon = Muon([weight], [], lr=0.1)
    weight.grad = torch.zeros(3, 5)

    muon.step()

    assert torch.equal(weight.detach(), torch.ones(3, 5))


@pytest.mark.skipif(TORCHS is None, reason="this torch has no Muon of its own")
@pytest.mark.parametrize("shape", [(4, 12), (12, 4), (6, 6)])
def test_five_steps_are_those_of_torch(shape: tuple[int, int]) -> None:
    """Torch's takes flat matrices and rounds to bfloat16."""
    assert TORCHS is not None
    draw = torch.Generator().manual_seed(3)
    first = torch.randn(shape, generator=draw)
    ours, theirs = nn.Parameter(first.clone()), nn.Parameter(first.clone())
    muon = Muon([ours], [], lr=0.01, weight_decay=0.1)
    reference = TORCHS([theirs], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")

    for _ in range(5):
        ours.grad = torch.randn(shape, generator=draw)
        theirs.grad = ours.grad.clone()
        muon.step()
        reference.step()

    moved = (ours.detach() - first).norm()
    assert (ours.detach() - theirs.detach()).norm() < 0.01 * moved


def test_a_convolution_is_the_matrix_of_its_filters() -> None:
    draw = torch.Generator().manual_seed(4)
    first, gradient = (torch.randn(5, 4, 3, 3, generator=draw) for _ in range(2))
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = nn.Parameter(first.clone().to(memory_format=layout))
        weight.grad = gradient.clone().to(memory_format=layout)
        Muon([weight], [], lr=0.1).step()
        step = orthogonal(gradient.reshape(1, 5, 36)).reshape(5, 4, 3, 3)
        # 0.2 sqrt(36) = 1.2
        torch.testing.assert_close(weight.detach(), first - 0.1 * 1.2 * step)


def test_updates_are_as_large_as_adams() -> None:
    """Root mean square 0.2 at rate 1, as far as singular values are 1."""
    draw = torch.Generator().manual_seed(5)
    weight = nn.Parameter(torch.zeros(32, 288))
    weight.grad = torch.randn(32, 288, generator=draw)

    Muon([weight], [], lr=1.0).step()

    assert float(weight.detach().square().mean().sqrt()) == pytest.approx(0.2, rel=0.25)


def test_weights_of_one_shape_move_as_each_would_alone() -> None:
    draw = torch.Generator().manual_seed(6)
    pairs = [torch.randn(2, 4, 9, generator=draw) for _ in range(3)]
    together, alone = ([nn.Parameter(first.clone()) for first, _ in pairs] for _ in range(2))
    for weights in (together, alone):
        for weight, (_, gradient) in zip(weights, pairs, strict=True):
            weight.grad = gradient.clone()

    Muon(together, [], lr=0.1).step()
    for weight in alone:
        Muon([weight], [], lr=0.1).step()

    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), atol=1e-6, rtol=0)


def test_the_rest_moves_as_adam_moves_it() -> None:
    draw = torch.Generator().manual_seed(7)
    first = torch.randn(9, generator=draw)
    ours, theirs = nn.Parameter(first.clone()), nn.Parameter(first.clone())
    matrix = nn.Parameter(torch.randn(3, 4, generator=draw))
    muon = Muon([matrix], [ours], lr=0.1, betas=(0.9, 0.99), fused=True)
    adam = torch.optim.Adam([theirs], lr=0.1, betas=(0.9, 0.99), fused=True)
    for _ in range(4):
        ours.grad = torch.randn(9, generator=draw)
        theirs.grad, matrix.grad = ours.grad.clone(), torch.ones(3, 4)
        muon.step()
        adam.step()

    assert torch.equal(ours.detach(), theirs.detach())
    assert [p is matrix for group in muon.param_groups for p in group["params"]] == [True, False]


@pytest.mark.parametrize(
    ("config", "left"),
    [
        (CompactConfig(scale=2, width=8, blocks=2), {"body.1.weight", "body.3.weight"}),
        (SwinIRConfig(scale=2, width=12, depths=(2,), heads=(2,)), {"position"}),
        (SMFANetConfig(scale=2), {"depthwise"}),
    ],
    ids=["slopes", "tables of positions", "depthwise convolutions"],
)
def test_matrices_are_what_mixes_channels(config: NetworkConfig, left: set[str]) -> None:
    network = config.build()
    matrices, rest = parted(network)
    names = {id(p): name for name, p in network.named_parameters()}
    ours, others = ({names[id(p)] for p in part} for part in (matrices, rest))

    assert not ours & others
    assert ours | others == set(names.values())
    assert all(p.flatten(1).shape[1] > 1 for p in matrices)
    depthwise = {
        f"{name}.weight"
        for name, m in network.named_modules()
        if isinstance(m, nn.Conv2d) and m.groups > 1
    }
    tables = {name for name in names.values() if "relative_position" in name}
    expected = {"depthwise": depthwise, "position": tables}
    wanted = set().union(*(expected.get(word, {word}) for word in left))
    assert wanted
    assert wanted <= others


def test_what_is_frozen_and_shared_is_moved_not_at_all_and_once() -> None:
    layer = nn.Linear(3, 4)
    layer.bias.requires_grad_(False)
    matrices, rest = parted(nn.Sequential(layer), layer)

    assert matrices == [layer.weight]
    assert rest == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_step_leaves_weights_and_momentum(value: float) -> None:
    weight, bias = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(2))
    muon = Muon([weight], [bias], lr=0.1, fused=True)
    guard = NonFiniteGuard(muon, torch.device("cpu"), deferred=True)

    def step(number: int, gradient: float) -> CheckedStep | None:
        weight.grad, bias.grad = torch.full((2, 3), gradient), torch.full((2,), gradient)
        checked = CheckedStep(number, torch.zeros(1), torch.zeros(1))
        found = guard.check(checked, [torch.tensor(gradient)])
        muon.step()
        return found

    assert step(1, 0.5) is None
    before = [
        weight.detach().clone(),
        bias.detach().clone(),
        muon.state[weight]["momentum"].clone(),
    ]
    assert step(2, value) is None
    found = step(3, 0.5)

    assert found is not None
    assert found.step == 2
    after: list[Tensor] = [weight.detach(), bias.detach(), muon.state[weight]["momentum"]]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_an_interrupted_run_ends_in_equal_bits(tmp_path: Path) -> None:
    prepare(tmp_path)
    whole = experiment(tmp_path, optimization__optimizer="muon")
    loop.train(whole, tmp_path / "whole")

    def stop(record: Mapping[str, object]) -> None:
        if record["kind"] == "step" and record["step"] == 7:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(loop.Interrupted, match="after step 7"):
        loop.train(whole, tmp_path / "parts", observe=stop)
    loop.train(whole, tmp_path / "parts", resume=True)

    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")
    adam = replace(whole, optimization=replace(whole.optimization, optimizer="adam"))
    loop.train(adam, tmp_path / "adam")
    assert digest(tmp_path / "adam") != digest(tmp_path / "whole")


@pytest.mark.parametrize(("first", "then"), [("adam", "muon"), ("muon", "adam")])
def test_moments_of_another_optimizer_are_refused(tmp_path: Path, first: str, then: str) -> None:
    """Their order is another, so they would have gone to other weights, or to a step that fails."""
    prepare(tmp_path)
    before = experiment(tmp_path, optimization__optimizer=first, optimization__steps=4)
    loop.train(before, tmp_path / "run")

    longer = experiment(tmp_path, optimization__optimizer=then, optimization__steps=8)
    with pytest.raises(
        CheckpointError, match=r"another optimizer.* with --optimization.warm-start"
    ):
        loop.train(longer, tmp_path / "more", continue_from=tmp_path / "run")
    assert not (tmp_path / "more" / "student.safetensors").exists()


def test_another_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="adam"):
        Optimization(optimizer="lion")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_both_train_all_that_trains(name: Literal["adam", "muon"]) -> None:
    network, extra = CompactConfig(scale=2, width=8, blocks=2).build(), nn.Conv2d(3, 3, 1)
    optimizer = optimizer_of(Optimization(optimizer=name), network, extra)

    listed = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in listed} == {id(p) for m in (network, extra) for p in m.parameters()}
    assert len(listed) == len({id(p) for p in listed})
