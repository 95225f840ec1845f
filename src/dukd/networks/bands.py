"""Networks whose tail runs on some rows at a time: features of sr's size are never there whole.

They are what most of the memory goes to: ``scale`` squared times a feature of the body, before and
after the shuffle of pixels.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import Tensor

from dukd.networks.base import Network, Output, Staged, check_images, pad_to_multiple

_BUDGET = 128 << 20  # bytes for the two largest features of a band
_UPSAMPLED = 2 * 4  # bytes per feature of sr's size: float32, before and after the pixel shuffle
_LEAST = 32  # rows of a band: what it sees beside its own costs time


@contextmanager
def in_bands(network: Network, *, rows: int | None = None) -> Generator[None, None, None]:
    """Let a network upscale in less memory inside this block; outputs are equal to float noise.

    A network that does not say how far its tail reaches, or was compiled, runs as it does outside.

    Args:
        network: What enlarges.
        rows: Of the features, that the tail takes at a time; as many as 128 MB hold, and at least
            32, if left out.
    """
    if (
        not isinstance(network, Staged)
        or network.tail_radius is None
        or type(network).observe is not Staged.observe
        or type(network).run is not Staged.run
        or "observe" in vars(network)
    ):
        yield
        return
    network.observe = partial(_observe, network, network.tail_radius, rows)
    try:
        yield
    finally:
        del network.observe


def _observe(
    network: Staged, radius: int, rows: int | None, lr: Tensor, depths: Sequence[float]
) -> Output:
    if depths:
        return Staged.observe(network, lr, depths)
    check_images(lr)
    h, w = (side * network.scale for side in lr.shape[-2:])
    padded = pad_to_multiple(lr, network.size_multiple)
    return Output(_upscaled(network, padded, radius, rows)[..., :h, :w], [], network)


def _upscaled(network: Staged, padded: Tensor, radius: int, rows: int | None) -> Tensor:
    x, kept = network.run_stages(padded)
    n, channels, height, width = x.shape
    fold = padded.shape[-2] // height  # pixels of lr per pixel of the features
    scale = network.scale * fold
    rows = rows or max(_LEAST, _BUDGET // (_UPSAMPLED * n * channels * scale**2 * width))
    if rows >= height:
        return network.tail(x, kept, padded)
    sr = padded.new_empty(n, 3, height * scale, width * scale)
    for first in range(0, height, rows):
        last = min(height, first + rows)
        top, bottom = max(0, first - radius), min(height, last + radius)
        part = network.tail(
            x[..., top:bottom, :],
            {number: feature[..., top:bottom, :] for number, feature in kept.items()},
            padded[..., top * fold : bottom * fold, :],
        )
        own = part[..., (first - top) * scale : (last - top) * scale, :]
        sr[..., first * scale : last * scale, :] = own
    return sr
