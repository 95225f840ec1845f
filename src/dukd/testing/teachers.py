"""What every teacher promises, as a check that needs no test framework."""

from pathlib import Path

import torch

from dukd.methods import Logits
from dukd.networks import EDSRConfig
from dukd.testing.cases import hold
from dukd.training.experiment import Data, Experiment
from dukd.training.teachers import Teacher


def check_teacher(teacher: Teacher, *, scale: int = 2) -> None:
    """Hold a teacher that can be run to what training takes for granted.

    Args:
        teacher: The teacher; it is opened twice.
        scale: The student's.

    Raises:
        AssertionError: If a promise is broken; the message says which.
    """
    name = teacher.name
    experiment = Experiment(
        student=EDSRConfig(scale=scale), teacher=teacher, method=Logits(), data=Data(train=Path())
    )
    again = Experiment.from_yaml(experiment.to_yaml()).teacher
    hold(again == teacher, f"{name} comes back from YAML as {again}, but was {teacher}")
    hold(bool(teacher.place), f"{name} does not say where it is")
    first, second = (teacher.open(scale, lambda _note: None) for _ in range(2))
    hold(bool(first.sha256), f"{name} has no digest, so that no run could be resumed")
    hold(first.sha256 == second.sha256, f"{name} has another digest when it is opened again")
    network = first.network
    hold(not network.training, f"{name} gives a network in training mode: return it frozen()")
    learning = [n for n, p in network.named_parameters() if p.requires_grad]
    hold(not learning, f"{name} gives a network that takes gradients: return it frozen()")
    rng = torch.Generator().manual_seed(0)
    for h, w in ((8, 8), (11, 7)):
        lr = torch.rand(2, 3, h, w, generator=rng)
        sr = network(lr)
        wanted = (2, 3, h * network.scale, w * network.scale)
        hold(sr.shape == wanted, f"{name} gives {tuple(sr.shape)} for {tuple(lr.shape)}")
        hold(torch.equal(sr, second.network(lr)), f"{name} gives other outputs when opened again")
