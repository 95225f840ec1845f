"""Which maps of a network share their channels, and so change together.

A residual stream is one space of channels: all convolutions that write into it, and all that read
from it, can be written in another basis of it, and the network computes the same. Across a
rectifier only the lengths of the axes are free.
"""

from dataclasses import dataclass, field

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


@dataclass
class _Walk:
    """Nodes in disjoint sets, as they are found."""

    above: dict[_Node, _Node] = field(default_factory=dict[_Node, _Node])
    fixed: set[_Node] = field(default_factory=set[_Node])
    rectified: set[_Node] = field(default_factory=set[_Node])
    writers: list[tuple[_Node, nn.Conv2d]] = field(default_factory=list[tuple[_Node, nn.Conv2d]])
    readers: list[tuple[_Node, nn.Conv2d]] = field(default_factory=list[tuple[_Node, nn.Conv2d]])

    def find(self, node: _Node) -> _Node:
        """What stands for the node's set."""
        while (above := self.above.get(node, node)) != node:
            node = above
        return node

    def tie(self, *nodes: _Node) -> None:
        """Join the sets of some nodes."""
        first, *others = (self.find(node) for node in nodes)
        for other in others:
            self.above[other] = first

    def operation(self, part: Part, node: fx.Node, here: _Node, sources: list[_Node]) -> None:
        """See what a node does to channels."""
        module = part.module(node)
        if isinstance(module, nn.Conv2d) and module.groups == 1:
            self.writers.append((here, module))
            self.readers.append((sources[0], module))
        elif isinstance(module, AnyQuantizer) or part.is_shape(node) or part.is_scaling(node):
            self.tie(here, sources[0])
        elif part.is_sum(node):
            self.tie(here, *sources)
        elif part.is_relu(node) or part.is_activation(node):
            self.tie(here, sources[0])
            self.rectified.add(here)
        else:
            self.fixed |= {here, *sources}


def spaces(network: Quantized) -> list[Space]:
    """The spaces of a network that can be rewritten and in which something is rounded."""
    walk = _Walk()
    before: list[_Node] = []
    for number, module in enumerate(network.parts):
        assert isinstance(module, fx.GraphModule)
        part = Part(module.graph, dict(module.named_modules()))
        for node in module.graph.nodes:
            here = (number, node.name)
            sources = [(number, source.name) for source in node.all_input_nodes]
            if node.op == "output":
                before.append(sources[0])
            elif node.op == "placeholder" and node.target == "x":
                walk.tie(before[-1], here)
            elif node.op == "placeholder":
                walk.fixed.add(here)
            elif (kept := _kept(node)) is not None:
                walk.tie(before[network.reads[kept]], here)
            else:
                walk.operation(part, node, here, sources)
    walk.fixed.add(before[-1])
    return _gathered(network, walk)


def _kept(node: fx.Node) -> int | None:
    """Which of the features that a tail is given a node reads."""
    source = node.all_input_nodes[0] if node.all_input_nodes else None
    if source is None or source.op != "placeholder" or source.target != "kept":
        return None
    number = node.args[1]
    return number if isinstance(number, int) else None


def _gathered(network: Quantized, walk: _Walk) -> list[Space]:
    found: dict[_Node, Space] = {}
    for node, conv in walk.writers:
        found.setdefault(walk.find(node), Space()).writers.append(conv)
    for node, conv in walk.readers:
        found.setdefault(walk.find(node), Space()).readers.append(conv)
    for node in walk.fixed:
        found.setdefault(walk.find(node), Space()).fixed = True
    for node in walk.rectified:
        found.setdefault(walk.find(node), Space()).linear = False
    for site in network.sites:
        module = network.parts[site.part]
        assert isinstance(module, fx.GraphModule)
        name = next(n.name for n in module.graph.nodes if n.target == site.module)
        found.setdefault(walk.find((site.part, name)), Space()).sites.append(site)
    return [s for s in found.values() if _free(s)]


def _free(space: Space) -> bool:
    if space.fixed or not (space.writers and space.readers and space.sites):
        return False
    width = space.width
    same = all(conv.in_channels == width for conv in space.readers)
    return same and all(conv.out_channels % width == 0 for conv in space.writers)
