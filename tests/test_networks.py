"""Networks have the sizes, costs and reach of their papers, and change nothing in place."""

import copy
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.testing import assert_close

from dukd.networks import (
    EDSRConfig,
    Network,
    NetworkConfig,
    RCANConfig,
    SMFANetConfig,
    SwinIRConfig,
    edsr_baseline,
    edsr_student,
    edsr_teacher,
    gather,
    macs,
    rcan_student,
    rcan_teacher,
    smfanet_plus,
    swinir_light,
    swinir_student,
    swinir_teacher,
)
from dukd.networks.base import set_memory_format
from dukd.networks.windows import relative_positions, shift_mask

TINY: dict[str, NetworkConfig] = {
    "edsr": EDSRConfig(scale=2, width=8, blocks=2),
    "edsr-skip": EDSRConfig(scale=4, width=8, blocks=1, skip="nearest"),
    "rcan": RCANConfig(scale=3, width=8, groups=2, blocks=2, squeeze=1, value_range=1.0),
    "swinir": SwinIRConfig(scale=4, width=8, depths=(2, 3), heads=(2, 4), window=4),
    "swinir-light": SwinIRConfig(
        scale=3, width=8, depths=(2,), heads=(2,), window=4, upsampler="pixelshuffledirect"
    ),
    "smfanet": SMFANetConfig(scale=2, width=8, blocks=2),
}
every_network = pytest.mark.parametrize("config", TINY.values(), ids=TINY.keys())


def stirred(config: NetworkConfig) -> Network:
    """Build with weights that leave no part of the network idle, such as SMFANet's zeros."""
    network = config.build()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network.eval()


# Sizes and costs: methods.md 3.3, ecosystem.md 6.9


@pytest.mark.parametrize(
    ("make", "counts"),
    [
        (edsr_teacher, (40_729_603, 43_680_003, 43_089_923)),
        (edsr_student, (2_551_555, 2_736_195, 2_699_267)),
        (edsr_baseline, (1_369_859, 1_554_499, 1_517_571)),
        (rcan_teacher, (15_444_643, 15_629_283, 15_592_355)),
        (rcan_student, (5_023_603, 5_208_243, 5_171_315)),
        (swinir_teacher, (11_752_487, 11_937_127, 11_900_199)),
        (swinir_student, (1_087_727, 1_272_367, 1_235_439)),
        (smfanet_plus, (480_300, 486_795, 495_888)),
    ],
)
def test_parameter_counts(
    make: Callable[[int], NetworkConfig], counts: tuple[int, int, int]
) -> None:
    with torch.device("meta"):
        assert tuple(make(scale).build().parameter_count() for scale in (2, 3, 4)) == counts


@pytest.mark.parametrize(
    ("config", "giga"),
    [
        (edsr_teacher(2), 9385),
        (edsr_teacher(3), 4491),
        (edsr_student(4), 182),
        (rcan_teacher(4), 917),
        (rcan_student(2), 1149),
        (swinir_student(4), 108),
        (swinir_light(2), 241),
    ],
)
def test_multiply_accumulates_for_a_screen(config: NetworkConfig, giga: int) -> None:
    """At 1280x720; for x3 the published figure rounds 426.7 columns up to an even number."""
    with torch.device("meta"):
        network = config.build()

    assert (
        round(macs(network, 720 // config.scale, {2: 640, 3: 428, 4: 320}[config.scale]) / 1e9)
        == giga
    )


def test_multiply_accumulates_by_hand() -> None:
    network = EDSRConfig(scale=2, width=1, blocks=1).build()

    # At 2x3 pixels: 3 channels to 1, three times 1 to 1, 1 to 4; at 4x6: 1 to 3; 9 weights each.
    assert macs(network, 2, 3) == 9 * (6 * (3 + 3 + 4) + 24 * 3)


# Any size, any scale, any precision


@every_network
@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 19), (9, 2), (8, 16), (13, 11)])
def test_any_size(config: NetworkConfig, h: int, w: int) -> None:
    """Sides need be no multiple of a transformer's window (methods.md D9)."""
    sr = stirred(config)(torch.rand(2, 3, h, w))

    assert sr.shape == (2, 3, h * config.scale, w * config.scale)
    assert sr.isfinite().all()


@pytest.mark.parametrize(
    "config",
    [
        EDSRConfig(scale=8, width=8, blocks=1),
        RCANConfig(scale=8, width=8, groups=1, blocks=1, squeeze=4),
        SwinIRConfig(scale=8, width=8, depths=(2,), heads=(2,), window=4),
        SMFANetConfig(scale=5, width=8, blocks=1),
    ],
    ids=lambda config: config.name,
)
def test_larger_scales(config: NetworkConfig) -> None:
    assert config.build()(torch.rand(1, 3, 5, 4)).shape == (
        1,
        3,
        5 * config.scale,
        4 * config.scale,
    )


