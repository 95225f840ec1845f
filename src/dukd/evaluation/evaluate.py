"""Measure networks side by side by the field's protocol, and say which protocol that is.

PSNR and SSIM of the luma and of RGB, agreement with the teacher, size, cost and time, over any sets
of images, for networks, for bicubic interpolation, and for images that another program has made.
"""

import csv
import io
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import sha256
from itertools import compress, product
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dukd import images
from dukd.core.files import Progress, silent
from dukd.data.pairs import Pair, Pairs, load
from dukd.evaluation import metrics
from dukd.images import invertible
from dukd.images.convert import to_tensor
from dukd.images.resize import imresize_uint8
from dukd.networks import macs
from dukd.networks.base import Network, set_memory_format
from dukd.networks.files.weights import tensors_sha256

Pixels = NDArray[np.uint8]

PROTOCOL = {
    "luma": "BT.601 studio range as MATLAB's rgb2ycbcr, not rounded",
    "rounding": "SR and HR rounded to 8 bits",
    "border": "as many pixels as the scale",
    "ssim": "11 x 11 Gaussian, sigma 1.5, inside the image only",
    "mean": "over images",
    "hr": "cropped at the top left to a multiple of the scale",
    "gray": "as RGB; papers that keep gray images gray print 0.09 dB less for bicubic on Set14",
}
"""How the numbers are made; it stands beside them everywhere."""

MACS_SIZE = (720, 1280)
"""Height and width of the output for which multiply-accumulates are counted."""

_BUDGET = 2 << 30
"""Bytes that the two largest features of a network may take before an image is answered in
strips."""
_UPSAMPLED = 2 * 4
"""Bytes per feature at the high resolution: float32, before and after the shuffle of pixels."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Means over the images of one set."""

    psnr_y: float
    ssim_y: float
    psnr_rgb: float
    ssim_rgb: float
    agreement: float | None = None
    """PSNR of the luma against the teacher's answers, in dB."""
    images: int
    seconds: float | None = None
    """Per image, the network alone; none where no network was asked."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was measured of one model."""

    model: str
    """``bicubic``, ``teacher``, ``student``, ``baseline`` or ``images``."""
    label: str
    parameters: int | None = None
    macs: int | None = None
    """Multiply-accumulates for an output of 1280 x 720 pixels."""
    seconds_per_image: float | None = None
    network: str | None = None
    """Fingerprint of the network's numbers and weights; none where no network was asked."""
    sets: dict[str, Scores] = field(default_factory=dict[str, Scores])


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of models, columns of sets."""

    scale: int
    rows: tuple[Row, ...]
    device: str = "cpu"
    precision: str = "float32"
    protocol: Mapping[str, str] = field(default_factory=lambda: dict(PROTOCOL))

    def gap_closed(self, row: Row, name: str) -> float | None:
        """Share of the way from baseline (bicubic, if none was measured) to teacher, in luma."""
        by_model = {r.model: r for r in self.rows}
        low = by_model.get("baseline") or by_model.get("bicubic")
        high = by_model.get("teacher")
        if low is None or high is None or row.model in {"bicubic", "teacher", "baseline"}:
            return None
        if not all(name in r.sets for r in (low, high, row)):
            return None
        gap = high.sets[name].psnr_y - low.sets[name].psnr_y
        return (row.sets[name].psnr_y - low.sets[name].psnr_y) / gap if gap > 0 else None

    def to_dict(self) -> dict[str, object]:
        """The table as `evaluation.json` holds it."""
        rows: list[dict[str, object]] = []
        for row in self.rows:
            plain = asdict(row)
            for name in row.sets:
                plain["sets"][name]["gap_closed"] = self.gap_closed(row, name)
            rows.append(plain)
        facts = {"scale": self.scale, "device": self.device, "precision": self.precision}
        return {"protocol": dict(self.protocol), **facts, "rows": rows}

    def to_json(self) -> str:
        """The table as strict JSON; an infinite PSNR (equal images) is the string "inf"."""
        return json.dumps(_finite(self.to_dict()), indent=1, allow_nan=False) + "\n"

    def header_and_lines(self) -> tuple[list[str], list[list[str]]]:
        """The table as text cells."""
        names = list(self.rows[0].sets) if self.rows else []
        header = ["model", "parameters", "GMACs", "s/image"]
        for name in names:
            header += [
                f"{name} PSNR-Y",
                f"{name} SSIM-Y",
                f"{name} RGB",
                f"{name} agreement",
                f"{name} gap closed",
            ]
        lines: list[list[str]] = []
        for row in self.rows:
            cells = [
                row.label,
                _text(row.parameters, "{:,}"),
                _text(None if row.macs is None else row.macs / 1e9, "{:.1f}"),
                _text(row.seconds_per_image, "{:.3f}"),
            ]
            for name in names:
                s = row.sets[name]
                gap = self.gap_closed(row, name)
                cells += [
                    f"{s.psnr_y:.3f}",
                    f"{s.ssim_y:.4f}",
                    f"{s.psnr_rgb:.3f}",
                    _text(s.agreement, "{:.2f}"),
                ]
                cells.append(_text(None if gap is None else 100 * gap, "{:.1f} %"))
            lines.append(cells)
        keep = [i for i in range(len(header)) if any(line[i] for line in lines)]
        return [header[i] for i in keep], [[line[i] for i in keep] for line in lines]

    def to_markdown(self) -> str:
        """The table as Markdown, with the protocol below."""
        header, lines = self.header_and_lines()
        rule = ["---"] + ["---:"] * (len(header) - 1)
        escaped = [[cell.replace("|", "\\|") for cell in cells] for cells in lines]
        table = "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *escaped])
        return f"{table}\n\n{self.protocol_line()}\n"

    def to_csv(self) -> str:
        """The table as CSV, one line per model and set, with the protocol's words in columns."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        names = [
            "psnr_y",
            "ssim_y",
            "psnr_rgb",
            "ssim_rgb",
            "agreement",
            "gap_closed",
            "images",
            "seconds",
        ]
        writer.writerow(
            ["model", "label", "parameters", "macs", "scale", "set", *names, "protocol"]
        )
        for row in self.rows:
            for name, scores in row.sets.items():
                values = asdict(scores) | {"gap_closed": self.gap_closed(row, name)}
                facts = [row.model, row.label, row.parameters, row.macs, self.scale, name]
                writer.writerow([*facts, *(values[n] for n in names), self.protocol_line()])
        return out.getvalue()

    def protocol_line(self) -> str:
        """The protocol in one line."""
        words = "; ".join(f"{name}: {what}" for name, what in self.protocol.items())
        return f"x{self.scale}, {self.device}, {self.precision}. {words}."


