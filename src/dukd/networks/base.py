"""What every super-resolution network is, and how its features are read.

Features are read at relative depths: in a row of ``N`` stages, depth ``d`` is the output of stage
``round(d * N)``, counted from 1, so that 1.0 is the last feature before upsampling and 0.5 the
middle, whatever the architecture; 0 is the head, what stands before the row. `Staged` is a head, a
row of stages and a tail, whose parts a method may run by themselves; `dukd.networks.opaque` makes a
network of any module. Networks never write into a tensor they have handed out.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  the name everybody knows
from typing_extensions import override

SCALES = (2, 3, 4)
"""Upscaling factors that recipes and tests cover; networks take any that their upsampler can
make."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(ABC):
    """The numbers that make a network; building it twice gives two networks of equal shape."""

    name: ClassVar[str]
    """Name in files, recipes and messages, such as ``edsr``."""

    unseen: ClassVar[frozenset[str]] = frozenset()
    """Fields that no tensor of the network shows, such as ``value_range``."""

    training_only: ClassVar[frozenset[str]] = frozenset()
    """Those of ``unseen`` that have no effect outside training."""

    scale: int
    """Upscaling factor."""

    @abstractmethod
    def build(self) -> "Network":
        """Make the network, its weights drawn from torch's global generator."""

    @classmethod
    def layouts(cls) -> tuple["Layout", ...]:
        """How published files of this network are laid out; none for a network of dukd alone.

        With a layout a ``.pth`` of the network is recognized by its tensors, read, and written
        (`dukd.networks.files.weights`).
        """
        return ()

    def deployed(self) -> "NetworkConfig":
        """The numbers of `Network.folded`: without what is there for training alone."""
        return self

    def describe(self) -> str:
        """What the network is in a few words, as in ``EDSR x2, 64 channels, 16 blocks``."""
        return f"{self.name} x{self.scale}"


@dataclass(frozen=True, kw_only=True)
class Recognized:
    """A network that fits the names and shapes of a file's tensors."""

    config: NetworkConfig
    tensors: Mapping[str, Tensor]
    """Under the network's own names."""
    shown: frozenset[str] = frozenset()
    """Those of ``unseen`` that this file settles after all."""


class Layout(ABC):
    """One way in which a network's tensors are named in published files."""

    name: ClassVar[str]
    """Whose code uses it, such as ``basicsr``."""
    signature: ClassVar[tuple[str, ...]]
    """Patterns each of which is the name of a tensor in every such file."""
    key: ClassVar[str | None] = "params"
    """Key of a ``.pth`` under which the tensors stand; None for the whole file."""

    @abstractmethod
    def read(self, tensors: Mapping[str, Tensor]) -> Recognized:
        """The network that the tensors make; its ``unseen`` fields as the field has them.

        Raises:
            ValueError: If they make none; what lacks or is too much need not be noticed here.
        """

    def closed(self, config: NetworkConfig) -> str:
        """Why spandrel, by which chaiNNer and others open files, opens none that is written so.

        Args:
            config: The network's numbers, of which some cannot be told from its tensors.

        Returns:
            A phrase; empty where spandrel opens the file and gives equal images.
        """
        return f"spandrel does not know {config.name} in this layout"

    def held(self, network: "Network") -> "Network":
        """The network that such a file holds of one: itself, unless it can only be held folded."""
        return network

    @abstractmethod
    def write(
        self, network: "Network", tensors: Mapping[str, Tensor], *, training_size: int
    ) -> dict[str, Tensor]:
        """Name a network's tensors as such files do, with all that the other code expects.

        Args:
            network: The network, for its numbers; what `held` gave.
            tensors: Its tensors, under its own names.
            training_size: Pixels on a side for which companions such as SwinIR's masks are made;
                where it cannot be, the size that is usual for the network.

        Raises:
            ValueError: If the other code could not do what the network does.
        """


