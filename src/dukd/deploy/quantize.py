"""Quantize a trained student without training it: which choice of ranges loses how much."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dukd.data.pairs import Pairs, load
from dukd.evaluation.metrics import psnr_y
from dukd.images.convert import to_tensor
from dukd.networks import Network, Quantized, QuantizedConfig
from dukd.networks.quantize.balance import balance
from dukd.networks.quantize.calibrate import CHOICES, Choice, calibrate, sensitivity
from dukd.networks.quantize.settle import settle
from dukd.networks.quantize.targets import TargetName

SIDE = 128
"""Pixels on a side of the middles of the low-resolution images that are used."""

Middle = tuple[Tensor, Tensor]
"""The middle of an image at the low and at the high resolution, ``(1, 3, h, w)`` in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is to be made of a student."""

    target: TargetName = "openvino"
    """Runtime it is quantized for."""
    bits: int = 8
    """Bits of weights and activations; 6 and 4 are for simulation alone."""
    weight_bits: int | None = None
    """7 for weights whose products with 8 bits every processor adds exactly and fast; those
    without VNNI, which most desktops with AVX2 are, need it. As many as bits if left out."""
    keep: tuple[str, ...] | None = None
    """Layers that stay float, such as conv_last; ``ends`` for the first, those before a shuffle of
    pixels and the last; what the target recommends if left out."""
    balance: bool = True
    """Whether the channels of a map are given the same range first, which changes nothing in float,
    and weights are rounded so that their sums stay."""
    choice: Choice | None = None
    """How ranges are chosen; the best of all if left out."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A student in few bits, and what it lost."""

    network: Quantized
    choice: Choice
    """How its ranges were chosen."""
    float_psnr: float
    """PSNR of the luma of the float student, in dB."""
    psnr: dict[Choice, float]
    """The same of the quantized one, by the choices that were tried."""
    notes: tuple[str, ...]
    """What should be known, a sentence each."""


def middles(pairs: Pairs, count: int, *, side: int = SIDE) -> list[Middle]:
    """The middles of some images of a set, evenly spaced.

    Args:
        pairs: Images at both resolutions.
        count: Images to take, at most all.
        side: Pixels on a side at the low resolution, at most.

    Raises:
        ValueError: If ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"at least one image is needed, but count is {count}")
    count = min(count, len(pairs))
    chosen = [pairs[k * len(pairs) // count] for k in range(count)]
    return [_middle(*(_batch(to_tensor(x)) for x in load(p)), side=side) for p in chosen]


def _batch(x: Tensor) -> Tensor:
    return x if x.ndim == 4 else x[None]


def _middle(lr: Tensor, hr: Tensor, *, side: int) -> Middle:
    scale = hr.shape[-1] // lr.shape[-1]
    h, w = (min(n, side) for n in lr.shape[-2:])
    top, left = (lr.shape[-2] - h) // 2, (lr.shape[-1] - w) // 2
    small = lr[..., top : top + h, left : left + w]
    large = hr[..., scale * top : scale * (top + h), scale * left : scale * (left + w)]
    return small.contiguous(), large.contiguous()


def measured(middles: Sequence[Middle], scale: int) -> Callable[[Network], float]:
    """A function that gives a network's mean PSNR of the luma on some images, in dB."""

    @torch.no_grad()
    def measure(network: Network) -> float:
        values = [psnr_y(network(lr), hr, border=scale).item() for lr, hr in middles]
        return sum(values) / len(values)

    return measure


def quantize(
    network: Network, shown: Sequence[Middle], judged: Sequence[Middle], options: Options
) -> Result:
    """Quantize a student, and measure what that loses.

    Args:
        network: A float student; it stays as it is.
        shown: Images that set the ranges.
        judged: Images on which the quality is measured.
        options: For which runtime, and how.

    Raises:
        ValueError: If the network cannot be quantized, or the images set no range.
    """
    if isinstance(network.config, QuantizedConfig):
        raise ValueError(  # noqa: TRY004  it is the caller's choice of network
            f"{network.config.network.name} is quantized already: name the float one"
        )
    network = network.folded()  # branches that only train have no convolution of their own
    config = QuantizedConfig(
        network=network.config,
        target=options.target,
        bits=options.bits,
        weight_bits=options.weight_bits,
        keep=options.keep,
    )
    with torch.random.fork_rng(devices=[]):
        made = config.build().eval()
    made.take(network.state_dict())
    measure = measured(judged, network.scale)
    images = [lr for lr, _ in shown]
    psnr: dict[Choice, float] = {}
    balanced: list[str] = []
    if options.balance:
        balanced = balance(made, images)
        settle(made)
    notes: list[str] = []
    for choice in CHOICES if options.choice is None else (options.choice,):
        notes = calibrate(made, images, choice)
        psnr[choice] = measure(made)
    best = max(psnr, key=lambda choice: psnr[choice])
    calibrate(made, images, best)
    return Result(
        network=made,
        choice=best,
        float_psnr=measure(network),
        psnr=psnr,
        notes=(*made.describe(), *balanced, *notes),
    )


def losses(result: Result, judged: Sequence[Middle]) -> dict[str, float]:
    """What each layer loses by itself, in dB, the worst first."""
    found = sensitivity(result.network, measured(judged, result.network.scale))
    return dict(sorted(found.items(), key=lambda row: row[1]))
