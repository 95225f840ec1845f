"""The distiller computes the same losses in any loop, and a resumed loop goes the same way."""

import copy
import json
import os
import socket
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

import dukd
import sharded_rank
from distilling import losses_of
from dukd.methods import (
    DCKD,
    DUKD,
    FAKD,
    MCIR,
    VID,
    CrossKD,
    FitNet,
    Late,
    Logits,
    Method,
    MiPKD,
    ReleasedDUKD,
)
from dukd.networks import EDSRConfig, Network
from dukd.networks.opaque import Opaque
from dukd.training.distiller import Distiller
from dukd.training.schedule import method_generator

STATEFUL: list[Method] = [
    DUKD(),
    Late(base=FitNet(), start=3),
    MCIR(update_step=2),
    DCKD(update_steps=(2,)),
    VID(),
    CrossKD(),
    MiPKD(),
]


class Plain(nn.Module):
    """Somebody's network, which knows nothing of dukd."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, padding=1)
        layers = (nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU()) for _ in range(2))
        self.body = nn.Sequential(*layers)
        self.tail = nn.Sequential(nn.Conv2d(width, 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.body(self.head(x)))


def networks() -> tuple[Network, Network]:
    torch.manual_seed(0)
    student = EDSRConfig(scale=2, width=8, blocks=3).build()
    return student, EDSRConfig(scale=2, width=12, blocks=3).build()


def pair(k: int = 0, n: int = 4) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(k)
    return torch.rand(n, 3, 16, 16, generator=rng), torch.rand(n, 3, 32, 32, generator=rng)


def train(
    distiller: nn.Module, steps: range, optimizer: torch.optim.Optimizer, accumulate: int = 1
) -> None:
    for step in steps:
        optimizer.zero_grad()
        for lr, hr in zip(*(x.chunk(accumulate) for x in pair(step)), strict=True):
            losses: dict[str, Tensor] = distiller(lr, hr)
            (torch.stack(list(losses.values())).sum() / accumulate).backward()
        optimizer.step()


def adam(module: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(module.parameters(), 1e-3)


def test_the_face_of_the_package_has_it() -> None:
    assert dukd.Distiller is Distiller


def test_losses_are_those_of_the_step_and_the_call() -> None:
    """The generator follows from seed, step and number alone, as in the project's own loop."""
    student, teacher = networks()
    distiller = Distiller(DUKD(), student, teacher, seed=7, accumulate=2)
    made = [distiller(*pair()) for _ in range(4)]

    for call, losses in enumerate(made):
        seed = method_generator(7, call // 2, call % 2).initial_seed()
        expected = losses_of(DUKD(), student, teacher, pair(), seed=seed)
        assert losses == expected, call
    assert all(a != b for a, b in pairwise(made))


@pytest.mark.parametrize("method", STATEFUL, ids=lambda m: m.label)
def test_a_resumed_loop_goes_the_same_way(method: Method) -> None:
    """Also where the method keeps a slow copy, which moves as the next step begins."""
    distiller = Distiller(method, *networks(), seed=7, accumulate=2)
    optimizer = adam(distiller)
    train(distiller, range(3), optimizer, 2)
    saved = copy.deepcopy((distiller.state_dict(), optimizer.state_dict()))
    train(distiller, range(3, 5), optimizer, 2)

    torch.manual_seed(99)
    student = EDSRConfig(scale=2, width=8, blocks=3).build()
    again = Distiller(method, student, networks()[1], accumulate=2)
    optimizer = adam(again)
    again.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    train(again, range(3, 5), optimizer, 2)

    assert again.step == 5
    ours, theirs = distiller.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert {name.split(".")[0] for name in ours} <= {"student", "state", "_extra_state"}


def test_a_slow_copy_moves_as_if_after_step_had_been_called() -> None:
    method = DCKD(update_steps=(2,))
    distiller = Distiller(method, *networks())
    by_hand = copy.deepcopy(distiller)
    train(distiller, range(3), adam(distiller))
    optimizer = adam(by_hand)
    for step in range(3):
        by_hand.moved = by_hand.step  # nothing is left for the next call to do
        train(by_hand, range(step, step + 1), optimizer)
        method.after_step(by_hand.student, by_hand.state, step + 1)

    ours, theirs = distiller.state.state_dict(), by_hand.state.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_any_module_is_a_student_or_a_teacher() -> None:
    student, teacher = Plain(), Plain(12).train()
    distiller = Distiller(DUKD(), student, teacher).train()

    assert not any(m.training for m in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert len(list(distiller.parameters())) == len(list(student.parameters()))
    assert {p.dtype for p in distiller.double().teacher.parameters()} == {torch.float64}
    distiller.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert all(loss.isfinite() for loss in distiller(*pair()).values())


def test_eval_mode_repeats_itself_and_does_not_count() -> None:
    distiller = Distiller(DUKD(), *networks()).eval()

    assert distiller(*pair()) == distiller(*pair())
    assert distiller.calls == 0


def test_features_of_a_module_are_read_where_its_taps_say() -> None:
    taps = ("body.0.0", "body.1.0")
    student, teacher = Opaque(Plain(), 2, taps), Opaque(Plain(12), 2, taps)
    losses = Distiller(DUKD(base=FAKD(depths=(0.5, 1.0))), student, teacher)(*pair())

    assert losses["affinity"] > 0
    for plain in (Plain(), Opaque(Plain(), 2)):
        with pytest.raises(ValueError, match=r"does not say where.*Opaque\(module, taps="):
            Distiller(FAKD(), plain, teacher)
    with pytest.raises(ValueError, match="mcir begins with an untrained network"):
        Distiller(MCIR(), Plain())
    with pytest.raises(ValueError, match="runs parts of networks, and Opaque is one piece"):
        Distiller(CrossKD(), student, teacher)(*pair())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s, _: Distiller(Logits(), s), "logits compares with a teacher, but there is none"),
        (lambda s, _: Distiller(Logits(), s, s), "share weights, which would be frozen"),
        (lambda s, t: Distiller(ReleasedDUKD(), s, t)(*pair()), "only dukd.train makes"),
        (lambda s, t: Distiller(Logits(), s, t, accumulate=0), "at least one call"),
        (
            lambda s, t: Distiller(Logits(), s, t)(*(255 * x for x in pair())),
            r"go up to 25\d.*divide them by 255.*Opaque",
        ),
        (lambda s, t: Distiller(Logits(), s, t)(*(x.byte() for x in pair())), "floating point"),
        (lambda s, t: Distiller(Logits(), s, t)(*reversed(pair())), "a pair is lr"),
        (lambda s, t: Distiller(Logits(), s, t)(pair()[0][0], pair()[1]), "a pair is lr"),
        (
            lambda s, _: Distiller(Logits(), s, Gives())(*pair()),
            r"Gives gives tuple.*Opaque\(module, leave=",
        ),
    ],
)
def test_what_would_go_wrong_silently_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(*networks())


