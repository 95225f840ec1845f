"""ncnn: for telephones and for programs such as Upscayl, a ``.param`` and a ``.bin`` of weights.

pnnx converts a traced network; recorded at two sizes, the result takes any. The input and output
are named ``data`` and ``output``, as such programs expect. What tiles need to know of the network
stands in the name of the first layer, which other programs do not read.

Two things give wrong numbers without a word, and are kept out here: an array that is handed over
without a copy of its own, and lives no longer than the call, and weights above 65504 in float16.
"""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from dukd.deploy.runtime import ExportError, Runtime
from dukd.deploy.traced import Padded, traced
from dukd.networks import Network, QuantizedConfig
from dukd.networks.base import pad_to_multiple
from dukd.networks.upscaler import UpscalerError

INPUT, OUTPUT = "data", "output"
"""Names of what goes in and what comes out, as Upscayl and Real-ESRGAN's programs have them."""

_MAGIC = "7767517"
_FACTS = re.compile(r"^dukd-x(\d{1,2})-r(\d{1,5}|none)-m(\d{1,4})-(\S+)$")
_LARGEST_HALF = 65504.0
_SECONDS = 900  # after which a conversion is given up
_PROBE = 32  # pixels on a side of the image that shows an unknown network's scale


@dataclass(frozen=True, kw_only=True)
class Ncnn(Runtime):
    """A network of ncnn: RGB in [0, 1] as three planes, to the same, unclamped."""

    name: ClassVar[str] = "ncnn"
    suffixes: ClassVar[tuple[str, ...]] = (".param",)

    half: bool = False
    """Whether weights are stored in float16: half the size, 1e-4 off."""

    @property
    @override
    def form(self) -> str:
        return "ncnn with float16 weights" if self.half else "ncnn"

    @property
    @override
    def tolerance(self) -> float:
        return 1e-2 if self.half else 1e-4

    @override
    def export(self, network: Network, path: Path, properties: Mapping[str, str]) -> None:
        if isinstance(network.config, QuantizedConfig):
            raise ExportError(
                "ncnn calibrates its integers itself: export the float network, or this one as "
                ".onnx or .xml"
            )
        if self.half:
            _check_range(network)
        with TemporaryDirectory(prefix="dukd-") as folder:
            listed, numbers = _converted(Padded(network), Path(folder), half=self.half)
            path.write_text(_named(listed, properties), encoding="utf-8")
            path.with_suffix(".bin").write_bytes(numbers)

    @override
    def load(self, path: Path) -> "Session":
        return Session(path)


def _check_range(network: Network) -> None:
    largest = max(t.abs().max().item() for t in network.state_dict().values() if t.numel())
    if largest > _LARGEST_HALF:
        raise ExportError(
            f"{network.name} has a weight of {largest:.3g}, above float16's {_LARGEST_HALF:g}: "
            "leave --half out"
        )


