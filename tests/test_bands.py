"""Images are enlarged in memory that grows by what they hold, not by what networks make of them."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from dukd.networks import EDSR, EDSRConfig, Network, NetworkConfig, RCANConfig, Staged, SwinIRConfig
from dukd.networks.bands import in_bands
from dukd.networks.base import Output
from dukd.networks.rrdb import RRDBConfig

WITH_LARGE_FEATURES = [
    EDSRConfig(scale=2, width=8, blocks=1),
    EDSRConfig(scale=3, width=8, blocks=1, skip="nearest"),
    EDSRConfig(scale=4, width=8, blocks=1),
    RCANConfig(scale=4, width=8, groups=1, blocks=1, squeeze=4),
    RRDBConfig(scale=4, width=8, blocks=1, growth=4),
    RRDBConfig(scale=2, width=8, blocks=1, growth=4, unshuffle=2),
    SwinIRConfig(scale=4, width=12, depths=(1,), heads=(2,), window=4, upsampler="pixelshuffle"),
    SwinIRConfig(scale=4, width=12, depths=(1,), heads=(2,), window=4, upsampler="nearest+conv"),
]
every_network = pytest.mark.parametrize(
    "config", WITH_LARGE_FEATURES, ids=lambda c: f"{c.describe()}"
)


def banded(network: Network, lr: Tensor, rows: int | None = None) -> Tensor:
    with torch.no_grad(), in_bands(network, rows=rows):
        return network(lr)


def made(config: NetworkConfig) -> Staged:
    torch.manual_seed(0)
    network = config.build().frozen()
    assert isinstance(network, Staged)
    return network


@every_network
def test_bands_give_the_output_of_the_whole(config: NetworkConfig) -> None:
    network, lr = made(config), torch.rand(2, 3, 27, 19)

    for rows in (1, 5, 16):
        assert_close(banded(network, lr, rows), network(lr), rtol=1e-5, atol=1e-5)


@every_network
def test_a_tail_that_reaches_further_than_it_says_would_show(config: NetworkConfig) -> None:
    network, lr = made(config), torch.rand(1, 3, 28, 20)
    assert network.tail_radius is not None

    network.tail_radius -= 1

    difference = (banded(network, lr, 6) - network(lr)).abs().max()
    assert difference > 1e-4, f"{difference}"


def test_no_feature_of_the_output_s_size_is_made() -> None:
    """512 rows of 32 channels at twice the size, before and after the shuffle, are 268 MB."""
    network = made(EDSRConfig(scale=2, width=32, blocks=1))
    largest = 0

    def look(_module: nn.Module, _given: object, feature: Tensor) -> None:
        nonlocal largest
        largest = max(largest, feature.nbytes)

    for module in network.modules():
        if not isinstance(module, EDSR):
            module.register_forward_hook(look)
    banded(network, torch.rand(1, 3, 512, 512))

    assert largest == 516 // 2 * 512 * 4 * 32 * 4


def test_networks_with_a_pass_of_their_own_run_as_they_are() -> None:
    class Twice(EDSR):
        def observe(self, lr: Tensor, depths: Sequence[float]) -> Output:
            sr, features, _ = super().observe(lr, depths)
            return Output(2 * sr, features, self)

    class Unknown(EDSR):
        tail_radius = None

        def tail(self, x: Tensor, kept: Mapping[int, Tensor], lr: Tensor) -> Tensor:
            return super().tail(x, kept, lr) + x.mean()

    lr = torch.rand(1, 3, 20, 20)
    for kind in (Twice, Unknown):
        network = kind(EDSRConfig(scale=2, width=8, blocks=1)).frozen()

        assert_close(banded(network, lr, 4), network(lr), rtol=0, atol=0)


def test_a_network_is_left_as_it_was_and_its_hooks_are_called() -> None:
    network, lr = made(EDSRConfig(scale=2, width=8, blocks=1)), torch.rand(1, 3, 20, 20)
    before = dict(vars(network))

    def brighten(_module: nn.Module, _given: object, sr: Tensor) -> Tensor:
        return sr + 1

    network.register_forward_hook(brighten)

    assert_close(banded(network, lr, 4), network(lr))
    assert vars(network) == before


PROGRAM = """
import re, sys
from pathlib import Path
import numpy as np
import torch
from dukd import images
from dukd.core.allocator import keep_freed_memory
from dukd.deploy.image import upscale_image
from dukd.networks import EDSRConfig
from dukd.networks.upscaler import OnDevice

def megabytes():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) / 1000

torch.set_num_threads(1)
keep_freed_memory()
upscaler = OnDevice(EDSRConfig(scale=2, width=8, blocks=1).build().frozen())
before = megabytes()
for side in (256, 512, 1024):
    pixels = np.zeros((side, side, 3), np.uint8)
    result, _ = upscale_image(upscaler, images.Image(pixels=pixels), tile=256)
    images.write(Path(sys.argv[1]), result)
    print(megabytes() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's account of a process")
def test_memory_grows_by_what_the_image_holds(tmp_path: Path) -> None:
    """A pixel of the result is 3 bytes, and 4 more while Pillow writes it.

    The image in float32 would be 12 more, and features of 8 channels 32 each.
    """
    program = [sys.executable, "-c", PROGRAM, str(tmp_path / "large.png")]

    printed = subprocess.run(program, check=True, capture_output=True, text=True).stdout
    small, middle, large = map(float, printed.split())

    assert large - middle < 14 * 3 * 1024**2 / 1e6, (small, middle, large)
    assert large - small < 14 * 3.75 * 1024**2 / 1e6 + 20, (small, middle, large)
