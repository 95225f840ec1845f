"""Frames of a video to images and back: matrix, range and depth are those that the video says."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from dukd.images import Image

_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
"""The scaler's number of a matrix by that of the standard (ITU-T H.273, table 4)."""
_BT709, _BT601, _FULL, _STUDIO = 1, 6, 2, 1
_HD = 720  # rows from which on players take BT.709 where nothing is said


@dataclass(frozen=True, kw_only=True)
class Colors:
    """What the numbers of a video mean; H.273's numbers."""

    matrix: int
    full: bool
    """Whether black is 0, not 16 (of 255)."""
    primaries: int
    transfer: int
    deep: bool
    """Whether there are more than 8 bits."""
    note: str | None
    """What had to be assumed."""


def colors(frame: Any) -> Colors:  # noqa: ANN401  of PyAV, which may be missing
    """What a frame says of itself; players' habit where it says nothing."""
    matrix, note = int(frame.colorspace), None
    rgb = frame.format.is_rgb
    if matrix not in _MATRICES:
        matrix = _BT709 if frame.height >= _HD else _BT601
        if not rgb:
            note = f"no color matrix is given: taken for BT.{709 if matrix == _BT709 else 601}"
    full = int(frame.color_range) == _FULL or frame.format.name.startswith("yuvj")
    return Colors(
        matrix=matrix,
        full=full,
        primaries=int(frame.color_primaries),
        transfer=int(frame.color_trc),
        deep=max(c.bits for c in frame.format.components) > 8,
        note=note,
    )


def to_image(frame: Any, said: Colors) -> Image:  # noqa: ANN401  of PyAV
    """A frame as RGB, upright."""
    plain = frame.reformat(
        format="rgb48le" if said.deep else "rgb24",
        src_colorspace=_MATRICES[said.matrix],
        src_color_range=_FULL if said.full else _STUDIO,
        dst_color_range=_FULL,
        interpolation=_careful(),
    )
    pixels = plain.to_ndarray()
    turns = round(frame.rotation / 90) % 4
    return Image(pixels=np.ascontiguousarray(np.rot90(pixels, turns)))


def to_frame(image: Image, said: Colors, pixel_format: str) -> Any:  # noqa: ANN401  of PyAV
    """An image in the numbers that the video has."""
    import av  # noqa: PLC0415  an optional package

    kind = "rgb48le" if image.bits == 16 else "rgb24"
    pixels: Any = np.ascontiguousarray(image.pixels)
    frame: Any = av.VideoFrame.from_ndarray(pixels, kind)
    made: Any = frame.reformat(
        format=pixel_format,
        dst_colorspace=_MATRICES[said.matrix],
        src_color_range=_FULL,
        dst_color_range=_FULL if said.full else _STUDIO,
        interpolation=_careful(),
    )
    return made


def _careful() -> Any:  # noqa: ANN401  of PyAV
    """Interpolate colors at full resolution, and round right; the default saves time there."""
    from av.video.reformatter import Interpolation  # noqa: PLC0415  an optional package

    return (
        Interpolation.BICUBIC
        | Interpolation.FULL_CHR_H_INT
        | Interpolation.FULL_CHR_H_INP
        | Interpolation.ACCURATE_RND
    )
