"""Where quantizers stand in a network: it follows from what the target computes in integers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import fx, nn

from dukd.core.config import nearest
from dukd.networks.base import Staged
from dukd.networks.quantize.graphs import Part, tail_reads, traced
from dukd.networks.quantize.layers import QuantizedConv2d, Quantizer
from dukd.networks.quantize.published import DAQConv2d, DAQuantizer, PAMSConv2d, PAMSQuantizer
from dukd.networks.quantize.targets import ENDS, OUTSIDE_BLOCKS, Target

AnyQuantizer = Quantizer | DAQuantizer | PAMSQuantizer
Role = Literal["image", "output", "inner"]
"""Whether a quantizer sees the network's input, its output, or what is between them: the range of
images is known, and is not learned."""


@dataclass(frozen=True)
class Site:
    """A quantizer and what it rounds."""

    name: str
    """Of the layer or the operation whose value it rounds."""
    part: int
    """Number of the part it stands in."""
    module: str
    """Its name there."""
    layer: str
    """The convolution it belongs to; empty for an addition."""
    role: Role


@dataclass
class Placed:
    """A network with its quantizers."""

    parts: list[fx.GraphModule]
    """Head, stages, tail."""
    convolutions: tuple[str, ...]
    """All convolutions that could be followed, in their order."""
    quantized: tuple[str, ...]
    """Those among them whose weights are integers."""
    whole: tuple[str, ...]
    """Modules that stay float as a whole."""
    sites: tuple[Site, ...]
    """The quantizers, in their order."""


@dataclass
class _Builder:
    target: Target
    bits: int
    quantized: frozenset[str]
    last: str
    """Name of the last convolution."""
    sites: list[Site] = field(default_factory=list[Site])

    def make(self, *, positive: bool) -> AnyQuantizer:
        match self.target.scheme:
            case "daq":
                return DAQuantizer(self.bits)
            case "pams":
                return PAMSQuantizer(self.bits)
            case scheme:
                symmetric = scheme == "symmetric"
                return Quantizer(
                    self.target.levels(self.bits), symmetric=symmetric, positive=positive
                )

    def insert(self, part: Part, number: int, node: fx.Node, layer: str, role: Role) -> fx.Node:
        """Put a quantizer behind a node; nobody reads it yet."""
        source = node
        while part.is_shape(source) or part.is_scaling(source):
            source = source.all_input_nodes[0]
        quantizer = self.make(positive=part.is_relu(source))
        if role != "inner":
            quantizer.requires_grad_(False)
        name = f"{node.name.removeprefix('network_')}_range"
        part.objects[name] = quantizer
        with part.graph.inserting_after(node):
            made = part.graph.call_module(name, (node,))
        self.sites.append(Site(node.name.removeprefix("network_"), number, name, layer, role))
        return made


def place(
    network: Staged,
    target: Target,
    bits: int,
    keep: Sequence[str],
    *,
    weight_bits: int | None = None,
) -> Placed:
    """Put quantizers into a network, whose layers are taken over.

    Args:
        network: What is taken over.
        target: The runtime whose integers are simulated.
        bits: Of weights and activations.
        keep: Names of layers that stay float.
        weight_bits: Of weights, where other than ``bits``.

    Raises:
        ValueError: If the network cannot be followed, has no convolution to quantize, or has no
            layer of a name in ``keep``.
    """
    parts, whole = traced(network)
    names = [[str(node.target) for node in part.convolutions()] for part in parts]
    every = [name for inside in names for name in inside]
    quantized = set(every) - _kept(network, parts, names, keep)
    if not quantized:
        floats = f": {', '.join(whole)} stay float as a whole" if whole else ""
        raise ValueError(
            f"{network.config.name} has no convolution that could be quantized{floats}"
        )
    kind = {"daq": DAQConv2d, "pams": PAMSConv2d}.get(target.scheme, QuantizedConv2d)
    for part in parts:
        for name in quantized & part.objects.keys():
            conv = part.objects[name]
            assert isinstance(conv, nn.Conv2d)
            part.objects[name] = kind.of(conv, weight_bits or bits)
    builder = _Builder(target, bits, frozenset(quantized), every[-1])
    if target.stream:
        _stream(builder, parts, len(tail_reads(network)))
    else:
        for number, part in enumerate(parts):
            _inputs(builder, part, number)
    made = [part.graph_module() for part in parts]
    return Placed(
        parts=made,
        convolutions=tuple(every),
        quantized=tuple(name for name in every if name in quantized),
        whole=tuple(whole),
        sites=tuple(builder.sites),
    )


def _kept(
    network: Staged, parts: Sequence[Part], names: Sequence[Sequence[str]], keep: Sequence[str]
) -> set[str]:
    """Names of the layers that stay float."""
    every = [name for inside in names for name in inside]
    blocks = {
        name
        for inside, stage in zip(names[1:-1], network.stages, strict=True)
        if not isinstance(stage, nn.Conv2d)
        for name in inside
    }
    shuffled = {
        str(node.target)
        for part in parts
        for node in part.convolutions()
        if any(isinstance(part.module(user), nn.PixelShuffle) for user in node.users)
    }
    words = {
        ENDS: {every[0], every[-1]} | shuffled if every else set[str](),
        OUTSIDE_BLOCKS: set(every) - blocks,
    }
    kept: set[str] = set()
    for name in keep:
        if name not in words and name not in every:
            known = [*words, *every]
            raise ValueError(
                f"{network.config.name} has no layer {name!r} to keep in float"
                f"{nearest(name, known)}; known are {', '.join(known)}"
            )
        kept |= words.get(name, {name})
    return kept


def _inputs(builder: _Builder, part: Part, number: int) -> None:
    """Round the inputs of convolutions; PAMS also what is added to the identity."""
    made: dict[fx.Node, fx.Node] = {}
    pams = builder.target.scheme == "pams"
    for node in part.convolutions():
        name = str(node.target)
        if name not in builder.quantized:
            continue
        source = node.all_input_nodes[0]
        if source not in made:
            role: Role = "image" if number == 0 and _of_image(part, source) else "inner"
            made[source] = builder.insert(part, number, source, name, role)
            if pams and source.op == "placeholder":
                source.replace_all_uses_with(
                    made[source], delete_user_cb=lambda user, own=made[source]: user is not own
                )
        node.update_arg(0, made[source])
        if pams and not any(part.is_relu(user) for user in node.users):
            _behind(builder, part, number, node, name, "inner")


def _behind(
    builder: _Builder, part: Part, number: int, node: fx.Node, layer: str, role: Role
) -> fx.Node:
    made = builder.insert(part, number, node, layer, role)
    node.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)
    return made


def _stream(builder: _Builder, parts: Sequence[Part], reads: int) -> None:
    """Round whatever convolutions, activations and additions of integers make."""
    integral = False
    outputs: list[bool] = []
    for number, part in enumerate(parts):
        tail = number == len(parts) - 1
        inputs = {"x": integral, "kept": all(outputs[:1]) and reads > 0, "lr": False}
        integral = _stream_part(builder, part, number, inputs, tail=tail)
        outputs.append(integral)


def _stream_part(
    builder: _Builder, part: Part, number: int, inputs: dict[str, bool], *, tail: bool
) -> bool:
    """Whether the part's output is an integer."""
    integral: set[fx.Node] = set()
    for node in list(part.graph.nodes):
        sources = node.all_input_nodes
        if node.op == "placeholder":
            known = inputs[str(node.target)]
        elif node.op == "output":
            return sources[0] in integral
        elif isinstance(part.module(node), nn.Conv2d):
            _stream_input(builder, part, number, node, integral)
            alone = len(node.users) == 1 and part.is_relu(next(iter(node.users)))
            known = False
            floating = str(node.target) not in builder.quantized and (
                str(node.target) == builder.last
            )
            if not alone and not floating:
                role: Role = "output" if tail and _makes_image(part, node) else "inner"
                integral.add(_behind(builder, part, number, node, str(node.target), role))
        elif part.is_relu(node) and isinstance(part.module(sources[0]), nn.Conv2d):
            layer = str(sources[0].target)
            integral.add(_behind(builder, part, number, node, layer, "inner"))
            known = False
        elif part.is_sum(node) or part.is_activation(node):
            if all(source in integral for source in sources[:2] if source.op != "get_attr"):
                integral.add(_behind(builder, part, number, node, "", "inner"))
            known = False
        else:  # what moves or scales integers leaves integers
            moves = part.is_shape(node) or part.is_scaling(node) or part.is_relu(node)
            reads = node.op == "call_function" and node.name.startswith("getitem")
            known = (moves or reads) and sources[0] in integral
        if known:
            integral.add(node)
    return False


def _stream_input(
    builder: _Builder, part: Part, number: int, node: fx.Node, integral: set[fx.Node]
) -> None:
    """Round what a convolution of integers reads, if nobody has."""
    source, name = node.all_input_nodes[0], str(node.target)
    if name not in builder.quantized or source in integral:
        return
    role: Role = "image" if number == 0 and _of_image(part, source) else "inner"
    made = builder.insert(part, number, source, name, role)
    integral.add(made)
    node.update_arg(0, made)


def _of_image(part: Part, node: fx.Node) -> bool:
    """Whether a node is the input, but for constants that are added or multiplied."""
    while node.op != "placeholder":
        if not part.is_affine(node):
            return False
        node = node.all_input_nodes[0]
    return True


def _makes_image(part: Part, node: fx.Node) -> bool:
    """Whether the output is this node's, but for constants that are added or multiplied."""
    while node.op != "output":
        if len(node.users) != 1:
            return False
        node = next(iter(node.users))
        if node.op != "output" and not part.is_affine(node):
            return False
    return True
