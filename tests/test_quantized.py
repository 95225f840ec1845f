"""Quantized networks: grids, placement, calibration, integers, files, export and training."""

import copy
import os
import pickle
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from dukd import images
from dukd.cli.program import run
from dukd.deploy.runtime import export
from dukd.networks import (
    EDSR,
    CompactConfig,
    EDSRConfig,
    NetworkConfig,
    PlainConfig,
    Quantized,
    QuantizedConfig,
    RCANConfig,
    SMFANetConfig,
    SPANConfig,
    Staged,
    as_quantized,
    swinir_light,
)
from dukd.networks.base import set_memory_format
from dukd.networks.files import weights
from dukd.networks.quantize.calibrate import (
    CHOICES,
    Seen,
    calibrate,
    chosen_range,
    in_float,
    only,
    rows,
    sensitivity,
)
from dukd.networks.quantize.integer import integer_forward
from dukd.networks.quantize.layers import QuantizedConv2d, Quantizer
from dukd.networks.quantize.published import (
    DAQuantizer,
    PAMSQuantizer,
    daq_activations,
    daq_deviations,
    daq_weights,
    pams,
)
from dukd.networks.quantize.settle import settle
from dukd.networks.upscaler import OnDevice
from dukd.recipes import recipe
from dukd.training import loop
from dukd.training.assemble import assemble
from dukd.training.experiment import Data, Evaluation, Experiment, Optimization
from dukd.training.log import Record

SMALL = EDSRConfig(scale=2, width=8, blocks=2, mean=(0.0, 0.0, 0.0))


def photograph(n: int = 1, h: int = 20, w: int = 23) -> Tensor:
    """Levels of 8 bits, from 0 to 1."""
    return torch.rand(n, 3, h, w).mul(255).round().div(255)


def calibrated(target: str = "onnxruntime", **choices: object) -> tuple[EDSR, Quantized]:
    network = SMALL.build()
    made = as_quantized(network, target=target, **choices)
    calibrate(made, [photograph(4)], "min-max")
    return network, made


def quantizer_at(network: Quantized, number: int) -> Quantizer:
    found = network.quantizer(network.sites[number])
    assert isinstance(found, Quantizer)
    return found


# Grids


def test_a_grid_has_its_zero_at_an_integer_inside() -> None:
    quantizer = Quantizer((0, 255))
    quantizer.set_range(-30.2, 225.0)
    scale, zero = quantizer.grid()
    assert scale.item() == pytest.approx(255.2 / 255)
    assert zero.item() == 30
    quantizer.set_range(3.0, 5.0)
    assert quantizer.grid().zero.item() == 0, "the range is widened to hold 0"
    quantizer.set_range(-5.0, -3.0)
    assert quantizer.grid().zero.item() == 255
    assert quantizer(torch.zeros(1)).item() == 0


def test_values_are_rounded_half_to_even_and_clipped() -> None:
    quantizer = Quantizer((0, 15))
    quantizer.set_range(-2.5, 5.0)
    x = torch.tensor([-9.0, -0.25, 0.2, 0.25, 0.75, 4.9, 9.0])
    assert quantizer(x).tolist() == [-2.5, 0.0, 0.0, 0.0, 1.0, 5.0, 5.0]
    assert quantizer.integers(x).tolist() == [0, 5, 5, 5, 7, 15, 15]


def test_behind_a_rectifier_the_smallest_integer_is_zero_whatever_is_learned() -> None:
    quantizer = Quantizer((-128, 127), positive=True)
    quantizer.set_range(-3.0, 2.55)
    assert quantizer.grid().zero.item() == -128
    assert quantizer.grid().scale.item() == pytest.approx(0.01)


def test_a_symmetric_grid_has_its_zero_at_zero() -> None:
    quantizer = Quantizer((-127, 127), symmetric=True)
    quantizer.set_range(-1.0, 2.54)
    assert [v.item() for v in quantizer.grid()] == pytest.approx([0.02, 0.0])


def test_gradients_are_those_of_the_identity_inside_and_of_the_ends_outside() -> None:
    quantizer = Quantizer((0, 4))
    quantizer.set_range(-2.0, 2.0)
    x = torch.tensor([-5.0, -0.7, 1.0, 7.0, 8.0], requires_grad=True)
    quantizer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 0, 0]
    assert quantizer.bounds.grad is not None
    low, high = (quantizer.bounds.grad / (quantizer.unit * 16)).tolist()
    # Clipped below: 1 for the low end. Clipped above: 2 for the high end. Inside: the rounding
    # error of -0.7, -0.3 steps, through the step, which is a quarter of the range.
    assert low == pytest.approx(1 + 0.3 / 4)
    assert high == pytest.approx(2 - 0.3 / 4)


