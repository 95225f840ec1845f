"""What a step of an experiment costs here, before it is begun."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from dukd.core.distributed import World
from dukd.networks import NetworkConfig
from dukd.testing.speed import trial
from dukd.training.assemble import assemble
from dukd.training.experiment import Experiment
from dukd.training.step import advance, settle
from dukd.training.teachers import Teacher

_TIMED = 3


def step_seconds(
    experiment: Experiment, teacher: NetworkConfig | Teacher | None
) -> tuple[float, float]:
    """CPU seconds of a step, measured on noise: with the teacher live, and replayed.

    Args:
        experiment: What is to be trained.
        teacher: Its teacher's file, or its numbers where the file is not at hand.

    Returns:
        Both; twice the same where batches do not come again.
    """
    data = experiment.data
    with tempfile.TemporaryDirectory() as name:
        noise = trial(
            experiment.student,
            teacher,
            experiment.method,
            Path(name),
            patch=data.patch,
            batch=data.batch,
        )
        wanted = replace(
            noise,
            optimization=replace(experiment.optimization, warm_start=None),
            data=replace(noise.data, degradation=data.degradation),
        )
        live = _timed(wanted)
        if not data.period:
            return live, live
        return live, _timed(replace(wanted, data=replace(wanted.data, period=1)))


def _timed(experiment: Experiment) -> float:
    training = assemble(experiment, World(device=torch.device("cpu")))
    if training.objective.cache is not None:
        training.objective.fill()
    lr, hr = training.share.patches.batch(0)

    def run() -> None:
        advance(training, lr, hr)
        settle(training)

    run()  # what is done only once
    least = min(_cpu(run) for _ in range(_TIMED))
    if training.objective.cache is not None:
        training.objective.cache.close()
    return least


def _cpu(run: Callable[[], None]) -> float:
    begun = time.process_time()
    run()
    return time.process_time() - begun
