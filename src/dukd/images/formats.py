"""Which formats are read and written, and what each of them can hold."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Format:
    """A kind of image file."""

    name: str
    """As Pillow calls it."""
    suffixes: tuple[str, ...]
    """In lower case; the first is the usual one."""
    writes: bool = True
    """Whether ``write`` makes it."""
    alpha: bool = True
    """Whether it holds transparency."""
    deep: bool = False
    """Whether it is written with 16 bits."""
    metadata: bool = True
    """Whether it holds profiles and EXIF."""
    gray: bool = True
    """Whether it holds one channel and its profile; otherwise gray is repeated."""
    frames: bool = False
    """Whether ``write_frames`` makes it."""
    side: int = 2**31 - 1
    """Largest width and height that are written, in pixels."""
    area: int = 2**62
    """Most pixels that are written."""
    package: str = ""
    """Module of a package without which it is neither read nor written."""
    extra: str = ""
    """What installs that package: ``pip install 'dukd[extra]'``."""

    @property
    def here(self) -> bool:
        """Whether what it needs is installed."""
        return not self.package or find_spec(self.package) is not None


FORMATS = (
    Format(name="PNG", suffixes=(".png", ".apng"), deep=True, frames=True),
    Format(name="JPEG", suffixes=(".jpg", ".jpeg", ".jfif", ".jpe"), alpha=False, side=65_500),
    Format(name="WEBP", suffixes=(".webp",), gray=False, frames=True, side=16_383),
    Format(name="TIFF", suffixes=(".tif", ".tiff"), frames=True),
    Format(name="BMP", suffixes=(".bmp",), alpha=False, metadata=False, area=2**32 // 3 - 2**20),
    Format(name="PPM", suffixes=(".ppm", ".pgm", ".pbm", ".pnm"), alpha=False, metadata=False),
    Format(name="GIF", suffixes=(".gif",), writes=False, metadata=False),
    Format(name="AVIF", suffixes=(".avif",), gray=False, side=32_768, area=2**28),
    Format(
        name="HEIF",
        suffixes=(".heic", ".heif"),
        writes=False,
        package="pillow_heif",
        extra="heic",
    ),
    Format(name="JXL", suffixes=(".jxl",), writes=False, package="pillow_jxl", extra="jxl"),
)
"""All formats, in the order in which a file's first bytes are compared."""

BY_SUFFIX: Mapping[str, Format] = {s: kind for kind in FORMATS for s in kind.suffixes}
"""Formats by suffix."""

EXTENSIONS = tuple(s for s, kind in BY_SUFFIX.items() if kind.here)
"""Suffixes, in lower case, of files that ``read`` can open here."""

WRITTEN = tuple(
    s
    for s, kind in BY_SUFFIX.items()
    if kind.writes and kind.here and s not in (".apng", ".pgm", ".pbm", ".pnm")
)
"""Suffixes that ``write`` takes."""

_NAMES = {
    ".jp2": "JPEG 2000",
    ".j2k": "JPEG 2000",
    ".jpx": "JPEG 2000",
    ".ico": "ICO",
    ".tga": "TGA",
    ".psd": "Photoshop",
    ".svg": "SVG",
    ".pdf": "PDF",
    ".exr": "OpenEXR",
    ".dds": "DDS",
    ".qoi": "QOI",
    ".dng": "raw photograph",
    ".cr2": "raw photograph",
    ".nef": "raw photograph",
    ".arw": "raw photograph",
    ".mp4": "video",
    ".mov": "video",
    ".mkv": "video",
}


def kind_of(path: Path) -> str:
    """What a file seems to be, by its suffix, in the words of a list of what was passed over."""
    suffix = path.suffix.lower()
    if (known := BY_SUFFIX.get(suffix)) is not None:
        needed = "" if known.here else f" (pip install 'dukd[{known.extra}]')"
        return {"HEIF": "HEIC", "JXL": "JPEG XL"}.get(known.name, known.name) + needed
    return _NAMES.get(suffix) or suffix or "without an extension"


def can_hold(suffix: str, *, bits: int, alpha: bool) -> bool:
    """Whether ``write`` can put an image of such depth and transparency into such a file."""
    return (
        suffix.lower() in WRITTEN
        and (BY_SUFFIX[suffix.lower()].alpha or not alpha)
        and (BY_SUFFIX[suffix.lower()].deep or bits == 8)
    )


def fits(suffix: str, width: int, height: int) -> bool:
    """Whether a file of such a suffix can hold an image of this size, in pixels.

    WebP ends at 16,383 pixels a side, JPEG at 65,500 (libjpeg's limit, 35 below the format's), AVIF
    at 32,768 and 268 megapixels. TIFF above 4 GB becomes BigTIFF.
    """
    kind = BY_SUFFIX.get(suffix.lower())
    if kind is None or suffix.lower() not in WRITTEN:
        return False
    return max(width, height) <= kind.side and width * height <= kind.area
