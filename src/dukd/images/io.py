"""Images from files: bits, transparency, color, resolution and orientation survive.

The content of a file decides about its format, not its name; formats outside the list of
``formats.py`` are not tried. Size and structure are checked before anything is decoded. Color of 16
bits is put together here, since Pillow silently gives 8. Damaged pixels are refused, never filled
up with gray; damaged metadata is left out. Every failure is an ``ImageError`` that names the file.
"""

import importlib
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageFile

from dukd.core.files import is_endless
from dukd.images import containers, decode, metadata
from dukd.images.containers import Facts
from dukd.images.formats import FORMATS, Format
from dukd.images.image import Header, Image, ImageError, RefusedError

MAX_PIXELS = 100_000_000
"""Largest image that is read unless the caller allows more; only its header is read before."""


def header(path: Path, *, max_pixels: int = MAX_PIXELS) -> Header:
    """Look at an image's header: thousands of files per second.

    Args:
        path: The file.
        max_pixels: Largest number of pixels to accept.

    Raises:
        ImageError: If the file cannot be read, is not an image or is too large.
    """
    with opened(path, max_pixels, whole=False) as (image, _, facts):
        width, height = image.size
        # Pillow has swapped TIFF's already.
        if image.format != "TIFF" and metadata.orientation(image, facts) in metadata.SWAPPED:
            width, height = height, width
        frames = frame_count(image, facts)
        for size in facts.sizes:
            _refuse_large(size, max_pixels)
        return Header(
            width,
            height,
            image.mode,
            decode.depth(image, facts),
            alpha=decode.transparent(image) or facts.gray_key is not None,
            frames=frames,
            problem=_many(frames) or decode.refusal(image, facts),
            note=_assumed(image),
            sizes=facts.sizes,
            beyond=metadata.beyond_srgb(facts.chunks, facts.icc),
        )


def read(path: Path, *, max_pixels: int = MAX_PIXELS) -> Image:
    """Read an image at its own depth, upright, with its transparency, profile and resolution.

    Palettes are expanded, 1-bit images become 8-bit gray, CMYK is converted to sRGB by its own
    profile, or as plain inks where it has none, which a note says.

    Args:
        path: The file; its content decides about the format, not its name.
        max_pixels: Largest number of pixels to accept, decided by the header.

    Raises:
        ImageError: If the file cannot be read, is damaged, too large, of several frames or pages
            (see ``frames``), made to take long, or holds something that could only be converted by
            guessing (floats, colors that no profile describes).
    """
    with opened(path, max_pixels) as (image, file, facts):
        if reason := _many(frame_count(image, facts)):
            raise RefusedError(reason)
        return finished(image, file, facts)


