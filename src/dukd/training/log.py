"""What a run tells while it trains: lines of the log, and how far it has come."""

import resource
import sys
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from dukd.runs.directory import Run

Record = Mapping[str, object]
Observer = Callable[[Record], None]
"""Told every line of the log as it is written, and ``{"kind": "step", "step", "steps",
"seconds_left"}`` each step."""

GRADIENT_NORM = "gradient_norm"


def ignore(record: Record) -> None:
    """Tell nobody."""
    del record


class Meter:
    """Means over the steps between two lines of the log, fetched from the device only then."""

    def __init__(self, *, step: int, seconds: float, device: torch.device) -> None:
        """Start at a step, with the seconds that training has taken so far."""
        self.device = device
        self._first_step, self._seconds_before = step, seconds
        self._begun = self._since = time.perf_counter()
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._patches = 0

    def add(self, values: Mapping[str, Tensor], patches: int) -> None:
        """Take in the losses of one step, by name, and the norm of its gradient."""
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._newest = values
        self._count += 1
        self._patches += patches

    def paused(self, action: Callable[[], None]) -> None:
        """Do something that is no training, without counting its time."""
        started = time.perf_counter()
        action()
        lost = time.perf_counter() - started
        self._begun += lost
        self._since += lost

    def seconds(self) -> float:
        """Seconds of training, those before a resume included."""
        return self._seconds_before + time.perf_counter() - self._begun

    def seconds_left(self, step: int, steps: int) -> float:
        """Seconds that the remaining steps will take at the present pace."""
        done = max(1, step - self._first_step)
        return (self.seconds() - self._seconds_before) / done * (steps - step)

    def record(self, step: int, learning_rate: float) -> dict[str, object]:
        """The line of the log for the steps since the last one."""
        means = {name: float(value) / self._count for name, value in self._sums.items()}
        norm = means.pop(GRADIENT_NORM)
        newest = [v.float() for name, v in self._newest.items() if name != GRADIENT_NORM]
        spent = max(time.perf_counter() - self._since, 1e-9)
        record: dict[str, object] = {
            "kind": "train",
            "step": step,
            "losses": means,
            "total": sum(means.values()),
            "total_hex": float(torch.stack(newest).sum()).hex(),
            "gradient_norm": norm,
            "learning_rate": learning_rate,
            "images_per_second": self._patches / spent,
            "seconds": self.seconds(),
            "memory_mb": peak_memory(self.device),
        }
        self._clear()
        self._since = time.perf_counter()
        return record


def peak_memory(device: torch.device) -> int:
    """Most memory used so far, in MiB: of the device, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> 20 if sys.platform == "darwin" else peak >> 10


class Logbook:
    """Writes the log of a run, and tells an observer."""

    def __init__(
        self, run: Run, observe: Observer, *, tensorboard: bool, mute: bool = False
    ) -> None:
        """Write to ``run``'s log, and to a TensorBoard log beside it; a mute one writes nothing.

        Raises:
            ValueError: If TensorBoard is asked for but not installed.
        """
        self.run = run
        self.mute = mute
        self.observe = ignore if mute else observe
        self._board = _board(run.directory / "tensorboard") if tensorboard and not mute else None

    def write(self, record: Record) -> None:
        """Write a line."""
        if self.mute:
            return
        self.run.log(record)
        self.observe(record)
        if self._board is not None:
            for name, value in _scalars(record, ""):
                self._board.add_scalar(name, value, cast("int", record["step"]))

    def event(self, step: int, what: str, detail: str) -> None:
        """Write a line that says something in words."""
        self.write({"kind": "event", "step": step, "what": what, "detail": detail})

    def close(self) -> None:
        """Finish the TensorBoard log."""
        if self._board is not None:
            self._board.close()


def _scalars(record: object, name: str) -> Generator[tuple[str, float], None, None]:
    if isinstance(record, Mapping):
        for key, value in cast("Mapping[str, object]", record).items():
            yield from _scalars(value, f"{name}/{key}" if name else key)
    elif isinstance(record, int | float) and name != "step":
        yield name, float(record)


def _board(folder: Path) -> Any:  # noqa: ANN401  an optional package's class
    try:
        from torch.utils.tensorboard.writer import SummaryWriter  # noqa: PLC0415  optional
    except ImportError:
        raise ValueError(
            "evaluation.tensorboard needs the package: pip install 'dukd[tensorboard]'"
        ) from None
    return SummaryWriter(str(folder))
