"""Cutting a network and going on changes no number, whatever its tail keeps."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from dukd.methods.features import Adapter
from dukd.methods.inner import beginning, block, entering, front, rest
from dukd.networks import EDSRConfig, RCANConfig, SwinIRConfig
from dukd.networks.base import Staged
from dukd.networks.opaque import Opaque
from stand_ins import Nearest

CONFIGS = [
    EDSRConfig(scale=2, width=8, blocks=4),
    RCANConfig(scale=2, width=8, groups=2, blocks=2, squeeze=4),
    SwinIRConfig(scale=2, width=12, depths=(2, 2), heads=(2, 2), window=4),
]
every_network = pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)


class Keeping(Nearest):
    """Its tail adds what its first and its third of four stages gave."""

    keeps = (0, 1, 3)

    def __init__(self):
        super().__init__(Nearest.of(2).config)
        self.row = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(4))

    def tail(self, x, kept, lr):
        return super().tail(x + 2 * kept[1] + 3 * kept[3] + kept[0], kept, lr)


@every_network
@pytest.mark.parametrize("depth", [0.0, 0.3, 0.5, 1.0])
def test_cutting_and_going_on_gives_the_whole_output(config, depth):
    network, lr = config.build().eval(), torch.rand(2, 3, 9, 7)

    assert_close(rest(network, front(network, lr, depth), depth), network(lr), rtol=0, atol=0)


@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_what_a_tail_keeps_is_the_networks_own(depth):
    network, lr = Keeping(), torch.rand(1, 3, 6, 5)
    other = entering(network, beginning(network, lr, depth), front(network, lr, depth).features)

    assert_close(rest(network, front(network, lr, depth), depth), network(lr))
    assert_close(rest(network, other, depth), network(lr))


def test_of_a_network_that_keeps_its_head_only_the_head_is_run_before_others_features():
    network = EDSRConfig(scale=2, width=8, blocks=4).build()
    runs = []
    network.stages[0].register_forward_hook(lambda *_: runs.append(1))
    beginning(network, torch.rand(1, 3, 4, 4), 1.0)

    assert not runs


@every_network
def test_blocks_between_cuts_make_the_whole(config):
    network, lr = config.build().eval(), torch.rand(1, 3, 8, 8)
    half = front(network, lr, 0.5).features

    assert_close(block(network, half, 0.5, 1.0), front(network, lr, 1.0).features)


def test_a_network_of_one_piece_is_refused_in_a_sentence():
    opaque = Opaque(nn.Upsample(scale_factor=2), 2)
    assert not isinstance(opaque, Staged)

    with pytest.raises(ValueError, match="runs parts of networks, and Opaque is one piece"):
        front(opaque, torch.rand(1, 3, 4, 4), 0.5)


def test_adapters_lead_from_the_students_width_to_the_teachers():
    adapter = Adapter([(8, 12), (4, 12)])
    features = [torch.rand(1, 8, 4, 4), torch.rand(1, 4, 4, 4)]

    assert [f.shape for f in adapter(features)] == [(1, 12, 4, 4)] * 2
