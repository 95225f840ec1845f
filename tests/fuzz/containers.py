"""Images taken apart by their format and put together again: chunks, segments, tags, boxes."""

import random
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial

from fuzz.change import Part, content, number, parts, perhaps_raw
from fuzz.seeds import EXIF, images

Generator = Callable[[random.Random], bytes]
"""Makes an input from a source of randomness."""


def png(rng: random.Random, sound: bytes) -> bytes:
    """Chunks with checksums that fit; pixels of a size that IHDR may deny."""
    found = list(_png_parts(sound))
    others = [
        (b"gAMA", struct.pack(">I", number(rng))),
        (b"cICP", bytes(rng.randrange(256) for _ in range(rng.choice((3, 4, 5))))),
        (b"tRNS", bytes(rng.randrange(256) for _ in range(rng.choice((0, 1, 2, 6, 300))))),
        (b"pHYs", struct.pack(">IIB", number(rng), number(rng), rng.randrange(3))),
        (b"acTL", struct.pack(">II", number(rng), 0)),
        (b"eXIf", content(rng, EXIF)),
        (b"iCCP", b"x\0\0" + content(rng, zlib.compress(bytes(200)))),
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n  4\n45786966\n")),
    ]
    header = found[0][1]
    if rng.random() < 0.4:
        fields = list(struct.unpack(">IIBBBBB", header))
        which = rng.randrange(7)
        fields[which] = number(rng) if which < 2 else rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
        found[0] = (b"IHDR", struct.pack(">IIBBBBB", *fields))
    changed = parts(rng, found, others)
    framed = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in changed
    ]
    return sound[:8] + b"".join(framed)


def _png_parts(data: bytes) -> Iterator[Part]:
    position = 8
    while position + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        yield data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        position += 12 + length


def jpeg(rng: random.Random, sound: bytes) -> bytes:
    """Segments with lengths that fit, scans among them."""
    found: list[Part] = []
    position = 2
    while position + 4 <= len(sound) and sound[position] == 0xFF:
        marker = sound[position : position + 2]
        if marker == b"\xff\xd9":
            break
        (length,) = struct.unpack_from(">H", sound, position + 2)
        body = sound[position + 4 : position + 2 + length]
        position += 2 + length
        if marker == b"\xff\xda":
            end = position
            while end + 1 < len(sound) and not (
                sound[end] == 0xFF and sound[end + 1] not in (0, *range(0xD0, 0xD8))
            ):
                end += 1
            found.append((marker, struct.pack(">H", len(body)) + body + sound[position:end]))
            position = end
        else:
            found.append((marker, body))
    others = [
        (b"\xff\xe1", b"Exif\0\0" + content(rng, EXIF)),
        (b"\xff\xe2", b"ICC_PROFILE\0\1\1" + bytes(number(rng, 1))),
        (b"\xff\xee", b"Adobe\0d\0\0\0\0" + bytes([rng.randrange(4)])),
        (b"\xff\xfe", b"a comment"),
        (b"\xff\xdd", struct.pack(">H", number(rng, 2))),
        (b"\xff\xc0", struct.pack(">BHHB", 8, number(rng, 2), number(rng, 2), rng.randrange(5))),
    ]
    changed = parts(rng, found, others)
    return b"\xff\xd8" + b"".join(_segment(*part) for part in changed) + b"\xff\xd9"


def _segment(marker: bytes, body: bytes) -> bytes:
    if marker == b"\xff\xda" and len(body) > 2:
        head = struct.unpack(">H", body[:2])[0] % 64
        start = body[2 : 2 + head]
        return marker + struct.pack(">H", len(start) + 2) + start + body[2 + head :]
    return marker + struct.pack(">H", min(65535, len(body) + 2)) + body[:65533]


_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 9: 4, 10: 8, 12: 8, 16: 8}


def tiff(rng: random.Random, sound: bytes) -> bytes:
    """Directories with their values behind them; offsets fit unless one was changed."""
    order = "<" if sound[:2] == b"II" else ">"
    tags = list(_tags(sound, order))
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(tags)) if tags else 0
        match rng.randrange(6):
            case 0 if tags:
                del tags[at]
            case 1 if tags:
                tag, form, count, body = tags[at]
                tags[at] = (tag, form, count, content(rng, body))
            case 2 if tags:
                tag, form, count, body = tags[at]
                short = struct.pack(order + "I", number(rng))[: _SIZES.get(form, 4)]
                tags[at] = (tag, form, count, short + body[len(short) :])
            case 3 if tags:
                tag, form, _, body = tags[at]
                tags[at] = (tag, rng.choice((*_SIZES, 0, 99)), number(rng, 2) or 1, body)
            case 4:
                extra = rng.choice((0x0112, 0x8769, 0x8825, 0x828D, 339, 338, 284, 317, 322, 33723))
                body = struct.pack(order + "I", number(rng))
                tags.append((extra, rng.choice((3, 4)), 1, body))
            case _ if tags:
                tags.insert(rng.randrange(len(tags)), tags[at])
    if rng.random() < 0.8:
        tags.sort()
    return _directory(tags, order, sound, rng)


def _tags(data: bytes, order: str) -> Iterator[tuple[int, int, int, bytes]]:
    (place,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, place)
    for i in range(count):
        start = place + 2 + 12 * i
        tag, form, number_ = struct.unpack_from(order + "HHI", data, start)
        length = _SIZES.get(form, 1) * number_
        (offset,) = struct.unpack_from(order + "I", data, start + 8)
        body = data[start + 8 : start + 8 + length] if length <= 4 else data[offset:][:length]
        yield tag, form, number_, body


