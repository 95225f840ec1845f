"""Run notebooks one after the other in one kernel, and write them with what their cells gave.

python tools/site/notebooks.py docs/notebooks build/notebooks
"""

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

_SECONDS = 1800
"""Most that one cell may take."""


def run(paths: Iterable[Path]) -> dict[str, Any]:
    """Run every cell of some notebooks; names that one defines are gone in the next.

    Returns:
        The notebooks with outputs, by name of file.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell fails.
    """
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=tempfile.gettempdir())
    channels = manager.client()
    channels.start_channels()
    done: dict[str, Any] = {}
    try:
        channels.wait_for_ready(timeout=60)
        for path in paths:
            notebook = nbformat.read(path, as_version=4)
            client = NotebookClient(notebook, km=manager, timeout=_SECONDS)
            client.kc = channels
            channels.execute_interactive("%reset -f", silent=True)
            client.execute()
            done[path.name] = notebook
    finally:
        channels.stop_channels()
        manager.shutdown_kernel(now=True)
    return done


def main(source: Path, target: Path) -> None:
    """Run all notebooks of a folder."""
    target.mkdir(parents=True, exist_ok=True)
    for name, notebook in run(sorted(source.glob("*.ipynb"))).items():
        nbformat.write(notebook, target / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
