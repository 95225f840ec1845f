"""What --runtime auto promises: speed where it pays, and never quality."""

import json
import subprocess
import sys

import pytest
import torch

from dukd.cli.program import run
from dukd.core import allocator
from dukd.deploy import UpscaleOptions, engine, fastest, upscale
from dukd.deploy.fastest import EXACT, Way
from dukd.images import Image
from dukd.images import write as write_image
from dukd.networks import EDSRConfig, PlainConfig
from dukd.networks.files import weights
from dukd.networks.upscaler import OnDevice

MANY = 10**12


@pytest.fixture
def network():
    torch.manual_seed(0)
    return EDSRConfig(scale=2, width=8, blocks=1, value_range=1.0).build().frozen()


@pytest.fixture
def pretended(monkeypatch):
    """Ways that take what a test says; returns which were made ready."""
    made = []

    def run_by(network, name, *, device, precision):
        made.append((name, precision))
        if name in {"onnxruntime", "ncnn"}:
            raise ValueError("it cannot run this network")
        noise = 1e-2 if precision == "bfloat16" else 0
        return _Noisy(network, noise)

    pixel = {"torch": 4e-6, "openvino": 1e-6}

    def timed(upscaler, way):
        return Way(**(vars(way) | {"pixel": pixel[way.engine], "ready": way.ready and 5.0}))

    monkeypatch.setattr(fastest, "run_by", run_by)
    monkeypatch.setattr(fastest, "_timed", timed)
    monkeypatch.setattr(fastest, "find_spec", lambda _name: True)
    monkeypatch.setattr(fastest, "multiplies_bfloat16", lambda: True)
    return made


class _Noisy(OnDevice):
    def __init__(self, network, noise):
        super().__init__(network)
        self.noise = noise

    def __call__(self, lr):
        sr = super().__call__(lr)
        return sr + self.noise * torch.randn(sr.shape, generator=torch.Generator().manual_seed(0))


def test_the_fastest_way_is_taken_where_there_is_much_to_do(network, pretended, tmp_path):
    notes = []
    way = fastest.fastest(
        network, MANY, device="cpu", memory=tmp_path / "a.json", report=notes.append
    )

    assert (way.engine, way.precision) == ("openvino", "float32")
    assert "run by openvino in float32, 4.00 times as fast as torch in float32" in notes[-1]


def test_what_loses_more_than_a_hundredth_of_a_decibel_is_not_taken(network, pretended, tmp_path):
    """1e-2 is 40 dB from the float output, which a student of 40 dB feels as 3 dB."""
    fastest.fastest(network, MANY, device="cpu", memory=tmp_path / "a.json")

    kept = next(iter(json.loads((tmp_path / "a.json").read_text()).values()))
    assert ("torch", "bfloat16") in pretended
    assert [(w["engine"], w["precision"]) for w in kept] == [
        ("torch", "float32"),
        ("openvino", "float32"),
    ]


def test_a_few_images_wait_for_no_conversion(network, pretended, tmp_path):
    """Also when the trial was made before: getting ready takes 5 s, and saves 3 µs a pixel."""
    memory = tmp_path / "a.json"
    assert fastest.fastest(network, 10_000, device="cpu", memory=memory) == EXACT
    assert not pretended
    assert fastest.fastest(network, MANY, device="cpu", memory=memory).engine == "openvino"
    tried = len(pretended)
    assert fastest.fastest(network, 1_600_000, device="cpu", memory=memory).engine == "torch"
    assert fastest.fastest(network, 1_700_000, device="cpu", memory=memory).engine == "openvino"
    assert len(pretended) == tried


@pytest.mark.parametrize("content", ["", "[1]", '{"a": [{"engine": "rm -rf", "pixel": 1}]}', "{"])
def test_a_damaged_memory_is_made_anew(content, network, pretended, tmp_path):
    memory = tmp_path / "a.json"
    memory.write_text(content)
    assert fastest.fastest(network, MANY, device="cpu", memory=memory).engine == "openvino"
    assert len(json.loads(memory.read_text())) == 1


def test_another_student_is_tried_for_itself(network, pretended, tmp_path):
    memory = tmp_path / "a.json"
    other = EDSRConfig(scale=2, width=8, blocks=1, value_range=1.0).build()
    for one in (network, other, network):
        fastest.fastest(one, MANY, device="cpu", memory=memory)
    assert len(json.loads(memory.read_text())) == 2


def test_a_loss_of_a_hundredth_of_a_decibel_is_what_the_bound_says():
    noise = 10 ** (-fastest.LEAST_PSNR / 10)
    assert 10 * torch.log10(torch.tensor(1e-4 + noise) / 1e-4) == pytest.approx(0.01, abs=2e-4)


def test_branches_are_folded_where_a_network_is_used():
    torch.manual_seed(0)
    network = PlainConfig(scale=2, width=4, blocks=1).build()
    lr = torch.rand(1, 3, 9, 8)

    used = engine.run_by(network, device="cpu")

    assert sum(p.numel() for p in used.network.parameters()) < network.parameter_count() / 2
    assert used.name == "plain"
    assert network.training
    torch.testing.assert_close(used(lr), network.eval()(lr), atol=1e-6, rtol=0)


def test_images_come_out_in_their_order_with_files_read_and_written_beside(network, tmp_path):
    names = [f"{number}.png" for number in range(5)]
    (tmp_path / "in").mkdir()
    lr = torch.randint(0, 256, (5, 6, 7, 3), dtype=torch.uint8).numpy()
    for name, pixels in zip(names, lr, strict=True):
        write_image(tmp_path / "in" / name, Image(pixels=pixels))
    (tmp_path / "in/2.png").write_bytes((tmp_path / "in/2.png").read_bytes()[:-40])

    done = upscale(network, [tmp_path / "in"], tmp_path / "out")

    assert [one.source.name for one in done.done] == ["0.png", "1.png", "3.png", "4.png"]
    assert [one.source.name for one in done.failed] == ["2.png"]
    assert all(one.target.is_file() for one in done.done)


def test_exact_is_torch_in_float32(network, tmp_path, capsys):
    with pytest.raises(ValueError, match="--exact is torch in float32: leave --runtime"):
        UpscaleOptions(exact=True, runtime="openvino")
    weights.write(tmp_path / "a.safetensors", network)
    write_image(tmp_path / "a.png", Image(pixels=torch.zeros(4, 4, 3, dtype=torch.uint8).numpy()))
    line = ["upscale", str(tmp_path / "a.png"), "-o", str(tmp_path / "o"), "--exact"]
    assert run([*line, "-m", str(tmp_path / "a.safetensors")]) == 0


def test_the_allocator_keeps_memory_where_it_can(monkeypatch):
    """In a process of its own, since it cannot be undone."""
    code = "from dukd.core.allocator import keep_freed_memory as k; print(k())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    glibc = sys.platform == "linux" and "GNU" in subprocess.getoutput("ldd --version | head -1")
    assert (found.stdout.strip() == "True") or not glibc
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000")
    assert not allocator.keep_freed_memory()
