"""ONNX: a graph that onnxruntime runs, and nearly everything converts from.

The graph is recorded by tracing. torch's newer exporter gives the same numbers from fewer nodes,
but takes minutes where tracing takes seconds (a SwinIR of 4 layers: 41 s against 5 s). Padding to
the network's grid and the final crop are part of the graph, so that one file takes images of any
size.
"""

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from dukd._version import __version__
from dukd.deploy import qdq
from dukd.deploy.runtime import (
    ExportError,
    Runtime,
    Size,
    check_size,
    sizes_of,
    tolerance_of,
)
from dukd.networks import Network, Staged
from dukd.networks.quantized import Quantized
from dukd.networks.session import Session
from dukd.networks.upscaler import Upscaler, UpscalerError


@dataclass(frozen=True, kw_only=True)
class ONNX(Runtime):
    """A graph: ``lr``, ``(n, 3, h, w)`` in [0, 1], to ``sr``, unclamped, both float32."""

    name: ClassVar[str] = "onnx"
    suffixes: ClassVar[tuple[str, ...]] = (".onnx",)
    nearly: ClassVar[bool] = True

    half: bool = False
    """Whether the graph computes in float16; networks that overflow there are refused."""
    opset: int = 20
    """Version of ONNX's operators, 11 to 20; SwinIR and SMFANet need 12."""
    levels: bool = False
    """Whether the graph takes and gives levels of 0 to 255 as uint8, not floats."""
    size: tuple[int, int] | None = None
    """Height and width that the input is fixed to, with a batch of 1; any if left out."""

    def __post_init__(self) -> None:
        """Refuse what no graph can be."""
        if not 11 <= self.opset <= 20:
            raise ExportError(f"opset is 11 to 20, but got {self.opset}")
        check_size(self.size)

    @property
    @override
    def form(self) -> str:
        return "onnx" + (" in float16" if self.half else "") + (", uint8" if self.levels else "")

    @property
    @override
    def sizes(self) -> Sequence[Size]:
        return sizes_of(self.size)

    @property
    @override
    def tolerance(self) -> float:
        return tolerance_of(half=self.half, levels=self.levels)

    @override
    def reference(self, network: Network) -> Upscaler:
        """With levels, the network between two roundings."""
        exact = super().reference(network)
        return Rounded(exact) if self.levels else exact

    @override
    def export(self, network: Network, path: Path, properties: Mapping[str, str]) -> None:
        qdq.check_exportable(network)
        if self.half and isinstance(network, Quantized):
            raise ExportError("integers and float16 do not mix: leave --half out")
        if self.half and not network.fp16_safe:
            raise ExportError(f"{network.name} overflows in float16: leave --half out")
        onnx, _ = packages()
        network = network.folded()  # branches that only train are not recorded
        module = Traceable(network.half() if self.half else network, levels=self.levels).eval()
        model: Any = qdq.with_integers(onnx.load_from_string(self._traced(module)))
        model.producer_name, model.producer_version = "dukd", __version__
        onnx.helper.set_model_props(model, dict(properties))
        onnx.checker.check_model(model)
        path.write_bytes(model.SerializeToString())

    @override
    def load(self, path: Path) -> "Session":
        return Session(path)

    @override
    def reload(self, path: Path, network: Network) -> Upscaler:
        try:
            return self.load(path)
        except UpscalerError as error:  # an operator that exists, but not yet for these types
            raise self._too_old(network) from error

    def _too_old(self, network: Network) -> ExportError:
        return ExportError(f"{network.name} needs operators newer than --opset {self.opset}")

    def _traced(self, module: "Traceable") -> bytes:
        out = io.BytesIO()
        axes = {
            "lr": {0: "batch", 2: "height", 3: "width"},
            "sr": {0: "batch", 2: "sr_height", 3: "sr_width"},
        }
        n, h, w = self.sizes[0]
        image = torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(0))
        given = (255 * image).to(torch.uint8) if self.levels else image
        with warnings.catch_warnings():
            # that tracing is old, and that it keeps what Python computes: we compare instead
            warnings.simplefilter("ignore")
            record: Any = torch.onnx.export  # its types know no file in memory, which it takes
            try:
                record(
                    module,
                    (given,),
                    out,
                    dynamo=False,
                    opset_version=self.opset,
                    input_names=["lr"],
                    output_names=["sr"],
                    dynamic_axes=axes if self.size is None else None,
                )
            except torch.onnx.errors.OnnxExporterError as error:
                raise self._too_old(module.network) from error
        return out.getvalue()


