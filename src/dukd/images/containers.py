"""Look through a file before Pillow does: bound its work, leave metadata out, find what it omits.

Each ``prepared_...`` returns what Pillow is to read, and the facts. Comments, however long, are not
handed on; a JPEG of a thousand scans, a TIFF of a hundred thousand pages and a GIF of a million
blocks are refused by their structure, which takes milliseconds.
"""

import io
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, NamedTuple

from dukd.images import jxl, png
from dukd.images.deep import PPM_HEADER
from dukd.images.image import Chunk, RefusedError

MAX_FRAMES = 10_000
"""Most frames or pages of a file."""
MAX_EXIF = 1 << 20
"""Longest EXIF block that is looked at, in bytes."""
_MAX_PROFILE = 16 << 20
_SCANS, _SCANNED = 24, 400_000_000  # scans of a JPEG, and pixels times scans beyond them
_MAX_TAGS = 4096
_MAX_BLOCKS = 2_000_000  # of a GIF; each holds up to 255 bytes
_MAX_CHUNKS = 64  # of a WebP before its pixels
_PPM_HEADER = 1 << 16
_FURTHER = "further images in it (a preview, a map of depth or gain) were left out"
_UNSAID = "channels whose meaning the TIFF does not say were left out"
_COLORS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}  # channels of TIFF's photometric interpretations
_PAGE_TAGS = (256, 257, 258, 259, 262, 274, 277, 284, 338, 339)
_BOXES = 1 << 18  # bytes in which an AVIF or HEIC file says what it holds


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a container says beside what Pillow says."""

    frames: int = 0
    """Frames or pages; 0 where Pillow counts them as fast."""
    bits: int = 0
    """Depth of a channel; 0 where Pillow's mode says it."""
    gray_key: int | None = None
    """The transparent level of a gray PNG, as one of its own levels."""
    exif: bytes | None = None
    """An EXIF block that Pillow has not been handed."""
    icc: bytes | None = None
    """A color profile that Pillow has not been handed."""
    chunks: tuple[Chunk, ...] = ()
    """PNG chunks about color."""
    size: tuple[int, int] | None = None
    """Width and height, where Pillow would decode everything to say it."""
    lossless: bool = False
    """Whether a WebP holds its pixels as they were."""
    notes: tuple[str, ...] = ()
    """What was left out."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Width and height of each page as it is stored, where pages differ."""


Prepared = tuple[IO[bytes], Facts]


def prepared(format_name: str, file: IO[bytes], *, whole: bool) -> Prepared:
    """Bound and sort a file of a known format.

    Args:
        format_name: Pillow's name of the format.
        file: Open for reading, at any position.
        whole: Whether the pixels are wanted too, or only what a header says.

    Raises:
        RefusedError: If reading it would take too much time or memory.
    """
    file.seek(0)
    prepare = _PREPARE.get(format_name)
    if prepare is None:
        return file, Facts()
    result = prepare(file, whole)
    result[0].seek(0)
    return result


def _png(file: IO[bytes], whole: bool) -> Prepared:  # noqa: FBT001  one signature for all
    sorted_ = png.sort(file, whole=whole, max_profile=_MAX_PROFILE, max_exif=MAX_EXIF)
    return io.BytesIO(sorted_.kept), Facts(
        frames=sorted_.frames,
        bits=sorted_.bits,
        gray_key=sorted_.gray_key,
        exif=sorted_.exif,
        icc=sorted_.icc,
        chunks=sorted_.color,
        notes=sorted_.notes,
    )


def _jpeg(file: IO[bytes], whole: bool) -> Prepared:  # noqa: FBT001
    data = file.read() if whole else file.read(1 << 17)
    kept, profile, exif = [data[:2]], 0, b""
    pixels, position = 1, 2
    notes: tuple[str, ...] = ()
    for marker, start, end in _segments(data):
        content = data[start + 4 : end]
        position = end
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(content) >= 5:
            height, width = struct.unpack(">HH", content[1:5])
            pixels = max(1, height * width)
        if marker == 0xFE or 0xE0 <= marker <= 0xEF:
            is_exif = marker == 0xE1 and content.startswith(b"Exif\0\0") and not exif
            is_profile = marker == 0xE2 and content.startswith(b"ICC_PROFILE\0")
            profile += len(content) * is_profile
            if marker == 0xE2 and content.startswith(b"MPF\0"):
                notes = (_FURTHER,)
            if not (marker in (0xE0, 0xEE) or is_exif or (is_profile and profile <= _MAX_PROFILE)):
                continue
            exif = content if is_exif else exif
        kept.append(data[start:end])
        if marker == 0xDA:
            break
    if not whole:
        # The header of a photograph may be longer than what was read: Pillow goes on by itself.
        return file, Facts(frames=1, exif=exif or None)
    scans = data.count(b"\xff\xda", position)
    if scans > _SCANS + _SCANNED // pixels:
        raise RefusedError(
            f"is a JPEG of {scans + 1} scans, made to take long: save it anew with an editor"
        )
    facts = Facts(frames=1, exif=exif or None, notes=notes)
    return io.BytesIO(b"".join([*kept, data[position:]])), facts


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment before the pixels; stops where segments end."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill bytes
            position += 1
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        end = position + 2 + length
        if marker in (0xD8, 0xD9) or 0xD0 <= marker <= 0xD7 or length < 2 or end > len(data):
            return
        yield marker, position, end
        if marker == 0xDA:
            return
        position = end


