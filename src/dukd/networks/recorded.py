"""CUDA graphs of a network's passes: recorded once for each size of image, then one launch each.

A small network's kernels take a GPU less time than the processor needs to launch them one by one.
A graph holds all of a forward pass, and one more all of its backward pass; weights change in place,
so both serve every step. `torch.cuda.make_graphed_callables` records, with no compiler.

What a graph gives lies in memory that its next replay writes over: `release` says that nothing of
it is needed any more. Until then a second pass of the same size runs as it is written.
"""

import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import cast
from weakref import WeakSet

import torch
from torch import Tensor, nn
from typing_extensions import override

from dukd.core.text import first_line
from dukd.networks.base import Network, Output

_MOST = 16
"""Passes of one network that are recorded; each keeps its memory."""

_MISMATCH = "set_warn_on_accumulate_grad_stream_mismatch"
"""What silences a warning of newer torch."""
_HELD: list[bool] = []
_RECORDERS: "WeakSet[Recorder]" = WeakSet()

_Tensors = tuple[Tensor, ...]
_Key = tuple[object, ...]


class _Pass(nn.Module):
    """A network as images in, tensors out, in the arithmetic asked for when it was made."""

    def __init__(
        self, network: Network, plain: Callable[..., Output], depths: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.network, self._plain, self._depths = network, plain, depths
        self._type = torch.get_autocast_dtype("cuda")
        self._lowered = torch.is_autocast_enabled("cuda")

    @override
    def forward(self, lr: Tensor) -> _Tensors:
        # autocast's cache would outlive the recording
        with torch.autocast("cuda", self._type, enabled=self._lowered, cache_enabled=False):
            sr, features, _ = self._plain(lr, self._depths)
        return sr, *features


class Recorder:
    """Replays a network's passes; made by ``recorded``."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.plain = network.observe
        self._passes: dict[_Key, Callable[[Tensor], _Tensors] | None] = {}
        self.busy: set[_Key] = set()
        """Passes whose outputs are still needed."""
        _RECORDERS.add(self)

    def observe(self, lr: Tensor, depths: Sequence[float]) -> Output:
        """What the network gives, from a graph where there can be one.

        Args:
            lr: ``(n, 3, h, w)``, RGB in [0, 1].
            depths: Where features are read, as for `Network.observe`.
        """
        if not lr.is_cuda or lr.requires_grad or _HELD:
            return self.plain(lr, depths)
        key = self._key(lr, tuple(depths))
        if key not in self._passes and len(self._passes) < _MOST:
            self._passes[key] = self._recorded(lr, tuple(depths))
        replay = self._passes.get(key)
        if replay is None or key in self.busy:
            return self.plain(lr, depths)
        self.busy.add(key)
        sr, *features = replay(lr)
        return Output(sr, features, self.network)

    def _learns(self) -> bool:
        return torch.is_grad_enabled() and any(p.requires_grad for p in self.network.parameters())

    def _key(self, lr: Tensor, depths: tuple[float, ...]) -> _Key:
        lowered = torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda")
        modes = torch.is_grad_enabled(), self.network.training, lowered
        return lr.shape, lr.stride(), lr.dtype, depths, *modes

    def _recorded(
        self, lr: Tensor, depths: tuple[float, ...]
    ) -> Callable[[Tensor], _Tensors] | None:
        """A pass as graphs; None where it cannot be recorded, which is a warning."""
        made = _Pass(self.network, self.plain, depths).train(self.network.training)
        try:
            # what networks draw goes on as if nothing had been tried
            with torch.random.fork_rng(devices=[lr.device]):
                return _graphed(made, lr) if self._learns() else _forward(made, lr)
        except torch.OutOfMemoryError:  # without graphs it would not fit either
            raise
        except Exception as error:  # noqa: BLE001  the driver's own share no class
            warnings.warn(
                f"no CUDA graph of {self.network.config.name}, which goes on without: "
                + first_line(error),
                RuntimeWarning,
                stacklevel=4,
            )
            return None


def release() -> None:
    """Nothing of what any network gave is needed any more."""
    for recorder in _RECORDERS:
        recorder.busy.clear()


@contextmanager
def held() -> Generator[None, None, None]:
    """Record and replay nothing, as for images of many sizes."""
    _HELD.append(True)
    try:
        yield
    finally:
        _HELD.pop()


def recorded(network: Network) -> Recorder:
    """Have a network's passes on a GPU recorded and replayed, in place; others stay as they are."""
    recorder = Recorder(network)
    network.observe = recorder.observe
    return recorder


def unwarned() -> None:
    """Have newer torch not warn of gradients that arrive on another stream than their weights.

    It is the one that recorded, and torch waits as it should.
    """
    if (warns := getattr(torch.autograd.graph, _MISMATCH, None)) is not None:
        warns(False)


def _graphed(made: _Pass, lr: Tensor) -> Callable[[Tensor], _Tensors]:
    """Forward and backward pass, for training."""
    shown = lr.detach().clone()
    unwarned()
    with torch.autocast("cuda", enabled=False, cache_enabled=False):
        graphed = torch.cuda.make_graphed_callables(made, (shown,), allow_unused_input=True)
    return cast("Callable[[Tensor], _Tensors]", graphed)


@torch.no_grad()
def _forward(made: _Pass, lr: Tensor) -> Callable[[Tensor], _Tensors]:
    """The forward pass alone, of a network that does not learn."""
    shown = lr.detach().clone()
    stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        for _ in range(3):  # libraries choose and load their kernels
            made(shown)
    current.wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        given = made(shown)

    def replay(images: Tensor) -> _Tensors:
        shown.copy_(images)
        graph.replay()
        return given

    return replay
