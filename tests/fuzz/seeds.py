"""Sound inputs to begin with, all made here and small."""

import io
from functools import cache
from importlib.util import find_spec

import numpy as np
import tifffile
from PIL import Image as PillowImage

from dukd.images import png16

_RNG = np.random.default_rng(0)


def _exif() -> bytes:
    exif = PillowImage.Exif()
    exif[0x0112], exif[0x010F], exif[0x0100], exif[0x0101] = 6, "a camera", 11, 9
    exif.get_ifd(0x8769).update({0xA002: 11, 0xA003: 9, 0x9003: "2020:01:01 00:00:00"})
    return exif.tobytes()


EXIF = _exif().removeprefix(b"Exif\0\0")
"""An EXIF block without the letters before it."""


def _saved(image: PillowImage.Image, kind: str, **options: object) -> bytes:
    with io.BytesIO() as file:
        image.save(file, kind, **options)
        return file.getvalue()


@cache
def images() -> dict[str, list[bytes]]:
    """Small images by format."""
    levels = _RNG.integers(0, 256, (9, 11, 4), dtype=np.uint8)
    rgba, rgb, gray = (PillowImage.fromarray(levels[..., c]) for c in (slice(4), slice(3), 0))
    deep = PillowImage.fromarray(_RNG.integers(0, 65536, (9, 11)).astype(np.uint16))
    more = {"save_all": True, "append_images": [rgb.rotate(90).resize((11, 9))]}
    with io.BytesIO() as file:
        png16.encode(file, _RNG.integers(0, 65536, (9, 11, 3)).astype(np.uint16))
        color16 = file.getvalue()
    found = {
        "png": [
            _saved(rgb, "PNG", exif=_exif(), dpi=(300, 300)),
            _saved(rgba, "PNG"),
            _saved(rgb.quantize(8), "PNG", transparency=3),
            _saved(gray.convert("1"), "PNG"),
            _saved(deep, "PNG"),
            _saved(rgb, "PNG", **more),
            color16,
        ],
        "jpeg": [
            _saved(rgb, "JPEG", exif=_exif()),
            _saved(rgb, "JPEG", progressive=True),
            _saved(rgb.convert("CMYK"), "JPEG"),
            _saved(gray, "JPEG", restart_marker_blocks=1),
        ],
        "tiff": [
            _saved(rgb, "TIFF", exif=_exif()),
            _saved(rgb, "TIFF", compression="tiff_lzw"),
            _saved(deep, "TIFF", compression="tiff_deflate"),
            _saved(gray.convert("1"), "TIFF", compression="group4"),
            _saved(rgba, "TIFF"),
            _deep_tiff(),
        ],
        "webp": [
            _saved(rgb, "WEBP"),
            _saved(rgba, "WEBP", lossless=True, exif=_exif()),
            _saved(rgb, "WEBP", **more),
        ],
        "gif": [_saved(rgb, "GIF"), _saved(rgb, "GIF", **more, loop=0)],
        "ppm": [
            _saved(rgb, "PPM"),
            _saved(gray, "PPM"),
            b"P6\n2 1\n1000\n" + bytes(12),
            b"P3\n2 1\n255\n1 2 3 4 5 6",
        ],
        "bmp": [_saved(rgb, "BMP"), _saved(rgb.quantize(8), "BMP"), _saved(rgba, "BMP")],
        "avif": [_saved(rgb, "AVIF"), _saved(rgba, "AVIF", exif=_exif())],
    }
    if find_spec("pillow_heif") is not None:
        import pillow_heif  # noqa: PLC0415  an extra

        pillow_heif.register_heif_opener()
        found["heif"] = [_saved(rgb.resize((64, 64)), "HEIF")]
    if find_spec("pillow_jxl") is not None:
        import pillow_jxl  # noqa: F401, PLC0415  an extra

        found["jxl"] = [_saved(rgb, "JXL"), _saved(rgb, "JXL", exif=_exif(), use_container=True)]
    return found


def _deep_tiff() -> bytes:
    """Color of 16 bits."""
    with io.BytesIO() as file:
        levels = _RNG.integers(0, 65536, (9, 11, 3)).astype(np.uint16)
        tifffile.imwrite(file, levels, photometric="rgb", metadata=None)
        return file.getvalue()