class Traceable(nn.Module):
    """A network whose padding and crop are recorded for any size; input and output are float32."""

    def __init__(self, network: Network, *, levels: bool = False) -> None:
        """Wrap a network; with ``levels`` input and output are uint8, 0 to 255."""
        super().__init__()
        self.network, self.levels = network, levels

    def forward(self, lr: Tensor) -> Tensor:
        """``(n, 3, h, w)`` to ``(n, 3, h * scale, w * scale)``, in operations that trace."""
        network = self.network
        padded = lr.to(next(network.parameters()).dtype)
        if self.levels:
            padded = padded / 255
        for axis in (2, 3):
            padded = padded_to_multiple(padded, axis, network.size_multiple)
        sr = network.run(padded)[0] if isinstance(network, Staged) else network(padded)
        if network.size_multiple > 1:
            sr = sr[..., : lr.shape[-2] * network.scale, : lr.shape[-1] * network.scale]
        if self.levels:
            return (255 * sr.float()).clamp(0, 255).round().to(torch.uint8)
        return sr.float()


class Rounded:
    """An upscaler whose images have 8 bits on both sides, as floats in [0, 1]."""

    def __init__(self, upscaler: Upscaler) -> None:
        self.upscaler, self.name, self.scale = upscaler, upscaler.name, upscaler.scale
        self.radius, self.size_multiple = upscaler.radius, upscaler.size_multiple

    def __call__(self, lr: Tensor) -> Tensor:
        """Enlarge ``(n, 3, h, w)``."""
        sr = self.upscaler((255 * lr).clamp(0, 255).round() / 255)
        return (255 * sr).clamp(0, 255).round() / 255


def padded_to_multiple(x: Tensor, axis: int, multiple: int) -> Tensor:
    """Pad an axis at its end, by reflection, then by repeating the last pixel, as networks do."""
    if multiple == 1:
        return x
    size = x.shape[axis]
    places = torch.arange((size + multiple - 1) // multiple * multiple)
    places = torch.where(places < size, places, 2 * (size - 1) - places).clamp(min=0)
    return x.index_select(axis, places)


def onnx_metadata(path: Path) -> dict[str, str]:
    """The strings in an ONNX file, such as those of an export; inputs and outputs beside them.

    Raises:
        ExportError: If a package is missing, or the file is not ONNX.
    """
    onnx, _ = packages()
    try:
        model: Any = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's errors share no class with ours
        raise ExportError(
            f"{path} is damaged, or not an ONNX file ({type(error).__name__})"
        ) from error
    if not model.graph.node:
        raise ExportError(f"{path} is not an ONNX file: it has no graph")
    found: dict[str, str] = {
        "opset": str(model.opset_import[0].version),
        "nodes": str(len(model.graph.node)),
    }
    for value in (*model.graph.input, *model.graph.output):
        sizes = (str(d.dim_param or d.dim_value) for d in value.type.tensor_type.shape.dim)
        found[str(value.name)] = " x ".join(sizes)
    return found | {str(entry.key): str(entry.value) for entry in model.metadata_props}


def packages() -> tuple[Any, Any]:
    """The modules onnx and onnxruntime.

    Raises:
        ExportError: If one of them is missing.
    """
    try:
        import onnx  # noqa: PLC0415  an optional package
        import onnxruntime  # noqa: PLC0415  likewise
    except ImportError as error:
        raise ExportError(f"ONNX needs {error.name}: pip install 'dukd[onnx]'") from None
    return onnx, onnxruntime
