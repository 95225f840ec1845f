"""What packages of Core ML promise: the network's images, compared though Apple's part is not here.

``golden/coreml`` holds two packages that coremltools 9.0 has written, and the network they are of.
"""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from dukd.cli.program import run
from dukd.deploy import CoreML, ExportError, coreml, export, load, mil, mlpackage, verify
from dukd.deploy.coreml import Session
from dukd.deploy.engine import run_by
from dukd.deploy.mlpackage import Operation
from dukd.deploy.onnx import Rounded
from dukd.deploy.runtime import SIZES
from dukd.deploy.traced import Padded, traced
from dukd.images import Image
from dukd.images import write as write_image
from dukd.networks import (
    CompactConfig,
    EDSRConfig,
    PlainConfig,
    QuantizedConfig,
    RCANConfig,
    RRDBConfig,
    SMFANetConfig,
    SPANConfig,
    SwinIRConfig,
)
from dukd.networks.files import weights
from dukd.networks.upscaler import UpscalerError
from dukd.testing import check_runtime

STORED = Path(__file__).parent / "golden" / "coreml"
TINY = CompactConfig(scale=2, width=4, blocks=1)


@pytest.fixture
def network():
    """What the stored packages were made of."""
    return weights.read(STORED / "compact.safetensors").frozen()


@pytest.fixture
def package(tmp_path):
    """A copy that may be damaged."""
    return Path(shutil.copytree(STORED / "compact.mlpackage", tmp_path / "a.mlpackage"))


@pytest.fixture
def apple(monkeypatch):
    """A system with Core ML, where coremltools has its program computed by dukd."""

    class MLModel:
        def __init__(self, path):
            self.package = mlpackage.read(Path(path))

        def predict(self, given):
            (value,) = given.values()
            if self.package.image:
                lr = torch.from_numpy(np.array(value)).permute(2, 0, 1)[None].float()
            else:
                assert value.dtype == np.float32
                lr = torch.from_numpy(value)
            sr = mil.compute(self.package, lr).numpy()
            if self.package.image:
                sr = coreml.PillowImage.fromarray(sr[0].transpose(1, 2, 0).astype(np.uint8))
            return {"sr": sr}

    pretended = SimpleNamespace(models=SimpleNamespace(MLModel=MLModel))
    monkeypatch.setitem(sys.modules, "coremltools", pretended)
    monkeypatch.setattr(coreml, "sys", SimpleNamespace(platform="darwin"))


def test_a_stored_program_gives_the_networks_image_at_sizes_it_was_not_recorded_at(network):
    session = Session(STORED / "compact.mlpackage", by_dukd=True)

    assert verify(network, session).largest < 1e-6
    facts = session.name, session.scale, session.radius, session.size_multiple
    assert facts == ("compact", 2, 3, 1)
    assert session.package.said["sha256"] == weights.tensors_sha256(network.state_dict())


def test_a_stored_program_of_images_in_float16_is_at_most_a_level_off(network):
    session = Session(STORED / "compact-image.mlpackage", by_dukd=True)

    assert (session.package.image, session.package.size) == (True, (8, 12))
    done = verify(Rounded(network), session, [(2, 8, 12)])
    assert done.largest <= 1.01 / 255
    assert done.psnr > 60
    with pytest.raises(UpscalerError, match=r"takes images of \(8, 12\) only, but got \(1, 3, 8"):
        session(torch.rand(1, 3, 8, 8))


def test_every_weight_in_the_file_counts(network, package):
    """A single one that is changed there shows in the comparison."""
    file = package / "Data/com.apple.CoreML/weights/weight.bin"
    data = bytearray(file.read_bytes())
    first = network.body[0].weight.detach().numpy().tobytes()
    place = bytes(data).index(first)
    data[place : place + 4] = np.float32(0.5).tobytes()
    file.write_bytes(data)

    assert verify(network, Session(package, by_dukd=True)).largest > 1e-2


@pytest.mark.parametrize(
    "config",
    [TINY, PlainConfig(scale=2, width=4, blocks=1), EDSRConfig(scale=3, width=4, blocks=1)],
    ids=["compact", "plain", "edsr"],
)
def test_what_the_converter_is_given_is_the_network(config):
    torch.manual_seed(0)
    network = config.build().frozen()
    recorded = traced(Padded(network), 16, 16)

    for size in SIZES:
        lr = torch.rand(size[0], 3, *size[1:])
        with torch.no_grad():
            assert_close(recorded(lr), network(lr), atol=1e-5, rtol=0)


def _one(kind, **inputs):
    """The result of one operation on constants."""
    constants = {key: v if isinstance(v, str) else torch.tensor(v) for key, v in inputs.items()}
    named = {key: (key,) for key in constants}
    operation = Operation(kind=kind, inputs=named, outputs=("sr",))
    empty = replace(
        mlpackage.read(STORED / "compact.mlpackage"), constants=constants, operations=[operation]
    )
    return mil.compute(empty, torch.zeros(1, 3, 1, 1))


