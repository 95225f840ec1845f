"""Pictures keep what they are: bits, transparency, profile, orientation; and damaged files are refused."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from dukd.images import Picture, header, read, read_rgb8, write

RNG = np.random.default_rng(0)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def levels(*shape: int, dtype: type[np.generic] = np.uint8) -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("transparent", [False, True])
def test_eight_bits_come_back(tmp_path: Path, suffix: str, channels: int, transparent: bool) -> None:
    picture = Picture(
        pixels=levels(5, 7, channels), alpha=levels(5, 7) if transparent else None, icc=SRGB, exif=exif_block(1)
    )
    path = tmp_path / f"a{suffix}"

    write(path, picture, quality=100)
    back = read(path)

    expected = picture.pixels
    if suffix == ".webp" and channels == 1:
        expected = np.broadcast_to(expected, (5, 7, 3))  # WebP has no gray
    assert np.array_equal(back.pixels, expected)
    assert (back.alpha is None) == (not transparent)
    assert picture.alpha is None or np.array_equal(back.alpha, picture.alpha)
    assert back.icc == SRGB


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("transparent", [False, True])
@given(st.integers(1, 70), st.integers(1, 9), st.booleans())
def test_sixteen_bits_come_back(
    tmp_path_factory: pytest.TempPathFactory, channels: int, transparent: bool, h: int, w: int, smooth: bool
) -> None:
    pixels = levels(h, w, channels, dtype=np.uint16)
    if smooth:  # so that every filter is chosen
        pixels = np.cumsum(pixels % 300, axis=0, dtype=np.uint16)
    alpha = levels(h, w, dtype=np.uint16) if transparent else None
    path = tmp_path_factory.mktemp("a") / "a.png"

    write(path, Picture(pixels=pixels, alpha=alpha, icc=SRGB))
    back = read(path)

    assert back.bits == 16
    assert np.array_equal(back.pixels, pixels)
    assert alpha is None or np.array_equal(back.alpha, alpha)
    assert back.icc == SRGB
    assert header(path).bits == 16


def exif_block(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "a camera"
    return exif.tobytes()


def test_read_rgb8_gives_what_pillow_gives(tmp_path: Path) -> None:
    pixels = levels(6, 4, 3)

    assert np.array_equal(read_rgb8(saved(tmp_path / "a.png", Image.fromarray(pixels))), pixels)
