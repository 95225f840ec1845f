"""One rank of several, as torchrun would start it: it makes training runs, and says how each ended.

``python rank_process.py JOBS.json OUT TIMEOUT``. A job may disturb one rank at one step: by a
signal, or by changing its weights or its losses.
"""

import json
import math
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch

from dukd.core import distributed
from dukd.training import loop
from dukd.training.experiment import Experiment
from dukd.training.validation import Validation

PLAIN = loop.advance


def disturbed(job, rank):
    def advance(training, lr, hr):
        if (rank, training.state.step) == (job["rank"], job["step"]):
            match job["how"]:
                case "weights":
                    with torch.no_grad():
                        next(training.state.student.parameters())[0, 0, 0, 0] += 1e-3
                case "slow validation":
                    measure = Validation.measure
                    Validation.measure = lambda *a: time.sleep(job["seconds"]) or measure(*a)
                case "loss":
                    losses = training.objective.losses
                    training.objective.losses = lambda *a, **k: {
                        n: v * math.inf for n, v in losses(*a, **k).items()
                    }
                case name:
                    os.kill(os.getpid(), getattr(signal, name))
        return PLAIN(training, lr, hr)

    return advance


def outcome(job, world):
    loop.advance = disturbed(job, world.rank) if "how" in job else PLAIN
    reported = []
    try:
        loop.train(
            Experiment.from_file(Path(job["experiment"])),
            Path(job["run"]),
            resume=job.get("resume", False),
            observe=reported.append,
            world=world,
        )
    except Exception as error:  # noqa: BLE001  reported to the test
        return f"{type(error).__name__}: {error}"
    return f"reported {len(reported)}"


def main(jobs, out, timeout):
    limit = timedelta(seconds=float(timeout))
    with distributed.join(
        torch.device("cpu"), timeout=limit, patience=max(limit, timedelta(minutes=1))
    ) as world:
        ends = []
        for job in json.loads(Path(jobs).read_text()):
            ends.append(outcome(job, world))
            Path(out, f"rank{world.rank}.json").write_text(json.dumps(ends))


if __name__ == "__main__":
    main(*sys.argv[1:])