def test_a_channel_of_zeros_and_a_range_without_extent_are_safe() -> None:
    conv = QuantizedConv2d.of(nn.Conv2d(2, 3, 3), 8)
    with torch.no_grad():
        conv.weight[1] = 0
    integers, scale = conv.quantized()
    assert scale[1].item() == 1
    assert integers[1].abs().max() == 0
    assert integers[0].abs().max() == 127
    quantizer = Quantizer((0, 255))
    quantizer.set_range(0.0, 0.0)
    assert torch.isfinite(quantizer(torch.randn(5))).all()


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_weights_have_a_scale_per_channel_and_so_many_levels(bits: int) -> None:
    conv = QuantizedConv2d.of(nn.Conv2d(8, 4, 3), bits)
    integers, scale = conv.quantized()
    assert scale.shape == (4,)
    assert integers.abs().amax((1, 2, 3)).tolist() == [2 ** (bits - 1) - 1] * 4
    error = (conv.rounded() - conv.weight).abs().amax((1, 2, 3))
    assert (error <= scale * 0.5001).all()


# The literature


def test_daq_rounds_each_channel_by_its_own_statistics() -> None:
    """Mean 0.5, deviation sqrt(5/3) = 1.29099; the step is that of 3 bits, 0.586 of it: 0.75652."""
    x = torch.tensor([[[[-1.0, 0.0, 1.0, 2.0]], [[-10.0, 0.0, 10.0, 20.0]]]], requires_grad=True)
    y = daq_activations(x, 4)
    assert y[0, 0, 0].tolist() == pytest.approx([-0.63478, 0.12174, 0.87826, 1.63478], abs=1e-5)
    assert torch.allclose(y[0, 1], 10 * y[0, 0])
    outlier = torch.cat([torch.zeros(1, 1, 1, 15), torch.full((1, 1, 1, 1), 16.0)], 3) - 1
    clipped = daq_activations(outlier.requires_grad_(), 2)
    # deviation 4, step 1.596 * 4 = 6.384, and two bits end at 1.5 steps
    assert clipped.max().item() == pytest.approx(1.5 * 6.384, rel=1e-5)
    (gradient,) = torch.autograd.grad(clipped.sum(), outlier)
    assert torch.equal(gradient, torch.ones_like(outlier)), "clipped values learn as well"


def test_daq_behind_a_rectifier_takes_positive_values_and_clips_nothing() -> None:
    """Of 3, 100 and one 0: mean 103 / 3, mean square 10009 / 3, deviation 46.4495."""
    x = torch.tensor([[[[0.0, 0.0, 3.0, 100.0]]]])
    y = daq_activations(x, 2)
    assert y[0, 0, 0].tolist() == pytest.approx([0, 0, 0, 1.596 * 46.4495], abs=1e-3)
    x = torch.cat([torch.ones(1, 1, 1, 63), torch.tensor([[[[0.0, 90.0]]]])], 3)
    assert daq_activations(x, 2).max() > 80, "four levels would end at 3 * 1.596 * 10.99 = 53"


def test_daq_rounds_deviations_over_the_channels() -> None:
    """Of 1 and 3: mean 2, deviation sqrt(2), step 0.586 of it: 2 - 1.5 and 2 + 1.5 steps."""
    found = daq_deviations(torch.tensor([1.0, 3.0]).view(1, 2, 1, 1), 4)
    assert found.flatten().tolist() == pytest.approx([0.75689, 3.24311], abs=1e-4)
    assert daq_deviations(torch.ones(2, 1, 1, 1), 4).flatten().tolist() == [1, 1]
    assert [DAQuantizer(bits).spread_bits for bits in (4, 6, 8)] == [4, None, None]
    x = torch.randn(2, 6, 9, 9) * torch.arange(1.0, 7)[:, None, None]
    assert not torch.allclose(DAQuantizer(4)(x), daq_activations(x, 4), atol=1e-3)


def test_daq_of_maps_without_variation_is_their_mean() -> None:
    x = torch.full((1, 2, 3, 3), -2.0)
    assert torch.equal(daq_activations(x, 4, spread_bits=4), x)
    assert torch.equal(daq_activations(torch.zeros(1, 2, 3, 3), 4), torch.zeros(1, 2, 3, 3))


