"""Ways of doing one thing, timed in turns, and what the machine could do at best.

Taking turns, whatever else slows the machine down slows all ways; the median counts, and ratios are
of medians. On the CPU the clock is processor time, which other programs hardly touch; on a GPU it
is the wall's, with the device waited for.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

from dukd.core.text import elapsed, percent
from dukd.evaluation.table import Column, Row, Table, decimals
from dukd.networks.compile import as_written

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
Ways = dict[str, Callable[[], object]]
"""What can be timed, by name."""


@dataclass(frozen=True)
class Timing:
    """How long one way takes."""

    name: str
    """The way."""
    seconds: tuple[float, ...]
    """Of each repetition."""

    @property
    def median(self) -> float:
        """The middle one, in seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Distance between the slowest and the fastest, as a share of the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median


@dataclass(frozen=True)
class Ceiling:
    """The best this machine does."""

    flops: float
    """Floating-point operations per second in a product of large matrices, or a convolution where
    that is faster."""
    bytes: float
    """Bytes per second, read and written, in a copy."""


@dataclass(frozen=True)
class Result:
    """What was measured, fit for a table."""

    what: str
    """What it is about, and on what."""
    timings: tuple[Timing, ...]
    """The first one is what ratios refer to."""
    per_run: float = 1.0
    """Things done by one run, such as patches or pixels."""
    unit: str = "runs"
    """What these things are."""
    flops: Mapping[str, float] = field(default_factory=dict[str, float])
    """Floating-point operations of one run, by way, where they are known."""
    ceiling: Ceiling | None = None
    """To compare with."""
    ceilings: Mapping[str, Ceiling] = field(default_factory=dict[str, Ceiling])
    """By way, where ways have others than that."""
    memory_mb: int = 0
    """Peak memory of the process or the device."""
    notes: tuple[str, ...] = ()
    """What a reader has to know beside the figures."""

    def ratio(self, name: str) -> float:
        """How many times faster than the first way another one is."""
        return self.timings[0].median / self.median(name)

    def median(self, name: str) -> float:
        """Seconds that a way takes."""
        return next(t for t in self.timings if t.name == name).median

    def table(self) -> Table:
        """A row per way."""
        rows: list[Row] = []
        for t in self.timings:
            best = self.ceilings.get(t.name, self.ceiling)
            share = None
            if t.name in self.flops and best is not None:
                share = self.flops[t.name] / t.median / best.flops
            values = {
                "median": t.median,
                "spread": t.spread if len(t.seconds) > 1 else None,
                "per_second": self.per_run / t.median,
                "ratio": self.ratio(t.name),
                "share_of_peak": share,
            }
            rows.append(Row(label=t.name, values=values))
        return Table(
            of="way",
            rows=tuple(rows),
            columns=_columns(self.unit),
            heading=(
                f"{self.what}; peak memory {self.memory_mb} MB",
                *(f"{note}." for note in self.notes),
            ),
        )


def _columns(unit: str) -> tuple[Column, ...]:
    return (
        Column(name="median", title="median", show=elapsed),
        Column(name="spread", title="spread", show=percent),
        Column(name="per_second", title=f"{unit} per second", show=lambda value: f"{value:.4g}"),
        Column(name="ratio", title="ratio", show=decimals(2)),
        Column(name="share_of_peak", title="share of peak", show=percent),
    )


_BURST = 5
"""Runs of a way on a GPU before it is waited for: its host works ahead, as it does in training."""


def interleaved(
    ways: Mapping[str, Callable[[], object]],
    *,
    device: torch.device,
    repetitions: int = 5,
    warm_up: int = 1,
) -> tuple[Timing, ...]:
    """Time several ways in turns.

    Args:
        ways: What to time, by name.
        device: Where it runs; decides which clock counts.
        repetitions: Of each way.
        warm_up: Further ones before, which do not count.

    Raises:
        ValueError: If there is nothing to time.
    """
    if repetitions < 1 or not ways:
        raise ValueError(
            f"timing needs a way and at least 1 repetition, but got {len(ways)} and {repetitions}"
        )
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    burst = _BURST if device.type == "cuda" else 1
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(-warm_up, repetitions):
        for name, way in ways.items():
            _wait(device)
            started = clock()
            for _ in range(burst):
                way()
            _wait(device)
            if turn >= 0:
                seconds[name].append((clock() - started) / burst)
    return tuple(Timing(name, tuple(taken)) for name, taken in seconds.items())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def counted(way: Callable[[], object]) -> float:
    """Floating-point operations of matrix products and convolutions in one run, which is made."""
    with FlopCounterMode(display=False) as counter, as_written():
        way()
    return float(counter.get_total_flops())


def ceiling(device: torch.device, precision: Precision = "float32", *, side: int = 0) -> Ceiling:
    """Measure what the machine does at best: arithmetic, and a copy of 64 MiB; best of five.

    The library behind a product is not always the machine's fastest, so a convolution of as many
    operations, with EDSR's 256 channels, is tried beside it.

    Args:
        device: Where.
        precision: Of the arithmetic.
        side: Of the square matrices; as large as usual for the device by default.
    """
    side = side or (8192 if device.type == "cuda" else 1024)
    dtype = getattr(torch, precision)
    a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    kernel = torch.rand(256, 256, 3, 3, device=device).to(dtype, memory_format=torch.channels_last)
    edge = max(8, round((side**3 / kernel.numel()) ** 0.5))
    image = torch.rand(1, 256, edge, edge, device=device).to(
        dtype, memory_format=torch.channels_last
    )
    source = torch.zeros(16 << 20, device=device)
    target = torch.empty_like(source)
    ways: dict[str, Callable[[], object]] = {
        "product": lambda: a @ b,
        "convolution": lambda: torch.conv2d(image, kernel, padding=1),
        "copy": lambda: target.copy_(source),
    }
    product, convolution, copy = interleaved(ways, device=device)
    flops = max(
        2 * side**3 / min(product.seconds), 2 * kernel.numel() * edge**2 / min(convolution.seconds)
    )
    return Ceiling(flops, 2 * source.numel() * source.element_size() / min(copy.seconds))
