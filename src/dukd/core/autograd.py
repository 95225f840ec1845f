"""What torch's types lack of its own gradients' contexts."""

from typing import Protocol, cast

from torch import Tensor
from torch.autograd.function import FunctionCtx


class _Saved(Protocol):
    saved_tensors: tuple[Tensor, ...]


class _Kept(Protocol):
    kept: object


def saved(ctx: FunctionCtx) -> tuple[Tensor, ...]:
    """What ``ctx.save_for_backward`` was given, in order."""
    return cast("_Saved", ctx).saved_tensors


def keep(ctx: FunctionCtx, value: object) -> None:
    """Keep something other than tensors for the way back."""
    cast("_Kept", ctx).kept = value


def kept(ctx: FunctionCtx) -> object:
    """What ``keep`` was given."""
    return cast("_Kept", ctx).kept
