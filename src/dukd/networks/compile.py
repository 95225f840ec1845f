"""Networks behind torch.compile, which go on without it where it fails."""

import copy
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dukd.core.text import first_line
from dukd.networks.base import Network, Output
from dukd.networks.ensemble import Ensemble
from dukd.networks.opaque import Opaque
from dukd.networks.recorded import held, release
from dukd.networks.reduced import Reduced

_PASSES = 64
"""Passes that may be compiled in a process; torch counts those of all networks together, and stops
at 8."""


def compiled(network: Network, *, graphs: bool = False) -> Network:
    """Compile a network's pass, in place.

    The first failure is a warning and ends the attempt.

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
    plain = network.observe

    def tensors(lr: Tensor, depths: tuple[float, ...]) -> tuple[Tensor, list[Tensor]]:
        sr, features, _ = plain(lr, depths)
        return sr, features

    fast = torch.compile(tensors, mode="reduce-overhead" if graphs else None, dynamic=False)

    def attempt(lr: Tensor, depths: Sequence[float]) -> Output:
        try:
            return Output(*fast(lr, tuple(depths)), network)
        except (
            torch.OutOfMemoryError
        ):  # the compiler is not to blame, and the batch would not fit without it
            raise
        except Exception as error:  # noqa: BLE001  the compiler's own share no class
            network.observe = plain
            output = plain(lr, depths)  # raises itself where the caller made the mistake
            warnings.warn(
                f"torch.compile failed for {network.config.name}, which goes on without: "
                + first_line(error),
                RuntimeWarning,
                stacklevel=2,
            )
            return output

    network.observe = attempt
    return network


def lowered(network: Network) -> Network:
    """Copy a frozen network with weights of products in bfloat16, as autocast makes in every pass.

    Under autocast to bfloat16 the copy gives the network's outputs to the bit; elsewhere it
    cannot run.
    """
    if any(isinstance(part, Opaque) for part in network.modules()):
        return network  # another's code casts as it likes; autocast serves it
    if isinstance(network, Reduced):
        return Reduced(lowered(network.network), network.scale).frozen()
    copied = copy.deepcopy(network)
    # What joins an ensemble's outputs computes in the type of its weights.
    for part in copied.members.values() if isinstance(copied, Ensemble) else [copied]:
        for module in part.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.to(torch.bfloat16)
    return copied


def begin_step(*, compiles: bool) -> None:
    """Let replayed graphs write over what they gave in the step before.

    Args:
        compiles: Whether the compiler recorded them.
    """
    if compiles:
        torch.compiler.cudagraph_mark_step_begin()
    release()


@contextmanager
def as_written() -> Generator[None, None, None]:
    """A context in which networks that are compiled or recorded run as they are written.

    For images of many sizes, as in validation.
    """
    with torch.compiler.set_stance("force_eager"), held():
        yield
