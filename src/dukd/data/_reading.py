"""Read pictures with Pillow alone, until ``dukd.images`` does."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})


class ImageError(ValueError):
    """A picture that cannot be read."""


@dataclass(frozen=True)
class Header:
    """What a file says about its picture."""

    width: int
    """Columns."""
    height: int
    """Rows."""


def header(path: Path) -> Header:
    """Read the size of a picture."""
    try:
        with Image.open(path) as image:
            return Header(*image.size)
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"{path}: {error}") from error


def read_rgb8(path: Path) -> NDArray[np.uint8]:
    """Read a picture as ``(h, w, 3)``."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"{path}: {error}") from error