def read_rgb8(path: Path, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Read as 8-bit RGB, ``(h, w, 3)``: gray is repeated, 16 bits are rounded, alpha is left out.

    What is assumed, the note of ``header`` says.

    Raises:
        ImageError: As ``read``.
    """
    return as_rgb8(read(path, max_pixels=max_pixels))


def as_rgb8(image: Image) -> NDArray[np.uint8]:
    """The pixels of an image as ``read_rgb8`` gives them."""
    pixels = image.pixels
    if pixels.dtype == np.uint16:
        pixels = (pixels.astype(np.uint32) + 128) // 257
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), dtype=np.uint8)


def finished(image: ImageFile.ImageFile, file: IO[bytes], facts: Facts) -> Image:
    """Decode the frame at which an opened image stands, upright and with what came with it.

    Raises:
        RefusedError: If it holds something that could only be converted by guessing.
    """
    turn = metadata.orientation(image, facts)
    mode = image.mode
    if decode.depth(image, facts) == 16 and not mode.startswith("I"):
        mode = f"{mode};16"
    notes = [*facts.notes, *filter(None, [_assumed(image)])]
    exif = metadata.upright_exif(image, facts)
    if exif is None and (facts.exif or image.info.get("exif")):
        notes.append("its EXIF is damaged and was left out")
    pixels, alpha = decode.decode(image, file, facts)
    if image.format == "TIFF":
        turn = 1  # Pillow turns these itself
    icc = None if mode == "CMYK" else facts.icc or image.info.get("icc_profile")
    made = Image(
        pixels=metadata.upright(pixels, turn),
        alpha=None if alpha is None else metadata.upright(alpha, turn),
        icc=icc if isinstance(icc, bytes) and icc else None,
        exif=exif,
        dpi=metadata.resolution(image, turn),
        chunks=facts.chunks,
        mode=mode,
        lossless=facts.lossless,
    )
    return replace(made, notes=tuple(notes))


def frame_count(image: ImageFile.ImageFile, facts: Facts) -> int:
    """Frames or pages of an opened image."""
    return facts.frames or int(getattr(image, "n_frames", 1))


def _many(frames: int) -> str:
    if frames == 1:
        return ""
    return f"holds {frames} images; split it into files of one image each"


def _assumed(image: ImageFile.ImageFile) -> str:
    """The default by which an opened image is converted, where it has to be one."""
    return decode.PLAIN_INKS if image.mode == "CMYK" and not image.info.get("icc_profile") else ""


@contextmanager
def opened(
    path: Path, max_pixels: int, *, whole: bool = True
) -> Generator[tuple[ImageFile.ImageFile, IO[bytes], Facts], None, None]:
    """Open an image, its header checked; whatever goes wrong inside becomes an ``ImageError``."""
    try:
        with _file(Path(path)) as raw, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about metadata
            kind, factory = _identify(raw)
            file, facts = containers.prepared(kind.name, raw, whole=whole)
            if facts.size is not None:
                _refuse_large(facts.size, max_pixels)
            with factory(file) as image:  # with a name Pillow would map it, and not turn it
                _refuse_large(image.size, max_pixels)
                yield image, file, facts
    except MemoryError:
        raise
    except RefusedError as error:
        raise ImageError(f"{path}: {error}") from None
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{path}: there is no such file") from error
    except Exception as error:  # Pillow's decoders raise nearly everything
        raise ImageError(
            f"{path}: cannot be read; it is damaged or not an image ({reason(error)})"
        ) from error


def _file(path: Path) -> IO[bytes]:
    if is_endless(path):
        raise RefusedError("is a pipe or a device, which may never end; only files are read")
    return path.open("rb")


def _identify(file: IO[bytes]) -> tuple[Format, "type[ImageFile.ImageFile]"]:
    # Not PillowImage.open: its limit on sizes is one for the whole process, and below twice its
    # value it only warns.
    PillowImage.init()
    if not (prefix := file.read(32)):
        raise RefusedError("is empty: copy or download it again")
    for kind in FORMATS:
        if kind.package:
            if not _by_extra(kind, prefix):
                continue
            if not kind.here:
                raise RefusedError(f"needs a package: pip install 'dukd[{kind.extra}]'")
            _register(kind)
        factory, accept = PillowImage.OPEN[kind.name]
        if accept is None or accept(prefix) is True:
            return kind, factory  # pyright: ignore[reportReturnType]  a function for JPEG
    known = ", ".join(kind.name for kind in FORMATS if kind.here)
    raise RefusedError(f"is none of {known}")


def _by_extra(kind: Format, prefix: bytes) -> bool:
    """Whether a file is of a kind that needs a package, by its first bytes."""
    if kind.name == "JXL":
        return prefix.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL "))
    return prefix[4:8] == b"ftyp" and prefix[8:12] in (b"heic", b"heix", b"heim", b"heis", b"mif1")


def _register(kind: Format) -> None:
    if kind.name not in PillowImage.OPEN:
        module = importlib.import_module(kind.package)
        if kind.name == "HEIF":
            module.register_heif_opener()


def _refuse_large(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        limit = f"{max_pixels / 1e6:g} megapixels"
        raise RefusedError(
            f"{width} x {height} pixels are more than {limit}: cut or shrink it (dukd upscale "
            "also takes --max-pixels)"
        )


def reason(error: Exception) -> str:
    """The kind of an error, and what it says."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
