"""Quantized networks as ONNX: integers between a pair of QuantizeLinear and DequantizeLinear.

torch records the pairs; weights and biases are made integers here, so that the file is small and a
runtime finds what it fuses: per-channel int8 weights, biases of 32 bits at the scale of the input
times that of the weights.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dukd.networks import Network
from dukd.networks.quantized import QuantizedConfig

Array = NDArray[Any]


def check_exportable(network: Network) -> None:
    """Refuse a quantized network whose integers ONNX does not have.

    Raises:
        ValueError: If its bits or its target are for simulation alone.
    """
    config = network.config
    if not isinstance(config, QuantizedConfig):
        return
    if config.bits != 8:
        raise ValueError(
            f"{config.bits} bits are for simulation alone: a runtime has 8, so quantize with bits 8"
        )
    if config.runtime.scheme != "affine":
        raise ValueError(
            f"a network quantized for {config.target} has no ONNX graph: quantize for openvino, "
            "onnxruntime or litert"
        )


def with_integers(model: Any) -> Any:  # noqa: ANN401  of onnx, which has no types
    """Turn the weights and biases of a traced graph into integers, in place.

    Args:
        model: An ONNX model; one without QuantizeLinear comes back as it is.
    """
    import onnx  # noqa: PLC0415  an optional package

    graph: Any = model.graph
    if not any(node.op_type == "QuantizeLinear" for node in graph.node):
        return model
    values = _constants(graph.initializer, graph.node, onnx.numpy_helper.to_array)
    makers: dict[str, Any] = {name: node for node in graph.node for name in node.output}
    made: dict[str, Array] = {}
    dropped = _scaled(graph, makers, values, made)
    _shuffled(graph, makers, onnx.helper.make_node)
    makers = {name: node for node in graph.node for name in node.output}
    for node in list(graph.node):
        if node.op_type == "Conv":
            scales = _weights(node, makers, values, made, dropped)
            _bias(node, makers, values, made, scales, onnx.helper.make_node, graph)
    kept = [node for node in graph.node if not dropped & set(node.output)]
    biases = [node for node in kept if node.output[0].endswith("_int32_real")]
    _replace(graph.node, biases + [node for node in kept if node not in biases])
    for name, array in made.items():
        graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    used = {name for node in graph.node for name in node.input}
    used |= {output.name for output in graph.output}
    _replace(graph.initializer, [i for i in graph.initializer if i.name in used])
    unread = {"Constant", "Identity", "Cast"}
    _replace(graph.node, [n for n in graph.node if n.op_type not in unread or used & set(n.output)])
    return model


def _constants(initializers: Any, nodes: Any, to_array: Any) -> dict[str, Array]:  # noqa: ANN401
    """Values that are known, by name; through casts and copies."""
    values: dict[str, Array] = {i.name: to_array(i) for i in initializers}
    for node in nodes:
        if node.op_type == "Constant":
            values[node.output[0]] = to_array(node.attribute[0].t)
        elif node.op_type == "Identity" and node.input[0] in values:
            values[node.output[0]] = values[node.input[0]]
        elif node.op_type == "Cast" and node.input[0] in values:
            to = node.attribute[0].i
            kind = {1: np.float32, 2: np.uint8, 3: np.int8, 6: np.int32}.get(to)
            if kind is not None:
                values[node.output[0]] = values[node.input[0]].astype(kind)
    return values


def _weights(
    conv: Any,  # noqa: ANN401
    makers: Mapping[str, Any],
    values: Mapping[str, Array],
    made: dict[str, Array],
    dropped: set[str],
) -> Array | None:
    """Store a convolution's weights as int8; its scales, or None where it is float."""
    dequantize = makers.get(conv.input[1])
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return None
    quantize = makers[dequantize.input[0]]
    weight, scale = values[quantize.input[0]], values[quantize.input[1]]
    shape = (-1, *(1,) * (weight.ndim - 1))
    name = f"{quantize.output[0]}_int8"
    made[name] = np.rint(weight / scale.reshape(shape)).clip(-127, 127).astype(np.int8)
    made[f"{name}_zero"] = np.zeros(scale.shape, np.int8)
    made[f"{name}_scale"] = scale
    dropped.add(quantize.output[0])
    dequantize.input[0], dequantize.input[1] = name, f"{name}_scale"
    dequantize.input[2] = f"{name}_zero"
    return scale


