"""Augmentations that lose nothing: each has an exact inverse, and each commutes with upscaling.

Zhang et al., arXiv:2309.14162: flips, rotation or transposition, and color inversion. A composition
is undone in reverse order; the released code applies the same order again (methods.md D3), which
turns a transposition with one flip into a rotation by 180 degrees.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from dukd.core.device import to_device


class Invertible(ABC):
    """A change of images ``(n, c, h, w)`` that can be undone and commutes with upscaling."""

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """Change the images; the input stays as it is."""

    @abstractmethod
    def invert(self, x: Tensor) -> Tensor:
        """Undo ``apply``, also on images that were upscaled in between."""


@dataclass(frozen=True)
class _SelfInverse(Invertible):
    operation: "Operation"

    def apply(self, x: Tensor) -> Tensor:
        match self.operation:
            case "invert":
                return 1 - x
            case "flip_rows":
                return x.flip(-2)
            case "flip_columns":
                return x.flip(-1)
            case "transpose":
                return x.mT

    def invert(self, x: Tensor) -> Tensor:
        return self.apply(x)


Operation = Literal["invert", "flip_rows", "flip_columns", "transpose"]
OPERATIONS: tuple[Operation, ...] = ("invert", "flip_rows", "flip_columns", "transpose")
"""What a composition is drawn from; with transposition the two flips make every rotation."""
SYMMETRIES: tuple[Operation, ...] = ("flip_rows", "flip_columns", "transpose")
"""Those that leave colors as they are. Each with even chances, all eight symmetries of the square
are equally likely."""

INVERT = _SelfInverse("invert")
FLIP_ROWS = _SelfInverse("flip_rows")
FLIP_COLUMNS = _SelfInverse("flip_columns")
TRANSPOSE = _SelfInverse("transpose")
ALL: tuple[Invertible, ...] = (INVERT, FLIP_ROWS, FLIP_COLUMNS, TRANSPOSE)


@dataclass(frozen=True)
class _Composition(Invertible):
    steps: tuple[Invertible, ...]

    def apply(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step.apply(x)
        return x

    def invert(self, x: Tensor) -> Tensor:
        for step in reversed(self.steps):
            x = step.invert(x)
        return x


def compose(steps: Sequence[Invertible]) -> Invertible:
    """Apply ``steps`` in order; undo them in reverse order."""
    return _Composition(tuple(steps))


@dataclass(frozen=True)
class _Some(Invertible):
    """A step for some images of the batch; ``chosen`` is ``(n,)``, bool, on the CPU."""

    step: Invertible
    chosen: Tensor

    def _where(self, changed: Tensor, x: Tensor) -> Tensor:
        return torch.where(to_device(self.chosen, x.device)[:, None, None, None], changed, x)

    def apply(self, x: Tensor) -> Tensor:
        if not self.chosen.any():
            return x
        return self.step.apply(x) if self.chosen.all() else self._where(self.step.apply(x), x)

    def invert(self, x: Tensor) -> Tensor:
        if not self.chosen.any():
            return x
        return self.step.invert(x) if self.chosen.all() else self._where(self.step.invert(x), x)


def draw(
    shape: Sequence[int],
    *,
    probability: float,
    rng: Generator,
    operations: Sequence[Operation] = OPERATIONS,
) -> Invertible:
    """Draw a composition for each image of a batch: each operation with the same probability.

    Args:
        shape: ``(n, c, h, w)`` of the batch it will be applied to. Where ``h`` and ``w`` differ,
            transposition is drawn once for the whole batch, since transposed and other images could
            not share a tensor.
        probability: Of each operation, in [0, 1]; 0.3 in the released code.
        rng: Source of the draw, on the CPU.
        operations: What to draw from, applied in this order.

    Returns:
        An augmentation for batches of ``n`` images, of any size that is square where ``shape`` was.

    Raises:
        ValueError: If the probability lies outside [0, 1].
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"a probability lies in [0, 1], but got {probability}")
    n, _, h, w = shape
    chances = torch.rand(len(operations), n, generator=rng)
    steps: list[Invertible] = []
    for operation, chance in zip(operations, chances, strict=True):
        chosen = chance < probability
        if operation == "transpose" and h != w:
            chosen = chosen[:1].expand(n)
        steps.append(_Some(_SelfInverse(operation), chosen))
    return compose(steps)
