"""Files of weights: read what the field writes, write files that describe themselves.

What this module writes is safetensors with the network, its config and a checksum beside the
tensors. What it reads may come from anywhere, and is trusted in nothing (`dukd.networks.files`).
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import safetensors.torch
import torch

from dukd.core import files
from dukd.core.given import refuse
from dukd.networks import layouts
from dukd.networks.base import Network, NetworkConfig
from dukd.networks.files import foreign
from dukd.networks.files import metadata as described
from dukd.networks.files.metadata import tensors_sha256
from dukd.networks.files.opening import (
    Contents,
    OtherNetworkError,
    Required,
    UnknownNetworkError,
    check_values,
    opened,
)
from dukd.networks.files.safe import WeightsError
from dukd.networks.layers import Mean

__all__ = [
    "Contents",
    "WeightsError",
    "inspect",
    "read",
    "read_and_inspect",
    "tensors_sha256",
    "warm_start",
    "write",
]


def _quiet(note: str) -> None:
    """Report to nobody."""


def read(
    path: Path,
    *,
    scale: int | None = None,
    config: NetworkConfig | None = None,
    value_range: float | None = None,
    mean: Mean | None = None,
    residual_scale: float | None = None,
    averaged: bool = True,
    report: Callable[[str], None] = _quiet,
) -> Network:
    """Read a network from a file that may come from anywhere.

    Which network it is, and its sizes, follow from the tensors; averaged weights are preferred. A
    number that no tensor shows is taken from the file's metadata, else from the arguments, else
    from what the field does (EDSR: 0 to 255, DIV2K's mean, residual scale 0.1 from 32 blocks or 256
    channels on); an assumption is reported.

    Args:
        path: ``.safetensors``, or ``.pth`` and ``.pt`` as ``torch.save`` writes them.
        scale: Required scale, or None for any.
        config: Required network, or None for any. Numbers that the file does not settle are taken
            from it.
        value_range: White inside the network, where the file does not say.
        mean: RGB in [0, 1] subtracted from the input, where the file does not say.
        residual_scale: Factor of EDSR's branches, where the file does not say.
        averaged: Whether averaged weights are preferred to those of the last step.
        report: Called with one sentence for each choice or assumption.

    Returns:
        The network, in float32, on the CPU, in training mode as modules are made.

    Raises:
        WeightsError: If the file is damaged or dangerous, holds another network or scale than
            required, lacks tensors, has others, or holds a value that is not finite.
    """
    network, contents = read_and_inspect(
        path,
        scale=scale,
        config=config,
        value_range=value_range,
        mean=mean,
        residual_scale=residual_scale,
        averaged=averaged,
    )
    for note in contents.notes:
        report(note)
    return network


def read_and_inspect(
    path: Path,
    *,
    scale: int | None = None,
    config: NetworkConfig | None = None,
    value_range: float | None = None,
    mean: Mean | None = None,
    residual_scale: float | None = None,
    averaged: bool = True,
) -> tuple[Network, Contents]:
    """Do `read` and `inspect` at once.

    Raises:
        WeightsError: As `read` does.
    """
    numbers = {"value_range": value_range, "mean": mean, "residual_scale": residual_scale}
    said = {name: value for name, value in numbers.items() if value is not None}
    required = Required(scale=scale, config=config, numbers=said, averaged=averaged)
    try:
        contents, tensors = opened(path, required)
    except UnknownNetworkError as error:
        return _foreign(path, error, scale if config is None else 0)
    # The initial weights are thrown away; nobody's draws shall change for them.
    with torch.random.fork_rng(devices=[]):
        network = contents.config.build()
    network.load_state_dict(tensors)
    return network, contents


def _foreign(path: Path, error: UnknownNetworkError, scale: int | None) -> tuple[Network, Contents]:
    """A network that spandrel knows, where it is installed."""
    try:
        network = foreign.opened(error.tensors)
    except ValueError as refusal:
        if isinstance(error, OtherNetworkError):  # what it looks like says more
            raise error from None
        raise WeightsError(f"{error}, but {refusal}") from error
    if network is None or scale == 0:
        raise error
    if scale is not None and network.scale != scale:
        raise WeightsError(f"{path} is {network.config.describe()}; required is x{scale}")
    contents = Contents(
        path=path,
        config=network.config,
        layout="spandrel",
        key=None,
        tensors=len(error.tensors),
        parameters=network.parameter_count(),
        dtypes=tuple(sorted({str(t.dtype).removeprefix("torch.") for t in error.tensors.values()})),
        assumed=frozenset(),
        notes=(f"opened by spandrel as {network.config.describe()}",),
        metadata={},
    )
    return network, contents


def inspect(
    path: Path,
    *,
    value_range: float | None = None,
    mean: Mean | None = None,
    residual_scale: float | None = None,
) -> Contents:
    """Say what a file of weights holds.

    Args:
        path: As `read` takes it.
        value_range: As `read` takes it.
        mean: As `read` takes it.
        residual_scale: As `read` takes it.

    Raises:
        WeightsError: As `read` raises it.
    """
    numbers = {"value_range": value_range, "mean": mean, "residual_scale": residual_scale}
    said = {name: value for name, value in numbers.items() if value is not None}
    try:
        return opened(path, Required(numbers=said))[0]
    except UnknownNetworkError as error:
        return _foreign(path, error, None)[1]


def write(
    path: Path,
    network: Network,
    *,
    layout: str = "dukd",
    metadata: Mapping[str, str] | None = None,
    training_size: int = 64,
) -> None:
    """Write a network, whole or not at all.

    Args:
        path: ``.safetensors``, or for the layouts of others also ``.pth`` or ``.pt``.
        network: What to write; it stays as it is.
        layout: ``dukd`` describes itself. Others are those of the network's own
            `NetworkConfig.layouts`, such as ``basicsr`` or ``official``; a ``.pth`` that is not
            bare describes itself too.
        metadata: Strings to keep beside the tensors, such as the teacher's SHA-256; not in a bare
            file.
        training_size: Pixels on a side for which SwinIR's masks are made in the layouts of others,
            whose code loads a file only if it is built for the same size; 64 and 48 are usual.

    Raises:
        WeightsError: If a value is not finite, the ending does not fit the layout, the layout
            cannot hold the network, or a key of the metadata is taken.
    """
    given = cast("object", path)
    if not isinstance(given, str | Path):
        refuse("where a network is saved", "a path, as in dukd.save(path, network)", given)
    path = Path(path)
    try:
        chosen = None if layout == "dukd" else layouts.named(network.config, layout)
        network = network if chosen is None else chosen.held(network)
        tensors = {
            name: tensor.detach().cpu().contiguous().clone()
            for name, tensor in network.state_dict().items()
        }
        check_values(path, tensors)
        strings = described.strings(network, tensors, metadata or {})
        if chosen is not None:
            tensors = chosen.write(network, tensors, training_size=training_size)
    except ValueError as error:
        text = str(error)
        raise WeightsError(text if text.startswith(str(path)) else f"{path}: {text}") from error
    key = None if chosen is None else chosen.key
    if path.suffix == ".safetensors":
        content = safetensors.torch.save(tensors, strings if layout == "dukd" else {"format": "pt"})
        files.write_bytes(path, _with_sorted_metadata(content))
    elif layout == "dukd" or path.suffix not in {".pth", ".pt"}:
        raise WeightsError(
            f"{path} is to end in .safetensors" + ("" if layout == "dukd" else ", .pth or .pt")
        )
    else:
        with files.replacing(path) as file:
            torch.save(tensors if key is None else {key: tensors, "dukd": strings}, file)


def _with_sorted_metadata(content: bytes) -> bytes:
    """Make equal networks equal files: safetensors writes its metadata in a changing order."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return len(text).to_bytes(8, "little") + text + content[end:]


