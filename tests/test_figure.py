from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dukd.cli import run
from dukd.networks import EDSRConfig
from dukd.networks.files import weights
from dukd.runs.figure import Region, Style, figure
from dukd.runs.scenes import Layer, Scene
from dukd.runs.windows import Window, around, ranked


def _scene(name: str = "cat") -> Scene:
    """White, but for a black pixel that bicubic misses at (x, y) = (21, 5)."""
    truth = np.full((40, 60, 3), 255, np.uint8)
    truth[5, 21] = 0
    flat = np.full((40, 60, 3), 255, np.uint8)
    return Scene(name, (Layer("bicubic", "bicubic", flat), Layer("ground truth", "truth", truth)))


PLAIN = Style(zoom=3, gap=4, text=10, overview=False)


def test_every_pixel_is_a_square(tmp_path: Path) -> None:
    region = Region("cat", Window(4, 20, 8, 8))

    figure([_scene()], tmp_path / "out.png", regions=[region], style=PLAIN)

    with Image.open(tmp_path / "out.png") as image:
        grid, dpi = np.array(image), image.info["dpi"]
    left = 4 + 8 * 3 + 4  # a gap, bicubic's crop, a gap
    assert grid.shape[1] == left + 8 * 3 + 4
    truth = grid[4 : 4 + 24, left : left + 24, 0]
    black = np.zeros((24, 24), bool)
    black[3:6, 3:6] = True  # the pixel (1, 1) of the crop, three times as large
    assert ((truth == 0) == black).all()
    assert dpi == pytest.approx((300, 300), abs=0.1)


def test_places_are_chosen_where_outputs_differ(tmp_path: Path) -> None:
    values = np.zeros((40, 60))
    values[20, 50] = 8.0

    ((mean, window),) = ranked(values, 16, 1)

    assert mean == 8 / 256
    assert window.top <= 20 < window.top + 16
    assert window.left <= 50 < window.left + 16
    first, second = (found for _, found in ranked(values, 16, 2))
    assert not first.overlaps(second)
    assert ranked(values[:4, :4], 16, 3) == [(0.0, Window(0, 0, 4, 4))]
    assert around(Window(0, 50, 8, 8), 24, 40, 60) == Window(0, 36, 24, 24)


def test_a_pdf_is_one_page(tmp_path: Path) -> None:
    content = figure([_scene()], tmp_path / "out.pdf", size=8).read_bytes()

    assert content.startswith(b"%PDF-")
    assert content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") == 1


@pytest.mark.parametrize("text", ["cat", "cat:1,2,3", ":1,2,3,4", "cat:1,2,0,4", "cat:-1,2,3,4"])
def test_a_region_that_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"a region is NAME:X,Y,WIDTH,HEIGHT .* but got"):
        Region.of(text)


def test_a_region_outside_its_image_is_refused(tmp_path: Path) -> None:
    for region, message in (
        ("cat:50,0,20,20", "reaches 70 x 20, but the image has 60 x 40"),
        ("dog:0,0,4,4", "there is no image dog here: there are cat"),
    ):
        with pytest.raises(ValueError, match=message):
            figure([_scene()], tmp_path / "out.png", regions=[Region.of(region)])


def test_from_files_to_a_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights.write(tmp_path / "mine.safetensors", EDSRConfig(scale=2, width=4, blocks=1).build())
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        pixels = rng.integers(0, 255, (48, 48, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    command = f"figure {tmp_path}/mine.safetensors --images {tmp_path}/a.png {tmp_path}/b.png"
    out = tmp_path / "grid.png"

    code = run([*command.split(), "--size", "16", "--zoom", "2", "--device", "cpu", "-o", str(out)])

    assert code == 0, capsys.readouterr().err
    assert f"wrote {out}" in capsys.readouterr().out
    overview, crops, gaps = 32, 3 * 32, 5 * 8
    with Image.open(out) as grid:
        assert grid.width == overview + crops + gaps
    assert run([*command.split(), "--regions", "a:40,0,16,16", "-o", str(out)]) == 2
    assert "reaches 56 x 16, but the image has 48 x 48" in capsys.readouterr().err
