"""From what Pillow opens to pixels and alpha, without losing levels or guessing what they mean."""

import io
from collections.abc import Mapping
from typing import IO, cast

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageCms, ImageFile

from dukd.images import deep, planes, png16
from dukd.images.containers import Facts
from dukd.images.convert import Pixels
from dukd.images.image import RefusedError

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # TIFF tags
PLAIN_INKS = "CMYK without a color profile, taken for plain inks: R = (1 - C)(1 - K)"
"""What is said where CMYK had to be converted by a default."""

Planes = tuple[Pixels, Pixels | None]
"""Pixels ``(h, w, c)``, and alpha ``(h, w)`` if anything is transparent."""


def refusal(image: ImageFile.ImageFile, facts: Facts) -> str:
    """Why an opened image cannot be decoded without losing levels; nothing if it can."""
    if lost := _lost_depth(image, facts):
        return lost
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if deep or image.mode in _MODES:
        return ""
    return f"holds {image.mode}, which has no certain meaning as RGB; convert it to RGB or gray"


def _lost_depth(image: ImageFile.ImageFile, facts: Facts) -> str:
    """Why bits would be lost; nothing if none would."""
    bits = facts.bits if facts.bits > 8 else int(image.info.get("bit_depth", 8))
    if image.format == "TIFF":
        bits = max(_tags(image).get(_BITS, (1,)))
        signed = 2 in _tags(image).get(_SAMPLE_FORMAT, (1,))
        if _deep_color(image):
            return deep.tiff_refusal(image)
        if bits > 8 and (signed or not image.mode.startswith("I;16")):
            return f"is a TIFF of {bits} bits in {image.mode}; save it as a 16-bit PNG"
    elif image.format in ("HEIF", "JXL") and bits > 8:
        return f"has {bits} bits, of which 8 would be read; save it as a 16-bit PNG"
    return ""


def depth(image: ImageFile.ImageFile, facts: Facts) -> int:
    """Bits of a channel as ``decode`` gives it: 8 or 16."""
    deeper = facts.bits == 16 or image.mode.startswith("I") or _deep_color(image)
    return 16 if deeper else 8


def _deep_color(image: ImageFile.ImageFile) -> bool:
    """Whether it is a TIFF of 16 bits in color, of which Pillow would give 8."""
    tags = _tags(image)
    plain = set(tags.get(_SAMPLE_FORMAT, (1,))) == {1}
    return plain and image.mode in ("RGB", "RGBA") and set(tags.get(_BITS, (8,))) == {16}


def transparent(image: ImageFile.ImageFile) -> bool:
    """Whether an opened image holds transparency."""
    return image.has_transparency_data


def decode(image: ImageFile.ImageFile, file: IO[bytes], facts: Facts) -> Planes:
    """Decode the frame at which the image stands.

    Raises:
        RefusedError: If it holds something that could only be converted by guessing.
    """
    if image.format == "PNG" and facts.bits == 16:
        return png16.decode(file)
    if reason := refusal(image, facts):
        raise RefusedError(reason)
    planes.check_sums(image, file)
    if planes.in_planes(image):
        return planes.decode(image, file)
    if _deep_color(image):
        return deep.tiff(image, file)
    if image.format == "PPM" and facts.bits == 16 and image.mode == "RGB":
        return deep.ppm(file), None
    return _by_pillow(image, facts)


def _by_pillow(image: ImageFile.ImageFile, facts: Facts) -> Planes:
    """Decode what Pillow has all levels of."""
    image.load()
    if image.mode.startswith("I"):
        return _deep(image), None
    if image.format == "PNG" and facts.gray_key is not None:
        return _keyed_gray(image, facts.gray_key, facts.bits)
    if image.mode == "CMYK":
        return np.asarray(_cmyk_to_srgb(image)), None
    visible = transparent(image)
    target = ("LA" if visible else "L") if image.mode in _GRAY else ("RGBA" if visible else "RGB")
    levels = np.asarray(image if image.mode == target else image.convert(target))
    if not visible:
        return levels.reshape(*levels.shape[:2], -1), None
    return levels[..., :-1], levels[..., -1]


_GRAY = ("1", "L", "LA", "La")
_MODES = (*_GRAY, "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr", "CMYK")


def _tags(image: ImageFile.ImageFile) -> Mapping[int, tuple[int, ...]]:
    return cast("Mapping[int, tuple[int, ...]]", getattr(image, "tag_v2", {}))


def _deep(image: ImageFile.ImageFile) -> Pixels:
    """Gray of 16 bits; a TIFF's 12 bits are spread over 16, and one whose 0 is white inverted."""
    levels = np.asarray(image).astype(np.uint16)
    if image.format == "TIFF":
        tags = _tags(image)
        if tags.get(_BITS, (16,))[0] == 12:
            levels = ((levels.astype(np.uint32) * 65535 + 2047) // 4095).astype(np.uint16)
        if cast("int", tags.get(_PHOTOMETRIC, 1)) == 0:
            levels = 65535 - levels
    return levels[..., None]


def _keyed_gray(image: ImageFile.ImageFile, key: int, bits: int) -> Planes:
    """Gray of which one level is transparent; the level counts in the file's own depth."""
    levels = np.asarray(image.convert("L"))
    transparent_level = key * 255 // (2**bits - 1)
    return levels[..., None], np.where(levels == transparent_level, 0, 255).astype(np.uint8)


def _cmyk_to_srgb(image: PillowImage.Image) -> PillowImage.Image:
    profile = image.info.get("icc_profile")
    if not profile:
        return image.convert("RGB")  # as PLAIN_INKS says
    try:
        converted = ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            outputMode="RGB",
        )
    except (ImageCms.PyCMSError, OSError) as error:
        raise RefusedError(
            f"is CMYK, but its color profile does not fit ({error}); convert it to RGB first"
        ) from error
    assert converted is not None
    return converted
