"""What may come of an input: a result that survives writing and reading, or one sentence."""

import io
import random
import shutil
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PillowImage

from dukd import images
from dukd.cli import run
from dukd.core.config import ConfigError
from dukd.images import ImageError
from dukd.networks.files import weights
from dukd.networks.files.weights import WeightsError
from dukd.training.experiment import Experiment
from fuzz.containers import generators
from fuzz.texts import command, config
from fuzz.weights import legacy, network, safe, saved

MAX_PIXELS = 1_000_000
_LONGEST = 1_500  # characters of what is said of one input


class Wrong(Exception):  # noqa: N818  the name says it
    """Neither a result that lasts nor a sentence."""


def _sentence(error: Exception, path: Path) -> str:
    text = str(error)
    if str(path) not in text:
        raise Wrong(f"does not name the file: {text[:200]}")
    if len(text) > _LONGEST or "Traceback" in text:
        raise Wrong(f"is no sentence: {text[:200]}")
    return "refused"


def image(data: bytes, folder: Path) -> str:
    """Read, compare with the header, write in two formats, read again."""
    path = folder / "in"
    path.write_bytes(data)
    try:
        head = images.header(path, max_pixels=MAX_PIXELS)
    except ImageError as error:
        head = None
        _sentence(error, path)
    try:
        found = images.read(path, max_pixels=MAX_PIXELS)
    except ImageError as error:
        if head is not None and head.frames > 1:
            return _frames(path)
        return _sentence(error, path)
    if head is None:
        raise Wrong("read, though its header was refused")
    shape = (head.height, head.width)
    if found.pixels.shape[:2] != shape or found.bits != head.bits:
        raise Wrong(f"{found.pixels.shape} of {found.bits} bits, but the header said {head}")
    for name in ("out.png", "out.tif", "out.webp"):
        if images.can_hold(f".{name[4:]}", bits=found.bits, alpha=found.alpha is not None):
            _again(folder / name, found, head)
    return "read"


def _frames(path: Path) -> str:
    try:
        for number, _ in enumerate(images.frames(path, max_pixels=MAX_PIXELS)):
            if number == 3:
                break
    except ImageError as error:
        return _sentence(error, path)
    return "read"


def _again(path: Path, found: images.Image, head: images.Header) -> None:
    if path.suffix != ".png" and head.beyond:
        return
    try:
        images.write(path, found, quality=100)
    except ImageError as error:
        if images.fits(path.suffix, head.width, head.height) and "not sRGB" not in str(error):
            raise Wrong(f"cannot be written: {error}") from error
        return
    try:
        back = images.read(path)
    except ImageError as error:
        raise Wrong(f"what was written cannot be read: {error}") from error
    if not np.array_equal(*np.broadcast_arrays(back.pixels, found.pixels)):
        raise Wrong(f"{path.suffix}: other pixels after writing and reading")
    if (back.alpha is None) != (found.alpha is None) or (
        back.alpha is not None and not np.array_equal(back.alpha, found.alpha)
    ):
        opaque = found.alpha is not None and (found.alpha == np.iinfo(found.alpha.dtype).max).all()
        if not opaque:
            raise Wrong(f"{path.suffix}: other alpha after writing and reading")


def network_file(data: bytes, folder: Path, *, suffix: str = ".pth") -> str:
    """Read, write as a file of ours, read again."""
    path = folder / f"in{suffix}"
    path.write_bytes(data)
    try:
        found = weights.read(path)
    except WeightsError as error:
        return _sentence(error, path)
    weights.write(folder / "out.safetensors", found)
    back = weights.read(folder / "out.safetensors")
    mine, theirs = back.state_dict(), found.state_dict()
    if back.config != found.config or any(not torch.equal(mine[k], theirs[k]) for k in theirs):
        raise Wrong("another network after writing and reading")
    return "read"


def experiment(data: bytes, folder: Path) -> str:
    """Read as a file, write as text, read again."""
    path = folder / "in.yaml"
    path.write_bytes(data)
    try:
        found = Experiment.from_file(path)
    except ConfigError as error:
        return _sentence(error, path)
    if Experiment.from_yaml(found.to_yaml()) != found:
        raise Wrong("another experiment after writing and reading")
    return "read"


def command_line(data: bytes, folder: Path) -> str:
    """Run a command; a code other than 70, and no traceback, whatever it does."""
    words = data.decode("utf-8", "surrogatepass").split("\0")
    out, places = folder / "out", _sound(folder)
    put = {**{name: str(path) for name, path in places.items()}, "OUT": str(out)}
    for name, path in put.items():
        words = [word.replace(name, path) for word in words]
    said = io.StringIO()
    with chdir(folder), redirect_stdout(said), redirect_stderr(said):
        code = run(words)
    shutil.rmtree(out, ignore_errors=True)
    text = said.getvalue()
    if code == 70 or ("Traceback" in text and "--debug" not in words):
        raise Wrong(f"exit code {code}: {text.strip()[-300:]}")
    return "done" if code == 0 else "refused"


def _sound(folder: Path) -> dict[str, Path]:
    places = {"IMAGE": folder / "a.png", "WEIGHTS": folder / "n.safetensors"}
    places |= {"FOLDER": folder / "set", "BROKEN": folder / "broken"}
    if not places["BROKEN"].exists():
        places["FOLDER"].mkdir(exist_ok=True)
        levels = np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)
        for path in (places["IMAGE"], places["FOLDER"] / "b.png"):
            PillowImage.fromarray(levels).save(path)
        weights.write(places["WEIGHTS"], network())
        places["BROKEN"].write_bytes(b"broken")
    return places


Target = tuple[Callable[[random.Random], bytes], Callable[[bytes, Path], str]]
"""What makes an input, and what judges it."""


def targets() -> dict[str, Target]:
    """Every kind of input."""
    made: dict[str, Target] = {name: (make, image) for name, make in generators().items()}
    made |= {
        "safetensors": (safe, partial(network_file, suffix=".safetensors")),
        "pth": (saved, network_file),
        "legacy": (legacy, network_file),
        "yaml": (config, experiment),
        "command": (command, command_line),
    }
    return made
