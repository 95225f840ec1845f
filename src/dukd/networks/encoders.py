"""What perceptual encoders are, and how their files are read."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Self, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from typing_extensions import override

from dukd.core.files import sha256 as digest
from dukd.networks.base import pad_to_multiple

SHALLOWEST = 16
"""Images are padded to a multiple of this many pixels, so that the fifth level has a pixel of its
own."""


class Encoder(nn.Module, ABC):
    """A frozen encoder with five levels, each of half the size of the one before.

    Its tensors move with the module, but take no gradient, are in no checkpoint, and know no
    training mode.
    """

    @abstractmethod
    def encode(self, x: Tensor) -> list[Tensor]:
        """Features ``(n, c_i, h / 2**i, w / 2**i)`` of padded RGB in [0, 1], ``i`` from 0 to 4."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compare-ready features, one per level, of ``(n, 3, h, w)`` RGB in [0, 1]."""
        with torch.autocast(x.device.type, enabled=False):
            return self.encode(self.prepared(x))

    def prepared(self, x: Tensor) -> Tensor:
        """``x`` in the encoder's own precision, padded so that every level has pixels."""
        return pad_to_multiple(x.to(next(self.buffers()).dtype), SHALLOWEST)

    @override
    def train(self, mode: bool = True) -> Self:
        del mode
        return super().train(False)


class CodedEncoder(Encoder):
    """An encoder whose last feature, at a sixteenth of the size, is compared with codes."""

    codes: Tensor
    """``(k, d)``."""

    @abstractmethod
    def latent(self, x: Tensor) -> Tensor:
        """``(n, d, h / 16, w / 16)`` of padded RGB in [0, 1]."""

    def distances(self, x: Tensor) -> Tensor:
        """Squared distances of latents to codes: ``(n, 3, h, w)`` to ``(n, positions, k)``."""
        with torch.autocast(x.device.type, enabled=False):
            z = self.latent(self.prepared(x)).flatten(2).mT  # (n, positions, d)
            return (
                z.square().sum(2, keepdim=True) - 2 * z @ self.codes.T + self.codes.square().sum(1)
            )


def as_constants(module: nn.Module) -> None:
    """Turn parameters and buffers into buffers that are in no checkpoint and take no gradient."""
    for part in list(module.modules()):
        for name, p in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, p.detach().clone(), persistent=False)
        for name, b in list(part.named_buffers(recurse=False)):
            part.register_buffer(name, b.detach(), persistent=False)


def read_tensors(path: Path, sha256: str = "") -> dict[str, Tensor]:
    """Read named tensors without running anything the file may hold.

    Raises:
        ValueError: If the file is missing, is another than ``sha256`` says, or holds anything but
            tensors.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; it should hold the encoder's weights")
    if sha256 and digest(path) != sha256.lower():
        raise ValueError(
            f"{path}: its SHA-256 is {digest(path)}, not {sha256}; fetch it again or correct the "
            "hash"
        )
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        loaded: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # every kind of damage has its own exception
        raise ValueError(
            f"{path}: cannot be read safely ({type(error).__name__}); save its tensors as "
            "safetensors"
        ) from error
    if isinstance(loaded, dict) and isinstance(
        inner := cast("dict[object, object]", loaded).get("state_dict"), dict
    ):
        loaded = cast("dict[object, object]", inner)
    if not isinstance(loaded, dict):
        raise ValueError(  # noqa: TRY004  the file is wrong, not our caller's type
            f"{path}: holds {type(loaded).__name__}, not tensors by name"
        )
    named = cast("dict[object, object]", loaded)
    return {str(name): value for name, value in named.items() if isinstance(value, Tensor)}


def checked(state: Mapping[str, Tensor], name: str, shape: tuple[int, ...], layout: str) -> Tensor:
    """One tensor of a state, in float32, after a look at its shape and values."""
    if name not in state:
        raise ValueError(missing(name, layout))
    tensor = state[name].detach().float().clone()
    if tensor.shape != shape:
        raise ValueError(
            f"{name} should be {tuple(shape)} in {layout}, but the file has {tuple(tensor.shape)}"
        )
    largest = float(tensor.abs().max())
    if not largest < _LARGEST:  # also where it is NaN
        raise ValueError(
            f"{name} reaches {largest}; no trained encoder's does, so the file is damaged or "
            "another's"
        )
    if name.endswith("weight") and largest == 0:
        raise ValueError(f"{name} is zero everywhere; the file is damaged")
    return tensor


_LARGEST = 1000.0


def missing(name: str, layout: str) -> str:
    """What to say where a file lacks a tensor."""
    return f"the file has no {name}, so it is not in the layout of {layout}"
