"""What an export to ncnn promises: the network's images at any size, or a refusal."""

import subprocess

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from dukd.cli.program import run
from dukd.deploy import ExportError, Ncnn, export, load
from dukd.deploy import ncnn as converting
from dukd.deploy.ncnn import Session
from dukd.deploy.runtime import properties
from dukd.images import Image
from dukd.images import write as write_image
from dukd.networks import CompactConfig, EDSRConfig, QuantizedConfig, SMFANetConfig
from dukd.networks.files import weights
from dukd.networks.upscaler import UpscalerError

ncnn = pytest.importorskip("ncnn")
pytest.importorskip("pnnx")

EDSR = EDSRConfig(scale=2, width=8, blocks=1, value_range=1.0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An EDSR, and where it lies for ncnn; converting costs seconds, so once for all."""
    folder = tmp_path_factory.mktemp("ncnn")
    torch.manual_seed(0)
    network = EDSR.build().frozen()
    done = export(network, folder / "a.param")
    return network, done


def test_it_gives_what_the_network_gives_at_sizes_it_was_not_recorded_at(exported):
    network, done = exported

    assert done.verified.largest < 1e-5
    assert len(done.verified.sizes) == 5
    session = load(done.path)
    for size in ((1, 3, 47, 2), (2, 3, 9, 31), (1, 3, 1, 1)):
        lr = torch.rand(size)
        assert_close(session(lr), network(lr), atol=1e-5, rtol=0)


def test_it_takes_arrays_that_others_get_wrong_numbers_from(exported):
    """Of float64, and views with gaps between their values."""
    network, done = exported
    lr = torch.rand(1, 3, 20, 30)[..., ::2]

    assert_close(load(done.path)(lr), network(lr), atol=1e-5, rtol=0)
    assert_close(load(done.path).upscaler(lr.double()), network(lr), atol=1e-5, rtol=0)


def test_input_and_output_have_the_names_that_programs_expect(exported):
    _, done = exported
    net = ncnn.Net()
    assert net.load_param(str(done.path)) == 0
    assert (net.input_names(), net.output_names()) == (["data"], ["output"])
    assert done.bytes == sum(done.path.with_suffix(s).stat().st_size for s in (".param", ".bin"))


def test_what_is_loaded_knows_its_scale_and_how_far_it_sees(exported):
    network, done = exported
    session = load(done.path)
    assert (session.upscaler.name, session.scale, session.radius, session.size_multiple) == (
        "edsr",
        2,
        network.radius,
        1,
    )


def test_it_is_measured_and_used_as_a_model(exported, tmp_path, capsys):
    network, done = exported
    weights.write(tmp_path / "float.safetensors", network)
    hr = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8), size=(48, 64), mode="bicubic")
    pixels = (hr.clamp(0, 1)[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    (tmp_path / "set").mkdir()
    write_image(tmp_path / "set/a.png", Image(pixels=pixels))
    out = tmp_path / "table.csv"
    models = [str(done.path), str(tmp_path / "float.safetensors")]

    assert run(["evaluate", *models, "--sets", str(tmp_path / "set"), "-o", str(out)]) == 0

    rows = [line.split(",") for line in out.read_text().splitlines() if line[:1] in {"a", "f"}]
    column = out.read_text().splitlines()[0].split(",").index("psnr_y")
    assert len(rows) == 2
    assert float(rows[0][column]) == pytest.approx(float(rows[1][column]), abs=1e-3)
    image = str(tmp_path / "set/a.png")
    assert run(["upscale", image, "-o", str(tmp_path / "out"), "-m", str(done.path)]) == 0
    assert (tmp_path / "out/a_x2.png").is_file()


def test_files_that_do_not_fit_together_are_refused(exported, tmp_path):
    _, done = exported
    listed, numbers = tmp_path / "a.param", tmp_path / "a.bin"
    listed.write_text(done.path.read_text())
    with pytest.raises(UpscalerError, match=r"put a\.bin beside it"):
        Session(listed)
    numbers.write_bytes(done.path.with_suffix(".bin").read_bytes()[:500])
    with pytest.raises(UpscalerError, match="do not fit together"):
        Session(listed)
    listed.write_bytes(b"damaged")
    with pytest.raises(UpscalerError, match=r"a\.param is damaged"):
        Session(listed)


def test_weights_above_float16_and_integers_are_refused_before_the_conversion(tmp_path):
    network = EDSR.build().frozen()
    next(network.parameters())[0] = 1e5
    with pytest.raises(ExportError, match=r"a weight of 1e\+05, above float16's 65504"):
        export(network, tmp_path / "a.param", Ncnn(half=True))
    quantized = QuantizedConfig(network=EDSR).build().frozen()
    with pytest.raises(ExportError, match="ncnn calibrates its integers itself"):
        export(quantized, tmp_path / "a.param")


def test_layers_that_ncnn_lacks_are_named(tmp_path, monkeypatch):
    """As SMFANet+'s variance; pnnx leaves them in its list and says nothing."""
    network = SMFANetConfig(scale=2, width=8, blocks=1).build()
    listed = "7767517\n2 2\nInput in0 0 1 in0\ntorch.var var_0 1 1 in0 out0\n"
    with pytest.raises(ExportError, match=r"no layer for torch\.var, which smfanet needs"):
        converting._named(listed, properties(network))


def test_what_the_converter_says_last_is_in_the_message(tmp_path, monkeypatch):
    """Not the line that it draws below."""
    words = "begin\nRuntimeError: no such schema aten::roll\n----------------\n\n"
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr=words)
    monkeypatch.setattr(converting.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ExportError, match=r"cannot convert edsr: RuntimeError: no such schema"):
        export(EDSR.build().frozen(), tmp_path / "a.param")
    assert [*tmp_path.iterdir()] == []


