"""Core ML: for programs on Apple's devices, an ``.mlpackage`` that Xcode takes.

coremltools converts on any system, in an environment of its own where ``--python`` names one. Core
ML itself runs on macOS alone. There it runs each export before it is written, as other runtimes
do; elsewhere the file is read back and its program computed by `dukd.deploy.mil`, which compares
every operation and weight, but nothing that Apple's own compiler makes of them.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image as PillowImage
from torch import Tensor, nn
from typing_extensions import override

from dukd.deploy import mil, mlpackage
from dukd.deploy.converters import ConversionError, convert
from dukd.deploy.onnx import Rounded
from dukd.deploy.runtime import (
    ExportError,
    Runtime,
    Size,
    check_size,
    sizes_of,
    tolerance_of,
)
from dukd.deploy.traced import Padded, traced
from dukd.networks import Network, QuantizedConfig
from dukd.networks.base import pad_to_multiple
from dukd.networks.upscaler import Upscaler, UpscalerError

_LARGEST = 4096
_USUAL = 256  # side of the input that Core ML prepares for where the size is free
_DEBUG = "executorch_debug_handle_mapping.json"  # put there by coremltools; no part of a package
_SCRIPT = """
import json, sys
import coremltools as ct
import torch
record, out, wanted = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
how = {}
if wanted["size"]:
    module = torch.export.load(record).run_decompositions({})
    shape = (1, 3, *wanted["size"])
else:
    module = torch.jit.load(record)
    least, usual, most = wanted["sides"]
    sides = [ct.RangeDim(least, most, default=usual) for _ in range(2)]
    shape = (1, 3, *sides)
    how["inputs"] = [ct.TensorType(name="lr", shape=shape)]
output = ct.TensorType(name="sr")
if wanted["image"]:
    rgb = ct.colorlayout.RGB
    how["inputs"] = [ct.ImageType(name="lr", shape=shape, scale=1 / 255, color_layout=rgb)]
    output = ct.ImageType(name="sr", color_layout=rgb)
precision = ct.precision.FLOAT16 if wanted["half"] else ct.precision.FLOAT32
model = ct.convert(module, outputs=[output], convert_to="mlprogram", compute_precision=precision,
                   minimum_deployment_target=ct.target.iOS15, skip_model_load=True, **how)
model.author, model.short_description = wanted["author"], wanted["about"]
model.input_description["lr"] = wanted["input"]
model.output_description["sr"] = wanted["output"]
model.user_defined_metadata.update(wanted["said"])
model.save(out)
"""


@dataclass(frozen=True, kw_only=True)
class CoreML(Runtime):
    """A package for Xcode, macOS 12 and iOS 15: ``lr``, ``(1, 3, h, w)`` in [0, 1], to ``sr``."""

    name: ClassVar[str] = "coreml"
    suffixes: ClassVar[tuple[str, ...]] = (".mlpackage",)

    half: bool = False
    """Whether the program computes in float16, all that the Neural Engine has."""
    size: tuple[int, int] | None = None
    """Height and width that the input is fixed to; if left out, 1 to 4096 pixels a side, of which
    the Neural Engine runs 256 x 256 alone. SwinIR and SMFANet need it."""
    image: bool = False
    """Whether the program takes and gives images (pixel buffers), not arrays; it needs --size."""
    python: Path | None = None
    """Interpreter of an environment that has coremltools; this one if left out."""

    def __post_init__(self) -> None:
        """Refuse what makes no program."""
        check_size(self.size)
        if self.image and self.size is None:
            raise ExportError(
                "coremltools describes images of free size as of 1 x 1 pixels: add --size HEIGHT "
                "WIDTH to --image"
            )

    @property
    @override
    def form(self) -> str:
        free = "" if self.size is None else f", {self.size[0]} x {self.size[1]}"
        return f"coreml{' in float16' if self.half else ''}{free}{', images' * self.image}"

    @property
    @override
    def sizes(self) -> Sequence[Size]:
        return sizes_of(self.size)

    @property
    @override
    def tolerance(self) -> float:
        return tolerance_of(half=self.half, levels=self.image)

    @property
    @override
    def note(self) -> str:
        if sys.platform == "darwin":
            return ""
        return (
            "Core ML has not run it, since that needs macOS: the file was read back and computed "
            "by dukd"
        )

    @override
    def reference(self, network: Network) -> Upscaler:
        """With images, the network between two roundings."""
        return Rounded(network) if self.image else network

    @override
    def export(self, network: Network, path: Path, properties: Mapping[str, str]) -> None:
        self._check(network)
        free = self.size is None
        module: nn.Module = Padded(network)
        if self.image:
            module = _Levels(module)
        least = network.size_multiple
        usual = -(-_USUAL // least) * least
        with TemporaryDirectory(prefix="dukd-") as folder, torch.no_grad():
            record = Path(folder) / ("network.pt" if free else "network.pt2")
            if self.size is None:
                torch.jit.save(traced(module, 16 * least, 16 * least), str(record))
            else:
                program = torch.export.export(module.eval(), (torch.zeros(1, 3, *self.size),))
                torch.export.save(program, record)
            wanted = {
                "size": self.size,
                "sides": [least, usual, _LARGEST // least * least],
                "image": self.image,
                "half": self.half,
                "said": dict(properties),
                "author": f"dukd {properties['dukd']}",
                "about": f"{properties['network']} x{properties['scale']}, enlarges images",
                "input": "RGB image" if self.image else "RGB in [0, 1]: 1 x 3 x height x width",
                "output": f"the same, {properties['scale']} times as large",
            }
            arguments = [str(record), str(path), json.dumps(wanted)]
            try:
                convert(self.python, _SCRIPT, arguments, needs=f"torch=={_torch()} coremltools")
            except ConversionError as error:
                more = "; add --size HEIGHT WIDTH, since more networks convert so" if free else ""
                raise ExportError(f"{error}{more}") from error
        (path / _DEBUG).unlink(missing_ok=True)

    def _check(self, network: Network) -> None:
        if isinstance(network.config, QuantizedConfig):
            raise ExportError(
                "coremltools makes its integers itself: export the float network, or this one as "
                ".onnx or .xml"
            )
        if self.half and not network.fp16_safe:
            raise ExportError(f"{network.name} overflows in float16: leave --half out")
        multiple = network.size_multiple
        if self.size is not None and any(side % multiple for side in self.size):
            raise ExportError(
                f"{network.name} takes multiples of {multiple} pixels, but --size is "
                f"{self.size[0]} {self.size[1]}"
            )

    @override
    def load(self, path: Path) -> "Session":
        return Session(path)

    @override
    def reload(self, path: Path, network: Network) -> Upscaler:
        return Session(path, by_dukd=sys.platform != "darwin")


class _Levels(nn.Module):
    """A network that gives levels of 0 to 255."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, lr: Tensor) -> Tensor:
        return (255 * self.network(lr)).clamp(0, 255).round()


