"""What every network promises, as a check that needs no test framework.

Example:
    >>> def test_what_every_network_promises():
    ...     check_network(MyConfig(scale=2))
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from dukd.networks import Network, NetworkConfig
from dukd.networks.base import Staged, pad_to_multiple
from dukd.networks.files import weights
from dukd.testing.cases import hold

_WIDEST = 128
"""Pixels on a side of the largest image on which a radius is checked."""


def check_network(config: NetworkConfig) -> None:
    """Hold a network to what every network promises. It takes seconds where the network is small.

    Args:
        config: The network's numbers; small ones will do.

    Raises:
        AssertionError: If a promise is broken; the message says which.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network, twin = config.build(), config.build()
        shapes = [{name: t.shape for name, t in n.state_dict().items()} for n in (network, twin)]
        hold(
            network.config == config,
            f"{config.name} was built from {config}, but says {network.config}",
        )
        hold(shapes[0] == shapes[1], f"building {config} twice gives tensors of other shapes")
        _every_parameter_learns(network, torch.rand(2, 3, 24, 24))
        network.frozen()
        for h, w in ((1, 1), (5, 7), (16, 24)):
            _gives_images(network, torch.rand(2, 3, h, w))
        if isinstance(network, Staged):
            _hands_out_what_stays(network, torch.rand(1, 3, 16, 24))
        if network.radius is not None:
            _reaches_no_further(network, network.radius)
    _comes_back_from_its_file(network, torch.rand(1, 3, 9, 8))


def _every_parameter_learns(network: Network, lr: Tensor) -> None:
    sr = network.train()(lr)
    (sr * torch.rand_like(sr)).sum().backward()
    idle = [
        name
        for name, p in network.named_parameters()
        if p.grad is None or not p.grad.abs().sum() > 0
    ]
    hold(not idle, f"{network.config.name} has parameters that no output depends on: {idle[:3]}")


def _gives_images(network: Network, lr: Tensor) -> None:
    name, before, (n, _, h, w) = network.config.name, lr.clone(), lr.shape
    sr = network(lr)
    wanted = (n, 3, h * network.scale, w * network.scale)
    hold(sr.shape == wanted, f"{name} gives {tuple(sr.shape)} for {tuple(lr.shape)}, not {wanted}")
    again, features, _ = network.observe(lr, (0.5, 1.0))
    hold(
        torch.equal(sr, again),
        f"{name} gives another output when its features are read, or when it runs again",
    )
    hold(torch.equal(lr, before), f"{name} changes lr in place")
    sides = [-(-side // network.size_multiple) * network.size_multiple for side in (h, w)]
    for feature in features:
        shape = (n, network.width, *sides)
        hold(
            feature.shape == shape,
            f"{name} has features {tuple(feature.shape)}, but its width says {shape}",
        )


def _hands_out_what_stays(network: Staged, lr: Tensor) -> None:
    """A feature that was read is not written to afterwards."""
    padded = pad_to_multiple(lr, network.size_multiple)
    handed = [network.head(padded)]
    kept = [handed[0].clone()]
    for stage in network.stages:
        handed.append(stage(handed[-1]))
        kept.append(handed[-1].clone())
    network.tail(handed[-1], dict(enumerate(handed)), padded)
    written = [
        i for i, (x, y) in enumerate(zip(handed, kept, strict=True)) if not torch.equal(x, y)
    ]
    where = f"stages {written} (0 is the head)"
    hold(not written, f"{network.config.name} writes into features it has handed out, of {where}")


def _reaches_no_further(network: Network, radius: int) -> None:
    """A pixel further away than the radius changes nothing: only so are tiles exact."""
    side = -(-(2 * radius + 5) // network.size_multiple) * network.size_multiple
    if side > _WIDEST:
        return
    lr = torch.rand(1, 3, side, side)
    other, middle = lr.clone(), side // 2
    other[..., middle, middle] = 1 - other[..., middle, middle]
    changed = (network(lr) != network(other)).any(1).nonzero()[:, 1:] // network.scale - middle
    reach = int(changed.abs().max()) if len(changed) else 0
    hold(
        reach <= radius,
        f"{network.config.name} reaches {reach} pixels, but says its radius is {radius}",
    )


def _comes_back_from_its_file(network: Network, lr: Tensor) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.safetensors"
        weights.write(path, network)
        again = weights.read(path).frozen()
    hold(
        again.config == network.config,
        f"{network.config} comes back from its file as {again.config}",
    )
    hold(
        torch.equal(again(lr), network(lr)),
        f"{network.config.name} gives another output once read from its file",
    )
