"""The community's networks: equal to their published code, and read and written in its layouts."""

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from dukd.data.pairs import find_pairs, load
from dukd.evaluation.metrics import psnr_y
from dukd.images.convert import to_tensor
from dukd.networks import (
    Compact,
    CompactConfig,
    NetworkConfig,
    PlainConfig,
    RRDBConfig,
    SPANConfig,
    SwinIRConfig,
    compact_general,
    span_small,
)
from dukd.networks.branches import Branches, unfolded
from dukd.networks.files import foreign, weights
from dukd.testing import check_network

SWINIR = SwinIRConfig(scale=4, width=12, depths=(2, 2), heads=(2, 2))
CONFIGS: dict[str, tuple[NetworkConfig, tuple[str, ...]]] = {
    **{
        f"compact x{s}": (CompactConfig(scale=s, width=6, blocks=2), ("basicsr",))
        for s in (1, 2, 3, 4, 8)
    },
    **{
        f"rrdb x{s} folded {u}": (
            RRDBConfig(scale=s, width=6, blocks=2, growth=32, unshuffle=u),
            ("basicsr", "esrgan", "bsrgan"),
        )
        for s, u in ((4, 1), (2, 2), (1, 4), (2, 1), (8, 1))
    },
    "span": (SPANConfig(scale=4, width=6), ("official",)),
    "span without norm": (SPANConfig(scale=2, width=6, norm=False), ("official",)),
    "swinir for photographs": (replace(SWINIR, upsampler="nearest+conv"), ("official", "basicsr")),
    "swinir for photographs x2": (
        replace(SWINIR, scale=2, upsampler="nearest+conv"),
        ("official",),
    ),
    "swinir direct": (replace(SWINIR, scale=3, upsampler="pixelshuffledirect"), ("official",)),
    "swinir x1": (replace(SWINIR, scale=1, upsampler="none"), ("official",)),
}
every_form = pytest.mark.parametrize(
    ("config", "layout"),
    [(config, layout) for config, names in CONFIGS.values() for layout in names],
    ids=[f"{name}, {layout}" for name, (_, names) in CONFIGS.items() for layout in names],
)


def stirred(config: NetworkConfig) -> nn.Module:
    torch.manual_seed(3)
    network = config.build()
    for p in network.parameters():
        nn.init.normal_(p, std=0.15)
    return network.eval()


@every_form
def test_they_come_back_from_their_published_layouts(
    config: NetworkConfig, layout: str, tmp_path: Path
) -> None:
    network, lr = stirred(config), torch.rand(1, 3, 9, 7)
    path = tmp_path / "a.pth"
    weights.write(path, network, layout=layout)
    stored = torch.load(path, weights_only=True)
    torch.save({"params_ema": stored.get("params_ema", stored.get("params", stored))}, path)

    again = weights.read(path).eval()

    assert again.config == config
    assert_close(again(lr), network(lr), rtol=0, atol=0)


@pytest.fixture(scope="session")
def spandrel() -> ModuleType:
    """spandrel as the package imports it: what stands in for torchvision is gone afterwards."""
    found = foreign.library()
    if found is None:
        pytest.skip("spandrel or einops is not installed")
    assert "torchvision" not in sys.modules or sys.modules["torchvision"].__spec__ is not None
    return found


@every_form
@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")
def test_spandrel_opens_what_is_written_and_gives_equal_images(
    config: NetworkConfig, layout: str, tmp_path: Path, spandrel: ModuleType
) -> None:
    network = stirred(config)
    weights.write(tmp_path / "a.pth", network, layout=layout)

    model = spandrel.ModelLoader().load_from_file(tmp_path / "a.pth").eval()

    assert model.scale == config.scale
    # spandrel pads what is folded to multiples of 4, where the authors' code pads to the fold
    odd = (12, 20) if isinstance(config, RRDBConfig) and config.unshuffle > 1 else (13, 18)
    with torch.no_grad():
        lr = torch.rand(1, 3, 16, 16)
        assert_close(model.model(lr), network(lr), rtol=1e-4, atol=1e-3)
        lr = torch.rand(1, 3, *odd)
        assert_close(model(lr), network(lr).clamp(0, 1), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "config",
    [
        CompactConfig(scale=3, width=6, blocks=2),
        CompactConfig(scale=1, width=6, blocks=1, activation="leakyrelu"),
        RRDBConfig(scale=4, width=6, blocks=1, growth=4),
        SPANConfig(scale=2, width=6),
        SPANConfig(scale=3, width=6, folded=True),
        PlainConfig(scale=2, width=5, blocks=2),
        replace(SWINIR, scale=2, window=4, upsampler="nearest+conv"),
        replace(SWINIR, scale=1, window=4, upsampler="none"),
    ],
)
def test_they_keep_what_every_network_promises(config: NetworkConfig) -> None:
    check_network(config)


