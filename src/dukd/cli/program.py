"""From arguments to a command, and from errors to a sentence and an exit code.

0: done. 1: some of several inputs failed. 2: the command cannot be done as it stands. 65: data,
weights or a checkpoint are bad. 73: something cannot be written; 74: reading or writing failed. 75:
interrupted, saved, to be resumed. 130: interrupted.
"""

import errno
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn, Protocol

import torch
import tyro
from rich.markup import escape

from dukd._version import __version__
from dukd.cli import train, use
from dukd.cli.bench import Bench, Cache
from dukd.cli.data import CheckData, Prepare
from dukd.cli.demo import Demo
from dukd.cli.ensemble import Ensemble
from dukd.cli.evaluate import Compare, Evaluate, Report
from dukd.cli.info import Info, Methods, Recipes
from dukd.cli.terminal import err, say
from dukd.cli.train import Train
from dukd.cli.use import Export, Upscale
from dukd.core.config import nearest
from dukd.core.text import shown
from dukd.data.pack import PackError
from dukd.data.pairs import PairsError
from dukd.images import ImageError
from dukd.networks.files.weights import WeightsError
from dukd.runs.checkpoint import CheckpointError, DiskFullError
from dukd.training import loop


class Command(Protocol):
    """Options that were read; calling it does the work."""

    def __call__(self) -> int:
        """Do it, and return the exit code."""
        ...


COMMANDS: dict[str, type[Command]] = {
    "prepare": Prepare,
    "check-data": CheckData,
    "train": Train,
    "evaluate": Evaluate,
    "compare": Compare,
    "report": Report,
    "export": Export,
    "upscale": Upscale,
    "info": Info,
    "recipes": Recipes,
    "methods": Methods,
    "demo": Demo,
    "ensemble": Ensemble,
    "cache": Cache,
    "bench": Bench,
}
"""The commands by name, in the order in which they are used."""

PARTIAL, USAGE, BAD_DATA, INTERNAL, CANNOT_WRITE, IO_ERROR, RESUME, INTERRUPTED = (
    1,
    2,
    65,
    70,
    73,
    74,
    75,
    130,
)
_NO_WRITING = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT}


def main() -> NoReturn:
    """Run the command that the arguments name, and exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="backslashreplace"
            )  # file names may hold what the terminal cannot show
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _reader_left()
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run the command that the arguments name; complain in a sentence if it fails.

    Returns:
        The exit code.
    """
    debug = "--debug" in arguments
    try:
        return _command([a for a in arguments if a != "--debug"])
    except SystemExit as left:  # tyro has shown help, or complained
        return left.code if isinstance(left.code, int) else USAGE
    except loop.Interrupted as stopped:
        err.print(f"dukd: {escape(str(stopped))}")
        return RESUME
    except KeyboardInterrupt:
        err.print("dukd: interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        return _reader_left()
    except Exception as error:  # noqa: BLE001  the last place where anything can be caught
        if debug:
            traceback.print_exc()
        return _complain(error)


def _command(arguments: list[str]) -> int:
    name, *rest = arguments or ["--help"]
    if name in {"-h", "--help"}:
        return _help()
    if name in {"-V", "--version"}:
        say(f"dukd {__version__}, torch {torch.__version__}")
        return 0
    if name not in COMMANDS:
        raise ValueError(
            f"there is no command {name!r}{nearest(name, COMMANDS)}; `dukd --help` lists them"
        )
    return parse(name, train.with_plugins(rest))()


def parse(name: str, arguments: Sequence[str]) -> Callable[[], int]:
    """Read the options of a command; tyro shows help or complains by `SystemExit`.

    Raises:
        ValueError: If an argument names a thing that is not there.
    """
    if name == "train":
        return train.parse(arguments)
    if name == "export":
        return use.parse_export(arguments)
    if name == "upscale":  # Real-ESRGAN has a flag before its inputs
        arguments = [use.SHORT.get(a, a) for a in arguments if a not in {"-i", "--input"}]
    return tyro.cli(COMMANDS[name], prog=f"dukd {name}", args=list(arguments))


def _help() -> int:
    say("usage: dukd COMMAND [options]\n")
    say("Turn a large super-resolution network into a small, fast one that looks the same.\n")
    width = max(map(len, COMMANDS)) + 2
    for name, kind in COMMANDS.items():
        say(f"  {name:{width}}{(kind.__doc__ or '').splitlines()[0]}")
    say(
        "\n`dukd COMMAND --help` lists a command's options; --debug shows where an error came from."
    )
    say(
        "`--import FILE` runs a Python file first, which may define methods and networks of your "
        "own."
    )
    return 0


def _complain(error: Exception) -> int:
    """Print one sentence about an error, and choose the exit code."""
    code, text = _judged(error)
    if code == INTERNAL:
        text = (
            f"this should not have happened: {text}\n"
            "Please run it again with --debug and report what it prints."
        )
    err.print("[bold red]dukd:[/] " + "\n".join(escape(shown(line)) for line in text.splitlines()))
    return code


def _judged(error: Exception) -> tuple[int, str]:
    """The exit code for an error, and what to say about it."""
    cause = error if isinstance(error, OSError) else error.__cause__
    cannot_write = isinstance(cause, OSError) and cause.errno in _NO_WRITING
    code, text = INTERNAL, f"{type(error).__name__}: {error}"
    match error:
        case DiskFullError():
            code, text = CANNOT_WRITE, str(error)
        case OSError():
            where = "" if error.filename is None else f"{error.filename}: "
            said = error.strerror or str(error)
            text = f"{where}{said[:1].lower()}{said[1:]}"
            code = USAGE if isinstance(error, FileNotFoundError) else IO_ERROR
            if cannot_write:
                code = CANNOT_WRITE
                text += "" if "make room" in text else "; make room, or choose another place"
        case ImageError() | PairsError() | PackError() | CheckpointError() | WeightsError():
            code, text = CANNOT_WRITE if cannot_write else BAD_DATA, str(error)
        case ValueError() | loop.NonFiniteError() | MemoryError():
            code, text = USAGE, str(error) or "not enough memory"
        case _:
            pass
    return code, text


def _reader_left() -> int:
    """Whoever reads our output wants no more of it: leave without a word."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + 13  # what the shell shows for SIGPIPE