class Output(NamedTuple):
    """What a network made of a batch of images."""

    sr: Tensor
    """``(n, 3, h * scale, w * scale)``, RGB, unclamped."""
    features: list[Tensor]
    """One ``(n, c, h', w')`` per depth that was read; ``h'`` and ``w'`` include what was padded."""
    network: nn.Module
    """The network, for the few methods that run parts of it."""


class Network(nn.Module, ABC):
    """A super-resolution network: ``(n, 3, h, w)`` RGB in [0, 1] to ``(n, 3, h*scale, w*scale)``.

    Outputs are not clamped. Any ``h`` and ``w`` from 1 pixel up: the network pads to its
    ``size_multiple`` and crops its output.
    """

    fp16_safe: ClassVar[bool] = True
    """Whether float16 keeps its outputs right; bfloat16 always may be used."""
    channels_last: ClassVar[bool] = True
    """Whether its passes are faster in torch's memory format ``channels_last``
    (docs/results/layouts.md)."""

    def __init__(
        self, config: NetworkConfig, *, width: int, size_multiple: int = 1, radius: int | None
    ) -> None:
        """Remember what a caller needs to know of the network.

        Args:
            config: The numbers the network was built from.
            width: Channels of its features.
            size_multiple: Height and width are padded to a multiple of this many pixels.
            radius: Pixels of ``lr`` around a pixel that can change its output; None if the whole
                image can (global pooling), so that no tile is exact.
        """
        super().__init__()
        self.config = config
        self.width = width
        self.size_multiple = size_multiple
        self.radius = radius

    @property
    def name(self) -> str:
        """The architecture's name, such as ``edsr``."""
        return self.config.name

    @property
    def scale(self) -> int:
        """Upscaling factor."""
        return self.config.scale

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale: ``(n, 3, h, w)`` in [0, 1] to ``(n, 3, h * scale, w * scale)``, unclamped."""
        return self.observe(lr, ()).sr

    @abstractmethod
    def observe(self, lr: Tensor, depths: Sequence[float]) -> Output:
        """Upscale, and read the features at the given depths.

        Args:
            lr: ``(n, 3, h, w)``, RGB in [0, 1].
            depths: Fractions of the depth, in [0, 1].

        Returns:
            The output, with one tensor ``(n, c, h', w')`` of features per depth.

        Raises:
            ValueError: If a depth lies outside [0, 1], or ``lr`` is not a batch of RGB images.
        """

    def width_at(self, depth: float) -> int:
        """Channels of the features at a depth; the same everywhere in networks of one width.

        Raises:
            ValueError: If the depth is not in [0, 1].
        """
        stage_number(depth, 1)
        return self.width

    def folded(self) -> "Network":
        """A network of equal outputs without what is there for training alone; self, mostly."""
        return self

    def frozen(self) -> Self:
        """Return self in eval mode with parameters that take no gradient: what a teacher is."""
        return self.eval().requires_grad_(False)

    def parameter_count(self) -> int:
        """Number of parameters, trained or not."""
        return sum(p.numel() for p in self.parameters())

    def deployed_parameter_count(self) -> int:
        """Number of parameters that are left where branches are folded: what is run and shipped."""
        deployed = self.config.deployed()
        if deployed == self.config:
            return self.parameter_count()
        with torch.device("meta"):  # nothing is drawn for it
            return deployed.build().parameter_count()


class Staged(Network):
    """A network that is a head, a row of stages and a tail."""

    keeps: tuple[int, ...] = (0,)
    """Stages whose outputs the tail reads beside the last one's; 0 is the head."""
    tail_radius: int | None = None
    """Pixels of the features around a pixel that the tail lets change its output; None if unknown,
    or if the whole image can, so that the tail cannot run on parts."""

    @property
    @abstractmethod
    def stages(self) -> Sequence[nn.Module]:
        """The row of modules between head and tail, each giving ``(n, width, h, w)``."""

    @abstractmethod
    def head(self, lr: Tensor) -> Tensor:
        """A padded ``(n, 3, h, w)`` to what the first stage takes, mostly ``(n, width, h, w)``."""

    @abstractmethod
    def tail(self, x: Tensor, kept: Mapping[int, Tensor], lr: Tensor) -> Tensor:
        """The last stage's output to the image.

        Args:
            x: ``(n, width, h, w)``.
            kept: Outputs by stage number, at least those in ``keeps``; 0 is the head's.
            lr: The padded input, ``(n, 3, h, w)``.

        Returns:
            ``(n, 3, h * scale, w * scale)``, unclamped.
        """

    def run(self, padded: Tensor, read: Collection[int] = ()) -> tuple[Tensor, dict[int, Tensor]]:
        """Run head, stages and tail on an input whose size is a multiple of ``size_multiple``.

        Args:
            padded: ``(n, 3, h, w)``.
            read: Numbers of the stages whose outputs are given as well.

        Returns:
            The image ``(n, 3, h * scale, w * scale)``, and outputs by stage number: those read,
            those in ``keeps``, and the head's.
        """
        x, kept = self.run_stages(padded, read)
        return self.tail(x, kept, padded), kept

    def run_stages(
        self, padded: Tensor, read: Collection[int] = ()
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Run head and stages: the last stage's output, and outputs by stage number as in `run`.

        Args:
            padded: ``(n, 3, h, w)``.
            read: Numbers of the stages whose outputs are given as well.
        """
        x = self.head(padded)
        kept = {0: x}
        for number, stage in enumerate(self.stages, start=1):
            x = stage(x)
            if number in read or number in self.keeps:
                kept[number] = x
        return x, kept

    @override
    def observe(self, lr: Tensor, depths: Sequence[float]) -> Output:
        check_images(lr)
        read = [stage_number(depth, len(self.stages)) for depth in depths]
        h, w = lr.shape[-2:]
        sr, kept = self.run(pad_to_multiple(lr, self.size_multiple), read)
        cropped = sr[..., : h * self.scale, : w * self.scale]
        return Output(cropped, [kept[number] for number in read], self)


def staged(network: nn.Module) -> Staged:
    """A network whose head, stages and tail can be run by themselves.

    Raises:
        ValueError: If it has none.
    """
    if not isinstance(network, Staged):
        raise ValueError(  # noqa: TRY004  it is the caller's choice of network that is refused
            f"this method runs parts of networks, and {type(network).__name__} is one piece: take "
            "a network of dukd.networks, or write yours as a Staged"
        )
    return network


def check_images(lr: Tensor) -> None:
    """Refuse what is not a batch ``(n, 3, h, w)``.

    Raises:
        ValueError: If it is not.
    """
    if lr.ndim != 4 or lr.shape[1] != 3:
        raise ValueError(
            f"a network takes a batch (n, 3, h, w) of RGB images, but got {tuple(lr.shape)}"
        )


def stage_number(depth: float, count: int) -> int:
    """Number, from 1, of the stage at a relative depth among ``count`` stages; 0 is the head.

    Raises:
        ValueError: If ``depth`` is not in [0, 1].

    Example:
        >>> [stage_number(d, 33) for d in (0, 1 / 3, 2 / 3, 1.0)]
        [0, 11, 22, 33]
    """
    if not 0 <= depth <= 1:
        raise ValueError(f"a depth is a fraction in [0, 1], but got {depth}")
    return max(1, math.floor(depth * count + 0.5)) if depth else 0


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad ``(n, c, h, w)`` at the bottom and the right to a multiple.

    Reflect, then repeat the edge.

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


def set_memory_format(module: nn.Module, *, channels_last: bool | None = None) -> None:
    """Put the weights of convolutions into one of torch's memory formats; features follow them.

    Args:
        module: A network, or anything that has networks inside.
        channels_last: Whether ``channels_last``; None takes what each network inside says.
    """
    wanted: list[tuple[nn.Module, bool]] = (
        [(module, channels_last)] if channels_last is not None else []
    )
    if channels_last is None:  # a network comes before those inside it, which may differ
        wanted = [
            (part, part.channels_last) for part in module.modules() if isinstance(part, Network)
        ]
    for part, last in wanted:
        memory_format = torch.channels_last if last else torch.contiguous_format
        # torch documents it, its types lack it
        part.to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]
