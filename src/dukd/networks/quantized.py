"""A network whose convolutions compute in few bits, as a runtime will.

Its config stands around another: ``QuantizedConfig(network=EDSRConfig(...), target="openvino")``.
It is trained like any network, by any method; rounding is simulated in float32, with ranges that
are learned (`dukd.networks.quantize.layers`). Which layers stay float, and whether the residual
stream is an integer too, follows from the target (`dukd.networks.quantize.targets`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from dukd.core.config import nearest
from dukd.networks.base import Network, NetworkConfig, Output, Staged
from dukd.networks.quantize.graphs import tail_reads
from dukd.networks.quantize.placement import AnyQuantizer, Site, place
from dukd.networks.quantize.targets import BITS, TARGETS, WEIGHT_BITS, Target, TargetName

_PART = re.compile(r"^parts\.\d+\.")


@dataclass(frozen=True, kw_only=True)
class QuantizedConfig(NetworkConfig):
    """The numbers of a quantized network."""

    name: ClassVar[str] = "quantized"

    scale: int = 0
    """Upscaling factor; 0 takes the network's, and no other is allowed."""
    network: NetworkConfig
    """The network inside, a convolutional one; of one in branches, what they fold into."""
    target: TargetName = "openvino"
    """The runtime whose integers are simulated."""
    bits: int = 8
    """Bits of weights and activations: 8, or 6 and 4 in simulation alone."""
    weight_bits: int | None = None
    """Bits of weights where they are fewer: 7, with 8 of activations. Two products of them fit into
    the 16 bits in which processors without VNNI add; of 8 bits they overflow."""
    keep: tuple[str, ...] | None = None
    """Layers that stay float, such as ``conv_last``; ``ends`` for the first, those before a shuffle
    and the last; null for what the target recommends."""

    def __post_init__(self) -> None:
        """Refuse what cannot be quantized."""
        if isinstance(self.network, QuantizedConfig):
            raise ValueError(  # noqa: TRY004  it is a value of a config
                "the network inside is quantized already: name the float one"
            )
        if self.scale not in {0, self.network.scale}:
            raise ValueError(
                f"a quantized network has the scale of the one inside, {self.network.scale}, but "
                f"got {self.scale}"
            )
        object.__setattr__(self, "scale", self.network.scale)
        object.__setattr__(self, "network", self.network.deployed())
        if self.target not in TARGETS:
            raise ValueError(
                f"there is no target {self.target!r}{nearest(self.target, TARGETS)}; known are "
                f"{', '.join(TARGETS)}"
            )
        if self.bits not in BITS:
            raise ValueError(f"bits are 4, 6 or 8, but got {self.bits}")
        self._check_weight_bits()

    def _check_weight_bits(self) -> None:
        if self.weight_bits is None:
            return
        if self.weight_bits != WEIGHT_BITS:
            raise ValueError(
                f"weight_bits is {WEIGHT_BITS}, or left out for as many as bits, but got "
                f"{self.weight_bits}"
            )
        if self.bits != 8 or self.runtime.scheme in {"daq", "pams"}:
            raise ValueError(
                f"weights of {WEIGHT_BITS} bits are for runtimes that compute in 8: leave "
                f"weight_bits out for {self.target} in {self.bits} bits"
            )

    @property
    def runtime(self) -> Target:
        """What the target computes."""
        return TARGETS[self.target]

    @override
    def build(self) -> "Quantized":
        return Quantized(self)


