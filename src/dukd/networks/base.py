"""What every super-resolution network is: a head, a row of stages, a tail.

A method may read or replace features between the stages. Depth is relative: the stage at depth
``d`` of a network of ``N`` stages is number ``round(d * N)``, counted from 1, so that 1.0 is the
last feature before upsampling and 0.5 the middle, whatever the architecture. Networks never write
into a tensor they have handed out.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  the name everybody knows

SCALES = (2, 3, 4)
"""Upscaling factors that recipes and tests cover; networks take any that their upsampler can
make."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(ABC):
    """The numbers that make a network; building it twice gives two networks of equal shape."""

    name: ClassVar[str]
    """Name in files, recipes and messages, such as ``edsr``."""

    scale: int
    """Upscaling factor."""

    @abstractmethod
    def build(self) -> "SRNetwork":
        """Make the network with freshly initialized weights (drawn from torch's global generator)."""


class SRNetwork(nn.Module, ABC):
    """A super-resolution network: ``(n, 3, h, w)`` RGB in [0, 1] to ``(n, 3, h * scale, w * scale)``, unclamped.

    Any ``h`` and ``w`` from 1 pixel up: the network pads to its ``size_multiple`` and crops its
    answer.
    """

    fp16_safe: ClassVar[bool] = True
    """Whether float16 keeps its answers right; bfloat16 always may be used."""
    channels_last: ClassVar[bool] = True
    """Whether its passes are faster where an image's channels lie together in memory
    (docs/results/layouts.md)."""

    def __init__(
        self, config: NetworkConfig, *, width: int, size_multiple: int = 1, radius: int | None
    ) -> None:
        """Remember what a caller needs to know of the network.

        Args:
            config: The numbers the network was built from.
            width: Channels of its features.
            size_multiple: Height and width are padded to a multiple of this many pixels.
            radius: Pixels of ``lr`` around a pixel that can change its answer; None if the whole
                image can (global pooling), so that no tile is exact.
        """
        super().__init__()
        self.config = config
        self.width = width
        self.size_multiple = size_multiple
        self.radius = radius

    @property
    def scale(self) -> int:
        """Upscaling factor."""
        return self.config.scale

    @property
    @abstractmethod
    def stages(self) -> Sequence[nn.Module]:
        """The row of modules between head and tail, each ``(n, width, h, w)`` to the same shape."""

    @abstractmethod
    def begin(self, lr: Tensor) -> Tensor:
        """Head: a padded ``(n, 3, h, w)`` to shallow features ``(n, width, h, w)``."""

    @abstractmethod
    def end(self, features: Tensor, shallow: Tensor, lr: Tensor) -> Tensor:
        """Tail: deep and shallow features ``(n, width, h, w)`` and the padded input to ``(n, 3, h*scale, w*scale)``."""

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale: ``(n, 3, h, w)`` in [0, 1] to ``(n, 3, h * scale, w * scale)``, unclamped."""
        return self.forward_with_features(lr, ())[0]

    def forward_with_features(
        self, lr: Tensor, depths: Sequence[float]
    ) -> tuple[Tensor, list[Tensor]]:
        """Upscale, and return the features at the given depths beside the answer.

        Args:
            lr: ``(n, 3, h, w)``, RGB in [0, 1].
            depths: Fractions of the depth, in (0, 1].

        Returns:
            The answer ``(n, 3, h * scale, w * scale)``, and for each depth a tensor ``(n, width,
            h', w')``, where ``h'`` and ``w'`` are ``h`` and ``w`` padded to ``size_multiple``.

        Raises:
            ValueError: If a depth lies outside (0, 1], or ``lr`` is no batch of RGB images.
        """
        if lr.ndim != 4 or lr.shape[1] != 3:
            raise ValueError(
                f"a network takes a batch (n, 3, h, w) of RGB images, but got {tuple(lr.shape)}"
            )
        stages = self.stages
        wanted = [stage_number(depth, len(stages)) for depth in depths]
        h, w = lr.shape[-2:]
        padded = pad_to_multiple(lr, self.size_multiple)
        shallow = features = self.begin(padded)
        seen: dict[int, Tensor] = {}
        for number, stage in enumerate(stages, start=1):
            features = stage(features)
            if number in wanted:
                seen[number] = features
        sr = self.end(features, shallow, padded)[..., : h * self.scale, : w * self.scale]
        return sr, [seen[number] for number in wanted]

    def frozen(self) -> Self:
        """Return self in eval mode with parameters that take no gradient: what a teacher is."""
        return self.eval().requires_grad_(False)

    def parameter_count(self) -> int:
        """Number of parameters, trained or not."""
        return sum(p.numel() for p in self.parameters())


def stage_number(depth: float, count: int) -> int:
    """Number, from 1, of the stage at a relative depth among ``count`` stages.

    Raises:
        ValueError: If ``depth`` is not in (0, 1].

    Example:
        >>> [stage_number(d, 33) for d in (1 / 3, 2 / 3, 1.0)]
        [11, 22, 33]
    """
    if not 0 < depth <= 1:
        raise ValueError(f"a depth is a fraction in (0, 1], but got {depth}")
    return max(1, math.floor(depth * count + 0.5))


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad ``(n, c, h, w)`` at the bottom and the right to a multiple, by reflection, then by repeating the edge.

    Reflection needs more pixels than it adds; what is missing in very small images is repeated.
    """
    if multiple == 1:
        return x
    h, w = x.shape[-2:]
    down, right = -h % multiple, -w % multiple
    if not down and not right:
        return x
    reflected = (min(right, w - 1), min(down, h - 1))
    x = F.pad(x, (0, reflected[0], 0, reflected[1]), mode="reflect")
    return F.pad(x, (0, right - reflected[0], 0, down - reflected[1]), mode="replicate")


