"""Upcycling: further inputs that a training pair provides, to imitate the teacher on.

Zoom in and zoom out are DUKD's (Zhang et al., arXiv:2309.14162). Mixup and CutBlur are two more, to
be measured beside them. To add one, write a class like these.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor
from typing_extensions import override

from dukd.core.device import to_device
from dukd.images.resize import downscale, upscale
from dukd.methods.base import Batch, View

HALF = 2
"""Factor by which zoom out reduces a pair at scale 1."""


@dataclass(frozen=True, kw_only=True)
class Upcycling(ABC):
    """A way to make one more input of a pair."""

    name: ClassVar[str]
    """Name of the view, and what its losses begin with."""

    imitation: float = 1.0
    """Weight of the distance to the teacher's output."""
    reconstruction: float = 0.0
    """Weight of the distance to the ground truth, where the input has one."""
    consistent: bool = True
    """Whether label consistency acts: the student sees the input behind an invertible change."""

    @abstractmethod
    def view(self, batch: Batch) -> View:
        """Make the input; what it draws, it draws from ``batch.rng``."""

    def pair(self, image: Tensor, truth: Tensor) -> View:
        """The view of an input ``(m, 3, h, w)`` with its ground truth, weighed by both numbers."""
        return View(
            name=self.name,
            image=image,
            truth=truth,
            reconstruction=self.reconstruction,
            imitation=self.imitation,
        )


