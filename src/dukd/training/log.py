"""The log of training: its lines, the means in them, and who is told of them."""

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import torch
from torch import Tensor

from dukd.core import files
from dukd.images.convert import Pixels
from dukd.runs.directory import Run
from dukd.training.trackers import TRACKERS, Tracker, check_installed, scalars

Record = Mapping[str, object]
Observer = Callable[[Record], None]
"""Told every line of the log as it is written, ``{"kind": "step", "step", "steps",
"seconds_left"}`` each step, and ``{"kind": "live", "step", "losses", ...}`` after the first step
and every few seconds."""

GRADIENT_NORM = "gradient_norm"
LIVE_SECONDS = 5.0
"""Time between two looks at the losses that do not wait for a line of the log."""


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
        self._cpu_since, self._cpu_before = time.process_time(), 0.0
        self._next_live = float("-inf")
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._patches = 0

    def add(self, values: Mapping[str, Tensor], patches: int) -> None:
        """Take in the losses of one step, by name, and the norm of its gradient."""
        if self._sums.keys() == values.keys():
            add = torch._foreach_add_  # pyright: ignore  torch's own, which has no public name
            add(list(self._sums.values()), [values[name] for name in self._sums])  # one launch
        else:
            for name, value in values.items():
                own = self._sums[name] + value if name in self._sums else value.clone()
                self._sums[name] = own
        self._newest = values
        self._count += 1
        self._patches += patches

    @property
    def waits(self) -> bool:
        """Whether steps were made since the last line."""
        return self._count > 0

    def to_checkpoint(self) -> dict[str, object]:
        """The sums since the last line of the log, so that a resumed run logs the same means."""
        sums = {name: value.detach().cpu().clone() for name, value in self._sums.items()}
        return {"sums": sums, "count": self._count, "cpu_seconds": self._cpu_seconds()}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go back to what ``to_checkpoint`` gave."""
        self._sums = {name: value.to(self.device) for name, value in saved["sums"].items()}
        self._count = int(saved["count"])
        self._cpu_before = float(saved.get("cpu_seconds", 0.0))

    def paused(self, action: Callable[[], None]) -> None:
        """Do something that is not training, without counting its time."""
        started, cpu = time.perf_counter(), time.process_time()
        action()
        lost = time.perf_counter() - started
        self._begun += lost
        self._since += lost
        self._cpu_since += time.process_time() - cpu

    def _cpu_seconds(self) -> float:
        """CPU seconds of training since the last line, those before a resume included."""
        return self._cpu_before + time.process_time() - self._cpu_since

    def seconds(self) -> float:
        """Seconds of training, those before a resume included."""
        return self._seconds_before + time.perf_counter() - self._begun

    def seconds_left(self, step: int, steps: int) -> float:
        """Seconds that the remaining steps will take at the present pace."""
        done = max(1, step - self._first_step)
        return (self.seconds() - self._seconds_before) / done * (steps - step)

    def live(self, step: int) -> dict[str, object] | None:
        """What the next line of the log would say so far, now and then; None in between.

        After the first step, and every few seconds from then on, so that nobody waits for the first
        loss. Nothing is written, and the means of the log stay as they are.
        """
        now = time.perf_counter()
        if self._count == 0 or now < self._next_live:
            return None
        self._next_live = now + LIVE_SECONDS
        means = {n: float(v) / self._count for n, v in self._sums.items() if n != GRADIENT_NORM}
        return {
            "kind": "live",
            "step": step,
            "losses": means,
            "total": sum(means.values()),
            "images_per_second": self._patches / max(now - self._since, 1e-9),
            "memory_mb": peak_memory(self.device),
        }

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
            "cpu_seconds": self._cpu_seconds(),
            "memory_mb": peak_memory(self.device),
        }
        self._clear()
        self._since, self._cpu_since = time.perf_counter(), time.process_time()
        self._cpu_before = 0.0
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
        trackers: Names of what else takes in every line, such as ``tensorboard``.
        mute: Whether nothing is written and nobody told.
        step: The last step that was made; a TensorBoard log forgets what it had after it.

    Raises:
        ValueError: If a tracker's package is not installed.
    """

    def __init__(
        self,
        run: Run,
        observe: Observer,
        *,
        trackers: Sequence[str] = (),
        mute: bool = False,
        step: int = 0,
    ) -> None:
        self.run = run
        self.mute = mute
        self.observe = ignore if mute else observe
        self._trackers: list[Tracker] = []
        self._waiting: list[Record] = []
        self._failing = False
        for name in () if mute else trackers:
            self._open(name, step)

    def _open(self, name: str, step: int) -> None:
        """Open a tracker; one that cannot be reached is left out, and the observer told."""
        check_installed((name,))
        try:
            self._trackers.append(TRACKERS[name](self.run, step))
        except Exception as error:  # noqa: BLE001  somebody else's log does not end a run
            self._notify("not logged", f"{TRACKERS[name].title} takes nothing: {error}")

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
        """Write what waits, and finish what the trackers have."""
        self._write_waiting()
        if self._waiting:
            self._notify("not logged", f"{len(self._waiting)} lines of the log are lost")
        self._everywhere(lambda tracker: tracker.close())
        self._trackers = []

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

    @property
    def shows_images(self) -> bool:
        """Whether a tracker is there that takes images."""
        return bool(self._trackers)

    def images(self, step: int, images: Mapping[str, Pixels]) -> None:
        """Give images to the trackers, by the names of their series."""
        for name, pixels in images.items():
            self._everywhere(lambda t, name=name, pixels=pixels: t.image(step, name, pixels))

    def _show(self, record: Record) -> None:
        values = scalars(record)
        if values:
            self._everywhere(lambda tracker: tracker.numbers(cast("int", record["step"]), values))

    def _everywhere(self, action: Callable[[Tracker], None]) -> None:
        """Do something with every tracker; one that fails is left out from there on."""
        for tracker in tuple(self._trackers):
            try:
                action(tracker)
            except Exception as error:  # noqa: BLE001  likewise
                self._trackers.remove(tracker)
                with suppress(Exception):
                    tracker.close()
                self._notify("not logged", f"the log of {tracker.title} ends here: {error}")

    def _notify(self, what: str, detail: str) -> None:
        """Tell the observer of what the log itself cannot hold."""
        step = self._waiting[-1]["step"] if self._waiting else 0
        self.observe({"kind": "event", "step": step, "what": what, "detail": detail})
