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
from functools import partial
from importlib.metadata import entry_points, version
from typing import NoReturn

from rich.markup import escape

from dukd._version import __version__
from dukd.cli import commands, listing
from dukd.cli.commands import COMMANDS
from dukd.cli.terminal import err, say, table
from dukd.core.text import shown

USAGE, BAD_DATA, INTERNAL, CANNOT_WRITE, IO_ERROR, RESUME, INTERRUPTED = (
    2,
    65,
    70,
    73,
    74,
    75,
    130,
)
_TEXTS = {"--title", "--suffix", "--labels", "--name", "--author", "--license", "--description"}
"""Options that may be empty."""
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
        say(f"dukd {__version__}, torch {version('torch')}")
        return 0
    if name not in COMMANDS:
        from dukd.core.config import nearest  # noqa: PLC0415  see commands.py

        raise ValueError(
            f"there is no command {name!r}{nearest(name, COMMANDS)}; `dukd --help` lists them"
        )
    if not rest and (listed := _listed(name)) is not None:
        return listed()
    _refuse_empty(rest)
    if "--import" in rest:
        from dukd.cli.train import with_plugins  # noqa: PLC0415  likewise

        rest = with_plugins(rest)
    return parse(name, rest)()


def _refuse_empty(arguments: Sequence[str]) -> None:
    """Refuse what a shell makes of a variable that is not set, but in texts.

    A path without letters would be the folder one is in, with all that lies there.
    """
    before = ""
    for argument in arguments:
        option, equals, value = argument.partition("=")
        option = option if equals and option.startswith("-") else before
        empty = not argument or (bool(equals) and not value and option is not before)
        if empty and option not in _TEXTS:
            where = f"after {option}" if option.startswith("-") else "among the arguments"
            raise ValueError(f"there is an empty word {where}: is a variable of the shell set?")
        before = argument


def parse(name: str, arguments: Sequence[str]) -> Callable[[], int]:
    """Read the options of a command; tyro shows help or complains by `SystemExit`.

    Raises:
        ValueError: If an argument names a thing that is not there.
    """
    from dukd.cli.helptext import in_one_piece  # noqa: PLC0415  it waits for tyro's parser

    with in_one_piece():
        return _parsed(name, arguments)


def _parsed(name: str, arguments: Sequence[str]) -> Callable[[], int]:
    import tyro  # noqa: PLC0415  a list of commands does not need it

    if name == "train":
        from dukd.cli import train  # noqa: PLC0415  see commands.py

        return train.parse(arguments)
    if name == "export":
        from dukd.cli import use  # noqa: PLC0415  likewise

        return use.parse_export(arguments)
    if name == "upscale":
        from dukd.cli import use  # noqa: PLC0415  likewise

        # Real-ESRGAN has a flag before its inputs.
        arguments = [use.SHORT.get(a, a) for a in arguments if a not in {"-i", "--input"}]
    from dukd.cli.finite import finite  # noqa: PLC0415  likewise

    return finite(tyro.cli(COMMANDS[name].load(), prog=f"dukd {name}", args=list(arguments)))


def _listed(name: str) -> Callable[[], int] | None:
    """A command that only lists what the package holds, and does not wait for torch."""
    if name == "models":
        return listing.show_models
    if name not in {"methods", "recipes"} or entry_points(group="dukd.plugins"):
        return None
    if name == "methods":
        return _methods
    stored = listing.stored_recipes()
    return None if stored is None else partial(listing.show_recipes, stored)


def _methods() -> int:
    table(("method", "what it does"), commands.methods().items())
    say(f"\n{commands.ABOUT_METHODS}")
    return 0


def _help() -> int:
    say("usage: dukd COMMAND [options]\n")
    say("Turn a large super-resolution network into a small, fast one, and measure what is lost.\n")
    width = max(map(len, COMMANDS)) + 2
    for name, command in COMMANDS.items():
        say(f"  {name:{width}}{command.summary}")
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
    lines = "\n".join(shown(line) for line in text.splitlines())
    if code == RESUME:
        err.print(f"dukd: {escape(lines)}")
    else:
        err.print(f"[bold red]dukd:[/] {escape(lines)}")
    return code


def _judged(error: Exception) -> tuple[int, str]:
    """The exit code for an error, and what to say about it."""
    cause = error if isinstance(error, OSError) else error.__cause__
    cannot_write = isinstance(cause, OSError) and cause.errno in _NO_WRITING
    if type(error).__module__.startswith("dukd."):  # so that torch is there already
        code = _own(error)
        if code is not None:
            return CANNOT_WRITE if code == BAD_DATA and cannot_write else code, str(error)
    match error:
        case OSError():
            where = "" if error.filename is None else f"{error.filename}: "
            said = error.strerror or str(error)
            text = f"{where}{said[:1].lower()}{said[1:]}"
            code = USAGE if isinstance(error, FileNotFoundError) else IO_ERROR
            if cannot_write:
                code = CANNOT_WRITE
                text += "" if "make room" in text else "; make room, or choose another place"
            return code, text
        case ValueError() | MemoryError():
            return USAGE, str(error) or "not enough memory"
        case RuntimeError() if "torch" in sys.modules and _no_memory(error):
            return USAGE, f"not enough memory for this ({str(error).splitlines()[0][:200]})"
        case _:
            return INTERNAL, f"{type(error).__name__}: {error}"


def _no_memory(error: Exception) -> bool:
    from dukd.core.device import is_out_of_memory  # noqa: PLC0415  see commands.py

    return is_out_of_memory(error)


def _own(error: Exception) -> int | None:
    """The exit code for an error of dukd's own; None if it is judged as its base class."""
    from dukd.data.pack import PackError  # noqa: PLC0415  see commands.py
    from dukd.data.pairs import PairsError  # noqa: PLC0415  likewise
    from dukd.images import ImageError  # noqa: PLC0415  likewise
    from dukd.networks.files.weights import WeightsError  # noqa: PLC0415  likewise
    from dukd.runs.checkpoint import CheckpointError, DiskFullError  # noqa: PLC0415  likewise
    from dukd.runs.results import ResultsError  # noqa: PLC0415  likewise
    from dukd.training.loop import Interrupted, NonFiniteError  # noqa: PLC0415  likewise

    match error:
        case Interrupted():
            return RESUME
        case DiskFullError():
            return CANNOT_WRITE
        case ImageError() | PairsError() | PackError() | CheckpointError():
            return BAD_DATA
        case WeightsError() | ResultsError():
            return BAD_DATA
        case NonFiniteError():
            return USAGE
        case _:
            return None


def _reader_left() -> int:
    """Whoever reads our output wants no more of it: leave without a word."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + 13  # what the shell shows for SIGPIPE
