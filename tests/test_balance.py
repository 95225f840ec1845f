"""Balanced networks: equal in float, better in few bits; and what of that stands on the page."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dukd import images
from dukd.cli.program import run
from dukd.deploy.onnx import Session
from dukd.deploy.openvino import OpenVINO
from dukd.deploy.runtime import ExportError, export
from dukd.networks import (
    CompactConfig,
    EDSRConfig,
    NetworkConfig,
    Quantized,
    RCANConfig,
    as_quantized,
)
from dukd.networks.base import set_memory_format
from dukd.networks.quantize.balance import balance, lengthen
from dukd.networks.quantize.calibrate import calibrate, in_float
from dukd.networks.quantize.integer import integer_forward
from dukd.networks.quantize.layers import QuantizedConv2d
from dukd.networks.quantize.settle import settle
from dukd.networks.quantize.spaces import Space, spaces
from dukd.networks.span import SPANConfig
from dukd.runs import quantized
from dukd.runs.report import report
from dukd.runs.signed import with_header

SMALL = EDSRConfig(scale=2, width=8, blocks=2, mean=(0.0, 0.0, 0.0))


def photograph(n: int = 1, h: int = 20, w: int = 23) -> Tensor:
    """Levels of 8 bits, from 0 to 1."""
    return torch.rand(n, 3, h, w).mul(255).round().div(255)


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        EDSRConfig(scale=4, width=8, blocks=1, residual_scale=0.1),
        CompactConfig(scale=2, width=8, blocks=2),
        RCANConfig(scale=2, width=8, groups=1, blocks=1, squeeze=2),
        SPANConfig(scale=2, width=8),
    ],
    ids=lambda config: config.name,
)
@pytest.mark.parametrize("together", [True, False])
def test_in_float_a_balanced_network_computes_the_same(
    config: NetworkConfig, together: bool
) -> None:
    network = config.build().eval()
    made = as_quantized(network, target="onnxruntime" if config.scale == 2 else "openvino")
    set_memory_format(made, channels_last=together)
    before = {name: value.clone() for name, value in made.floats().items()}
    assert balance(made, [photograph(2)])
    lr = photograph()
    with torch.no_grad(), in_float(made):
        assert torch.allclose(made(lr), network(lr), atol=2e-5)
    assert any(not torch.equal(v, before[n]) for n, v in made.floats().items())


def test_a_stream_is_one_space_and_a_rectifier_ends_it() -> None:
    made = as_quantized(SMALL.build(), target="onnxruntime")
    names = {made.convolution(name): name for name in made.convolutions}
    found = {frozenset(names[c] for c in s.writers): s for s in spaces(made)}
    assert len(found) == 4
    long = found[frozenset({"conv_first", "body.0.conv2", "body.1.conv2", "conv_after_body"})]
    assert long.linear
    assert [names[c] for c in long.readers] == [
        "body.0.conv1",
        "body.1.conv1",
        "conv_after_body",
        "upsample.0",
    ]
    assert not found[frozenset({"body.0.conv1"})].linear
    up = found[frozenset({"upsample.0"})]
    assert [names[c] for c in up.readers] == ["conv_last"]
    assert (up.width, up.writers[0].out_channels) == (8, 32), "four rows to a channel"


def test_lengthening_by_hand() -> None:
    writer, reader = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 1)
    with torch.no_grad():
        writer.weight.copy_(torch.tensor([3.0, 5.0])[:, None, None, None])
        writer.bias = nn.Parameter(torch.tensor([1.0, -1.0]))
        reader.weight.copy_(torch.tensor([[4.0, 6.0]])[..., None, None])
    lengthen(Space(writers=[writer], readers=[reader]), torch.tensor([2.0, -0.5]))
    assert writer.weight.flatten().tolist() == [6.0, -2.5]
    assert writer.bias.tolist() == [2.0, 0.5]
    assert reader.weight.flatten().tolist() == [2.0, -12.0]


def uneven() -> tuple[Quantized, Quantized]:
    """The same network twice, one channel of whose maps is 8 times shorter; one is balanced."""
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        one = as_quantized(SMALL.build(), target="onnxruntime", keep=("conv_last",))
        for space in spaces(one):
            lengthen(space, torch.tensor([0.125, 1, 1, 2, 1, 1, 0.5, 1]))
        made.append(one)
    balance(made[1], [photograph(4)])
    return made[0], made[1]


def test_all_channels_have_the_same_range_and_a_stream_lies_above_zero() -> None:
    _, made = uneven()
    shown: dict[str, Tensor] = {}
    site = next(s for s in made.sites if s.name == "relu")
    stream = next(s for s in made.sites if s.layer == "conv_first" and s.role == "inner")
    for name, place in (("relu", site), ("stream", stream)):
        made.quantizer(place).register_forward_hook(
            lambda _m, args, _out, name=name: shown.update({name: args[0]})
        )
    with torch.no_grad(), in_float(made):
        made(photograph(8, 24, 24))
    reach = shown["relu"].amax((0, 2, 3))
    assert reach[reach > 0].amax() / reach[reach > 0].amin() < 2, "8 and 4 before"
    tops, bottoms = shown["stream"].amax((0, 2, 3)), shown["stream"].amin((0, 2, 3))
    assert (tops > -bottoms).float().mean() > 0.7


def test_a_balanced_network_loses_less() -> None:
    plain, made = uneven()
    lr, losses = photograph(2), []
    for one in (plain, made):
        calibrate(one, [photograph(4)], "min-max")
        with torch.no_grad():
            rounded = one(lr)
            with in_float(one):
                losses.append((rounded - one(lr)).square().mean().item())
    assert losses[1] < 0.3 * losses[0]


def test_the_literature_and_dead_maps_stay_as_they_are() -> None:
    network = SMALL.build()
    assert balance(as_quantized(network, target="daq"), [photograph()]) == []
    with torch.no_grad():
        state = network.state_dict()
        state["body.0.conv1.weight"].zero_()
        state["body.0.conv1.bias"].fill_(-1)
    made = as_quantized(network)
    (said,) = balance(made, [photograph()])
    assert "have the same range now" in said
    assert all(torch.isfinite(p).all() for p in made.parameters())
    bias = made.convolution("body.0.conv1").bias
    assert bias is not None
    assert bias.tolist() == [-1] * 8


def test_settled_weights_keep_their_sums() -> None:
    made = as_quantized(SMALL.build(), target="onnxruntime")
    convs = {name: made.convolution(name) for name in made.quantized}
    with torch.no_grad():  # the largest of a kernel is what settling would like to lower
        for conv in convs.values():
            conv.weight[:, :1].copy_(conv.weight[:, :1].sign() * 0.9961 * conv.weight.abs().amax())
    before = {name: conv.weight.detach().clone() for name, conv in convs.items()}
    scales = {n: c.quantized()[1] for n, c in convs.items() if isinstance(c, QuantizedConv2d)}
    settle(made)
    for name, old in before.items():
        conv = made.convolution(name)
        assert isinstance(conv, QuantizedConv2d)
        scale = conv.quantized()[1]
        steps = (conv.weight.detach() - old) / scale[:, None, None, None]
        assert torch.allclose(conv.rounded(), conv.weight, atol=1e-6), "it lies on its grid"
        assert torch.allclose(scale, scales[name], rtol=1e-6), "the largest weight stays"
        assert steps.abs().max() < 1.01
        rest = steps[:, 1:]  # kernels with weights that may move
        assert rest.numel() == 0 or rest.sum((2, 3)).abs().max() < 1.51


def test_settling_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rests of 0.4, 0.3 and 0.45 add up to 1.15: the largest is rounded up, and 0.15 is left."""
    conv = QuantizedConv2d.of(nn.Conv2d(1, 1, (1, 4), bias=False), 8)
    made = as_quantized(SMALL.build(), target="onnxruntime")
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([127.0, 3.4, 5.3, 7.45]).view(1, 1, 1, 4))
    monkeypatch.setattr(made, "quantized", ("x",))
    monkeypatch.setattr(made, "convolution", lambda _name: conv)
    settle(made)
    assert conv.weight.flatten().tolist() == pytest.approx([127, 3, 5, 8])


