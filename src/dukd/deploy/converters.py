"""Converters that live in an environment of their own, since what they pin would break ours."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dukd.deploy.runtime import ExportError

_SECONDS = 1800  # after which a conversion is given up


class ConversionError(ExportError):
    """A network that a converter does not take."""


def convert(python: Path | None, script: str, arguments: Sequence[str], *, needs: str) -> None:
    """Run a converter in another interpreter.

    Args:
        python: The interpreter; this one if left out.
        script: What it runs.
        arguments: Of the script.
        needs: What has to be installed there, as pip names it.

    Raises:
        ConversionError: If the converter does not take the network.
        ExportError: If there is none such, it lacks the converter, or takes too long.
    """
    where = python or Path(sys.executable)
    try:
        done = subprocess.run(  # noqa: S603  an interpreter that the user names, a script of ours
            [str(where), "-c", script, *arguments],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except OSError as error:
        raise ExportError(f"--python {where} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired:
        raise ExportError(f"the conversion was not done after {_SECONDS} seconds") from None
    if done.returncode == 0:
        return
    lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
    if "ModuleNotFoundError" in lines[-1]:
        raise ExportError(
            f"{where} lacks the converter ({lines[-1]}): python -m venv other; other/bin/pip "
            f"install {needs}; then add --python other/bin/python"
        )
    raise ConversionError(f"the converter cannot take this network: {lines[-1][:200]}")