@every_network
def test_images_of_a_batch_do_not_meet(config: NetworkConfig) -> None:
    network, lr = stirred(config).double(), torch.rand(3, 3, 9, 10, dtype=torch.float64)

    assert_close(
        network(lr), torch.cat([network(image[None]) for image in lr]), rtol=1e-9, atol=1e-9
    )


@every_network
def test_bfloat16_keeps_the_image(config: NetworkConfig) -> None:
    network, lr = stirred(config), torch.rand(1, 3, 9, 10)
    expected = network(lr)
    # 8 bits of mantissa, through a dozen layers of random weights
    close = {"rtol": 0.1, "atol": 0.05 * expected.abs().max().item()}

    with torch.autocast("cpu", torch.bfloat16):
        assert_close(network(lr).float(), expected, **close)
    half = copy.deepcopy(network).to(torch.bfloat16)
    assert_close(half(lr.bfloat16()).float(), expected, **close)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["edsr", "swinir", "smfanet"])
def test_compiled_networks_agree(name: str) -> None:
    """One graph, without a break, at the fixed size of training patches."""
    network, lr = stirred(TINY[name]), torch.rand(2, 3, 8, 12)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True, dynamic=False)

    assert_close(compiled(lr), network(lr), rtol=1e-4, atol=1e-5)  # the order of sums may change


@every_network
def test_a_copy_and_a_state_dict_make_the_same_network(config: NetworkConfig) -> None:
    network, lr = stirred(config), torch.rand(1, 3, 6, 5)
    other = config.build().eval()
    other.load_state_dict(network.state_dict())
    copied = copy.deepcopy(network)
    for parameter in network.parameters():
        parameter.data = torch.zeros_like(parameter)  # a copy that shared anything would notice

    assert_close(copied(lr), other(lr), rtol=0, atol=0)


# Stages


@every_network
def test_features_handed_out_never_change(config: NetworkConfig) -> None:
    """An in-place addition after the last tap made it hold something else (methods.md D19, D31)."""
    network, lr = stirred(config), torch.rand(1, 3, 8, 8)
    given = lr.clone()
    features = network.head(lr)
    kept = [features.clone()]
    row = [features]
    for stage in network.stages:
        features = stage(features)
        row.append(features)
        kept.append(features.clone())
    sr = network.tail(features, dict(enumerate(row)), lr)

    for now, before in zip([lr, *row], [given, *kept], strict=True):
        assert_close(now, before, rtol=0, atol=0)
    assert all(tensor.shape == (1, network.width, 8, 8) for tensor in row)
    again, taps, _ = network.observe(
        lr, [n / len(network.stages) for n in range(1, len(network.stages) + 1)]
    )
    assert_close(again, sr, rtol=0, atol=0)
    for tap, before in zip(taps, kept[1:], strict=True):
        assert_close(tap, before, rtol=0, atol=0)


def test_number_of_stages() -> None:
    """Blocks or groups, and the end of the body; SMFANet has nothing there."""
    with torch.device("meta"):
        configs = (edsr_student(4), rcan_student(4), swinir_student(4), smfanet_plus(4))
        assert [len(config.build().stages) for config in configs] == [33, 11, 5, 12]


@every_network
def test_every_parameter_learns(config: NetworkConfig) -> None:
    network = stirred(config).train()
    network(torch.rand(1, 3, 16, 16)).square().sum().backward()

    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


# Radius


