"""The fastest way to run a student on this machine that keeps its quality, found by a trial.

Every engine and precision at hand enlarges the same small image; one that loses more than 0.01 dB
is left out. What it took to get ready, and what a pixel takes, is remembered per student and
machine, so that a few images are not made to wait for a conversion, and a large folder is.
"""

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch

from dukd.core import files
from dukd.core.device import DeviceName, by_name, multiplies_bfloat16
from dukd.deploy.engine import Engine, Precision, run_by
from dukd.deploy.runtime import verify
from dukd.networks import Network
from dukd.networks.files.weights import tensors_sha256
from dukd.networks.upscaler import OnDevice, Upscaler

LEAST_PSNR = 66.4
"""dB to the output in float32 from which on at most 0.01 dB are lost by a student that is 40 dB
from the truth: errors add up as powers, and 10 log10(1 + 10^-2.64) is 0.01."""
WORTH_A_TRIAL = 30.0
"""Seconds that the work has to take in torch before other ways are tried."""

_SIDE = 96  # pixels of the trial's image
_MACS_PER_SECOND = 2e10  # of one core, for a guess of what the work takes before anything has run
_TURNS = 3
_ENTRIES = 64  # students that are remembered
_WAYS: tuple[tuple[Engine, Precision], ...] = (
    ("torch", "float32"),
    ("torch", "bfloat16"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("onnxruntime", "float32"),
    ("ncnn", "float32"),
)


@dataclass(frozen=True, kw_only=True)
class Way:
    """An engine and a precision, and what they take."""

    engine: Engine = "torch"
    precision: Precision = "float32"
    ready: float = 0.0
    """Seconds until it can begin."""
    pixel: float = 0.0
    """Seconds per pixel of lr."""

    def seconds(self, pixels: int) -> float:
        """What enlarging so many pixels of lr takes."""
        return self.ready + pixels * self.pixel

    def __str__(self) -> str:
        """As in ``openvino in float32``."""
        return f"{self.engine} in {self.precision}"


EXACT = Way()
"""The network as it was trained."""


def fastest(
    network: Network,
    pixels: int,
    *,
    device: DeviceName = "auto",
    memory: Path | None = None,
    report: Callable[[str], None] = lambda _note: None,
) -> Way:
    """Choose what runs a network.

    Args:
        network: What enlarges.
        pixels: Of lr, in all images together.
        device: Where the network runs; on a GPU it is torch.
        memory: File in which trials are remembered; by default one in the user's cache.
        report: Called with a sentence that says what was chosen, and why.
    """
    if by_name(device).type != "cpu":
        return EXACT
    memory = memory or cache_folder() / "fastest.json"
    key = _key(network)
    ways = _remembered(memory).get(key)
    if ways is None:
        guess = network.parameter_count() * pixels / _MACS_PER_SECOND / torch.get_num_threads()
        if guess < WORTH_A_TRIAL / 10:  # even if it is ten times as slow as that
            return EXACT
        base = _timed(OnDevice(network), EXACT)
        if base.seconds(pixels) < WORTH_A_TRIAL:
            return EXACT
        report("trying which engine is the fastest for this student on this machine")
        ways = [base, *_tried(network)]
        _remember(memory, key, ways)
    chosen = min(ways, key=lambda way: way.seconds(pixels))
    ratio = ways[0].pixel / chosen.pixel
    said = f", {ratio:.2f} times as fast as torch in float32" if chosen != ways[0] else ""
    report(f"run by {chosen}{said}; tried were {', '.join(map(str, ways))}")
    return chosen


def _tried(network: Network) -> list[Way]:
    """Every other way that works here and keeps the quality."""
    found: list[Way] = []
    reference = OnDevice(network)
    sizes = ((1, 64, 64), (1, 48, 80))
    for engine, precision in _WAYS[1:]:
        packages = {"torch": (), "ncnn": ("ncnn", "pnnx")}.get(engine, (engine,))
        if any(find_spec(package) is None for package in packages):
            continue
        if precision == "bfloat16" and not multiplies_bfloat16():
            continue
        started = time.perf_counter()
        try:
            upscaler = run_by(network, engine, device="cpu", precision=precision)
        except ValueError:  # it cannot run this network, or not in this precision
            continue
        way = Way(engine=engine, precision=precision, ready=time.perf_counter() - started)
        if precision == "float32" or verify(reference, upscaler, sizes).psnr >= LEAST_PSNR:
            found.append(_timed(upscaler, way))
    return found


def _timed(upscaler: Upscaler, way: Way) -> Way:
    """The same with what a pixel takes: the least of a few turns, since machines are busy."""
    side = -(-_SIDE // upscaler.size_multiple) * upscaler.size_multiple
    lr = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    upscaler(lr)
    taken: list[float] = []
    for _ in range(_TURNS):
        started = time.perf_counter()
        upscaler(lr)
        taken.append(time.perf_counter() - started)
    return Way(
        engine=way.engine, precision=way.precision, ready=way.ready, pixel=min(taken) / side**2
    )


def _key(network: Network) -> str:
    """A hash of the student, the processor and the engines."""
    facts = [
        network.config.name,
        repr(network.config),
        tensors_sha256(network.state_dict()),
        platform.machine(),
        _processor(),
        str(torch.get_num_threads()),
        *(
            f"{name} {_version(name)}"
            for name in ("dukd", "torch", "openvino", "onnxruntime", "ncnn")
        ),
    ]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    lines = text.splitlines()
    return "".join(line for line in lines[:40] if line.startswith(("model name", "flags")))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def cache_folder() -> Path:
    """Where what can be found out again is kept between runs, by the system's habit."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "dukd" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "dukd"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dukd"


def _remembered(memory: Path) -> dict[str, list[Way]]:
    """What is known of students; nothing where the file is missing or damaged."""
    try:
        content = json.loads(memory.read_text(encoding="utf-8"))
        found = {key: [Way(**way) for way in ways] for key, ways in content.items()}
        known = {(engine, precision) for engine, precision in _WAYS}
        for ways in found.values():
            assert all((w.engine, w.precision) in known and w.pixel > 0 for w in ways)
    except (OSError, ValueError, TypeError, AttributeError, AssertionError):
        return {}
    return found


def _remember(memory: Path, key: str, ways: list[Way]) -> None:
    kept = list(_remembered(memory).items())[-_ENTRIES + 1 :]
    content = dict(kept) | {key: ways}
    plain = {name: [asdict(way) for way in some] for name, some in content.items()}
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(memory, json.dumps(plain, indent=1))
    except OSError:
        pass  # it is found out again the next time
