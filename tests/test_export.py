"""What an exported file promises: the same answers, at any size, and whole or not at all."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F  # noqa: N812  the name everybody knows
from torch.testing import assert_close

from dukd.deploy import export
from dukd.deploy.export import (
    TOLERANCE,
    ExportError,
    export_onnx,
    export_weights,
    padded_to_multiple,
)
from dukd.networks import (
    EDSRConfig,
    Network,
    NetworkConfig,
    RCANConfig,
    SMFANetConfig,
    SwinIRConfig,
    gather,
)
from dukd.networks.base import pad_to_multiple
from dukd.networks.files import weights
from dukd.networks.files.weights import Layout
from dukd.networks.tracing import cell_maxima, enlarged, variance

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

NETWORKS: dict[str, NetworkConfig] = {
    "edsr": EDSRConfig(scale=2, width=8, blocks=1),
    "edsr with skip": EDSRConfig(scale=3, width=8, blocks=1, value_range=1.0, skip="nearest"),
    "rcan": RCANConfig(scale=4, width=16, groups=1, blocks=1),
    "swinir": SwinIRConfig(scale=2, width=12, depths=(2,), heads=(2,)),
    "swinir direct": SwinIRConfig(
        scale=3, width=12, depths=(2,), heads=(2,), upsampler="pixelshuffledirect"
    ),
    "smfanet": SMFANetConfig(scale=2, width=8, blocks=2),
}
EDSR = NETWORKS["edsr"]


def _ask(path: Path, lr: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"lr": lr.numpy()})[0])


def _network(config: NetworkConfig) -> Network:
    """With every parameter away from its start, where some are 0 and hide mistakes."""
    network = config.build().frozen()
    for p in network.parameters():
        p.add_(0.02 * torch.randn_like(p))
    return network


@pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS.keys())
def test_a_graph_answers_as_the_network_does_at_sizes_it_was_not_recorded_at(
    config: NetworkConfig, tmp_path: Path
) -> None:
    network = _network(config)

    done = export_onnx(network, tmp_path / "a.onnx")

    assert done.largest_error is not None
    assert done.largest_error < 1e-5
    assert done.bytes == (tmp_path / "a.onnx").stat().st_size
    for size in ((1, 3, 16, 16), (3, 3, 9, 31), (2, 3, 1, 1), (1, 3, 47, 2)):
        lr = torch.rand(size)
        assert_close(_ask(done.path, lr), network(lr), atol=1e-5, rtol=0)


def test_a_graph_of_one_size_takes_that_size_only(tmp_path: Path) -> None:
    network = _network(EDSR)

    done = export_onnx(network, tmp_path / "a.onnx", dynamic=False, size=(10, 14))

    assert done.sizes == ((1, 10, 14),)
    lr = torch.rand(1, 3, 10, 14)
    assert_close(_ask(done.path, lr), network(lr), atol=1e-5, rtol=0)
    with pytest.raises(Exception, match="Got invalid dimensions"):
        _ask(done.path, torch.rand(1, 3, 11, 14))


def test_a_graph_in_float16_takes_and_gives_float32(tmp_path: Path) -> None:
    network = _network(replace(EDSR, value_range=1.0))

    done = export_onnx(network, tmp_path / "a.onnx", half=True)

    lr = torch.rand(1, 3, 12, 13)
    answer = _ask(done.path, lr)
    assert answer.dtype == torch.float32
    assert 1e-6 < (answer - network(lr)).abs().max() < 5e-3
    assert done.bytes < export_onnx(network, tmp_path / "b.onnx").bytes * 0.7


def test_a_network_that_is_too_far_off_in_float16_is_refused_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SMFANet+ is 0.014 off, which one gray level (0.004) does not hide."""
    monkeypatch.setitem(TOLERANCE, "float16", 1e-9)
    network = NETWORKS["edsr"].build()

    with pytest.raises(
        ExportError, match=r"^in float16 the graph .* 1e-09 is allowed: .*leave --half out"
    ):
        export_onnx(network, tmp_path / "a.onnx", half=True)
    assert list(tmp_path.iterdir()) == []
    export_onnx(network, tmp_path / "a.onnx")


def test_networks_that_overflow_are_not_exported_in_float16(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="rcan overflows in float16: export it in float32"):
        export_onnx(NETWORKS["rcan"].build(), tmp_path / "a.onnx", half=True)


def test_an_ensemble_is_exported(tmp_path: Path) -> None:
    """Its members' answers are folded one by one: ONNX has no folding of five dimensions."""
    ensemble = gather({name: _network(EDSR) for name in ("one", "two")}, width=4, blocks=1)

    assert export_onnx(ensemble, tmp_path / "a.onnx").largest_error < 1e-4


