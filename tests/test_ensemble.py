"""Ensembles: the mean before training, an order that cannot change, files, MTKD's stages."""

import copy
from pathlib import Path

import pytest
import torch
from torch.nn.functional import pixel_shuffle
from torch.testing import assert_close

from distilling import losses_of
from dukd.core import config as configuration
from dukd.core.registry import known
from dukd.methods import MTKD, Aggregation
from dukd.networks import (
    EDSRConfig,
    Ensemble,
    EnsembleConfig,
    Member,
    Network,
    NetworkConfig,
    SwinIRConfig,
    gather,
)
from dukd.networks.files import weights
from dukd.networks.files.safe import WeightsError
from dukd.training.experiment import REGISTRY

SMALL = EDSRConfig(scale=2, width=6, blocks=1, value_range=1.0)
LARGE = EDSRConfig(scale=2, width=8, blocks=2, value_range=1.0)
WINDOWED = SwinIRConfig(scale=2, width=12, depths=(1,), heads=(2,), window=4)


def ensemble(*, blocks: int = 1) -> Ensemble:
    members = {"small": SMALL.build(), "large": LARGE.build()}
    return gather(members, width=4, blocks=blocks)


def trained() -> Ensemble:
    """An ensemble whose correction is not zero."""
    made = ensemble()
    torch.nn.init.normal_(made.conv_last.weight, std=0.1)
    return made


def test_an_untrained_ensemble_answers_with_the_mean() -> None:
    members = {"small": SMALL.build(), "large": LARGE.build()}
    lr = torch.rand(2, 3, 9, 7)

    assert_close(gather(members)(lr), (members["small"](lr) + members["large"](lr)) / 2)


def test_the_order_of_the_members_cannot_be_permuted() -> None:
    """methods.md D48: the released stages concatenate the same teachers in different orders."""
    a, b = Member(name="a", network=SMALL), Member(name="b", network=LARGE)
    one, other = (
        EnsembleConfig(scale=2, members=order, width=4, blocks=1) for order in ((a, b), (b, a))
    )
    stage1, stage2 = one.build(), other.build()
    torch.nn.init.normal_(stage1.conv_last.weight)
    stage2.load_state_dict(stage1.state_dict())
    lr = torch.rand(1, 3, 8, 8)

    assert one == other
    assert_close(stage1(lr), stage2(lr), rtol=0, atol=0)


def test_members_stay_frozen_and_in_eval_mode() -> None:
    """methods.md D49: the released teachers and aggregator run with autograd, unfrozen."""
    made = ensemble().requires_grad_(True).train()

    assert made.training
    assert not any(part.training for part in made.members.modules())
    assert not any(p.requires_grad for p in made.members.parameters())
    assert all(
        p.requires_grad for name, p in made.named_parameters() if not name.startswith("members.")
    )
    assert not any(p.requires_grad for p in made.frozen().parameters())


def test_features_are_the_joining_networks_own_and_the_head_gives_the_mean_first() -> None:
    made = trained()
    lr = torch.rand(1, 3, 8, 8)
    outputs = torch.stack([member(lr) for member in made.members.values()])
    _, features, _ = made.observe(lr, (1 / 3, 1.0))

    mean = pixel_shuffle(made.head(lr)[:, : made.colors], made.scale)
    assert_close(mean, outputs.mean(0), rtol=0, atol=1e-6)
    assert [f.shape for f in features] == [(1, made.width, 8, 8)] * 2
    assert made.keeps == (0, 1)


def test_members_of_any_window_join() -> None:
    made = gather({"windowed": WINDOWED.build(), "small": SMALL.build()})

    assert made(torch.rand(1, 3, 5, 11)).shape == (1, 3, 10, 22)


def test_the_radius_is_the_widest_members_and_the_joints() -> None:
    """What lies further away than the radius changes nothing."""
    made = trained().double().eval()
    assert made.radius is not None
    lr = torch.rand(1, 3, 1, made.radius + 3, dtype=torch.float64)
    changed = lr.clone()
    changed[..., -1] += 1
    kept = 2 * (lr.shape[-1] - 1 - made.radius)

    assert_close(made(changed)[..., :kept], made(lr)[..., :kept], rtol=0, atol=0)
    assert not torch.equal(made(changed)[..., kept : kept + 2], made(lr)[..., kept : kept + 2])


def test_an_ensemble_survives_its_file(tmp_path: Path) -> None:
    made = trained()
    path = tmp_path / "ensemble.safetensors"
    weights.write(path, made)
    back = weights.read(path)
    lr = torch.rand(1, 3, 8, 8)

    assert back.config == made.config
    assert_close(back.frozen()(lr), made.frozen()(lr), rtol=0, atol=0)
    assert weights.inspect(path).network == "ensemble"
    with pytest.raises(WeightsError, match="dukd alone"):
        weights.write(tmp_path / "other.pth", made, layout="basicsr")


def test_an_ensemble_survives_yaml() -> None:
    made = ensemble().config
    text = configuration.dump(made, registry=REGISTRY)

    assert configuration.load(text, NetworkConfig, registry=REGISTRY, source="here") == made
    assert known(NetworkConfig)["ensemble"] is EnsembleConfig


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ((), "different names"),
        ((Member(name="a", network=SMALL), Member(name="a", network=LARGE)), "different names"),
        ((Member(name="a", network=EDSRConfig(scale=3)),), "a is x3"),
        ((Member(name="a.b", network=SMALL),), r"a\.b"),
        ((Member(name="keys", network=SMALL),), "keys"),
    ],
)
def test_what_cannot_be_joined_is_refused(members: tuple[Member, ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        EnsembleConfig(scale=2, members=members)


def test_nothing_gathered_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        gather({})


def test_both_stages_learn() -> None:
    """Stage 1 lowers the wavelet distance without touching a member.

    Stage 2 draws a student to the ensemble.
    """
    made = ensemble()
    before = copy.deepcopy(made.members.state_dict())
    lr = torch.rand(4, 3, 8, 8)
    with torch.no_grad():
        hr = made(lr) + 0.2  # the members are too dark

    def train(
        method: Aggregation | MTKD, student: Network, teacher: Network, steps: int
    ) -> list[float]:
        optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], 1e-2)
        totals: list[float] = []
        for _ in range(steps):
            losses = losses_of(method, student, teacher, (lr, hr))
            total = torch.stack(list(losses.values())).sum()
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            totals.append(float(total.detach()))
        return totals

    first = train(Aggregation(), made, made, 30)
    assert first[-1] < 0.9 * first[0]
    for name, tensor in made.members.state_dict().items():
        assert_close(tensor, before[name], rtol=0, atol=0)

    second = train(MTKD(), SMALL.build(), made.frozen(), 30)
    assert second[-1] < 0.8 * second[0]
