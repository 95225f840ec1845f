"""What a shader for mpv promises: the network's images, with its borders."""

import re

import pytest
import torch
from torch.testing import assert_close

from dukd.deploy import ExportError, Mpv, export, load
from dukd.networks import CompactConfig, EDSRConfig, PlainConfig
from dukd.networks.upscaler import UpscalerError
from dukd.testing import check_runtime


def _network(config):
    torch.manual_seed(0)
    return config.build().frozen()


@pytest.mark.parametrize(
    "config",
    [
        CompactConfig(scale=2, width=8, blocks=1),
        CompactConfig(scale=3, width=6, blocks=1, activation="leakyrelu"),
        CompactConfig(scale=4, width=4, blocks=0 + 1, activation="relu"),
        PlainConfig(scale=2, width=4, blocks=1),
    ],
    ids=["x2", "x3, channels that do not fill a texture", "x4", "branches"],
)
def test_a_shader_gives_the_networks_image_to_its_borders(config, tmp_path):
    network = _network(config)
    done = export(network, tmp_path / "a.glsl")

    assert done.verified.largest < 1e-5
    lr = torch.rand(1, 3, 5, 7)
    assert_close(load(done.path)(lr), network(lr), atol=1e-5, rtol=0)


def test_it_keeps_what_every_runtime_promises():
    check_runtime(Mpv(), _network(CompactConfig(scale=2, width=4, blocks=1)))


def test_without_the_test_for_borders_it_would_be_wrong(tmp_path):
    """mpv repeats the edge where the network has 0."""
    network = _network(CompactConfig(scale=2, width=4, blocks=1))
    path = export(network, tmp_path / "a.glsl").path
    lr = torch.rand(1, 3, 6, 6)
    path.write_text(re.sub(r"inside\(-?\d, -?\d\) \*", "inside(0, 0) *", path.read_text()))

    assert (load(path)(lr) - network(lr)).abs().max() > 1e-3


def test_the_text_is_what_mpv_reads(tmp_path):
    """Names that are bound are there: the frame, or saved by an earlier pass."""
    network = _network(CompactConfig(scale=2, width=8, blocks=1))
    text = export(network, tmp_path / "a.glsl").path.read_text()
    known = {"MAIN"}
    for part in text.split("//!DESC ")[1:]:
        bound = re.findall(r"//!BIND (\w+)", part)
        assert set(bound) <= known
        assert set(re.findall(r"(\w+)_tex(?:Off)?\(", part)) <= set(bound)
        assert part.count("{") == part.count("}")
        known |= set(re.findall(r"//!SAVE (\w+)", part))
    assert text.count("//!HOOK MAIN") == 2 + 2 + 3 + 1
    assert "//!WIDTH MAIN.w 2 *" in text


def test_other_networks_and_damaged_text_are_refused(tmp_path):
    with pytest.raises(ExportError, match="the students compact and plain are; edsr is another"):
        export(_network(EDSRConfig(scale=2, width=4, blocks=1)), tmp_path / "a.glsl")
    with pytest.raises(ExportError, match="at most 64 channels and 300,000 parameters"):
        export(_network(CompactConfig(scale=2, width=68, blocks=1)), tmp_path / "a.glsl")
    (tmp_path / "b.glsl").write_text("vec4 hook() {}")
    with pytest.raises(UpscalerError, match=r"b\.glsl is damaged, or not a shader that dukd"):
        load(tmp_path / "b.glsl")
