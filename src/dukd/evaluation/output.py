"""One image through a network: its output, and the time it took."""

import time
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dukd.core.device import exact_float32
from dukd.images.convert import to_tensor
from dukd.networks.bands import in_bands
from dukd.networks.base import Network
from dukd.networks.tiles import Tiling, enlarge, plan
from dukd.networks.upscaler import Upscaler, self_ensemble

Pixels = NDArray[np.uint8]
"""``(h, w, 3)``, 8 bits."""

_BUDGET = 2 << 30
"""Bytes that the two largest features of a network may take before an image is cut into strips."""
_UPSAMPLED = 2 * 4
"""Bytes per feature at the high resolution: float32, before and after the shuffle of pixels."""


@torch.no_grad()
def output(
    upscaler: Upscaler,
    lr: Pixels,
    *,
    device: torch.device | str = "cpu",
    precision: torch.dtype = torch.float32,
    averaged: bool = False,
    stay: bool = False,
) -> tuple[Tensor, float]:
    """Upscale one image.

    An image that would need more than about 2 GB is cut into strips, if the network's radius is
    known, and on the processor a tail that says how far it sees runs on some rows at a time: the
    output is the same but for float noise.

    Args:
        upscaler: A network, which is left in the mode it is in, or anything else that upscales.
        lr: ``(h, w, 3)``, 8 bits.
        device: Where the network is.
        precision: float32, or bfloat16 for autocast.
        averaged: Whether to average over eight flips and rotations.
        stay: Whether the output stays on the device, which then may still be at work on it.

    Returns:
        ``(1, 3, h * scale, w * scale)``, float32, unclamped, and the seconds it took.
    """
    network = upscaler if isinstance(upscaler, Network) else None
    device = torch.device("cpu" if network is None else device)
    x = to_tensor(lr).to(device)

    def run(part: Tensor) -> Tensor:
        return enlarge(upscaler, part, strips(upscaler, part.shape[-2], part.shape[-1]))

    was_training = network is not None and network.training
    if network is not None:
        network.eval()
    try:
        started = time.perf_counter()
        mixed = precision == torch.bfloat16
        with (
            exact_float32(wanted=not mixed),
            torch.autocast(device.type, dtype=torch.bfloat16, enabled=mixed),
            _sparing(network, device),
        ):
            sr = self_ensemble(run, x) if averaged else run(x)
        sr = sr.float() if stay else sr.float().cpu()
        return sr, time.perf_counter() - started
    finally:
        if network is not None:
            network.train(was_training)


def _sparing(network: Network | None, device: torch.device) -> AbstractContextManager[None]:
    """In little memory, where that costs no time: a GPU is faster in one go."""
    return nullcontext() if network is None or device.type != "cpu" else in_bands(network)


def strips(upscaler: Upscaler, height: int, width: int) -> Tiling:
    """Cut an image of this size so that it stays within the budget of memory.

    A network that looks at the whole image is not cut: that would change what is measured.
    """
    if not isinstance(upscaler, Network):
        return plan(upscaler, height, width)
    rows = height
    if upscaler.radius is not None:
        seen = _BUDGET // (_UPSAMPLED * max(1, upscaler.width) * upscaler.scale**2 * width)
        # Where what a strip sees beside its own outweighs it, smaller strips would cost more time
        # than they save memory.
        rows = max(seen - 2 * upscaler.radius, upscaler.radius, 1)
    return plan(upscaler, height, width, tile=(min(rows, height), width))
