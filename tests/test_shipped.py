"""The students that come with the package, and lists that do not wait for torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dukd
from dukd.cli import run, train
from dukd.cli.listing import stored_recipes
from dukd.networks.files import weights
from dukd.networks.files.openers import opening
from dukd.networks.shipped import FOLDER, for_scale, shipped
from dukd.recipes.listing import listing

MODELS = json.loads((FOLDER / "models.json").read_bytes())
_LISTED = """
import sys, resource
from dukd.cli import run
for line in ("recipes", "models", "--help"):
    assert run([line]) == 0
assert not {"torch", "tyro", "numpy"} & set(sys.modules), sorted(sys.modules)
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime, file=sys.stderr)
"""


def test_lists_import_no_torch() -> None:
    """Three of them take 0.3 s of CPU together; the bound is for slow machines."""
    done = subprocess.run(
        [sys.executable, "-c", _LISTED],
        check=False,
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )

    assert done.returncode == 0, done.stderr
    assert float(done.stderr.split()[-1]) < 1.5
    assert "compact-x[1|2|3|4|8]-METHOD" in done.stdout
    assert "45,156" in done.stdout


def test_the_list_of_recipes_is_that_of_the_recipes() -> None:
    """Otherwise: python -m dukd.recipes.listing."""
    assert stored_recipes() == json.loads(json.dumps(listing()))


def test_a_list_that_recipes_have_left_behind_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dukd.cli.listing._package", lambda: tmp_path)
    folder = tmp_path / "recipes"
    folder.mkdir()
    assert stored_recipes() is None
    (folder / "listing.json").write_text(json.dumps(listing()))
    assert stored_recipes() is None  # its sources are not here


@pytest.mark.parametrize("entry", MODELS, ids=lambda entry: entry["name"])
def test_what_is_shipped_is_what_its_entry_says(entry: dict[str, object]) -> None:
    path = FOLDER / f"{entry['name']}.safetensors"
    network = weights.read(path)

    assert path.stat().st_size < 1.5e6
    assert network.parameter_count() == entry["parameters"]
    assert network.parameter_count() < 200_000
    assert network.scale == entry["scale"]
    assert network.config.describe() == entry["network"]
    assert opening(network.config).layouts
    assert weights.inspect(path).metadata["license"] == "CC-BY-SA-4.0"


def test_the_one_that_fits_is_taken() -> None:
    general = [one.name for one in shipped() if one.general]
    assert [for_scale(f).name for f in (None, 1.5, 2)] == ["x2", "x2", "x2"]
    assert for_scale(100).name == general[-1]
    assert for_scale(2.5).name == general[min(1, len(general) - 1)]


def test_images_are_enlarged_without_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")

    assert run(["upscale", str(folder), "-o", str(out), "--device", "cpu", "--exact"]) == 0

    said = capsys.readouterr()
    assert "no model is named: x2 of those that come with dukd" in said.err
    with Image.open(out / "a_x2.png") as made:
        found = np.asarray(made)
    assert found.shape == (40, 48, 3)
    assert np.array_equal(found, dukd.load("x2")(pixels))


def test_a_name_is_taken_where_no_file_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert dukd.load("x2").scale == 2
    (tmp_path / "x2").write_text("no weights")
    with pytest.raises(ValueError, match="x2"):
        dukd.load("x2")


@pytest.mark.parametrize(
    "line",
    [
        "info x2",
        "evaluate x2 x2-fast --sets images --metrics psnr_y --device cpu",
        "export x2 -o x2.pth",
        "ensemble x2-fast x2-jpeg -o both.safetensors",
        "quantize x2-fast --images images --choice min-max -o int8.safetensors",
        "figure x2 x2-fast --images images/a.png -o figure.png",
        "upscale images -m x2-fast -o out --device cpu --exact",
    ],
    ids=lambda line: line.split()[0],
)
def test_every_command_takes_their_names(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    Image.fromarray(pixels).save("images/a.png")

    assert run(line.split()) == 0, capsys.readouterr().err


def test_figures_are_what_is_measured(real_data: Path) -> None:
    table = dukd.evaluate([dukd.load("x2")], {"Set5": real_data / "eval" / "Set5"})
    measured = json.loads(table.to_json())["rows"][0]["sets"]["Set5"]

    stated = next(entry for entry in MODELS if entry["name"] == "x2")["figures"]["Set5"]
    assert measured["psnr_y"] == pytest.approx(stated["psnr_y"], abs=0.002)
    assert stated["psnr_y"] > 33.673 + 2.5  # bicubic


def test_training_starts_from_one_by_its_name(tmp_path):
    """Its file stands in the experiment; a file of that name in the folder comes first."""
    command = train.parse(
        ["compact-x2-scratch", "--optimization.warm-start", "x2-fast", "--out", str(tmp_path)]
    )
    assert isinstance(command, train.Train)
    assert command.experiment.optimization.warm_start == FOLDER / "x2-fast.safetensors"

    own = train.parse(["compact-x2-scratch", "--optimization.warm-start", str(tmp_path / "x2")])
    assert isinstance(own, train.Train)
    assert own.experiment.optimization.warm_start == tmp_path / "x2"
