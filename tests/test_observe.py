"""One engine runs the networks: merged, in order, behind symmetries, and nothing twice."""

from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from dukd.images.invertible import OPERATIONS, Operation, compose, draw
from dukd.methods import AT, DUKD, Batch, Logits, Method, View
from dukd.networks import EDSRConfig, Network, RCANConfig, SwinIRConfig
from dukd.training.observe import SYMMETRIES, Replay, observe, outputs
from dukd.training.schedule import generator
from stand_ins import Nearest, Spy, _NearestConfig

CONFIGS = [
    EDSRConfig(scale=2, width=8, blocks=4),
    RCANConfig(scale=2, width=8, groups=2, blocks=2, squeeze=4),
    SwinIRConfig(scale=2, width=12, depths=(2, 2), heads=(2, 2), window=4),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_merged_passes_equal_single_ones(config):
    """Each is given the features at its own depths, though a pass reads all of them."""
    network = config.build().eval()
    images = [torch.rand(2, 3, 8, 8), torch.rand(1, 3, 4, 8), torch.rand(3, 3, 8, 8)]
    depths = [(0.5, 1.0), (), (1.0,)]

    for x, own, made in zip(images, depths, outputs(network, images, depths), strict=True):
        expected = network.observe(x, own)
        assert made.network is network
        assert_close(made.sr, expected.sr)
        assert_close(made.features, expected.features)


def test_inputs_of_equal_size_share_a_pass():
    spy = Spy(_NearestConfig(scale=2))
    images = [torch.rand(2, 3, 8, 8), torch.rand(1, 3, 4, 4), torch.rand(2, 3, 8, 8)]
    outputs(spy, images, [(), (), (0.5,)])

    assert [tuple(x.shape) for x in spy.shown] == [(4, 3, 8, 8), (1, 3, 4, 4)]


def test_only_what_a_view_is_for_is_run():
    """The student sees every view; the teacher those that it teaches, unchanged."""

    class _Both(Logits):
        def views(self, batch):
            change = compose([draw(batch.lr.shape, probability=1.0, rng=batch.rng)])
            truth = View(name="truth", image=batch.lr[..., :4, :4], truth=batch.hr[..., :8, :8])
            return [truth, View(name="changed", image=batch.lr, change=change, teacher=True)]

    student, teacher = Spy(_NearestConfig(scale=2)), Spy(_NearestConfig(scale=2)).frozen()
    lr, hr = torch.rand(2, 3, 6, 6), torch.rand(2, 3, 12, 12)
    truth, changed = observe(_Both(), student, teacher, Batch(lr, hr, generator(0)))

    assert truth.teacher is None
    assert [x.shape[-1] for x in student.shown] == [4, 6]
    assert len(teacher.shown) == 1
    assert torch.equal(teacher.shown[0], lr)
    assert not torch.equal(student.shown[1], lr)
    assert_close(changed.student.sr, changed.target.sr)


def test_a_teacher_that_is_not_there_is_missed_in_a_sentence():
    lr, hr = torch.rand(2, 3, 6, 6), torch.rand(2, 3, 12, 12)

    with pytest.raises(ValueError, match="logits compares view pair with a teacher, but there is"):
        observe(Logits(), Nearest.of(2), None, Batch(lr, hr, generator(0)))


def test_a_changed_view_is_not_read():
    change = draw((1, 3, 4, 4), probability=0.5, rng=generator(0))
    for depths in ({"depths": (0.5,)}, {"student_depths": (0.5,)}):
        with pytest.raises(ValueError, match="its features cannot be compared"):
            View(name="v", image=torch.rand(1, 3, 4, 4), change=change, **depths)
    with pytest.raises(ValueError, match="weighs a ground truth that it does not have"):
        View(name="v", image=torch.rand(1, 3, 4, 4), reconstruction=1.0)


# Symmetries of batches that come again


class _Student(Logits):
    """The student alone."""

    def views(self, batch: Batch) -> list[View]:
        return [View(name="pair", image=batch.lr)]


def replayed(
    network: torch.nn.Module,
    x: Tensor,
    seed: int = 0,
    operations: Sequence[Operation] = SYMMETRIES,
    method: Method | None = None,
) -> Tensor:
    """The output of a student that sees a batch again."""
    pair = Batch(x, x.repeat_interleave(2, -1).repeat_interleave(2, -2), generator(0))
    replay = Replay(
        place=0, following=0, first=lambda: pair, rng=generator(seed), operations=tuple(operations)
    )
    return observe(method or _Student(), network, network, pair, replay)[0].student.sr


@pytest.mark.parametrize("size", [(6, 6), (4, 7)])
@pytest.mark.parametrize("operations", [SYMMETRIES, OPERATIONS, ()])
def test_a_network_that_commutes_gives_what_it_gives_without(
    size: tuple[int, int], operations: tuple[Operation, ...]
) -> None:
    network, x = Nearest.of(2), torch.rand(9, 3, *size)

    assert_close(replayed(network, x, operations=operations), network(x), rtol=0, atol=1e-6)


def test_each_image_is_seen_in_each_of_eight_ways_equally_often() -> None:
    x = torch.arange(9.0).reshape(1, 1, 3, 3).expand(4000, 3, 3, 3)
    spy = Spy(_NearestConfig(scale=2))
    replayed(spy, x)
    ways = Counter(tuple(way[0].flatten().tolist()) for way in spy.shown[0])

    assert len(ways) == 8
    assert max(abs(count - 500) for count in ways.values()) < 120  # five standard deviations of 21


def test_the_output_is_flipped_back_as_the_image_was_flipped() -> None:
    network, x = EDSRConfig(scale=2, width=4, blocks=1).build(), torch.rand(1, 3, 5, 5)
    ways = [
        network(x),
        network(x.flip(-1)).flip(-1),
        network(x.flip(-2)).flip(-2),
        network(x.flip(-1, -2)).flip(-1, -2),
        network(x.mT).mT,
        network(x.mT.flip(-1)).flip(-1).mT,
        network(x.mT.flip(-2)).flip(-2).mT,
        network(x.mT.flip(-1, -2)).flip(-1, -2).mT,
    ]
    seen = (replayed(network, x, seed) for seed in range(60))
    found = {
        next(i for i, way in enumerate(ways) if torch.allclose(sr, way, rtol=1e-5, atol=1e-6))
        for sr in seen
    }

    assert found == set(range(8))


def test_the_symmetry_follows_from_the_generator_alone() -> None:
    network, x = EDSRConfig(scale=2, width=4, blocks=1).build(), torch.rand(8, 3, 5, 5)

    assert torch.equal(replayed(network, x, 3), replayed(network, x, 3))
    assert not torch.equal(replayed(network, x, 3), replayed(network, x, 4))


def test_gradients_reach_the_network() -> None:
    network, x = EDSRConfig(scale=2, width=4, blocks=1).build(), torch.rand(4, 3, 5, 5)
    (replayed(network, x) - torch.rand(4, 3, 10, 10)).abs().mean().backward()

    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in network.parameters())


def test_a_batch_whose_features_are_read_is_seen_as_it_is() -> None:
    """What points up in an image points right in the image transposed: only outputs follow."""
    networks: list[Network] = [Spy(_NearestConfig(scale=2)) for _ in range(2)]
    x = torch.rand(16, 3, 6, 6)
    for network, method in zip(networks, (AT(), DUKD(base=AT())), strict=True):
        replayed(network, x, method=method)
        assert isinstance(network, Spy)
        assert any(torch.equal(shown[:16], x) for shown in network.shown)
