"""Which maps of a network share their channels, and so change together.

A residual stream is one space of channels: all convolutions that write into it, and all that read
from it, can be written in another basis of it, and the network computes the same. Across a
rectifier only the lengths of the axes are free.
"""

from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from dukd.networks.quantize.graphs import Part
from dukd.networks.quantize.placement import AnyQuantizer, Site
from dukd.networks.quantized import Quantized

_Node = tuple[int, str]
"""A part and the name of a node there."""


@dataclass
class Space:
    """Maps that share their channels."""

    writers: list[nn.Conv2d] = field(default_factory=list[nn.Conv2d])
    """Convolutions whose outputs they are, or become by a shuffle of pixels."""
    readers: list[nn.Conv2d] = field(default_factory=list[nn.Conv2d])
    """Convolutions that take them in."""
    sites: list[Site] = field(default_factory=list[Site])
    """Where they are rounded."""
    linear: bool = True
    """Whether no rectifier looks at them: any basis will do then, not only other lengths."""
    fixed: bool = False
    """Whether something reads or writes them that cannot be rewritten."""

    @property
    def width(self) -> int:
        """Channels, after any shuffle of pixels."""
        return self.readers[0].in_channels if self.readers else 0


class _Sets:
    """Disjoint sets of nodes."""

    def __init__(self) -> None:
        self.above: dict[_Node, _Node] = {}
        self.fixed: set[_Node] = set()
        self.rectified: set[_Node] = set()

    def find(self, node: _Node) -> _Node:
        while (above := self.above.get(node, node)) != node:
            node = above
        return node

    def tie(self, *nodes: _Node) -> None:
        first, *others = (self.find(node) for node in nodes)
        for other in others:
            self.above[other] = first


def spaces(network: Quantized) -> list[Space]:
    """The spaces of a network that can be rewritten and in which something is rounded."""
    sets, writers, readers = _Sets(), list[tuple[_Node, Any]](), list[tuple[_Node, Any]]()
    before: list[_Node] = []
    for number, module in enumerate(network.parts):
        assert isinstance(module, fx.GraphModule)
        part = Part(module.graph, dict(module.named_modules()))
        for node in module.graph.nodes:
            here = (number, node.name)
            sources = [(number, source.name) for source in node.all_input_nodes]
            found = part.module(node)
            if isinstance(found, nn.Conv2d):
                if found.groups == 1:
                    writers.append((here, found))
                    readers.append((sources[0], found))
                else:
                    sets.fixed |= {here, sources[0]}
            elif node.op == "placeholder":
                if node.target == "x":
                    sets.tie(before[-1], here)
                elif node.target == "lr":
                    sets.fixed.add(here)
            elif node.op == "output":
                before.append(sources[0])
            elif (kept := _kept(node)) is not None:
                sets.tie(before[network.reads[kept]], here)
            elif isinstance(found, AnyQuantizer) or part.is_shape(node) or part.is_scaling(node):
                sets.tie(sources[0], here)
            elif part.is_sum(node):
                sets.tie(here, *sources)
            elif part.is_relu(node) or part.is_activation(node):
                sets.tie(sources[0], here)
                sets.rectified.add(here)
            else:
                sets.fixed |= {here, *sources}
    sets.fixed.add(before[-1])
    return _gathered(network, sets, writers, readers)


def _kept(node: fx.Node) -> int | None:
    """Which of the features that a tail is given a node reads."""
    source = node.all_input_nodes[0] if node.all_input_nodes else None
    if source is None or source.op != "placeholder" or source.target != "kept":
        return None
    number = node.args[1]
    return number if isinstance(number, int) else None


def _gathered(
    network: Quantized,
    sets: _Sets,
    writers: list[tuple[_Node, nn.Conv2d]],
    readers: list[tuple[_Node, nn.Conv2d]],
) -> list[Space]:
    found: dict[_Node, Space] = {}
    for node, conv in writers:
        found.setdefault(sets.find(node), Space()).writers.append(conv)
    for node, conv in readers:
        found.setdefault(sets.find(node), Space()).readers.append(conv)
    for node in sets.fixed:
        found.setdefault(sets.find(node), Space()).fixed = True
    for node in sets.rectified:
        found.setdefault(sets.find(node), Space()).linear = False
    for site in network.sites:
        module = network.parts[site.part]
        assert isinstance(module, fx.GraphModule)
        name = next(n.name for n in module.graph.nodes if n.target == site.module)
        found.setdefault(sets.find((site.part, name)), Space()).sites.append(site)
    return [s for s in found.values() if _free(s)]


def _free(space: Space) -> bool:
    if space.fixed or not (space.writers and space.readers and space.sites):
        return False
    width = space.width
    same = all(conv.in_channels == width for conv in space.readers)
    return same and all(conv.out_channels % width == 0 for conv in space.writers)
