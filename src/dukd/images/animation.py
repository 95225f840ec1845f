"""Animations and documents, frame by frame: GIF, WebP, animated PNG, pages of TIFF."""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as PillowImage

from dukd.core.files import replacing
from dukd.images.formats import BY_SUFFIX
from dukd.images.image import Image, ImageError, RefusedError
from dukd.images.io import MAX_PIXELS, finished, frame_count, opened, reason
from dukd.images.writing import checked, pillow, quality_of


@dataclass(frozen=True, eq=False)
class Frame:
    """One image of several."""

    image: Image
    number: int
    """From 0."""
    count: int
    """Frames or pages of the file."""
    duration: float | None = None
    """Milliseconds for which it is shown, 0 where the file does not say; None for a page."""
    loop: int | None = None
    """How often the animation runs, 0 for ever; None where the file does not say."""


def frames(path: Path, *, max_pixels: int = MAX_PIXELS) -> Iterator[Frame]:
    """Read the frames or pages of a file one after the other; an ordinary image is one frame.

    Frames of an animation are as they are displayed: what earlier frames leave standing is in them.

    Args:
        path: The file; its content decides about the format.
        max_pixels: Largest number of pixels of one frame.

    Raises:
        ImageError: As ``read``, and for animated PNG of 16 bits.
    """
    with opened(path, max_pixels) as (image, file, facts):
        count = frame_count(image, facts)
        if image.format == "PNG" and facts.bits == 16 and count > 1:
            raise RefusedError("is an animated PNG of 16 bits; split it into files")
        for number in range(count):
            if count > 1:
                image.seek(number)
                width, height = image.size
                if width * height > max_pixels:
                    raise RefusedError(f"has {width} x {height} pixels on page {number + 1}")
            decoded = finished(image, file, facts)
            paged = image.format == "TIFF" or count == 1
            duration, loop = (
                image.info.get("duration", None if paged else 0),
                image.info.get("loop"),
            )
            yield Frame(
                image=decoded,
                number=number,
                count=count,
                duration=float(duration) if isinstance(duration, int | float) else None,
                loop=loop if isinstance(loop, int) else None,
            )


def write_frames(
    path: Path,
    images: Iterable[Image],
    *,
    durations: Sequence[float] = (),
    loop: int = 0,
    quality: int | None = None,
) -> tuple[str, ...]:
    """Write an animation (WebP, PNG) or pages (TIFF); the file appears whole or not at all.

    Args:
        path: With one of those suffixes.
        images: The frames, of 8 bits; of one size where they make an animation.
        durations: Milliseconds of each frame, without effect on TIFF.
        loop: How often the animation runs; 0 for ever.
        quality: Of WebP, which is lossless at 100; as in `dukd.images.writing.write` if left out.

    Returns:
        What was left out, a phrase each; usually nothing.

    Raises:
        ImageError: If the format holds no frames or not these, or the file cannot be written.
    """
    path = Path(path)
    kind = BY_SUFFIX.get(path.suffix.lower())
    if kind is None or not kind.frames:
        raise ImageError(f"{path}: frames are written as .webp, .png or .tif, not {path.suffix!r}")
    made: list[PillowImage.Image] = []
    first: Image | None = None
    for image in images:
        first = first or image
        checked(path, image, quality)
        if image.bits == 16:
            raise ImageError(f"{path}: frames are written with 8 bits, but one has 16")
        made.append(pillow(image).convert("RGBA" if kind.name != "TIFF" else None))
    if first is None:
        raise ImageError(f"{path}: there are no frames to write")
    options: dict[str, object] = {"icc_profile": first.icc} if first.icc and not first.gray else {}
    if kind.name != "TIFF":
        _check_animation(path, made, durations)
        options |= {"loop": loop, "duration": [round(d) for d in durations] or 100}
    if kind.name == "WEBP":
        quality = quality_of(first, kind, quality)
        options |= {"quality": quality, "lossless": quality == 100, "exact": True}
    elif kind.name == "TIFF":
        options |= {"compression": "tiff_deflate", **({"dpi": first.dpi} if first.dpi else {})}
    _save(path, made, kind.name, options)
    return ("EXIF is not written with frames: left out",) if first.exif else ()


def _save(
    path: Path, made: Sequence[PillowImage.Image], kind: str, options: dict[str, object]
) -> None:
    memory = io.BytesIO()  # libtiff would print what goes wrong in a real file
    try:
        with replacing(path) as file:
            place = memory if kind == "TIFF" else file
            made[0].save(place, format=kind, save_all=True, append_images=made[1:], **options)
            file.write(memory.getbuffer())
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: cannot be written ({reason(error)})") from error


def _check_animation(
    path: Path, made: Sequence[PillowImage.Image], durations: Sequence[float]
) -> None:
    if durations and len(durations) != len(made):
        counts = f"{len(made)} frames, but {len(durations)} durations"
        raise ImageError(f"{path}: an animation has a duration for each frame, here are {counts}")
    if len({one.size for one in made}) > 1:
        raise ImageError(
            f"{path}: frames of an animation are of one size, and these pages differ: keep TIFF"
        )
