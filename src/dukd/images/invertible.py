"""Augmentations that lose nothing: each has an exact inverse, and each commutes with upscaling.

Zhang et al., arXiv:2309.14162: flips, rotation or transposition, and color inversion. A composition
is undone in reverse order; the released code applies the same order again (methods.md D3), which
turns a transposition with one flip into a rotation by 180 degrees.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
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
class _Drawn(Invertible):
    """Operations in order, each for some images of the batch."""

    operations: tuple[Operation, ...]
    chosen: Tensor
    """``(operations, n)``, bool, on the CPU."""
    counts: tuple[int, ...]
    """Images that each is for."""
    _placed: dict[torch.device, Tensor] = field(
        default_factory=dict[torch.device, Tensor], compare=False
    )

    def apply(self, x: Tensor) -> Tensor:
        return self._change(x, range(len(self.operations)))

    def invert(self, x: Tensor) -> Tensor:
        return self._change(x, reversed(range(len(self.operations))))

    def _change(self, x: Tensor, order: Iterable[int]) -> Tensor:
        for number in order:
            if self.counts[number]:
                changed = _SelfInverse(self.operations[number]).apply(x)
                every = self.counts[number] == self.chosen.shape[1]
                x = changed if every else torch.where(self._masks(x.device)[number], changed, x)
        return x

    def _masks(self, device: torch.device) -> Tensor:
        """``(operations, n, 1, 1, 1)``, sent to a device once for all that is changed there."""
        if device not in self._placed:
            self._placed[device] = to_device(self.chosen, device)[..., None, None, None]
        return self._placed[device]


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
    chosen = torch.rand(len(operations), n, generator=rng) < probability
    for number, operation in enumerate(operations):
        if operation == "transpose" and h != w:
            chosen[number] = chosen[number, 0]
    return _Drawn(tuple(operations), chosen, tuple(chosen.sum(1).tolist()))
