"""A teacher's outputs on a set, made once for all cells of a study that learn from it."""

import os
import shutil
from pathlib import Path

import torch

from dukd.core import files
from dukd.core.files import Progress, silent
from dukd.evaluation.candidates import Candidate, open_all
from dukd.evaluation.output import output
from dukd.evaluation.sets import open_set
from dukd.images import Image, write
from dukd.images.convert import from_tensor
from dukd.recipes.study import Cell


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
        What to measure; None for a cell without a teacher.

    Raises:
        ValueError: If the teacher or an image cannot be read.
    """
    if cell.experiment.teacher is None:
        return None
    weights, scale = cell.experiment.teacher.weights, cell.experiment.student.scale
    folder = out / "teachers" / f"{files.sha256(weights)[:12]}-x{scale}" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with files.lock(folder.parent):  # several cells may come to it at once
        if not folder.is_dir():
            _make(weights, images, scale, folder, device=device, progress=progress)
    return Candidate(model="teacher", label="teacher", images=folder, weights=weights)


def _make(
    weights: Path,
    images: Path,
    scale: int,
    folder: Path,
    *,
    device: torch.device,
    progress: Progress,
) -> None:
    (teacher,), problems = open_all([], weights)
    if problems or teacher.upscaler is None:
        raise ValueError("; ".join(problems) or f"{weights} holds nothing that upscales")
    if teacher.network is not None:
        teacher.network.to(device)
    samples = open_set(images, scale).samples
    fresh = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    for done, sample in enumerate(samples, start=1):
        lr, _ = sample.load()
        sr, _ = output(teacher.upscaler, lr, device=device, precision=torch.float32)
        write(fresh / f"{sample.name}.png", Image(pixels=from_tensor(sr)))
        progress(done, len(samples), f"the teacher on {sample.name}")
    fresh.rename(folder)