def test_daq_weights_and_pams_by_hand() -> None:
    weight = torch.tensor([-2.0, -0.1, 0.1, 2.0], requires_grad=True)
    step = 0.996 * weight.detach().std()
    made = daq_weights(weight, 3)
    assert torch.allclose(made, step * torch.tensor([-1.5, -0.5, 0.5, 1.5]))
    assert torch.autograd.grad(made.sum(), weight)[0].tolist() == [1.0] * 4
    x = torch.tensor([-3.0, -0.4, 0.05, 1.05], requires_grad=True)
    largest = torch.tensor(1.4, requires_grad=True)
    found = pams(x, largest, 4)  # of 7 levels on a side
    assert found.tolist() == pytest.approx([-1.4, -0.4, 0.0, 1.0])
    by_x, by_largest = torch.autograd.grad(found.sum(), [x, largest])
    assert by_x.tolist() == [0.0, 1.0, 1.0, 1.0]
    # a clipped value moves with the largest; the others as their rounding error does
    assert by_largest.item() == pytest.approx(-1 + 0.0 + (0 - 0.05) / 1.4 + (1.0 - 1.05) / 1.4)


def test_the_literature_keeps_all_but_blocks_in_float() -> None:
    for target, kind in (("daq", DAQuantizer), ("pams", PAMSQuantizer)):
        _, made = calibrated(target, bits=4)
        assert made.quantized == tuple(f"body.{b}.conv{c}" for b in (0, 1) for c in (1, 2))
        assert all(isinstance(made.quantizer(site), kind) for site in made.sites)
        assert len(made.sites) == {"daq": 4, "pams": 6}[target], "PAMS also rounds what is added"


# Placement


def test_what_is_rounded_follows_from_the_target() -> None:
    _, made = calibrated("openvino")
    assert made.quantized == (
        *(f"body.{b}.conv{c}" for b in (0, 1) for c in (1, 2)),
        "conv_after_body",
    )
    assert [site.name for site in made.sites] == ["x", "relu", "x", "relu", "x"]
    _, made = calibrated("onnxruntime")
    assert made.quantized == made.convolutions
    assert made.sites[0].role == "image"
    assert made.sites[-1].role == "output"
    assert sum(site.layer == "" for site in made.sites) == 3, "two blocks add, and the long skip"
    assert made.describe() == [
        "8 of 8 convolutions in 8 bits for onnxruntime, the residual stream too"
    ]


def test_images_go_in_and_come_out_on_a_grid_of_gray_levels() -> None:
    _, made = calibrated("onnxruntime")
    for site in made.sites:
        quantizer = made.quantizer(site)
        assert isinstance(quantizer, Quantizer)
        if site.role != "inner":
            assert [v.item() for v in quantizer.grid()] == [1.0, 0.0]
            assert not quantizer.bounds.requires_grad
    levels = made.eval()(photograph()) * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)


@pytest.mark.parametrize("target", ["openvino", "onnxruntime", "litert", "ncnn", "pams", "daq"])
def test_in_float_a_quantized_network_is_the_network(target: str) -> None:
    for config in (SMALL, RCANConfig(scale=2, width=8, groups=1, blocks=1, squeeze=2)):
        network = config.build()
        made = as_quantized(network, target=target)
        lr = photograph()
        with in_float(made):
            assert torch.equal(made(lr), network(lr))
        assert made.floats().keys() == network.state_dict().keys()


@pytest.mark.parametrize("target", ["openvino", "onnxruntime", "litert", "ncnn", "pams", "daq"])
def test_it_is_calibrated_settled_and_learns_alike_wherever_channels_lie(target: str) -> None:
    torch.manual_seed(3)
    apart = as_quantized(SMALL.build(), target=target)
    together = copy.deepcopy(apart)
    set_memory_format(together, channels_last=True)
    seen, lr = [photograph(4)], photograph()
    gradients: list[Tensor] = []
    for network in (apart, together):
        calibrate(network, seen, "min-max")
        settle(network)
        network(lr).square().mean().backward()
        gradients.append(
            torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
        )
    ours, theirs = gradients
    assert (ours - theirs).norm() < 0.02 * ours.norm(), "a level more or less, where halves round"
    assert (apart(lr) - together(lr)).abs().mean() < 1e-3


