"""How low-resolution images come about: the seam, and the bicubic interpolation of the papers.

A degradation that is ``fixed`` gives the same image every time and is packed once; any other is
computed for every patch anew, from the patch and a random generator alone, so that a run resumes
to the same bits with any number of workers and processes.
"""

import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from dukd.core.registry import known
from dukd.images.resize import imresize_uint8

Levels = NDArray[np.uint8]
"""``(h, w, 3)``, RGB."""


class Degradation(ABC):
    """Turns a high-resolution image into a low-resolution one."""

    brief: ClassVar[bool] = True
    """A configuration writes one with its defaults as its name."""
    name: ClassVar[str]
    """As options and files call it."""
    fixed: ClassVar[bool]
    """Whether it draws nothing, so that its result can be kept."""
    varies: ClassVar[bool] = True
    """Whether two draws differ; one that is not fixed may still always do the same."""
    margin: ClassVar[int] = 0
    """Low-resolution pixels around a patch that are degraded with it and then cut off."""

    @abstractmethod
    def apply(self, hr: Levels, scale: int, rng: np.random.Generator) -> Levels:
        """Degrade an image.

        Args:
            hr: ``(h * scale, w * scale, 3)``, RGB of 8 bits; it stays as it is.
            scale: Factor by which the result is smaller.
            rng: The only source of randomness.

        Returns:
            ``(h, w, 3)``, RGB of 8 bits.

        Raises:
            ValueError: If the image is not a multiple of the scale, or too small.
        """

    def truth(self, hr: Levels) -> Levels:
        """What a network is to give back for it: ``hr`` itself, unless a recipe sharpens it."""
        return hr


@dataclass(frozen=True)
class Bicubic(Degradation):
    """MATLAB's bicubic interpolation on 8 bits, which made the sets of the papers."""

    name: ClassVar[str] = "bicubic"
    fixed: ClassVar[bool] = True

    @override
    def apply(self, hr: Levels, scale: int, rng: np.random.Generator) -> Levels:
        checked(hr, scale)
        return imresize_uint8(hr, 1 / scale)


def checked(hr: Levels, scale: int, *, least: int = 1) -> None:
    """Refuse what cannot be degraded.

    Args:
        hr: The image.
        scale: Factor by which it is reduced.
        least: Smallest side: that of the largest blur kernel.

    Raises:
        ValueError: With the shape, and what to do.
    """
    if hr.ndim != 3 or hr.shape[2] != 3 or hr.dtype != np.uint8:
        raise ValueError(
            f"a degradation takes RGB of 8 bits, (h, w, 3), but got {hr.shape} of {hr.dtype}: "
            "repeat gray three times and leave alpha out"
        )
    h, w = hr.shape[:2]
    if scale < 1 or not h or not w or h % scale or w % scale:
        raise ValueError(
            f"an image of {w} x {h} pixels is not a multiple of the scale {scale}: cut it at the "
            "bottom and the right"
        )
    if min(h, w) < least:
        raise ValueError(
            f"an image of {w} x {h} pixels is smaller than the largest blur kernel, {least}: take "
            "larger images, or smaller kernels"
        )


def presets() -> dict[str, type[Degradation]]:
    """Every degradation by its name, a plug-in's too; each is made with its defaults."""
    for module in ("bsrgan", "two_stage"):
        importlib.import_module(f"dukd.images.{module}")
    return known(Degradation)


def preset(name: str) -> Degradation:
    """The degradation of a name, with its own numbers.

    Raises:
        ValueError: If there is none, naming all.
    """
    found = presets()
    if name not in found:
        raise ValueError(f"there is no degradation {name!r}; there are {', '.join(found)}")
    return found[name]()
