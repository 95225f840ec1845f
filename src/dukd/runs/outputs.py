"""Images of a report, computed anew from the students that runs have kept."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from dukd.core.files import Progress, sha256, silent
from dukd.core.once import entry, said_of
from dukd.core.text import shown
from dukd.data.pairs import Pair, find_pairs, load
from dukd.evaluation import metrics
from dukd.evaluation.candidates import Unsaid, weights_of
from dukd.evaluation.candidates import read as read_network
from dukd.evaluation.output import Pixels, output
from dukd.evaluation.sets import some
from dukd.images.convert import from_tensor, to_tensor
from dukd.images.resize import imresize_uint8
from dukd.networks.base import Network
from dukd.networks.upscaler import Upscaler
from dukd.runs.looks import Look
from dukd.runs.scenes import TRUTH, Kind, Layer, Scene, arranged
from dukd.runs.summary import Summary, part
from dukd.runs.windows import Window, busiest

_LARGEST = 640
"""Rows or columns above which the part of an image with the most detail is taken."""
_PART = 448
"""Rows and columns of that part."""


@dataclass(frozen=True)
class Model:
    """What enlarges, to be shown."""

    label: str
    """What people call it."""
    kind: Kind
    """What it is to the others."""
    upscaler: Upscaler
    """Itself: a network, or a session of a runtime."""
    strong: bool = False
    """Whether it is the one to look at."""


def models(
    summaries: Sequence[Summary],
    named: Mapping[str, Look],
    *,
    teacher: Path | None = None,
    best: bool = False,
) -> tuple[list[Model], list[str]]:
    """Open the students of runs, one of each experiment, and their teacher.

    Args:
        summaries: The runs.
        named: What a page calls their students, by ``kin``.
        teacher: The teacher's file; None takes the one that the runs name, if it is still there.
        best: Whether to take the students of the best validations.

    Returns:
        Networks of one scale, and a sentence for each that could not be opened.

    Raises:
        ValueError: If the file given as teacher cannot be read.
    """
    found: list[Model] = []
    problems: list[str] = []
    leading = {summary.kin: summary for summary in reversed(summaries)}
    for kin, look in named.items():
        try:
            network = read_network(weights_of(leading[kin].directory, best=best), Unsaid())
        except (ValueError, OSError) as error:
            problems.append(f"{look.label} is not among the images: {shown(str(error))}")
        else:
            found.append(Model(look.label, "student", network, look.strong))
    try:
        opened = _teacher(summaries, teacher)
        if opened is not None:
            found.append(Model("teacher", "teacher", opened))
    except (ValueError, OSError) as error:
        if teacher is not None:
            raise
        problems.append(f"the teacher is not among the images: {shown(str(error))}")
    check_scales(found)
    return found, problems


def check_scales(found: Sequence[Model]) -> None:
    """See that all enlarge by the same factor.

    Raises:
        ValueError: If not.
    """
    scales = {model.upscaler.scale for model in found}
    if len(scales) > 1:
        listed = " and ".join(f"x{scale}" for scale in sorted(scales))
        raise ValueError(f"networks of {listed} cannot be shown side by side: report them apart")


def _teacher(summaries: Sequence[Summary], named: Path | None) -> Network | None:
    """The teacher of the first run that has one; a file that changed since is refused."""
    if named is not None:
        return read_network(weights_of(named), Unsaid())
    for summary in summaries:
        said = part(summary.experiment, "teacher")
        if "weights" not in said:
            continue
        path = place(summary, str(said["weights"]))
        digest = summary.facts.get("teacher_sha256")
        if digest and path.is_file() and sha256(path) != digest:
            raise ValueError(f"{shown(path)} has changed since {summary.name} was trained")
        return read_network(path, _unsaid(said))
    return None


def _unsaid(said: Mapping[str, Any]) -> Unsaid:
    """What an experiment says of its teacher's file, from text."""

    def number(name: str) -> float | None:
        value = said.get(name)
        return float(value) if isinstance(value, str) and value not in {"null", ""} else None

    mean = said.get("mean")
    triple = [float(str(v)) for v in cast("list[object]", mean)] if isinstance(mean, list) else []
    return Unsaid(
        value_range=number("value_range"),
        mean=(triple[0], triple[1], triple[2]) if len(triple) == 3 else None,
        residual_scale=number("residual_scale"),
    )


