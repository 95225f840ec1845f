"""LiteRT (TensorFlow Lite): for telephones, at one fixed size, which larger images are cut into.

Its converter pins packages that break others, so it runs in an environment of its own, named by
``--python``; what it makes is run here by ai-edge-litert and compared with the network. The size,
and what tiles need to know, stand in a small text file beside the graph.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  the name everybody knows
from typing_extensions import override

from dukd.deploy.converters import convert
from dukd.deploy.runtime import ExportError, Runtime, Size
from dukd.deploy.traced import Padded
from dukd.networks import Network, QuantizedConfig
from dukd.networks.base import pad_to_multiple
from dukd.networks.upscaler import UpscalerError

_SCRIPT = """
import sys, torch, litert_torch
program, out, side, int8 = sys.argv[1:]
module = torch.export.load(program).module()
image = (torch.rand(1, 3, int(side), int(side)),)
litert_torch.convert(module, image).export(out)
if int8 == "1":
    from ai_edge_quantizer import quantizer, recipe
    worker = quantizer.Quantizer(out, recipe.dynamic_wi8_afp32())
    worker.quantize().export_model(out, overwrite=True)
"""


@dataclass(frozen=True, kw_only=True)
class LiteRT(Runtime):
    """A ``.tflite`` of one size, ``(1, 3, side, side)`` in [0, 1]; facts in a ``.json`` beside."""

    name: ClassVar[str] = "litert"
    suffixes: ClassVar[tuple[str, ...]] = (".tflite",)

    side: int = 96
    """Height and width of the input; larger images are cut into such pieces."""
    int8: bool = False
    """Whether weights are stored as int8, and activations rounded to it as they come."""
    python: Path | None = None
    """Interpreter of the environment that has litert-torch; this one if left out."""

    @property
    @override
    def form(self) -> str:
        return f"litert{' in int8' if self.int8 else ''}, {self.side} x {self.side}"

    @property
    @override
    def sizes(self) -> Sequence[Size]:
        s = self.side
        return ((1, s, s), (1, s, s + 17), (1, s + 9, s), (2, s + 5, s + 3), (1, 2 * s, s + 1))

    @property
    @override
    def tolerance(self) -> float:
        return 5e-2 if self.int8 else 1e-4

    @override
    def export(self, network: Network, path: Path, properties: Mapping[str, str]) -> None:
        _check(network, self.side)
        side = str(self.side)
        with TemporaryDirectory(prefix="dukd-") as folder, torch.no_grad():
            program = Path(folder) / "network.pt2"
            image = (torch.zeros(1, 3, self.side, self.side),)
            torch.export.save(torch.export.export(Padded(network), image), program)
            needs = "litert-torch ai-edge-quantizer"
            arguments = [str(program), str(path), side, str(int(self.int8))]
            convert(self.python, _SCRIPT, arguments, needs=needs)
        facts = {key: properties[key] for key in ("network", "scale", "radius", "size_multiple")}
        path.with_suffix(".json").write_text(json.dumps(facts | {"side": side}), encoding="utf-8")

    @override
    def load(self, path: Path) -> "Interpreter":
        return Interpreter(path)


def _check(network: Network, side: int) -> None:
    if isinstance(network.config, QuantizedConfig):
        raise ExportError(
            "LiteRT's own quantizer makes its integers here: export the float network with --int8, "
            "or this one as .onnx or .xml"
        )
    if network.radius is None:
        raise ExportError(
            f"{network.name} looks at the whole image, and a LiteRT graph has one size: export it "
            "as .onnx or .xml"
        )
    least = 2 * network.radius + max(8, network.size_multiple)
    if side < least or side % network.size_multiple:
        raise ExportError(
            f"--side is at least {least} and a multiple of {network.size_multiple} for "
            f"{network.name}, which sees {network.radius} pixels around each, but got {side}"
        )


class Interpreter:
    """A graph of one size that enlarges images of any size, piece by piece."""

    def __init__(self, path: Path) -> None:
        """Open a graph.

        Raises:
            UpscalerError: If it is damaged, or its facts are missing.
            ExportError: If ai-edge-litert is missing.
        """
        try:
            from ai_edge_litert import interpreter  # noqa: PLC0415  an optional package
        except ImportError as error:
            raise ExportError(f"LiteRT needs {error.name}: pip install 'dukd[litert]'") from None
        self.path = Path(path)
        try:
            facts = json.loads(self.path.with_suffix(".json").read_text(encoding="utf-8"))
            self.name, self.scale = str(facts["network"]), int(facts["scale"])
            self.radius, self.side = int(facts["radius"]), int(facts["side"])
            self.size_multiple = int(facts["size_multiple"])
            self._net: Any = interpreter.Interpreter(
                model_content=self.path.read_bytes(), num_threads=torch.get_num_threads()
            )
            self._net.allocate_tensors()
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise UpscalerError(
                f"{path} is damaged, or lacks {self.path.stem}.json beside it: export it with dukd"
            ) from error
        self._input = self._net.get_input_details()[0]["index"]
        self._output = self._net.get_output_details()[0]["index"]

    def __call__(self, lr: Tensor) -> Tensor:
        """Enlarge ``(n, 3, h, w)``.

        An image below the size lies at one border of a piece, then at the other. It is approximate
        near its middle where a side is less than two radii, and exact elsewhere.
        """
        n, _, h, w = lr.shape
        padded = pad_to_multiple(lr.detach().cpu().float(), self.size_multiple)
        rows, columns = (self._starts(size) for size in padded.shape[2:])
        above, before = (max(0, self.side - size) for size in padded.shape[2:])
        padded = F.pad(padded, (before, before, above, above), mode="replicate")
        sr = lr.new_empty(n, 3, *(size * self.scale for size in padded.shape[2:]))
        for image, out in zip(padded, sr, strict=True):
            for y, top, bottom in rows:
                for x, left, right in columns:
                    part = self._one(image[:, y : y + self.side, x : x + self.side])
                    s = self.scale
                    inside = part[:, (top - y) * s : (bottom - y) * s, (left - x) * s :]
                    out[:, top * s : bottom * s, left * s : right * s] = inside[
                        ..., : (right - left) * s
                    ]
        y, x = above * self.scale, before * self.scale
        return sr[..., y : y + h * self.scale, x : x + w * self.scale]

    def __reduce__(self) -> tuple[type["Interpreter"], tuple[Path]]:
        """A worker process opens the file again."""
        return Interpreter, (self.path.resolve(),)

    def _one(self, image: Tensor) -> Tensor:
        self._net.set_tensor(self._input, image[None].contiguous().numpy())
        self._net.invoke()
        return torch.from_numpy(self._net.get_tensor(self._output))[0]

    def _starts(self, size: int) -> list[tuple[int, int, int]]:
        """Where pieces begin, and which part of each is taken: its border only at the image's.

        A side that is too short is repeated on both sides by what it lacks.
        """
        if (lacks := self.side - size) > 0:
            middle = lacks + size // 2
            return [(lacks, lacks, middle), (0, middle, lacks + size)]
        step = self.side - 2 * self.radius
        grid = self.size_multiple
        step = step // grid * grid
        found: list[tuple[int, int, int]] = []
        start = taken = 0
        while taken < size:
            last = start + self.side >= size
            start = size - self.side if last else start
            end = size if last else start + self.side - self.radius
            found.append((start, taken, end))
            taken, start = end, start + step
        return found
