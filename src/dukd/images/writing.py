"""Images to files: whole or not at all, with all that came with them, or refused."""

import io
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, cast

import numpy as np
from PIL import Image as PillowImage

from dukd.core.files import replacing
from dukd.images import metadata, png, png16
from dukd.images.convert import Pixels
from dukd.images.formats import BY_SUFFIX, WRITTEN, Format, fits
from dukd.images.image import Image, ImageError
from dukd.images.io import reason

_BIG_TIFF = 4_000_000_000  # bytes of pixels from which a TIFF's own 32-bit offsets may not suffice
_JPEG_BLOCK = 65_533
_NO_EXIF = "its EXIF could not be written and was left out"


def write(
    path: Path, image: Image, *, quality: int | None = None, text: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Write an image in the format that the suffix names; the file appears whole or not at all.

    Args:
        path: One of ``WRITTEN`` as its suffix, in upper or lower case.
        image: Pixels, transparency, profile, EXIF and resolution; BMP and PPM hold pixels only.
            Sizes in EXIF become those of the pixels.
        quality: Of JPEG, WebP and AVIF, 1 to 100, without effect elsewhere; 95 if left out, but
            lossless for an image that comes from a lossless WebP. JPEG and AVIF keep full color
            resolution from 90 on; WebP is lossless at 100, and has no gray: it is repeated, and its
            profile left out.
        text: Keywords and notes for the text chunks of PNG, without effect elsewhere.

    Returns:
        What the format could not hold beside the pixels, a phrase each; usually nothing.

    Raises:
        ImageError: If the format cannot hold the image's size, depth, transparency or meaning of
            color, or the file cannot be written.
    """
    path = Path(path)
    kind = checked(path, image, quality)
    try:
        with replacing(path) as file:
            if kind.name == "PNG":
                return _save_png(file, image, text or {})
            return _save(file, image, kind, quality_of(image, kind, quality))
    except (OSError, ValueError, struct.error, zlib.error) as error:
        raise ImageError(f"{path}: cannot be written ({reason(error)})") from error


def quality_of(image: Image, kind: Format, quality: int | None) -> int:
    """The quality with which an image is written, where none need have been named."""
    if quality is not None:
        return quality
    return 100 if kind.name == "WEBP" and image.lossless else 95


def checked(path: Path, image: Image, quality: int | None) -> Format:
    """The format that a path names, if it can hold the image.

    Raises:
        ImageError: If it cannot.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITTEN:
        raise ImageError(
            f"{path}: images are written as {' '.join(WRITTEN)}, not as "
            f"{path.suffix or 'no suffix'!r}"
        )
    kind = BY_SUFFIX[suffix]
    height, width = image.pixels.shape[:2]
    if image.alpha is not None and not kind.alpha:
        raise ImageError(f"{path}: {kind.name} does not hold transparency; write PNG, WebP or TIFF")
    if image.bits == 16 and not kind.deep:
        raise ImageError(
            f"{path}: {kind.name} is written with 8 bits, but the image has 16; write PNG"
        )
    if not fits(suffix, width, height):
        raise ImageError(
            f"{path}: {kind.name} does not hold {width} x {height} pixels, at most "
            f"{kind.side} a side; write PNG"
        )
    if kind.name != "PNG" and (meaning := metadata.beyond_srgb(image.chunks, image.icc)):
        raise ImageError(
            f"{path}: the image's colors are not sRGB ({meaning}), which only PNG can say; write "
            "PNG"
        )
    if quality is not None and not 1 <= quality <= 100:
        raise ImageError(f"{path}: the quality lies between 1 and 100, but got {quality}")
    return kind


def pillow(image: Image) -> PillowImage.Image:
    """An image of 8 bits as Pillow has it, with its alpha."""
    planes = _planes(image)
    return PillowImage.fromarray(
        np.ascontiguousarray(planes[..., 0] if planes.shape[-1] == 1 else planes)
    )


def _planes(image: Image) -> Pixels:
    """Pixels and alpha, if there is one, as channels: ``(h, w, c)``."""
    return image.pixels if image.alpha is None else np.dstack([image.pixels, image.alpha])


def _save_png(file: IO[bytes], image: Image, text: Mapping[str, str]) -> tuple[str, ...]:
    height, width = image.pixels.shape[:2]
    exif = metadata.exif_for(image.exif, width, height)
    notes = (_NO_EXIF,) if image.exif and exif is None else ()
    front = png.front(
        icc=image.icc,
        exif=None if exif is None else exif.removeprefix(metadata.EXIF),
        dpi=image.dpi,
        color=[c for c in image.chunks if not (c[0] == b"pHYs" and image.dpi)],
        text=text,
    )
    if image.bits == 16:
        png16.encode(file, _planes(image), front=front)
        return notes
    pillow(image).save(cast("IO[bytes]", _Fronted(file, front)), format="PNG")
    return notes


class _Fronted:
    """A file that gets chunks behind a PNG's header, while Pillow writes the rest to it."""

    def __init__(self, file: IO[bytes], front: bytes) -> None:
        self.file, self.front = file, front
        self.left = png.HEADER

    def write(self, content: bytes) -> int:
        """Write what Pillow has ready."""
        before, after = content[: self.left], content[self.left :]
        self.file.write(before)
        self.left -= len(before)
        if not self.left:
            self.file.write(self.front + after)
            self.front = b""
        return len(content)


def _save(file: IO[bytes], image: Image, kind: Format, quality: int) -> tuple[str, ...]:
    made = pillow(image)
    exif = metadata.exif_for(image.exif, *made.size) if kind.metadata else None
    notes = _lost(image, kind, exif)
    options: dict[str, object] = {}
    if image.icc and kind.metadata and (kind.gray or not image.gray):
        options["icc_profile"] = image.icc  # that of gray means nothing for RGB
    if image.dpi is not None and kind.name in ("JPEG", "TIFF", "BMP"):
        options["dpi"] = image.dpi
    elif image.dpi is not None and kind.metadata:
        exif = metadata.with_resolution(exif, image.dpi)
    match kind.name:
        case "JPEG":
            options |= {"quality": quality, ("subsampling"): 0 if quality >= 90 else 2}
            exif, left = metadata.within(exif, _JPEG_BLOCK)
            notes += [f"JPEG holds 64 KB of EXIF: left out {left}"] if left else []
        case "WEBP":
            options |= {"quality": quality, "lossless": quality == 100, "exact": True}
        case "AVIF":
            options |= {"quality": quality, "subsampling": "4:4:4" if quality >= 90 else "4:2:0"}
            if image.gray:
                made = made.convert("RGBA" if image.alpha is not None else "RGB")
        case "TIFF":
            exif = metadata.for_tiff(exif)
            large = made.width * made.height * len(made.getbands()) > _BIG_TIFF
            # libtiff, which compresses, drops the inner directories of EXIF and knows no BigTIFF.
            plain = large or metadata.has_directories(exif)
            options |= {"big_tiff": large} if plain else {"compression": "tiff_deflate"}
        case _:
            pass
    if exif is not None:
        options["exif"] = exif
    return (*notes, *_saved(file, made, kind, options))


def _lost(image: Image, kind: Format, exif: bytes | None) -> list[str]:
    """What a format does not hold of what came with an image, a phrase each."""
    notes: list[str] = []
    if image.exif and exif is None:
        notes.append(_NO_EXIF if kind.metadata else f"{kind.name} holds no EXIF: left out")
    if image.icc and not (kind.metadata and (kind.gray or not image.gray)):
        what = "profile of gray" if kind.metadata else "color profile"
        notes.append(f"{kind.name} holds no {what}: left out")
    if image.dpi is not None and not kind.metadata and kind.name != "BMP":
        notes.append(f"{kind.name} holds no resolution: left out")
    return notes


def _saved(
    file: IO[bytes], made: PillowImage.Image, kind: Format, options: dict[str, object]
) -> tuple[str, ...]:
    """Save; where the EXIF is at fault, without it, which is noted."""
    if "compression" in options:  # by libtiff, which would print what goes wrong in a real file
        memory = io.BytesIO()
        notes = _into(memory, made, kind, options)
        file.write(memory.getbuffer())
        return notes
    return _into(file, made, kind, options)


def _into(
    file: IO[bytes], made: PillowImage.Image, kind: Format, options: dict[str, object]
) -> tuple[str, ...]:
    try:
        made.save(file, format=kind.name, **options)
    except OSError:
        raise
    except Exception:
        if "exif" not in options:
            raise
        file.seek(0)
        file.truncate()
        made.save(file, format=kind.name, **{k: v for k, v in options.items() if k != "exif"})
        return (_NO_EXIF,)
    return ()