# Branches


def test_branches_fold_into_one_convolution_borders_included() -> None:
    branches, x = Branches(3, 5, gain=2).double(), torch.rand(2, 3, 6, 7).double()
    for p in branches.parameters():
        nn.init.normal_(p)

    assert_close(branches.eval()(x), branches.train()(x), rtol=1e-9, atol=1e-9)


def test_a_convolution_is_written_as_branches_exactly() -> None:
    weight, bias = torch.randn(5, 3, 3, 3), torch.randn(5)
    branches = Branches(3, 5)
    branches.load_state_dict(unfolded(weight, bias))

    assert_close(branches.folded(), (weight, bias), rtol=0, atol=0)


def test_a_plain_network_is_a_compact_once_folded(tmp_path: Path) -> None:
    network = stirred(PlainConfig(scale=2, width=5, blocks=2))
    lr = torch.rand(2, 3, 7, 9)
    weights.write(tmp_path / "a.pth", network, layout="basicsr")
    weights.write(tmp_path / "a.safetensors", network)

    folded = weights.read(tmp_path / "a.pth").eval()

    assert folded.config == CompactConfig(scale=2, width=5, blocks=2)
    assert_close(folded(lr), network(lr), rtol=1e-4, atol=1e-5)
    assert_close(network.train()(lr), folded(lr), rtol=1e-4, atol=1e-5)
    assert weights.read(tmp_path / "a.safetensors").config == network.config


def test_a_folded_span_does_the_same(tmp_path: Path) -> None:
    network, lr = stirred(SPANConfig(scale=2, width=6)), torch.rand(1, 3, 9, 8)
    weights.write(tmp_path / "a.pth", network, layout="folded")

    folded = weights.read(tmp_path / "a.pth").eval()
    assert folded.config == replace(network.config, folded=True)
    assert_close(folded(lr), network(lr), rtol=1e-4, atol=1e-4)
    weights.write(tmp_path / "b.pth", folded, layout="official")
    unfolded_again = weights.read(tmp_path / "b.pth").eval()
    assert unfolded_again.config == network.config
    assert_close(unfolded_again(lr), folded(lr), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (compact_general(4), 1_213_296),
        (CompactConfig(scale=4), 621_424),
        (RRDBConfig(scale=4), 16_697_987),
        (RRDBConfig(scale=4, blocks=6), 4_467_779),
        (replace(span_small(4), folded=True), 150_688),
    ],
)
def test_parameters_are_those_that_are_published(config: NetworkConfig, parameters: int) -> None:
    with torch.device("meta"):
        assert config.build().parameter_count() == parameters


def test_a_compact_whose_rectifiers_have_no_tensors_is_assumed_to_have_relu(
    tmp_path: Path,
) -> None:
    for activation in ("relu", "leakyrelu"):
        config = CompactConfig(scale=2, width=5, blocks=2, activation=activation)
        torch.save(stirred(config).state_dict(), tmp_path / "a.pth")
        contents = weights.inspect(tmp_path / "a.pth")
        assert contents.assumed == {"activation"}
        assert weights.read(tmp_path / "a.pth", config=config).config == config
    assert isinstance(weights.read(tmp_path / "a.pth"), Compact)


# The real files


@pytest.mark.slow
def test_published_files_give_their_figures(real_data: Path) -> None:
    """SPAN of 28 channels has 31.739 dB on Set5, folded as it is published."""
    span = weights.read(real_data / "weights" / "span_ch28_ntire2026_x4.pth").frozen()
    compact = weights.read(real_data / "weights" / "realesr-general-x4v3.safetensors")
    values: list[float] = []
    for pair in find_pairs(real_data / "eval" / "Set5", scale=4).pairs:
        lr, hr = map(to_tensor, load(pair))
        with torch.no_grad():
            values.append(psnr_y(span(lr), hr, border=4).item())

    assert sum(values) / 5 == pytest.approx(31.739, abs=0.002)
    assert compact.config == compact_general(4)
