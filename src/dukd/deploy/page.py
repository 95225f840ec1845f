"""A page that runs a student: one file, the network and onnxruntime-web inside, nothing fetched.

The engine is npm's package ``onnxruntime-web``, which the user installs once; its parts are
compressed into the page, about 6 MB. Images stay in the browser.
"""

import base64
import gzip
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from dukd.core import files
from dukd.core.files import Progress, silent
from dukd.core.text import shown
from dukd.deploy.html import html, web
from dukd.deploy.onnx import ONNX
from dukd.deploy.runtime import Verified, export
from dukd.networks import Network

ENGINE = "onnxruntime-web@1.30.0"
"""What npm calls the engine that this was made with."""
PLACE = "DUKD_ONNXRUNTIME_WEB"
"""Environment variable with the folder of its files."""
TILE = 192
"""Side of a tile, in pixels of lr."""
LARGEST_WHOLE = 1_000_000
"""Pixels of the largest image where a network looks at the whole."""

_WASM = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_WEBGPU = (
    "ort.webgpu.min.js",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
_PARTS = ("engine", "module", "wasm")
_POLICY = {
    "default-src": "'none'",
    "script-src": "'unsafe-inline' 'wasm-unsafe-eval' blob:",
    "worker-src": "blob:",
    "style-src": "'unsafe-inline'",
    "img-src": "blob: data:",
    "connect-src": "blob: data:",
}


class PageError(ValueError):
    """A page that cannot be made; the message says why."""


@dataclass(frozen=True)
class Page:
    """What was written."""

    path: Path
    bytes: int
    verified: Verified | None
    """How far the graph inside is from the network."""


def write_page(
    network: Network,
    out: Path,
    *,
    title: str = "",
    engine: Path | None = None,
    webgpu: bool = False,
    progress: Progress = silent,
) -> Page:
    """Write a page that enlarges images with a network, in the browser.

    Args:
        network: The student; it stays as it is.
        out: The HTML file; it appears whole.
        title: Headline; the network's name and scale if empty.
        engine: Folder of onnxruntime-web, or of its files, ``dist``; looked for if None.
        webgpu: Whether the engine for GPUs is taken, which falls back to the processor by itself:
            twice the size.
        progress: Told of the steps.

    Raises:
        PageError: If the engine is not there.
        dukd.deploy.runtime.ExportError: If the network has no ONNX graph.
    """
    parts = dict(zip(_PARTS, _engine(engine, _WEBGPU if webgpu else _WASM), strict=True))
    with TemporaryDirectory(prefix="dukd-") as folder:
        graph = Path(folder) / "student.onnx"
        exported = export(network, graph, ONNX(), progress=progress)
        model = graph.read_bytes()
    facts: dict[str, object] = {
        "scale": network.scale,
        "radius": network.radius,
        "tile": TILE,
        "most": LARGEST_WHOLE if network.radius is None else 0,
        "webgpu": webgpu,
        "served": False,
    }
    packed = {name: path.read_bytes() for name, path in parts.items()}
    packed |= {"worker": web("worker.js").encode(), "model": model}
    data = "".join(_carried(name, content) for name, content in packed.items())
    about = "The network runs in your browser; images never leave it."
    content = html(network, facts, about=about, title=title, data=data, policy=_POLICY)
    files.write_bytes(out, content.encode())
    return Page(out, len(content.encode()), exported.verified)


def _carried(name: str, content: bytes) -> str:
    text = base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
    return f'<script type="application/octet-stream" id="{name}">{text}</script>\n'


def _engine(folder: Path | None, names: tuple[str, ...]) -> list[Path]:
    places = [folder, folder / "dist"] if folder is not None else _places()
    for place in places:
        found = [place / name for name in names]
        if all(path.is_file() for path in found):
            return found
    looked = ", ".join(shown(place) for place in places)
    raise PageError(
        f"{names[0]} of onnxruntime-web is not in {looked}: npm install {ENGINE} here, or name the "
        f"folder of its files with --engine or {PLACE}"
    )


def _places() -> list[Path]:
    own = os.environ.get(PLACE)
    here = Path.cwd()
    inside = [p / "node_modules" / "onnxruntime-web" / "dist" for p in (here, *here.parents[:3])]
    return [Path(own), Path(own) / "dist", *inside] if own else inside