def reach(network: Network, y: int, x: int, size: int) -> int:
    """Distance to the farthest input pixel that changes the outputs of pixel ``(y, x)``."""
    lr = torch.rand(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    s = network.scale
    outputs = network(lr)[..., s * y : s * y + s, s * x : s * x + s]
    (gradient,) = torch.autograd.grad((outputs * torch.rand_like(outputs)).sum(), lr)
    rows, columns = gradient.abs().sum((0, 1)).nonzero(as_tuple=True)
    return int(torch.maximum((rows - y).abs(), (columns - x).abs()).max())


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_radius_of_edsr(scale: int) -> None:
    """First convolution 1, blocks 2 each, end of the body 1, upsampler and last convolution 2."""
    network = stirred(EDSRConfig(scale=scale, width=4, blocks=2, value_range=1.0)).double()
    assert network.radius == 1 + 2 * 2 + 1 + 2

    # A rectifier may be shut at the one place that matters; many channels and both signs make it
    # unlikely.
    assert max(reach(network, 10, 10, 21) for _ in range(4)) == network.radius


@pytest.mark.parametrize("upsampler", ["pixelshuffle", "pixelshuffledirect"])
@pytest.mark.parametrize("depths", [(1,), (2, 3)])
def test_radius_of_swinir(depths: tuple[int, ...], upsampler: str) -> None:
    """The worst place in a window, far from the edge."""
    network = stirred(
        SwinIRConfig(
            scale=2, width=4, depths=depths, heads=(2,) * len(depths), window=4, upsampler=upsampler
        )
    ).double()
    assert network.radius is not None
    start = -(-network.radius // 4) * 4

    places = range(start, start + 4)
    assert max(reach(network, place, place, 2 * start + 8) for place in places) == network.radius


@pytest.mark.parametrize("name", ["rcan", "smfanet"])
def test_global_networks_have_no_radius(name: str) -> None:
    network = stirred(TINY[name]).double()

    assert network.radius is None
    assert reach(network, 0, 0, 40) == 39


def test_a_tile_with_its_radius_is_exact() -> None:
    network, lr = stirred(TINY["swinir"]).double(), torch.rand(1, 3, 64, 64, dtype=torch.float64)
    assert network.radius is not None
    halo = -(-network.radius // 4) * 4

    tile = network(lr[..., 32 - halo : 36 + halo, :])[..., 4 * halo : 4 * halo + 16, :]

    assert_close(tile, network(lr)[..., 128:144, :], rtol=1e-9, atol=1e-9)


# One network at a time


def test_range_and_mean() -> None:
    """With a tail of zeros the output is the mean, or with a skip the pixels repeated."""
    network = EDSRConfig(scale=2, width=4, blocks=1, mean=(0.25, 0.5, 0.75)).build()
    nn.init.zeros_(network.conv_last.weight)
    nn.init.zeros_(network.conv_last.bias)
    lr = torch.rand(1, 3, 2, 3)

    assert_close(
        network(lr), torch.tensor([0.25, 0.5, 0.75]).reshape(1, 3, 1, 1).expand(1, 3, 4, 6)
    )
    network.skip = "nearest"
    assert_close(network(lr), lr.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_channel_attention_by_hand() -> None:
    """A channel whose mean is m is multiplied with sigmoid(relu(m)) by weights of one."""
    attention = (
        RCANConfig(scale=2, width=1, groups=1, blocks=1, squeeze=1)
        .build()
        .body[0]
        .residual_group[0]
        .rcab[3]
    )
    for convolution in (attention.attention[1], attention.attention[3]):
        nn.init.ones_(convolution.weight)
        nn.init.zeros_(convolution.bias)
    x = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])

    assert_close(attention(x), x * torch.sigmoid(torch.tensor(3.0)))


def test_shift_mask_separates_what_the_shift_joined() -> None:
    """Two pixels of a shifted window may attend where they are neighbors in the image too."""
    h, w, window = 12, 8, 4
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    places = (
        torch.stack((y, x)).roll((-2, -2), (1, 2)).unfold(1, 4, 4).unfold(2, 4, 4)
    )  # (2, 3, 2, 4, 4)
    places = places.permute(1, 2, 3, 4, 0).reshape(6, 16, 2)
    near = (places[:, :, None] - places[:, None]).abs().amax(-1) < window

    mask = shift_mask(h, w, window, torch.zeros(()))

    assert mask.shape == (6, 16, 16)
    assert_close(mask == 0, near)
    assert set(mask.unique().tolist()) == {-100.0, 0.0}


def test_relative_positions_tell_the_offset() -> None:
    index = relative_positions(3)
    places = list(itertools.product(range(3), repeat=2))

    offsets: dict[int, set[tuple[int, int]]] = {}
    for (i, a), (j, b) in itertools.product(enumerate(places), repeat=2):
        offsets.setdefault(int(index[i, j]), set()).add((a[0] - b[0], a[1] - b[1]))
    assert len(offsets) == 25
    assert all(len(found) == 1 for found in offsets.values())


def test_stochastic_depth_only_while_training() -> None:
    """A teacher with it switched on answers differently every time (methods.md D4)."""
    lr = torch.rand(1, 3, 8, 8).expand(16, 3, 8, 8)
    network = SwinIRConfig(
        scale=2, width=8, depths=(2, 2), heads=(2, 2), window=4, stochastic_depth=0.5
    ).build()

    def spread(network: Network) -> Tensor:
        sr = network(lr)
        return (sr - sr[:1]).abs().max()

    assert spread(network.train()) > 1e-4
    assert spread(network.eval()) < 1e-6
    assert spread(stirred(TINY["swinir"]).train()) < 1e-5  # not asked for


def test_smfanet_modulates_by_coarse_maxima() -> None:
    """With passing weights a block's branch is features times the gelu of 8-pixel maxima."""
    block = SMFANetConfig(scale=2, width=4, blocks=1).build().feats[0].smfa
    identity = torch.eye(4).reshape(4, 4, 1, 1)
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    block.linear_0.weight.data[4:] = identity
    block.linear_1.weight.data = identity.clone()
    block.linear_2.weight.data = identity.clone()
    block.dw_conv.weight.data[:, :, 1, 1] = 1
    block.alpha.data.fill_(1)
    x = torch.rand(1, 4, 16, 24)

    maxima = (
        x.unfold(2, 8, 8)
        .unfold(3, 8, 8)
        .amax((-2, -1))
        .repeat_interleave(8, 2)
        .repeat_interleave(8, 3)
    )

    assert_close(block(x), x * F.gelu(maxima))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: EDSRConfig(scale=5), "2, 3, 4, 8"),
        (lambda: EDSRConfig(scale=1), "but got 1"),
        (lambda: EDSRConfig(scale=2, blocks=0), "blocks is a whole number from 1"),
        (lambda: EDSRConfig(scale=2, value_range=0.0), "value_range"),
        (lambda: EDSRConfig(scale=2, mean=(0.5,)), "mean"),
        (lambda: EDSRConfig(scale=2, skip="bicubic"), "bicubic"),
        (lambda: RCANConfig(scale=2, width=8, squeeze=16), "squeeze"),
        (lambda: SwinIRConfig(scale=2, width=16), "not a multiple of the heads"),
        (lambda: SwinIRConfig(scale=2, heads=(6,)), "different numbers of groups"),
        (lambda: SwinIRConfig(scale=2, window=1), "window is at least 2"),
        (lambda: SwinIRConfig(scale=2, stochastic_depth=1.0), "stochastic_depth"),
        (lambda: SwinIRConfig(scale=2, upsampler="nearest"), "upsampler"),
        (lambda: SMFANetConfig(scale=2, width=1), "partial convolution"),
    ],
)
def test_numbers_that_make_no_network_are_refused(
    make: Callable[[], NetworkConfig], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        make()


def test_no_batch_of_images_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 8, 8\)"):
        TINY["edsr"].build()(torch.rand(3, 8, 8))


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_swinir_leaves_sizes_open_when_it_is_traced(tmp_path: Path) -> None:
    """The published code freezes batch, height and width into the graph (ecosystem.md 6.3)."""
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    network, path = stirred(TINY["swinir"]), tmp_path / "a.onnx"
    axes = {"lr": {0: "n", 2: "h", 3: "w"}}
    torch.onnx.export(
        network,
        (torch.rand(2, 3, 24, 16),),
        path,
        dynamo=False,
        input_names=["lr"],
        dynamic_axes=axes,
        opset_version=17,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    for size in ((1, 3, 8, 8), (3, 3, 40, 12)):
        lr = torch.rand(size)
        (answer,) = session.run(None, {"lr": lr.numpy()})
        assert_close(
            torch.from_numpy(answer), network(lr), rtol=1e-4, atol=1e-5
        )  # another order of sums


def laid_out(network: Network, name: str) -> bool:
    """Whether a convolution's channels lie together."""
    weight = network.get_parameter(name)
    assert weight.is_contiguous() or weight.is_contiguous(memory_format=torch.channels_last)
    return not weight.is_contiguous()


def test_channels_lie_where_they_were_measured_to_be_faster() -> None:
    """EDSR, RCAN and SMFANet gain by channels_last, SwinIR does not (docs/results/layouts.md)."""
    names = {
        "edsr": "body.0.conv1.weight",
        "rcan": "conv_after_body.weight",
        "swinir": "conv_after_body.weight",
    }
    for kind, name in names.items():
        network = TINY[kind].build()
        set_memory_format(network)
        assert laid_out(network, name) == (kind != "swinir")
        set_memory_format(network, channels_last=kind == "swinir")
        assert laid_out(network, name) == (kind == "swinir")


def test_every_member_of_an_ensemble_lies_as_it_likes() -> None:
    members = {
        "one": TINY["edsr"].build(),
        "two": SwinIRConfig(scale=2, width=8, depths=(2,), heads=(2,)).build(),
    }
    ensemble = gather(members, width=4, blocks=1)
    set_memory_format(ensemble)

    assert laid_out(ensemble, "body.0.conv1.weight")
    assert laid_out(ensemble, "members.one.body.0.conv1.weight")
    assert not laid_out(ensemble, "members.two.conv_after_body.weight")


@every_network
def test_the_answer_does_not_depend_on_the_layout(config: NetworkConfig) -> None:
    network, lr = stirred(config), torch.rand(2, 3, 9, 11)
    with torch.no_grad():
        apart = network(lr)
        set_memory_format(network, channels_last=True)
        assert_close(network(lr), apart, rtol=1e-4, atol=1e-4)
