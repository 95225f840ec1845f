"""Operations are counted without torch's compiler, and as torch counts them."""

import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from dukd.core.registry import known
from dukd.networks import (
    CompactConfig,
    EDSRConfig,
    Network,
    NetworkConfig,
    Opaque,
    PlainConfig,
    QuantizedConfig,
    RCANConfig,
    SMFANetConfig,
    SwinIRConfig,
    macs,
)
from dukd.networks.base import Output
from dukd.networks.cost import counted_by_torch
from dukd.networks.ensemble import EnsembleConfig, Member
from dukd.networks.exits import ExitsConfig
from dukd.networks.rrdb import RRDBConfig
from dukd.networks.span import SPANConfig

EDSR = EDSRConfig(scale=2, width=4, blocks=2)
NETWORKS: list[NetworkConfig] = [
    EDSR,
    EDSRConfig(scale=3, width=4, blocks=1, skip="nearest"),
    RCANConfig(scale=4, width=8, groups=1, blocks=1, squeeze=4),
    SwinIRConfig(scale=4, width=12, depths=(2,), heads=(2,), window=4),
    SwinIRConfig(scale=2, width=12, depths=(2,), heads=(2,), upsampler="nearest+conv"),
    SMFANetConfig(scale=4, width=8, blocks=1),
    CompactConfig(scale=2, width=4, blocks=1),
    PlainConfig(scale=2, width=4, blocks=1),
    RRDBConfig(scale=2, width=4, blocks=1, growth=4, unshuffle=2),
    SPANConfig(scale=4, width=8),
    ExitsConfig(network=EDSR, depths=(0.5,)),
    EnsembleConfig(scale=2, members=(Member(name="one", network=EDSR),), width=4, blocks=1),
    QuantizedConfig(network=CompactConfig(scale=2, width=4, blocks=1)),
]


@pytest.mark.parametrize("config", NETWORKS, ids=lambda c: c.describe())
def test_counts_are_those_of_torch(config: NetworkConfig) -> None:
    network = config.build()

    for h, w in ((3, 5), (9, 70), (65, 91), (128, 40)):
        assert macs(network, h, w) == counted_by_torch(config, h, w), (h, w)


def test_no_network_is_left_out() -> None:
    ours = {n for n, kind in known(NetworkConfig).items() if kind.__module__.startswith("dukd.")}
    assert {config.name for config in NETWORKS} == ours


@dataclass(frozen=True, kw_only=True)
class _FarConfig(NetworkConfig):
    name: ClassVar[str] = "far"

    @override
    def build(self) -> Network:
        return Far(self)


class Far(Network):
    """Every pixel looks at every other one: the cost grows with the square of the area."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config, width=3, radius=None)

    @override
    def observe(self, lr: Tensor, depths: object) -> Output:
        pixels = lr.flatten(2)
        return Output((pixels @ (pixels.mT @ pixels)).reshape(lr.shape), [], self)


def test_networks_of_others_are_counted_by_torch() -> None:
    """3 x p by p x p, and p x 3 by 3 x p, for p pixels."""
    pixels = 24 * 32

    assert macs(_FarConfig(scale=1).build(), 24, 32) == 2 * 3 * pixels**2


def test_modules_of_others_grow_with_the_area() -> None:
    module = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))

    assert macs(Opaque(module, 2), 20, 30) == 20 * 30 * 9 * 3 * 12


def test_counting_draws_no_random_numbers() -> None:
    network = EDSR.build()
    before = torch.get_rng_state()

    macs(network, 64, 64)

    assert torch.equal(torch.get_rng_state(), before)


def test_counting_does_not_import_the_compiler() -> None:
    """It would take 2 seconds."""
    program = (
        "import sys\nfrom dukd.networks import PlainConfig, macs\n"
        "macs(PlainConfig(scale=2).build(), 180, 320)\nassert 'torch._dynamo' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", program], check=True)
