"""Write a network for other programs.

ONNX for runtimes, other projects' layouts of weights for their code.

Nothing is handed out unproved. An ONNX graph is run beside the network, at sizes that fit no grid
and with a batch of two, before the file appears; a file of weights is read back and asked about an
image. The largest difference is returned.

The graph is recorded by tracing. torch's newer exporter gives the same numbers from fewer nodes,
but takes minutes where tracing takes seconds (a SwinIR of 4 layers: 41 s against 5 s). Padding to
the network's grid and the final crop are part of the graph, so that one file takes images of any
size.
"""

import copy
import io
import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dukd._version import __version__
from dukd.core import files
from dukd.core.files import Progress, silent
from dukd.networks import Network
from dukd.networks.base import staged
from dukd.networks.files import weights

SIZES = ((1, 24, 40), (1, 17, 23), (2, 33, 19), (1, 5, 3))
"""Batch, height and width at which a graph is compared: on the grid, off it, a batch, a tiny
image."""
TOLERANCE = {"float32": 1e-4, "float16": 1e-2}
"""Largest difference that is accepted, where white is 1; a gray level is 0.004."""


class ExportError(ValueError):
    """A network that cannot be exported as asked; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written, and how far it is from the network."""

    path: Path
    """The file."""
    form: str
    """``onnx``, or the layout of the weights."""
    bytes: int
    """Size of the file."""
    sizes: tuple[tuple[int, int, int], ...]
    """Batch, height and width of the inputs that were compared; empty if nothing was."""
    largest_error: float | None
    """Largest difference of a value to the network's, where white is 1; None if nothing was
    compared."""


