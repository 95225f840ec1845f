"""Which other programs open a network's files, told before it is trained.

chaiNNer, traiNNer and many more open files with the library spandrel, which tells a network from
its tensors. Each layout of a network says for itself what spandrel makes of it (`Layout.closed`);
the tests hold that against spandrel.
"""

from dataclasses import dataclass

from dukd.networks.base import NetworkConfig
from dukd.networks.quantized import QuantizedConfig


@dataclass(frozen=True)
class Opening:
    """What other programs do with files of a network."""

    layouts: tuple[str, ...]
    """Names of the layouts that spandrel opens, in the network's order."""
    reasons: tuple[str, ...]
    """Why it does not open the others, a phrase each."""

    def __str__(self) -> str:
        """A sentence for people, without a full stop."""
        if self.layouts:
            return (
                "chaiNNer and others that use spandrel open it "
                f"(dukd export, .pth, layout {self.layouts[0]})"
            )
        reasons = "; ".join(dict.fromkeys(self.reasons))
        return f"no program that uses spandrel, such as chaiNNer, opens it: {reasons}; ONNX serves"


def opening(config: NetworkConfig) -> Opening:
    """Who opens the files of a network with these numbers; nothing is built."""
    if isinstance(config, QuantizedConfig):
        return Opening((), ("weights of 8 bits are dukd's own",))
    closed = {layout.name: layout.closed(config) for layout in config.layouts()}
    reasons = tuple(why for why in closed.values() if why)
    return Opening(
        tuple(name for name, why in closed.items() if not why),
        reasons if closed else (f"{config.name} has no published layout",),
    )
