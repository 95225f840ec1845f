"""Measure networks side by side by the field's protocol, and say which protocol that is.

Every metric, size, cost and time, over any sets of images, for networks, for bicubic interpolation,
and for images that another program has made. What cannot be measured is listed, and the rest is
measured.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from math import isfinite, nan
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from dukd.core.files import Progress, silent
from dukd.core.given import refuse
from dukd.core.text import shown
from dukd.data.pairs import Pairs, PairsError
from dukd.evaluation import metrics as measures
from dukd.evaluation.candidates import Candidate, Named, open_all
from dukd.evaluation.columns import COLUMNS, SHARE, columns_of, protocol_of
from dukd.evaluation.measuring import Measuring, Values
from dukd.evaluation.sets import ImageSet, Inputs, NamedSet, open_set, usable
from dukd.evaluation.table import Row, Table, Value
from dukd.networks import macs
from dukd.networks.base import Network
from dukd.networks.code import network_of
from dukd.networks.files.weights import tensors_sha256
from dukd.networks.reduced import Reduced

MACS_SIZE = (720, 1280)
"""Height and width of the output for which multiply-accumulates are counted."""

_SHORTEST = 0.005
"""dB from which on a share of a way is more than noise."""


def evaluate(
    candidates: Iterable[Named] | Path | str,
    sets: Mapping[str, NamedSet],
    *,
    teacher: Named | None = None,
    metrics: Collection[str] = (),
    border: int | None = None,
    images: int = 0,
    scale: int | None = None,
    device: torch.device | str = "cpu",
    precision: torch.dtype = torch.float32,
    progress: Progress = silent,
) -> Table:
    """Measure every candidate on every set.

    Args:
        candidates: Networks, files of weights, run directories, folders of ready images, and
            ``"bicubic"``; or one file or folder.
        sets: By name: a folder in any layout the field uses, its pairs, or `Inputs`.
        teacher: What agreement is measured against; it has a row of its own.
        metrics: Names; without any, what papers print, and what plug-ins bring.
        border: Pixels left out on every side; the scale by default, 0 in the real world.
        images: Images used of each set, evenly spaced; 0 for all.
        scale: Upscaling factor, where no network says it.
        device: Where networks run.
        precision: float32, or bfloat16 for autocast.
        progress: Called after every image.

    Returns:
        One row per candidate; ``problems`` lists what could not be measured.

    Raises:
        ValueError: If nothing can be measured, scales differ, or there are two teachers.
    """
    if precision not in {torch.float32, torch.bfloat16}:
        raise ValueError(f"networks are measured in float32 or bfloat16, but got {precision}")
    candidates = [candidates] if isinstance(candidates, Path | str) else candidates
    _check_types(candidates, sets)
    metrics = (metrics,) if isinstance(metrics, str) else metrics
    notes: list[str] = []
    found, problems = open_all(candidates, teacher, say=notes.append)
    found = _with_reduced_teacher(found, sets, scale)
    scale = _common_scale(found, sets, scale)
    alone = not metrics and any(isinstance(what, Inputs) for what in sets.values())
    chosen = list((measures.find(metrics) | (measures.find(["niqe"]) if alone else {})).values())
    border = scale if border is None else border
    least = 2 * border + max(metric.least for metric in chosen)
    good = _open_sets(sets, scale, images, least, problems)
    measuring = Measuring(found, good, chosen, border, torch.device(device), precision)
    measuring.run(progress)
    if not any(values for of_one in measuring.values for values in of_one.values()):
        raise ValueError("\n".join(["nothing could be measured:", *measuring.problems]))
    return _table(measuring, scale, problems, notes)


def _check_types(candidates: object, sets: object) -> None:
    if isinstance(candidates, nn.Module) or not isinstance(candidates, Iterable):
        refuse("what is measured", "a list, such as ['bicubic', 'student.safetensors']", candidates)
    if not isinstance(sets, Mapping):
        refuse("sets", "images by the name of their set, such as {'Set5': 'path/Set5'}", sets)
    for name, what in cast("Mapping[str, object]", sets).items():
        if not isinstance(what, str | Path | Pairs | Inputs):
            refuse(f"the set {name}", "a folder, dukd.find_pairs(folder) or dukd.Inputs", what)


def _with_reduced_teacher(
    found: Sequence[Candidate], sets: Mapping[str, NamedSet], scale: int | None
) -> list[Candidate]:
    """The same with a teacher of a larger scale reduced to the others', which its label says."""
    others = [c.upscaler.scale for c in found if c.model != "teacher" and c.upscaler is not None]
    others += [s.scale for s in sets.values() if isinstance(s, Pairs)]
    wanted = scale or (others[0] if others else None)
    kept = list(found)
    for i, c in enumerate(found):
        if c.model != "teacher" or c.upscaler is None or wanted in {None, c.upscaler.scale}:
            continue
        assert wanted is not None
        network = c.network or network_of(c.upscaler, c.label)
        label = f"{c.label} (x{c.upscaler.scale} reduced to x{wanted})"
        kept[i] = replace(c, upscaler=Reduced(network, wanted).frozen(), label=label)
    return kept