class Wrapped(SRNetwork):
    """A network behind something that changes what it is shown, or what it answers; by itself it changes nothing."""

    def __init__(self, network: SRNetwork) -> None:
        super().__init__(
            network.config,
            width=network.width,
            size_multiple=network.size_multiple,
            radius=network.radius,
        )
        self.network = network

    @property
    def stages(self) -> Sequence[nn.Module]:
        """Those of the network inside."""
        return self.network.stages

    def begin(self, lr: Tensor) -> Tensor:
        """Head of the network inside."""
        return self.network.begin(lr)

    def end(self, features: Tensor, shallow: Tensor, lr: Tensor) -> Tensor:
        """Tail of the network inside."""
        return self.network.end(features, shallow, lr)


def unwrapped(network: SRNetwork) -> SRNetwork:
    """The network inside all its wrappings: the one that has the weights."""
    while isinstance(network, Wrapped):
        network = network.network
    return network


def arrange(module: nn.Module, *, together: bool | None = None) -> None:
    """Lay the weights of convolutions out in memory, which decides how the features behind them lie.

    Args:
        module: A network, or anything that has networks inside.
        together: Whether channels lie together; None leaves it to each network inside.
    """
    wanted: list[tuple[nn.Module, bool]] = [(module, together)] if together is not None else []
    if together is None:  # a network comes before those inside it, which may differ
        wanted = [
            (part, part.channels_last) for part in module.modules() if isinstance(part, SRNetwork)
        ]
    for part, last in wanted:
        layout = torch.channels_last if last else torch.contiguous_format
        part.to(memory_format=layout)  # pyright: ignore[reportCallIssue]  torch documents it, its types lack it


class NoTeacher(SRNetwork):
    """Stands where a method that needs no teacher has none; asking it is an error."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config, width=0, radius=0)

    @property
    def stages(self) -> Sequence[nn.Module]:
        """Nothing."""
        return ()

    def begin(self, lr: Tensor) -> Tensor:
        """Refuse."""
        del lr
        raise ValueError(
            "this method asks a teacher, but the experiment has none: name its weights as the "
            "teacher"
        )

    def end(self, features: Tensor, shallow: Tensor, lr: Tensor) -> Tensor:
        """Refuse."""
        del features, shallow
        return self.begin(lr)
