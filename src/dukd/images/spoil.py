"""The steps of which degradations are made: blur, resize, noise, compression, sharpening.

Images are ``(3, h, w)``, float32 RGB in [0, 1]. All is computed by numpy and Pillow, whose results
do not depend on the number of threads, or by torch's interpolation, pixel by pixel.
"""

import io
import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F  # noqa: N812  the name everybody knows

from dukd.images.kernels import Kernel

Planes = NDArray[np.float32]
"""``(3, h, w)``, RGB in [0, 1]."""
Mode = Literal["area", "bilinear", "bicubic", "nearest-exact", "lanczos"]
"""Ways to resize: torch's, and Pillow's Lanczos."""


def planes(levels: NDArray[np.uint8]) -> Planes:
    """``(h, w, 3)`` of 8 bits to planes."""
    return np.ascontiguousarray(levels.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)


def levels(x: Planes) -> NDArray[np.uint8]:
    """Planes to ``(h, w, 3)``, clamped and rounded to 8 bits."""
    whole = np.rint(np.clip(x, 0, 1) * np.float32(255)).astype(np.uint8)
    return np.ascontiguousarray(whole.transpose(1, 2, 0))


def blur(x: Planes, kernel: Kernel) -> Planes:
    """Convolve with a kernel; the image continues as its reflection."""
    k = kernel.shape[0]
    if k == 1:
        return x
    r = k // 2
    padded = np.pad(x, ((0, 0), (r, r), (r, r)), mode="reflect")
    size = (_fast(padded.shape[1]), _fast(padded.shape[2]))
    spectrum = np.fft.rfft2(kernel.astype(np.float32), size)
    y = np.fft.irfft2(np.fft.rfft2(padded, size) * spectrum, size)
    h, w = x.shape[1:]
    return np.ascontiguousarray(y[:, k - 1 : k - 1 + h, k - 1 : k - 1 + w], dtype=np.float32)


@lru_cache(maxsize=4096)
def _fast(n: int) -> int:
    """The next even number without prime factors above 5, whose transforms are fast."""
    while True:
        rest = n
        for p in (2, 3, 5):
            while rest % p == 0:
                rest //= p
        if rest == 1 and n % 2 == 0:
            return n
        n += 1


def resize(x: Planes, size: tuple[int, int], mode: Mode) -> Planes:
    """Resize to ``(h, w)``, without antialiasing but for area and Lanczos."""
    if x.shape[1:] == size:
        return x
    if mode == "lanczos":
        parts = [Image.fromarray(p).resize((size[1], size[0]), Image.Resampling.LANCZOS) for p in x]
        return np.stack([np.asarray(p, np.float32) for p in parts])
    batch = torch.from_numpy(np.ascontiguousarray(x))[None]
    if mode in ("area", "nearest-exact"):
        return F.interpolate(batch, size=size, mode=mode)[0].numpy()
    return F.interpolate(batch, size=size, mode=mode, align_corners=False)[0].numpy()


def add_gaussian(x: Planes, sigma: float, rng: np.random.Generator, *, gray: bool) -> Planes:
    """Add normal noise of a standard deviation in 8-bit levels; the same to R, G, B if gray."""
    shape = (1 if gray else 3, *x.shape[1:])
    noise = rng.standard_normal(shape, np.float32) * np.float32(sigma / 255)
    return np.clip(x + noise, 0, 1, dtype=np.float32)


def add_poisson(x: Planes, strength: float, rng: np.random.Generator, *, gray: bool) -> Planes:
    """Add ``strength`` times the noise of counting photons, the same to R, G, B if gray.

    As BasicSR has it: a level of 1 is as many photons as the image has different levels, rounded up
    to a power of two.
    """
    clean = np.rint(np.clip(x, 0, 1) * 255).astype(np.float32)
    if gray:
        weights = np.array([0.2989, 0.587, 0.114], np.float32)[:, None, None]
        clean = np.rint((clean * weights).sum(0, keepdims=True))
    different = int((np.bincount(clean.astype(np.uint8).reshape(-1), minlength=256) > 0).sum())
    photons = 2.0 ** math.ceil(math.log2(max(different, 1)))
    clean /= 255
    noise = (rng.poisson(clean * photons) / photons).astype(np.float32) - clean
    return np.clip(x + np.float32(strength) * noise, 0, 1, dtype=np.float32)


def compress(x: Planes, quality: int) -> Planes:
    """Through JPEG, with halved color resolution."""
    with io.BytesIO() as file:
        Image.fromarray(levels(x)).save(file, "JPEG", quality=quality, subsampling=2)
        with Image.open(file) as image:
            return planes(np.asarray(image))


def sharpen(x: Planes, *, weight: float = 0.5, radius: int = 50, threshold: float = 10) -> Planes:
    """Unsharp masking of Real-ESRGAN's ground truth: only where the detail exceeds a threshold.

    Args:
        x: The image.
        weight: Share of the detail that is added.
        radius: Side of the Gaussian, in pixels, made odd; its sigma is OpenCV's for that side, 8.
        threshold: Least detail, in 8-bit levels.
    """
    side = radius + 1 - radius % 2
    sigma = 0.3 * ((side - 1) * 0.5 - 1) + 0.8
    axis = np.arange(side) - side // 2
    row = np.exp(-(axis**2) / (2 * sigma**2))
    row /= row.sum()
    kernel = row[:, None] * row[None]
    residual = x - blur(x, kernel)
    mask = (np.abs(residual) * 255 > threshold).astype(np.float32)
    soft = blur(mask, kernel)
    sharp = np.clip(x + np.float32(weight) * residual, 0, 1)
    return (soft * sharp + (1 - soft) * x).astype(np.float32)
