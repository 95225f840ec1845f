"""Networks behind torch.compile, which go on without it where it fails."""

import copy
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from dukd.networks.base import SRNetwork
from dukd.networks.ensemble import Ensemble

_PASSES = 64
"""Passes that may be compiled in a process; torch counts those of all networks together, and stops
at 8."""


def compiled(network: SRNetwork, *, graphs: bool = False) -> SRNetwork:
    """Compile the pass that methods ask for, in place; the first failure is told as a warning and ends the attempt.

    Compilers are missing, or trip over a network, on many machines; what they were to speed up
    works without them. Each size of image is compiled for itself, since training shows but a few:
    show others in `as_written`.

    Args:
        network: The network.
        graphs: Whether its kernels are recorded as CUDA graphs and replayed; call `begin_step`
            before each step then.
    """
    import torch._dynamo.config as dynamo  # noqa: PLC0415  takes seconds

    dynamo.recompile_limit = max(_PASSES, dynamo.recompile_limit)
    plain = network.forward_with_features
    fast = torch.compile(plain, mode="reduce-overhead" if graphs else None, dynamic=False)

    def attempt(lr: Tensor, depths: Sequence[float]) -> tuple[Tensor, list[Tensor]]:
        try:
            return fast(lr, tuple(depths))
        except (
            torch.OutOfMemoryError
        ):  # the compiler is not to blame, and what was asked for would not fit without it
            raise
        except Exception as error:  # noqa: BLE001  the compiler's own are of many kinds
            network.forward_with_features = plain
            answer = plain(lr, depths)  # raises itself where the caller made the mistake
            reason = (str(error).strip().splitlines() or [""])[0][:200]
            warnings.warn(
                f"torch.compile failed for {network.config.name}, which goes on without: "
                f"{type(error).__name__}: {reason}",
                RuntimeWarning,
                stacklevel=2,
            )
            return answer

    network.forward_with_features = attempt
    return network


def lowered(network: SRNetwork) -> SRNetwork:
    """Copy a frozen network with the weights of products in bfloat16, as autocast makes them anew in every pass.

    Under autocast to bfloat16 the copy answers to the bit what the network does; elsewhere it
    cannot be asked.
    """
    copied = copy.deepcopy(network)
    # What joins an ensemble's answers computes in the type of its weights.
    for part in copied.members.values() if isinstance(copied, Ensemble) else [copied]:
        for module in part.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.to(torch.bfloat16)
    return copied


def begin_step() -> None:
    """Let replayed graphs write over what they answered in the step before."""
    torch.compiler.cudagraph_mark_step_begin()


def as_written() -> AbstractContextManager[object]:
    """A context in which compiled networks run as they are written: for images of many sizes, as in validation."""
    return torch.compiler.set_stance("force_eager")
