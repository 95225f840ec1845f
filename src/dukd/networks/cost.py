"""What a network costs to run, counted and not timed."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  the name everybody knows
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import override

from dukd.networks.base import Network, NetworkConfig
from dukd.networks.opaque import Opaque
from dukd.networks.reduced import Reduced

_SIDE = 64
_PERIOD = 8  # pixels after which what pools or pads does the same again, or a multiple of them


def macs(network: Network, h: int, w: int) -> int:
    """Multiply-accumulates of matrix products and convolutions for one image.

    The networks of dukd are counted at a few small sizes, from which the rest follows. Those of
    others are counted on tensors without data, for which torch imports its compiler (seconds).

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
    parts = [part for part in network.modules() if isinstance(part, Network)]
    ours = all(type(part).__module__.startswith("dukd.networks.") for part in parts)
    followed = _followed(network, h, w) if ours else None
    return counted_by_torch(network.config, h, w) if followed is None else followed


def counted_by_torch(config: NetworkConfig, h: int, w: int) -> int:
    """The same for any network that its config can build, by torch's own counter."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        config.build().eval()(torch.empty(1, 3, h, w))
    return counter.get_total_flops() // 2


def _followed(network: Network, h: int, w: int) -> int | None:
    """Count at small sizes, and follow rows and columns to the size; None if that does not hold.

    Sizes that differ by whole periods are padded and pooled alike, so that what is counted is a
    constant, a part per row, one per column and one per pixel.
    """
    period = math.lcm(_PERIOD, network.size_multiple)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        built = network.config.build().eval()
    counts: dict[tuple[int, int], int] = {}

    def count(i: int, j: int) -> int:
        if (i, j) not in counts:
            counts[i, j] = _counted(built, h % period + i * period, w % period + j * period)
        return counts[i, j]

    i, j = h // period, w // period
    first, second = min(i, 2), min(j, 2)  # where windows and pools have several places, if at all
    base = count(first, second)

    def follow(i: int, j: int) -> int:
        row, column = count(first + 1, second) - base, count(first, second + 1) - base
        pixel = count(first + 1, second + 1) - base - row - column
        i, j = i - first, j - second
        return base + i * row + j * column + i * j * pixel

    tried = (4 if i > 1 else i, 5 if j > 1 else j)
    return follow(i, j) if follow(*tried) == count(*tried) else None


def _counted(network: Network, h: int, w: int) -> int:
    counter = _Counter()
    with torch.no_grad(), counter:
        network(torch.zeros(1, 3, h, w))
    return counter.macs


class _Counter(TorchFunctionMode):
    """Counts products, and gives zeros of the right shape in their place.

    Not a ``TorchDispatchMode``, the first of which imports torch's compiler.
    """

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    @override
    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if func is torch.einsum:
            self.macs += _einsum(args[0], [x.shape for x in args[1:]])
        if func not in _PRODUCTS:
            return func(*args, **given)
        count, shape = _PRODUCTS[func](*args, **given)
        self.macs += count
        return args[0].new_zeros(shape)


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = (1, 1),
    padding: int | Sequence[int] = (0, 0),
    dilation: int | Sequence[int] = (1, 1),
    groups: int = 1,
) -> tuple[int, list[int]]:
    del bias, groups
    axes = [
        (numbers, numbers) if isinstance(numbers, int) else numbers
        for numbers in (stride, padding, dilation)
    ]
    sides: list[int] = [
        (side + 2 * p - d * (k - 1) - 1) // s + 1
        for side, k, s, p, d in zip(x.shape[2:], weight.shape[2:], *axes, strict=True)
    ]
    shape = [x.shape[0], weight.shape[0], *sides]
    return math.prod(shape) * weight[0].numel(), shape


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[int, list[int]]:
    del bias
    shape = [*x.shape[:-1], weight.shape[0]]
    return math.prod(shape) * weight.shape[1], shape


def _matmul(a: Tensor, b: Tensor) -> tuple[int, list[int]]:
    if b.ndim == 1:  # torch's counter leaves products with vectors out
        return 0, [*a.shape[:-1]]
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    shape = [*batch, a.shape[-2], b.shape[-1]]
    return math.prod(shape) * a.shape[-1], shape


def _einsum(equation: str, shapes: Sequence[Sequence[int]]) -> int:
    """Products of a sum in Einstein's notation, from left to right."""
    left, out = equation.split("->")
    terms = left.split(",")
    sizes = dict(zip("".join(terms), chain(*shapes), strict=True))
    total, current = 0, terms[0]
    for number, term in enumerate(terms[1:], start=2):
        later = {*out, *"".join(terms[number:])}
        a = [c for c in current if c in later or c in term]
        b = [c for c in term if c in later or c in current]
        total += math.prod(sizes[c] for c in {*a, *b})
        current = "".join(c for c in dict.fromkeys([*a, *b]) if c in later)
    return total


_PRODUCTS: dict[Any, Callable[..., tuple[int, list[int]]]] = {
    F.conv2d: _convolution,
    F.linear: _linear,
    torch.matmul: _matmul,
    Tensor.matmul: _matmul,
    Tensor.__matmul__: _matmul,
}
