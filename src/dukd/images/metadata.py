"""Orientation, EXIF and resolution: read with care, and written so that they fit the result.

Metadata never decides about pixels: what cannot be parsed is left out, and the image is read.
"""

import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import cast

import numpy as np
from PIL import ExifTags, ImageFile
from PIL import Image as PillowImage

from dukd.images.containers import MAX_EXIF, Facts
from dukd.images.convert import Pixels
from dukd.images.png import LENGTHS

EXIF = b"Exif\0\0"
"""What an EXIF block begins with in JPEG; PNG and WebP leave it out."""
SWAPPED = (5, 6, 7, 8)
"""Orientations that exchange height and width."""
_ORIENTATION = 0x0112
_SIZES = {0x0100: 0, 0x0101: 1, 0xA002: 0, 0xA003: 1}  # width and height, of the file and in EXIF
_EXIF_IFD, _GPS_IFD, _THUMBNAIL_IFD = 0x8769, 0x8825, 1
_RESOLUTION, _RESOLUTION_UNIT = (0x011A, 0x011B), 0x0128
# What a TIFF's first directory says of the photograph; its other tags describe the file.
_OF_PHOTOGRAPH = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)
_SRGB_GAMMA = 45455  # 1 / 2.2, times 100,000
_SRGB_PRIMARIES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)


@contextmanager
def _forgiving() -> Generator[None, None, None]:
    """Pillow's parsers of metadata raise nearly everything on damaged blocks."""
    try:
        yield
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001, S110  the pixels do not depend on it
        pass


