"""What `dukd.train` shows in a notebook: a bar, rates, the time left, and a live chart.

Nothing is shown elsewhere, and nothing is imported for it.
"""

import sys
import time
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any, cast

from dukd.core.text import amount, duration
from dukd.runs.charts import Line, chart
from dukd.runs.curves import series
from dukd.training.log import Observer, Record

_STYLE = Path(__file__).with_name("notebook.css")
_SECONDS = 1.0
"""Time between two drawings."""
_STRONG, _WEAK = 0, 5

Show = Callable[[str], None]
"""Draws HTML in place of what it drew before."""


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    found: Any = sys.modules.get("IPython")
    shell = None if found is None else found.get_ipython()
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


def in_place() -> Show:
    """A place below the running cell."""
    found: Any = sys.modules["IPython"].display
    handle: Any = None

    def show(text: str) -> None:
        nonlocal handle
        if handle is None:
            handle = found.display(found.HTML(text), display_id=True)
        else:
            handle.update(found.HTML(text))

    return show


def around(observe: Observer) -> Observer:
    """In a notebook, an observer that draws as well; elsewhere the same."""
    return Live(in_place(), observe) if in_notebook() else observe


class Live:
    """Draws a run while it goes on; an `Observer`.

    Args:
        show: Draws HTML in place of what it drew before.
        then: Told of every record as well.
        clock: Seconds, from anywhere.
    """

    def __init__(
        self, show: Show, then: Observer, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._show, self._then, self._clock = show, then, clock
        self._records: list[Record] = []
        self._step = self._steps = 0
        self._left = ""
        self._rate = ""
        self._words = ""
        self._drawn = float("-inf")

    def __call__(self, record: Record) -> None:
        """Take in a record, and draw where it is time to."""
        self._then(record)
        match record:
            case {"kind": "step", "step": int(step), "steps": int(steps)}:
                self._step, self._steps = step, steps
                self._left = f"{duration(cast('float', record['seconds_left']))} left"
            case {"kind": "train" | "live"}:
                rate, memory = record["images_per_second"], record["memory_mb"]
                self._rate = f"{rate:.0f} patches/s · {amount(int(cast('int', memory)) << 20)}"
                if record["kind"] == "train":
                    self._records.append(record)
                self._words = f"loss {record['total']:.4f}"
            case {"kind": "validation"}:
                self._records.append(record)
            case {"kind": "event"}:
                self._words = str(record["detail"])
            case _:
                pass
        last = self._step == self._steps and record.get("kind") in {"train", "validation"}
        if last or self._clock() - self._drawn >= _SECONDS:
            self._drawn = self._clock()
            self._show(self.html())

    def html(self) -> str:
        """The bar, a line of text, and the chart of what there is: validations, else the loss."""
        left = self._left if self._step < self._steps else "done"
        parts = [f"step {self._step:,} of {self._steps:,}", left, self._rate, self._words]
        said = escape(" · ".join(filter(None, parts)))
        style = _STYLE.read_text(encoding="utf-8")
        return (
            f'<div class="dukd-live"><style>{style}</style>'
            f'<progress max="{max(1, self._steps)}" value="{self._step}"></progress><p>{said}</p>'
            f"{self._chart()}</div>"
        )

    def _chart(self) -> str:
        """PSNR-Y of validations once there are two; before that, the sum of the losses."""
        judged = series(self._records, "validation")
        curves = [
            Line(name, points, _STRONG if number == 0 else min(number, _WEAK))
            for number, (name, points) in enumerate(judged.items())
        ]
        if any(len(line.points) > 1 for line in curves):
            return chart(curves, label="PSNR-Y in dB")
        totals = [
            (float(cast("int", r["step"])), float(cast("float", r["total"])))
            for r in self._records
            if r["kind"] == "train"
        ]
        return chart([Line("loss", totals, _STRONG)], label="loss", log=True) if totals else ""