def _torch() -> str:
    return torch.__version__.partition("+")[0]


class Session:
    """A package that is run by Core ML, or, for a comparison, by dukd."""

    engine: ClassVar[str] = "coreml"
    """What ``--runtime`` calls it."""

    def __init__(self, path: Path, *, by_dukd: bool = False) -> None:
        """Open a package.

        Args:
            path: The folder.
            by_dukd: Whether dukd computes the program, which is slow, and all that can be done off
                macOS.

        Raises:
            UpscalerError: If it is damaged, or was not written by dukd.
            ExportError: If this is not macOS, or coremltools is missing.
        """
        self.path, self.by_dukd = Path(path), by_dukd
        self.package = mlpackage.read(self.path)
        said = self.package.said
        if not {"network", "scale", "radius", "size_multiple"} <= said.keys():
            raise UpscalerError(f"{path} does not say what it is: export it with dukd")
        self.name, self.scale = said["network"], int(said["scale"])
        self.radius = None if said["radius"] == "none" else int(said["radius"])
        self.size_multiple = int(said["size_multiple"])
        self._model: Any = None if by_dukd else _model(self.path)

    def __call__(self, lr: Tensor) -> Tensor:
        """Enlarge ``(n, 3, h, w)``.

        Raises:
            UpscalerError: If the program takes another size only.
        """
        h, w = lr.shape[-2:]
        padded = pad_to_multiple(lr.detach().cpu().float(), self.size_multiple)
        if self.package.size not in (None, tuple(padded.shape[-2:])):
            raise UpscalerError(
                f"{self.path} takes images of {self.package.size} only, but got {tuple(lr.shape)}: "
                "export it without --size"
            )
        made = torch.cat([self._one(image[None]) for image in padded])
        return made[..., : h * self.scale, : w * self.scale].contiguous()

    def __reduce__(self) -> tuple[type["Session"], tuple[Path]]:
        """A worker process opens the package again."""
        return Session, (self.path.resolve(),)

    def _one(self, lr: Tensor) -> Tensor:
        image, taken, given = self.package.image, self.package.input, self.package.output
        if image:
            lr = (255 * lr).clamp(0, 255).round()
        if self.by_dukd:
            sr = mil.compute(self.package, lr)
        elif image:
            pixels = lr[0].permute(1, 2, 0).to(torch.uint8).numpy()
            made = self._model.predict({taken: PillowImage.fromarray(pixels)})[given]
            sr = torch.from_numpy(np.array(made.convert("RGB"))).permute(2, 0, 1)[None]
        else:
            sr = torch.from_numpy(np.asarray(self._model.predict({taken: lr.numpy()})[given]))
        return sr.float() / 255 if image else sr.float()


def _model(path: Path) -> Any:  # noqa: ANN401  of a package that may be missing
    check_system(path)
    try:
        # macOS alone can run it, so it need not be installed where types are checked
        import coremltools  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ExportError(f"Core ML needs {error.name}: pip install 'dukd[coreml]'") from None
    return coremltools.models.MLModel(str(path))


def check_system(what: object) -> None:
    """Refuse systems without Core ML.

    Raises:
        ExportError: If this is not macOS.
    """
    if sys.platform != "darwin":
        raise ExportError(
            f"{what}: Core ML runs on macOS alone; here, take the file of weights, or an export as "
            ".onnx or .xml"
        )
