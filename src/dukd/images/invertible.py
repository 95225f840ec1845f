"""Augmentations that lose nothing: each has an exact inverse, and each commutes with upscaling.

Zhang et al., arXiv:2309.14162: flips, rotation or transposition, and color inversion. A composition
is undone in reverse order; the released code applies the same order again (methods.md D3), which
turns a transposition with one flip into a rotation by 180 degrees.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, NamedTuple, cast

import torch
from torch import Generator, Tensor
from torch.autograd.function import FunctionCtx
from typing_extensions import override

from dukd.core.autograd import keep, kept, saved
from dukd.core.device import lies_together, to_device


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
        return self._change(x, back=False)

    def invert(self, x: Tensor) -> Tensor:
        return self._change(x, back=True)

    def _change(self, x: Tensor, *, back: bool) -> Tensor:
        mixed = any(0 < count < self.chosen.shape[1] for count in self.counts)
        if mixed and x.device.type == "cpu":
            return _OneByOne.apply(x, _Way(self, back))
        for number in self._order(back=back):
            if self.counts[number]:
                changed = _SelfInverse(self.operations[number]).apply(x)
                every = self.counts[number] == self.chosen.shape[1]
                x = changed if every else torch.where(self._masks(x.device)[number], changed, x)
        return x

    def one_by_one(self, x: Tensor, *, back: bool, linear: bool) -> Tensor:
        """As ``apply`` or ``invert``, at one copy an image; a gradient is changed if linear."""
        order = self._order(back=back)
        changed = [
            _changed(image, [self.operations[k] for k in order if own[k]], linear=linear)
            for image, own in zip(x, self.chosen.T.tolist(), strict=True)
        ]
        turns = sum(
            n > 0 for n, o in zip(self.counts, self.operations, strict=True) if o == "transpose"
        )
        # in memory as `torch.where` lays it on a device: sums over it have an order
        made = torch.empty_like(x.mT if turns % 2 else x)
        for number, image in enumerate(changed):
            made[number] = image
        return made

    def _order(self, *, back: bool) -> Sequence[int]:
        order = range(len(self.operations))
        return order[::-1] if back else order

    def _masks(self, device: torch.device) -> Tensor:
        """``(operations, n, 1, 1, 1)``, sent to a device once for all that is changed there."""
        if device not in self._placed:
            self._placed[device] = to_device(self.chosen, device)[..., None, None, None]
        return self._placed[device]


class _Way(NamedTuple):
    """Which change, and in which direction."""

    change: _Drawn
    back: bool
    linear: bool = False


class _OneByOne(torch.autograd.Function):
    """Images of a batch changed one by one; the gradient goes home the same way.

    On a processor, where a copy of the batch for each operation would cost a small student more
    than its layers without weights do.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, way: _Way) -> Tensor:
        keep(ctx, way)
        return way.change.one_by_one(x, back=way.back, linear=way.linear)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        change, back, _ = cast("_Way", kept(ctx))
        return _OneByOne.apply(gradients[0], _Way(change, not back, linear=True)), None


def _changed(image: Tensor, operations: Sequence[Operation], *, linear: bool) -> Tensor:
    for operation in operations:
        inverts = linear and operation == "invert"
        image = -image if inverts else _SelfInverse(operation).apply(image)
    return image


def drawn(change: Invertible) -> tuple[tuple[Operation, ...], list[Tensor]] | None:
    """What `draw` drew, as `Tabled` takes it: operations, and codes, factors and summands.

    None of another change.
    """
    if not isinstance(change, _Drawn):
        return None
    moving = [n for n, name in enumerate(change.operations) if name != "invert"]
    chosen = change.chosen.long()
    codes = sum((chosen[n] << bit for bit, n in enumerate(moving)), torch.zeros_like(chosen[0]))
    inverting = [n for n, name in enumerate(change.operations) if name == "invert"]
    inverted = (chosen[inverting].sum(0) % 2).float()[:, None, None, None]
    return change.operations, [codes, 1 - 2 * inverted, inverted]


class Tabled(Invertible):
    """Operations that tensors on a device choose for each image, whatever they hold by then.

    The host never looks, so they may change between two replays of a CUDA graph, and what is done
    is two kernels: pixels are read in the order of a table, and colors are factor and summand.

    Args:
        operations: Applied in this order, to square images.
        codes: ``(n,)``, int64: bit ``k`` is set where the ``k``-th operation that moves pixels is
            for an image.
        factors: ``(n, 1, 1, 1)``, -1 where colors are inverted and 1 elsewhere; None for none.
        summands: ``(n, 1, 1, 1)``, 1 where they are and 0 elsewhere.
    """

    def __init__(
        self,
        operations: Sequence[Operation],
        codes: Tensor,
        factors: Tensor | None = None,
        summands: Tensor | None = None,
    ) -> None:
        self._moving = tuple(name for name in operations if name != "invert")
        self._colors = (factors, summands) if "invert" in operations else (None, None)
        self._codes = codes
        self._read: dict[int, tuple[Tensor, Tensor]] = {}

    @override
    def apply(self, x: Tensor) -> Tensor:
        return self._changed(x, back=False)

    @override
    def invert(self, x: Tensor) -> Tensor:
        return self._changed(x, back=True)

    def _changed(self, x: Tensor, *, back: bool) -> Tensor:
        there, home = self._orders(x.shape[-1], x.device)
        moved = _Moved.apply(x, *((home, there) if back else (there, home)))
        factors, summands = self._colors
        if factors is None or summands is None:
            return moved
        return torch.addcmul(summands.to(x.dtype), moved, factors.to(x.dtype))

    def _orders(self, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """In which order each image's pixels are read, ``(n, side * side)``, and back."""
        if side not in self._read:
            there, home = _tables(self._moving, side, device)
            orders = there.index_select(0, self._codes), home.index_select(0, self._codes)
            self._read[side] = orders
        return self._read[side]


class _Moved(torch.autograd.Function):
    """Pixels in another order; the gradient goes home the same way."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, there: Tensor, home: Tensor) -> Tensor:
        ctx.save_for_backward(home)
        return _gathered(x, there)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (home,) = saved(ctx)
        return _gathered(gradients[0], home), None, None


def _gathered(x: Tensor, index: Tensor) -> Tensor:
    """Read ``(n, c, s, s)`` in the order of ``(n, s * s)``; channels stay as they lie."""
    n, c, s, _ = x.shape
    if lies_together(x):
        flat = x.permute(0, 2, 3, 1).reshape(n, s * s, c)
        read = flat.gather(1, index[:, :, None].expand(-1, -1, c))
        return read.view(n, s, s, c).permute(0, 3, 1, 2)
    return x.reshape(n, c, s * s).gather(2, index[:, None].expand(-1, c, -1)).view(n, c, s, s)


@cache
def _tables(
    operations: tuple[Operation, ...], side: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """For each code the order in which pixels are read, ``(codes, side * side)``, and back.

    Never put out: a CUDA graph may read them.
    """
    pixels = torch.arange(side * side).view(1, 1, side, side)
    there: list[Tensor] = []
    home: list[Tensor] = []
    for code in range(1 << len(operations)):
        one = compose([_SelfInverse(o) for k, o in enumerate(operations) if code >> k & 1])
        there.append(one.apply(pixels).flatten())
        home.append(one.invert(pixels).flatten())
    return to_device(torch.stack(there), device), to_device(torch.stack(home), device)


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
