"""Images: files, color, resizing, changes that can be undone."""

from dukd.images.animation import Frame, frames, write_frames
from dukd.images.convert import Pixels, from_levels, from_tensor, to_tensor
from dukd.images.folder import Listing, list_images, passed_over
from dukd.images.formats import EXTENSIONS, WRITTEN, can_hold, fits
from dukd.images.image import Header, Image, ImageError
from dukd.images.io import MAX_PIXELS, header, read, read_rgb8
from dukd.images.writing import write

__all__ = [
    "EXTENSIONS",
    "MAX_PIXELS",
    "WRITTEN",
    "Frame",
    "Header",
    "Image",
    "ImageError",
    "Listing",
    "Pixels",
    "can_hold",
    "fits",
    "frames",
    "from_levels",
    "from_tensor",
    "header",
    "list_images",
    "passed_over",
    "read",
    "read_rgb8",
    "to_tensor",
    "write",
    "write_frames",
]