def export_onnx(
    network: Network,
    path: Path,
    *,
    opset: int = 20,
    dynamic: bool = True,
    size: tuple[int, int] = (64, 64),
    half: bool = False,
    check: bool = True,
    metadata: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> Exported:
    """Write a network as ONNX.

    ``lr``, ``(n, 3, h, w)`` in [0, 1], to ``sr``, unclamped, both float32.

    Args:
        network: What to write; it stays as it is, where it is.
        path: The file, ending in ``.onnx``; it appears whole, and only if the comparison succeeds.
        opset: Version of ONNX's operators, 17 to 20.
        dynamic: Whether batch, height and width are free; otherwise they are 1 and ``size``.
        size: Height and width of the input where they are not free.
        half: Whether the graph computes in float16; networks that overflow there are refused.
        check: Whether the graph is run beside the network.
        metadata: Strings to keep in the file, beside the network's name, config, scale and SHA-256.
        progress: Told of every part of the work.

    Returns:
        What was written, with the largest difference found.

    Raises:
        ExportError: If a package is missing, the network is not safe in float16, or the graph
            answers otherwise.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise ExportError(f"{path} is to end in .onnx")
    if half and not network.fp16_safe:
        raise ExportError(
            f"{network.config.name} overflows in float16: export it in float32 (leave --half out)"
        )
    if not 17 <= opset <= 20:
        raise ExportError(f"opset is 17 to 20, but got {opset}")
    if min(size) < 1:
        raise ExportError(f"an image has at least 1 pixel on a side, but size is {size}")
    onnx, runtime = _packages()
    plain = copy.deepcopy(network).cpu().float().frozen()
    sizes = SIZES if dynamic else ((1, *size),)
    total = 2 + (len(sizes) if check else 0)
    progress(0, total, "recording the graph")
    module = Traceable(copy.deepcopy(plain).half() if half else plain).eval()
    model: Any = onnx.load_from_string(_traced(module, sizes[0], opset, dynamic=dynamic))
    model.producer_name, model.producer_version = "dukd", __version__
    onnx.helper.set_model_props(model, _properties(network) | dict(metadata or {}))
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    progress(1, total, "comparing")
    worst = 0.0
    if check:
        session: Any = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
        for number, (n, h, w) in enumerate(sizes):
            lr = torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(number))
            worst = max(
                worst,
                _difference(plain, lr, torch.from_numpy(session.run(None, {"lr": lr.numpy()})[0])),
            )
            progress(2 + number, total, f"comparing {n} x {h} x {w}")
        allowed = TOLERANCE["float16" if half else "float32"]
        if not worst <= allowed:
            where, advice = (
                ("in float16 ", ": export it in float32 (leave --half out)") if half else ("", "")
            )
            raise ExportError(
                f"{where}the graph answers otherwise than the network, by {worst:.2g} where white "
                f"is 1, but at most {allowed:g} is allowed{advice}"
            )
    files.write_bytes(path, content)
    progress(total, total, "written")
    return Exported(
        path=path,
        form="onnx",
        bytes=len(content),
        sizes=sizes if check else (),
        largest_error=worst if check else None,
    )


def export_weights(
    network: Network,
    path: Path,
    layout: Literal["dukd", "basicsr", "official"],
    *,
    metadata: Mapping[str, str] | None = None,
) -> Exported:
    """Write weights under the names that other code expects, read them back, compare outputs.

    Args:
        network: What to write; it stays as it is.
        path: ``.pth``, ``.pt`` or ``.safetensors``, as `dukd.networks.files.weights.write` takes
            it.
        layout: Whose names the tensors get.
        metadata: Strings to keep beside the tensors, where the layout has room for them.

    Raises:
        ExportError: If the file answers otherwise than the network.
        dukd.networks.files.weights.WeightsError: If the layout cannot hold the network.
    """
    path = Path(path)
    n, h, w = SIZES[1]
    lr = torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(0))
    plain = copy.deepcopy(network).cpu().float().frozen()
    with TemporaryDirectory() as folder:
        trial = Path(folder) / path.name
        weights.write(trial, network, layout=layout, metadata=metadata)
        again = weights.read(trial, config=network.config).frozen()
    with torch.no_grad():
        worst = _difference(plain, lr, again(lr))
    if not worst <= TOLERANCE["float32"]:
        raise ExportError(
            f"{path} would answer otherwise than the network, by {worst:.2g}, and was not written"
        )
    weights.write(path, network, layout=layout, metadata=metadata)
    return Exported(
        path=path, form=layout, bytes=path.stat().st_size, sizes=(SIZES[1],), largest_error=worst
    )


def onnx_metadata(path: Path) -> dict[str, str]:
    """The strings in an ONNX file, such as those that `export_onnx` wrote.

    Its inputs and outputs beside them.

    Raises:
        ExportError: If a package is missing, or the file is no ONNX.
    """
    onnx, _ = _packages()
    try:
        model: Any = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's errors share no class with ours
        raise ExportError(f"{path} is damaged, or no ONNX file ({type(error).__name__})") from error
    if not model.graph.node:
        raise ExportError(f"{path} is no ONNX file: it has no graph")
    found: dict[str, str] = {
        "opset": str(model.opset_import[0].version),
        "nodes": str(len(model.graph.node)),
    }
    for value in (*model.graph.input, *model.graph.output):
        sizes = (str(d.dim_param or d.dim_value) for d in value.type.tensor_type.shape.dim)
        found[str(value.name)] = " x ".join(sizes)
    return found | {str(entry.key): str(entry.value) for entry in model.metadata_props}


class Traceable(nn.Module):
    """A network whose padding and crop are traced for any size; it takes and gives float32."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, lr: Tensor) -> Tensor:
        """``(n, 3, h, w)`` to ``(n, 3, h * scale, w * scale)``.

        `Network.forward` in operations that trace.
        """
        network = self.network
        padded = lr.to(next(network.parameters()).dtype)
        for axis in (2, 3):
            padded = padded_to_multiple(padded, axis, network.size_multiple)
        sr, _ = staged(network).run(padded)
        if network.size_multiple > 1:
            sr = sr[..., : lr.shape[-2] * network.scale, : lr.shape[-1] * network.scale]
        return sr.float()


def padded_to_multiple(x: Tensor, axis: int, multiple: int) -> Tensor:
    """Pad one axis at its end as the networks do: reflect, then repeat the edge."""
    if multiple == 1:
        return x
    size = x.shape[axis]
    places = torch.arange((size + multiple - 1) // multiple * multiple)
    places = torch.where(places < size, places, 2 * (size - 1) - places).clamp(min=0)
    return x.index_select(axis, places)


def _packages() -> tuple[Any, Any]:
    try:
        import onnx  # noqa: PLC0415  an optional package
        import onnxruntime  # noqa: PLC0415  likewise
    except ImportError as error:
        raise ExportError(
            f"exporting to ONNX needs {error.name}: pip install 'dukd[onnx]'"
        ) from None
    return onnx, onnxruntime


def _traced(module: Traceable, size: tuple[int, int, int], opset: int, *, dynamic: bool) -> bytes:
    out = io.BytesIO()
    axes = {
        "lr": {0: "batch", 2: "height", 3: "width"},
        "sr": {0: "batch", 2: "sr_height", 3: "sr_width"},
    }
    n, h, w = size
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # that tracing is old, and that it keeps what Python computes; we compare instead
        record: Any = (
            torch.onnx.export
        )  # its signature knows no file in memory, which this way of it takes
        record(
            module,
            (torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(0)),),
            out,
            dynamo=False,
            opset_version=opset,
            input_names=["lr"],
            output_names=["sr"],
            dynamic_axes=axes if dynamic else None,
        )
    return out.getvalue()


def _properties(network: Network) -> dict[str, str]:
    return {
        "dukd": __version__,
        "network": network.config.name,
        "config": json.dumps(asdict(network.config)),
        "scale": str(network.scale),
        "radius": "none" if network.radius is None else str(network.radius),
        "sha256": weights.tensors_sha256(network.state_dict()),
    }


def _difference(network: Network, lr: Tensor, answer: Tensor) -> float:
    with torch.no_grad():
        expected = network(lr)
    if answer.shape != expected.shape:
        return math.inf
    return (answer - expected).abs().max().item()
