"""What quantizing a run's student lost: a file in its directory, and a section of the page."""

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from dukd.core import files
from dukd.core.text import signed, to_json
from dukd.runs.bars import Bar, bars
from dukd.runs.summary import Summary

_GLOB = "quantized-*.json"
_LARGEST = 1 << 20


def write(
    directory: Path,
    *,
    target: str,
    bits: int,
    weight_bits: int | None = None,
    images: str,
    float_psnr: float,
    psnr: Mapping[str, float],
    layers: Mapping[str, float],
) -> Path:
    """Note in a run directory what was lost.

    Args:
        directory: The run directory.
        target: The runtime it was quantized for; each has its own file.
        bits: Of weights and activations.
        weight_bits: Of weights, where they are fewer; these have a file of their own too.
        images: What it was measured on, in words.
        float_psnr: PSNR of the luma of the float student, in dB.
        psnr: That of the quantized one by the choice of ranges.
        layers: What each layer loses by itself, in dB; empty if that was not measured.

    Returns:
        The file.
    """
    fewer = f"-{weight_bits}" if weight_bits else ""
    path = directory / f"quantized-{target}-{bits}{fewer}.json"
    content = {
        "target": target,
        "bits": bits,
        "weight_bits": weight_bits,
        "images": images,
        "float": float_psnr,
        "psnr": dict(psnr),
        "layers": dict(layers),
    }
    files.write_bytes(path, (to_json(content) + "\n").encode())
    return path


def section(summaries: Sequence[Summary]) -> str:
    """The section of a page, as HTML; empty where no run has such a file."""
    parts: list[str] = []
    for summary in summaries:
        for path in sorted(summary.directory.glob(_GLOB)):
            try:
                parts.append(_part(summary.name, _read(path)))
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                said = f"{summary.name}: {path.name} is damaged ({type(error).__name__})"
                parts.append(f'<p class="note">{escape(said)}</p>')
    return "".join(parts)


def _read(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _LARGEST:
        raise ValueError("too large")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _part(name: str, found: Mapping[str, Any]) -> str:
    whole = float(found["float"])
    rows = [("float", whole), *((str(key), float(v)) for key, v in found["psnr"].items())]
    if not all(math.isfinite(value) for _, value in rows):
        raise ValueError("a value is not finite")
    lines = "".join(
        f'<tr><th scope="row">{escape(choice)}</th><td>{value:.3f}</td>'
        f"<td>{escape(signed(value - whole, 3)) if choice != 'float' else ''}</td></tr>"
        for choice, value in rows
    )
    bits = f"{int(found['bits'])} bits"
    if found.get("weight_bits"):
        bits += f", weights in {int(found['weight_bits'])},"
    title = f"{name}: {bits} for {found['target']}, on {found['images']}"
    table = (
        '<div class="wide"><table><thead><tr><th>ranges</th><th>PSNR-Y dB</th><th>lost</th></tr>'
        f"</thead><tbody>{lines}</tbody></table></div>"
    )
    layers = [Bar(str(key), float(value)) for key, value in found["layers"].items()]
    drawn = bars(layers, label="What each layer loses by itself", unit="dB", digits=3)
    return f"<h3>{escape(title)}</h3>{table}{drawn if layers else ''}"
