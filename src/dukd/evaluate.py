"""Measure networks side by side by the field's protocol, and say which protocol that is.

PSNR and SSIM of the luma and of RGB, agreement with the teacher, size, cost and time, over any sets of pictures, for
networks, for bicubic interpolation, and for pictures that another program has made.
"""

import csv
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import compress, product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dukd import augment, images, metrics
from dukd.data.pairs import Pair, Pairs, load
from dukd.files import Progress, silent
from dukd.networks import macs
from dukd.networks._network import SRNetwork
from dukd.resize import imresize_uint8

PROTOCOL = {
    "luma": "BT.601 studio range as MATLAB's rgb2ycbcr, not rounded",
    "rounding": "SR and HR rounded to 8 bits",
    "border": "as many pixels as the scale",
    "ssim": "11 x 11 Gaussian, sigma 1.5, inside the picture only",
    "mean": "over pictures",
    "hr": "cropped at the top left to a multiple of the scale",
}
"""How the numbers are made; it stands beside them everywhere."""

MACS_SIZE = (720, 1280)
"""Height and width of the output for which multiply-accumulates are counted."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Means over the pictures of one set."""

    psnr_y: float
    ssim_y: float
    psnr_rgb: float
    ssim_rgb: float
    agreement: float | None = None
    """PSNR of the luma against the teacher's answers, in dB."""
    pictures: int
    seconds: float
    """Per picture, the network alone."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was measured of one model."""

    model: str
    """``bicubic``, ``teacher``, ``student``, ``baseline`` or ``pictures``."""
    label: str
    parameters: int | None = None
    macs: int | None = None
    """Multiply-accumulates for an output of 1280 x 720 pixels."""
    seconds_per_picture: float | None = None
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
        """Share of the way from the baseline (bicubic, unless one was measured) to the teacher, in PSNR of the luma."""
        by_model = {r.model: r for r in self.rows}
        low = by_model.get("baseline") or by_model.get("bicubic")
        high = by_model.get("teacher")
        if low is None or high is None or row.model in {"bicubic", "teacher", "baseline"} or name not in high.sets:
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
        """The table as JSON."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

    def header_and_lines(self) -> tuple[list[str], list[list[str]]]:
        """The table as text cells."""
        names = [name for name in self.rows[0].sets] if self.rows else []  # noqa: C416
        header = ["model", "parameters", "GMACs", "s/picture"]
        for name in names:
            header += [f"{name} PSNR-Y", f"{name} SSIM-Y", f"{name} RGB", f"{name} agreement", f"{name} gap closed"]
        lines: list[list[str]] = []
        for row in self.rows:
            cells = [
                row.label,
                _text(row.parameters, "{:,}"),
                _text(row.macs and row.macs / 1e9, "{:.1f}"),
                _text(row.seconds_per_picture, "{:.3f}"),
            ]
            for name in names:
                s = row.sets[name]
                gap = self.gap_closed(row, name)
                cells += [f"{s.psnr_y:.3f}", f"{s.ssim_y:.4f}", f"{s.psnr_rgb:.3f}", _text(s.agreement, "{:.2f}")]
                cells.append(_text(gap and 100 * gap, "{:.1f} %"))
            lines.append(cells)
        empty = [i for i in range(len(header)) if all(line[i] == "" for line in lines)]
        keep = [i for i in range(len(header)) if i not in empty]
        return [header[i] for i in keep], [[line[i] for i in keep] for line in lines]

    def to_markdown(self) -> str:
        """The table as Markdown, with the protocol below."""
        header, lines = self.header_and_lines()
        rule = ["---"] + ["---:"] * (len(header) - 1)
        table = "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *lines])
        return f"{table}\n\n{self.protocol_line()}\n"

    def to_csv(self) -> str:
        """The table as CSV, one line per model and set, with the protocol's words in columns."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        names = ["psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb", "agreement", "gap_closed", "pictures", "seconds"]
        writer.writerow(["model", "label", "parameters", "macs", "scale", "set", *names, "protocol"])
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


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model to measure: a network, a folder of ready pictures, or, with neither, bicubic interpolation."""

    model: str
    label: str
    network: SRNetwork | None = None
    pictures: Path | None = None
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
        candidates: What to measure; the one whose model is ``teacher`` is what agreement is measured against.
        sets: Pictures by the name of the set, all of one scale.
        device: Where networks run.
        precision: float32, or bfloat16 for autocast.
        progress: Told after every picture.

    Raises:
        ValueError: If there is nothing to measure, scales differ, or a folder of ready pictures lacks one.
    """
    if not candidates or not sets:
        raise ValueError("nothing to measure: name at least one model and one set of pictures")
    scales = {s.scale for s in sets.values()} | {c.network.scale for c in candidates if c.network is not None}
    if len(scales) > 1:
        raise ValueError(f"models and sets have different scales: {', '.join(f'x{s}' for s in sorted(scales))}")
    total = sum(len(s) for s in sets.values())
    gathered: list[dict[str, list[_Measured]]] = [{} for _ in candidates]
    order = sorted(range(len(candidates)), key=lambda i: candidates[i].model != "teacher")
    done = 0
    for name, pictures in sets.items():
        for pair in pictures:
            lr, hr = load(pair)
            reference: Tensor | None = None
            for i in order:
                measured, sr = _measure(
                    candidates[i], pair, lr, hr, pictures.scale, torch.device(device), precision, reference
                )
                gathered[i].setdefault(name, []).append(measured)
                if candidates[i].model == "teacher":
                    reference = sr
            done += 1
            progress(done, total, f"{name} {pair.name}")
    rows = [_row(c, g, next(iter(sets.values())).scale) for c, g in zip(candidates, gathered, strict=True)]
    return Table(
        scale=scales.pop(),
        rows=tuple(rows),
        device=torch.device(device).type,
        precision=str(precision).removeprefix("torch."),
    )


