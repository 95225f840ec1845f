"""What a decoded image is, and the one error that reading and writing raise."""

from dataclasses import dataclass

from dukd.images.convert import Pixels

Chunk = tuple[bytes, bytes]
"""A PNG chunk: its name and its content."""


class ImageError(ValueError):
    """An image cannot be read or written; the message names the file and the reason."""


class RefusedError(Exception):
    """Why a file is not taken; becomes an ``ImageError`` that names it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Image:
    """A decoded image and what came with it."""

    pixels: Pixels
    """``(h, w, 3)`` RGB or ``(h, w, 1)`` gray, 8 or 16 bits, not multiplied by alpha."""
    alpha: Pixels | None = None
    """Opacity, ``(h, w)``, of the same depth as the pixels; None if everything is opaque."""
    icc: bytes | None = None
    """ICC color profile; None means sRGB, unless ``chunks`` say otherwise."""
    exif: bytes | None = None
    """EXIF block with the orientation reset, since it has been applied; ``write`` puts the size of
    the result into it. Of TIFF files only what describes the photograph."""
    dpi: tuple[float, float] | None = None
    """Dots per inch, across and down."""
    chunks: tuple[Chunk, ...] = ()
    """PNG chunks that say what levels and pixels mean: gAMA, cHRM, cICP and their like."""
    mode: str = "RGB"
    """Pillow's name for what the file held, such as ``P`` or ``CMYK``."""
    lossless: bool = False
    """Whether it came from a lossless WebP, and is written so again."""
    notes: tuple[str, ...] = ()
    """What was assumed or left out in reading, a phrase each; usually nothing."""

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
    alpha: bool = False
    """Whether anything is transparent."""
    frames: int = 1
    """Frames of an animation or pages."""
    problem: str = ""
    """Why ``read_rgb8`` refuses the file, as far as the header says; usually nothing."""
    beyond: str = ""
    """Why the colors are not sRGB, where only PNG can say so; usually nothing."""
    note: str = ""
    """What is assumed in reading, as far as the header says; usually nothing."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Width and height of each page, where pages differ; usually nothing."""