def place(summary: Summary, path: str) -> Path:
    """A path of an experiment, from where its run was begun; it may not be there any more."""
    whole = Path(path)
    if whole.is_absolute():
        return whole
    facts = summary.facts
    folders = [
        summary.directory / str(facts.get("folder_from_run", ".")),
        Path(str(facts.get("folder", "."))),
        Path(),
    ]
    there = (folder / whole for folder in folders if (folder / whole).exists())
    return next(there, whole)


def validation_images(summaries: Sequence[Summary], scale: int, count: int) -> list[Pair]:
    """Some images of the set that judged the runs while they trained; none where it is away.

    Raises:
        ValueError: If the set is there, but its images cannot be used.
    """
    for summary in summaries:
        sets = part(summary.experiment, "evaluation").get("sets")
        for folder in cast("list[object]", sets) if isinstance(sets, list) else []:
            path = place(summary, str(folder))
            if path.is_dir():
                return list(some(find_pairs(path, scale=scale), count))
    return []


def named_images(paths: Sequence[Path], scale: int) -> tuple[list[Pair], list[str]]:
    """High-resolution images by their files or folders.

    Returns:
        Their pairs, each once, and what is to be said of them, a sentence each.

    Raises:
        ValueError: If there is none, or one cannot be used.
    """
    sets = [find_pairs(path, scale=scale) for path in paths]
    found: dict[Hashable, Pair] = {}
    every = [(entry(pair.hr), pair) for pairs in sets for pair in pairs]
    repeated = [
        (pair.hr, first.hr)
        for key, pair in every
        if (first := found.setdefault(key, pair)) is not pair
    ]
    notes = dict.fromkeys(note for pairs in sets for note in pairs.assumed)
    return list(found.values()), [*notes, *filter(None, [said_of(repeated, "shown")])]


def scenes(
    models: Sequence[Model],
    pairs: Sequence[Pair],
    *,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
    whole: bool = False,
) -> list[Scene]:
    """Enlarge images by all models; of a large image, the part with the most detail.

    Args:
        models: Networks of one scale.
        pairs: The images.
        device: Where networks run.
        progress: Told how many outputs there are.
        whole: Whether large images are enlarged as a whole.

    Raises:
        ValueError: If an image cannot be read.
    """
    found: list[Scene] = []
    total = len(pairs) * len(models)
    for number, pair in enumerate(pairs):
        lr, hr = load(pair) if whole else cut(*load(pair), pair.scale)
        layers = [
            _layer("bicubic", "bicubic", imresize_uint8(lr, pair.scale), hr, pair.scale),
            Layer(TRUTH, "truth", hr),
        ]
        for index, model in enumerate(models):
            progress(number * len(models) + index, total, f"{pair.name}, {model.label}")
            upscaler = model.upscaler
            upscaler = upscaler.to(device) if isinstance(upscaler, Network) else upscaler
            pixels = cast("Pixels", from_tensor(output(upscaler, lr, device=device)[0]))
            made = _layer(model.label, model.kind, pixels, hr, pair.scale, strong=model.strong)
            layers.append(made)
        found.append(arranged(pair.name, layers))
    progress(total, total, "images")
    return found


def cut(lr: Pixels, hr: Pixels, scale: int) -> tuple[Pixels, Pixels]:
    """Of a large pair, the part with the most detail."""
    if max(hr.shape[:2]) <= _LARGEST:
        return lr, hr
    size = _PART // scale
    top, left = busiest(hr[::scale, ::scale], size)
    window = Window(top, left, min(size, lr.shape[0]), min(size, lr.shape[1]))
    whole = Window(top * scale, left * scale, window.height * scale, window.width * scale)
    return window.of(lr), whole.of(hr)


def _layer(
    label: str, kind: Kind, pixels: Pixels, hr: Pixels, scale: int, *, strong: bool = False
) -> Layer:
    figure = metrics.psnr_y(to_tensor(pixels), to_tensor(hr), border=scale).item()
    return Layer(label, kind, pixels, figure, strong)
