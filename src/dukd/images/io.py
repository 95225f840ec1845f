"""Images from files and back: bits, transparency, color profiles and orientation survive.

Eight formats are read, whatever the file is called; nothing else is tried. The size is checked in
the header before anything is decoded. 16-bit PNG is decoded here, since Pillow silently gives 8
bits for color. Damaged files are refused, never filled up with gray. Every failure is an
``ImageError`` that names the file.
"""

import io
import re
import struct
import zlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageCms, ImageFile, PngImagePlugin

from dukd.core.files import replacing
from dukd.images import png16
from dukd.images.convert import Pixels
from dukd.images.png16 import RefusedError

MAX_PIXELS = 100_000_000
"""Largest image that is read unless the caller allows more; its header alone is looked at
before."""

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
_ORIENTATION = 0x0112  # EXIF and TIFF tag
_EXIF = b"Exif\0\0"  # what an EXIF block begins with
_SWAPPED = (5, 6, 7, 8)  # orientations that exchange height and width
_DEEP_PPM = re.compile(rb"P[36]\s(?:\s|#[^\n]*\n)*(?:\d+(?:\s|#[^\n]*\n)+){2}(\d+)\s")
_TAIL = 1 << 16


@dataclass(frozen=True)
class _Writer:
    """What a format can hold."""

    format: str
    alpha: bool = True
    deep: bool = False
    metadata: bool = True


_WRITERS = {
    ".png": _Writer("PNG", deep=True),
    ".jpg": _Writer("JPEG", alpha=False),
    ".jpeg": _Writer("JPEG", alpha=False),
    ".webp": _Writer("WEBP"),
    ".tif": _Writer("TIFF"),
    ".tiff": _Writer("TIFF"),
    ".bmp": _Writer("BMP", alpha=False, metadata=False),
    ".ppm": _Writer("PPM", alpha=False, metadata=False),
}

EXTENSIONS = (*_WRITERS, ".pgm", ".pbm", ".pnm", ".gif")
"""Suffixes, in lower case, of files that ``read`` can open."""


class ImageError(ValueError):
    """An image cannot be read or written; the message names the file and the reason."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Image:
    """A decoded image and what came with it."""

    pixels: Pixels
    """``(h, w, 3)`` RGB or ``(h, w, 1)`` gray, 8 or 16 bits, not multiplied by alpha."""
    alpha: Pixels | None = None
    """Opacity, ``(h, w)``, of the same depth as the pixels; None if everything is opaque."""
    icc: bytes | None = None
    """ICC color profile; None means sRGB."""
    exif: bytes | None = None
    """EXIF block with the orientation reset, since it has been applied. That of TIFF files is not
    kept."""
    mode: str = "RGB"
    """Pillow's name for what the file held, such as ``P`` or ``CMYK``."""

    def __post_init__(self) -> None:
        """Refuse shapes and types that no file could hold."""
        pixels, alpha = self.pixels, self.alpha
        if (
            pixels.ndim != 3
            or pixels.shape[2] not in (1, 3)
            or pixels.dtype.name not in ("uint8", "uint16")
        ):
            raise ValueError(
                f"pixels are (h, w, 1 or 3) of 8 or 16 bits, but got {pixels.shape} of "
                f"{pixels.dtype}"
            )
        if not pixels.size:
            raise ValueError(f"an image has at least one pixel, but got {pixels.shape}")
        if alpha is not None and (alpha.shape != pixels.shape[:2] or alpha.dtype != pixels.dtype):
            raise ValueError(
                f"alpha is {alpha.shape} of {alpha.dtype}, but pixels {pixels.shape} of "
                f"{pixels.dtype}"
            )

    @property
    def bits(self) -> int:
        """Depth: 8 or 16."""
        return 8 * self.pixels.dtype.itemsize

    @property
    def gray(self) -> bool:
        """Whether there is one channel instead of three."""
        return self.pixels.shape[2] == 1


@dataclass(frozen=True)
class Header:
    """What a file says about its image, before anything is decoded."""

    width: int
    """In pixels, as displayed: after the orientation is applied."""
    height: int
    """In pixels, as displayed."""
    mode: str
    """Pillow's name for the kind of image, such as ``RGB``, ``L`` or ``P``."""
    bits: int
    """Depth of a channel, 8 or 16, as ``read`` would give it."""


