"""Chunks of a PNG, checked and sorted: what Pillow needs, what we keep, what is only a note."""

import contextlib
import io
import struct
import zlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

from dukd.images.image import Chunk, RefusedError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER = 33
"""Bytes of the signature and of the first chunk."""
LENGTHS = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"cICP": 4, b"mDCV": 24, b"cLLI": 8}
"""Chunks that say what colors are, and their bytes; of another length they mean nothing."""
_NOTES = (b"tEXt", b"zTXt", b"iTXt", b"tIME", b"eXIf", b"iCCP")  # not handed to Pillow
_RAW_EXIF = b"Raw profile type exif\0"
_TAIL = 1 << 16


@dataclass(kw_only=True)
class Sorted:
    """What a PNG holds."""

    kept: bytes = b""
    """The file without text, EXIF and profile; without pixels where only the header was wanted."""
    bits: int = 8
    frames: int = 1
    gray_key: int | None = None
    exif: bytes | None = None
    icc: bytes | None = None
    color: tuple[Chunk, ...] = ()
    notes: tuple[str, ...] = ()
    parts: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    """First chunk of each name, without the pixels."""


def framed(name: bytes, content: bytes) -> bytes:
    """A chunk as it stands in the file: length, name, content, checksum."""
    return struct.pack(">I", len(content)) + name + content + _check(name + content)


def _check(content: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(content))