def _gif(file: IO[bytes], whole: bool) -> Prepared:  # noqa: FBT001
    if not whole and file.seek(0, io.SEEK_END) > 1 << 24:
        return file, Facts()  # read walks through it before anything is decoded
    file.seek(0)
    data = file.read()
    frames, kept, copied = 0, [b""], 0
    position = 13 + (3 << ((data[10] & 7) + 1) if len(data) > 10 and data[10] & 128 else 0)
    blocks = 0
    while position + 1 < len(data) and data[position] in (0x21, 0x2C):
        start = position
        drop = False
        if data[position] == 0x2C:
            frames += 1
            packed = data[position + 9] if position + 9 < len(data) else 0
            position += 10 + (3 << ((packed & 7) + 1) if packed & 128 else 0) + 1
        else:
            loop = data[position + 3 : position + 14] in (b"NETSCAPE2.0", b"ANIMEXTS1.0")
            drop = data[position + 1] != 0xF9 and not (data[position + 1] == 0xFF and loop)
            position += 2
        while position < len(data) and data[position]:
            position += 1 + data[position]
            blocks += 1
        position += 1
        if drop:
            kept.append(data[copied:start])
            copied = position
        if frames > MAX_FRAMES or blocks > _MAX_BLOCKS:
            raise RefusedError(
                f"is a GIF of more than {MAX_FRAMES} frames or {_MAX_BLOCKS} blocks: cut it"
            )
    return io.BytesIO(b"".join([*kept, data[copied:]])), Facts(frames=max(1, frames))


def _tiff(file: IO[bytes], whole: bool) -> Prepared:  # noqa: FBT001
    start = file.read(16)
    order = "<" if start[:2] == b"II" else ">"
    big = len(start) == 16 and struct.unpack(order + "H", start[2:4])[0] == 43
    if big and order == ">":
        raise RefusedError("is a big-endian BigTIFF, which is not read; save it as a plain TIFF")
    count_form, entry, offset_form = ("Q", 20, "Q") if big else ("H", 12, "I")
    count_size, offset_size = struct.calcsize(count_form), struct.calcsize(offset_form)

    def number(form: str, content: bytes) -> int:
        value: int = struct.unpack(order + form, content)[0]
        return value

    place = number(offset_form, start[8:16] if big else start[4:8]) if len(start) >= 8 else 0
    seen: set[int] = set()
    alone: list[int] = []
    sizes: list[tuple[int, int]] = []
    unsaid = False
    while place and place not in seen:
        seen.add(place)
        if len(seen) > MAX_FRAMES:
            raise RefusedError(f"has more than {MAX_FRAMES} pages: split it")
        file.seek(place)
        if len(head := file.read(count_size)) < count_size:
            break
        tags = number(count_form, head)
        if tags > _MAX_TAGS:
            raise RefusedError(
                f"has {tags} tags on page {len(seen)}: it is damaged, or not an image"
            )
        entries = file.read(tags * entry)
        tail = file.read(offset_size)
        page = _page(file, entries, order, big=big)
        unsaid |= page.unsaid
        sizes.append(page.size)
        alone += [] if page.plane is None else [place + count_size + page.plane]
        place = number(offset_form, tail) if len(tail) == offset_size else 0
    said = all(min(size) > 0 for size in sizes)
    differ = tuple(sizes) if said and len(set(sizes)) > 1 else ()
    facts = Facts(frames=max(1, len(seen)), notes=(_UNSAID,) if unsaid else (), sizes=differ)
    if not alone or not whole:
        return file, facts
    file.seek(0)
    data = bytearray(file.read())
    for start in alone:
        data[start : start + 2] = struct.pack(order + "H", 1)
    return io.BytesIO(data), facts


class _Page(NamedTuple):
    """What the entries of a page say that Pillow takes wrong, or leaves out without a word."""

    plane: int | None
    """Where they say that one channel lies in a plane of its own, if they do: Pillow then takes the
    first letter of its layout for the whole."""
    unsaid: bool
    """Whether there are channels of which nothing says what they are."""
    size: tuple[int, int]
    """Width and height, upright as it is displayed."""


