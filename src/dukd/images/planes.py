"""TIFF's strips and tiles: their sums, and channels that lie in planes of their own.

Each plane is decoded as a gray image.

Pillow takes the low byte of levels in compressed planes of 16 bits for the whole, and knows no
plane of gray beside alpha; of one gray plane it makes no mistake.
"""

import io
import struct
import zlib
from collections.abc import Mapping
from typing import IO, cast

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageFile
from PIL import TiffImagePlugin as Tiff

from dukd.images.convert import Pixels
from dukd.images.image import RefusedError

_BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR, _EXTRA = 258, 262, 277, 284, 338
_KEPT = (256, 257, 259, 266, 274, 278, 317, 322, 323)
"""Tags of the image that hold for a plane: its sides, compression, orientation, strips, tiles."""
_TABLES = 347  # of JPEG, for all planes
_PLACES = ((273, 279), (324, 325))  # offsets and lengths: of strips, of tiles
_COMPRESSION, _DEFLATE = 259, (8, 32946)
_PADDING = 4096  # at most, of a tile at the right or below
_MULTIPLIED = 1  # an extra channel is alpha, and color was multiplied by it

_Tags = Mapping[int, tuple[int, ...] | int | bytes]


def in_planes(image: ImageFile.ImageFile) -> bool:
    """Whether an opened image is a TIFF of gray or RGB in several planes."""
    tags = _tags(image)
    several = tags.get(_PLANAR) == 2 and cast("int", tags.get(_SAMPLES, 1)) > 1
    return several and tags.get(_PHOTOMETRIC) in (0, 1, 2)


def check_sums(image: ImageFile.ImageFile, file: IO[bytes]) -> None:
    """Refuse the page at which a deflated TIFF stands if it is damaged.

    A sum stands behind each strip or tile; libtiff stops when it has enough levels, and never looks
    at it.

    Raises:
        RefusedError: If one does not fit.
    """
    tags = _tags(image)
    if image.format != "TIFF" or tags.get(_COMPRESSION) not in _DEFLATE:
        return
    left = 16 * (image.width + _PADDING) * (image.height + _PADDING)  # bounds the work
    for offsets, lengths in _PLACES:
        starts, counts = (cast("tuple[int, ...]", tags.get(tag, ())) for tag in (offsets, lengths))
        for number, (start, count) in enumerate(zip(starts, counts, strict=False), start=1):
            file.seek(start)
            try:
                left -= _inflated(file.read(count), left)
            except zlib.error as error:
                raise RefusedError(
                    f"is damaged: strip or tile {number} of {len(starts)} does not fit ({error})"
                ) from None


def _inflated(content: bytes, limit: int) -> int:
    """Inflate a stream to its end, and its sum, or to a limit: how many bytes it makes."""
    stream, made = zlib.decompressobj(), 0
    while content and not stream.eof and made < limit:
        made += len(stream.decompress(content, 1 << 20))
        content = stream.unconsumed_tail
    return made


def multiplied(image: ImageFile.ImageFile) -> bool:
    """Whether color was multiplied by alpha."""
    extra = cast("tuple[int, ...]", _tags(image).get(_EXTRA, ()))
    return extra[:1] == (_MULTIPLIED,)


def decode(image: ImageFile.ImageFile, file: IO[bytes]) -> tuple[Pixels, Pixels | None]:
    """Decode the page at which the image stands: pixels ``(h, w, c)``, and alpha if there is one.

    Raises:
        RefusedError: If there are not as many strips or tiles as the planes need.
    """
    tags = _tags(image)
    color = 3 if tags[_PHOTOMETRIC] == 2 else 1
    count = color + (image.mode in ("RGBA", "LA", "La", "RGBa"))
    file.seek(0)
    data = file.read()
    planes = [_plane(data, tags, number) for number in range(count)]
    if tags[_PHOTOMETRIC] == 0:
        planes[0] = np.iinfo(planes[0].dtype).max - planes[0]
    if count == color:
        return np.dstack(planes), None
    if multiplied(image):
        planes = _divided(planes)
    return np.dstack(planes[:-1]), planes[-1]


def _divided(planes: list[Pixels]) -> list[Pixels]:
    """Undo the multiplication by alpha, as Pillow does where channels lie together."""
    layout, mode = ("RGBa", "RGBA") if len(planes) == 4 else ("La", "La")
    size, together = planes[0].shape[::-1], np.dstack(planes).tobytes()
    image = PillowImage.frombytes(mode, size, together, "raw", layout)
    levels = np.asarray(image if len(planes) == 4 else image.convert("LA"))
    return [levels[..., number] for number in range(len(planes))]


def _plane(data: bytes, tags: _Tags, number: int) -> Pixels:
    """Decode one plane: ``(h, w)``."""
    with Tiff.TiffImageFile(io.BytesIO(_alone(data, tags, number))) as plane:
        plane.load()
        levels = np.asarray(plane)
    return levels.astype(levels.dtype.newbyteorder("="))


def _alone(data: bytes, tags: _Tags, number: int) -> bytes:
    """The file with one directory, of one plane, at its end."""
    (bits, *_), samples = cast("tuple[int, ...]", tags[_BITS]), cast("int", tags[_SAMPLES])
    entries: dict[int, tuple[int, ...] | bytes] = {
        tag: (int(cast("int", tags[tag])),) for tag in _KEPT if tag in tags
    }
    entries |= {_BITS: (bits,), _PHOTOMETRIC: (1,), _SAMPLES: (1,), _PLANAR: (1,)}
    if isinstance(tables := tags.get(_TABLES), bytes):
        entries[_TABLES] = tables
    for tag in (tag for pair in _PLACES for tag in pair if tag in tags):
        places = cast("tuple[int, ...]", tags[tag])
        if len(places) % samples:
            raise RefusedError(
                f"is a TIFF of {samples} planes in {len(places)} strips or tiles: it is damaged"
            )
        each = len(places) // samples
        entries[tag] = tuple(places[number * each : (number + 1) * each])
    return _with_directory(data, entries)


def _with_directory(data: bytes, entries: Mapping[int, tuple[int, ...] | bytes]) -> bytes:
    """Put a directory behind a TIFF and let its header point there."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    word, form, room = ("Q", 16, 8) if big else ("I", 4, 4)
    behind, directory = bytearray(), bytearray()
    data += bytes(-len(data) % 8)
    for tag, values in sorted(entries.items()):
        raw = isinstance(values, bytes)
        content = values if raw else struct.pack(f"{order}{len(values)}{word}", *values)
        head = struct.pack(f"{order}HH{word}", tag, 7 if raw else form, len(values))
        if len(content) > room:
            directory += head + struct.pack(order + word, len(data) + len(behind))
            behind += content + bytes(-len(content) % 8)
        else:
            directory += head + content.ljust(room, b"\0")
    count = struct.pack(order + ("Q" if big else "H"), len(entries))
    start = struct.pack(order + word, len(data) + len(behind))
    header = data[:8] + start if big else data[:4] + start
    return b"".join([header, data[len(header) :], behind, count, directory, bytes(room)])


def _tags(image: ImageFile.ImageFile) -> _Tags:
    return cast("_Tags", getattr(image, "tag_v2", {}))
