"""What networks are exported for, and one proof for all: the export is run beside the network.

A `Runtime` writes a file that other programs run, and runs it itself. `export` writes nothing
unproved: the file is made aside, loaded, compared with the network at several sizes, and only then
put into its place.
"""

import copy
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, cast

import torch
from torch import Tensor

from dukd._version import __version__
from dukd.core import files
from dukd.core.files import Progress, silent
from dukd.core.given import refuse
from dukd.core.registry import known
from dukd.networks import Network
from dukd.networks.files import weights
from dukd.networks.files.weights import WeightsError
from dukd.networks.quantize.integer import IntegerReference
from dukd.networks.quantized import Quantized, QuantizedConfig
from dukd.networks.upscaler import Upscaler

Size = tuple[int, int, int]
"""Batch, height and width of an input."""

SIZES: tuple[Size, ...] = ((1, 24, 40), (1, 17, 23), (2, 33, 19), (1, 5, 3), (1, 64, 48))
"""Where an export is compared: on the networks' grids and off them, a batch, a tiny image, a larger
one."""


LEAST_PSNR = 50.0
"""PSNR in dB of a runtime's integers against the reference's; of sums that overflow it is 30."""


class ExportError(ValueError):
    """A network that cannot be exported so; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """How far an export is from its network."""

    sizes: tuple[Size, ...]
    """What was compared; empty if nothing was."""
    largest: float
    """Largest difference of a value, where white is 1; a gray level is 0.004."""
    psnr: float
    """PSNR of the export's output against the network's, in dB, over RGB; the lowest of all
    sizes."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written, and how far it is from the network."""

    path: Path
    """The file that names the export."""
    runtime: str
    """Name of the runtime."""
    form: str
    """What the runtime wrote, such as a layout of weights or a precision."""
    bytes: int
    """Size of all its files."""
    verified: Verified | None
    """None if nothing was compared."""
    note: str = ""
    """What the comparison leaves open."""


class Runtime(ABC):
    """Something that runs networks; its fields are the choices an export has.

    A runtime of your own is a frozen dataclass with a name; `dukd.testing.check_runtime` holds it
    against what is promised here.
    """

    name: ClassVar[str]
    """Name on the command line."""
    suffixes: ClassVar[tuple[str, ...]]
    """Endings of its files; a file's ending finds its runtime."""

    nearly: ClassVar[bool] = False
    """Whether it computes the integers of quantized networks itself, and so may round a half
    otherwise."""

    @property
    def form(self) -> str:
        """What an export is called in messages."""
        return self.name

    @property
    def sizes(self) -> Sequence[Size]:
        """Where an export is compared with its network."""
        return SIZES

    @property
    def tolerance(self) -> float:
        """Largest difference that is accepted, where white is 1."""
        return 1e-4

    @property
    def note(self) -> str:
        """What a comparison on this machine leaves open, as a sentence; empty if nothing."""
        return ""

    def reference(self, network: Network) -> Upscaler:
        """What an export of a network is compared with: of a quantized one, its integers."""
        if self.nearly and isinstance(network, Quantized):
            return IntegerReference(network)
        return network

    def accepts(self, verified: "Verified", network: Network) -> bool:
        """Whether an export is as close to its reference as it should be."""
        if self.nearly and isinstance(network, Quantized):
            return verified.psnr >= LEAST_PSNR
        return verified.largest <= self.tolerance

    @abstractmethod
    def export(self, network: Network, path: Path, properties: Mapping[str, str]) -> None:
        """Write a network that is frozen, in float32 and on the CPU.

        Args:
            network: What to write; it may be changed.
            path: The file; others of the export lie beside it and share its stem.
            properties: What `load` needs to know, for a place in the file.

        Raises:
            ExportError: If a package is missing, or the runtime cannot run the network.
        """

    @abstractmethod
    def load(self, path: Path) -> Upscaler:
        """Open a file that was exported.

        Raises:
            ValueError: If it cannot be opened, or a package is missing.
        """

    def reload(self, path: Path, network: Network) -> Upscaler:
        """Open an export of a network; a file that says less may take the rest from there."""
        del network
        return self.load(path)


def verify(network: Upscaler, exported: Upscaler, sizes: Sequence[Size] = SIZES) -> Verified:
    """Compare two upscalers on random images.

    Args:
        network: What is right.
        exported: What is compared with it.
        sizes: Of the images.
    """
    largest, psnr = 0.0, math.inf
    for number, (n, h, w) in enumerate(sizes):
        lr = _image(n, h, w, seed=number)
        with torch.no_grad():
            expected, found = network(lr), exported(lr)
        if found.shape != expected.shape or not bool(torch.isfinite(found).all()):
            return Verified(sizes=tuple(sizes), largest=math.inf, psnr=-math.inf)
        difference = (found - expected).double()
        largest = max(largest, difference.abs().max().item())
        mean = difference.square().mean().item()
        psnr = min(psnr, -10 * math.log10(mean) if mean else math.inf)
    return Verified(sizes=tuple(sizes), largest=largest, psnr=psnr)


def _image(n: int, h: int, w: int, *, seed: int) -> Tensor:
    """Half noise, half a smooth ramp, since photographs have both."""
    rng = torch.Generator().manual_seed(seed)
    noise, phase = torch.rand(n, 3, h, w, generator=rng), torch.rand(n, 3, 1, 1, generator=rng)
    ramp = torch.linspace(0, 1, h)[:, None] * torch.linspace(0, 1, w)
    return (noise + (ramp + phase) % 1) / 2