def header(path: Path, *, max_pixels: int = MAX_PIXELS) -> Header:
    """Look at an image's header: thousands of files per second.

    Args:
        path: The file.
        max_pixels: Largest number of pixels to accept.

    Raises:
        ImageError: If the file cannot be read, is no image or is too large.
    """
    with _opened(path, max_pixels) as (image, file):
        width, height = image.size
        if (
            image.format != "TIFF" and _orientation(image, file, whole=False) in _SWAPPED
        ):  # Pillow has swapped TIFF's already
            width, height = height, width
        return Header(
            width, height, image.mode, 16 if _png_depth(image, file) == 16 else _depth(image)
        )


def read(path: Path, *, max_pixels: int = MAX_PIXELS) -> Image:
    """Read an image at its own depth, upright, with its transparency and color profile.

    Palettes are expanded, 1-bit images become 8-bit gray, CMYK is converted to sRGB by its own
    profile.

    Args:
        path: The file; its content decides about the format, not its name.
        max_pixels: Largest number of pixels to accept, decided by the header.

    Raises:
        ImageError: If the file cannot be read, is damaged, too large, moving, of several pages, or
            holds something that could only be converted by guessing (CMYK without a profile,
            floats, 16-bit color other than PNG).
    """
    with _opened(path, max_pixels) as (image, file):
        frames = (
            1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        )  # MPO: a photograph and its previews
        if frames != 1:
            raise RefusedError(f"holds {frames} images; split it into files of one image each")
        orientation = _orientation(image, file)
        if _png_depth(image, file) == 16:
            mode = image.mode if image.mode.startswith("I;16") else f"{image.mode};16"
            pixels, alpha = png16.decode(file)
            icc = image.info.get("icc_profile")
        else:
            _refuse_lost_depth(image, file)
            image.load()
            mode, icc = image.mode, image.info.get("icc_profile")
            pixels, alpha = _decoded(image)
            if mode == "CMYK":
                icc = None  # what it described is now sRGB
        exif = _upright_exif(image, orientation)
        if image.format == "TIFF":
            orientation = 1  # Pillow turns these itself
        return Image(
            pixels=_turned(pixels, orientation),
            alpha=None if alpha is None else _turned(alpha, orientation),
            icc=icc or None,
            exif=exif,
            mode=mode,
        )


