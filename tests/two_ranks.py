"""Two ranks of one run: this process is the first, a fork of it the second."""

import os
import socket
from pathlib import Path

import torch

from dukd.core import distributed
from dukd.training import loop
from whole_runs import shaped


def train_two(folder: Path, root: Path) -> None:
    """Train by two ranks, or resume where there is a run.

    Raises:
        RuntimeError: If the second rank fails where the first does not.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    resume = (root / "run" / "experiment.yaml").exists()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            _rank(1, port, folder, root, resume=resume)
            code = 0
        finally:
            os._exit(code)
    try:
        _rank(0, port, folder, root, resume=resume)
    except BaseException:
        os.waitpid(pid, 0)
        raise
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError(f"the second rank ended with {os.waitstatus_to_exitcode(status)}")


def _rank(rank: int, port: int, folder: Path, root: Path, *, resume: bool) -> None:
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    environment |= {"LOCAL_WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    with distributed.join(torch.device("cpu"), environment=environment) as world:
        loop.train(shaped("ranks", folder, root), root / "run", resume=resume, world=world)
