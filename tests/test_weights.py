"""Files of weights come back as the networks that were written, and nothing else comes in."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from dukd.networks import EDSRConfig, NetworkConfig, RCANConfig, SMFANetConfig, SwinIRConfig, weights

TINY = [
    EDSRConfig(scale=4, width=8, blocks=2, skip="nearest"),
    RCANConfig(scale=2, width=8, groups=2, blocks=2, squeeze=4),
    SwinIRConfig(scale=3, width=8, depths=(2, 3), heads=(2, 4), window=4),
    SwinIRConfig(scale=4, width=8, depths=(2,), heads=(2,), window=4, upsampler="pixelshuffledirect"),
    SMFANetConfig(scale=3, width=8, blocks=2),
]


@pytest.mark.parametrize("config", TINY, ids=lambda c: c.name)
def test_a_written_network_comes_back(config: NetworkConfig, tmp_path: Path) -> None:
    network = config.build().eval()
    weights.write(tmp_path / "a.safetensors", network, metadata={"teacher": "none"})

    again = weights.read(tmp_path / "a.safetensors").eval()

    assert again.config == config
    assert weights.inspect(tmp_path / "a.safetensors").metadata["teacher"] == "none"
    x = torch.rand(1, 3, 9, 7)
    assert_close(again(x), network(x), rtol=0, atol=0)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_published_smfanet_loads(scale: int, real_data: Path) -> None:
    network = weights.read(real_data / "weights" / f"smfanet_plus_df2k_x{scale}.pth", scale=scale)

    assert network.parameter_count() == {2: 480_300, 3: 486_795, 4: 495_888}[scale]


@pytest.mark.parametrize("width", [32, 64])
def test_published_edsr_loads(width: int, real_data: Path) -> None:
    network = weights.read(
        real_data / "weights" / f"edsr_f{width}b5_x2_basicsr.safetensors", value_range=255, mean=(0, 0, 0)
    )

    assert network.config == EDSRConfig(scale=2, width=width, blocks=5, mean=(0, 0, 0))
