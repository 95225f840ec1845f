"""The size of a JPEG XL image from its first bytes; its decoder would unpack the whole first."""

import struct
from typing import IO

_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_MOST_BOXES = 64


def size(file: IO[bytes]) -> tuple[int, int] | None:
    """Width and height in pixels; None where the start of the file does not say.

    ISO/IEC 18181-1, SizeHeader: 3 bits of ratio between the sides, each side in one of four
    lengths, or in eighths.
    """
    start = _codestream(file)
    if start[:2] != b"\xff\x0a":
        return None
    bits = int.from_bytes(start[2:], "little")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    def side(*, eighths: bool) -> int:
        if eighths:
            return 8 * (1 + take(5))
        return 1 + take((9, 13, 18, 30)[take(2)])

    eighths = bool(take(1))
    height = side(eighths=eighths)
    if ratio := take(3):
        across, down = _RATIOS[ratio - 1]
        return height * across // down, height
    return side(eighths=eighths), height


def _codestream(file: IO[bytes]) -> bytes:
    """The first bytes of the image itself, in a container or without one."""
    file.seek(0)
    start = file.read(16)
    if start[:2] == b"\xff\x0a":
        return start
    place = 0
    for _ in range(_MOST_BOXES):
        file.seek(place)
        head = file.read(16)
        if len(head) < 8:
            break
        length, name = struct.unpack(">I4s", head[:8])
        inside = 8
        if length == 1 and len(head) == 16:
            length, inside = struct.unpack(">Q", head[8:])[0], 16
        if name in (b"jxlc", b"jxlp"):
            file.seek(place + inside + (4 if name == b"jxlp" else 0))
            return file.read(16)
        if length < inside:  # 0: to the end of the file
            break
        place += length
    return b""