def test_its_parts_run_by_themselves_and_features_are_read() -> None:
    _, made = calibrated("onnxruntime")
    lr = photograph()
    output = made.observe(lr, (0.5, 1.0))
    assert torch.equal(output.sr, made(lr))
    assert [f.shape for f in output.features] == [(1, 8, 20, 23)] * 2
    levels = output.features[0] / quantizer_at(made, 7).grid().scale
    assert torch.allclose(levels, levels.round(), atol=1e-3), "the stream is an integer"


def test_what_cannot_be_quantized_is_named() -> None:
    made = as_quantized(RCANConfig(scale=2, width=8, groups=1, blocks=1, squeeze=2).build())
    assert "rcab.3.attention cannot be quantized" in made.describe()[-1]
    made = as_quantized(SMFANetConfig(scale=2, width=8, blocks=1).build())
    assert "feats.0.smfa cannot be quantized" in made.describe()[-1]
    with pytest.raises(ValueError, match="swinir cannot be quantized"):
        as_quantized(swinir_light(2).build())


def test_layers_are_kept_by_name_and_a_wrong_one_is_refused() -> None:
    _, made = calibrated("openvino", keep=("body.0.conv1",))
    assert "body.0.conv1" not in made.quantized
    assert "conv_first" in made.quantized
    with pytest.raises(ValueError, match=r"no layer 'conv_frist'.*did you mean conv_first"):
        calibrated("openvino", keep=("conv_frist",))
    with pytest.raises(ValueError, match="no convolution that could be quantized"):
        calibrated("openvino", keep=("ends", "outside-blocks", *calibrated()[1].convolutions))


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"target": "opnvino"}, "no target 'opnvino'; did you mean openvino"),
        ({"bits": 5}, "bits are 4, 6 or 8, but got 5"),
        ({"weight_bits": 6}, "weight_bits is 7, or left out for as many as bits, but got 6"),
        ({"weight_bits": 7, "bits": 6}, "leave weight_bits out for openvino in 6 bits"),
        ({"weight_bits": 7, "target": "pams"}, "leave weight_bits out for pams in 8 bits"),
        ({"scale": 3}, "has the scale of the one inside, 2, but got 3"),
        ({"network": QuantizedConfig(network=SMALL)}, "quantized already"),
    ],
)
def test_wrong_numbers_are_refused(choices: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuantizedConfig(**({"network": SMALL} | choices))  # pyright: ignore[reportArgumentType]


def test_16_bits_and_integers_are_never_mixed() -> None:
    _, made = calibrated()
    with pytest.raises(ValueError, match="not in 16 bits"), torch.autocast("cpu", torch.bfloat16):
        made(photograph())
    with pytest.raises(ValueError, match="not in 16 bits"):
        copy.deepcopy(made).bfloat16()(photograph().bfloat16())
    with pytest.raises(ValueError, match=r"in float32, but precision is torch\.bfloat16"):
        OnDevice(made, "cpu", precision=torch.bfloat16)


def test_it_is_copied_pickled_and_counted() -> None:
    _, made = calibrated()
    lr = photograph()
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(other(lr), made(lr))
        with torch.no_grad():
            next(other.parameters()).add_(1)
        assert not torch.equal(other(lr), made(lr))
    with torch.device("meta"):  # as multiply-adds are counted
        assert made.config.build()(torch.empty(1, 3, 8, 9)).shape == (1, 3, 16, 18)


@dataclass(frozen=True, kw_only=True)
class _CompactConfig(NetworkConfig):
    name: ClassVar[str] = "compact-like"

    def build(self) -> "_Compact":
        return _Compact(self)


class _Compact(Staged):
    """Convolutions with learned slopes, a shuffle of pixels, and the enlarged input."""

    def __init__(self, config: _CompactConfig) -> None:
        super().__init__(config, width=8, radius=3)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.ModuleList(
            nn.Sequential(nn.PReLU(8), nn.Conv2d(8, 8, 3, padding=1)) for _ in range(2)
        )
        self.last = nn.Sequential(nn.PReLU(8), nn.Conv2d(8, 12, 3, padding=1))
        self.shuffle = nn.PixelShuffle(2)

    @property
    def stages(self) -> Sequence[nn.Module]:
        return list(self.body)

    def head(self, lr: Tensor) -> Tensor:
        return self.first(lr)

    def tail(self, x: Tensor, kept: Mapping[int, Tensor], lr: Tensor) -> Tensor:
        del kept
        return self.shuffle(self.last(x)) + nn.functional.interpolate(lr, scale_factor=2)


def test_learned_slopes_and_the_enlarged_input_are_followed(tmp_path: Path) -> None:
    network = _CompactConfig(scale=2).build()
    made = as_quantized(network, target="onnxruntime")
    calibrate(made, [photograph(4)], "min-max")
    assert [site.name for site in made.sites] == [
        *("lr", "first"),
        *(f"body_{k}_{n}" for k in (0, 1) for n in (0, 1)),
        *("last_0", "last_1"),
    ]
    assert made.sites[-1].role == "inner", "the output is a sum with the input, in float"
    lr = photograph()
    assert ((made(lr) - network(lr)).abs().mean() * 255) < 2
    if find_spec("onnxruntime"):
        done = export(made, tmp_path / "student.onnx")
        assert done.verified is not None
        assert done.verified.psnr > 50


# Calibration


def test_ranges_by_three_choices() -> None:
    counts = torch.zeros(100)
    counts[:10], counts[99] = 1e5, 1
    seen = Seen(0.0, 100.0, counts)
    assert chosen_range(seen, "min-max", (0, 255)) == (0.0, 100.0)
    assert chosen_range(seen, "percentile", (0, 255)) == (0.0, 10.0)
    low, high = chosen_range(seen, "mse", (0, 15))
    assert low == 0
    assert 9 <= high <= 12, "the one value at 100 is worth less than the error of the others"


@pytest.mark.parametrize("choice", CHOICES)
def test_calibration_keeps_a_network_close_to_itself(choice: str) -> None:
    network = SMALL.build()
    made = as_quantized(network, target="onnxruntime")
    lr = photograph(4)
    assert calibrate(made, [lr], choice) == []  # pyright: ignore[reportArgumentType]
    with torch.no_grad(), in_float(made):
        features = made.observe(lr, (1.0,)).features[0]
    found = made.observe(lr, (1.0,)).features[0]
    assert (features - found).std() < 0.03 * features.std()


def test_bad_images_are_sentences() -> None:
    made = as_quantized(SMALL.build())
    with pytest.raises(ValueError, match="calibration needs images, and got none"):
        calibrate(made, [])
    with pytest.raises(ValueError, match="one value throughout"):
        calibrate(made, [torch.full((1, 3, 8, 8), 0.5), torch.zeros(1, 3, 8, 8)])
    (note,) = calibrate(made, [photograph()])
    assert "of one image" in note


def test_dead_channels_are_noted_and_harmless() -> None:
    network = SMALL.build()
    with torch.no_grad():
        state = network.state_dict()
        state["body.0.conv1.weight"].zero_()
        state["body.0.conv1.bias"].fill_(-1)
    made = as_quantized(network)
    notes = " ".join(calibrate(made, [photograph(2)]))
    assert "relu had one value throughout" in notes
    assert "8 of 8 channels of body.0.conv1 have no weight but 0" in notes
    assert torch.isfinite(made(photograph())).all()


def test_sensitivity_rounds_one_layer_at_a_time() -> None:
    network, made = calibrated("onnxruntime")
    lr = photograph()
    with only(made, "body.0.conv1"):
        convolutions = [made.convolution(f"body.0.conv{k}") for k in (1, 2)]
        assert [c.enabled for c in convolutions if isinstance(c, QuantizedConv2d)] == [True, False]
    with torch.no_grad():
        right = network(lr)
        losses = sensitivity(made, lambda n: -(n(lr) - right).square().mean().item())
    assert list(losses) == rows(made)
    assert all(loss < 0 for name, loss in losses.items() if name != "conv_first")
    assert made.convolution("conv_last").enabled, "all round again"


# Integers


@pytest.mark.parametrize("target", ["onnxruntime", "litert", "openvino", "ncnn"])
def test_integers_give_what_is_simulated_but_for_rounding_of_halves(target: str) -> None:
    _, made = calibrated(target, keep=())
    lr = photograph()
    difference = (integer_forward(made, lr) - made(lr)).abs() * 255
    assert difference.mean() < 0.2


def test_the_literature_has_no_integers() -> None:
    with pytest.raises(ValueError, match="target of the literature"):
        integer_forward(calibrated("daq")[1], photograph())


@pytest.mark.parametrize("residual_scale", [1.0, 0.1])
@pytest.mark.parametrize("target", ["onnxruntime", "litert"])
def test_onnxruntime_computes_the_reference(
    tmp_path: Path, target: str, residual_scale: float
) -> None:
    onnx = pytest.importorskip("onnx", reason="needs dukd[onnx]")
    pytest.importorskip("onnxruntime", reason="needs dukd[onnx]")
    network = EDSRConfig(
        scale=2, width=16, blocks=2, mean=(0.0, 0.0, 0.0), residual_scale=residual_scale
    ).build()
    made = as_quantized(network, target=target)
    calibrate(made, [photograph(4)], "min-max")
    done = export(made, tmp_path / "student.onnx")
    assert done.verified is not None
    assert done.verified.psnr > 50
    from dukd.deploy.onnx import Session  # noqa: PLC0415

    lr = photograph(2, 40, 33)
    found = Session(done.path)(lr)
    levels = (found - integer_forward(made, lr)).abs() * 255
    if target == "onnxruntime":  # which computes some layers of the others in float
        assert levels.max() < 1.01
        assert (levels > 0.5).float().mean() <= 1e-4
    graph = onnx.load(done.path).graph
    assert "DepthToSpace" in {node.op_type for node in graph.node}
    stored = {i.name: i.data_type for i in graph.initializer}
    int8, int32 = onnx.TensorProto.INT8, onnx.TensorProto.INT32
    assert sum(t == int8 and n.endswith("_int8") for n, t in stored.items()) == 8
    assert sum(t == int32 and n.endswith("_int32") for n, t in stored.items()) == 8


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_integers_of_a_network_that_joins_features(tmp_path: Path, target: str) -> None:
    """SPAN's tail joins four maps: the reference took the second of them for all."""
    pytest.importorskip("onnx", reason="needs dukd[onnx]")
    pytest.importorskip("onnxruntime", reason="needs dukd[onnx]")
    config = SPANConfig(scale=2, width=8, folded=True, value_range=1.0)
    made = as_quantized(config.build(), target=target)
    calibrate(made, [photograph(4)], "min-max")

    done = export(made, tmp_path / "student.onnx")

    assert done.verified is not None
    assert done.verified.psnr > 50


def test_fewer_bits_and_symmetric_grids_are_not_exported(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="needs dukd[onnx]")
    for choices, message in (
        ({"bits": 4}, "4 bits are for simulation alone"),
        ({"target": "ncnn"}, "quantized for ncnn has no ONNX graph"),
    ):
        with pytest.raises(ValueError, match=message):
            export(calibrated(**choices)[1], tmp_path / "student.onnx")


# Files


def test_a_file_describes_itself_and_comes_back_equal(tmp_path: Path) -> None:
    _, made = calibrated("onnxruntime", keep=("conv_last",), bits=6)
    path = tmp_path / "student.safetensors"
    weights.write(path, made)
    again = weights.read(path)
    assert again.config == made.config
    lr = photograph()
    assert torch.equal(again(lr), made(lr))


# Training


def test_a_recipe_ends_in_int8() -> None:
    plain, made = recipe("small-x2-dukd").make(), recipe("small-x2-dukd-int8").make()
    assert made.student == QuantizedConfig(network=plain.student, target="openvino")
    assert made.method == plain.method
    assert made.optimization.precision == "float32"
    made = recipe("small-x2-logits-int8-onnxruntime").make()
    assert made.student == QuantizedConfig(network=plain.student, target="onnxruntime")
    assert Experiment.from_yaml(made.to_yaml()) == made
    with pytest.raises(ValueError, match=r"leave optimization.precision at float32"):
        replace(made, optimization=replace(made.optimization, precision="bfloat16"))


def plan(folder: Path) -> Experiment:
    """Four steps of a quantized student that starts from a float one."""
    pixels = torch.randint(0, 256, (24, 24, 3), dtype=torch.uint8).numpy()
    images.write(folder / "hr" / "a.png", images.Image(pixels=pixels))
    weights.write(folder / "float.safetensors", SMALL.build())
    return Experiment(
        student=QuantizedConfig(network=SMALL, target="onnxruntime"),
        data=Data(train=folder / "hr", packs=folder, patch=8, batch=4, workers=0),
        optimization=Optimization(steps=4, warm_start=folder / "float.safetensors", ema=0.5),
        evaluation=Evaluation(every=4, log_every=2),
    )


@pytest.mark.parametrize("together", [True, False])
def test_it_starts_from_its_float_self_with_ranges_of_its_patches(
    tmp_path: Path, together: bool
) -> None:
    """Wherever channels lie: together on a GPU, and for small students."""
    wanted = plan(tmp_path)
    optimization = replace(wanted.optimization, channels_last=together)
    training = assemble(replace(wanted, optimization=optimization))
    student = training.state.student
    assert isinstance(student, Quantized)
    original, lr = weights.read(tmp_path / "float.safetensors").eval(), photograph()
    with torch.no_grad(), in_float(student):
        assert torch.allclose(student.eval()(lr), original(lr), atol=1e-5)
    assert any("have the same range now" in note for note in training.notes)
    assert any("8 of 8 convolutions" in note for note in training.notes)
    units = [float(quantizer_at(student, k).unit) for k in range(len(student.sites))]
    assert units[0] == units[-1] == 255, "of images"
    assert 1.0 not in units


def test_it_is_resumed_to_equal_bits_and_learns_its_ranges(tmp_path: Path) -> None:
    whole = plan(tmp_path)
    before = assemble(whole).state.student.state_dict()
    straight = loop.train(whole, tmp_path / "whole")

    def stop_at_two(record: Record) -> None:
        if record["kind"] == "step" and record["step"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(loop.Interrupted):
        loop.train(whole, tmp_path / "cut", observe=stop_at_two)
    resumed = loop.train(whole, tmp_path / "cut", resume=True)
    assert straight.read_bytes() == resumed.read_bytes()
    after = safetensors.torch.load_file(straight)
    bounds = [name for name in after if name.endswith("bounds")]
    assert sum(not torch.equal(after[n], before[n]) for n in bounds) == len(bounds) - 2


# The command


def photographs(folder: Path, count: int = 2) -> Path:
    """A folder of smooth images."""
    for k in range(count):
        waves = torch.sin(torch.arange(48) / (3 + k)) * 60 + 128
        pixels = (waves[:, None] + waves / 2)[..., None].expand(48, 48, 3) - 30
        made = pixels.clamp(0, 255).to(torch.uint8).numpy()
        images.write(folder / f"{k}.png", images.Image(pixels=made))
    return folder


def test_the_command_says_what_each_choice_loses_and_writes_the_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights.write(tmp_path / "float.safetensors", SMALL.build())
    folder, out = photographs(tmp_path / "photos"), tmp_path / "int8.safetensors"
    command = ["quantize", str(tmp_path / "float.safetensors"), "--images", str(folder)]
    rest = ["--target", "onnxruntime", "--sensitivity", "-o", str(out)]
    assert run([*command, *rest]) == 0
    said = capsys.readouterr()
    assert all(word in said.out for word in ("float", "min-max", "percentile", "mse", "conv_last"))
    assert "8 of 8 convolutions in 8 bits for onnxruntime" in said.err
    assert isinstance(weights.read(out), Quantized)
    assert run(["info", str(out)]) == 0
    assert "the residual stream too" in capsys.readouterr().out
    again = ["quantize", str(out), "--images", str(folder), "-o", str(tmp_path / "b.safetensors")]
    assert run(again) == 2
    assert "quantized already" in capsys.readouterr().err


def test_a_plain_student_is_folded_before_it_is_quantized(tmp_path: Path) -> None:
    """Its branches have no convolution of their own: it was refused."""
    weights.write(tmp_path / "a.safetensors", PlainConfig(scale=2, width=8, blocks=2).build())
    out = tmp_path / "int8.safetensors"
    command = ["quantize", str(tmp_path / "a.safetensors"), "-o", str(out)]

    assert run([*command, "--images", str(photographs(tmp_path / "photos"))]) == 0

    made = weights.read(out)
    assert isinstance(made.config, QuantizedConfig)
    assert made.config.network == CompactConfig(scale=2, width=8, blocks=2)


def test_a_quantized_student_starts_from_another_and_keeps_its_ranges(tmp_path: Path) -> None:
    whole = plan(tmp_path)
    made = as_quantized(SMALL.build(), target="onnxruntime")
    calibrate(made, [photograph(4)], "min-max")
    weights.write(tmp_path / "int8.safetensors", made)
    start = replace(whole.optimization, warm_start=tmp_path / "int8.safetensors")
    student = assemble(replace(whole, optimization=start)).state.student
    assert all(torch.equal(v, student.state_dict()[n]) for n, v in made.state_dict().items())
