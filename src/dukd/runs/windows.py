"""Which part of an image is worth looking at: the most detailed one, and where models differ."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dukd.evaluation.output import Pixels

_LUMA = np.array([65.481, 128.553, 24.966]) / 255
"""Weights of BT.601 luma, of levels in 0 to 255."""


@dataclass(frozen=True)
class Window:
    """A part of an image: its top left corner and its size, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, pixels: Pixels) -> Pixels:
        """Cut it out."""
        rows = slice(self.top, self.top + self.height)
        return np.ascontiguousarray(pixels[rows, self.left : self.left + self.width])

    def overlaps(self, other: "Window") -> bool:
        """Whether they have pixels in common."""
        down, across = abs(self.top - other.top), abs(self.left - other.left)
        return down < max(self.height, other.height) and across < max(self.width, other.width)


def luma(pixels: Pixels) -> NDArray[np.float64]:
    """Luma of levels ``(h, w, 3)``: ``(h, w)``, 16 to 235 without the 16."""
    return pixels.astype(np.float64) @ _LUMA


def busiest(hr: Pixels, size: int) -> tuple[int, int]:
    """Top left corner of the window of ``hr`` with the most detail, on a grid of half windows."""
    gray = hr.astype(np.float64).mean(2)
    detail = np.abs(np.diff(gray, axis=0))[:, :-1] + np.abs(np.diff(gray, axis=1))[:-1]
    h, w = gray.shape
    step = max(1, size // 2)
    corners = [
        (t, x)
        for t in range(0, max(1, h - size + 1), step)
        for x in range(0, max(1, w - size + 1), step)
    ]
    return max(corners, key=lambda c: detail[c[0] : c[0] + size, c[1] : c[1] + size].sum())


def difference(outputs: Sequence[Pixels]) -> NDArray[np.float64]:
    """How far outputs differ at each pixel: the standard deviation of their luma, ``(h, w)``.

    Args:
        outputs: Of one size ``(h, w, 3)``, 8 bits; at least one.
    """
    return np.stack([luma(pixels) for pixels in outputs]).std(0)


def ranked(values: NDArray[np.float64], size: int, count: int) -> list[tuple[float, Window]]:
    """The windows with the largest means, without overlaps.

    Args:
        values: ``(h, w)``.
        size: Rows and columns of a window; a smaller image is one window.
        count: Most windows.

    Returns:
        Means and windows, the largest mean first.
    """
    height, width = min(size, values.shape[0]), min(size, values.shape[1])
    sums = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    boxes = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width]
    boxes = (boxes + sums[:-height, :-width]) / (height * width)
    step = max(1, size // 4)
    means = boxes[::step, ::step]
    found: list[tuple[float, Window]] = []
    for place in np.argsort(-means, axis=None, kind="stable").tolist():
        if len(found) == count:
            break
        row, column = divmod(place, means.shape[1])
        window = Window(row * step, column * step, height, width)
        if not any(window.overlaps(other) for _, other in found):
            found.append((float(means[row, column]), window))
    return found


def around(window: Window, size: int, height: int, width: int) -> Window:
    """The square of ``size`` pixels around a window's middle, inside ``height`` by ``width``."""
    rows, columns = min(size, height), min(size, width)
    top = window.top + (window.height - rows) // 2
    left = window.left + (window.width - columns) // 2
    return Window(
        min(max(0, top), height - rows), min(max(0, left), width - columns), rows, columns
    )
