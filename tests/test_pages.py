"""Pages of several sizes: known before the work, and refused where no file could hold them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage

from dukd import images
from dukd.deploy.upscale import Failed, UpscaleOptions, upscale
from dukd.images import ImageError, header
from dukd.networks import EDSRConfig, Network

SIZES = (16, 12), (20, 8), (16, 12)


def pages(path: Path, *sizes: tuple[int, int], **options: object) -> Path:
    """A TIFF with pages of these widths and heights."""
    rng = np.random.default_rng(0)
    made = [PillowImage.fromarray(rng.integers(0, 256, (h, w, 3), np.uint8)) for w, h in sizes]
    made[0].save(path, save_all=True, append_images=made[1:], **options)
    return path


class Counting:
    """Enlarges by repeating, and counts how often."""

    name, scale, radius, size_multiple = "counting", 2, 0, 1

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, lr):
        self.calls += 1
        return lr.repeat_interleave(2, 2).repeat_interleave(2, 3)


def network() -> Network:
    return EDSRConfig(scale=2, width=4, blocks=1).build()


def test_a_header_knows_the_sizes_of_pages(tmp_path: Path) -> None:
    assert header(pages(tmp_path / "a.tif", *SIZES)).sizes == SIZES
    assert header(pages(tmp_path / "b.tif", *SIZES, big_tiff=True)).sizes == SIZES
    assert header(pages(tmp_path / "c.tif", (16, 12), (16, 12))).sizes == ()
    assert header(pages(tmp_path / "d.tif", (16, 12))).sizes == ()
    with tifffile.TiffWriter(tmp_path / "e.tif", byteorder=">") as file:
        for w, h in SIZES:
            file.write(np.zeros((h, w, 3), np.uint8), photometric="rgb")
    assert header(tmp_path / "e.tif").sizes == SIZES


def test_pages_that_lie_on_their_side_count_as_they_are_displayed(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(np.zeros((12, 16, 3), np.uint8), photometric="rgb")
        file.write(
            np.zeros((16, 12, 3), np.uint8), photometric="rgb", extratags=[(274, "H", 1, 6, True)]
        )

    assert header(tmp_path / "a.tif").sizes == ()
    assert [f.image.pixels.shape for f in images.frames(tmp_path / "a.tif")] == [(12, 16, 3)] * 2


@pytest.mark.parametrize("format_", ["webp", "png", "jpg", "avif", "bmp"])
def test_several_sizes_are_refused_for_animations_before_the_work(
    tmp_path: Path, format_: str
) -> None:
    path, model = pages(tmp_path / "a.tif", *SIZES), Counting()

    found = upscale(model, path, tmp_path / "out", UpscaleOptions(format=format_))

    (failed,) = found.failed
    assert not found.done
    assert failed.source == path
    assert "its pages are of several sizes (16 x 12, 20 x 8), and frames of" in failed.reason
    assert "say --format tif, which holds them, or split it" in failed.reason
    assert model.calls == 0


def test_several_sizes_stay_as_pages(tmp_path: Path) -> None:
    path = pages(tmp_path / "a.tif", *SIZES)

    for options in (UpscaleOptions(), UpscaleOptions(format="tif")):
        (done,) = upscale(network(), path, tmp_path / "out", options).done
        assert [f.image.pixels.shape for f in images.frames(done.target)] == [
            (2 * h, 2 * w, 3) for w, h in SIZES
        ]


def test_a_tiff_by_another_name_is_refused_before_the_work_too(tmp_path: Path) -> None:
    """Its content decides what it is, its name what its result is."""
    path = pages(tmp_path / "a.tif", *SIZES).rename(tmp_path / "a.gif")
    model = Counting()

    (failed,) = upscale(model, path, tmp_path / "out").failed

    assert "frames of WEBP are of one: say --format tif" in failed.reason
    assert model.calls == 0


def test_a_large_page_is_refused_before_the_first_is_enlarged(tmp_path: Path) -> None:
    path, model = pages(tmp_path / "a.tif", (16, 12), (400, 300)), Counting()

    with pytest.raises(ImageError, match=r"400 x 300 pixels are more than 0\.1 megapixels"):
        header(path, max_pixels=100_000)
    (failed,) = upscale(model, path, tmp_path / "out", UpscaleOptions(max_pixels=100_000)).failed

    assert isinstance(failed, Failed)
    assert model.calls == 0


@pytest.mark.skipif(sys.platform == "win32", reason="limits of files are POSIX's")
@pytest.mark.parametrize("count", [1, 2])
def test_a_full_disk_names_the_wanted_file_alone(tmp_path: Path, count: int) -> None:
    """Also of a TIFF, whose library prints what goes wrong in a file by itself."""
    source = pages(tmp_path / "a.tif", *[(160, 120)] * count)
    out = tmp_path / "out"

    def limited() -> None:
        import resource  # noqa: PLC0415  POSIX's

        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    program = (
        "from dukd import images; from pathlib import Path; import sys\n"
        "frames = [f.image for f in images.frames(Path(sys.argv[1]))]\n"
        "out = Path(sys.argv[2]) / 'b.tif'\n"
        "try:\n"
        "    several = len(frames) > 1\n"
        "    images.write_frames(out, frames) if several else images.write(out, frames[0])\n"
        "except images.ImageError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, source, out],
        check=True,
        capture_output=True,
        text=True,
        preexec_fn=limited,
    )

    assert done.stderr == ""
    assert done.stdout.startswith(f"{out / 'b.tif'}: cannot be written (OSError: [Errno 27] File")
    assert ".tmp" not in done.stdout
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("outscale", [1e9, 1e300, 1.7e308])
def test_a_result_beyond_all_memory_is_a_sentence(tmp_path: Path, outscale: float) -> None:
    path = pages(tmp_path / "a.tif", (16, 12))

    (failed,) = upscale(network(), path, tmp_path / "out", UpscaleOptions(outscale=outscale)).failed

    assert "GB, more memory than there is" in failed.reason
