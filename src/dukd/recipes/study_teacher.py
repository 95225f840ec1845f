"""A teacher's outputs on a set, made once for all cells of a study that learn from it."""

import os
import shutil
from pathlib import Path

import torch

from dukd.core import files
from dukd.core.files import Progress, silent
from dukd.evaluation.candidates import Candidate
from dukd.evaluation.output import output
from dukd.evaluation.sets import open_set
from dukd.images import Image, write
from dukd.images.convert import from_tensor
from dukd.networks.base import Network
from dukd.recipes.study import Cell
from dukd.training.teachers import Outputs, at_scale


def teacher_on(
    cell: Cell,
    out: Path,
    name: str,
    images: Path,
    *,
    device: torch.device,
    progress: Progress = silent,
) -> Candidate | None:
    """The teacher of a cell as a folder of its outputs, 8 bits, as metrics round them.

    Args:
        cell: The cell.
        out: The study's folder.
        name: Of the set.
        images: The set.
        device: Where the teacher runs, where it has to.
        progress: Told after each image.

    Returns:
        What to measure; None for a cell without a teacher, or one of stored outputs.

    Raises:
        ValueError: If the teacher or an image cannot be read.
    """
    if cell.experiment.teacher is None:
        return None
    teacher, scale = cell.experiment.teacher, cell.experiment.student.scale
    if isinstance(teacher, Outputs):
        return None
    opened = teacher.open(scale, _nobody)
    folder = out / "teachers" / f"{opened.sha256[:12]}-x{scale}" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with files.lock(folder.parent) as held:  # several cells may come to it at once
        for left in folder.parent.glob(f"{folder.name}.*.tmp") if held else ():  # of killed ones
            shutil.rmtree(left, ignore_errors=True)
        if not folder.is_dir():
            network = at_scale(opened.network, scale, teacher.place).to(device)
            _make(network, images, folder, device=device, progress=progress)
    return Candidate(model="teacher", label="teacher", images=folder)


def _make(
    network: Network, images: Path, folder: Path, *, device: torch.device, progress: Progress
) -> None:
    samples = open_set(images, network.scale).samples
    fresh = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    for done, sample in enumerate(samples, start=1):
        lr, _ = sample.load()
        sr, _ = output(network, lr, device=device, precision=torch.float32)
        write(fresh / f"{sample.name}.png", Image(pixels=from_tensor(sr)))
        progress(done, len(samples), f"the teacher on {sample.name}")
    fresh.rename(folder)


def _nobody(_: str) -> None:
    """Training said it."""
