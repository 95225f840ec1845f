"""OpenVINO: the fastest way to run a network on most processors of Intel and AMD.

Its own default on processors that multiply bfloat16 is bfloat16; here the precision is set and read
back, and files keep float32 unless ``half`` says otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from dukd.deploy.onnx import ONNX
from dukd.deploy.runtime import ExportError, Runtime
from dukd.networks import Network, Quantized
from dukd.networks.upscaler import UpscalerError

_HINT = "INFERENCE_PRECISION_HINT"
_INFO = "dukd"  # below which the file's own notes keep ours


@dataclass(frozen=True, kw_only=True)
class OpenVINO(Runtime):
    """A graph in OpenVINO's form: an ``.xml``, and a ``.bin`` of weights beside it."""

    name: ClassVar[str] = "openvino"
    suffixes: ClassVar[tuple[str, ...]] = (".xml",)
    nearly: ClassVar[bool] = True

    half: bool = False
    """Whether weights are stored in float16; they are computed with as ``precision`` says."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic, where the processor has it: bfloat16 is several times faster with AMX, and costs
    0.01 to 0.1 dB."""

    @property
    @override
    def form(self) -> str:
        stored = ", stored in float16" if self.half else ""
        return f"openvino in {self.precision}{stored}"

    @property
    @override
    def tolerance(self) -> float:
        return 5e-2 if self.precision == "bfloat16" else 1e-2 if self.half else 1e-4

    @override
    def export(self, network: Network, path: Path, properties: Mapping[str, str]) -> None:
        openvino = _package()
        if isinstance(network, Quantized) and (self.half or self.precision != "float32"):
            raise ExportError(
                "integers and 16-bit floats do not mix: leave --half and --precision out, or "
                "export the float student"
            )
        with TemporaryDirectory() as folder:
            graph = Path(folder) / "graph.onnx"
            ONNX().export(network, graph, properties)
            model: Any = openvino.convert_model(graph)
        for key, value in properties.items():
            model.set_rt_info(value, [_INFO, key])
        openvino.save_model(model, path, compress_to_fp16=self.half)

    @override
    def load(self, path: Path) -> "Compiled":
        return Compiled(path, self.precision)


class Compiled:
    """A graph compiled for this processor."""

    def __init__(self, path: Path, precision: str = "float32") -> None:
        """Read and compile a graph that dukd exported.

        Raises:
            UpscalerError: If it is damaged, or not one of ours.
            ExportError: If OpenVINO is missing.
        """
        openvino = _package()
        self.path, self.precision = Path(path), precision
        core: Any = openvino.Core()
        core.set_property({"ENABLE_MMAP": False})  # the file may be gone before the session
        model = self._read(core)
        if not model.has_rt_info([_INFO, "scale"]):
            raise UpscalerError(f"{path} does not say its scale: export it with dukd")
        facts = {key: self._fact(model, key) for key in ("network", "scale", "radius")}
        self.name, self.scale = facts["network"], int(facts["scale"])
        self.radius = None if facts["radius"] == "none" else int(facts["radius"])
        self.size_multiple = int(self._fact(model, "size_multiple"))
        wanted = {"float32": "f32", "bfloat16": "bf16"}[precision]
        settings = {_HINT: wanted, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        self._model: Any = core.compile_model(model, "CPU", settings)
        found = str(self._model.get_property(_HINT).to_string())
        if found != wanted:
            raise UpscalerError(f"this processor does not compute in {precision}, but in {found}")

    def __call__(self, lr: Tensor) -> Tensor:
        """Enlarge ``(n, 3, h, w)``."""
        return torch.from_numpy(self._model(lr.cpu().float().numpy())[0].copy())

    def __reduce__(self) -> tuple[type["Compiled"], tuple[Path, str]]:
        """A worker process compiles it again."""
        return Compiled, (self.path.resolve(), self.precision)

    def _read(self, core: Any) -> Any:  # noqa: ANN401  of OpenVINO
        with self.path.open("rb") as file:
            is_xml = file.read(64).lstrip().startswith(b"<")  # else other readers print complaints
        try:
            if is_xml:
                return core.read_model(self.path)
        except RuntimeError:
            pass
        raise UpscalerError(f"{self.path} is damaged, or not an OpenVINO file")

    @staticmethod
    def _fact(model: Any, key: str) -> str:  # noqa: ANN401  of OpenVINO
        return str(model.get_rt_info([_INFO, key]).astype(str))


def _package() -> Any:  # noqa: ANN401  a module that may be missing
    try:
        import openvino  # noqa: PLC0415  an optional package
    except ImportError as error:
        raise ExportError(f"OpenVINO needs {error.name}: pip install 'dukd[openvino]'") from None
    return openvino