def _bias(
    conv: Any,  # noqa: ANN401
    makers: Mapping[str, Any],
    values: Mapping[str, Array],
    made: dict[str, Array],
    scales: Array | None,
    make_node: Any,  # noqa: ANN401
    graph: Any,  # noqa: ANN401
) -> None:
    """Store a convolution's bias as int32, where its input is an integer."""
    source = _through_moves(conv.input[0], makers)
    if scales is None or len(conv.input) < 3 or source is None:
        return
    scale = (scales * values[source.input[1]]).astype(np.float32)
    name = f"{conv.input[2]}_int32"
    made[name] = np.rint(values[conv.input[2]] / scale).clip(-(2.0**31), 2.0**31 - 128).astype("i4")
    made[f"{name}_scale"] = scale
    made[f"{name}_zero"] = np.zeros(scale.shape, np.int32)
    inputs = [name, f"{name}_scale", f"{name}_zero"]
    graph.node.append(make_node("DequantizeLinear", inputs, [f"{name}_real"], axis=0))
    conv.input[2] = f"{name}_real"


def _through_moves(name: str, makers: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """The DequantizeLinear whose values an input holds, perhaps moved; None for none."""
    node = makers.get(name)
    while node is not None and node.op_type in {"DepthToSpace", "Identity", "Resize"}:
        node = makers.get(node.input[0])
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def _scaled(
    graph: Any,  # noqa: ANN401
    makers: Mapping[str, Any],
    values: Mapping[str, Array],
    made: dict[str, Array],
) -> set[str]:
    """Let integers times a number be integers of another scale.

    Returns:
        The names of outputs that nobody reads any more.
    """
    dropped: set[str] = set()
    readers = Counter(name for node in graph.node for name in node.input)
    for node in graph.node:
        source = makers.get(node.input[0]) if node.op_type == "Mul" else None
        factor = values.get(node.input[1]) if source is not None else None
        if source is None or factor is None or factor.size != 1:
            continue
        if source.op_type != "DequantizeLinear" or readers[source.output[0]] != 1:
            continue
        name = f"{source.output[0]}_scale"
        made[name] = (values[source.input[1]] * factor.reshape(())).astype(np.float32)
        source.input[1] = name
        for other in graph.node:
            for i, read in enumerate(other.input):
                if read == node.output[0]:
                    other.input[i] = source.output[0]
        dropped.add(node.output[0])
    return dropped


def _shuffled(graph: Any, makers: Mapping[str, Any], make_node: Any) -> None:  # noqa: ANN401
    """Say again behind a shuffle of pixels that they are integers, so that it is fused as well."""
    nodes: list[Any] = []
    for node in graph.node:
        nodes.append(node)
        source = makers.get(node.input[0]) if node.op_type == "DepthToSpace" else None
        if source is None or source.op_type != "DequantizeLinear":
            continue
        moved, last = f"{node.output[0]}_moved", node.output[0]
        node.output[0] = moved
        grid = list(source.input[1:])
        nodes += [
            make_node("QuantizeLinear", [moved, *grid], [f"{moved}_integers"]),
            make_node("DequantizeLinear", [f"{moved}_integers", *grid], [last]),
        ]
    _replace(graph.node, nodes)


def _replace(field: Any, values: Iterable[Any]) -> None:  # noqa: ANN401
    """Fill a repeated field of protobuf anew."""
    values = list(values)
    del field[:]
    field.extend(values)
