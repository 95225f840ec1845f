"""What LiteRT graphs of one size promise: images of any size, cut and joined as the whole."""

import json

import pytest
import torch
from torch.testing import assert_close

from dukd.deploy import ExportError, LiteRT, export, litert
from dukd.deploy.litert import Interpreter
from dukd.networks import CompactConfig, QuantizedConfig, SMFANetConfig, SwinIRConfig
from dukd.networks.upscaler import UpscalerError

CONFIG = CompactConfig(scale=2, width=4, blocks=1)


class _Pretended(Interpreter):
    """The network itself at one size, in place of the graph: the converter lives elsewhere."""

    def __init__(self, network, side):
        self.network, self.side = network, side
        self.name, self.scale = network.name, network.scale
        self.radius, self.size_multiple = network.radius, network.size_multiple

    def _one(self, image):
        assert image.shape[1:] == (self.side, self.side)
        return self.network(image[None])[0]


@pytest.mark.parametrize(
    ("config", "side"),
    [
        (CONFIG, 14),
        (CONFIG, 24),
        (SwinIRConfig(scale=2, width=12, depths=(2,), heads=(2,), window=4), 72),
    ],
    ids=["least", "larger", "on a grid"],
)
def test_pieces_join_to_the_whole_image(config, side):
    torch.manual_seed(0)
    network = config.build().frozen()
    session = _Pretended(network, max(side, 2 * network.radius + 8))
    s = session.side
    small = 2 * network.radius
    short = [(s - 1, s - 2), (small, s + 3), (2 * s, small + 1)]
    for h, w in ((s, s), (s + 1, s + 7), (2 * s, s), (3 * s - 1, s + 2), *short):
        lr = torch.rand(1, 3, h, w)
        assert_close(session(lr), network(lr), atol=1e-5, rtol=0)
    assert session(torch.rand(2, 3, 5, 3)).shape == (2, 3, 10, 6)


def test_what_one_size_cannot_hold_is_refused(tmp_path):
    out = tmp_path / "a.tflite"
    with pytest.raises(ExportError, match="looks at the whole image"):
        export(SMFANetConfig(scale=2, width=8, blocks=1).build(), out)
    with pytest.raises(ExportError, match="--side is at least 14 and a multiple of 1"):
        export(CONFIG.build(), out, LiteRT(side=12))
    with pytest.raises(ExportError, match="own quantizer makes its integers"):
        export(QuantizedConfig(network=CONFIG).build(), out)


def test_a_converter_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(ExportError, match=r"lacks the converter .* add --python other/bin/python"):
        export(CONFIG.build(), tmp_path / "a.tflite")
    with pytest.raises(ExportError, match="--python /nowhere/python cannot be run"):
        export(CONFIG.build(), tmp_path / "a.tflite", LiteRT(python=litert.Path("/nowhere/python")))


def test_damaged_graphs_are_refused(tmp_path):
    pytest.importorskip("ai_edge_litert")
    (tmp_path / "a.tflite").write_bytes(b"damaged")
    with pytest.raises(UpscalerError, match=r"lacks a\.json beside it"):
        Interpreter(tmp_path / "a.tflite")
    facts = {"network": "a", "scale": 2, "radius": 1, "size_multiple": 1, "side": 24}
    (tmp_path / "a.json").write_text(json.dumps(facts))
    with pytest.raises(UpscalerError, match=r"a\.tflite is damaged"):
        Interpreter(tmp_path / "a.tflite")
