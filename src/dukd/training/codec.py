"""How the cache keeps numbers: images in fixed point, features between each channel's extremes."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dukd.core.device import to_device

Bits = Literal[8, 16, 32]
"""Bits per value; 32 keeps the teacher's own float32."""
Stored = NDArray[np.generic]


@dataclass(frozen=True)
class Codec:
    """Fixed point: ``round(value * levels) + zero``, clamped, so that 0 and 1 are exact.

    8 bits span -0.071 to 1.067 in steps of 1.14 gray levels, 16 bits -0.5 to 1.5.
    """

    bits: Bits

    @property
    def dtype(self) -> str:
        """Numpy's name of what is stored."""
        return {8: "|u1", 16: "<u2", 32: "<f4"}[self.bits]

    def encode(self, x: Tensor) -> Stored:
        """Turn a teacher's output into what is stored."""
        if self.bits == 32:
            return x.detach().float().cpu().contiguous().numpy()
        levels, zero, top = self._numbers()
        return _stored((x.detach().float() * levels).round_().add_(zero).clamp_(0, top), self.bits)

    def decode(self, stored: Stored, device: torch.device) -> Tensor:
        """Turn what is stored into float32 on a device."""
        x = _loaded(stored, self.bits, device)
        if self.bits == 32:
            return x
        levels, zero, _ = self._numbers()
        return x.to(torch.float32).sub_(zero).div_(levels)

    def _numbers(self) -> tuple[int, int, int]:
        return (224, 16, 255) if self.bits == 8 else (32768, 16384, 65535)


@dataclass(frozen=True)
class FeatureCodec:
    """Equal steps between the extremes of each channel of each image, in whatever range they lie.

    With 8 bits a value is off by at most 1 / 510 of that range.
    """

    bits: Bits

    def encode(self, x: Tensor) -> tuple[Stored, Stored | None]:
        """Turn features into what is stored.

        Args:
            x: ``(n, c, h, w)``, finite.

        Returns:
            Values of the same shape, and, below 32 bits, steps and offsets ``(n, c, 2)``.
        """
        x = x.detach().float()
        if self.bits == 32:
            return x.cpu().contiguous().numpy(), None
        low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        step = ((high - low) / self._top).clamp_min(torch.finfo(torch.float32).tiny)
        steps = ((x - low) / step).round_().clamp_(0, self._top)
        return _stored(steps, self.bits), torch.cat([step, low], -1).flatten(2).cpu().numpy()

    def decode(self, stored: Stored, scales: Stored | None, device: torch.device) -> Tensor:
        """Turn what `encode` gave into float32 on a device."""
        x = _loaded(stored, self.bits, device)
        if scales is None:
            return x
        both = to_device(torch.from_numpy(np.ascontiguousarray(scales)), device)
        step, low = both[..., None].unbind(2)
        return x.to(torch.float32).mul_(step[..., None]).add_(low[..., None])

    @property
    def _top(self) -> int:
        return 2**self.bits - 1


def _stored(x: Tensor, bits: Bits) -> Stored:
    dtype = torch.uint8 if bits == 8 else torch.int32
    return x.to(dtype).cpu().contiguous().numpy().astype(Codec(bits).dtype, copy=False)


def _loaded(stored: Stored, bits: Bits, device: torch.device) -> Tensor:
    plain = stored.astype(np.int32) if bits == 16 else stored
    return to_device(torch.from_numpy(np.ascontiguousarray(plain)), device)
