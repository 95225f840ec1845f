"""How the cache keeps numbers: outputs in fixed point, features between their extremes."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dukd.core.device import to_device

Bits = Literal[8, 16, 32]
"""Bits per value; 32 keeps the teacher's own float32."""
Codes = NDArray[np.generic]


@dataclass(frozen=True)
class Codec:
    """Fixed point: ``code = round(value * levels) + zero``, clamped, so that 0 and 1 are exact.

    The 8-bit codes span -0.071 to 1.067 in steps of 1.14 gray levels, the 16-bit ones -0.5 to 1.5.
    """

    bits: Bits

    @property
    def dtype(self) -> str:
        """Numpy's name of what is stored."""
        return {8: "|u1", 16: "<u2", 32: "<f4"}[self.bits]

    def encode(self, x: Tensor) -> Codes:
        """Turn a teacher's answer into what is stored."""
        if self.bits == 32:
            return x.detach().float().cpu().contiguous().numpy()
        levels, zero, top = self._numbers()
        codes = (x.detach().float() * levels).round_().add_(zero).clamp_(0, top)
        return _stored(codes, self.bits)

    def decode(self, codes: Codes, device: torch.device) -> Tensor:
        """Turn what is stored into float32 on a device."""
        stored = _loaded(codes, self.bits, device)
        if self.bits == 32:
            return stored
        levels, zero, _ = self._numbers()
        return stored.to(torch.float32).sub_(zero).div_(levels)

    def _numbers(self) -> tuple[int, int, int]:
        return (224, 16, 255) if self.bits == 8 else (32768, 16384, 65535)


@dataclass(frozen=True)
class FeatureCodec:
    """Equal steps between the extremes of each channel of each image, whatever their range.

    With 8 bits a value is off by at most 1 / 510 of that range.
    """

    bits: Bits

    def encode(self, x: Tensor) -> tuple[Codes, Codes | None]:
        """Turn features into what is stored.

        Args:
            x: ``(n, c, h, w)``, finite.

        Returns:
            Codes of the same shape, and, below 32 bits, steps and offsets ``(n, c, 2)``.
        """
        x = x.detach().float()
        if self.bits == 32:
            return x.cpu().contiguous().numpy(), None
        low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        step = ((high - low) / self._top).clamp_min(torch.finfo(torch.float32).tiny)
        codes = ((x - low) / step).round_().clamp_(0, self._top)
        return _stored(codes, self.bits), torch.cat([step, low], -1).flatten(2).cpu().numpy()

    def decode(self, codes: Codes, scales: Codes | None, device: torch.device) -> Tensor:
        """Turn what `encode` gave into float32 on a device."""
        x = _loaded(codes, self.bits, device)
        if scales is None:
            return x
        range_of = to_device(torch.from_numpy(np.ascontiguousarray(scales)), device)
        step, low = range_of[..., None].unbind(2)
        return x.to(torch.float32).mul_(step[..., None]).add_(low[..., None])

    @property
    def _top(self) -> int:
        return 2**self.bits - 1


def _stored(codes: Tensor, bits: Bits) -> Codes:
    kind = torch.uint8 if bits == 8 else torch.int32
    return codes.to(kind).cpu().contiguous().numpy().astype(Codec(bits).dtype, copy=False)


def _loaded(codes: Codes, bits: Bits, device: torch.device) -> Tensor:
    plain = codes.astype(np.int32) if bits == 16 else codes
    return to_device(torch.from_numpy(np.ascontiguousarray(plain)), device)