def test_operations_are_those_of_apples_definitions():
    """Values by hand."""
    row = [[[[1.0, 2.0, 3.0]]]]
    kernel = [[[[1.0, 10.0, 100.0]]]]
    custom = {"pad_type": "custom", "pad": [0, 0, 2, 0]}  # top, bottom, left, right
    assert _one("conv", x=row, weight=kernel).flatten().tolist() == [321.0]
    assert _one("conv", x=row, weight=kernel, **custom).flatten().tolist() == [100.0, 210.0, 321.0]
    same = _one("conv", x=row, weight=kernel, pad_type="same")
    assert same.flatten().tolist() == [210.0, 321.0, 32.0]
    assert _one("clip", x=[-1.0, 0.5, 9.0], alpha=0.0, beta=1.0).tolist() == [0.0, 0.5, 1.0]
    assert _one("gather", x=[[1, 2], [3, 4]], indices=[1, 0], axis=1).tolist() == [[2, 1], [4, 3]]
    assert _one("reduce_l2_norm", x=[[3.0, 4.0]], axes=[1], keep_dims=True).tolist() == [[5.0]]
    product = _one("matmul", x=[[1.0, 2.0]], y=[[3.0, 4.0]], transpose_x=False, transpose_y=True)
    assert product.tolist() == [[11.0]]
    assert _one("layer_norm", x=[[1.0, 3.0]], axes=[-1], epsilon=0.0).tolist() == [[-1.0, 1.0]]
    assert _one("linear", x=[[1.0, 2.0]], weight=[[3.0, 4.0]], bias=[0.5]).tolist() == [[11.5]]
    shuffled = _one("pixel_shuffle", x=[[[[1.0]], [[2.0]], [[3.0]], [[4.0]]]], upscale_factor=2)
    assert shuffled.tolist() == [[[[1.0, 2.0], [3.0, 4.0]]]]
    prelu = _one("prelu", x=[[[[-1.0]], [[-1.0]]]], alpha=[0.5, 2.0])
    assert prelu.flatten().tolist() == [-0.5, -2.0]
    nearest = _one(
        "upsample_nearest_neighbor", x=row, scale_factor_height=1.0, scale_factor_width=2.0
    )
    assert nearest.flatten().tolist() == [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
    pooled = _one("max_pool", x=row, kernel_sizes=[1, 2], strides=[1, 1], pad_type="valid")
    assert pooled.flatten().tolist() == [2.0, 3.0]


def test_what_is_not_known_is_refused_not_guessed():
    with pytest.raises(UpscalerError, match="the operation einsum of Core ML is not known"):
        _one("einsum", x=[1.0])
    with pytest.raises(UpscalerError, match="padding same_lower"):
        _one("conv", x=[[[[1.0]]]], weight=[[[[1.0]]]], pad_type="same_lower")
    with pytest.raises(UpscalerError, match=r"a norm over the axes \[0\]"):
        _one("layer_norm", x=[[1.0]], axes=[0])


@pytest.mark.parametrize("file", ["Manifest.json", "model.mlmodel", "weight.bin"])
@pytest.mark.parametrize("size", [0, 100, 3000])
def test_damaged_packages_are_refused(file, size, package):
    (path,) = package.rglob(file)
    if size >= path.stat().st_size:
        pytest.skip("whole")
    path.write_bytes(path.read_bytes()[:size])

    with pytest.raises(UpscalerError, match=r"a\.mlpackage is damaged"):
        load(package)


def test_paths_inside_lead_nowhere_else(package, tmp_path):
    manifest = json.loads((package / "Manifest.json").read_text())
    for entry in manifest["itemInfoEntries"].values():
        entry["path"] = f"../../{entry['path']}"
    (package / "Manifest.json").write_text(json.dumps(manifest))
    shutil.copytree(package / "Data/com.apple.CoreML", tmp_path / "com.apple.CoreML")

    with pytest.raises(UpscalerError, match="is damaged"):
        Session(package, by_dukd=True)


def test_packages_of_others_are_refused(package):
    model = package / "Data/com.apple.CoreML/model.mlmodel"
    model.write_bytes(model.read_bytes().replace(b"size_multiple", b"sIze_multiple"))

    with pytest.raises(UpscalerError, match="does not say what it is"):
        Session(package, by_dukd=True)


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has Core ML")
def test_elsewhere_than_on_macos_nothing_is_run(network, tmp_path, capsys):
    path = str(STORED / "compact.mlpackage")
    write_image(tmp_path / "a.png", Image(pixels=np.full((8, 8, 3), 99, np.uint8)))
    for command in (
        ["upscale", str(tmp_path / "a.png"), "-o", str(tmp_path), "-m", path],
        ["evaluate", path, "--sets", str(tmp_path)],
        ["upscale", str(tmp_path / "a.png"), "-o", str(tmp_path), "--runtime", "coreml"],
    ):
        assert run(command) == 2
        assert "Core ML runs on macOS alone; here, take" in " ".join(
            capsys.readouterr().err.split()
        )
    with pytest.raises(ExportError, match="macOS alone"):
        run_by(network, "coreml", device="cpu")
    assert "dukd" in CoreML().note


def test_on_macos_core_ml_runs_it(network, tmp_path, apple, capsys):
    assert not CoreML().note
    session = load(STORED / "compact.mlpackage")
    lr = torch.rand(2, 3, 9, 5)
    assert_close(session(lr), network(lr), atol=1e-6, rtol=0)
    assert session.upscaler.__reduce__()[1] == ((STORED / "compact.mlpackage").resolve(),)
    image = load(STORED / "compact-image.mlpackage")
    lr = torch.rand(1, 3, 8, 12)
    assert_close(image(lr), Rounded(network)(lr), atol=1.01 / 255, rtol=0)

    write_image(tmp_path / "a.png", Image(pixels=np.full((8, 8, 3), 99, np.uint8)))
    command = ["upscale", str(tmp_path / "a.png"), "-o", str(tmp_path), "--runtime", "coreml"]
    assert run([*command, "-m", str(STORED / "compact.mlpackage")]) == 0
    assert "compact.mlpackage: compact x2" in capsys.readouterr().err
    assert (tmp_path / "a_x2.png").is_file()


def test_what_no_package_can_be_is_refused(tmp_path, monkeypatch):
    out = tmp_path / "a.mlpackage"
    with pytest.raises(ExportError, match="add --size HEIGHT WIDTH to --image"):
        CoreML(image=True)
    with pytest.raises(ExportError, match="at least 1 pixel on a side"):
        CoreML(size=(0, 8))
    with pytest.raises(ExportError, match="coremltools makes its integers itself"):
        export(QuantizedConfig(network=TINY).build(), out)
    swinir = SwinIRConfig(scale=2, width=12, depths=(2,), heads=(2,), window=4).build()
    with pytest.raises(ExportError, match="multiples of 4 pixels, but --size is 30 32"):
        export(swinir, out, CoreML(size=(30, 32)))
    monkeypatch.setattr(type(swinir), "fp16_safe", False)
    with pytest.raises(ExportError, match="swinir overflows in float16"):
        export(swinir, out, CoreML(half=True))
    with pytest.raises(ExportError, match="--python /nowhere/python cannot be run"):
        export(TINY.build(), out, CoreML(python=Path("/nowhere/python")))
    assert not out.exists()


def test_a_folder_of_something_else_stays(tmp_path):
    (tmp_path / "a.mlpackage").mkdir()
    (tmp_path / "a.mlpackage/mine.txt").write_text("mine")

    with pytest.raises(ExportError, match=r"a\.mlpackage is a folder"):
        export(TINY.build(), tmp_path / "a.mlpackage")
    assert (tmp_path / "a.mlpackage/mine.txt").is_file()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("config", "how"),
    [
        (TINY, CoreML()),
        (PlainConfig(scale=3, width=4, blocks=1), CoreML(half=True)),
        (CompactConfig(scale=2, width=4, blocks=1), CoreML(image=True, size=(24, 16))),
        (EDSRConfig(scale=4, width=4, blocks=1), CoreML()),
        (RCANConfig(scale=2, width=8, squeeze=4, groups=1, blocks=1), CoreML()),
        (RRDBConfig(scale=2, width=8, blocks=1, growth=4), CoreML()),
        (SPANConfig(scale=2, width=8), CoreML()),
        (SMFANetConfig(scale=2, width=8, blocks=1), CoreML(size=(24, 40))),
        (
            SwinIRConfig(scale=2, width=12, depths=(2,), heads=(2,), window=4),
            CoreML(size=(16, 24)),
        ),
    ],
    ids=lambda value: getattr(value, "name", "") if not isinstance(value, CoreML) else value.form,
)
def test_coremltools_takes_every_network(config, how, tmp_path):
    pytest.importorskip("coremltools", reason="coremltools is not installed: dukd[coreml]")
    torch.manual_seed(0)
    done = export(config.build().frozen(), tmp_path / "a.mlpackage", how)

    assert done.verified.psnr > (60 if how.half or how.image else 110)
    assert done.verified.largest <= (1e-2 if how.half else 1.01 / 255 if how.image else 2e-5)
    names = {"Manifest.json", "model.mlmodel", "weight.bin"}
    assert {file.name for file in done.path.rglob("*") if file.is_file()} == names
    assert done.bytes == sum(f.stat().st_size for f in done.path.rglob("*") if f.is_file())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_keeps_what_every_runtime_promises(tmp_path):
    """And a size that must be fixed is named; a package is replaced as a whole."""
    pytest.importorskip("coremltools", reason="coremltools is not installed: dukd[coreml]")
    check_runtime(CoreML())
    with pytest.raises(ExportError, match=r"cannot take this network: .*; add --size HEIGHT WIDTH"):
        export(SMFANetConfig(scale=2, width=8, blocks=1).build(), tmp_path / "a.mlpackage")
    old = Path(shutil.copytree(STORED / "compact-image.mlpackage", tmp_path / "b.mlpackage"))
    export(TINY.build(), old)
    assert not Session(old, by_dukd=True).package.image
    assert [path.name for path in tmp_path.iterdir()] == ["b.mlpackage"]
