"""What an export promises: the same images, at any size, and a whole file or none."""

import math
import pickle
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F  # noqa: N812  the name everybody knows
from torch.testing import assert_close

from dukd.deploy import ONNX, ExportError, OpenVINO, Runtime, Weights, export, verify
from dukd.deploy import onnx as graphs
from dukd.deploy.engine import run_by
from dukd.deploy.onnx import Session, padded_to_multiple
from dukd.networks import (
    CompactConfig,
    EDSRConfig,
    Network,
    NetworkConfig,
    PlainConfig,
    RCANConfig,
    RRDBConfig,
    SMFANetConfig,
    SPANConfig,
    SwinIRConfig,
    gather,
)
from dukd.networks.base import pad_to_multiple
from dukd.networks.files import weights
from dukd.networks.tracing import cell_maxima, enlarged, variance
from dukd.networks.upscaler import UpscalerError
from dukd.testing import check_runtime

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
    "compact": CompactConfig(scale=2, width=8, blocks=1),
    "plain, whose branches are folded": PlainConfig(scale=2, width=8, blocks=2),
    "span, whose branches are folded": SPANConfig(scale=2, width=8, value_range=1.0),
    "rrdb": RRDBConfig(scale=2, width=8, blocks=1, growth=4, unshuffle=2),
}
EDSR = NETWORKS["edsr"]


def _run(path: Path, lr: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"lr": lr.numpy()})[0])


def _network(config: NetworkConfig) -> Network:
    """With every parameter away from its start, where some are 0 and hide mistakes."""
    network = config.build().frozen()
    for p in network.parameters():
        p.add_(0.02 * torch.randn_like(p))
    return network


@pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS.keys())
def test_a_graph_gives_what_the_network_gives_at_sizes_it_was_not_recorded_at(
    config: NetworkConfig, tmp_path: Path
) -> None:
    network = _network(config)

    done = export(network, tmp_path / "a.onnx")

    assert done.verified is not None
    assert done.verified.largest < 1e-5
    assert done.verified.psnr > 100
    assert done.bytes == (tmp_path / "a.onnx").stat().st_size
    for size in ((1, 3, 16, 16), (3, 3, 9, 31), (2, 3, 1, 1), (1, 3, 47, 2)):
        lr = torch.rand(size)
        assert_close(_run(done.path, lr), network(lr), atol=1e-5, rtol=0)


def test_a_graph_of_one_size_takes_that_size_only(tmp_path: Path) -> None:
    network = _network(EDSR)

    done = export(network, tmp_path / "a.onnx", ONNX(size=(10, 14)))

    assert done.verified.sizes == ((1, 10, 14),)
    lr = torch.rand(1, 3, 10, 14)
    assert_close(_run(done.path, lr), network(lr), atol=1e-5, rtol=0)
    with pytest.raises(Exception, match="Got invalid dimensions"):
        _run(done.path, torch.rand(1, 3, 11, 14))


def test_a_graph_in_float16_takes_and_gives_float32(tmp_path: Path) -> None:
    network = _network(replace(EDSR, value_range=1.0))

    done = export(network, tmp_path / "a.onnx", ONNX(half=True))

    lr = torch.rand(1, 3, 12, 13)
    sr = _run(done.path, lr)
    assert sr.dtype == torch.float32
    assert 1e-6 < (sr - network(lr)).abs().max() < 5e-3
    assert done.bytes < export(network, tmp_path / "b.onnx").bytes * 0.7


def test_a_network_that_is_too_far_off_in_float16_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SMFANet+ is 0.014 off, which one gray level (0.004) does not hide."""
    monkeypatch.setattr(ONNX, "tolerance", 1e-9)
    network = NETWORKS["edsr"].build()

    with pytest.raises(
        ExportError,
        match=r"^the export as onnx in float16 .* at most 1e-09 is allowed; nothing",
    ):
        export(network, tmp_path / "a.onnx", ONNX(half=True))
    assert list(tmp_path.iterdir()) == []


def test_networks_that_overflow_are_not_exported_in_float16(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="rcan overflows in float16: leave --half out"):
        export(NETWORKS["rcan"].build(), tmp_path / "a.onnx", ONNX(half=True))


def test_an_ensemble_is_exported(tmp_path: Path) -> None:
    """Its members' outputs are folded one by one: ONNX has no folding of five dimensions."""
    ensemble = gather({name: _network(EDSR) for name in ("one", "two")}, width=4, blocks=1)

    assert export(ensemble, tmp_path / "a.onnx").verified.largest < 1e-4


class _Wrong(Weights):
    """Writes other weights than it was given."""

    name = "_wrong"

    def export(self, network: Network, path: Path, properties: Mapping[str, str]) -> None:
        next(network.parameters()).data.add_(0.1)
        super().export(network, path, properties)


