"""Networks that dukd does not have, through spandrel, where it is installed (``dukd[spandrel]``).

spandrel tells forty architectures from their tensors. It imports torchvision for two of them that
do not upscale images; where torchvision is missing or does not go with this torch, three names
stand in for it while spandrel is imported.
"""

import importlib
import importlib.util
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from dukd.networks.base import pad_to_multiple
from dukd.networks.opaque import Opaque


def opened(tensors: Mapping[str, Tensor]) -> Opaque | None:
    """The network that tensors make by spandrel's knowledge; None if it is not installed.

    Raises:
        ValueError: If spandrel does not know it either, or it does not upscale RGB images.
    """
    spandrel = library()
    if spandrel is None:
        return None
    try:
        found: Any = spandrel.ModelLoader().load_from_state_dict(dict(tensors))
    except Exception as error:  # its architectures fail in their own ways
        raise ValueError(f"spandrel does not know it ({type(error).__name__}: {error})") from error
    name, channels = found.architecture.name, (found.input_channels, found.output_channels)
    if channels != (3, 3):
        raise ValueError(f"it is a {name} of {channels[0]} to {channels[1]} channels, not of RGB")
    sizes = found.size_requirements
    module = _Padded(found.model.eval(), sizes.multiple_of, sizes.minimum, name)
    return Opaque(module, found.scale)


class _Padded(nn.Module):
    """A module that takes sizes of its own."""

    def __init__(self, module: nn.Module, multiple: int, least: int, name: str) -> None:
        super().__init__()
        self.module = module
        self.multiple = max(1, multiple)
        self.least = least
        self.name = name

    @override
    def forward(self, lr: Tensor) -> Tensor:
        h, w = lr.shape[-2:]
        padded = pad_to_multiple(lr, self.multiple)
        while min(padded.shape[-2:]) < self.least:
            padded = pad_to_multiple(padded, self.least)
        sr: Tensor = self.module(padded)
        scale = sr.shape[-1] // padded.shape[-1]
        return sr[..., : h * scale, : w * scale]


def library() -> ModuleType | None:
    """The package spandrel; None if it, or what it needs, is not installed."""
    if importlib.util.find_spec("spandrel") is None:
        return None
    try:
        with _torchvision():
            return importlib.import_module("spandrel")
    except ImportError:  # einops, which it needs, may be missing
        return None


@contextmanager
def _torchvision() -> Generator[None]:
    """Within, torchvision can be imported: its own, or three names of it."""
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError):  # beside torch for CPUs it fails with a RuntimeError
        functional = ModuleType("torchvision.transforms.functional")
        functional.__dict__.update(InterpolationMode=object, rotate=None, normalize=None)
        transforms = ModuleType("torchvision.transforms")
        transforms.__dict__.update(functional=functional)
        whole = ModuleType("torchvision")
        whole.__dict__.update(transforms=transforms)
        names = {module.__name__: module for module in (whole, transforms, functional)}
        before = {name: sys.modules.pop(name, None) for name in names}
        sys.modules.update(names)
        try:
            yield
        finally:
            for name, module in before.items():
                sys.modules.pop(name, None)
                if module is not None:
                    sys.modules[name] = module
    else:
        yield