def _converted(module: Padded, folder: Path, *, half: bool) -> tuple[str, bytes]:
    """The list of layers and the weights that pnnx makes of a network."""
    try:
        import pnnx  # noqa: PLC0415  an optional package
    except ImportError as error:
        raise ExportError(f"ncnn needs {error.name}: pip install 'dukd[ncnn]'") from None
    sides = [n * module.multiple for n in (32, 48, 40)]
    record = folder / "network.pt"
    torch.jit.save(traced(module, sides[0], sides[0]), str(record))
    command = [
        str(pnnx.EXEC_PATH),
        record.name,
        f"inputshape=[1,3,{sides[0]},{sides[0]}]",
        f"inputshape2=[1,3,{sides[1]},{sides[2]}]",
        f"fp16={int(half)}",
    ]
    name = module.network.name
    try:
        done = subprocess.run(  # noqa: S603  the converter that pnnx brings, on a file of ours
            command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ExportError(f"pnnx was not done with {name} after {_SECONDS} seconds") from None
    listed, numbers = folder / "network.ncnn.param", folder / "network.ncnn.bin"
    if done.returncode or not (listed.is_file() and numbers.is_file()):
        lines = (done.stderr or done.stdout).splitlines()
        said = [line.strip() for line in lines if re.search(r"\w", line)]  # pnnx draws lines too
        last = said[-1] if said else "it said nothing"
        raise ExportError(f"pnnx cannot convert {name}: {last}")
    return listed.read_text(encoding="utf-8"), numbers.read_bytes()


def _named(listed: str, properties: Mapping[str, str]) -> str:
    """Name input and output as programs expect, and say in the first layer what dukd needs."""
    facts = "dukd-x{scale}-r{radius}-m{size_multiple}-{network}".format_map(properties)
    known = {"in0": INPUT, "out0": OUTPUT}
    lines = listed.splitlines()
    for place, line in enumerate(lines[2:], start=2):
        words = line.split()
        blobs = int(words[2]) + int(words[3])
        words[4 : 4 + blobs] = [known.get(word, word) for word in words[4 : 4 + blobs]]
        if words[0] == "Input":
            words[1] = facts
        elif words[0] in _UNKNOWN or "." in words[0]:
            raise ExportError(
                f"ncnn has no layer for {words[0]}, which {properties['network']} needs: export it "
                "as .onnx"
            )
        lines[place] = " ".join(words)
    return "\n".join(lines) + "\n"


_UNKNOWN = frozenset({"pnnx", "aten", "prim"})


def says(path: Path) -> bool:
    """Whether a file is an export of ours, not only a list of layers."""
    try:
        with path.open(encoding="utf-8") as file:
            head = [file.readline(1 << 12).split() for _ in range(3)]
    except (OSError, UnicodeDecodeError):
        return False
    return len(head[2]) > 1 and _FACTS.match(head[2][1]) is not None


class Session:
    """A network in ncnn; ours, or anybody's that maps three planes in [0, 1] to three larger."""

    engine: ClassVar[str] = "ncnn"
    """What ``--runtime`` calls it."""

    def __init__(self, path: Path) -> None:
        """Open a pair of files.

        Raises:
            UpscalerError: If they are not whole, or not of a network that enlarges images.
            ExportError: If ncnn is missing.
        """
        ncnn = _package()
        self.path = Path(path)
        first, self._input, self._output = _ends(self.path)
        numbers = self.path.with_suffix(".bin")
        if not numbers.is_file():
            raise UpscalerError(f"{path} lacks its weights: put {numbers.name} beside it")
        self._net: Any = ncnn.Net()
        options = self._net.opt
        options.use_vulkan_compute = False
        options.num_threads = torch.get_num_threads()
        for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(options, f"use_{name}", False)
        self._mat: Any = ncnn.Mat
        # Reading goes on after a failure and crashes later: every return value counts.
        if self._net.load_param(str(self.path)) or self._net.load_model(str(numbers)):
            raise UpscalerError(f"{path} and {numbers.name} do not fit together, or are damaged")
        facts = _FACTS.match(first)
        if facts is None:
            self.name, self.radius, self.size_multiple = self.path.stem, None, 1
            self.scale = self._probed()
        else:
            self.name, self.scale = facts[4], int(facts[1])
            self.radius = None if facts[2] == "none" else int(facts[2])
            self.size_multiple = int(facts[3])

    def __call__(self, lr: Tensor) -> Tensor:
        """Enlarge ``(n, 3, h, w)``.

        Raises:
            UpscalerError: If ncnn cannot run it.
        """
        h, w = lr.shape[-2:]
        padded = pad_to_multiple(lr.detach().cpu().float(), self.size_multiple)
        made = torch.stack([self._one(image) for image in padded])
        return made[..., : h * self.scale, : w * self.scale].contiguous()

    def __reduce__(self) -> tuple[type["Session"], tuple[Path]]:
        """A worker process opens the files again."""
        return Session, (self.path.resolve(),)

    def _one(self, image: Tensor) -> Tensor:
        extractor = self._net.create_extractor()
        # ncnn keeps no array alive: this one has a name until the copy that ncnn owns is made
        array = np.ascontiguousarray(image.numpy(), np.float32)
        given = self._mat(array).clone()
        if extractor.input(self._input, given):
            raise UpscalerError(f"{self.path} does not take {tuple(image.shape)}")
        failed, sr = extractor.extract(self._output)
        found = None if failed else np.array(sr, np.float32)
        if found is None or found.ndim != 3:
            raise UpscalerError(f"{self.path} cannot be run by ncnn")
        return torch.from_numpy(found)

    def _probed(self) -> int:
        self.scale = 1
        shape = self._one(torch.zeros(3, _PROBE, _PROBE)).shape
        scale = shape[-1] // _PROBE
        if scale < 1 or shape != (3, _PROBE * scale, _PROBE * scale):
            raise UpscalerError(
                f"{self.path} makes {tuple(shape)} of (3, {_PROBE}, {_PROBE}), which is not an "
                "enlargement"
            )
        return scale


def _ends(path: Path) -> tuple[str, str, str]:
    """Name of the first layer, of the input and of the output.

    Raises:
        UpscalerError: If it lists no layers, or has not one input and one output.
    """
    try:
        magic, _, *lines = path.read_text(encoding="utf-8").splitlines()
        layers = [line.split() for line in lines if line.strip()] if magic == _MAGIC else []
        inputs = [(words[1], words[4]) for words in layers if words[0] == "Input"]
        made, used = set[str](), set[str]()
        for words in layers:
            taken = int(words[2])
            used.update(words[4 : 4 + taken])
            made.update(words[4 + taken : 4 + taken + int(words[3])])
    except (ValueError, IndexError) as error:  # UnicodeDecodeError is a ValueError
        raise UpscalerError(f"{path} is damaged, or not a .param file of ncnn") from error
    if not layers:
        raise UpscalerError(f"{path} is damaged, or not a .param file of ncnn")
    outputs = sorted(made - used)
    if len(inputs) != 1 or len(outputs) != 1:
        raise UpscalerError(
            f"{path} has {len(inputs)} inputs and {len(outputs)} outputs, but a network that "
            "enlarges has one of each"
        )
    return (*inputs[0], outputs[0])


def _package() -> Any:  # noqa: ANN401  a module that may be missing
    try:
        import ncnn  # noqa: PLC0415  an optional package
    except ImportError as error:
        raise ExportError(f"ncnn needs {error.name}: pip install 'dukd[ncnn]'") from None
    return ncnn