def _text(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in cast("dict[str, object]", value).items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in cast("list[object]", value)]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model to measure: a network, a folder of images, or else bicubic interpolation."""

    model: str
    label: str
    network: Network | None = None
    images: Path | None = None
    self_ensemble: bool = False


def evaluate(
    candidates: Sequence[Candidate],
    sets: Mapping[str, Pairs],
    *,
    device: torch.device | str = "cpu",
    precision: torch.dtype = torch.float32,
    progress: Progress = silent,
) -> Table:
    """Measure every candidate on every set.

    Args:
        candidates: What to measure; the one whose model is ``teacher`` is what agreement is
            measured against.
        sets: Images by the name of the set, all of one scale.
        device: Where networks run.
        precision: float32, or bfloat16 for autocast.
        progress: Told after every image.

    Raises:
        ValueError: If there is nothing to measure, scales differ, there are two teachers, or a
            folder of ready images lacks one.
    """
    scale = _common_scale(candidates, sets)
    device = torch.device(device)
    if precision not in {torch.float32, torch.bfloat16}:
        raise ValueError(f"networks are measured in float32 or bfloat16, but got {precision}")
    ready = [
        _ready(c.images, sets) if c.network is None and c.images is not None else None
        for c in candidates
    ]
    for c in candidates:
        if c.network is not None:
            set_memory_format(c.network.to(device))
    asked = [_Asked(c, r, device, precision) for c, r in zip(candidates, ready, strict=True)]
    gathered: list[dict[str, list[_Measured]]] = [{name: [] for name in sets} for _ in candidates]
    teacher_first = sorted(range(len(candidates)), key=lambda i: candidates[i].model != "teacher")
    done, total = 0, sum(len(s) for s in sets.values())
    for name, pairs in sets.items():
        for pair in pairs:
            lr, hr = load(pair)
            reference: Tensor | None = None
            for i in teacher_first if device.type == "cuda" and not done else ():
                asked[i].answer(
                    name, pair, lr, hr
                )  # what a GPU does once is no part of what an image takes
            for i in teacher_first:
                sr, seconds = asked[i].answer(name, pair, lr, hr)
                gathered[i][name].append(_measure(sr, to_tensor(hr), reference, scale, seconds))
                if candidates[i].model == "teacher":
                    reference = sr
            done += 1
            progress(done, total, f"{name} {pair.name}")
    return Table(
        scale=scale,
        rows=tuple(_row(c, g, scale) for c, g in zip(candidates, gathered, strict=True)),
        device=device.type,
        precision=str(precision).removeprefix("torch."),
    )


def _common_scale(candidates: Sequence[Candidate], sets: Mapping[str, Pairs]) -> int:
    if not candidates or not sets:
        raise ValueError("nothing to measure: name at least one model and one set of images")
    empty = [name for name, images in sets.items() if not len(images)]
    if empty:
        raise ValueError(f"nothing to measure on: {', '.join(empty)} without an image")
    teachers = [c.label for c in candidates if c.model == "teacher"]
    if len(teachers) > 1:
        raise ValueError(
            f"agreement is measured against one teacher, but got {', '.join(teachers)}"
        )
    scales = {name: s.scale for name, s in sets.items()}
    scales |= {c.label: c.network.scale for c in candidates if c.network is not None}
    if len(set(scales.values())) > 1:
        listed = ", ".join(f"{name} x{scale}" for name, scale in scales.items())
        raise ValueError(
            f"models and sets have different scales: {listed}; measure each scale by itself"
        )
    return next(iter(scales.values()))


@dataclass(frozen=True)
class _Measured:
    values: tuple[float, float, float, float]
    agreement: float | None
    seconds: float | None


@dataclass(frozen=True)
class _Asked:
    """A candidate, and all it needs to answer."""

    candidate: Candidate
    ready: Mapping[tuple[str, str], Path] | None
    device: torch.device
    precision: torch.dtype

    def answer(self, name: str, pair: Pair, lr: Pixels, hr: Pixels) -> tuple[Tensor, float | None]:
        """``(1, 3, h, w)`` in [0, 1], and the seconds a network took."""
        network, ensemble = self.candidate.network, self.candidate.self_ensemble
        if network is not None:
            return answer(
                network, lr, device=self.device, precision=self.precision, ensemble=ensemble
            )
        if self.ready is not None:
            return to_tensor(_read_ready(self.ready[name, pair.name], hr)), None
        return to_tensor(imresize_uint8(lr, pair.scale)), None


def _measure(
    sr: Tensor, hr: Tensor, reference: Tensor | None, border: int, seconds: float | None
) -> _Measured:
    psnr_y, ssim_y, psnr_rgb, ssim_rgb = (
        value.item() for value in metrics.quality(sr, hr, border=border)
    )
    agreement = (
        None if reference is None else metrics.agreement(sr, reference, border=border).item()
    )
    return _Measured((psnr_y, ssim_y, psnr_rgb, ssim_rgb), agreement, seconds)


@torch.no_grad()
def answer(
    network: Network,
    lr: Pixels,
    *,
    device: torch.device | str = "cpu",
    precision: torch.dtype = torch.float32,
    ensemble: bool = False,
    stay: bool = False,
) -> tuple[Tensor, float]:
    """Upscale one image: ``(h, w, 3)`` uint8 to ``(1, 3, H, W)``, and the seconds it took.

    The answer comes to the CPU unless it is to ``stay`` on the device, which then may still be at
    work on it.

    An image that would need more than about 2 GB is answered in strips, if the network's radius is
    known: to the same answer, but for float noise.
    """
    device = torch.device(device)
    x = to_tensor(lr).to(device)
    was_training = network.training
    network.eval()
    try:
        started = time.perf_counter()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
            ask = partial(in_strips, network, rows=strip_rows(network, lr.shape[1]))
            sr = self_ensemble(ask, x) if ensemble else ask(x)
        sr = sr.float() if stay else sr.float().cpu()
        return sr, time.perf_counter() - started
    finally:
        network.train(was_training)


def strip_rows(network: Network, width: int) -> int | None:
    """Rows of a strip within the budget of memory at this width; None if no strip is exact."""
    if network.radius is None:
        return None
    seen = _BUDGET // (_UPSAMPLED * max(1, network.width) * network.scale**2 * width)
    # Where what a strip sees beside its own outweighs it, smaller strips would cost more time than
    # they save memory.
    return max(seen - 2 * network.radius, network.radius, 1)


def in_strips(network: Network, lr: Tensor, *, rows: int | None) -> Tensor:
    """Run on ``(n, 3, h, w)`` in strips of about ``rows`` rows, each with what the network sees.

    Strips begin at multiples of the network's size multiple, so that nothing is padded that would
    not be otherwise.
    """
    height, multiple, scale = lr.shape[-2], network.size_multiple, network.scale
    if rows is None or network.radius is None or rows >= height:
        return network(lr)
    rows = -(-rows // multiple) * multiple
    parts: list[Tensor] = []
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        first = max(0, top - network.radius) // multiple * multiple
        last = min(height, -(-(bottom + network.radius) // multiple) * multiple)
        sr = network(lr[..., first:last, :])
        parts.append(sr[..., (top - first) * scale : (bottom - first) * scale, :])
    return torch.cat(parts, dim=-2)


def self_ensemble(network: Callable[[Tensor], Tensor], lr: Tensor) -> Tensor:
    """Mean of the outputs for the eight flips and rotations of ``lr``, turned back: papers' ``+``.

    Args:
        network: The network to ask.
        lr: ``(n, 3, h, w)``, RGB in [0, 1].

    Returns:
        ``(n, 3, h * scale, w * scale)``, unclamped. Timofte et al., CVPR 2016, arXiv:1511.02228.
    """
    some = (invertible.FLIP_ROWS, invertible.FLIP_COLUMNS, invertible.TRANSPOSE)
    turns = [
        invertible.compose(list(compress(some, chosen)))
        for chosen in product((False, True), repeat=len(some))
    ]
    return torch.stack([a.invert(network(a.apply(lr))) for a in turns]).mean(0)


def _ready(folder: Path, sets: Mapping[str, Pairs]) -> dict[tuple[str, str], Path]:
    """The images that another program made, called as the pairs, or ``NAME_...`` or ``NAMEx4``.

    A file belongs to the longest name it begins with, so ``img_2_SR`` is no image of ``img``.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder of ready images")
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in images.EXTENSIONS]
    found: dict[tuple[str, str], Path] = {}
    for name, pairs in sets.items():
        names = {pair.name for pair in pairs}
        ends = ("_", f"x{pairs.scale}")
        owners: dict[str, list[Path]] = {}
        for path in files:
            fitting = [
                n
                for n in names
                if path.stem == n or path.stem.startswith(tuple(n + end for end in ends))
            ]
            if fitting:
                owners.setdefault(max(fitting, key=len), []).append(path)
        for pair in pairs:
            match owners.get(pair.name, []):
                case [path]:
                    found[name, pair.name] = path
                case several:
                    there = ", ".join(path.name for path in several) or "none is"
                    raise ValueError(
                        f"{folder}: one image should be called {pair.name} or {pair.name}_..., "
                        f"but there: {there}"
                    )
    return found


