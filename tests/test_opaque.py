"""Any module as a network: its scale, its features by path, and what cannot be read."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.testing import assert_close

from dukd.networks import EDSRConfig, Opaque
from dukd.networks.base import staged


class Foreign(nn.Module):
    """Somebody's network: the second rectifier writes over what it is given."""

    def __init__(self, scale: int = 2, multiple: int = 1) -> None:
        super().__init__()
        self.multiple = multiple
        self.body = nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 7, 3, padding=1), nn.ReLU(True)
        )
        self.up = nn.Sequential(nn.Conv2d(7, 3 * scale**2, 1), nn.PixelShuffle(scale))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] % self.multiple:
            raise RuntimeError("sizes are multiples")
        return self.up(self.body(x))


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_the_scale_is_found_by_running_once(scale: int) -> None:
    module = Foreign(scale).train()

    assert Opaque(module).scale == scale
    assert module.training
    assert module.up.training


def test_a_module_that_takes_multiples_of_64_is_tried_on_them() -> None:
    assert Opaque(Foreign(4, multiple=64)).scale == 4


def test_features_are_those_of_the_submodules_that_are_named() -> None:
    module, lr = Foreign(), torch.rand(2, 3, 6, 5)
    network = Opaque(module, taps=("body.0", "body.1", "body.3"))
    sr, (middle, last), source = network.observe(lr, (0.5, 1.0))

    assert_close(sr, module(lr), rtol=0, atol=0)
    assert_close(middle, module.body[:2](lr), rtol=0, atol=0)
    assert_close(last, module.body(lr), rtol=0, atol=0)
    assert source is network
    assert not any(part._forward_hooks for part in module.modules())
    assert_close(network(lr), sr, rtol=0, atol=0)


def test_gradients_flow_through_features() -> None:
    network = Opaque(Foreign(), taps=("body.0",))
    _, (features,), _ = network.observe(torch.rand(1, 3, 4, 4), (1.0,))
    features.square().mean().backward()

    assert network.module.get_parameter("body.0.weight").grad is not None


def test_each_tap_says_how_wide_it_is() -> None:
    network = Opaque(Foreign(), 2, ("body.0", "body.3"))

    assert [network.width_at(depth) for depth in (0.5, 1.0)] == [5, 7]
    assert EDSRConfig(scale=2, width=6, blocks=1).build().width_at(0.5) == 6


def test_what_is_overwritten_in_place_is_noticed() -> None:
    network = Opaque(Foreign(), taps=("body.2",))

    with pytest.raises(ValueError, match=r"body\.2 gives is overwritten in place"):
        network.observe(torch.rand(1, 3, 4, 4), (1.0,))


def test_a_module_without_taps_says_what_to_write() -> None:
    network = Opaque(Foreign())

    with pytest.raises(ValueError, match=r"Opaque\(module, taps="):
        network.observe(torch.rand(1, 3, 4, 4), (0.5,))
    with pytest.raises(ValueError, match=r"Opaque\(module, taps="):
        network.width_at(0.5)
    with pytest.raises(ValueError, match="is one piece"):
        staged(network)
    with pytest.raises(ValueError, match=r"no submodule 'body\.9'"):
        Opaque(Foreign(), taps=("body.9",))
    with pytest.raises(ValueError, match="RGB images"):
        network(torch.rand(3, 4, 4))


def test_a_tap_gives_a_map() -> None:
    network = Opaque(nn.Sequential(nn.Flatten(), nn.Unflatten(1, (3, 4, 4))), 1, taps=("0",))

    with pytest.raises(ValueError, match="0 gives no map"):
        network.observe(torch.rand(1, 3, 4, 4), (1.0,))


def test_other_conventions_are_stated() -> None:
    class Bytes(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, None]:
            assert x.max() > 1
            return interpolate(x, scale_factor=2), None

    network = Opaque(Bytes(), enter=lambda x: x * 255, leave=lambda y: y[0] / 255)
    lr = torch.rand(1, 3, 4, 4)

    assert network.scale == 2
    assert_close(network(lr), interpolate(lr, scale_factor=2))
    with pytest.raises(ValueError, match="leave="):
        Opaque(Bytes(), 2)(lr + 1)


def test_what_is_not_a_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="not a whole scale"):
        Opaque(nn.Conv2d(3, 4, 1))
    with pytest.raises(ValueError, match="fails on an image of 64 pixels"):
        Opaque(nn.Conv2d(5, 3, 1))
    with pytest.raises(ValueError, match="cannot build from numbers"):
        Opaque(Foreign()).config.build()
