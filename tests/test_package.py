"""What `pip install dukd` brings: all that runs, nothing else, and metadata that are true."""

import email
import re
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "dukd"
LIMIT = 3_000_000
"""Bytes of a wheel; the demo's teacher is half of them."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    builders = pytest.importorskip("hatchling.builders.wheel")
    builder = builders.WheelBuilder(str(ROOT))
    (made,) = builder.build(directory=str(tmp_path_factory.mktemp("dist")), versions=["standard"])
    return Path(made)


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as file:
        (name,) = [n for n in file.namelist() if n.endswith("METADATA")]
        return email.message_from_bytes(file.read(name))


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    inside = {n for n in names if n.startswith("dukd/")}
    expected = {
        f"dukd/{path.relative_to(SOURCE).as_posix()}"
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert inside == expected
    assert {n.split("/")[0] for n in names - inside} == {
        f"{wheel.name.rsplit('-', 3)[0]}.dist-info"
    }
    assert "dukd/py.typed" in inside
    assert any(n.endswith("licenses/LICENSE") for n in names)


def test_the_wheel_is_small_and_for_every_platform(wheel):
    assert wheel.stat().st_size < LIMIT
    assert wheel.name.endswith("-py3-none-any.whl")


def test_the_metadata_say_what_is_true(metadata):
    versions = [
        c.rsplit(" ", 1)[1] for c in metadata.get_all("Classifier") if re.search(r"3\.\d+$", c)
    ]

    assert metadata["Requires-Python"] == ">=3.11"
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in versions
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().startswith("# dukd")
    assert set(metadata.get_all("Provides-Extra")) >= {"onnx", "openvino", "ray", "demo", "docs"}
    needed = [r for r in metadata.get_all("Requires-Dist") if "extra ==" not in r]
    assert not [r for r in needed if r.startswith("torchvision")]


def test_the_source_distribution_builds_the_same_wheel(wheel, tmp_path):
    builders = pytest.importorskip("hatchling.builders.sdist")
    wheels = pytest.importorskip("hatchling.builders.wheel")
    (made,) = builders.SdistBuilder(str(ROOT)).build(
        directory=str(tmp_path / "sdist"), versions=["standard"]
    )
    assert Path(made).stat().st_size < 2 * LIMIT
    with tarfile.open(made) as file:
        file.extractall(tmp_path / "unpacked", filter="data")
    (folder,) = (tmp_path / "unpacked").iterdir()
    (again,) = wheels.WheelBuilder(str(folder)).build(
        directory=str(tmp_path / "wheel"), versions=["standard"]
    )

    before, after = (zipfile.ZipFile(p) for p in (wheel, again))
    assert {i.filename: i.CRC for i in before.infolist() if "RECORD" not in i.filename} == {
        i.filename: i.CRC for i in after.infolist() if "RECORD" not in i.filename
    }


def test_the_citation_is_of_this_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    version = (SOURCE / "_version.py").read_text(encoding="utf-8").split('"')[-2]

    assert f"\nversion: {version}\n" in text
