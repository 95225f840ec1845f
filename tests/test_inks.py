"""CMYK without a profile is taken for plain inks by every command, and every command says so."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from dukd.cli.program import run
from dukd.data.pack import Pack
from dukd.data.pairs import find_pairs, join, load
from dukd.deploy.serve import Server
from dukd.networks import EDSRConfig
from dukd.networks.files import weights
from dukd.training.assemble import open_pack
from dukd.training.experiment import Data, Evaluation
from dukd.training.validation import Validation

SAID = "CMYK without a color profile, taken for plain inks: R = (1 - C)(1 - K)"
INKS, SHOWN = (0, 255, 51, 51), [204, 0, 163]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder one is in, with six images in inks and one in color."""
    (tmp_path / "prints").mkdir()
    for number in range(6):
        PillowImage.new("CMYK", (32, 32), INKS).save(tmp_path / "prints" / f"{number}.tif")
    levels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    PillowImage.fromarray(levels).save(tmp_path / "prints" / "color.png")
    weights.write(tmp_path / "s.safetensors", EDSRConfig(scale=2, width=4, blocks=1).build())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "line",
    [
        "prepare prints -s 2 -o a.pack",
        "check-data prints -s 2",
        "check-data prints -s 2 --headers-only",
        "degrade prints -o lr -s 2 -p bicubic",
        "evaluate s.safetensors --sets prints",
        "evaluate s.safetensors --inputs prints --border 0 --metrics niqe",
        "quantize s.safetensors --images prints -o q.safetensors --count 7",
        "figure s.safetensors --images prints -o f.png --size 8",
        "upscale prints -o out -m s.safetensors",
    ],
)
def test_every_command_reads_inks_and_says_so(
    line: str, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--inputs" in line:  # which niqe judges from two blocks of 96 pixels on
        for path in Path("prints").iterdir():
            PillowImage.open(path).resize((96, 96)).save(path)

    code = run(line.split())
    captured = capsys.readouterr()
    said = captured.out + captured.err

    assert code == 0, said
    assert SAID in said
    if not line.startswith("upscale"):  # which says it beside each
        assert f"0.tif, 1.tif, 2.tif, 3.tif, 4.tif and 1 more: {SAID}" in said
    assert "color.png:" not in said


def test_the_colors_are_those_that_the_note_says(world: Path) -> None:
    pairs = find_pairs("prints", scale=2)

    lr, hr = load(pairs[0])

    assert lr[0, 0].tolist() == hr[0, 0].tolist() == SHOWN
    assert join(pairs, pairs).assumed == pairs.assumed != ()
    assert find_pairs("prints/0.tif", scale=2).assumed == (f"0.tif: {SAID}",)
    assert not find_pairs("prints/color.png", scale=2).assumed


def test_training_and_its_packs_say_it_too(world: Path) -> None:
    pack = open_pack(Data(train=Path("prints")), 2)

    assert len(pack.assumed) == 1
    assert SAID in pack.assumed[0]
    assert Pack.open(pack.path).assumed == pack.assumed

    judged = Validation.open(Evaluation(sets=(Path("prints"),)), 2, torch.device("cpu"))
    assert [note for note in judged.notes() if SAID in note]


def test_ready_outputs_in_inks_are_said(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("theirs").mkdir()
    Path("set").mkdir()
    PillowImage.open("prints/color.png").save("set/a.png")
    PillowImage.new("CMYK", (32, 32), INKS).save("theirs/a.tif")

    assert run(["evaluate", "theirs", "--sets", "set", "-s", "2"]) == 0

    assert f"theirs on set: a.tif: {SAID}." in capsys.readouterr().out


def test_a_served_page_says_it(world: Path) -> None:
    said: list[str] = []
    server = Server(
        EDSRConfig(scale=2, width=4, blocks=1).build(), port=0, title="", report=said.append
    )

    with server:
        server.enlarged(Path("prints/0.tif").read_bytes())

    assert said == [f"enlarged an image to 64 x 64: {SAID}"]
