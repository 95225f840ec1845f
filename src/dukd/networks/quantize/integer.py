"""What a runtime's integers give: the reference that deployed networks are compared with.

Integers are kept in floats. A convolution sums products of integers and adds a bias of 32 bits,
whose scale is that of the input times that of the weights; the sum is multiplied by the ratio of
scales, rounded half to even, and clipped. So one level is the most by which a runtime may differ.
"""

from dataclasses import dataclass, replace
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  the name everybody knows
from typing_extensions import override

from dukd.networks.base import pad_to_multiple
from dukd.networks.quantize.graphs import SUMS
from dukd.networks.quantize.layers import QuantizedConv2d, Quantizer
from dukd.networks.quantized import Quantized

_EXACT = 1 << 24
"""Sums below this are exact in float32."""


@dataclass(frozen=True)
class Integers:
    """A map of integers, which stand for ``scale * values``."""

    values: Tensor
    """``(n, c, h, w)``, whole numbers with the zero point taken off."""
    scale: Tensor
    """A scalar, or ``(c, 1, 1)``."""
    zero: Tensor
    """The zero point that was taken off."""

    def real(self) -> Tensor:
        """The numbers they stand for."""
        return self.values.float() * self.scale


@dataclass(frozen=True)
class Sum:
    """A sum of two maps of integers, which is float until it is rounded again."""

    first: Integers
    second: Integers

    def real(self) -> Tensor:
        """The numbers it stands for."""
        return self.first.real() + self.second.real()

    def levels(self, scale: Tensor, zero: Tensor) -> Tensor:
        """The sum on another grid, not rounded, as onnxruntime's fused products and sums give it.

        Halves are frequent where two grids meet, so the last bit decides.
        """
        a, b = self.first, self.second
        by_a, by_b = a.scale / scale, b.scale / scale
        constant = zero - (by_a * a.zero + by_b * b.zero)
        return _fused(a.values + a.zero, by_a, _fused(b.values + b.zero, by_b, constant))


def _fused(x: Tensor, factor: Tensor, offset: Tensor) -> Tensor:
    """``x * factor + offset``, rounded to float32 once."""
    return (x.double() * factor.double() + offset.double()).float()


@torch.no_grad()
def integer_forward(network: Quantized, lr: Tensor) -> Tensor:
    """Upscale as a runtime with integers does.

    Args:
        network: For a runtime with uint8 or int8; not DAQ or PAMS.
        lr: ``(n, 3, h, w)``, RGB in [0, 1].

    Returns:
        ``(n, 3, h * scale, w * scale)``.

    Raises:
        ValueError: If the target is one of the literature.
    """
    if any(not isinstance(network.quantizer(site), Quantizer) for site in network.sites):
        raise ValueError(
            f"no runtime computes as {network.config.name} for a target of the literature does"
        )
    padded = pad_to_multiple(lr, network.size_multiple)
    head, *stages = [_Interpreter(part) for part in network.parts]
    x: Any = head.run(padded)
    kept = {0: x}
    for number, stage in enumerate(stages[:-1], start=1):
        x = stage.run(x)
        kept[number] = x
    reads = sorted({0, *network.keeps})
    sr = _real(stages[-1].run(x, padded, [kept[number] for number in reads]))
    h, w = lr.shape[-2:]
    return sr[..., : h * network.scale, : w * network.scale]


class IntegerReference:
    """A quantized network as an upscaler whose integers are computed, not simulated."""

    def __init__(self, network: Quantized) -> None:
        self.network = network
        self.name, self.scale = network.name, network.scale
        self.radius, self.size_multiple = network.radius, network.size_multiple

    def __call__(self, lr: Tensor) -> Tensor:
        """Upscale ``(n, 3, h, w)``, RGB in [0, 1]."""
        return integer_forward(self.network, lr)


def _real(value: Any) -> Any:  # noqa: ANN401  whatever a graph passes on
    if isinstance(value, Integers | Sum):
        return value.real()
    if isinstance(value, list | tuple):
        # whatever a graph passes on
        return type(value)(_real(v) for v in value)  # pyright: ignore[reportUnknownVariableType]
    return value


class _Interpreter(fx.Interpreter):
    """Runs a part on integers where both it and its neighbors have them, else on floats."""

    def __init__(self, part: nn.Module) -> None:
        assert isinstance(part, fx.GraphModule)
        super().__init__(part)

    @override
    def run_node(self, n: fx.Node) -> Any:
        if n.op in {"placeholder", "get_attr", "output"} or n.target is getattr:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        first: Any = args[0] if args else None
        module = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        made: Any = None
        if isinstance(module, Quantizer):
            made = _requantized(module, first)
        elif isinstance(first, list) and n.target is getitem:  # of the tail: what was kept
            made = first[args[1]]
        elif isinstance(first, Integers):
            made = _on_integers(n, module, first, args)
        if made is not None:
            return made
        plain, named = _real(args), {key: _real(value) for key, value in kwargs.items()}
        if n.op == "call_module":
            return self.call_module(n.target, plain, named)
        return getattr(self, n.op)(n.target, plain, named)


def _requantized(quantizer: Quantizer, x: Integers | Sum | Tensor) -> Integers:
    scale, zero = quantizer.grid()
    if isinstance(x, Tensor):
        return Integers(quantizer.integers(x) - zero, scale, zero)
    if isinstance(x, Sum):
        rounded = torch.round(x.levels(scale, zero))
    else:
        rounded = torch.round(x.values.float() * (x.scale / scale)) + zero
    return Integers(rounded.clamp(*quantizer.levels) - zero, scale, zero)


def _on_integers(
    node: fx.Node, module: nn.Module | None, x: Integers, args: tuple[Any, ...]
) -> Integers | Sum | None:
    """What an operation makes of integers, if it has integers to give."""
    if isinstance(module, QuantizedConv2d):
        return _convolved(module, x)
    if isinstance(module, nn.ReLU) or node.target in {F.relu, torch.relu, "relu"}:
        return replace(x, values=x.values.clamp(min=0))
    if isinstance(module, nn.PixelShuffle) and x.scale.ndim == 0:
        return replace(x, values=module(x.values))
    number = args[1] if len(args) == 2 else None
    if isinstance(number, Integers):
        return Sum(x, number) if node.target in SUMS else None
    if isinstance(number, int | float) and getattr(node.target, "__name__", "") == "mul":
        return replace(x, scale=x.scale * number)
    return None


def _convolved(conv: QuantizedConv2d, x: Integers) -> Integers:
    """Sums of products, and a bias of 32 bits; the scale is one per channel."""
    weight, scale = conv.quantized()
    largest = x.values.abs().max() * weight.abs().sum((1, 2, 3)).max()
    kind = torch.float32 if float(largest) < _EXACT else torch.float64
    layer: Any = conv  # whose own pass pads as the layer does, and has no public name
    sums = layer._conv_forward(x.values.to(kind), weight.to(kind), None)  # noqa: SLF001
    scale = x.scale * scale
    if conv.bias is not None:
        bias = torch.round(conv.bias / scale).clamp(-(2.0**31), 2.0**31 - 1)
        sums = sums + bias.to(kind)[:, None, None]
    return Integers(sums, scale[:, None, None], torch.zeros(()))
