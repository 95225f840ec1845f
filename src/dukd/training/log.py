"""The log of training: its lines, the means in them, and who is told of them."""

import resource
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from typing import Any, cast

import torch
from torch import Tensor

from dukd.core import files
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

    def to_checkpoint(self) -> dict[str, object]:
        """The sums since the last line of the log, so that a resumed run logs the same means."""
        sums = {name: value.detach().cpu().clone() for name, value in self._sums.items()}
        return {"sums": sums, "count": self._count}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go back to what ``to_checkpoint`` gave."""
        self._sums = {name: value.to(self.device) for name, value in saved["sums"].items()}
        self._count = int(saved["count"])

    def paused(self, action: Callable[[], None]) -> None:
        """Do something that is not training, without counting its time."""
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


class RunLog:
    """Writes the log of a run, and tells an observer; a log that cannot be written ends no run.

    Args:
        run: Whose log is written.
        observe: Told of every line.
        tensorboard: Whether a TensorBoard log is written beside it.
        mute: Whether nothing is written and nobody told.
        step: The first step that follows; a TensorBoard log forgets what it had from there on.

    Raises:
        ValueError: If TensorBoard is wanted but not installed.
    """

    def __init__(
        self,
        run: Run,
        observe: Observer,
        *,
        tensorboard: bool,
        mute: bool = False,
        step: int = 0,
    ) -> None:
        self.run = run
        self.mute = mute
        self.observe = ignore if mute else observe
        self._board = None
        if tensorboard and not mute:
            self._board = tensorboard_writer()(
                str(run.directory / "tensorboard"), purge_step=step + 1
            )
        self._waiting: list[Record] = []
        self._failing = False

    def write(self, record: Record) -> None:
        """Write a line; where the disk refuses it, it waits for the next one."""
        if self.mute:
            return
        self._waiting.append(record)
        self._write_waiting()
        self.observe(record)
        self._show(record)

    def event(self, step: int, what: str, detail: str) -> None:
        """Write a line that says something in words."""
        self.write({"kind": "event", "step": step, "what": what, "detail": detail})

    def sync(self) -> None:
        """Make the lines so far survive a power cut, as far as the disk lets us."""
        self._write_waiting()
        with suppress(OSError):
            if self.run.log_file.exists():
                files.sync(self.run.log_file)

    def close(self) -> None:
        """Write what waits, and finish the TensorBoard log."""
        self._write_waiting()
        if self._waiting:
            self._notify("not logged", f"{len(self._waiting)} lines of the log are lost")
        if self._board is not None:
            with suppress(Exception):
                self._board.close()

    def _write_waiting(self) -> None:
        while self._waiting:
            try:
                self.run.log(self._waiting[0])
            except OSError as error:
                if not self._failing:
                    text = "cannot write the log, its lines wait and training goes on"
                    self._notify("not logged", f"{text}: {error.strerror or error}")
                self._failing = True
                return
            del self._waiting[0]
        self._failing = False

    def _show(self, record: Record) -> None:
        if self._board is None:
            return
        try:
            for name, value in _scalars(record, str(record["kind"])):
                self._board.add_scalar(name, value, cast("int", record["step"]))
        except Exception as error:  # noqa: BLE001  somebody else's log does not end a run
            self._board = None
            self._notify("not logged", f"the TensorBoard log ends here: {error}")

    def _notify(self, what: str, detail: str) -> None:
        """Tell the observer of what the log itself cannot hold."""
        step = self._waiting[-1]["step"] if self._waiting else 0
        self.observe({"kind": "event", "step": step, "what": what, "detail": detail})


def _scalars(record: object, name: str) -> Generator[tuple[str, float], None, None]:
    if isinstance(record, Mapping):
        for key, value in cast("Mapping[str, object]", record).items():
            if key != "step":
                yield from _scalars(value, f"{name}/{key}")
    elif isinstance(record, int | float):
        yield name, float(record)


def tensorboard_writer() -> Any:  # noqa: ANN401  an optional package's class
    """The class that writes TensorBoard logs.

    Raises:
        ValueError: If it is not installed.
    """
    try:
        from torch.utils.tensorboard.writer import SummaryWriter  # noqa: PLC0415  optional
    except ImportError:
        raise ValueError(
            "evaluation.tensorboard needs the package: pip install 'dukd[tensorboard]'"
        ) from None
    return SummaryWriter