@dataclass(frozen=True)
class _Measured:
    values: tuple[float, float, float, float]
    agreement: float | None
    seconds: float


def _measure(
    candidate: Candidate,
    pair: Pair,
    lr: np.ndarray,
    hr: np.ndarray,
    scale: int,
    device: torch.device,
    precision: torch.dtype,
    reference: Tensor | None,
) -> tuple[_Measured, Tensor]:
    seconds = 0.0
    if candidate.network is not None:
        sr, seconds = answer(
            candidate.network, lr, device=device, precision=precision, ensemble=candidate.self_ensemble
        )
    elif candidate.pictures is not None:
        sr = tensor(_ready(candidate.pictures, pair, hr))
    else:
        sr = tensor(imresize_uint8(lr, scale))
    truth = tensor(hr)
    values = (
        metrics.psnr_y(sr, truth, border=scale),
        metrics.ssim_y(sr, truth, border=scale),
        metrics.psnr_rgb(sr, truth, border=scale),
        metrics.ssim_rgb(sr, truth, border=scale),
    )
    agreement = None if reference is None else metrics.agreement(sr, reference, border=scale).item()
    return _Measured((values[0].item(), values[1].item(), values[2].item(), values[3].item()), agreement, seconds), sr


def tensor(pixels: np.ndarray) -> Tensor:
    """``(h, w, 3)``, uint8, to ``(1, 3, h, w)`` in [0, 1]."""
    return torch.from_numpy(np.array(pixels, order="C")).permute(2, 0, 1)[None].float() / 255


@torch.no_grad()
def answer(
    network: SRNetwork,
    lr: np.ndarray,
    *,
    device: torch.device | str = "cpu",
    precision: torch.dtype = torch.float32,
    ensemble: bool = False,
) -> tuple[Tensor, float]:
    """Upscale one picture as a whole: ``(h, w, 3)`` uint8 to ``(1, 3, H, W)`` on the CPU, and the seconds it took."""
    device = torch.device(device)
    x = tensor(lr).to(device)
    was_training = network.training
    network.eval()
    try:
        started = time.perf_counter()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
            sr = self_ensemble(network, x) if ensemble else network(x)
        sr = sr.float().cpu()
        return sr, time.perf_counter() - started
    finally:
        network.train(was_training)


def self_ensemble(network: SRNetwork, lr: Tensor) -> Tensor:
    """Mean of the answers to the eight flips and rotations of ``lr``, each turned back; the ``+`` of the papers.

    Args:
        network: The network to ask.
        lr: ``(n, 3, h, w)``, RGB in [0, 1].

    Returns:
        ``(n, 3, h * scale, w * scale)``, unclamped. Timofte et al., CVPR 2016, arXiv:1511.02228.
    """
    some = (augment.FLIP_ROWS, augment.FLIP_COLUMNS, augment.TRANSPOSE)
    turns = [augment.compose(list(compress(some, chosen))) for chosen in product((False, True), repeat=len(some))]
    return torch.stack([a.invert(network(a.apply(lr))) for a in turns]).mean(0)


def _ready(folder: Path, pair: Pair, hr: np.ndarray) -> np.ndarray:
    """The picture in ``folder`` that another program made for this pair, found by the start of its name."""
    matches = [
        p
        for p in sorted(folder.iterdir())
        if p.suffix.lower() in images.EXTENSIONS and (p.stem == pair.name or p.stem.startswith(f"{pair.name}_"))
    ]
    if len(matches) != 1:
        found = "none does" if not matches else ", ".join(m.name for m in matches)
        raise ValueError(f"{folder}: exactly one picture should be called {pair.name} or {pair.name}_..., but {found}")
    pixels = images.read_rgb8(matches[0])
    if pixels.shape != hr.shape:
        got, expected = (f"{shape[1]} x {shape[0]}" for shape in (pixels.shape, hr.shape))
        raise ValueError(f"{matches[0]}: {got} pixels, but {expected} are expected")
    return pixels


def _row(candidate: Candidate, measured: Mapping[str, Sequence[_Measured]], scale: int) -> Row:
    sets: dict[str, Scores] = {}
    for name, items in measured.items():
        psnr_y, ssim_y, psnr_rgb, ssim_rgb = (float(np.mean([m.values[i] for m in items])) for i in range(4))
        agreements = [m.agreement for m in items if m.agreement is not None]
        sets[name] = Scores(
            psnr_y=psnr_y,
            ssim_y=ssim_y,
            psnr_rgb=psnr_rgb,
            ssim_rgb=ssim_rgb,
            agreement=float(np.mean(agreements)) if agreements else None,
            pictures=len(items),
            seconds=float(np.mean([m.seconds for m in items])),
        )
    network = candidate.network
    everything = [m.seconds for items in measured.values() for m in items]
    size = (MACS_SIZE[0] // scale, MACS_SIZE[1] // scale)
    return Row(
        model=candidate.model,
        label=candidate.label + ("+" if candidate.self_ensemble else ""),
        parameters=None if network is None else network.parameter_count(),
        macs=None if network is None else macs(network, *size) * (8 if candidate.self_ensemble else 1),
        seconds_per_picture=None if network is None else float(np.mean(everything)),
        sets=sets,
    )