def export(
    network: Network,
    path: Path | str,
    runtime: Runtime | None = None,
    *,
    check: bool = True,
    metadata: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> Exported:
    """Write a network for other programs, and compare what was written with the network.

    Args:
        network: What to write; it stays as it is, where it is.
        path: The file; it appears whole, and only if the comparison succeeds.
        runtime: For whom, and how; by default what the file's ending says.
        check: Whether the export is run beside the network.
        metadata: Strings to keep in the file, where it has room for them.
        progress: Called before every part of the work.

    Raises:
        ExportError: If a package is missing, the runtime cannot run the network, or its output is
            too far from the network's.

    Example:
        ``dukd.export(network, "student.onnx", dukd.ONNX(half=True))``
    """
    given = cast("object", network)
    if not isinstance(given, Network):
        refuse("what is exported", "a network (of a file: dukd.load(path).network)", given)
    path = Path(path)
    runtime = runtime or runtime_of(path)
    _check_place(path, runtime)
    plain = copy.deepcopy(network).cpu().float().frozen()
    verified = None
    with TemporaryDirectory(prefix="dukd-") as folder:
        progress(0, 3, f"exporting for {runtime.name}")
        trial = Path(folder) / path.name
        with _naming(path, trial):
            runtime.export(copy.deepcopy(plain), trial, properties(network) | dict(metadata or {}))
        if check:
            progress(1, 3, "comparing")
            reference = runtime.reference(plain)
            verified = verify(reference, runtime.reload(trial, plain), runtime.sizes)
            _refuse(runtime, verified, plain)
        progress(2, 3, "writing")
        total = _placed(trial, path)
    progress(3, 3, "written")
    return Exported(
        path=path,
        runtime=runtime.name,
        form=runtime.form,
        bytes=total,
        verified=verified,
        note=runtime.note,
    )


def check_size(size: tuple[int, int] | None) -> None:
    """Refuse a height and width that no image has.

    Raises:
        ExportError: If one is below 1.
    """
    if size is not None and min(size) < 1:
        raise ExportError(f"an image has at least 1 pixel on a side, but size is {size}")


def sizes_of(size: tuple[int, int] | None) -> Sequence[Size]:
    """Inputs to compare at: the fixed height and width, or several where they are free."""
    return SIZES if size is None else ((1, *size),)


def tolerance_of(*, half: bool, levels: bool) -> float:
    """Largest difference that is accepted of float16, and of levels of 0 to 255; white is 1."""
    if levels:  # one that lies between two levels may round to either
        return (4.5 if half else 1.5) / 255
    return 1e-2 if half else 1e-4


@contextmanager
def _naming(path: Path, trial: Path) -> Generator[None, None, None]:
    """Have errors name the file that was wanted, not the temporary one."""
    try:
        yield
    except ValueError as error:
        if (said := str(error).replace(str(trial), str(path))) == str(error):
            raise
        kind = WeightsError if isinstance(error, WeightsError) else ExportError
        raise kind(said) from error


def _check_place(path: Path, runtime: Runtime) -> None:
    if path.suffix.lower() not in runtime.suffixes:
        raise ExportError(f"{path}: {runtime.name} writes {' or '.join(runtime.suffixes)}")
    if path.is_dir() and not files.is_package(path):
        raise ExportError(f"{path} is a folder: name a file that may be replaced")


def _placed(trial: Path, path: Path) -> int:
    """Put an export and what lies beside it into their places; their size in bytes."""
    made = sorted(trial.parent.iterdir(), key=lambda file: file == trial)  # itself last
    for file in made:
        if file.is_dir():
            files.write_folder(path.with_name(file.name), file)
        else:
            files.write_bytes(path.with_name(file.name), file.read_bytes())
    return sum(file.stat().st_size for file in trial.parent.rglob("*") if file.is_file())


def _refuse(runtime: Runtime, verified: Verified, network: Network) -> None:
    if runtime.accepts(verified, network):
        return
    allowed = f"at most {runtime.tolerance:g} is allowed"
    if runtime.nearly and isinstance(network, Quantized):
        allowed = (
            f"at least {LEAST_PSNR:g} dB are expected: this runtime, or this processor, computes "
            "other integers than the target"
        )
        assert isinstance(network.config, QuantizedConfig)
        if network.config.weight_bits is None:
            allowed += (
                ", as those without VNNI do unless weights have 7 bits: quantize with "
                "--weight-bits 7"
            )
    raise ExportError(
        f"the export as {runtime.form} gives other images than the network, by "
        f"{verified.largest:.2g} where white is 1 ({verified.psnr:.1f} dB), but {allowed}; nothing "
        "was written"
    )


def properties(network: Network) -> dict[str, str]:
    """What an export says of its network, for `load` and for readers."""
    return {
        "dukd": __version__,
        "network": network.name,
        "config": json.dumps(asdict(network.config)),
        "scale": str(network.scale),
        "radius": "none" if network.radius is None else str(network.radius),
        "size_multiple": str(network.size_multiple),
        "sha256": weights.tensors_sha256(network.state_dict()),
    }


def runtime_of(path: Path, otherwise: Runtime | None = None) -> Runtime:
    """The runtime that a file's ending names, with its default choices.

    Raises:
        ExportError: If none does, and there is none to take otherwise.
    """
    runtimes = known(Runtime)
    for runtime in runtimes.values():
        if path.suffix.lower() in runtime.suffixes:
            return runtime()
    if otherwise is not None:
        return otherwise
    endings = ", ".join(suffix for runtime in runtimes.values() for suffix in runtime.suffixes)
    raise ExportError(f"no runtime has files like {path}; known endings are {endings}")
