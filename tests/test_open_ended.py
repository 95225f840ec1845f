"""Files of networks from other worlds: ncnn's pairs, and what spandrel knows."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from dukd.networks import CompactConfig, Network, NetworkConfig, Opaque, RRDBConfig, macs
from dukd.networks.files import foreign, ncnn, weights
from dukd.networks.files.weights import WeightsError


def pair(folder: Path, layers: list[str], content: bytes) -> Path:
    (folder / "a.param").write_text(
        "\n".join(["7767517", f"{len(layers)} {len(layers)}", *layers, ""])
    )
    (folder / "a.bin").write_bytes(content)
    return folder / "a.param"


def convolution(name: str, weight: Tensor, *, half: bool) -> str:
    return f"Convolution {name} 1 1 a b 0={weight.shape[0]} 1=3 4=1 5=1 6={weight.numel()}"


def stored(weight: Tensor, bias: Tensor, *, half: bool) -> bytes:
    numbers = weight.flatten().numpy().astype("<f2" if half else "<f4").tobytes()
    flag = struct.pack("<I", 0x01306B47 if half else 0)
    return flag + numbers.ljust(-(-len(numbers) // 4) * 4, b"\0") + bias.numpy().tobytes()


def written(folder: Path, network: Network, *, half: bool) -> Path:
    """The layers of a network in their order, as its converter writes them."""
    layers, content = ["Input data 0 1 data"], b""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            layers.append(convolution(name, module.weight, half=half))
            content += stored(module.weight.detach(), module.bias.detach(), half=half)
        elif isinstance(module, nn.PReLU):
            layers.append(f"PReLU {name} 1 1 a b 0={module.num_parameters}")
            content += module.weight.detach().numpy().tobytes()
    shuffled = isinstance(network.config, CompactConfig)
    layers += ["PixelShuffle s 1 1 a b 0=4"] if shuffled else ["Interp i 1 1 a b"] * 2
    return pair(folder, layers, content)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    "config",
    [CompactConfig(scale=2, width=5, blocks=2), RRDBConfig(scale=4, width=6, blocks=2, growth=3)],
)
def test_pairs_of_ncnn_are_read(config: NetworkConfig, half: bool, tmp_path: Path) -> None:
    network = config.build().eval()
    path = written(tmp_path, network, half=half)

    for given in (path, path.with_suffix(".bin")):
        again = weights.read(given).eval()
        assert again.config == config
        for name, tensor in network.state_dict().items():
            exact = tensor.half().float() if half and name.endswith(".weight") else tensor
            kept = tensor if tensor.ndim == 1 else exact
            assert_close(again.state_dict()[name], kept, rtol=0, atol=0)


def test_half_a_pair_other_layers_and_lies_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, CompactConfig(scale=2, width=5, blocks=1).build(), half=False)
    whole, content = path.read_text(), path.with_suffix(".bin").read_bytes()
    cases = {
        "ends before": whole.replace("6=135", "6=1000000000"),
        "neither RRDBNet nor Compact": whole.replace("PReLU", "Sigmoid2"),
        "not a .param": whole.replace("7767517", "1"),
        "a.param": whole.replace("0=5 1=3", "0=-5 1=3"),
    }
    for sentence, text in cases.items():
        path.write_text(text)
        with pytest.raises(WeightsError, match=sentence):
            weights.read(path)
    path.write_text(whole)
    path.with_suffix(".bin").write_bytes(content + b"more")
    with pytest.raises(WeightsError, match="4 bytes of weights are left over"):
        weights.read(path)
    path.with_suffix(".bin").unlink()
    with pytest.raises(WeightsError, match="half of an ncnn network"):
        weights.read(path)
    assert np.isfinite(len(content))
    assert ncnn.partner(tmp_path / "a.pth") is None


# spandrel


def test_other_networks_open_through_spandrel(tmp_path: Path) -> None:
    if foreign.library() is None:
        pytest.skip("spandrel is not installed")
    from spandrel.architectures.PLKSR import PLKSR  # noqa: PLC0415

    torch.manual_seed(0)
    theirs = PLKSR(dim=8, n_blocks=2, upscaling_factor=2).eval()
    torch.save({"params_ema": theirs.state_dict()}, tmp_path / "a.pth")

    network, contents = weights.read_and_inspect(tmp_path / "a.pth", scale=2)

    assert isinstance(network, Opaque)
    assert contents.notes == ("opened by spandrel as PLKSR x2",)
    lr = torch.rand(1, 3, 9, 7)
    assert_close(network(lr), theirs(lr), rtol=1e-5, atol=1e-5)
    assert macs(network, 64, 64) > 0
    with pytest.raises(WeightsError, match="PLKSR x2; required is x4"):
        weights.read(tmp_path / "a.pth", scale=4)


def test_what_nobody_knows_says_how_others_are_opened(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "a.pth")

    with pytest.raises(WeightsError, match=r"--import FILE.*dukd\[spandrel\]"):
        weights.read(tmp_path / "a.pth")