def read_rgb8(path: Path, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Read as 8-bit RGB, ``(h, w, 3)``: gray is repeated, 16 bits are rounded, alpha is left out.

    Raises:
        ImageError: As ``read``.
    """
    pixels = read(path, max_pixels=max_pixels).pixels
    if pixels.dtype == np.uint16:
        pixels = (pixels.astype(np.uint32) + 128) // 257
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), dtype=np.uint8)


def write(
    path: Path, image: Image, *, quality: int = 95, text: Mapping[str, str] | None = None
) -> None:
    """Write an image in the format that the suffix names; the file appears whole or not at all.

    Args:
        path: ``.png .jpg .jpeg .webp .tif .tiff .bmp .ppm``, in upper or lower case.
        image: Pixels, transparency, profile and EXIF; BMP and PPM hold pixels only.
        quality: Of JPEG and WebP, 1 to 100, without effect elsewhere. JPEG keeps full color
            resolution from 90 on; WebP is lossless at 100, and has no gray: it is repeated, and its
            profile left out.
        text: Keywords and notes for the text chunks of PNG, without effect elsewhere.

    Raises:
        ImageError: If the format cannot hold the image's depth or transparency, or the file cannot
            be written.
    """
    path = Path(path)
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise ImageError(
            f"{path}: images are written as {' '.join(_WRITERS)}, not as "
            f"{path.suffix or 'no suffix'!r}"
        )
    if image.alpha is not None and not writer.alpha:
        raise ImageError(
            f"{path}: {writer.format} does not hold transparency; write PNG, WebP or TIFF"
        )
    if image.bits == 16 and not writer.deep:
        raise ImageError(
            f"{path}: {writer.format} is written with 8 bits, but the image has 16; write PNG"
        )
    if not 1 <= quality <= 100:
        raise ImageError(f"{path}: the quality lies between 1 and 100, but got {quality}")
    try:
        with replacing(path) as file:
            if image.bits == 16:
                exif = None if image.exif is None else image.exif.removeprefix(_EXIF)
                png16.encode(file, _planes(image), icc=image.icc, exif=exif, text=text or {})
            else:
                _save(file, image, writer, quality, text or {})
    except (OSError, ValueError, struct.error, zlib.error) as error:
        raise ImageError(f"{path}: cannot be written ({_reason(error)})") from error


def can_hold(suffix: str, *, bits: int, alpha: bool) -> bool:
    """Whether ``write`` can put an image of such depth and transparency into such a file."""
    writer = _WRITERS.get(suffix.lower())
    return writer is not None and (writer.alpha or not alpha) and (writer.deep or bits == 8)


@contextmanager
def _opened(
    path: Path, max_pixels: int
) -> Generator[tuple[ImageFile.ImageFile, IO[bytes]], None, None]:
    """Open an image, its header checked; whatever goes wrong inside becomes an ``ImageError``."""
    try:
        with Path(path).open("rb") as file, _identify(file, str(path)) as image:
            _refuse_large(image, max_pixels)
            yield image, file
    except MemoryError:
        raise
    except RefusedError as error:
        raise ImageError(f"{path}: {error}") from None
    except FileNotFoundError as error:
        raise ImageError(f"{path}: there is no such file") from error
    except Exception as error:  # Pillow's decoders raise nearly everything
        raise ImageError(
            f"{path}: cannot be read; it is damaged or no image ({_reason(error)})"
        ) from error


def _identify(file: IO[bytes], name: str) -> ImageFile.ImageFile:
    # Not PillowImage.open: its limit on sizes is one for the whole process, and below twice its
    # value it only warns.
    PillowImage.init()
    prefix = file.read(16)
    for kind in _FORMATS:
        factory, accept = PillowImage.OPEN[kind]
        if accept is None or accept(prefix) is True:
            file.seek(0)
            return factory(file, name)
    raise RefusedError(f"is none of {', '.join(_FORMATS)}")


def _refuse_large(image: ImageFile.ImageFile, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        limit = f"{max_pixels / 1e6:g} megapixels"
        raise RefusedError(
            f"{width} x {height} pixels are more than {limit}: cut or shrink it (dukd upscale "
            "also takes --max-pixels)"
        )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _depth(image: ImageFile.ImageFile) -> int:
    return 16 if image.mode.startswith("I") else 8


def _png_depth(image: ImageFile.ImageFile, file: IO[bytes]) -> int:
    """Bits of a PNG's channel; 0 for other formats."""
    if image.format != "PNG":
        return 0
    file.seek(24)  # signature 8, length and name of IHDR 8, width and height 8
    return file.read(1)[0]


def _orientation(image: ImageFile.ImageFile, file: IO[bytes], *, whole: bool = True) -> int:
    """EXIF orientation, 1 to 8; pixels are not decoded for it, nor even read unless ``whole``."""
    if image.format == "PNG" and not image.info.keys() & {"exif", "Raw profile type exif"}:
        # Pillow would decode the whole image in search of a chunk behind it.
        position = file.tell()
        exif = (
            next((data for name, data in png16.chunks(file) if name == b"eXIf"), None)
            if whole
            else _late_exif(file)
        )
        file.seek(position)
        if exif is None:
            return 1
        image.info["exif"] = exif
    value = image.getexif().get(_ORIENTATION, 1)
    return value if value in range(1, 9) else 1


def _late_exif(file: IO[bytes]) -> bytes | None:
    """The chunk eXIf in the last 64 KiB of a PNG; Pillow sees only one before the pixels."""
    file.seek(max(0, file.seek(0, io.SEEK_END) - _TAIL))
    tail = file.read()
    place = tail.rfind(b"eXIf")
    if place < 4:
        return None
    end = place + 4 + int.from_bytes(tail[place - 4 : place])
    # Pixels may hold the same four letters by chance; the checksum tells.
    intact = zlib.crc32(tail[place:end]) == int.from_bytes(tail[end : end + 4])
    return tail[place + 4 : end] if intact else None


def _turned(a: Pixels, orientation: int) -> Pixels:
    """Undo how the camera was held, for ``(h, w)`` or ``(h, w, c)``."""
    turns = {1: (0, 0), 2: (0, 1), 3: (2, 0), 4: (2, 1), 5: (3, 1), 6: (3, 0), 7: (1, 1), 8: (1, 0)}
    quarters, mirrored = turns[orientation]
    turned = np.rot90(a, quarters)
    return np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)


