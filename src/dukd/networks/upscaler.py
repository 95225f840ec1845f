"""What enlarges images: a network, a session of another runtime, or one of them made better.

Code that enlarges, measures or exports knows this protocol alone, so that a new way of running
networks is one class.
"""

from collections.abc import Callable
from itertools import compress, product
from typing import Protocol

import torch
from torch import Tensor

from dukd.core.device import exact_float32
from dukd.images import invertible
from dukd.networks.bands import in_bands
from dukd.networks.base import Network, set_memory_format
from dukd.networks.quantized import Quantized


class UpscalerError(ValueError):
    """An upscaler that cannot give right images, whatever it is shown; the message says why."""


class Upscaler(Protocol):
    """Anything that enlarges a batch of images by a whole factor."""

    @property
    def name(self) -> str:
        """What messages and tables call it."""
        ...

    @property
    def scale(self) -> int:
        """Upscaling factor."""
        ...

    @property
    def radius(self) -> int | None:
        """Pixels of lr around a pixel that can change its output; None if the whole image can."""
        ...

    @property
    def size_multiple(self) -> int:
        """Tiles begin at multiples of this many pixels, since it pads to such a grid."""
        ...

    def __call__(self, lr: Tensor, /) -> Tensor:
        """``(n, 3, h, w)`` RGB in [0, 1] to ``(n, 3, h * scale, w * scale)``, unclamped."""
        ...


class OnDevice:
    """A network on a device, in a precision; images come from the CPU and return to it in float32.

    The network is moved and stays there; its mode stays as it was.
    """

    def __init__(
        self,
        network: Network,
        device: torch.device | str = "cpu",
        precision: torch.dtype = torch.float32,
    ) -> None:
        """Move the network.

        Args:
            network: What enlarges.
            device: Where it runs.
            precision: ``torch.float32``, or ``bfloat16`` or ``float16`` for mixed precision.

        Raises:
            UpscalerError: If the network overflows in float16, or is quantized and not in float32.
        """
        if precision != torch.float32 and isinstance(network, Quantized):
            raise UpscalerError(
                f"a quantized network computes in float32, but precision is {precision}"
            )
        if precision == torch.float16 and not network.fp16_safe:
            raise UpscalerError(f"{network.name} overflows in float16: use bfloat16 or float32")
        set_memory_format(network.to(device))
        self.network, self.device, self.precision = network, torch.device(device), precision
        self.name, self.scale = network.name, network.scale
        self.radius, self.size_multiple = network.radius, network.size_multiple

    @torch.no_grad()
    def __call__(self, lr: Tensor) -> Tensor:
        """Enlarge ``(n, 3, h, w)``.

        Raises:
            UpscalerError: If the output holds NaN or infinity.
        """
        mixed = self.precision != torch.float32
        training = self.network.training
        self.network.eval()
        try:
            with (
                exact_float32(wanted=not mixed),
                torch.autocast(self.device.type, self.precision if mixed else None, enabled=mixed),
            ):
                sr = self._run(lr.to(self.device)).float().cpu()
        finally:
            self.network.train(training)
        if not bool(torch.isfinite(sr).all()):
            precision = str(self.precision).removeprefix("torch.")
            raise UpscalerError(
                f"{self.name} gives NaN or infinity in {precision}; its weights may be broken"
            )
        return sr

    def _run(self, lr: Tensor) -> Tensor:
        if self.device.type != "cpu":  # a GPU is faster in one go
            return self.network(lr)
        with in_bands(self.network):
            return self.network(lr)


class SelfEnsemble:
    """The mean over the eight flips and rotations of an image: the ``+`` of the papers."""

    def __init__(self, upscaler: Upscaler) -> None:
        self.upscaler = upscaler
        self.name, self.scale = f"{upscaler.name}+", upscaler.scale
        self.radius, self.size_multiple = upscaler.radius, upscaler.size_multiple

    def __call__(self, lr: Tensor) -> Tensor:
        """Enlarge ``(n, 3, h, w)``, eight times; see `self_ensemble`."""
        return self_ensemble(self.upscaler, lr)


def self_ensemble(upscale: Callable[[Tensor], Tensor], lr: Tensor) -> Tensor:
    """Mean of the outputs for the eight flips and rotations of ``lr``, each changed back.

    Args:
        upscale: What enlarges.
        lr: ``(n, 3, h, w)``, RGB in [0, 1].

    Returns:
        ``(n, 3, h * scale, w * scale)``, unclamped. Timofte et al., CVPR 2016, arXiv:1511.02228.
    """
    some = (invertible.FLIP_ROWS, invertible.FLIP_COLUMNS, invertible.TRANSPOSE)
    changes = [
        invertible.compose(list(compress(some, chosen)))
        for chosen in product((False, True), repeat=len(some))
    ]
    return torch.stack([a.invert(upscale(a.apply(lr))) for a in changes]).mean(0)
