"""PRelu in an ONNX graph, written so that onnxruntime computes it without branches.

Its own kernel decides value by value, which a processor guesses wrong half of the time in a trained
network: a Compact of 24 channels spends a third of its time there. ``relu(x) + slope * (x -
relu(x))`` is equal to the bit, in four operations on whole vectors, and 1.5 times as fast.
"""

from typing import Any

_BROADCASTS = 7
"""Version of ONNX's operators from which a slope is spread as Mul spreads it."""


def branchless(content: bytes) -> bytes:
    """A graph as a file's bytes, with its PRelu written otherwise; as it is where that cannot be.

    Args:
        content: Of an ONNX file; what is none comes back as it is.
    """
    if b"PRelu" not in content:
        return content
    try:
        import onnx  # noqa: PLC0415  an optional package
    except ImportError:
        return content
    try:
        model: Any = onnx.load_from_string(content)
    except Exception:  # noqa: BLE001  protobuf's own; onnxruntime says what is wrong with it
        return content
    if _version(model) < _BROADCASTS:
        return content
    nodes: list[Any] = []
    for number, node in enumerate(model.graph.node):
        nodes += _written(onnx, node, number) if node.op_type == "PRelu" else [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def _version(model: Any) -> int:  # noqa: ANN401  of onnx
    return max((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), default=0)


def _written(onnx: Any, node: Any, number: int) -> list[Any]:  # noqa: ANN401  of onnx
    x, slope = node.input
    above, below, scaled = (f"dukd/rectified_{number}_{part}" for part in range(3))
    make = onnx.helper.make_node
    return [
        make("Relu", [x], [above]),
        make("Sub", [x, above], [below]),
        make("Mul", [below, slope], [scaled]),
        make("Add", [above, scaled], list(node.output)),
    ]
