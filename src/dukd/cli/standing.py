"""The command that shows how runs stand."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from dukd.cli.terminal import out, say
from dukd.core.text import NOTHING, duration, shown
from dukd.runs.standing import Standing, find, standing

_COLORS = {
    "training": "bold cyan",
    "finished": "green",
    "stopped": "yellow",
    "failed": "red",
    "damaged": "red",
    "begun": "dim",
}


@dataclass(frozen=True, kw_only=True)
class Standings:
    """Show all runs of a folder: state, step, rate, loss, PSNR-Y and the time left.

    It reads run directories only, so it can be started and ended at any time, and shows runs that
    train, are finished, or were stopped or killed (`dukd train RUN --resume` continues those).

    Example: dukd watch runs/
    """

    folders: tyro.conf.Positional[tuple[Path, ...]] = (Path("runs"),)
    """Folders of runs, or run directories."""
    once: bool = False
    """Whether to print one table and end, as is done where nobody looks on."""
    seconds: float = 2.0
    """Time between two looks."""

    def __call__(self) -> int:
        if not self.seconds > 0:
            raise ValueError(f"--seconds is above 0, but got {self.seconds}")
        if self.once or not out.is_terminal:
            found = self._look()
            out.print(rows(found))
            notes(found)
            return 0
        with Live(rows(self._look()), console=out, auto_refresh=False) as live:
            try:
                while True:
                    time.sleep(self.seconds)
                    live.update(rows(self._look()), refresh=True)
            except KeyboardInterrupt:
                pass
        return 0

    def _look(self) -> list[Standing]:
        found: list[Standing] = []
        for folder in self.folders:
            for run in find(folder):
                name = shown(run.relative_to(folder)) if run != folder else shown(run)
                found.append(standing(run, name=name))
        if not found:
            raise ValueError(f"there are no runs in {', '.join(map(shown, self.folders))}")
        return found


def rows(found: Sequence[Standing]) -> Table:
    """The runs as a table."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    titles = ("run", "state", "step", "steps/s", "loss", "PSNR-Y", "best", "left")
    for number, title in enumerate(titles):
        grid.add_column(title, justify="left" if number < 2 else "right", no_wrap=number > 0)
    for run in found:
        color = _COLORS[run.state]
        grid.add_row(escape(run.name), f"[{color}]{run.state}[/]", *_cells(run))
    return grid


def _cells(run: Standing) -> tuple[str, ...]:
    share = f" ({100 * run.step // run.steps} %)" if run.steps else ""
    return (
        f"{run.step:,}/{run.steps:,}{share}" if run.steps else f"{run.step:,}",
        _digits(run.pace, 3, significant=True),
        _digits(run.loss, 4),
        _digits(run.psnr, 3),
        _digits(run.best, 3),
        duration(run.seconds_left) if run.seconds_left is not None else "",
    )


def _digits(value: float | None, digits: int, *, significant: bool = False) -> str:
    if value is None:
        return NOTHING
    return f"{value:.{digits}g}" if significant else f"{value:.{digits}f}"


def notes(found: Sequence[Standing]) -> None:
    """Print why runs failed or cannot be read."""
    for run in found:
        if run.said:
            say(f"{run.name}: {run.said}")