class Gives(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x.repeat_interleave(2, -1).repeat_interleave(2, -2),)


def test_networks_of_other_ranges_and_outputs_are_adapted() -> None:
    """In 0 to 255, and in a tuple: the losses are those of the module itself."""

    class Bytes(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, str]:
            assert x.max() > 1
            return x.repeat_interleave(2, -1).repeat_interleave(2, -2), "more"

    class Unit(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.repeat_interleave(2, -1).repeat_interleave(2, -2)

    other = Opaque(Bytes(), 2, enter=lambda x: x * 255, leave=lambda y: y[0] / 255)
    student, _ = networks()
    ours = Distiller(Logits(), student, other)(*pair())

    assert_close(ours, Distiller(Logits(), student, Unit())(*pair()))


def test_a_student_that_recomputes_its_activations_learns_the_same() -> None:
    """Gradient checkpointing is the student's own affair."""

    class Saving(nn.Module):
        def __init__(self, inside: nn.Module) -> None:
            super().__init__()
            self.inside = inside

        def forward(self, x: Tensor) -> Tensor:
            return torch.utils.checkpoint.checkpoint(self.inside, x, use_reentrant=False)

    gradients = []
    for saving in (False, True):
        student, teacher = networks()
        distiller = Distiller(DUKD(), Saving(student) if saving else student, teacher)
        torch.stack(list(distiller(*pair()).values())).sum().backward()
        gradients.append([p.grad for p in student.parameters()])

    assert_close(gradients[0], gradients[1], rtol=0, atol=0)


def test_compiled_networks_learn_the_same_and_keep_their_names() -> None:
    graphs = []

    def counted(graph, inputs):
        graphs.append(inputs)
        return graph.forward

    made = []
    for compiled in (False, True):
        distiller = Distiller(Logits(), *networks())
        if compiled:
            distiller.compile(backend=counted)
        train(distiller, range(2), adam(distiller))
        made.append(distiller.state_dict())

    assert graphs
    assert made[0].keys() == made[1].keys()
    assert_close(made[0], made[1])
    student, teacher = networks()
    wrapped = Distiller(FAKD(), torch.compile(student, backend=counted), teacher)
    assert "affinity" in wrapped(*pair())


def test_ddp_goes_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """One rank of gloo: the hooks of gradients fire, and the teacher is left out."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    for name, value in address.items():
        monkeypatch.setitem(os.environ, name, value)
    torch.distributed.init_process_group("gloo", rank=0, world_size=1)
    try:
        made = []
        for around in (False, True):
            distiller = Distiller(FitNet(), *networks(), seed=3)
            loop = DistributedDataParallel(distiller) if around else distiller
            train(loop, range(2), adam(loop))
            made.append(distiller.state_dict())
    finally:
        torch.distributed.destroy_process_group()

    assert_close(made[0], made[1], rtol=0, atol=0)


def test_a_student_sharded_by_fsdp2_has_the_losses_of_ddp(tmp_path: Path) -> None:
    """Two ranks on gloo; gradients are added in another order, so equal to 1e-6 after two steps."""
    spawn(sharded_rank.rank_main, args=(str(tmp_path),), nprocs=sharded_rank.RANKS)

    for rank in range(sharded_rank.RANKS):
        found = json.loads((tmp_path / f"losses-{rank}.json").read_text())
        assert len(found["fsdp2"]) == sharded_rank.STEPS
        for ours, theirs in zip(found["fsdp2"], found["ddp"], strict=True):
            assert ours == pytest.approx(theirs, abs=1e-6)
        assert found["ddp"][0] != found["ddp"][1]