# OpenVINO


def test_openvino_computes_the_reference_and_never_in_16_bits(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs dukd[openvino]")
    made = as_quantized(SMALL.build(), target="openvino")
    calibrate(made, [photograph(4)], "min-max")
    done = export(made, tmp_path / "student.xml")
    assert done.verified is not None
    assert done.verified.psnr > 50
    for runtime in (OpenVINO(half=True), OpenVINO(precision="bfloat16")):
        with pytest.raises(ExportError, match="integers and 16-bit floats do not mix"):
            export(made, tmp_path / "half.xml", runtime)


# The page


def run_directory(folder: Path) -> Path:
    folder.mkdir()
    text = "student: {type: edsr}\nmethod: {type: scratch}\n"
    (folder / "experiment.yaml").write_text(with_header(text))
    return folder


def test_the_page_draws_what_each_layer_loses(tmp_path: Path) -> None:
    folder = run_directory(tmp_path / "run")
    quantized.write(
        folder,
        target="openvino",
        bits=8,
        images="4 middles of <Set5>",
        float_psnr=37.5,
        psnr={"min-max": 37.25},
        layers={"conv_first": -0.125},
    )
    html = report([folder], tmp_path / "a.html").read_text()
    for text in ("In few bits", "37.250", "\u22120.250", "&lt;Set5&gt;", "\u22120.125 dB"):
        assert text in html
    assert "weights in 7" not in html
    quantized.write(
        folder,
        target="openvino",
        bits=8,
        weight_bits=7,
        images="4 of Set5",
        float_psnr=37.5,
        psnr={"mse": 37.2},
        layers={},
    )
    html = report([folder], tmp_path / "a.html").read_text()
    assert "8 bits for openvino, on 4 middles" in html
    assert "8 bits, weights in 7, for openvino, on 4 of Set5" in html


@pytest.mark.parametrize("text", ["{", "[]", '{"psnr": 3}', json.dumps({"float": "x"}), "NaN"])
def test_a_damaged_file_is_named_and_the_page_is_made(tmp_path: Path, text: str) -> None:
    folder = run_directory(tmp_path / "run")
    (folder / "quantized-openvino-8.json").write_text(text)
    html = report([folder], tmp_path / "a.html").read_text()
    assert "quantized-openvino-8.json is damaged" in html


# A Compact, and the commands


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_a_compact_is_exact_in_onnxruntime(tmp_path: Path, target: str) -> None:
    """Its slopes are learned and its enlarged input is added in float."""
    pytest.importorskip("onnxruntime", reason="needs dukd[onnx]")
    made = as_quantized(CompactConfig(scale=2, width=8, blocks=2).build(), target=target)
    assert len(made.convolutions) == 4
    assert made.quantized == (made.convolutions[1:3] if target == "openvino" else made.convolutions)
    balance(made, [photograph(2)])
    calibrate(made, [photograph(4)], "min-max")
    done = export(made, tmp_path / "student.onnx")
    lr = photograph(2, 40, 33)
    levels = (Session(done.path)(lr) - integer_forward(made, lr)).abs() * 255
    assert levels.max() < 1.01
    if target == "onnxruntime":
        assert (levels > 0.5).float().mean() <= 1e-4


def test_a_quantized_student_is_used_like_any_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime", reason="needs dukd[onnx]")
    folder, trained = tmp_path / "photos", tmp_path / "run"
    for k in range(2):
        pixels = torch.rand(12, 12, 3).repeat_interleave(4, 0).repeat_interleave(4, 1)
        made = pixels.mul(255).to(torch.uint8).numpy()
        images.write(folder / f"{k}.png", images.Image(pixels=made))
    steps = ["--optimization.steps", "2", "--data.batch", "2", "--data.patch", "12"]
    data = ["--data.train", str(folder), "--data.packs", str(tmp_path)]
    judged = ["--evaluation.sets", str(folder), "--evaluation.every", "2", "--device", "cpu"]
    start = ["train", "tiny-x2-scratch-int8", *data, *steps, *judged, "--out", str(trained)]
    assert run(start) == 0
    assert run(["info", str(trained)]) == 0
    assert run(["info", str(trained / "student.safetensors")]) == 0
    assert "in 8 bits for openvino" in capsys.readouterr().out
    assert run(["evaluate", str(trained), "--sets", str(folder), "--device", "cpu"]) == 0
    assert run(["export", str(trained), "-o", str(tmp_path / "a.onnx")]) == 0
    for student, out in ((trained, "a"), (tmp_path / "a.onnx", "b")):
        command = ["upscale", "--model", str(student), str(folder), "-o", str(tmp_path / out)]
        assert run([*command, "--device", "cpu"]) == 0
    capsys.readouterr()
    assert run(["export", str(trained), "-o", str(tmp_path / "b.onnx"), "--half"]) == 2
    assert "integers and float16 do not mix" in capsys.readouterr().err
    assert not (tmp_path / "b.onnx").exists()
