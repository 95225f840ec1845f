"""What a network costs to run, counted and not timed."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from dukd.networks.base import Network
from dukd.networks.opaque import Opaque
from dukd.networks.reduced import Reduced

_SIDE = 64


def macs(network: Network, h: int, w: int) -> int:
    """Multiply-accumulates of matrix products and convolutions for one image.

    Counted on tensors without data, so a large network takes no memory and little time.

    Args:
        network: Any network; only its config matters.
        h: Height of the low-resolution image, in pixels.
        w: Width likewise.
    """
    if isinstance(network, Reduced):
        return macs(network.network, h, w)
    if isinstance(network, Opaque):  # somebody's module runs as it is; its cost grows with the area
        like = next(network.parameters(), torch.zeros(()))
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, _SIDE, _SIDE, dtype=like.dtype, device=like.device))
        return counter.get_total_flops() // 2 * h * w // _SIDE**2
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.config.build().eval()(torch.empty(1, 3, h, w))
    return counter.get_total_flops() // 2