@dataclass(frozen=True, kw_only=True)
class ZoomIn(Upcycling):
    """A random window of hr, of lr's size, taken as if it were a low-resolution image.

    At scale 1, where networks restore, it is the whole of hr: clean images are inputs too, and the
    teacher says what to make of them.
    """

    name: ClassVar[str] = "zoom_in"

    windows: int = 1
    """Windows per image and batch; their distances are averaged."""
    window: float = 1.0
    """Side of a window relative to that of lr: 1 in the paper, at most the scale, where it is the
    whole of hr."""
    placement: Literal["uniform", "tiles"] = "uniform"
    """Where windows lie: anywhere, each image at its own place; or on the released scale x scale
    grid, the same tile for the whole batch."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        if self.windows < 1:
            raise ValueError(
                f"zoom in takes at least one window per image, but windows is {self.windows}"
            )
        if not self.window > 0:
            raise ValueError(
                f"window is the side of a window relative to lr's, above 0, but got {self.window}"
            )
        if self.reconstruction:
            raise ValueError("a window of hr has no ground truth: leave reconstruction at 0")

    @override
    def view(self, batch: Batch) -> View:
        h, w = (max(1, round(self.window * side)) for side in batch.lr.shape[-2:])
        cut = random_windows if self.placement == "uniform" else shared_tiles
        windows = cut(batch.hr, (h, w), count=self.windows, rng=batch.rng)
        return View(name=self.name, image=windows, imitation=self.imitation)


@dataclass(frozen=True, kw_only=True)
class ZoomOut(Upcycling):
    """lr reduced once more by the scale, for which lr itself is the ground truth.

    At scale 1, where networks restore, that would be lr as the ground truth of itself, and teach
    the student to leave its input as it is. There the pair is reduced by `HALF`, both of it: what
    lr is above scale 1 is hr reduced as well.
    """

    name: ClassVar[str] = "zoom_out"

    reconstruction: float = 1.0
    """Weight of the distance to the ground truth, which is lr (at scale 1 hr, reduced)."""

    @override
    def view(self, batch: Batch) -> View:
        by = batch.scale if batch.scale > 1 else HALF
        h, w = (side // by * by for side in batch.lr.shape[-2:])
        low = batch.lr[..., :h, :w]
        return self.pair(
            downscale(low, by), low if batch.scale > 1 else downscale(batch.hr[..., :h, :w], by)
        )


@dataclass(frozen=True, kw_only=True)
class Mixup(Upcycling):
    """Each lr mixed with another of the batch, in a proportion drawn evenly from [0, 1].

    Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018, arXiv:1710.09412, with
    Beta(1, 1). Reduction is linear, so the mixture of the two hr is the exact ground truth.
    """

    name: ClassVar[str] = "mixup"

    reconstruction: float = 1.0
    """Weight of the distance to the mixture of both hr."""

    @override
    def view(self, batch: Batch) -> View:
        n = batch.lr.shape[0]
        own = to_device(torch.rand(n, 1, 1, 1, generator=batch.rng), batch.lr.device).to(
            batch.lr.dtype
        )
        other = torch.randperm(n, generator=batch.rng).tolist()
        image, truth = (own * x + (1 - own) * x[other] for x in (batch.lr, batch.hr))
        return self.pair(image, truth)


@dataclass(frozen=True, kw_only=True)
class CutBlur(Upcycling):
    """A window of hr in which a rectangle is the enlarged lr: where to sharpen, and where not.

    After Yoo et al., "Rethinking Data Augmentation for Image Super-resolution", CVPR 2020,
    arXiv:2004.00448, whose networks take images of hr's size; the teacher says what to make of it.
    """

    name: ClassVar[str] = "cutblur"

    @override
    def view(self, batch: Batch) -> View:
        both = torch.cat([batch.hr, upscale(batch.lr, batch.scale)], 1)  # (n, 6, H, W)
        h, w = batch.lr.shape[-2:]
        sharp, blurred = random_windows(both, (h, w), count=1, rng=batch.rng).chunk(2, 1)
        inside = to_device(random_rectangles(sharp.shape[0], (h, w), rng=batch.rng), sharp.device)
        image = torch.where(inside, blurred, sharp)
        return View(name=self.name, image=image, imitation=self.imitation)


def random_windows(hr: Tensor, size: tuple[int, int], *, count: int, rng: Generator) -> Tensor:
    """Cut windows at random places: ``(n, c, H, W)`` to ``(count * n, c, h, w)``, each at its own.

    Raises:
        ValueError: If a window is larger than ``hr``.
    """
    n, _, H, W = hr.shape
    h, w = size
    if h > H or w > W:
        raise ValueError(
            f"no window of {h} x {w} fits into hr of {H} x {W}: window is at most the scale"
        )
    top = torch.randint(H - h + 1, (count * n,), generator=rng).tolist()
    left = torch.randint(W - w + 1, (count * n,), generator=rng).tolist()
    return torch.stack(
        [hr[i % n, :, t : t + h, x : x + w] for i, (t, x) in enumerate(zip(top, left, strict=True))]
    )


def shared_tiles(hr: Tensor, size: tuple[int, int], *, count: int, rng: Generator) -> Tensor:
    """Cut distinct tiles of a grid: ``(n, 3, H, W)`` to ``(count * n, 3, h, w)``, the same for all.

    The released code's way (methods.md D5).

    Raises:
        ValueError: If there are fewer tiles than ``count``.
    """
    h, w = size
    rows, columns = hr.shape[-2] // h, hr.shape[-1] // w
    if count > rows * columns:
        raise ValueError(
            f"a grid of {rows} x {columns} tiles cannot give {count} different windows"
        )
    chosen = torch.randperm(rows * columns, generator=rng)[:count].tolist()
    corners = [(tile // columns * h, tile % columns * w) for tile in chosen]
    return torch.cat([hr[..., t : t + h, x : x + w] for t, x in corners])


def random_rectangles(count: int, size: tuple[int, int], *, rng: Generator) -> Tensor:
    """Masks ``(count, 1, h, w)``, true in a rectangle of half of each side, anywhere inside."""
    h, w = size
    masks = torch.zeros(count, 1, h, w, dtype=torch.bool)
    top = torch.randint(h - h // 2 + 1, (count,), generator=rng).tolist()
    left = torch.randint(w - w // 2 + 1, (count,), generator=rng).tolist()
    for mask, t, x in zip(masks, top, left, strict=True):
        mask[..., t : t + h // 2, x : x + w // 2] = True
    return masks
