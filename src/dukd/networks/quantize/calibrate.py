"""Set the ranges of a quantized network from images, without training it.

Three choices of each range: from the smallest to the largest value seen; between the percentiles
0.01 and 99.99; and the one of least squared error. Images themselves go from 0 to 1, so the range
of a network's input, and of its output where that is the image, is known and loses nothing.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx, nn

from dukd.networks.base import Network
from dukd.networks.quantize.layers import QuantizedConv2d, Quantizer
from dukd.networks.quantize.placement import AnyQuantizer, Site
from dukd.networks.quantize.published import PAMSQuantizer
from dukd.networks.quantized import Quantized

Choice = Literal["min-max", "percentile", "mse"]
CHOICES: tuple[Choice, ...] = ("min-max", "percentile", "mse")
"""How a range is chosen."""
PERCENTILE = 1e-4
"""Share of the values that may lie outside the range of ``percentile``, on each side."""
_BINS = 2048
_SHRINKS = 100
"""Ranges that ``mse`` tries, from the widest to a hundredth of it."""


@dataclass
class Seen:
    """What a quantizer was shown."""

    low: float
    high: float
    counts: Tensor
    """``(bins,)``: how many values lie in each of equal bins from ``low`` to ``high``."""


def calibrate(
    network: Quantized, images: Sequence[Tensor], choice: Choice = "percentile"
) -> list[str]:
    """Set all ranges of a network.

    Args:
        network: Its ranges are set in place.
        images: Each ``(n, 3, h, w)``, RGB in [0, 1], of the low resolution.
        choice: How ranges are chosen.

    Returns:
        What should be known of it, a sentence each.

    Raises:
        ValueError: If there is no image, or none has any variation.
    """
    notes = _check(images)
    seen = observe(network, images)
    dead: list[str] = []
    for site in network.sites:
        quantizer = network.quantizer(site)
        if not isinstance(quantizer, Quantizer | PAMSQuantizer):
            continue
        if site.role == "image":
            low, high = _image_range(network, site)
        elif site.role == "output":
            low, high = _output_range(network, site)
        else:
            found = seen[site]
            if found.low == found.high:
                dead.append(site.name)
            levels = quantizer.levels if isinstance(quantizer, Quantizer) else (-127, 127)
            low, high = chosen_range(found, choice, levels)
        quantizer.set_range(low, high)
    if dead:
        notes.append(
            f"{', '.join(dead)} had one value throughout: the range there holds it and 0, and is a "
            "guess for other images"
        )
    return notes + _dead_channels(network)


def observe(network: Quantized, images: Sequence[Tensor]) -> dict[Site, Seen]:
    """What every quantizer is shown while the network computes in float."""
    ends: dict[Site, tuple[float, float]] = {}

    def extent(site: Site, x: Tensor) -> None:
        low, high = (float(v) for v in torch.aminmax(x))
        before = ends.get(site, (low, high))
        ends[site] = min(low, before[0]), max(high, before[1])

    _show(network, images, extent)
    counts = {site: torch.zeros(_BINS) for site in ends}

    def count(site: Site, x: Tensor) -> None:
        low, high = ends[site]
        if low < high:
            counts[site] += torch.histc(x, _BINS, low, high).cpu()

    _show(network, images, count)
    return {site: Seen(low, high, counts[site]) for site, (low, high) in ends.items()}


def chosen_range(seen: Seen, choice: Choice, levels: tuple[int, int]) -> tuple[float, float]:
    """The range of what was seen; zero is inside.

    Example:
        >>> chosen_range(Seen(-1.0, 3.0, torch.ones(4)), "min-max", (0, 255))
        (-1.0, 3.0)
    """
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    total = seen.counts.sum()
    if choice == "min-max" or not total:
        return low, high
    edges = torch.linspace(seen.low, seen.high, len(seen.counts) + 1)
    if choice == "percentile":
        share = seen.counts.cumsum(0) / total
        first = int((share <= PERCENTILE).sum())
        last = int((share < 1 - PERCENTILE).sum())
        return min(edges[first].item(), 0.0), max(edges[last + 1].item(), 0.0)
    values = (edges[1:] + edges[:-1]) / 2
    shrinks = torch.linspace(0.01, 1, _SHRINKS)[:, None]
    lows, highs = low * shrinks, high * shrinks
    steps = (highs - lows) / (levels[1] - levels[0])
    zeros = torch.round(-lows / steps)
    integers = (torch.round(values / steps) + zeros).clamp(0, levels[1] - levels[0])
    errors = ((integers - zeros) * steps - values).square() @ seen.counts
    best = int(errors.argmin())
    return lows[best].item(), highs[best].item()


@contextmanager
def in_float(network: nn.Module) -> Generator[None, None, None]:
    """While it is entered, nothing is rounded."""
    parts = [m for m in network.modules() if isinstance(m, AnyQuantizer | QuantizedConv2d)]
    before = [part.enabled for part in parts]
    for part in parts:
        part.enabled = False
    try:
        yield
    finally:
        for part, was in zip(parts, before, strict=True):
            part.enabled = was


@contextmanager
def only(network: Quantized, name: str) -> Generator[None, None, None]:
    """While it is entered, one convolution and its quantizers round, or one addition's quantizer.

    Args:
        network: The network.
        name: Of the convolution, or of the addition's site.
    """
    with in_float(network):
        for site in network.sites:
            if name in {site.layer, site_name(site)}:
                network.quantizer(site).enabled = True
        if name in network.quantized:
            conv = network.convolution(name)
            assert isinstance(conv, QuantizedConv2d)
            conv.enabled = True
        yield


def site_name(site: Site) -> str:
    """What a row of a table calls a quantizer: its layer, or the part and the addition."""
    return site.layer or f"part {site.part}, {site.name}"


def rows(network: Quantized) -> list[str]:
    """The names that `only` takes, in the order of the network."""
    return list(dict.fromkeys([*network.quantized, *(site_name(s) for s in network.sites)]))


def sensitivity(network: Quantized, measure: Callable[[Network], float]) -> dict[str, float]:
    """What each layer by itself loses.

    Args:
        network: Calibrated.
        measure: The quality of a network, such as its PSNR in dB.

    Returns:
        Quality with one layer rounded, less that in float, by the names of `rows`.
    """
    with in_float(network):
        whole = measure(network)
    losses: dict[str, float] = {}
    for name in rows(network):
        with only(network, name):
            losses[name] = measure(network) - whole
    return losses


def _show(
    network: Quantized, images: Iterable[Tensor], look: Callable[[Site, Tensor], None]
) -> None:
    hooks = [
        network.quantizer(site).register_forward_hook(
            lambda _module, args, _made, site=site: look(site, args[0])
        )
        for site in network.sites
    ]
    try:
        with in_float(network), torch.no_grad():
            for image in images:
                network(image)
    finally:
        for hook in hooks:
            hook.remove()


def _image_range(network: Quantized, site: Site) -> tuple[float, float]:
    """What black and white become before the first convolution."""
    found: list[float] = []
    like = next(network.parameters())
    sides = [torch.full((1, 3, 8, 8), v, device=like.device) for v in (0.0, 1.0)]
    _show(
        network,
        sides,
        lambda seen, x: found.extend(v.item() for v in torch.aminmax(x)) if seen == site else None,
    )
    return min(found), max(found)


def _output_range(network: Quantized, site: Site) -> tuple[float, float]:
    """What becomes black and white behind the last convolution."""
    tail = network.parts[-1]
    assert isinstance(tail, fx.GraphModule)
    node = next(n for n in tail.graph.nodes if n.target == site.module)
    source = node.all_input_nodes[0]
    conv = network.convolution(site.layer)
    device = conv.weight.device
    sr: list[Tensor] = []
    for value in (0.0, 1.0):
        made = torch.full((1, conv.out_channels, 1, 1), value, device=device)
        sr.append(_behind(tail, source, made))
    gain, offset = sr[1] - sr[0], sr[0]
    ends = torch.stack([-offset / gain, (1 - offset) / gain])
    return round(ends.min().item(), 4), round(ends.max().item(), 4)  # of 255: float32's rounding


def _behind(tail: fx.GraphModule, node: fx.Node, value: Tensor) -> Tensor:
    """What a tail makes of a value of one of its nodes, if nothing is rounded."""
    interpreter = fx.Interpreter(tail)
    interpreter.env = {node: value}
    with in_float(tail), torch.no_grad():
        for following in tail.graph.nodes:
            if following.op == "output":
                return interpreter.env[following.all_input_nodes[0]]
            ready = all(source in interpreter.env for source in following.all_input_nodes)
            if following not in interpreter.env and following.op != "placeholder" and ready:
                interpreter.env[following] = interpreter.run_node(following)
    raise AssertionError("a graph has an output")


def _check(images: Sequence[Tensor]) -> list[str]:
    if not images:
        raise ValueError("calibration needs images, and got none: name a folder of photographs")
    if all(bool(image.amax() == image.amin()) for image in images):
        raise ValueError(
            "calibration needs photographs, but every image given has one value throughout, from "
            "which no range can be set"
        )
    if sum(len(image) for image in images) == 1:
        return ["the ranges are of one image: others may leave them, so give ten or more"]
    return []


def _dead_channels(network: Quantized) -> list[str]:
    notes: list[str] = []
    for name in network.quantized:
        weight = network.convolution(name).weight
        dead = int((weight.detach().abs().amax((1, 2, 3)) == 0).sum())
        if dead:
            notes.append(f"{dead} of {len(weight)} channels of {name} have no weight but 0")
    return notes
