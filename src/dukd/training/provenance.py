"""Where results come from: what ``run.json`` and the student's own file say of the run."""

import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

from dukd._version import __version__
from dukd.training.assemble import Training


def facts(training: Training) -> dict[str, object]:
    """How the results came to be: the content of ``run.json``."""
    experiment, device = training.experiment, training.device
    student, teacher = training.state.student, training.teacher
    pack = training.share.patches.pack
    on_gpu = device.type == "cuda"
    return {
        "dukd": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if on_gpu else platform.machine(),
        "threads": torch.get_num_threads(),
        "ranks": training.world.size,
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "seed": experiment.optimization.seed,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "method": experiment.method.name,
        "scale": student.scale,
        "steps": experiment.optimization.steps,
        "data_digest": pack.digest,
        "data_images": len(pack),
        "lr_source": pack.lr_source,
        "teacher_sha256": training.teacher_sha256,
        "student_parameters": student.parameter_count(),
        "teacher_parameters": None if teacher is None else teacher.parameter_count(),
    }


def origin(training: Training) -> dict[str, str]:
    """What the student's own file says of where it comes from."""
    return {
        "step": str(training.state.step),
        "method": training.experiment.method.name,
        "teacher_sha256": training.teacher_sha256,
        "data_digest": training.share.patches.pack.digest,
    }