def chunks(file: IO[bytes]) -> Generator[tuple[bytes, bytes], None, None]:
    """Chunks of a PNG up to its end, ``(name, content)``; damaged notes are left out.

    Raises:
        RefusedError: If any other chunk is damaged, the first is not the header or another one is,
            or the end is missing.
    """
    size = file.seek(0, io.SEEK_END)  # or memory would be taken by a length's word
    file.seek(len(SIGNATURE))
    while len(start := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", start)
        _check_order(name, length, first=file.tell() == len(SIGNATURE) + 8)
        content = file.read(min(length, size))
        whole = len(content) == length and file.read(4) == _check(name + content)
        if whole or (len(content) == length and name in _NOTES):
            if name == b"IEND":
                return
            yield name, content if whole else b""
            continue
        raise RefusedError(_damaged(name))
    raise RefusedError("is cut off: the end of the PNG is missing")


def _damaged(name: bytes) -> str:
    return f"is damaged: the chunk {name.decode('latin-1')!r} is cut off or changed"


def _check_order(name: bytes, length: int, *, first: bool) -> None:
    if first != (name == b"IHDR") or (first and length != 13):
        raise RefusedError("does not begin with the one header of a PNG: it is damaged")


def sort(file: IO[bytes], *, whole: bool, max_profile: int, max_exif: int) -> Sorted:
    """Read the chunks of a PNG, or of its header only, and sort them.

    Raises:
        RefusedError: If a chunk that matters is damaged.
    """
    result = Sorted()
    kept = io.BytesIO()
    kept.write(SIGNATURE)
    color: list[Chunk] = []
    early: set[bytes] = set()  # what stands before the pixels
    for name, content in _meaningful(chunks(file) if whole else _before_pixels(file)):
        if b"IDAT" not in early:
            early.add(name)
        if name != b"IDAT":
            result.parts.setdefault(name, content)
        if name in LENGTHS or (name == b"pHYs" and content[8:] == b"\0"):
            color.append((name, content))
        if name not in _NOTES:
            kept.write(framed(name, content))
    kept.write(framed(b"IEND" if whole else b"IDAT", b""))  # Pillow opens what has pixels
    result.kept = kept.getvalue()
    result.color = tuple(color)
    parts = result.parts
    header = parts.get(b"IHDR", b"")
    if len(header) == 13:
        if header[9] == 3 and b"PLTE" not in early:
            raise RefusedError("has no palette before its pixels: it is damaged")
        result.bits = header[8]
        if header[9] == 0 and len(parts.get(b"tRNS", b"")) >= 2:
            result.gray_key = struct.unpack(">H", parts[b"tRNS"][:2])[0]
    if len(parts.get(b"acTL", b"")) >= 4:
        result.frames = max(1, struct.unpack(">I", parts[b"acTL"][:4])[0])
    result.exif = _exif(parts, file, whole=whole, limit=max_exif)
    result.icc, result.notes = _profile(parts, max_profile)
    return result


def _meaningful(found: Iterable[tuple[bytes, bytes]]) -> Generator[tuple[bytes, bytes], None, None]:
    """All but chunks of colors that readers pass over: behind the pixels, or of another length."""
    pixels = False
    for name, content in found:
        pixels = pixels or name == b"IDAT"
        if name not in LENGTHS or not (pixels or len(content) != LENGTHS[name]):
            yield name, content


def _before_pixels(file: IO[bytes]) -> Generator[tuple[bytes, bytes], None, None]:
    """Chunks before the pixels; long ones are skipped."""
    size = file.seek(0, io.SEEK_END)
    file.seek(len(SIGNATURE))
    while len(start := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", start)
        _check_order(name, length, first=file.tell() == len(SIGNATURE) + 8)
        if name in (b"IDAT", b"IEND"):
            return
        length = min(length, size)
        wanted = length <= _TAIL or name in (b"iCCP", b"eXIf")
        content = file.read(length) if wanted else b""
        file.seek(length - len(content), io.SEEK_CUR)
        whole = file.read(4) == _check(name + content) or not wanted
        if not whole and name not in _NOTES:
            raise RefusedError(_damaged(name))
        yield name, content if whole else b""


def _exif(parts: dict[bytes, bytes], file: IO[bytes], *, whole: bool, limit: int) -> bytes | None:
    """EXIF of its own chunk, or as ImageMagick writes it into text."""
    block = parts.get(b"eXIf")
    if block is None and not whole:
        block = _late_exif(file)
    if block is None:
        for name in (b"zTXt", b"tEXt"):
            if (text := parts.get(name, b"")).startswith(_RAW_EXIF):
                block = _from_text(text, packed=name == b"zTXt", limit=limit)
    return block if block and len(block) <= limit else None


def _from_text(text: bytes, *, packed: bool, limit: int) -> bytes | None:
    with contextlib.suppress(ValueError, zlib.error):
        content = text[len(_RAW_EXIF) :]
        if packed:
            content = zlib.decompressobj().decompress(content[1:], 4 * limit)
        lines = content.decode("latin-1").strip("\n").split("\n")
        return bytes.fromhex("".join(lines[2:]))
    return None


def _late_exif(file: IO[bytes]) -> bytes | None:
    """The chunk eXIf behind the pixels of a PNG; Pillow sees only one before them."""
    size = file.seek(0, io.SEEK_END)
    file.seek(len(SIGNATURE))
    while len(start := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", start)
        if name == b"IEND":
            return None
        if name == b"eXIf":
            content = file.read(min(length, size))
            return content if file.read(4) == _check(name + content) else b""
        file.seek(length + 4, io.SEEK_CUR)
    return None


def _profile(parts: dict[bytes, bytes], limit: int) -> tuple[bytes | None, tuple[str, ...]]:
    if b"iCCP" not in parts:
        return None, ()
    _, _, packed = parts[b"iCCP"].partition(b"\0")
    with contextlib.suppress(zlib.error):
        unpacker = zlib.decompressobj()
        profile = unpacker.decompress(packed[1:], limit)
        if unpacker.eof and profile:
            return profile, ()
    return None, ("its color profile is damaged and was left out",)


def front(
    *,
    icc: bytes | None = None,
    exif: bytes | None = None,
    dpi: tuple[float, float] | None = None,
    color: Sequence[Chunk] = (),
    text: Mapping[str, str] | None = None,
) -> bytes:
    """Chunks that stand between the header and the pixels.

    Args:
        icc: Color profile.
        exif: EXIF block, without the letters that JPEG puts before it.
        dpi: Dots per inch, across and down.
        color: Chunks that say what levels mean.
        text: Keywords and notes.
    """
    parts = [framed(*chunk) for chunk in color if not (icc and chunk[0] == b"sRGB")]
    if icc:
        parts.append(framed(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc)))
    if dpi is not None:
        across, down = (min(2**31 - 1, round(value / 0.0254)) for value in dpi)
        parts.append(framed(b"pHYs", struct.pack(">IIB", across, down, 1)))
    for keyword, value in (text or {}).items():
        parts.append(framed(b"iTXt", keyword.encode("latin-1") + bytes(5) + value.encode()))
    if exif:
        parts.append(framed(b"eXIf", exif))
    return b"".join(parts)
