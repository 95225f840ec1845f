"""PNG of 16 bits, which Pillow reduces to 8 for color: checked, read and written here."""

import struct
import zlib
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dukd.images.png import SIGNATURE, chunks, framed

Levels = NDArray[np.uint16]

_BEST = 6  # level of zlib


def decode(file: IO[bytes]) -> tuple[Levels, Levels | None]:
    """Decode a PNG of 16 bits: Pillow inflates and unfilters, we put the bytes together.

    Pillow's decoder takes a layout of bytes per pixel. Seen as 8-bit pixels of twice the channels,
    gray and gray with alpha come out as pairs of bytes; of color it gives the high bytes, and in
    little-endian disguise the low ones.
    """
    parts: dict[bytes, list[bytes]] = {}
    for name, content in chunks(file):
        parts.setdefault(name, []).append(content)
    width, height, _, color, _, _, interlaced = struct.unpack(">IIBBBBB", parts[b"IHDR"][0])
    packed = b"".join(parts[b"IDAT"])

    def plane(space: str, layout: str) -> NDArray[np.uint8]:
        return np.asarray(
            Image.frombytes(space, (width, height), packed, "zip", layout, interlaced)
        )

    mode = {0: "LA", 4: "RGBA", 2: "RGB", 6: "RGBA"}[color]
    if color in (0, 4):
        both = plane(mode, mode)
        levels = _joined(both[..., 0::2], both[..., 1::2])
    else:
        levels = _joined(plane(mode, f"{mode};16B"), plane(mode, f"{mode};16L"))
    if color in (4, 6):
        return levels[..., :-1], levels[..., -1]
    if b"tRNS" in parts:
        transparent = np.frombuffer(parts[b"tRNS"][0], ">u2")[: levels.shape[-1]]
        return levels, np.where((levels == transparent).all(axis=-1), 0, 65535).astype(np.uint16)
    return levels, None


def _joined(high: NDArray[np.uint8], low: NDArray[np.uint8]) -> NDArray[np.uint16]:
    return np.bitwise_or(np.left_shift(high, 8, dtype=np.uint16), low, dtype=np.uint16)


def encode(file: IO[bytes], planes: NDArray[Any], *, front: bytes = b"") -> None:
    """Write a PNG of 16 bits.

    Args:
        file: Where to write.
        planes: 16 bits, ``(h, w, c)``: gray, gray and alpha, RGB, or RGB and alpha.
        front: Chunks to put before the pixels, as ``png.front`` makes them.
    """
    height, width, channels = planes.shape
    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    file.write(SIGNATURE)
    file.write(framed(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)))
    file.write(front)
    packer = zlib.compressobj(_BEST)
    above = np.zeros((1, width * channels * 2), np.uint8)
    for start in range(0, height, 64):  # a strip at a time: the filters need several copies
        rows = planes[start : start + 64].astype(">u2").reshape(-1, width * channels).view(np.uint8)
        if content := packer.compress(_filtered(rows, above, 2 * channels)):
            file.write(framed(b"IDAT", content))
        above = rows[-1:]
    file.write(framed(b"IDAT", packer.flush()) + framed(b"IEND", b""))


def _filtered(rows: NDArray[np.uint8], above: NDArray[np.uint8], step: int) -> bytes:
    """Filter each row by what leaves the smallest differences (PNG, section 12.8)."""
    up = np.concatenate([above, rows[:-1]])
    left, corner = (np.pad(a, ((0, 0), (step, 0)))[:, : rows.shape[1]] for a in (rows, up))
    a, b, c = (x.astype(np.int16) for x in (left, up, corner))
    towards_left, towards_up, towards_corner = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    paeth = np.where(
        (towards_left <= towards_up) & (towards_left <= towards_corner),
        left,
        np.where(towards_up <= towards_corner, up, corner),
    )
    candidates = np.stack([rows, rows - left, rows - up, rows - paeth])  # modulo 256
    cost = np.abs(candidates.view(np.int8).astype(np.int32)).sum(axis=-1)
    best = cost.argmin(axis=0)
    chosen = candidates[best, np.arange(len(rows))]
    names = np.array([0, 1, 2, 4], np.uint8)[best][:, None]
    return np.concatenate([names, chosen], axis=1).tobytes()
