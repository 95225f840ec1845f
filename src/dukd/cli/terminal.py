"""What the commands share: where they print, and how they show progress."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column, Table

from dukd.core.text import duration, shown

PARTIAL = 1
"""Exit code where some of several things could not be done."""

_LOG_WIDTH = 100_000  # a log has no width at which lines should break
_QUIET = 300.0  # seconds without a line in a log, at most


class _Console(Console):
    """A console that says when nobody reads on; rich's own ends the program with code 1."""

    def on_broken_pipe(self) -> None:
        """Say so."""
        raise BrokenPipeError


def _console(*, stderr: bool) -> Console:
    console = _Console(stderr=stderr, highlight=False, soft_wrap=True, emoji=False)
    if not console.is_terminal:
        console.width = _LOG_WIDTH
    return console


out = _console(stderr=False)
err = _console(stderr=True)


def say(text: str) -> None:
    """Print a line, as it is."""
    out.print(escape(text))


def note(text: str) -> None:
    """Print something by the way, to standard error."""
    err.print(f"[dim]{escape(text)}[/dim]")


def warn(text: str, items: Iterable[str]) -> None:
    """Print what went wrong in part, and each item below it, to standard error."""
    err.print(f"[bold red]dukd:[/] {escape(text)}")
    for item in items:
        err.print(shown(item), markup=False)


def facts(pairs: Mapping[str, object]) -> None:
    """Print names with their values; None is left out, several lines are indented."""
    width = max(map(len, pairs), default=0) + 2
    for name, value in pairs.items():
        if value is not None:
            first, *others = str(value).split("\n")
            out.print(f"[bold]{escape(name.ljust(width))}[/bold]{escape(first)}")
            for line in others:
                out.print(" " * width + escape(line))


def table(header: Sequence[str], lines: Iterable[Sequence[str]], *, right: bool = False) -> None:
    """Print a table; with ``right``, all columns but the first are numbers."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(header):
        grid.add_column(escape(name), justify="right" if right and i else "left", overflow="fold")
    for cells in lines:
        grid.add_row(*map(escape, cells))
    out.print(grid, soft_wrap=False)


class Bar:
    """A bar for long work; in a log, a line for every tenth, and one every five minutes."""

    def __init__(self) -> None:
        self.bar = Progress(
            BarColumn(bar_width=20),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[left]}"),
            TextColumn(
                "{task.fields[what]}",
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
            console=err,
            transient=True,
            expand=True,
        )
        self.task = self.bar.add_task("", what="", left="", total=1)
        self.live = err.is_terminal
        self.total = self.done = self.first = 0
        self.tenth = -1
        self.begun = self.printed = 0.0

    def __call__(
        self, done: int, total: int, what: str, *, seconds_left: float | None = None
    ) -> None:
        """Show that ``done`` of ``total`` is done, and how long the rest will take."""
        now = time.monotonic()
        if done < self.done or total != self.total:  # other work has begun
            self.first, self.begun, self.tenth, self.printed = done, now, -1, now
        self.done, self.total = done, total
        if seconds_left is None and done > self.first:
            seconds_left = (now - self.begun) / (done - self.first) * (total - done)
        left = f"{duration(seconds_left)} left" if seconds_left is not None and done < total else ""
        if self.live:
            self.bar.update(
                self.task, completed=done, total=total, what=escape(shown(what)), left=left
            )
            return
        tenth = 10 * done // max(1, total)
        if tenth != self.tenth or now - self.printed > _QUIET:
            self.tenth, self.printed = tenth, now
            parts = (f"{100 * done // max(1, total):3d} %", f"{done}/{total}", shown(what), left)
            err.print(escape("  ".join(filter(None, parts))))

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.bar.console.print(escape(text))

    def __enter__(self) -> Self:
        if self.live:
            self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.live:
            self.bar.stop()
