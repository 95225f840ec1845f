"""Networks behind torch.compile, which go on without it where it fails."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from dukd.networks._network import SRNetwork


def compiled(network: SRNetwork) -> SRNetwork:
    """Compile the pass that methods ask for, in place; the first failure is told as a warning and ends the attempt.

    Compilers are missing, or trip over a network, on many machines; what they were to speed up works without them.
    """
    plain = network.forward_with_features
    fast = torch.compile(plain)

    def attempt(lr: Tensor, depths: Sequence[float]) -> tuple[Tensor, list[Tensor]]:
        try:
            return fast(lr, tuple(depths))
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