def test_an_export_that_gives_other_images_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_text("the one before")

    with pytest.raises(
        ExportError, match=r"gives other images than the network, by \d.*; nothing was written"
    ):
        export(_network(EDSR), tmp_path / "a.pth", _Wrong(layout="basicsr"))

    assert (tmp_path / "a.pth").read_text() == "the one before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_the_proof_is_in_decibels_and_in_the_largest_difference() -> None:
    """A tenth of white everywhere is 20 dB."""
    network = _network(EDSR)

    verified = verify(network, _Brighter(network, 0.1), sizes=[(1, 8, 9), (2, 5, 5)])

    assert verified.largest == pytest.approx(0.1, abs=1e-6)
    assert verified.psnr == pytest.approx(20, abs=1e-4)
    assert verify(network, network).psnr == math.inf
    assert verify(network, _Brighter(network, math.nan)).largest == math.inf


class _Brighter:
    def __init__(self, network: Network, by: float) -> None:
        self.network, self.by = network, by
        self.name, self.scale = "brighter", network.scale
        self.radius, self.size_multiple = network.radius, network.size_multiple

    def __call__(self, lr: torch.Tensor) -> torch.Tensor:
        return self.network(lr) + self.by


@pytest.mark.parametrize(
    "runtime",
    [ONNX(), ONNX(half=True), Weights(), OpenVINO(), OpenVINO(half=True)],
    ids=lambda runtime: runtime.form,
)
def test_a_runtime_keeps_its_promises(runtime: Runtime) -> None:
    if isinstance(runtime, OpenVINO):
        pytest.importorskip("openvino")
    check_runtime(runtime)


@pytest.mark.parametrize("name", ["rcan", "swinir", "smfanet"])
def test_openvino_runs_every_network(name: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    network = _network(NETWORKS[name])

    done = export(network, tmp_path / "a.xml")

    assert done.verified is not None
    assert done.verified.largest < 1e-5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.xml"]
    assert done.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("engine", "package"), [("openvino", "openvino"), ("onnxruntime", "onnxruntime")]
)
def test_weights_are_run_by_other_runtimes_and_give_the_same(engine: Any, package: str) -> None:
    pytest.importorskip(package)
    network, lr = _network(EDSR), torch.rand(1, 3, 20, 31)

    upscaler = run_by(network, engine, device="cpu")

    assert type(upscaler).__name__ == {"openvino": "Compiled", "onnxruntime": "Session"}[engine]
    assert_close(upscaler(lr), network(lr), atol=1e-5, rtol=0)
    again = pickle.loads(pickle.dumps(run_by(network, "torch", device="cpu")))
    assert_close(again(lr), network(lr), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("engine", "precision", "sentence"),
    [
        ("openvino", "float16", "OpenVINO computes in float32 or bfloat16"),
        ("onnxruntime", "bfloat16", "onnxruntime computes in float32 or float16"),
    ],
)
def test_a_precision_a_runtime_lacks_is_a_sentence(
    engine: Any, precision: Any, sentence: str
) -> None:
    with pytest.raises(ExportError, match=sentence):
        run_by(_network(EDSR), engine, device="cpu", precision=precision)


def test_the_check_finds_a_runtime_that_breaks_them() -> None:
    with pytest.raises(AssertionError, match="gives other images"):
        check_runtime(_Wrong())


