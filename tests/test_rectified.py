"""PRelu without branches: equal bits in onnxruntime, and nothing else is touched."""

import io
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from dukd.networks.rectified import branchless

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def graph(module: nn.Module, channels: int = 6, opset: int = 17) -> bytes:
    out = io.BytesIO()
    image = torch.zeros(1, channels, 5, 7)
    axes = {"x": {0: "n", 2: "h", 3: "w"}}
    torch.onnx.export(
        module,
        (image,),
        out,
        dynamo=False,
        opset_version=opset,
        input_names=["x"],
        dynamic_axes=axes,
    )
    return out.getvalue()


def operators(content: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_from_string(content).graph.node)


def output(content: bytes, x: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(content).run(None, {"x": x})[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("opset", [11, 17, 20])
def test_bits_are_those_of_prelu_whatever_its_slopes_are(opset: int) -> None:
    slopes = nn.PReLU(6)
    slopes.weight.data = torch.tensor([0.25, -0.4, 1.7, 0.0, 1.0, -2.0])
    content = graph(nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), slopes).eval(), opset=opset)
    x = np.random.default_rng(0).standard_normal((2, 6, 9, 8)).astype(np.float32) * 10

    changed = branchless(content)

    assert operators(content)["PRelu"] == 1
    assert operators(changed) == Counter(Conv=1, Relu=1, Sub=1, Mul=1, Add=1)
    assert np.array_equal(output(changed, x), output(content, x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_graphs_without_it_and_what_is_no_graph_come_back_as_they_are() -> None:
    content = graph(nn.Conv2d(6, 6, 3).eval())
    for given in (content, b"no graph", b"no graph but PRelu"):
        assert branchless(given) is given


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_slopes_of_older_operators_are_spread_otherwise_and_left_alone() -> None:
    model = onnx.load_from_string(graph(nn.PReLU(6).eval()))
    model.opset_import[0].version = 6
    content = model.SerializeToString()

    assert branchless(content) is content