def _upright_exif(image: ImageFile.ImageFile, orientation: int) -> bytes | None:
    block = image.info.get("exif")
    if not isinstance(block, bytes) or not block or image.format == "TIFF":
        return None
    if orientation == 1:
        return (
            block if block.startswith(_EXIF) else _EXIF + block
        )  # PNG and WebP leave it out, JPEG needs it
    exif = image.getexif()
    exif[_ORIENTATION] = 1
    return exif.tobytes()


def _decoded(image: ImageFile.ImageFile) -> tuple[Pixels, Pixels | None]:
    """Pixels and alpha of a loaded image, whatever its mode."""
    mode, transparent = image.mode, image.has_transparency_data
    if mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[..., None], None
    if mode == "I" and image.format == "PPM":
        return np.asarray(image).astype(np.uint16)[..., None], None
    if mode in ("1", "L", "LA", "La"):
        target = "LA" if transparent else "L"
    elif mode in ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"):
        target = "RGBA" if transparent else "RGB"
    elif mode == "CMYK":
        return np.asarray(_cmyk_to_srgb(image)), None
    else:
        raise RefusedError(
            f"holds {mode}, which has no certain meaning as RGB; convert it to RGB or gray first"
        )
    levels = np.asarray(image if mode == target else image.convert(target))
    if not transparent:
        return levels.reshape(*levels.shape[:2], -1), None
    return levels[..., :-1], levels[..., -1]


def _refuse_lost_depth(image: ImageFile.ImageFile, file: IO[bytes]) -> None:
    """Refuse files of which Pillow would drop bits without a word."""
    if image.format == "TIFF":
        tags = cast("Mapping[int, tuple[int, ...]]", getattr(image, "tag_v2", {}))
        bits = tags.get(258, (8,))  # BitsPerSample
        if max(bits) > 8 and not image.mode.startswith("I;16"):
            raise RefusedError(
                f"is a TIFF of {max(bits)} bits in {image.mode}; save it as a 16-bit PNG"
            )
    if image.format == "PPM":
        position = file.tell()
        file.seek(0)
        found = _DEEP_PPM.match(file.read(4096))
        file.seek(position)
        if found and int(found[1]) > 255:
            raise RefusedError("is a PPM of 16 bits in RGB; save it as a 16-bit PNG")


def _cmyk_to_srgb(image: PillowImage.Image) -> PillowImage.Image:
    profile = image.info.get("icc_profile")
    if not profile:
        raise RefusedError("is CMYK without a color profile; convert it to RGB first")
    converted = ImageCms.profileToProfile(
        image,
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        outputMode="RGB",
    )
    assert converted is not None
    return converted


def _planes(image: Image) -> Pixels:
    """Pixels and alpha, if there is one, as channels: ``(h, w, c)``."""
    return image.pixels if image.alpha is None else np.dstack([image.pixels, image.alpha])


def _save(
    file: IO[bytes], image: Image, writer: _Writer, quality: int, text: Mapping[str, str]
) -> None:
    planes = _planes(image)
    made = PillowImage.fromarray(
        np.ascontiguousarray(planes[..., 0] if planes.shape[-1] == 1 else planes)
    )
    options: dict[str, object] = {}
    if writer.metadata:
        options |= {
            name: block
            for name, block in (("icc_profile", image.icc), ("exif", image.exif))
            if block
        }
    if writer.format == "PNG":
        notes = PngImagePlugin.PngInfo()
        for keyword, value in text.items():
            notes.add_itxt(keyword, value)
        options["pnginfo"] = notes
    elif writer.format == "JPEG":
        options |= {"quality": quality, ("subsampling"): 0 if quality >= 90 else 2}
    elif writer.format == "WEBP":
        options |= {"quality": quality, "lossless": quality == 100, "exact": True}
        if image.gray:  # stored as RGB, for which a profile of gray means nothing
            options.pop("icc_profile", None)
    elif writer.format == "TIFF":
        options["compression"] = "tiff_deflate"
    made.save(file, format=writer.format, **options)