def _page(file: IO[bytes], entries: bytes, order: str, *, big: bool) -> _Page:
    """Name a kind of levels that Pillow would take for damage, and find what it takes wrong.

    Raises:
        RefusedError: If a page holds such.
    """
    length, room = (20, 8) if big else (12, 4)
    values: dict[int, int] = {}
    planar = None
    for start in range(0, len(entries) - length + 1, length):
        tag, form = struct.unpack_from(order + "HH", entries, start)
        count = struct.unpack_from(order + ("Q" if big else "I"), entries, start + 4)[0]
        if tag not in _PAGE_TAGS or form not in ((3, 4) if tag in (256, 257) else (3,)):
            continue
        if not count:
            continue
        planar = start + length - room if tag == 284 else planar
        field = entries[start + length - room : start + length]
        if 2 * count > room:
            file.seek(struct.unpack(order + ("Q" if big else "I"), field)[0])
            field = file.read(2).ljust(2, b"\0")
        values[tag] = struct.unpack_from(order + ("I" if form == 4 else "H"), field)[0]
    bits, form = values.get(258, 1), values.get(339, 1)
    samples, white_is_zero = values.get(277, 1), values.get(262) == 0
    apart = values.get(284) == 2
    gray = values.get(262) in (0, 1) and samples == 1
    known = bits in (1, 2, 4, 8, 16, 32) or (bits == 12 and gray and not white_is_zero)
    if bits == 16 and values.get(262) in (0, 1):
        known = not (white_is_zero and order == ">")
        known &= samples == 1 or (apart and values.get(338) == 0)
    if apart and bits == 8 and values.get(338) == 0 and values.get(259, 1) == 1:
        raise RefusedError("is a TIFF with planes of unsaid meaning; save it without them")
    if known and (form not in (2, 3) or (form == 3 and gray)):
        color = _COLORS.get(values.get(262, -1), samples)
        said = values.get(338, 2 if samples == color + 1 else 0) in (1, 2)
        lying = values.get(274, 1) in (5, 6, 7, 8)
        width, height = values.get(256, 0), values.get(257, 0)
        alone = planar if samples == 1 and apart else None
        return _Page(alone, samples > color + said, (height, width) if lying else (width, height))
    kind = {2: "signed levels", 3: "floating-point levels"}.get(form, f"{bits} bits a level")
    raise RefusedError(f"is a TIFF of {kind} in this arrangement; save it as a 16-bit PNG")


def _ppm(file: IO[bytes], whole: bool) -> Prepared:  # noqa: FBT001, ARG001
    start = file.read(_PPM_HEADER)
    found = PPM_HEADER.match(start)
    if found is None:
        raise RefusedError("has no readable PPM header in its first 64 KB")
    kind, width, height = found[1], int(found[2]), int(found[3])
    if kind in b"14":
        bits, row = 0, (width + 7) // 8
    elif found[4] is None or not 0 < int(found[4]) < 65536:
        raise RefusedError("is a PPM that does not say how bright white is")
    else:
        bits = 8 if int(found[4]) <= 255 else 16
        row = width * (3 if kind == b"6" else 1) * bits // 8
    if kind in b"456":
        file.seek((found.end(3) if kind == b"4" else found.end()) + 1 + height * row)
        if re.match(rb"P[1-6]\s", file.read(3)):
            raise RefusedError("holds several images behind each other; split it")
    return file, Facts(frames=1, bits=bits)


def _jxl(file: IO[bytes], whole: bool) -> Prepared:  # noqa: FBT001, ARG001
    return file, Facts(size=jxl.size(file))


def _boxes(file: IO[bytes], whole: bool) -> Prepared:  # noqa: FBT001, ARG001
    """AVIF and HEIC: Pillow gives 8 bits and says nothing of color that is not sRGB."""
    start = file.read(_BOXES)
    bits = 8
    for place in (m.end() for m in re.finditer(b"av1C", start)):
        flags = start[place + 2 : place + 3]
        if flags and flags[0] & 0x40:
            bits = 12 if flags[0] & 0x20 else 10
    if bits > 8:
        raise RefusedError(f"has {bits} bits, of which 8 would be read; save it as a 16-bit PNG")
    if (found := start.find(b"colrnclx")) >= 0 and b"colrprof" not in start:
        primaries, transfer = struct.unpack_from(">HH", start.ljust(found + 12, b"\0"), found + 8)
        if primaries not in (0, 1, 2) or transfer not in (0, 1, 2, 6, 13, 14, 15):
            raise RefusedError(
                f"has colors that are not sRGB (cICP {primaries}, {transfer}); convert it first"
            )
    return file, Facts()


def _webp(file: IO[bytes], whole: bool) -> Prepared:  # noqa: ARG001, FBT001
    """Look for the first chunk of pixels, which in animations lies in a frame's own chunk."""
    position, kind = 12, b""
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        if len(head := file.read(8)) < 8 or (kind := head[:4]) in (b"VP8L", b"VP8 "):
            break
        length = int.from_bytes(head[4:], "little")
        position += 24 if kind == b"ANMF" else 8 + length + length % 2
    return file, Facts(lossless=kind == b"VP8L")


_PREPARE: dict[str, Callable[[IO[bytes], bool], Prepared]] = {
    "PNG": _png,
    "JPEG": _jpeg,
    "GIF": _gif,
    "TIFF": _tiff,
    "PPM": _ppm,
    "WEBP": _webp,
    "AVIF": _boxes,
    "HEIF": _boxes,
    "JXL": _jxl,
}