def orientation(image: ImageFile.ImageFile, facts: Facts) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none that can be read."""
    value: object = 1
    with _forgiving():
        value = parsed(image, facts).get(_ORIENTATION, 1)
    return value if isinstance(value, int) and value in range(1, 9) else 1


def parsed(image: ImageFile.ImageFile, facts: Facts) -> PillowImage.Exif:
    """The EXIF block of an image, in pieces."""
    # Pillow would decode a whole PNG in search of a chunk behind it, and join several of a JPEG
    if image.format in ("PNG", "JPEG"):
        exif = PillowImage.Exif()
        if facts.exif:
            exif.load(facts.exif)
        return exif
    return image.getexif()


def upright_exif(image: ImageFile.ImageFile, facts: Facts) -> bytes | None:
    """The EXIF block with the orientation reset; None if there is none that can be read."""
    if image.format == "TIFF":
        return _exif_of_tiff(image)
    block = facts.exif or image.info.get("exif")
    if not isinstance(block, bytes) or not block or len(block) > MAX_EXIF:
        return None
    with _forgiving():
        exif = parsed(image, facts)
        if _ORIENTATION in exif and exif[_ORIENTATION] != 1:
            exif[_ORIENTATION] = 1
            return exif.tobytes()
        exif.tobytes()  # what cannot be written again is left out now
        return block if block.startswith(EXIF) else EXIF + block
    return None


def _exif_of_tiff(image: ImageFile.ImageFile) -> bytes | None:
    with _forgiving():
        return _of_photograph(image.getexif())
    return None


def for_tiff(block: bytes | None) -> bytes | None:
    """An EXIF block without what would say, of a TIFF, how its own pixels are stored."""
    if block:
        with _forgiving():
            exif = PillowImage.Exif()
            exif.load(block)
            return _of_photograph(exif)
    return None


def _of_photograph(theirs: PillowImage.Exif) -> bytes | None:
    ours = PillowImage.Exif()
    for tag in _OF_PHOTOGRAPH:
        if tag in theirs:
            ours[tag] = theirs[tag]
    for ifd in (_EXIF_IFD, _GPS_IFD):
        if content := theirs.get_ifd(ifd):
            ours.get_ifd(ifd).update(content)
    return ours.tobytes() if len(ours) or ours.get_ifd(_EXIF_IFD) else None


def exif_for(block: bytes | None, width: int, height: int) -> bytes | None:
    """An EXIF block for an image of this size; None where it cannot be made."""
    if not block:
        return None
    with _forgiving():
        exif = PillowImage.Exif()
        exif.load(block)
        inner = exif.get_ifd(_EXIF_IFD)
        changed = False
        for tags in (cast("dict[int, object]", exif), inner):
            for tag, which in _SIZES.items():
                if tag in tags and tags[tag] != (width, height)[which]:
                    tags[tag] = (width, height)[which]
                    changed = True
        if exif.get(_ORIENTATION, 1) != 1:
            exif[_ORIENTATION] = 1
            changed = True
        return exif.tobytes() if changed else block if block.startswith(EXIF) else EXIF + block
    return None


def within(block: bytes | None, limit: int) -> tuple[bytes | None, str]:
    """An EXIF block without its longest entries, as few as bring it to ``limit`` bytes.

    Returns:
        The block, or None where it cannot be made, and the names of what was left out.
    """
    if block is None or len(block) <= limit:
        return block, ""
    left: list[str] = []
    with _forgiving():
        exif = PillowImage.Exif()
        exif.load(block)
        inner = cast("dict[int, object]", exif.get_ifd(_EXIF_IFD))
        shorter = exif.tobytes()  # a thumbnail is not part of it
        if len(shorter) < len(block) and exif.get_ifd(_THUMBNAIL_IFD):
            left.append("thumbnail")
        while len(shorter) > limit:
            tags = [
                (_length(v), t, d)
                for d in (cast("dict[int, object]", exif), inner)
                for t, v in d.items()
            ]
            _, tag, place = max(tags, key=lambda entry: entry[:2])
            del place[tag]
            left.append(ExifTags.TAGS.get(tag, f"tag {tag}"))
            shorter = exif.tobytes()
        return shorter, ", ".join(left)
    return None, "all of it"


def _length(value: object) -> int:
    return len(cast("bytes", value)) if isinstance(value, bytes | str | tuple) else 1


def with_resolution(block: bytes | None, dpi: tuple[float, float]) -> bytes | None:
    """An EXIF block that says the resolution, for formats that have no other place for it."""
    with _forgiving():
        exif = PillowImage.Exif()
        if block:
            exif.load(block)
        if _RESOLUTION[0] not in exif:
            exif[_RESOLUTION[0]], exif[_RESOLUTION[1]] = dpi
            exif[_RESOLUTION_UNIT] = 2  # inches
            return exif.tobytes()
    return block


def has_directories(block: bytes | None) -> bool:
    """Whether an EXIF block has more than its first directory, such as exposure or place."""
    if block:
        with _forgiving():
            exif = PillowImage.Exif()
            exif.load(block)
            return bool(exif.get_ifd(_EXIF_IFD) or exif.get_ifd(_GPS_IFD))
    return False


def resolution(image: ImageFile.ImageFile, turn: int) -> tuple[float, float] | None:
    """Dots per inch, across and down, of the image as it stands upright."""
    with _forgiving():
        across, down = (float(value) for value in image.info["dpi"])
        if all(math.isfinite(value) and 1 <= value <= 1e5 for value in (across, down)):
            return (down, across) if turn in SWAPPED else (across, down)
    return None


def upright(a: Pixels, turn: int) -> Pixels:
    """Undo how the camera was held, for ``(h, w)`` or ``(h, w, c)``."""
    turns = {1: (0, 0), 2: (0, 1), 3: (2, 0), 4: (2, 1), 5: (3, 1), 6: (3, 0), 7: (1, 1), 8: (1, 0)}
    quarters, mirrored = turns[turn]
    rotated = np.rot90(a, quarters)
    return np.ascontiguousarray(rotated[:, ::-1] if mirrored else rotated)


def beyond_srgb(chunks: tuple[tuple[bytes, bytes], ...], icc: bytes | None) -> str:
    """Why levels are not sRGB by the chunks of a PNG; nothing if they are, or a profile counts."""
    parts = {name: body for name, body in chunks if len(body) == LENGTHS.get(name, len(body))}
    if b"cICP" in parts and parts[b"cICP"][:2] not in (b"\x01\x0d", b"\x02\x02"):
        return f"cICP {parts[b'cICP'][0]}, {parts[b'cICP'][1]}"
    if icc or b"sRGB" in parts:
        return ""
    gamma = int.from_bytes(parts.get(b"gAMA", _SRGB_GAMMA.to_bytes(4)))
    if abs(gamma - _SRGB_GAMMA) > 500:
        return f"gamma {gamma / 1e5:g}"
    primaries = parts.get(b"cHRM", b"")
    found = [int.from_bytes(primaries[i : i + 4]) for i in range(0, len(primaries), 4)]
    if found and any(abs(a - b) > 500 for a, b in zip(found, _SRGB_PRIMARIES, strict=False)):
        return "chromaticities"
    return ""
