"""Enlarge one image as a photographer expects: depth, transparency and profile survive."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  the name everybody knows

from dukd import images
from dukd.core.files import Progress, silent
from dukd.images import Image, resize
from dukd.networks import tiles
from dukd.networks.tiles import Range
from dukd.networks.upscaler import Upscaler


def upscale_image(
    upscaler: Upscaler, image: Image, *, tile: int | None = None, progress: Progress = silent
) -> tuple[Image, str | None]:
    """Enlarge one image by the upscaler's scale.

    Gray stays gray, 16 bits stay 16 bits, profile and EXIF are carried over. Transparency is
    enlarged beside the colors, bicubic; colors under full transparency are filled in from their
    surroundings first, so that none of them bleeds into visible edges.

    Args:
        upscaler: What enlarges; it never sees more than one tile at a time.
        image: Of at least one pixel.
        tile: Largest side of a part, as in `dukd.networks.tiles.plan`.
        progress: Called after every tile.

    Returns:
        The large image, and why it is approximate, if it is.

    Raises:
        UpscalerError: If the upscaler gives something that is not a number.
        MemoryError: If not even the smallest tile finds memory.
    """
    colors = image.pixels
    if image.alpha is not None and not image.alpha.all():
        colors = _filled(colors, image.alpha)
    (height, width, channels), scale = colors.shape, upscaler.scale
    pixels = np.empty((height * scale, width * scale, channels), colors.dtype)

    def read(rows: Range, columns: Range) -> Tensor:
        return images.to_tensor(colors[slice(*rows), slice(*columns)])

    def write(y: int, x: int, sr: Tensor) -> None:
        part = sr.mean(1, keepdim=True) if channels == 1 else sr
        pixels[y : y + part.shape[2], x : x + part.shape[3]] = images.from_tensor(
            part, bits=image.bits
        )

    tiling = tiles.plan(upscaler, height, width, tile=tile)
    note = tiles.run(upscaler, read, write, tiling, progress)
    alpha = None if image.alpha is None else _resized(image.alpha, pixels.shape[:2])
    return replace(image, pixels=pixels, alpha=alpha), note


def resized(image: Image, height: int, width: int) -> Image:
    """Resize an image and its transparency, bicubic."""
    alpha = None if image.alpha is None else _resized(image.alpha, (height, width))
    return replace(image, pixels=_resized(image.pixels, (height, width)), alpha=alpha)


def _resized(plane: images.Pixels, size: tuple[int, int]) -> images.Pixels:
    """Resize ``(h, w)`` or ``(h, w, c)`` bicubic, rounded and clipped."""
    planes = np.atleast_3d(plane)
    x = images.to_tensor(planes, channels=planes.shape[2])
    levels = images.from_tensor(resize.imresize(x, size=size), bits=8 * plane.dtype.itemsize)
    return levels if plane.ndim == 3 else levels[..., 0]


def _filled(colors: images.Pixels, alpha: images.Pixels) -> images.Pixels:
    """Give fully transparent pixels the colors around them; visible pixels stay as they are."""
    x = torch.from_numpy(colors.astype(np.float32)).permute(2, 0, 1)[None]
    visible = torch.from_numpy(alpha.astype(np.float32) / np.iinfo(alpha.dtype).max)[None, None]
    filled = _pushed(x, visible)[0].permute(1, 2, 0).round().numpy().astype(colors.dtype)
    result: NDArray[np.uint8 | np.uint16] = np.where(alpha[..., None] > 0, colors, filled)
    return result


def _pushed(x: Tensor, weight: Tensor) -> Tensor:
    """Fill ``(1, c, h, w)`` from ever coarser means where ``weight``, ``(1, 1, h, w)``, is 0."""
    if max(x.shape[-2:]) == 1 or bool((weight > 0).all()):
        return x
    totals, weights = (F.avg_pool2d(a, 2, ceil_mode=True) for a in (x * weight, weight))
    coarse = _pushed(totals / weights.clamp(min=1e-9), weights)
    size = (2 * coarse.shape[-2], 2 * coarse.shape[-1])
    nearby = F.interpolate(coarse, size=size, mode="nearest")
    return torch.where(weight > 0, x, nearby[..., : x.shape[-2], : x.shape[-1]])
