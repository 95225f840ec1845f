"""Weights for other code: the tensors alone, under the names that it expects."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from dukd.deploy.runtime import Runtime
from dukd.networks import Network, layouts
from dukd.networks.files import weights
from dukd.networks.files.openers import opening
from dukd.networks.upscaler import OnDevice, Upscaler

_OURS = {"dukd", "network", "config", "scale", "radius", "size_multiple", "sha256"}


@dataclass(frozen=True, kw_only=True)
class Weights(Runtime):
    """A file of weights: for torch, or for chaiNNer and other programs that know the network."""

    name: ClassVar[str] = "weights"
    suffixes: ClassVar[tuple[str, ...]] = (".safetensors", ".pth", ".pt")

    layout: str = "auto"
    """Whose names the tensors get, such as basicsr or official; auto is dukd's own for
    .safetensors, which describe themselves, and for .pth the first published one that chaiNNer
    and the like open, or simply the first."""

    @property
    @override
    def form(self) -> str:
        return "weights" if self.layout == "auto" else f"weights ({self.layout})"

    @override
    def export(self, network: Network, path: Path, properties: Mapping[str, str]) -> None:
        layout = self.chosen(network, path)
        more = {key: value for key, value in properties.items() if key not in _OURS}
        weights.write(path, network, layout=layout, metadata=more)

    def chosen(self, network: Network, path: Path) -> str:
        """The layout that is written."""
        if self.layout != "auto":
            return self.layout
        if path.suffix.lower() == ".safetensors":
            return "dukd"
        names = [one.name for one in network.config.layouts()]
        return next(iter([*opening(network.config).layouts, *names]), "dukd")

    @override
    def load(self, path: Path) -> Upscaler:
        return OnDevice(weights.read(path).frozen())

    @override
    def reload(self, path: Path, network: Network) -> Upscaler:
        layout = self.chosen(network, path)
        held = network if layout == "dukd" else layouts.named(network.config, layout).held(network)
        return OnDevice(weights.read(path, config=held.config).frozen())
