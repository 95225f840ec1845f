"""Images: files, color, resizing, changes that can be undone."""

from dukd.images.convert import Pixels, from_levels, from_tensor, to_tensor
from dukd.images.io import (
    EXTENSIONS,
    MAX_PIXELS,
    Header,
    Image,
    ImageError,
    can_hold,
    header,
    read,
    read_rgb8,
    write,
)

__all__ = [
    "EXTENSIONS",
    "MAX_PIXELS",
    "Header",
    "Image",
    "ImageError",
    "Pixels",
    "can_hold",
    "from_levels",
    "from_tensor",
    "header",
    "read",
    "read_rgb8",
    "to_tensor",
    "write",
]
