"""Color of 16 bits in TIFF and PPM, of which Pillow gives 8: it decodes, we put bytes together."""

import re
import sys
from typing import IO, cast

import numpy as np
from PIL import ImageFile
from PIL import TiffImagePlugin as Tiff

from dukd.images import planes
from dukd.images.convert import Pixels
from dukd.images.image import RefusedError

_SPACE = rb"(?:\s|#[^\n]*\n)"
PPM_HEADER = re.compile(
    rb"P([1-6])\s%b*(\d{1,9})%b+(\d{1,9})(?:%b+(\d{1,5}))?" % (_SPACE, _SPACE, _SPACE)
)
"""Kind, width, height and, for gray and color, the level of white."""
_ENDS = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
_TIFF_LAYOUTS = ("RGB;16", "RGBA;16", "RGBX;16")


def tiff_refusal(image: ImageFile.ImageFile) -> str:
    """Why a TIFF of 16 bits in color cannot be decoded; nothing if it can.

    Pillow's layouts end in a byte order; those of CMYK and of color that was multiplied by its
    alpha are not among ours.
    """
    if planes.in_planes(image):
        known = not planes.multiplied(image)
    else:
        known = all(_layout(tile)[:-1] in _TIFF_LAYOUTS for tile in image.tile)
    return "" if known else "is a TIFF of 16 bits in color multiplied by alpha; save it as a PNG"


def tiff(image: ImageFile.ImageFile, file: IO[bytes]) -> tuple[Pixels, Pixels | None]:
    """Decode a TIFF of 16 bits in color at the page where it stands.

    Pillow takes the high byte of every level; where it is made to believe in the other byte order,
    the low one.
    """
    page = image.tell()
    high = np.asarray(_loaded(image))
    file.seek(0)
    with Tiff.TiffImageFile(file) as again:
        again.seek(page)
        again.tile = [_swapped(tile) for tile in again.tile]
        low = np.asarray(_loaded(again))
    levels = np.bitwise_or(np.left_shift(high, 8, dtype=np.uint16), low, dtype=np.uint16)
    if levels.shape[-1] == 4:
        return levels[..., :3], levels[..., 3]
    return levels, None


def _loaded(image: ImageFile.ImageFile) -> ImageFile.ImageFile:
    image.load()
    return image


def _layout(tile: ImageFile._Tile) -> str:  # pyright: ignore[reportPrivateUsage]
    args = tile.args
    return str(args[0] if isinstance(args, tuple) else args)


def _swapped(
    tile: ImageFile._Tile,  # pyright: ignore[reportPrivateUsage]
) -> ImageFile._Tile:  # pyright: ignore[reportPrivateUsage]
    layout, args = _layout(tile), cast("tuple[object, ...]", tile.args)
    return tile._replace(args=(layout[:-1] + _ENDS[layout[-1]], *args[1:]))


def ppm(file: IO[bytes]) -> Pixels:
    """Decode a PPM of more than 255 levels: ``(h, w, 3)``, white at 65535.

    Raises:
        RefusedError: If levels are missing, or lie above white.
    """
    file.seek(0)
    data = file.read()
    head = PPM_HEADER.match(data)
    assert head is not None  # its header was looked at before
    width, height, white = int(head[2]), int(head[3]), int(head[4])
    body, count = data[head.end() + 1 :], height * width * 3
    if head[1] == b"6":
        levels = np.frombuffer(body, ">u2", count=min(count, len(body) // 2)).astype(np.uint32)
    else:
        words = re.sub(rb"#[^\n]*", b"", body).split(maxsplit=count)[:count]
        if any(len(word) > 5 or not word.isdigit() for word in words):
            raise RefusedError("is a PPM with a level other than 0 to 65535")
        levels = np.array(words, dtype=np.int64).astype(np.uint32)
    if len(levels) < count:
        raise RefusedError(f"is cut off: {len(levels)} of {count} levels are there")
    if levels.max(initial=0) > white:
        raise RefusedError(f"is a PPM with levels above {white}, which it calls white")
    return ((levels * 65535 + white // 2) // white).astype(np.uint16).reshape(height, width, 3)
