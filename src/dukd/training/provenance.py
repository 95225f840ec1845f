"""Where results come from: what ``run.json`` and the student's own file say of the run."""

import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

from dukd._version import __version__
from dukd.core.files import sha256
from dukd.networks.reduced import HOW
from dukd.training.assemble import Training
from dukd.training.experiment import Experiment


def facts(training: Training, directory: Path) -> dict[str, object]:
    """How the results of a run directory came to be: the content of ``run.json``."""
    experiment, device = training.experiment, training.device
    student, teacher = training.state.student, training.teacher
    pack = training.share.patches.pack
    on_gpu = device.type == "cuda"
    return {
        "dukd": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if on_gpu else platform.machine(),
        "threads": torch.get_num_threads(),
        "ranks": training.world.size,
        "command": _command(),
        "folder": str(Path.cwd()),
        "folder_from_run": os.path.relpath(Path.cwd(), directory),
        "seed": experiment.optimization.seed,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "method": experiment.method.name,
        "scale": student.scale,
        "steps": experiment.optimization.steps,
        "data_digest": training.share.patches.digest,
        "data_images": len(pack),
        "lr_source": training.share.patches.lr_source,
        "teacher_sha256": training.teacher_sha256,
        "teacher_reduced": _reduced(training),
        "warm_start_sha256": warm_start_sha256(experiment),
        "student_parameters": student.parameter_count(),
        "teacher_parameters": None if teacher is None else teacher.parameter_count(),
    }


def _command() -> str:
    """What was typed; ``python -m dukd`` says so too, and torchrun."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    return " ".join([name, *sys.argv[1:]])


def _reduced(training: Training) -> str | None:
    """How the teacher's outputs come to the student's scale; None where they have it."""
    ours, theirs = training.experiment.student.scale, training.teacher_scale
    return None if theirs in {None, ours} else f"x{theirs} to x{ours} by {HOW}"


def warm_start_sha256(experiment: Experiment) -> str | None:
    """Digest of the file that the student starts from."""
    path = experiment.optimization.warm_start
    return None if path is None else sha256(path)


def origin(training: Training, step: int) -> dict[str, str]:
    """What the file of the student of a step says of where it comes from."""
    return {
        "step": str(step),
        "method": training.experiment.method.name,
        "teacher_sha256": training.teacher_sha256,
        "data_digest": training.share.patches.digest,
    }
