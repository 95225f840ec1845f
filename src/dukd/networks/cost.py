"""What a network costs to run, counted and not timed."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from dukd.networks.base import Network


def macs(network: Network, h: int, w: int) -> int:
    """Multiply-accumulates of matrix products and convolutions for one image.

    Counted on tensors without data, so a large network takes no memory and little time.

    Args:
        network: Any network; only its config matters.
        h: Height of the low-resolution image, in pixels.
        w: Width likewise.
    """
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.config.build().eval()(torch.empty(1, 3, h, w))
    return counter.get_total_flops() // 2
