"""Weights of 7 bits: sums of products that every processor makes exactly."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dukd.cli.program import run
from dukd.deploy.onnx import Session
from dukd.deploy.quantize import Options, quantize
from dukd.deploy.runtime import ExportError, export
from dukd.networks import CompactConfig, EDSRConfig, NetworkConfig, Quantized, as_quantized
from dukd.networks.files import weights
from dukd.networks.quantize.balance import balance
from dukd.networks.quantize.calibrate import calibrate
from dukd.networks.quantize.integer import integer_forward
from dukd.networks.quantize.layers import QuantizedConv2d
from dukd.networks.quantize.settle import settle
from dukd.networks.quantize.targets import WEIGHT_BITS
from dukd.networks.quantized import QuantizedConfig

EDSR = EDSRConfig(scale=2, width=16, blocks=2, mean=(0.0, 0.0, 0.0))
COMPACT = CompactConfig(scale=2, width=16, blocks=3)
BOTH = pytest.mark.parametrize("config", [EDSR, COMPACT], ids=lambda c: c.name)


def photograph(n: int = 1, h: int = 40, w: int = 33) -> Tensor:
    """Levels of 8 bits, from 0 to 1."""
    return torch.rand(n, 3, h, w).mul(255).round().div(255)


def bright(config: NetworkConfig, **choices: object) -> Quantized:
    """A network whose weights are all alike and positive, as its inputs are: sums are largest."""
    network = config.build()
    with torch.no_grad():
        for p in network.parameters():
            if p.ndim == 4:
                p.copy_((1 + 0.1 * torch.rand_like(p)) / p[0].numel())
    made = as_quantized(network, **choices)
    calibrate(made, [photograph(4)], "min-max")
    return made


def without_vnni() -> bool:
    """Whether this is a processor with AVX2 that adds products of uint8 and int8 in 16 bits."""
    flags = Path("/proc/cpuinfo")
    words = set(flags.read_text().split()) if flags.exists() else set[str]()
    return "avx2" in words and not words & {"avx512_vnni", "avx_vnni", "avx512vnni"}


def test_two_products_fit_into_16_bits_and_of_8_bits_do_not() -> None:
    assert 2 * 255 * (2 ** (WEIGHT_BITS - 1) - 1) == 32_130 < 2**15
    assert 2 * 255 * (2**7 - 1) > 2**15


@BOTH
def test_integers_are_at_most_63_balanced_and_settled_too(config: NetworkConfig) -> None:
    made = as_quantized(config.build(), target="openvino", weight_bits=7)
    for change in (lambda: None, lambda: balance(made, [photograph()]), lambda: settle(made)):
        change()
        for name in made.quantized:
            conv = made.convolution(name)
            assert isinstance(conv, QuantizedConv2d)
            integers, scale = conv.quantized()
            largest = integers.abs().amax((1, 2, 3))
            assert torch.equal(largest, torch.full_like(largest, 63))
            assert (conv.weight.abs().amax((1, 2, 3)) / scale - 63).abs().max() < 1e-3
    assert "in 8 bits, weights in 7, for openvino" in made.describe()[0]


@BOTH
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_graphs_compute_the_reference(tmp_path: Path, config: NetworkConfig, target: str) -> None:
    pytest.importorskip("onnxruntime", reason="needs dukd[onnx]")
    onnx = pytest.importorskip("onnx", reason="needs dukd[onnx]")
    made = bright(config, target=target, weight_bits=7)
    done = export(made, tmp_path / "student.onnx")
    lr = photograph()

    levels = (Session(done.path)(lr) - integer_forward(made, lr)).abs() * 255

    assert levels.max() < 1.01
    stored = {i.name: i for i in onnx.load(done.path).graph.initializer}
    integers = [onnx.numpy_helper.to_array(i) for n, i in stored.items() if n.endswith("_int8")]
    assert integers
    assert {int(abs(i.astype(int)).max()) for i in integers} == {63}


@BOTH
def test_openvino_adds_exactly_on_every_processor(tmp_path: Path, config: NetworkConfig) -> None:
    """Of 8 bits it overflows where there is no VNNI, and the export says what would not."""
    pytest.importorskip("openvino", reason="needs dukd[openvino]")
    pytest.importorskip("onnx", reason="needs dukd[onnx]")
    done = export(bright(config, target="openvino", weight_bits=7), tmp_path / "student.xml")
    assert done.verified is not None
    assert done.verified.psnr > 55

    if without_vnni():
        with pytest.raises(ExportError, match="quantize with --weight-bits 7"):
            export(bright(config, target="openvino"), tmp_path / "eight.xml")


def test_a_file_keeps_it_and_files_of_before_have_8(tmp_path: Path) -> None:
    made = bright(COMPACT, target="openvino", weight_bits=7)
    weights.write(tmp_path / "a.safetensors", made)
    again = weights.read(tmp_path / "a.safetensors")

    assert again.config == made.config
    lr = photograph()
    with torch.no_grad():
        assert torch.equal(again.eval()(lr), made.eval()(lr))
    assert QuantizedConfig(network=COMPACT).weight_bits is None


def test_it_loses_little_more_than_8_bits() -> None:
    """One more bit of noise in weights: less than 6 dB of the error, and not less than none."""
    torch.manual_seed(0)
    network = EDSR.build().eval()
    lr = photograph()
    with torch.no_grad():
        truth = network(lr)
    errors: dict[int | None, float] = {}
    for weight_bits in (None, 7):
        options = Options(target="openvino", weight_bits=weight_bits, choice="min-max")
        result = quantize(network, [(lr, truth)], [(lr, truth)], options)
        with torch.no_grad():
            errors[weight_bits] = float((result.network.eval()(lr) - truth).square().mean())
    assert errors[None] < errors[7] < 4 * errors[None]


def test_the_command_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image  # noqa: PLC0415

    pixels = photograph(1, 48, 48)[0].permute(1, 2, 0).mul(255).byte().numpy()
    (tmp_path / "photos").mkdir()
    Image.fromarray(pixels).save(tmp_path / "photos" / "a.png")
    command = ["quantize", "x2-fast", "--images", str(tmp_path / "photos"), "--choice", "min-max"]

    assert run([*command, "--weight-bits", "7", "-o", str(tmp_path / "q.safetensors")]) == 0
    assert "weights in 7" in capsys.readouterr().err
    config = weights.read(tmp_path / "q.safetensors").config
    assert isinstance(config, QuantizedConfig)
    assert config.weight_bits == 7
    assert run([*command, "--weight-bits", "5", "-o", str(tmp_path / "r.safetensors")]) == 2
    assert "weight_bits is 7" in capsys.readouterr().err
    assert not (tmp_path / "r.safetensors").exists()
