"""Write a network so that it loses less in few bits, while it computes the same in float.

One range serves all channels of a map, so a channel of small values gets few levels. Where only
convolutions, rectifiers and sums touch a map, a channel may be made longer by what writes it and
shorter by what reads it; so all are given the same range. In a residual stream, which no rectifier
touches, a channel may change its sign as well, and the one range then lies above 0 for the most
part. Nagel, van Baalen, Blankevoort, Welling, "Data-Free Quantization Through Weight Equalization
and Bias Correction", ICCV 2019, arXiv:1906.04721, where extents are those of weights; here they are
seen on images, and a whole stream is taken at once.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dukd.networks.quantize.calibrate import in_float
from dukd.networks.quantize.placement import Site
from dukd.networks.quantize.spaces import Space, spaces
from dukd.networks.quantized import Quantized

_FARTHEST = 16.0
"""Least extent of a channel that is taken as it is, as a share of the largest: one to so many."""


def balance(network: Quantized, images: Sequence[Tensor]) -> list[str]:
    """Give all channels of a map the same range, in place.

    What the network computes in float stays, but for rounding; features that are read between its
    stages have other lengths and signs. Its ranges are to be set afterwards. A target of the
    literature is left as it is published.

    Args:
        network: Its weights are changed.
        images: Each ``(n, 3, h, w)``, RGB in [0, 1], of the low resolution.

    Returns:
        What was done, a sentence; nothing if nothing was.
    """
    free = spaces(network) if network.runtime_has_integers else []
    if not free:
        return []
    for space, factors in zip(free, _factors(network, free, images), strict=True):
        lengthen(space, factors)
    return [f"the channels of {len(free)} maps have the same range now"]


@torch.no_grad()
def lengthen(space: Space, factors: Tensor) -> None:
    """Multiply the channels of a space by factors, and take them back where they are read.

    Args:
        space: Which convolutions.
        factors: ``(n,)``, none of them 0; above 0 where a rectifier looks.
    """
    for conv in space.writers:
        for values in (conv.weight, conv.bias):
            if values is not None:  # before a shuffle of pixels a channel has several rows
                rows = values.unflatten(0, (space.width, -1))
                rows.mul_(factors.to(values).view(-1, *[1] * values.ndim))
    for conv in space.readers:
        conv.weight.div_(factors.to(conv.weight)[None, :, None, None])


def _factors(network: Quantized, free: Sequence[Space], images: Sequence[Tensor]) -> list[Tensor]:
    """Factors of the channels of every space, after which all reach as far.

    Several maps of a space count as much as rounding them is felt in the output.
    """
    places = {site: space for space in free for site in space.sites}
    tops = {site: torch.zeros(space.width) for site, space in places.items()}
    bottoms = {site: torch.zeros(space.width) for site, space in places.items()}
    felt = dict.fromkeys(places, 0.0)

    def look(site: Site, x: Tensor, gradient: Tensor) -> None:
        rows = x.detach().float().reshape(len(x), places[site].width, -1)
        tops[site] += rows.amax(2).mean(0).cpu()
        bottoms[site] += rows.amin(2).mean(0).cpu()
        felt[site] += float(gradient.square().sum())

    _probe(network, list(places), images, look)
    made: list[Tensor] = []
    for space in free:
        squares, lean = torch.zeros(space.width), torch.zeros(space.width)
        for site in space.sites:
            extent = torch.maximum(tops[site], -bottoms[site])
            squares += felt[site] * extent.square()
            lean += felt[site] * extent.amax() * (tops[site] + bottoms[site])
        largest = float(squares.amax().sqrt())
        if not largest > 0:  # never a value but 0, or none that is felt
            made.append(torch.ones(space.width))
            continue
        extents = squares.sqrt().clamp(min=largest / _FARTHEST)
        factors = extents.log().mean().exp() / extents
        made.append(torch.where(lean < 0, -factors, factors) if space.linear else factors)
    return made


def _probe(
    network: Quantized,
    sites: Sequence[Site],
    images: Sequence[Tensor],
    look: Callable[[Site, Tensor, Tensor], None],
) -> None:
    """Show the value at every site, and the gradient there of the output with random signs."""
    rng = torch.Generator().manual_seed(0)
    values: dict[Site, Tensor] = {}

    def keep(site: Site, x: Tensor) -> Tensor:
        made = x.view_as(x)  # what is rounded alone, not what else reads the same map
        values[site] = made
        return made

    hooks = [
        network.quantizer(site).register_forward_hook(
            lambda _module, args, _made, site=site: keep(site, args[0])
        )
        for site in sites
    ]
    try:
        with in_float(network), torch.enable_grad():
            for image in images:
                sr = network(image.detach().clone().requires_grad_())
                signs = torch.randint(0, 2, sr.shape, generator=rng).to(sr) * 2 - 1
                wanted = list(values)
                found = torch.autograd.grad((sr * signs).sum(), [values[s] for s in wanted])
                for site, gradient in zip(wanted, found, strict=True):
                    look(site, values[site], gradient)
    finally:
        for hook in hooks:
            hook.remove()
