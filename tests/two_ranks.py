"""Two ranks of one run: this process is the first, a fork of it the second."""

import os
import signal
import socket
from datetime import timedelta
from pathlib import Path

import torch

from dukd.core import distributed
from dukd.networks.base import NetworkConfig
from dukd.training import loop
from dukd.training.experiment import Experiment
from tiny_runs import STUDENT
from whole_runs import shaped

_TIMEOUT = timedelta(seconds=4)
"""How long a rank waits for one that was killed before they met."""


def train_two(folder: Path, root: Path, student: NetworkConfig = STUDENT) -> None:
    """Train by two ranks, or resume where there is a run.

    Raises:
        RuntimeError: If the second rank fails where the first does not.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    resume = (root / "run" / "experiment.yaml").exists()
    experiment = shaped("ranks", folder, root, student)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            _rank(1, port, root, experiment, resume=resume)
            code = 0
        finally:
            os._exit(code)
    try:
        _rank(0, port, root, experiment, resume=resume)
    except BaseException:
        os.kill(pid, signal.SIGKILL)  # as torchrun does; this process lives on, with its sockets
        os.waitpid(pid, 0)
        raise
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError(f"the second rank ended with {os.waitstatus_to_exitcode(status)}")


def _rank(rank: int, port: int, root: Path, experiment: Experiment, *, resume: bool) -> None:
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    environment |= {"LOCAL_WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    cpu = torch.device("cpu")
    with distributed.join(cpu, timeout=_TIMEOUT, environment=environment) as world:
        loop.train(experiment, root / "run", resume=resume, world=world)
