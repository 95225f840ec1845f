"""Images: files, color, resizing, changes that can be undone."""

from dukd.images.io import (
    EXTENSIONS,
    MAX_PIXELS,
    Header,
    ImageError,
    Picture,
    Pixels,
    can_hold,
    from_tensor,
    header,
    read,
    read_rgb8,
    to_tensor,
    write,
)

__all__ = [
    "EXTENSIONS",
    "MAX_PIXELS",
    "Header",
    "ImageError",
    "Picture",
    "Pixels",
    "can_hold",
    "from_tensor",
    "header",
    "read",
    "read_rgb8",
    "to_tensor",
    "write",
]