class Quantized(Staged):
    """A network in few bits. Until it is calibrated all ranges are from -1 to 1.

    Its weights are saved in float32, under their names behind ``parts.<number>.``.
    """

    fp16_safe: ClassVar[bool] = False

    def __init__(self, config: QuantizedConfig) -> None:
        network = config.network.build()
        if not isinstance(network, Staged):
            raise ValueError(  # noqa: TRY004  it is the caller's choice of network
                f"{config.network.name} is one piece and cannot be quantized: write it as a Staged"
            )
        super().__init__(
            config,
            width=network.width,
            size_multiple=network.size_multiple,
            radius=network.radius,
        )
        # as the one inside has it
        self.channels_last = network.channels_last  # pyright: ignore[reportAttributeAccessIssue]
        self.keeps = network.keeps
        self.reads = tail_reads(network)
        """Numbers of the stages whose outputs the tail is given."""
        keep = config.runtime.keep if config.keep is None else config.keep
        placed = place(network, config.runtime, config.bits, keep, weight_bits=config.weight_bits)
        self.parts = nn.ModuleList(placed.parts)
        self.convolutions, self.quantized = placed.convolutions, placed.quantized
        self.whole, self.sites = placed.whole, placed.sites

    @property
    @override
    def stages(self) -> Sequence[nn.Module]:
        return list(self.parts)[1:-1]

    @override
    def head(self, lr: Tensor) -> Tensor:
        return self.parts[0](lr)

    @override
    def tail(self, x: Tensor, kept: Mapping[int, Tensor], lr: Tensor) -> Tensor:
        return self.parts[-1](x, lr, [kept[number] for number in self.reads])

    @override
    def observe(self, lr: Tensor, depths: Sequence[float]) -> Output:
        kind = next(self.parameters()).dtype
        device = lr.device.type
        if kind != torch.float32 or (device != "meta" and torch.is_autocast_enabled(device)):
            raise ValueError(
                "a quantized network computes in float32, in which its integers are simulated, and "
                "not in 16 bits: leave the precision at float32"
            )
        return super().observe(lr, depths)

    def quantizer(self, site: Site) -> AnyQuantizer:
        """The quantizer at a site."""
        found = self.parts[site.part].get_submodule(site.module)
        assert isinstance(found, AnyQuantizer)
        return found

    def convolution(self, name: str) -> nn.Conv2d:
        """The convolution of a name in the network inside."""
        for part in self.parts:
            for found, module in part.named_modules():
                if found == name and isinstance(module, nn.Conv2d):
                    return module
        raise ValueError(f"there is no convolution {name!r}")

    def floats(self) -> dict[str, Tensor]:
        """The weights in float, under the names they have in the network inside."""
        inside = {_PART.sub("", name): value for name, value in self.state_dict().items()}
        with torch.device("meta"):
            wanted = self.network_config.build().state_dict()
        return {name: inside[name] for name in wanted}

    @torch.no_grad()
    def take(self, floats: Mapping[str, Tensor]) -> None:
        """Take weights in float, under the names they have in the network inside.

        Raises:
            ValueError: If one is missing or has another shape.
        """
        ours = self.floats()
        if wrong := [n for n, v in ours.items() if n not in floats or floats[n].shape != v.shape]:
            raise ValueError(f"the weights do not fit: {', '.join(wrong[:3])}")
        for name, value in ours.items():
            value.copy_(floats[name])

    @property
    def network_config(self) -> NetworkConfig:
        """The numbers of the network inside."""
        assert isinstance(self.config, QuantizedConfig)
        return self.config.network

    @property
    def runtime_has_integers(self) -> bool:
        """Whether a runtime computes so; else the target is one of the literature."""
        assert isinstance(self.config, QuantizedConfig)
        return self.config.runtime.scheme in {"affine", "symmetric"}

    def describe(self) -> list[str]:
        """What is quantized and what stays float, a sentence each."""
        assert isinstance(self.config, QuantizedConfig)
        target = self.config.runtime
        stream = "the residual stream too" if target.stream else "additions in float"
        fewer = f", weights in {self.config.weight_bits}," if self.config.weight_bits else ""
        lines = [
            f"{len(self.quantized)} of {len(self.convolutions)} convolutions in "
            f"{self.config.bits} bits{fewer} for {self.config.target}, {stream}"
        ]
        if kept := [name for name in self.convolutions if name not in self.quantized]:
            lines.append(f"{', '.join(kept)} stay float")
        if self.whole:
            lines.append(
                f"{', '.join(self.whole)} cannot be quantized (attention, or pooling over the "
                "image) and stay float as a whole"
            )
        return lines


def as_quantized(network: Network, **choices: object) -> Quantized:
    """A quantized copy of a float network, whose ranges are still to be set.

    Args:
        network: What to quantize; it stays as it is.
        choices: ``target``, ``bits``, ``weight_bits`` and ``keep`` of `QuantizedConfig`.

    Raises:
        ValueError: If the network cannot be quantized.
    """
    with torch.random.fork_rng(devices=[]):
        # the config says which choices there are
        config = QuantizedConfig(
            network=network.config,
            **choices,  # pyright: ignore[reportArgumentType]
        )
        made = config.build()
        made.take(network.folded().state_dict())
    return made.train(network.training)