def test_weights_that_answer_otherwise_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.pth").write_text("the one before")
    monkeypatch.setattr(export, "_difference", lambda *_: 0.5)

    with pytest.raises(
        ExportError,
        match=r"a.pth would answer otherwise than the network, by 0.5, and was not written",
    ):
        export_weights(_network(EDSR), tmp_path / "a.pth", "basicsr")

    assert (tmp_path / "a.pth").read_text() == "the one before"


def test_a_graph_says_what_it_is(tmp_path: Path) -> None:
    network = _network(EDSR)

    export_onnx(network, tmp_path / "a.onnx", metadata={"teacher": "big"})

    model = onnx.load(tmp_path / "a.onnx")
    told = {p.key: p.value for p in model.metadata_props}
    assert told["network"] == "edsr"
    assert told["scale"] == "2"
    assert told["teacher"] == "big"
    assert told["sha256"] == weights.tensors_sha256(network.state_dict())
    assert model.producer_name == "dukd"
    assert model.opset_import[0].version == 20


def test_a_graph_that_answers_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tracing once froze the batch of a transformer.

    Right shapes, wrong values, no error (ecosystem.md 6.3).
    """
    (tmp_path / "a.onnx").write_text("the one before")
    monkeypatch.setattr(export, "padded_to_multiple", lambda x, _axis, _multiple: x[..., :16, :16])

    with pytest.raises(ExportError, match="the graph answers otherwise than the network, by inf"):
        export_onnx(_network(EDSR), tmp_path / "a.onnx")

    assert (tmp_path / "a.onnx").read_text() == "the one before"
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]


def test_the_network_stays_as_it_was(tmp_path: Path) -> None:
    network = _network(EDSR).train().requires_grad_()
    before = weights.tensors_sha256(network.state_dict())

    export_onnx(network, tmp_path / "a.onnx", check=False)
    export_weights(network, tmp_path / "a.pth", "basicsr")

    assert network.training
    assert all(p.requires_grad for p in network.parameters())
    assert weights.tensors_sha256(network.state_dict()) == before


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)

    with pytest.raises(
        ExportError, match=rf"exporting to ONNX needs {missing}: pip install 'dukd\[onnx\]'"
    ):
        export_onnx(EDSR.build(), tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"opset": 9}, "opset is 17 to 20, but got 9"),
        ({"size": (0, 3), "dynamic": False}, r"at least 1 pixel on a side, but size is \(0, 3\)"),
    ],
)
def test_impossible_options_are_refused(
    options: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=sentence):
        export_onnx(EDSR.build(), tmp_path / "a.onnx", **options)


def test_an_onnx_file_is_called_onnx(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"a\.pth is to end in \.onnx"):
        export_onnx(EDSR.build(), tmp_path / "a.pth")


@pytest.mark.parametrize("layout", ["basicsr", "official"])
@pytest.mark.parametrize("name", ["edsr", "rcan", "swinir", "smfanet"])
def test_weights_for_other_code_are_read_back(name: str, layout: Layout, tmp_path: Path) -> None:
    network = _network(NETWORKS[name])

    done = export_weights(network, tmp_path / "net.pth", layout)

    assert done.largest_error is not None
    assert done.largest_error < 1e-5
    stored = torch.load(done.path, weights_only=True)
    if layout == "basicsr":
        assert "params" in stored


def test_a_layout_that_lacks_the_skip_refuses_it(tmp_path: Path) -> None:
    with pytest.raises(
        weights.WeightsError, match=r"BasicSR's EDSR has no skip, .*\.safetensors .*\.onnx"
    ):
        export_weights(NETWORKS["edsr with skip"].build(), tmp_path / "a.pth", "basicsr")


@pytest.mark.parametrize("multiple", [2, 8])
def test_traced_padding_is_the_networks(multiple: int) -> None:
    for h, w in ((1, 1), (1, 9), (3, 8), (7, 5), (8, 16), (13, 2)):
        x = torch.rand(2, 3, h, w)
        padded = padded_to_multiple(padded_to_multiple(x, 2, multiple), 3, multiple)
        assert torch.equal(padded, pad_to_multiple(x, multiple))


def test_traced_pooling_and_enlarging_are_torchs_to_the_bit() -> None:
    for h in range(1, 70):
        x = torch.rand(1, 2, h, h * 7 % 61 + 1)
        pooled = F.adaptive_max_pool2d(x, (max(1, h // 8), max(1, x.shape[-1] // 8)))
        assert torch.equal(cell_maxima(x, 8), pooled)
        assert torch.equal(
            enlarged(pooled, x), F.interpolate(pooled, size=x.shape[-2:], mode="nearest")
        )


def test_traced_variance_is_torchs() -> None:
    x = torch.rand(2, 4, 5, 6, dtype=torch.float64)

    assert_close(variance(x), x.var((-2, -1), keepdim=True))
    assert not variance(x[..., :1, :1]).any()
