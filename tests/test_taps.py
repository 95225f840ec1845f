"""Reading, cutting and merging forward passes change no number."""

import pytest
import torch
from torch.testing import assert_close

from dukd.methods.inner import Adapter, Recorded, forward_merged, front, rest
from dukd.networks import EDSRConfig, RCANConfig, SwinIRConfig
from dukd.networks.base import stage_number
from stand_ins import Spy, _NearestConfig

CONFIGS = [
    EDSRConfig(scale=2, width=8, blocks=4),
    RCANConfig(scale=2, width=8, groups=2, blocks=2, squeeze=4),
    SwinIRConfig(scale=2, width=12, depths=(2, 2), heads=(2, 2), window=4),
]
every_network = pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)


@every_network
@pytest.mark.parametrize("depth", [0.0, 0.3, 0.5, 1.0])
def test_cutting_and_going_on_gives_the_whole_answer(config, depth):
    network, lr = config.build().eval(), torch.rand(2, 3, 9, 7)

    assert_close(rest(network, front(network, lr, depth), depth), network(lr), rtol=0, atol=0)


@every_network
def test_merged_passes_equal_single_ones(config):
    network = config.build().eval()
    inputs = [torch.rand(2, 3, 8, 8), torch.rand(1, 3, 4, 8), torch.rand(3, 3, 8, 8)]

    for x, (sr, features) in zip(inputs, forward_merged(network, inputs, (0.5, 1.0)), strict=True):
        expected, theirs, _ = network.observe(x, (0.5, 1.0))
        assert_close(sr, expected)
        for ours, its in zip(features, theirs, strict=True):
            assert_close(ours, its)


def test_inputs_of_equal_size_share_a_pass():
    spy = Spy(_NearestConfig(scale=2))
    forward_merged(spy, [torch.rand(2, 3, 8, 8), torch.rand(1, 3, 4, 4), torch.rand(2, 3, 8, 8)])

    assert [tuple(x.shape) for x in spy.shown] == [(4, 3, 8, 8), (1, 3, 4, 4)]


def test_a_recorded_answer_is_not_computed_again():
    spy = Spy(_NearestConfig(scale=2))
    lr, other = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    recorded = Recorded(spy, (0.5,))
    recorded.ask([lr, other])

    first, (features,), _ = recorded.observe(lr, (0.5,))
    assert recorded(lr) is first
    assert_close(features, lr)
    assert len(spy.shown) == 1


def test_an_equal_but_different_tensor_is_computed():
    """Answers belong to tensors, not to values.

    An image that was changed in between is asked anew.
    """
    spy = Spy(_NearestConfig(scale=2))
    lr = torch.rand(2, 3, 4, 4)
    recorded = Recorded(spy)
    recorded.ask([lr])
    recorded(lr.clone())

    assert len(spy.shown) == 2


def test_depths_that_were_not_recorded_are_computed():
    network = CONFIGS[0].build()
    lr = torch.rand(1, 3, 4, 4)
    recorded = Recorded(network, (0.5,))
    recorded.ask([lr])

    assert_close(recorded.observe(lr, (1.0,))[1], network.observe(lr, (1.0,))[1])


@pytest.mark.parametrize(
    ("count", "depth", "number"),
    [(33, 1 / 3, 11), (33, 2 / 3, 22), (17, 1 / 3, 6), (11, 1, 11), (1, 0.1, 1)],
)
def test_depths_are_fractions_of_the_stages(count, depth, number):
    assert stage_number(depth, count) == number


@pytest.mark.parametrize("depth", [0, -0.5, 1.01])
def test_a_depth_outside_its_range_is_refused(depth):
    with pytest.raises(ValueError, match=r"fraction in \(0, 1\]"):
        CONFIGS[0].build().observe(torch.rand(1, 3, 4, 4), (depth,))


def test_adapters_lead_from_the_students_width_to_the_teachers():
    student, teacher = (
        EDSRConfig(scale=2, width=8, blocks=1).build(),
        EDSRConfig(scale=2, width=12, blocks=1).build(),
    )
    adapter = Adapter(student, teacher, (0.5, 1.0))

    assert [f.shape for f in adapter([torch.rand(1, 8, 4, 4)] * 2)] == [(1, 12, 4, 4)] * 2