def _common_scale(
    found: Sequence[Candidate], sets: Mapping[str, NamedSet], scale: int | None
) -> int:
    """The scale of everything.

    Raises:
        ValueError: If there is nothing to measure, no scale, or more than one.
    """
    if not found or not sets:
        raise ValueError("nothing to measure: name at least one model and one set of images")
    teachers = [c.label for c in found if c.model == "teacher"]
    if len(teachers) > 1:
        raise ValueError(f"agreement is with one teacher, but got {', '.join(teachers)}")
    scales = {name: s.scale for name, s in sets.items() if isinstance(s, Pairs)}
    scales |= {c.label: c.upscaler.scale for c in found if c.upscaler is not None}
    scales |= {} if scale is None else {"the scale given": scale}
    if not scales:
        ready = [shown(c.images) for c in found if c.images is not None]
        why = f"; {', '.join(ready)} is not a run, its images stand for outputs" if ready else ""
        raise ValueError(f"nothing says the scale: give it (--scale){why}")
    if len(set(scales.values())) > 1:
        listed = ", ".join(f"{name} x{scale}" for name, scale in scales.items())
        raise ValueError(
            f"models and sets have different scales: {listed}; measure each scale by itself"
        )
    return next(iter(scales.values()))


def _open_sets(
    sets: Mapping[str, NamedSet],
    scale: int,
    count: int,
    least: int,
    problems: list[str],
) -> dict[str, ImageSet]:
    """The sets with the images that can be measured; what cannot is added to the problems.

    Raises:
        PairsError: If nothing is left.
    """
    opened: dict[str, ImageSet] = {}
    wrong: list[str] = []
    for name, what in sets.items():
        try:
            opened[name] = open_set(what, scale, count)
        except PairsError as error:
            wrong += [error.heading, *error.problems]
            if len(sets) == 1:
                raise
    good, more = usable(opened, least)
    wrong += more
    if not good:
        raise PairsError("nothing to measure on", wrong or [f"no image in {', '.join(sets)}"])
    problems += wrong
    return good


def _table(
    measuring: Measuring, scale: int, problems: Sequence[str], notes: Sequence[str]
) -> Table:
    rows = [
        _row(c, values, scale)
        for c, values in zip(measuring.candidates, measuring.values, strict=True)
    ]
    rows.sort(key=lambda row: {"bicubic": 0, "teacher": 1}.get(row.model, 2))
    names = [metric.name for metric in measuring.metrics]
    return Table(
        rows=tuple(_with_share(row, rows) for row in rows),
        columns=COLUMNS,
        measures=(*columns_of(names, finer=1), SHARE),
        scale=scale,
        border=measuring.border,
        facts={
            "device": measuring.device.type,
            "precision": str(measuring.precision).removeprefix("torch."),
        },
        protocol=protocol_of(measuring.metrics, border=measuring.border, scale=scale),
        notes=(*notes, *_unjudged(measuring), *measuring.assumed()),
        problems=(*problems, *measuring.problems),
    )


def _unjudged(measuring: Measuring) -> tuple[str, ...]:
    """A sentence for each metric and set of which an image cannot be judged."""
    found = dict.fromkeys(
        f"{metric.title} has no value on {name}: an image is too small for it, or too flat."
        for metric in measuring.metrics
        for of_one in measuring.values
        for name, values in of_one.items()
        if np.isnan(values.get(metric.name, ())).any()
    )
    return tuple(found)


def _row(candidate: Candidate, measured: Mapping[str, Values], scale: int) -> Row:
    network, passes = candidate.network, 8 if candidate.self_ensemble else 1
    values: dict[str, Value] = {}
    times = [t for found in measured.values() for t in found.get("seconds", ())]
    if network is not None and network.parameter_count():
        size = (MACS_SIZE[0] // scale, MACS_SIZE[1] // scale)
        used = network.folded()  # as it is deployed, without branches that only train
        values["parameters"] = used.parameter_count()
        values["macs"] = passes * macs(used, *size)
        values["network"] = fingerprint(network)
    if times:
        values["seconds_per_image"] = float(np.mean(times))
    sets = {name: _means(found) for name, found in measured.items() if found}
    return Row(model=candidate.model, label=candidate.title, values=values, sets=sets)


def _means(measured: Values) -> dict[str, Value]:
    """Means over the images; what was not measured of every one has none."""
    count = max(map(len, measured.values()))
    means: dict[str, Value] = {
        name: float(np.mean(values))
        for name, values in measured.items()
        if len(values) == count and not np.isnan(values).any()
    }
    return {"images": count, **means}


def _with_share(row: Row, rows: Sequence[Row]) -> Row:
    """The row with its share of the way from bicubic to the teacher."""
    low, high = (next((r for r in rows if r.model == m), None) for m in ("bicubic", "teacher"))
    if low is None or high is None or row in (low, high):
        return row
    shares = {name: part_of_way(row, low, high, name) for name in row.sets}
    sets = {
        name: {**values, **({} if shares[name] is None else {"share": shares[name]})}
        for name, values in row.sets.items()
    }
    return replace(row, sets=sets)


def part_of_way(row: Row, low: Row, high: Row, name: str) -> float | None:
    """How far a row is on the way from a lower one to a higher one, in PSNR-Y on a set.

    Returns:
        A share of 1; None where a value is missing or infinite, or the way is shorter than 0.005
        dB.
    """
    values = [r.value("psnr_y", name) for r in (row, low, high)]
    own, start, end = (nan if value is None else value for value in values)
    way = end - start
    return (own - start) / way if isfinite(own) and isfinite(way) and way >= _SHORTEST else None


def fingerprint(network: Network) -> str:
    """SHA-256 of a network's numbers and weights: equal for networks whose outputs are equal."""
    return sha256(f"{network.config!r} {tensors_sha256(network.state_dict())}".encode()).hexdigest()