def _directory(
    tags: list[tuple[int, int, int, bytes]], order: str, sound: bytes, rng: random.Random
) -> bytes:
    """A new directory behind the sound file, whose strips stay where they were."""
    place = len(sound) + len(sound) % 2
    behind = place + 2 + 12 * len(tags) + 4
    entries, tail = b"", b""
    for tag, form, count, body in tags:
        if len(body) <= 4:
            field = body.ljust(4, b"\0")
        else:
            field = struct.pack(order + "I", behind + len(tail))
            tail += body
        entries += struct.pack(order + "HHI", tag, form, count) + field
    following = number(rng) if rng.random() < 0.05 else place if rng.random() < 0.05 else 0
    start = sound[:4] + struct.pack(order + "I", place) + sound[8:].ljust(place - 8, b"\0")
    directory = struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", following)
    return start + directory + tail


def riff(rng: random.Random, sound: bytes) -> bytes:
    """Chunks of a WebP, the flags and sizes of its VP8X among them."""
    found: list[Part] = []
    position = 12
    while position + 8 <= len(sound):
        name, length = (
            sound[position : position + 4],
            int.from_bytes(sound[position + 4 : position + 8], "little"),
        )
        found.append((name, sound[position + 8 : position + 8 + length]))
        position += 8 + length + length % 2
    others = [
        (b"VP8X", bytes([rng.randrange(256), 0, 0, 0]) + number(rng, 3).to_bytes(3, "little") * 2),
        (b"EXIF", content(rng, EXIF)),
        (b"ICCP", bytes(number(rng, 1))),
        (b"ANIM", bytes(6)),
        (b"ALPH", bytes(9)),
    ]
    body = b"".join(
        name + len(data).to_bytes(4, "little") + data + bytes(len(data) % 2)
        for name, data in parts(rng, found, others)
    )
    return b"RIFF" + (4 + len(body)).to_bytes(4, "little") + b"WEBP" + body


def gif(rng: random.Random, sound: bytes) -> bytes:
    """Blocks of a GIF: frames, controls, loops, comments."""
    table = 13 + (3 << ((sound[10] & 7) + 1) if sound[10] & 128 else 0)
    start, found, position = sound[:table], list[Part](), table
    while position < len(sound) and sound[position] in (0x21, 0x2C):
        begin = position
        if sound[position] == 0x2C:
            packed = sound[position + 9]
            position += 10 + (3 << ((packed & 7) + 1) if packed & 128 else 0) + 1
        else:
            position += 2
        while position < len(sound) and sound[position]:
            position += 1 + sound[position]
        position += 1
        found.append((sound[begin : begin + 1], sound[begin + 1 : position]))
    others = [(b"\x21", b"\xfe\x03abc\x00"), (b"\x21", b"\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")]
    if rng.random() < 0.3:
        start = content(rng, start[6:]).join((start[:6], b""))
    return start + b"".join(name + body for name, body in parts(rng, found, others)) + b";"


_INSIDE = (b"meta", b"iprp", b"ipco", b"moov", b"iinf")


def boxes(rng: random.Random, sound: bytes) -> bytes:
    """Boxes of AVIF, HEIC and JPEG XL, at one level or in the one below."""
    found = list(_boxes(sound))
    inner = [i for i, (name, _) in enumerate(found) if name in _INSIDE]
    if inner and rng.random() < 0.7:
        at = rng.choice(inner)
        name, body = found[at]
        skip = 4 if name == b"meta" else 6 if name == b"iinf" else 0
        below = list(_boxes(body[skip:]))
        found[at] = (name, body[:skip] + _joined(parts(rng, below, [])))
    else:
        found = parts(rng, found, [(b"free", bytes(9)), (b"Exif", bytes(4) + EXIF)])
    return _joined(found)


def _boxes(data: bytes) -> Iterator[Part]:
    position = 0
    while position + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        length = len(data) - position if length < 8 else length
        yield name, data[position + 8 : position + length]
        position += length


def _joined(found: list[Part]) -> bytes:
    return b"".join(struct.pack(">I", 8 + len(body)) + name + body for name, body in found)


def words(rng: random.Random, sound: bytes) -> bytes:
    """PPM: the words of its header, and what follows."""
    head, body = sound.split(b"\n", 3)[:3], sound.split(b"\n", 3)[3]
    tokens = b" ".join(head).split()
    at = rng.randrange(len(tokens))
    tokens[at] = rng.choice((b"P%d" % rng.randrange(1, 8), b"%d" % number(rng), b"#", b"-1", b""))
    return b"\n".join(tokens) + rng.choice((b"\n", b" ", b"")) + content(rng, body)


def fields(rng: random.Random, sound: bytes) -> bytes:
    """BMP: its numbers."""
    data = bytearray(sound)
    for _ in range(rng.randint(1, 3)):
        at = rng.choice((2, 10, 14, 18, 22, 26, 28, 30, 34, 38, 46, 50))
        data[at : at + 4] = struct.pack("<I", number(rng))
    return bytes(data)


_CHANGERS: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "png": png,
    "jpeg": jpeg,
    "tiff": tiff,
    "webp": riff,
    "gif": gif,
    "avif": boxes,
    "heif": boxes,
    "jxl": content,
    "ppm": words,
    "bmp": fields,
}


def generators() -> dict[str, Generator]:
    """A generator for each format of which there are seeds here."""
    made: dict[str, Generator] = {}
    for name, sound in images().items():
        made[name] = partial(_one, _CHANGERS[name], sound)
    return made


def _one(
    changer: Callable[[random.Random, bytes], bytes], sound: list[bytes], rng: random.Random
) -> bytes:
    seed = rng.choice(sound)
    return perhaps_raw(rng, partial(changer, rng, seed))