_LEAST = 0.3
"""Share of the student's numbers that a warm start has to bring."""


def warm_start(student: Network, path: Path, *, averaged: bool = False) -> str:
    """Copy every tensor of the same name and shape from a file, which may be of another scale.

    Args:
        student: The network that starts.
        path: The file.
        averaged: Whether averaged weights are taken where the file has others as well: the others
            start a network, and they its average.

    Returns:
        A sentence that says how much was taken.

    Raises:
        ValueError: If it holds another sort of network, or hardly anything fits.
    """
    held = read(path, averaged=averaged)
    without_branches = student.config == student.config.deployed()
    other = held.folded() if without_branches else held
    theirs, ours = other.state_dict(), student.state_dict()
    fitting = {
        name: value
        for name, value in theirs.items()
        if name in ours and ours[name].shape == value.shape
    }
    taken, whole = (sum(v.numel() for v in some.values()) for some in (fitting, ours))
    if other.config.name != student.config.name or taken < _LEAST * whole:
        raise ValueError(
            f"{path} holds {held.config}, of which {100 * taken // whole} % fits the student "
            f"{student.config}: a warm start needs a network of the same sort and width"
        )
    student.load_state_dict(ours | fitting)
    left = [name for name in ours if name not in fitting]
    rest = (f"; new are {', '.join(left[:4])}{' ...' if len(left) > 4 else ''}") if left else ""
    return f"the student starts with {len(fitting)} of {len(ours)} tensors from {path}{rest}"
