"""Several processes train one student: each has its share of a batch, all make the same step.

torchrun starts the processes and gives each its rank; ``join`` connects them. A step sends one
message, which carries gradients and losses together, so a method may run the student as often as it
likes. Gradients are averaged, or, in ``InOrder``, gathered and added in a fixed order, so that the
number of processes leaves no trace in the weights.
"""

import hashlib
import math
import os
import socket
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import chain
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dukd.core.device import numbered, to_device

TIMEOUT = timedelta(minutes=5)
"""How long a rank waits for the others' share of a step."""
PATIENCE = timedelta(hours=2)
"""How long ranks wait while the first one prepares data, validates or saves."""

_NEEDED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class PeerError(ConnectionError):
    """Another rank died, or was silent for too long."""


class RankError(ValueError):
    """The ranks cannot share the work, or came to different results."""


@dataclass(frozen=True)
class World:
    """The processes that train together, as one of them sees them; by default it is alone."""

    rank: int = 0
    """Number of this process."""
    size: int = 1
    """Number of processes."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where this process computes."""
    patient: "dist.ProcessGroup | None" = field(default=None, repr=False, compare=False)
    """The processes once more, for waits of any reasonable length."""

    @property
    def leads(self) -> bool:
        """Whether this process prepares, writes and validates for all."""
        return self.rank == 0

    def parts(self, batch: int, accumulate: int, *, deterministic: bool) -> int:
        """Number of micro-batches that each rank computes of a batch.

        The batch falls into as few equal parts as ``accumulate`` and the ranks both divide.

        Raises:
            RankError: If the batch cannot be shared, or not without a trace of the number of ranks.
        """
        if batch % self.size:
            raise RankError(
                f"a batch of {batch} cannot be shared by {self.size} ranks, but by "
                f"{_divisors(batch)}"
            )
        if deterministic and accumulate % self.size:
            raise RankError(
                f"in deterministic mode the ranks share the {accumulate} parts of a batch "
                f"(optimization.accumulate), which {self.size} ranks cannot, but "
                f"{_divisors(accumulate)}"
            )
        return math.lcm(accumulate, self.size) // self.size

    def mean(self, parameters: Sequence[nn.Parameter], values: Tensor) -> Tensor:
        """Average gradients over the ranks, in place, and some values with them: one message.

        Args:
            parameters: Their ``grad`` becomes the mean; one without a gradient counts as 0 where
                another rank has one, and stays without where none has.
            values: ``(n,)``, float32; as many on every rank.

        Returns:
            The means of the values.

        Raises:
            PeerError: If another rank died or hangs.
        """
        flat = _flat(parameters, values)
        with _talking(self.rank, self.size):
            dist.all_reduce(flat)
        return _spread(flat.div_(self.size), parameters)

    def gather(self, mine: Tensor) -> list[Tensor]:
        """What every rank gives, in the order of ranks; of the same shape everywhere.

        Raises:
            PeerError: If another rank died or hangs.
        """
        if self.size == 1:
            return [mine]
        everyone = [torch.empty_like(mine) for _ in range(self.size)]
        with _talking(self.rank, self.size):
            dist.all_gather(everyone, mine)
        return everyone

    def any(self, mine: bool) -> bool:  # noqa: FBT001  a value, not an option
        """Whether it is so on any rank. The hosts meet here, whatever their GPUs are doing.

        Raises:
            PeerError: If another rank died or hangs.
        """
        return any(bool(flag) for flag in self.gather(torch.tensor([mine], dtype=torch.uint8)))

    def wait(self) -> None:
        """Go on when every rank is here, however long the first one needs for its own work.

        Raises:
            PeerError: If another rank died, or was not here within two hours.
        """
        if self.size > 1:
            with _talking(self.rank, self.size):
                dist.barrier(self.patient)

    @contextmanager
    def leader_first(self) -> Generator[None, None, None]:
        """Let the first rank do something before the others do it."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()

    def agree(self, what: str, digest: bytes) -> None:
        """Make sure that all ranks have the same SHA-256 of something.

        Raises:
            RankError: If they do not, on every rank.
            PeerError: If another rank died or hangs.
        """
        first, *others = (
            row.tolist()
            for row in self.gather(torch.frombuffer(bytearray(digest), dtype=torch.uint8))
        )
        odd = [str(rank) for rank, other in enumerate(others, 1) if other != first]
        if odd:
            raise RankError(
                f"{what}: not the same on rank 0 and on rank {', '.join(odd)}; all ranks need the "
                "same command, files, versions and kind of processor"
            )


@contextmanager
def _talking(rank: int, size: int) -> Generator[None, None, None]:
    try:
        yield
    except RuntimeError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise PeerError(
            f"rank {rank} of {size} waited in vain for another rank, which died or hangs (its own "
            f"message says why; here it was: {reason}). Continue from the last checkpoint with "
            "--resume"
        ) from error


@contextmanager
def join(
    device: torch.device,
    *,
    timeout: timedelta = TIMEOUT,
    patience: timedelta = PATIENCE,
    environment: Mapping[str, str] = os.environ,
) -> Generator[World, None, None]:
    """Connect the processes that torchrun started; a process that was started alone stays alone.

    Args:
        device: ``cpu``, or ``cuda`` for one GPU per process.
        timeout: How long a rank waits for the others' share of a step.
        patience: How long ranks wait for the first one's own work.
        environment: Where torchrun has written who is who.

    Raises:
        RankError: If the environment is incomplete, or there are fewer GPUs than processes.
        PeerError: If the others do not come in time.
    """
    size = int(environment.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(device=numbered(device))
        return
    if missing := [name for name in _NEEDED if name not in environment]:
        raise RankError(
            f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set: start the processes with "
            "torchrun"
        )
    if device.type not in {"cpu", "cuda"}:
        raise RankError(f"several ranks train on cpu or cuda, not on {device.type}")
    rank, local = int(environment["RANK"]), int(environment["LOCAL_RANK"])
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise RankError(
                f"local rank {local} has no GPU: there are {torch.cuda.device_count()}, one per "
                "process"
            )
        device = numbered(torch.device("cuda", local))
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with _talking(rank, size):
        store = _loopback_store(environment, rank, size, timeout)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    try:
        with _talking(rank, size):
            patient = _patient_group(timeout, patience)
        yield World(rank, size, device, patient)
    except BaseException:
        if (
            device.type == "cpu"
        ):  # NCCL would wait for ranks that wait for this one; the process's end frees it
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _patient_group(timeout: timedelta, patience: timedelta) -> "dist.ProcessGroup":
    """The processes once more; they meet as fast as for a step, and are patient from then on.

    A rank that died while they meet would otherwise be waited for as long as the first one's work.
    """
    group = cast("dist.ProcessGroup", dist.new_group(backend="gloo", timeout=timeout))
    gloo = group._get_backend(torch.device("cpu"))  # noqa: SLF001  there is no public way
    gloo._set_default_timeout(patience)  # noqa: SLF001
    return group


def _loopback_store(
    environment: Mapping[str, str], rank: int, size: int, timeout: timedelta
) -> "dist.TCPStore | None":  # pyright: ignore[reportPrivateImportUsage]
    """Where ranks on one machine meet: nobody outside can connect; None leaves it to torch.

    torch's own store listens on all interfaces and knows no password. torchrun's agent may have
    opened one already, which ranks then use.
    """
    if environment.get("LOCAL_WORLD_SIZE") != str(size):
        return None
    loopback = next((name for _, name in socket.if_nameindex() if name in {"lo", "lo0"}), None)
    if loopback is not None:
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(variable, loopback)
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return None
    port, listening = int(environment["MASTER_PORT"]), -1
    if rank == 0:
        listening = socket.create_server(("127.0.0.1", port)).detach()  # the store closes it
    return dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
        "127.0.0.1",
        port,
        size,
        rank == 0,
        timeout,
        master_listen_fd=listening if rank == 0 else None,
    )


class InOrder:
    """Gradients of micro-batches, added in the order of the batch whichever rank computed them.

    Floating-point sums depend on their order; this one is 0, 1, ... for any number of ranks, so
    weights come out equal to the last bit. It takes memory for a gradient per micro-batch of the
    whole batch.
    """

    def __init__(self, world: World, parameters: Sequence[nn.Parameter]) -> None:
        """Begin with the gradients that are there already, if any."""
        self._world, self._parameters = world, parameters
        self._before = [p.grad for p in parameters]
        self._rows: list[Tensor] = []
        self._clear()

    def _clear(self) -> None:
        for p in self._parameters:
            p.grad = None

    def add(self, values: Tensor) -> None:
        """Take the gradients of the next micro-batch away, with some values ``(n,)``."""
        self._rows.append(_flat(self._parameters, values))
        self._clear()

    def mean(self) -> Tensor:
        """Put the mean gradient over all micro-batches of all ranks into ``grad``.

        Returns:
            The means of the values.

        Raises:
            PeerError: If another rank died or hangs.
        """
        rows = list(
            chain.from_iterable(
                share.unbind() for share in self._world.gather(torch.stack(self._rows))
            )
        )
        total = rows[0].clone()
        for row in rows[1:]:
            total.add_(row)
        values = _spread(total.div_(len(rows)), self._parameters)
        for p, before in zip(self._parameters, self._before, strict=True):
            if before is not None:
                p.grad = before if p.grad is None else p.grad.add_(before)
        return values


@torch.no_grad()
def fingerprint(*modules: nn.Module) -> bytes:
    """SHA-256 of all parameters."""
    whole = hashlib.sha256()
    for p in chain.from_iterable(module.parameters() for module in modules):
        whole.update(p.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return whole.digest()


def _flat(parameters: Sequence[nn.Parameter], values: Tensor) -> Tensor:
    """Gradients, which of them are there, and values, in one row; every rank's has one length."""
    gradients = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
    there = torch.tensor([p.grad is not None for p in parameters], dtype=values.dtype)
    return torch.cat([*gradients, to_device(there, values.device), values])


def _spread(flat: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """Put the row back into gradients; the values at its end are returned.

    A parameter that has a gradient nowhere keeps none: an optimizer leaves it alone, where zeros
    would let its momentum move it.
    """
    sizes = [p.numel() for p in parameters]
    *pieces, there, values = flat.split(
        [*sizes, len(sizes), flat.numel() - sum(sizes) - len(sizes)]
    )
    # Only a rank that misses some has to look, which on a GPU means to wait.
    misses = any(p.grad is None for p in parameters)
    somewhere = (there > 0).tolist() if misses else [True] * len(sizes)
    found = [(p, piece) for p, piece, yes in zip(parameters, pieces, somewhere, strict=True) if yes]
    for p, _ in found:
        if p.grad is None:
            p.grad = torch.empty_like(p)
    gradients = [cast("Tensor", p.grad) for p, _ in found]
    sources = [piece.view_as(p) for p, piece in found]
    if found:
        copy = torch._foreach_copy_  # pyright: ignore  torch's own, which has no public name
        copy(gradients, sources)  # one launch
    return values


def _divisors(number: int) -> str:
    return ", ".join(str(n) for n in range(1, number + 1) if number % n == 0)
