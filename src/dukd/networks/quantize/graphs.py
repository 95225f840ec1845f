"""A network's head, stages and tail as graphs of operations, in which quantizers can be placed.

Modules that cannot be followed, or that look at the whole image, stay as they are, in float.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  the name everybody knows
from typing_extensions import override

from dukd.networks.base import Staged

WHOLE = (
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.LayerNorm,
    nn.Linear,
    nn.MultiheadAttention,
    nn.Softmax,
)
"""Modules whose parents stay float as a whole: pooling over the image, attention, normalization."""
_RELU = (F.relu, torch.relu, "relu")
_SHAPE = (F.pixel_shuffle, F.interpolate, torch.pixel_shuffle)
_SHAPE_MODULES = (nn.PixelShuffle, nn.Identity, nn.Dropout)
_SCALE = (operator.mul, operator.truediv, torch.mul, torch.div)
SUMS = (operator.add, operator.iadd, torch.add, "add")
"""What adds."""
_SHIFT = (*SUMS, operator.sub, torch.sub)
_ACTIVATION = (F.leaky_relu, F.prelu, torch.prelu)


@dataclass
class Part:
    """A head, a stage or a tail."""

    graph: fx.Graph
    objects: dict[str, nn.Module | Tensor] = field(default_factory=dict[str, "nn.Module | Tensor"])
    """What its nodes call and read, by their names in the network."""

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls; None if it calls something else."""
        found = self.objects.get(str(node.target)) if node.op == "call_module" else None
        return found if isinstance(found, nn.Module) else None

    def convolutions(self) -> list[fx.Node]:
        """Nodes that call a convolution, in their order."""
        return [node for node in self.graph.nodes if isinstance(self.module(node), nn.Conv2d)]

    def is_relu(self, node: fx.Node) -> bool:
        """Whether a node is a rectifier."""
        return isinstance(self.module(node), nn.ReLU) or node.target in _RELU

    def is_activation(self, node: fx.Node) -> bool:
        """Whether a node is another function of single values."""
        module = self.module(node)
        return isinstance(module, nn.PReLU | nn.LeakyReLU) or node.target in _ACTIVATION

    def is_shape(self, node: fx.Node) -> bool:
        """Whether a node moves values and changes none."""
        if node.target is F.interpolate:
            return node.kwargs.get("mode", "nearest") == "nearest"
        return isinstance(self.module(node), _SHAPE_MODULES) or node.target in _SHAPE

    @staticmethod
    def is_scaling(node: fx.Node) -> bool:
        """Whether a node multiplies or divides by a number."""
        return node.target in _SCALE and isinstance(node.args[1], int | float)

    @staticmethod
    def is_sum(node: fx.Node) -> bool:
        """Whether a node adds two maps."""
        return node.target in SUMS and all(
            isinstance(a, fx.Node) and a.op != "get_attr" for a in node.args[:2]
        )

    def is_affine(self, node: fx.Node) -> bool:
        """Whether a node makes ``a * x + b`` of its first argument, with constants."""
        if self.is_shape(node) or self.is_scaling(node):
            return True
        if node.target not in _SHIFT or len(node.args) < 2:
            return False
        constant = node.args[1]
        return isinstance(constant, int | float) or (
            isinstance(constant, fx.Node) and constant.op == "get_attr"
        )

    def graph_module(self) -> fx.GraphModule:
        """The part as a module; buffers that are not saved in the network are not saved here."""
        used = {str(n.target) for n in self.graph.nodes if n.op in {"call_module", "get_attr"}}
        made = fx.GraphModule({name: self.objects[name] for name in sorted(used)}, self.graph)
        for node in self.graph.nodes:
            if node.op == "get_attr" and not isinstance(
                self.objects[str(node.target)], nn.Parameter
            ):
                owner, _, name = str(node.target).rpartition(".")
                holder: Any = made.get_submodule(owner)  # torch has no public name for it
                holder._non_persistent_buffers_set.add(name)  # noqa: SLF001
        return made


class _Tracer(fx.Tracer):
    def __init__(self, opaque: frozenset[nn.Module] = frozenset()) -> None:
        super().__init__()
        self.opaque = opaque

    @override
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m in self.opaque or super().is_leaf_module(m, module_qualified_name)

    @override
    def call_module(
        self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """A stage may be a row of modules that are registered elsewhere: those are followed."""
        if isinstance(m, nn.Sequential) and m not in set(self.root.modules()):
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)


class _Whole(nn.Module):
    def __init__(self, network: Staged) -> None:
        super().__init__()
        self.network = network


class _Head(_Whole):
    def forward(self, lr: Tensor) -> Tensor:
        return self.network.head(lr)


class _Stage(_Whole):
    number = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.network.stages[self.number](x)


class _Tail(_Whole):
    def forward(self, x: Tensor, lr: Tensor, kept: Sequence[Tensor]) -> Tensor:
        reads = tail_reads(self.network)
        return self.network.tail(x, {number: kept[i] for i, number in enumerate(reads)}, lr)


def tail_reads(network: Staged) -> list[int]:
    """Numbers of the stages whose outputs the tail is given, the head's first."""
    return sorted({0, *network.keeps})


def traced(network: Staged) -> tuple[list[Part], list[str]]:
    """Follow a network.

    Returns:
        Head, stages and tail, and the names of modules that could not be followed.

    Raises:
        ValueError: If its head or tail cannot be followed.
    """
    opaque = _opaque(network)
    tracer = _Tracer(frozenset(opaque))
    wrappers: list[_Whole] = [_Head(network)]
    for number in range(len(network.stages)):
        stage = _Stage(network)
        stage.number = number
        wrappers.append(stage)
    try:
        graphs = [tracer.trace(wrapper) for wrapper in [*wrappers, _Tail(network)]]
    except Exception as error:  # what code may do while it is followed has no bound
        raise ValueError(
            f"{network.config.name} cannot be quantized, since what it computes cannot be followed "
            "from convolution to convolution: take a convolutional network, such as edsr"
        ) from error
    parts = [_part(network, graph) for graph in graphs]
    reached = {str(n.target) for part in parts for n in part.graph.nodes}
    return parts, [name for name, m in network.named_modules() if m in opaque and name in reached]


def _part(network: Staged, graph: fx.Graph) -> Part:
    part = Part(graph)
    modules = dict(network.named_modules())
    for node in graph.nodes:
        if node.op in {"call_module", "get_attr"}:
            name = str(node.target).removeprefix("network.")
            node.target = name
            owner, _, last = name.rpartition(".")
            part.objects[name] = modules.get(name) or getattr(modules[owner], last)
    return part


def _opaque(network: Staged) -> set[nn.Module]:
    """Modules that stay whole: those with a child of ``WHOLE``, and those that do not trace."""
    opaque: set[nn.Module] = set()
    stages = set(network.stages)
    for name, module in reversed(list(network.named_modules())):  # children before parents
        children = list(module.children())
        if not name or (not children and module not in stages):
            continue
        contained = any(isinstance(child, WHOLE) for child in children)
        row = isinstance(module, nn.Sequential | nn.ModuleList)
        if contained or not (row or _traces(module, opaque)):
            opaque.add(module)
    return opaque


def _traces(module: nn.Module, opaque: set[nn.Module]) -> bool:
    if type(module).__module__.startswith("torch.nn"):
        return True
    try:
        _Tracer(frozenset(opaque)).trace(module)
    except Exception:  # noqa: BLE001  what code may do while it is followed has no bound
        return False
    return True