def _read_ready(path: Path, hr: Pixels) -> Pixels:
    pixels = images.read_rgb8(path)
    if pixels.shape != hr.shape:
        got, expected = (f"{shape[1]} x {shape[0]}" for shape in (pixels.shape, hr.shape))
        raise ValueError(f"{path}: {got} pixels, but {expected} are expected")
    return pixels


def _row(candidate: Candidate, measured: Mapping[str, Sequence[_Measured]], scale: int) -> Row:
    sets: dict[str, Scores] = {}
    for name, items in measured.items():
        psnr_y, ssim_y, psnr_rgb, ssim_rgb = (
            float(np.mean([m.values[i] for m in items])) for i in range(4)
        )
        sets[name] = Scores(
            psnr_y=psnr_y,
            ssim_y=ssim_y,
            psnr_rgb=psnr_rgb,
            ssim_rgb=ssim_rgb,
            agreement=_mean(m.agreement for m in items),
            images=len(items),
            seconds=_mean(m.seconds for m in items),
        )
    network, turns = candidate.network, 8 if candidate.self_ensemble else 1
    size = (MACS_SIZE[0] // scale, MACS_SIZE[1] // scale)
    return Row(
        model=candidate.model,
        label=candidate.label + ("+" if candidate.self_ensemble else ""),
        parameters=None if network is None else network.parameter_count(),
        macs=None if network is None else turns * macs(network, *size),
        seconds_per_image=_mean(m.seconds for items in measured.values() for m in items),
        network=None if network is None else fingerprint(network),
        sets=sets,
    )


def fingerprint(network: Network) -> str:
    """SHA-256 of a network's numbers and weights: equal for networks that answer alike."""
    return sha256(f"{network.config!r} {tensors_sha256(network.state_dict())}".encode()).hexdigest()


def _mean(values: Iterable[float | None]) -> float | None:
    told = [value for value in values if value is not None]
    return float(np.mean(told)) if told else None
