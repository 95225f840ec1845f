"""A network made of any module: run as it is, read behind submodules that are named by path."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from dukd.networks.base import Network, NetworkConfig, Output, check_images, stage_number


@dataclass(frozen=True, kw_only=True)
class _OpaqueConfig(NetworkConfig):
    name: ClassVar[str] = "opaque"

    module: str
    """Name of the module's class."""

    @override
    def describe(self) -> str:
        return f"{self.module} x{self.scale}"

    @override
    def build(self) -> Network:
        raise ValueError(
            f"{self.module} is a module of your own, which dukd cannot build from numbers: write a "
            "NetworkConfig for it"
        )


class Opaque(Network):
    """Any module that maps ``(n, 3, h, w)`` in [0, 1] to ``(n, 3, h * scale, w * scale)``.

    Its features are read behind submodules named by path: depth ``d`` is the entry ``round(d * N)``
    of the ``N`` taps. The module stays as it is, under ``module``.
    """

    fp16_safe = False
    channels_last = False

    def __init__(
        self,
        module: nn.Module,
        scale: int | None = None,
        taps: Sequence[str] = (),
        *,
        enter: Callable[[Tensor], Tensor] | None = None,
        leave: Callable[[object], Tensor] | None = None,
    ) -> None:
        """Make a network of a module.

        Args:
            module: Anything that upscales.
            scale: Its upscaling factor; None finds it by running the module once.
            taps: Paths of submodules, such as ``body.5``, in the order they run; each gives a map
                ``(n, c, h, w)``.
            enter: From images in [0, 1] to what the module takes, such as ``lambda x: x * 255``.
            leave: From what it gives back to images in [0, 1], such as ``lambda y: y[0] / 255``.

        Raises:
            ValueError: If there is no submodule at a tap, or no scale can be found.
        """
        for path in taps:
            try:
                module.get_submodule(path)
            except AttributeError as error:
                raise ValueError(
                    f"{type(module).__name__} has no submodule {path!r} to tap ({error})"
                ) from None
        forward = _adapted(module, enter, leave)
        found = _scale(module, forward) if scale is None else scale
        name = getattr(module, "name", None)
        named = name if isinstance(name, str) else type(module).__name__
        config = _OpaqueConfig(scale=found, module=named)
        super().__init__(config, width=0, radius=None)
        self.module = module
        self.taps = tuple(taps)
        self._forward = forward
        self._widths: dict[str, int] = {}

    @override
    def forward(self, lr: Tensor) -> Tensor:
        check_images(lr)
        return self._forward(lr)

    @override
    def observe(self, lr: Tensor, depths: Sequence[float]) -> Output:
        check_images(lr)
        paths = [self._path(depth) for depth in depths]
        with _Caught(self.module, paths) as caught:
            sr = self._forward(lr)
        maps = {path: caught.map(path) for path in paths}
        self._widths |= {path: x.shape[1] for path, x in maps.items()}
        return Output(sr, [maps[path] for path in paths], self)

    @override
    def width_at(self, depth: float) -> int:
        path = self._path(depth)
        if path not in self._widths:
            _probe(self.module, lambda x: self.observe(x, (depth,)))
        return self._widths[path]

    def _path(self, depth: float) -> str:
        if not self.taps:
            name = type(self.module).__name__
            raise ValueError(
                f"{name} does not say where its features are read: Opaque(module, taps=('body.3', "
                "...)) names its submodules"
            )
        if not (number := stage_number(depth, len(self.taps))):
            raise ValueError(
                "depth 0 is the head of a network of dukd.networks; an Opaque has its taps alone: "
                "name the first convolution as one, and read at 1 over their number"
            )
        return self.taps[number - 1]


class _Caught:
    """While it is entered, what submodules give is caught."""

    def __init__(self, module: nn.Module, paths: Sequence[str]) -> None:
        self.module = module
        self.paths = tuple(dict.fromkeys(paths))
        self.made: dict[str, tuple[object, int]] = {}
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        for path in self.paths:
            self._hooks.append(
                self.module.get_submodule(path).register_forward_hook(self._hook(path))
            )
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _hook(self, path: str) -> Callable[[nn.Module, object, object], None]:
        def catch(module: nn.Module, args: object, made: object) -> None:
            del module, args
            self.made[path] = (made, _version(made))

        return catch

    def map(self, path: str) -> Tensor:
        """The map ``(n, c, h, w)`` that a submodule gave."""
        made, before = self.made.get(path, (None, 0))
        if not isinstance(made, Tensor) or made.ndim != 4:
            raise ValueError(f"{path} gives no map (n, c, h, w): tap another submodule")
        if _version(made) != before:
            raise ValueError(
                f"what {path} gives is overwritten in place by what comes behind it: tap another "
                "submodule"
            )
        return made


def _version(made: object) -> int:
    """How often a tensor was written to in place; inference tensors do not count."""
    if not isinstance(made, Tensor) or made.is_inference():
        return 0
    return made._version  # noqa: SLF001  torch's own counter, which has no public name


def _adapted(
    module: nn.Module,
    enter: Callable[[Tensor], Tensor] | None,
    leave: Callable[[object], Tensor] | None,
) -> Callable[[Tensor], Tensor]:
    def forward(lr: Tensor) -> Tensor:
        made: object = module(enter(lr) if enter else lr)
        made = leave(made) if leave else made
        if not isinstance(made, Tensor) or made.ndim != 4:
            raise ValueError(
                f"{type(module).__name__} gives {type(made).__name__}, not a tensor (n, 3, h, w): "
                "say how to take it, Opaque(module, leave=lambda y: y[0])"
            )
        return made

    return forward


_T = TypeVar("_T")

_PROBES = (16, 64)
"""Pixels on a side of the images a module is tried on; some take multiples of 64 only."""


def _probe(module: nn.Module, forward: Callable[[Tensor], _T]) -> _T:
    """Run a module once on a gray image, in eval mode, without a graph."""
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    failure: Exception = ValueError("nothing was tried")
    try:
        for side in _PROBES:
            gray = torch.full((1, 3, side, side), 0.5, dtype=like.dtype, device=like.device)
            try:
                with torch.no_grad():
                    return forward(gray)
            except (RuntimeError, ValueError, AssertionError) as error:
                failure = error
    finally:
        for part, mode in modes:
            part.training = mode
    raise ValueError(
        f"{type(module).__name__} fails on an image of {_PROBES[-1]} pixels: {failure}"
    ) from failure


def _scale(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> int:
    def factors(lr: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return tuple(lr.shape), tuple(forward(lr).shape)

    lr, sr = _probe(module, factors)
    scale = sr[-1] // lr[-1]
    if scale < 1 or sr != (1, 3, lr[-2] * scale, lr[-1] * scale):
        raise ValueError(
            f"{type(module).__name__} maps {lr} to {sr}, which is not a whole scale of RGB images: "
            "name the scale, Opaque(module, scale=4), and how its output is taken (leave=)"
        )
    return scale