def test_somebody_elses_list_of_layers_is_run_where_dukd_does_not_know_the_network(
    exported, tmp_path
):
    """Its scale is found by a trial, and how far it sees is unknown."""
    network, done = exported
    text = done.path.read_text()
    (tmp_path / "b.param").write_text(text.replace(text.splitlines()[2].split()[1], "in0"))
    (tmp_path / "b.bin").write_bytes(done.path.with_suffix(".bin").read_bytes())

    session = load(tmp_path / "b.param")

    assert (session.upscaler.name, session.scale, session.radius) == ("b", 2, None)
    lr = torch.rand(1, 3, 12, 13)
    assert_close(session(lr), network(lr), atol=1e-5, rtol=0)


def test_who_names_ncnn_has_its_files_run_as_they_stand(tmp_path, capsys):
    """Not read as weights and converted again, which takes minutes for a large network."""
    torch.manual_seed(0)
    network = CompactConfig(scale=2, width=8, blocks=1).build().frozen()
    path = export(network, tmp_path / "ours.param").path
    text = path.read_text()
    (tmp_path / "b.param").write_text(text.replace(text.splitlines()[2].split()[1], "in0"))
    (tmp_path / "b.bin").write_bytes(path.with_suffix(".bin").read_bytes())
    write_image(tmp_path / "a.png", Image(pixels=np.full((12, 12, 3), 99, np.uint8)))

    assert load(tmp_path / "b.param").network.config == network.config
    assert isinstance(load(tmp_path / "b.param", as_it_stands=True).upscaler, Session)

    command = ["upscale", str(tmp_path / "a.png"), "-o", str(tmp_path), "--runtime", "ncnn"]
    assert run([*command, "-m", str(tmp_path / "b.param")]) == 0
    assert "b.param: b x2, cpu" in capsys.readouterr().err
    assert run([*command, "-m", str(tmp_path / "b.param"), "--precision", "float16"]) == 2
    assert "computes as it was exported" in capsys.readouterr().err
    assert (tmp_path / "a_x2.png").is_file()
