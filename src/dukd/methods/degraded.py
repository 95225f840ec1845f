"""Upcycling for teachers of the real world, which expect inputs that are blurred and compressed.

A teacher of the real world removes what a camera and a compressor add. DUKD's windows of hr are
clean, and its zoomed-out images are degraded twice: neither is what such a teacher was made for.
Here both are degraded once, by the pipeline that makes lr:

    zoom in     a window w of hr; both networks see D(E(w)), where E enlarges it by the scale as if
                it were a scene, and D is the degradation, which brings it back to its own size;
    zoom out    c, hr reduced by the scale, is clean and the ground truth; both see D(c).

Blur, noise and JPEG's blocks then have the size, relative to pixels, that they have in lr. Label
consistency follows: A acts on the degraded input, so that S and T see the same noise up to A. The
papers say nothing of such teachers; what it is worth is measured in `docs/results/real-world.md`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from typing_extensions import override

from dukd.core.device import to_device
from dukd.core.kept import Kept
from dukd.images.degrade import Degradation
from dukd.images.resize import downscale, upscale
from dukd.images.two_stage import RealESRGAN
from dukd.methods.base import Batch, View
from dukd.methods.upcycling import Upcycling, ZoomIn

_SMALLEST = 32
"""Sides that every degradation takes: beyond the largest blur kernel of the presets."""
_KEPT = Kept[Tensor](lambda result: result.nbytes, limit=512 << 20)
"""Views of batches that come again."""


@dataclass(frozen=True, kw_only=True)
class DegradedZoomIn(ZoomIn):
    """A random window of hr, degraded as lr is."""

    name: ClassVar[str] = "degraded_zoom_in"

    degradation: Degradation = field(default_factory=RealESRGAN)
    """The pipeline, which should be the one of the data."""
    grid: Literal["lr", "window"] = "lr"
    """Where the pipeline acts: on the enlarged window, so that all it adds has the size that it has
    in lr; or on the window itself, with blur wider by the scale, for a scale-th squared of the
    time."""

    @override
    def view(self, batch: Batch) -> View:
        view = super().view(batch)
        windows, scale = view.image, batch.scale
        if self.grid == "lr":
            windows = upscale(windows, scale)
        by = scale if self.grid == "lr" else 1
        image = degraded(windows, self.degradation, by, rng=batch.rng, keep=batch.recurs)
        return View(name=self.name, image=image, imitation=self.imitation)


@dataclass(frozen=True, kw_only=True)
class DegradedZoomOut(Upcycling):
    """hr reduced by the scale, which is the ground truth, then degraded once."""

    name: ClassVar[str] = "degraded_zoom_out"

    reconstruction: float = 1.0
    """Weight of the distance to the ground truth, which is clean."""
    degradation: Degradation = field(default_factory=RealESRGAN)
    """The pipeline, which should be the one of the data."""

    @override
    def view(self, batch: Batch) -> View:
        scale = batch.scale
        h, w = (side // scale * scale for side in batch.lr.shape[-2:])
        truth = downscale(batch.hr, scale)[..., :h, :w]
        image = degraded(truth, self.degradation, scale, rng=batch.rng, keep=batch.recurs)
        return self.pair(image, truth)


def degraded(
    images: Tensor, degradation: Degradation, scale: int, *, rng: Generator, keep: bool = False
) -> Tensor:
    """Degrade images, each with draws of its own.

    Args:
        images: ``(n, 3, h * scale, w * scale)``, RGB; they are clamped and rounded to 8 bits first.
            Sides below 32 pixels are continued as reflections, for blur kernels to fit.
        degradation: The pipeline.
        scale: Factor by which the results are smaller.
        rng: The only source of randomness; one draw per image.
        keep: Whether these images come again with these draws: the result is then kept, up to half
            a gigabyte of all such results.

    Returns:
        ``(n, 3, h, w)``, of the same type and on the same device.
    """
    seeds: list[int] = torch.randint(2**62, (len(images),), generator=rng).tolist()
    levels = (images.detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    pixels = np.ascontiguousarray(levels.permute(0, 2, 3, 1).numpy())

    def made() -> Tensor:
        return _degraded(pixels, degradation, scale, seeds)

    if keep:
        content = hashlib.blake2b(pixels.data, digest_size=16).digest()
        result = _KEPT.get((content, pixels.shape, *seeds, repr(degradation), scale), made)
    else:
        result = made()
    return to_device(result, images.device).to(images.dtype) / 255


def _degraded(
    pixels: NDArray[np.uint8], degradation: Degradation, scale: int, seeds: Sequence[int]
) -> Tensor:
    """``(n, h, w, 3)`` to ``(n, 3, h / scale, w / scale)``."""
    h, w = pixels.shape[1:3]
    more = [-(-max(0, _SMALLEST - side) // scale) * scale for side in (h, w)]
    results: list[Tensor] = []
    for one, seed in zip(pixels, seeds, strict=True):
        whole = np.pad(one, ((0, more[0]), (0, more[1]), (0, 0)), mode="symmetric")
        low = degradation.apply(whole, scale, np.random.default_rng(seed))
        results.append(torch.from_numpy(low[: h // scale, : w // scale].transpose(2, 0, 1).copy()))
    return torch.stack(results)
