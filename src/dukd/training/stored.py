"""Imitation from stored outputs: images that any program made of the training inputs.

They are packed beside the training images, and cut by the same draws: a patch of lr and the
teacher's part of it are always of one place, under one flip. What a method shows its teacher
besides the pair, such as what DUKD zooms into, has no stored output, and is refused.
"""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from itertools import product
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from dukd import images
from dukd.core.files import Progress
from dukd.core.registry import known
from dukd.core.text import shown
from dukd.data.pack import Pack, Record
from dukd.data.packing import prepare
from dukd.data.pairs import Pair, Pairs, PairsError
from dukd.data.patches import Patches
from dukd.evaluation import ready
from dukd.methods.base import Batch, Method, checked_views, needs_teacher
from dukd.networks import EDSRConfig
from dukd.networks.base import Network, NetworkConfig, Output
from dukd.training.observe import is_input, observe


@dataclass(frozen=True, kw_only=True)
class _StoredConfig(NetworkConfig):
    name: ClassVar[str] = "stored"

    @override
    def build(self) -> Network:
        return Stored(self.scale)


class Stored(Network):
    """Stands for a teacher whose outputs come with the batch; it cannot be run."""

    def __init__(self, scale: int = 1) -> None:
        super().__init__(_StoredConfig(scale=scale), width=0, radius=None)

    @override
    def observe(self, lr: Tensor, depths: Sequence[float]) -> Output:
        raise ValueError("this teacher is a folder of outputs, which cannot be run on other images")


def check_served(method: Method) -> None:
    """Refuse a method that wants more of its teacher than outputs for the training inputs.

    Raises:
        ValueError: Saying what it wants, and which methods would do.
    """
    if why := _more_than_outputs(method):
        raise ValueError(
            f"{method.label} {why}, which a folder of outputs does not hold: name a teacher that "
            f"can be run, or a method that needs the outputs alone ({', '.join(served())})"
        )


def served() -> list[str]:
    """Methods that stored outputs are enough for, as they are by default."""
    found: list[str] = []
    for name, kind in known(Method).items():
        if any(f.default is MISSING and f.default_factory is MISSING for f in fields(kind)):
            continue
        method: Method = kind()
        if needs_teacher(method, 2) and not _more_than_outputs(method):
            found.append(name)
    return found


def _more_than_outputs(method: Method) -> str:
    """What a method wants of its teacher besides, found by trying it on small images."""
    rng = torch.Generator().manual_seed(0)
    lr, hr = torch.rand(2, 3, 8, 8, generator=rng), torch.rand(2, 3, 16, 16, generator=rng)
    for phase, step in product(method.phases, (0, 1 << 20)):
        batch = Batch(lr, hr, torch.Generator(), step, sr=hr)
        taught = [view for view in checked_views(phase, batch) if view.taught]
        others = [view.name for view in taught if not is_input(view, batch)]
        if others:
            return f"shows its teacher {' and '.join(others)} beside the training images"
        if any(view.depths for view in taught):
            return "compares features of its teacher"
        if any(view.teacher for view in taught):
            try:
                with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of layers without channels
                    student = EDSRConfig(scale=2, width=4, blocks=2).build()
                    state = phase.state(student, Stored(2))
                    seen = observe(phase, student, Stored(2), batch)
                    phase.losses(seen, batch, state)
            except (ValueError, AssertionError, AttributeError, RuntimeError):
                return "runs parts of its teacher"
    return ""


def stored_patches(
    folder: Path, patches: Patches, packs: Path, progress: Progress, *, prepared: bool = False
) -> Patches:
    """The outputs in a folder, cut as patches of the training images are.

    Args:
        folder: One image for each training image, called as it or ``NAME_...``.
        patches: Of the training images.
        packs: Where the pack of outputs is made.
        progress: Told how far that has come.
        prepared: Whether it has just been made, by another rank.

    Raises:
        PairsError: If there is none for an image, or several, or one of another size; all are
            named.
        ValueError: If the inputs are degraded anew for every patch.
    """
    if patches.degradation is not None:
        raise ValueError(
            f"the degradation {patches.degradation.name} is drawn anew for every patch, so no "
            "stored output is of the inputs: degrade the images beforehand (dukd degrade), let the "
            "teacher enlarge those, and train on them"
        )
    records = patches.pack.records
    found, problems = _outputs(folder, records, patches.pack.scale)
    scale, sizes = _sizes(found, records)
    if problems or sizes or scale is None:
        raise PairsError(
            f"{shown(folder)} does not hold the teacher's outputs for the training images",
            [*problems, *sizes],
        )
    pairs = Pairs(
        folder=folder,
        scale=scale,
        pairs=tuple(
            Pair(
                name=r.name, hr=found[r.name], lr=None, scale=scale, height=r.height, width=r.width
            )
            for r in records
        ),
    )
    mark = hashlib.sha256(f"{folder.resolve()} {patches.pack.digest}".encode()).hexdigest()[:8]
    path = packs / f"{folder.resolve().name}-outputs-x{scale}-{mark}.pack"

    def packing(done: int, total: int, what: str) -> None:
        progress(done, total, f"packing the teacher's outputs: {what}")

    pack = Pack.open(path) if prepared else prepare(pairs, path, progress=packing)
    return patches.of(pack)


def _outputs(
    folder: Path, records: Sequence[Record], scale: int
) -> tuple[dict[str, Path], list[str]]:
    """The output of each image by its name, and what is missing or ambiguous."""
    groups: dict[str, list[str]] = {}
    for record in records:
        parent, _, stem = record.name.rpartition("/")
        groups.setdefault(parent, []).append(stem)
    found: dict[str, Path] = {}
    problems: list[str] = []
    for parent, stems in groups.items():
        try:
            here = ready.find(folder / parent, stems, scale)
        except ValueError as error:
            problems.append(str(error))
        else:
            found |= {f"{parent}/{s}" if parent else s: path for s, path in here.items()}
    return found, problems


def _sizes(found: dict[str, Path], records: Sequence[Record]) -> tuple[int | None, list[str]]:
    """The scale of all outputs, and those that are of another size."""
    problems: list[str] = []
    scales: dict[str, int] = {}
    for record in records:
        if record.name not in found:
            continue
        try:
            head = images.header(found[record.name])
        except (images.ImageError, OSError) as error:
            problems.append(str(error))
            continue
        scale = head.width // record.width
        if scale < 1 or (head.width, head.height) != (record.width * scale, record.height * scale):
            problems.append(
                f"{shown(found[record.name])}: {head.width} x {head.height} pixels, but its "
                f"input has {record.width} x {record.height}, which does not divide it evenly"
            )
            continue
        scales[record.name] = scale
    if not scales:
        return None, problems
    usual = max(scales.values(), key=list(scales.values()).count)
    problems += [
        f"{shown(found[name])}: x{scale}, but the others are x{usual}"
        for name, scale in scales.items()
        if scale != usual
    ]
    return usual, problems
