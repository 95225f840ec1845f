"""The command line: the only package that prints or exits; one file per group of commands.

Each command is a frozen dataclass of its options, and calling it does the work and returns the exit
code; tyro makes the parser and the help of it. What is made goes to standard output; progress and
complaints go to standard error.
"""

from dukd.cli.commands import COMMANDS
from dukd.cli.program import main, run

__all__ = ["COMMANDS", "main", "run"]