def test_a_strangers_graph_is_run_and_its_scale_found(tmp_path: Path) -> None:
    """No metadata of ours, other names: what spandrel's and chaiNNer's users have."""
    export(_network(NETWORKS["edsr with skip"]), tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "b.onnx")

    session = Session(tmp_path / "b.onnx")

    assert (session.name, session.scale, session.radius) == ("b", 3, None)
    lr = torch.rand(1, 3, 7, 9)
    assert_close(session(lr), Session(tmp_path / "a.onnx")(lr), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:You are using the legacy")
def test_graphs_that_do_not_enlarge_are_refused(tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"no graph")
    with pytest.raises(UpscalerError, match=r"no\.onnx is damaged, or not an ONNX file"):
        Session(tmp_path / "no.onnx")
    torch.onnx.export(
        torch.nn.Flatten(), (torch.rand(1, 3, 32, 32),), tmp_path / "flat.onnx", dynamo=False
    )
    with pytest.raises(UpscalerError, match=r"makes \(1, 3072\) of .* not an enlargement"):
        Session(tmp_path / "flat.onnx")
    torch.onnx.export(torch.nn.ReLU(), (torch.rand(1, 9),), tmp_path / "row.onnx", dynamo=False)
    with pytest.raises(UpscalerError, match=r"takes .* \[1, 9\], but a graph that enlarges takes"):
        Session(tmp_path / "row.onnx")


def test_a_graph_says_what_it_is(tmp_path: Path) -> None:
    network = _network(EDSR)

    export(network, tmp_path / "a.onnx", metadata={"teacher": "big"})

    model = onnx.load(tmp_path / "a.onnx")
    facts = {p.key: p.value for p in model.metadata_props}
    assert facts["network"] == "edsr"
    assert facts["scale"] == "2"
    assert facts["teacher"] == "big"
    assert facts["sha256"] == weights.tensors_sha256(network.state_dict())
    assert model.producer_name == "dukd"
    assert model.opset_import[0].version == 20


def test_a_graph_that_was_traced_wrongly_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tracing once froze a transformer's batch: right shapes, wrong values (ecosystem.md 6.3)."""
    monkeypatch.setattr(graphs, "padded_to_multiple", lambda x, _axis, _multiple: x[..., :16, :16])

    with pytest.raises(ExportError, match="gives other images than the network, by inf"):
        export(_network(EDSR), tmp_path / "a.onnx")

    assert list(tmp_path.iterdir()) == []


def test_the_network_stays_as_it_was(tmp_path: Path) -> None:
    network = _network(EDSR).train().requires_grad_()
    before = weights.tensors_sha256(network.state_dict())

    export(network, tmp_path / "a.onnx")
    export(network, tmp_path / "a.pth", Weights(layout="basicsr"))

    assert network.training
    assert all(p.requires_grad for p in network.parameters())
    assert weights.tensors_sha256(network.state_dict()) == before


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)

    with pytest.raises(ExportError, match=rf"ONNX needs {missing}: pip install 'dukd\[onnx\]'"):
        export(EDSR.build(), tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"opset": 9}, "opset is 11 to 20, but got 9"),
        ({"size": (0, 3)}, r"at least 1 pixel on a side, but size is \(0, 3\)"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ExportError, match=sentence):
        ONNX(**options)


def test_the_ending_names_the_runtime(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"a\.pth: onnx writes \.onnx"):
        export(EDSR.build(), tmp_path / "a.pth", ONNX())
    with pytest.raises(ExportError, match=r"no runtime has files like .*a\.xyz; known endings are"):
        export(EDSR.build(), tmp_path / "a.xyz")


@pytest.mark.parametrize("layout", ["basicsr", "official"])
@pytest.mark.parametrize("name", ["edsr", "rcan", "swinir", "smfanet"])
def test_weights_for_other_code_are_read_back(name: str, layout: str, tmp_path: Path) -> None:
    network = _network(NETWORKS[name])

    done = export(network, tmp_path / "net.pth", Weights(layout=layout))

    assert done.verified is not None
    assert done.verified.largest < 1e-5
    assert done.verified.psnr > 100
    stored = torch.load(done.path, weights_only=True)
    if layout == "basicsr":
        assert "params" in stored


def test_a_layout_that_lacks_the_skip_refuses_it(tmp_path: Path) -> None:
    with pytest.raises(
        weights.WeightsError, match=r"BasicSR's EDSR has no skip, .*\.safetensors .*\.onnx"
    ):
        export(NETWORKS["edsr with skip"].build(), tmp_path / "a.pth", Weights(layout="basicsr"))


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


def test_a_graph_of_levels_takes_and_gives_bytes(tmp_path: Path) -> None:
    network = _network(replace(EDSR, value_range=1.0))

    done = export(network, tmp_path / "a.onnx", ONNX(levels=True))

    lr = torch.randint(0, 256, (1, 3, 9, 11), dtype=torch.uint8)
    sr = _run(done.path, lr)
    expected = (255 * network(lr / 255)).clamp(0, 255).round()
    assert sr.dtype == torch.uint8
    assert (sr.float() - expected).abs().max() <= 1
    assert (sr.float() != expected).float().mean() < 1e-3
    assert_close(Session(done.path)(lr / 255), sr / 255, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("name", "opset"), [("edsr", 11), ("rcan", 11), ("swinir", 12), ("smfanet", 12)]
)
def test_older_programs_get_the_operators_they_have(name: str, opset: int, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="needs operators newer than --opset"):
        export(_network(NETWORKS["smfanet"]), tmp_path / "b.onnx", ONNX(opset=11))

    done = export(_network(NETWORKS[name]), tmp_path / "a.onnx", ONNX(opset=opset))

    assert done.verified is not None
    assert done.verified.largest < 1e-4
    assert onnx.load(done.path).opset_import[0].version == opset


def test_an_error_names_the_file_that_was_wanted_not_the_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(self: Runtime, network: Network, path: Path, told: Mapping[str, str]) -> None:
        raise ValueError(f"{path} is to end otherwise")

    monkeypatch.setattr(Weights, "export", odd)
    with pytest.raises(ExportError) as raised:
        export(EDSR.build(), tmp_path / "x.pth")
    assert str(raised.value) == f"{tmp_path / 'x.pth'} is to end otherwise"
