"""Files of weights.

Read every public layout of the networks here, write files that describe themselves.

What this module writes is safetensors under BasicSR's names, with the network, its config and a
SHA-256 of the tensors beside them. What it reads may come from anywhere, see ``_tensorfile``.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor

from dukd.core import files
from dukd.core.registry import known
from dukd.networks.base import Network, NetworkConfig
from dukd.networks.edsr import EDSRConfig
from dukd.networks.ensemble import EnsembleConfig, Member
from dukd.networks.files.safe import TensorFile, WeightsError, load
from dukd.networks.layers import Mean
from dukd.networks.layouts import (
    FREE_FIELDS,
    LACKS_SKIP,
    Layout,
    Recognized,
    describe,
    recognize,
    to_official,
)
from dukd.networks.rcan import RCANConfig
from dukd.networks.smfanet import SMFANetConfig
from dukd.networks.swinir import SwinIRConfig

__all__ = ["Contents", "Layout", "WeightsError", "inspect", "read", "tensors_sha256", "write"]

FORMAT = "1"
"""Version of the metadata."""
_RECOGNIZED = EDSRConfig | RCANConfig | SwinIRConfig | SMFANetConfig
"""The networks that are told from their tensors, whose files may come from anywhere; others need
our metadata."""
_SHOWN_DIFFERENCES = 3


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What is in a file of weights."""

    path: Path
    """The file."""
    network: str
    """Name of the network, such as ``edsr``."""
    config: NetworkConfig
    """Its numbers."""
    layout: Layout
    """Whose names the tensors have; ``dukd`` where the file describes itself."""
    wrapper: str | None
    """Key under which the weights stand, or None."""
    tensors: int
    """Number of tensors."""
    parameters: int
    """Number of parameters of the network."""
    dtypes: tuple[str, ...]
    """Kinds of numbers stored, such as ``float32``."""
    notes: tuple[str, ...]
    """What had to be chosen or assumed, one sentence each."""
    metadata: Mapping[str, str]
    """Strings beside the tensors."""


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
    report: Callable[[str], None] = _quiet,
) -> Network:
    """Read a network from a file that may come from anywhere.

    Which network it is, and its sizes, are told from the tensors; averaged weights are preferred. A
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
        report: Called with one sentence for each choice or assumption.

    Returns:
        The network, in float32, on the CPU, in training mode as modules are made.

    Raises:
        WeightsError: If the file is damaged or dangerous, holds another network or scale than
            required, lacks tensors, has others, or holds a value that is not finite.
    """
    contents, tensors = _open(path, scale, config, value_range, mean, residual_scale)
    for note in contents.notes:
        report(note)
    with torch.random.fork_rng(
        devices=[]
    ):  # the initial weights are thrown away; nobody's draws shall change for them
        network = contents.config.build()
    network.load_state_dict(tensors)
    return network


def inspect(
    path: Path,
    *,
    value_range: float | None = None,
    mean: Mean | None = None,
    residual_scale: float | None = None,
) -> Contents:
    """Say what a file of weights holds.

    Args:
        path: As ``read`` takes it.
        value_range: As ``read`` takes it.
        mean: As ``read`` takes it.
        residual_scale: As ``read`` takes it.

    Raises:
        WeightsError: As ``read`` raises it.
    """
    return _open(path, None, None, value_range, mean, residual_scale)[0]


def write(
    path: Path,
    network: Network,
    *,
    layout: Layout = "dukd",
    metadata: Mapping[str, str] | None = None,
    training_size: int = 64,
) -> None:
    """Write a network, whole or not at all.

    Args:
        path: ``.safetensors``, or for the layouts of others also ``.pth`` or ``.pt``.
        network: What to write; it stays as it is.
        layout: ``dukd`` describes itself. ``basicsr`` has the same names; its ``.pth`` keeps them
            under ``params``, and describes itself too. ``official`` is what the authors' code
            loads: bare for EDSR and RCAN, under ``params`` for SwinIR and SMFANet.
        metadata: Strings to keep beside the tensors, such as the teacher's SHA-256; not in a bare
            file.
        training_size: Pixels on a side for which SwinIR's masks are made in the layouts of others,
            whose code loads a file only if it is built for the same size; 64 and 48 are usual.

    Raises:
        WeightsError: If a value is not finite, the ending does not fit the layout, the layout
            cannot hold the network, or a key of the metadata is taken.
    """
    path = Path(path)
    if layout != "dukd" and not isinstance(network.config, _RECOGNIZED):
        name = "an ensemble" if isinstance(network.config, EnsembleConfig) else network.config.name
        raise WeightsError(
            f"{name} is known to dukd alone: write a .safetensors file in the layout dukd, not "
            f"{path}"
        )
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in network.state_dict().items()
    }
    _check_finite(path, tensors)
    strings = _metadata(network, tensors, metadata or {})
    if layout == "official" or (layout == "basicsr" and isinstance(network.config, SwinIRConfig)):
        tensors = to_official(network.config, tensors, training_size=training_size)
    elif layout == "basicsr" and getattr(network.config, "skip", "none") != "none":
        raise WeightsError(f"BasicSR's EDSR {LACKS_SKIP}")
    if path.suffix == ".safetensors":
        content = safetensors.torch.save(tensors, strings if layout == "dukd" else {"format": "pt"})
        files.write_bytes(path, _with_sorted_metadata(content))
    elif layout == "dukd" or path.suffix not in {".pth", ".pt"}:
        raise WeightsError(
            f"{path} is to end in .safetensors" + ("" if layout == "dukd" else ", .pth or .pt")
        )
    else:
        bare = layout == "official" and isinstance(network.config, EDSRConfig | RCANConfig)
        with files.replacing(path) as file:
            torch.save(tensors if bare else {"params": tensors, "dukd": strings}, file)


def _with_sorted_metadata(content: bytes) -> bytes:
    """Make equal networks equal files.

    Safetensors writes its metadata in an order that changes from call to call.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return len(text).to_bytes(8, "little") + text + content[end:]


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, kinds, shapes and bytes, whatever their order in a file."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _metadata(
    network: Network, tensors: Mapping[str, Tensor], extra: Mapping[str, str]
) -> dict[str, str]:
    ours = {
        "format": "pt",
        "dukd": FORMAT,
        "network": network.config.name,
        "config": json.dumps(_numbers(network.config)),
        "scale": str(network.scale),
        "radius": "none" if network.radius is None else str(network.radius),
        "sha256": tensors_sha256(tensors),
    }
    taken = ours.keys() & extra.keys()
    if taken:
        raise WeightsError(
            f"the metadata {', '.join(sorted(taken))} are written by dukd itself; use other names"
        )
    return ours | dict(extra)


def _numbers(value: object) -> object:
    """What JSON can hold of a config; a network inside another says which it is."""
    if isinstance(value, Member):
        return {
            "name": value.name,
            "network": value.network.name,
            "config": _numbers(value.network),
        }
    if is_dataclass(value):
        return {f.name: _numbers(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple):
        return [_numbers(v) for v in cast("tuple[object, ...]", value)]
    return value


# Reading


def _open(
    path: Path,
    scale: int | None,
    wanted: NetworkConfig | None,
    value_range: float | None,
    mean: Mean | None,
    residual_scale: float | None,
) -> tuple[Contents, dict[str, Tensor]]:
    path = Path(path)
    file = load(path)
    try:
        declared = _declared(file.metadata)
        if declared is None or isinstance(declared, _RECOGNIZED):
            found = recognize(file.tensors)
        else:
            found = _as_declared(file, declared)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    given = {"value_range": value_range, "mean": mean, "residual_scale": residual_scale}
    config, assumed = _settle(
        path, found, declared, wanted, {k: v for k, v in given.items() if v is not None}
    )
    if scale is not None and config.scale != scale:
        raise WeightsError(f"{path}: this looks like {describe(config)}; asked for x{scale}")
    _check_shapes(path, config, found.tensors)
    _check_finite(path, found.tensors)
    if declared is not None and file.metadata.get("sha256") != tensors_sha256(found.tensors):
        raise WeightsError(
            f"{path} is damaged: its tensors are not those it was written with (SHA-256)"
        )
    contents = Contents(
        path=path,
        network=config.name,
        config=config,
        layout="dukd" if declared is not None and file.kind == "safetensors" else found.layout,
        wrapper=file.wrapper,
        tensors=len(file.tensors),
        parameters=sum(tensor.numel() for tensor in found.tensors.values()),
        dtypes=tuple(sorted({str(t.dtype).removeprefix("torch.") for t in file.tensors.values()})),
        notes=_notes(file, config, assumed),
        metadata=file.metadata,
    )
    return contents, found.tensors


def _as_declared(file: TensorFile, declared: NetworkConfig) -> Recognized:
    """Believe the metadata.

    What an ensemble or somebody's own network is, names of tensors do not tell.
    """
    return Recognized(
        config=declared,
        layout="dukd",
        tensors=dict(file.tensors),
        shown=frozenset(),
        assumed=frozenset(),
    )


def _notes(file: TensorFile, config: NetworkConfig, assumed: Sequence[str]) -> tuple[str, ...]:
    notes: list[str] = []
    if file.others:
        notes.append(f"read {file.wrapper}; the file also holds {', '.join(file.others)}")
    if file.prefix:
        notes.append(f"took {file.prefix!r} off every name")
    notes += [
        f"assumed {name} = {getattr(config, name)}, which the file does not say" for name in assumed
    ]
    return tuple(notes)


def _declared(metadata: Mapping[str, str]) -> NetworkConfig | None:
    """Read the config that dukd wrote, or None where there is none."""
    if "dukd" not in metadata:
        return None
    if metadata["dukd"] != FORMAT:
        raise WeightsError(
            f"its metadata are of version {metadata['dukd']!r}; this version of dukd reads {FORMAT}"
        )
    name = metadata.get("network", "")
    try:
        return _config(name, json.loads(metadata["config"]))
    except WeightsError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise WeightsError(
            f"the config in its metadata makes no {name} ({type(error).__name__}: {error})"
        ) from error


def _config(name: str, numbers: object) -> NetworkConfig:
    kinds = known(NetworkConfig)
    if name not in kinds:
        raise WeightsError(
            f"its metadata name the network {name!r}, which is none of {', '.join(kinds)}; one of "
            "your own has to be imported first (on the command line with --import FILE)"
        )
    wanted = {field.name for field in fields(kinds[name])}
    values = {key: _frozen(value) for key, value in cast("dict[str, object]", numbers).items()}
    if values.keys() != wanted:
        raise ValueError(f"{sorted(values.keys() ^ wanted)}")
    return kinds[name](**cast("dict[str, Any]", values))


def _frozen(value: object) -> object:
    if isinstance(value, list):
        return tuple(_frozen(v) for v in cast("list[object]", value))
    if isinstance(value, dict):
        member = cast("dict[str, Any]", value)
        return Member(name=member["name"], network=_config(member["network"], member["config"]))
    return value


def _settle(
    path: Path,
    found: Recognized,
    declared: NetworkConfig | None,
    wanted: NetworkConfig | None,
    given: Mapping[str, object],
) -> tuple[NetworkConfig, tuple[str, ...]]:
    """Fill in what no tensor shows.

    From the metadata, else the arguments, else the wish, else the field's habit.
    """
    config = found.config
    open_fields = {field.name for field in fields(config)} & set(FREE_FIELDS)
    unknown = given.keys() - open_fields
    if unknown:
        raise WeightsError(
            f"{path}: this looks like {describe(config)}, which has no {', '.join(sorted(unknown))}"
        )
    settled: dict[str, object] = {name: getattr(config, name) for name in found.shown}
    if declared is not None:
        if type(declared) is not type(config) or _shape_fields(declared) != _shape_fields(config):
            raise WeightsError(
                f"{path}: its metadata say {describe(declared)}, but its tensors look like "
                f"{describe(config)}"
            )
        settled |= {name: getattr(declared, name) for name in open_fields}
    if wanted is not None and (
        type(wanted) is not type(config) or _shape_fields(wanted) != _shape_fields(config)
    ):
        differences = _differences(wanted, found.tensors)
        raise WeightsError(
            f"{path}: this looks like {describe(config)}; asked for {describe(wanted)} "
            f"({differences or 'other sizes'})"
        )
    wishes = dict(given)
    if wanted is not None:
        wishes = {name: getattr(wanted, name) for name in open_fields} | wishes
    for name, value in wishes.items():
        if name != "stochastic_depth" and name in settled and not _same(settled[name], value):
            raise WeightsError(f"{path} says {name} = {settled[name]}; asked for {value}")
    chosen = cast("dict[str, Any]", wishes | settled)
    try:
        config = replace(config, **chosen)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from error
    return config, tuple(sorted(found.assumed - chosen.keys()))


def _same(a: object, b: object) -> bool:
    """Whether two numbers, or two rows of numbers, are the same but for float32's rounding."""
    if isinstance(a, (tuple, float)) and isinstance(b, (tuple, float, int)):
        x, y = (torch.tensor(value, dtype=torch.float64) for value in (a, b))
        return x.shape == y.shape and torch.allclose(x, y, rtol=1e-6, atol=0)
    return a == b


def _shape_fields(config: NetworkConfig) -> dict[str, object]:
    return {f.name: getattr(config, f.name) for f in fields(config) if f.name not in FREE_FIELDS}


def _differences(config: NetworkConfig, tensors: Mapping[str, Tensor]) -> str:
    """Say how tensors differ from what a config needs; empty where they do not."""
    with torch.device("meta"):
        needed = {name: tuple(tensor.shape) for name, tensor in config.build().state_dict().items()}
    lines = [f"{name} is missing" for name in needed if name not in tensors]
    lines += [f"{name} is not part of it" for name in tensors if name not in needed]
    lines += [
        f"{name} is {tuple(tensors[name].shape)} instead of {shape}"
        for name, shape in needed.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    more = f" and {len(lines) - _SHOWN_DIFFERENCES} more" if len(lines) > _SHOWN_DIFFERENCES else ""
    return "; ".join(lines[:_SHOWN_DIFFERENCES]) + more


def _check_shapes(path: Path, config: NetworkConfig, tensors: Mapping[str, Tensor]) -> None:
    differences = _differences(config, tensors)
    if differences:
        raise WeightsError(f"{path}: this looks like {describe(config)}, but {differences}")


def _check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise WeightsError(
                f"{path}: tensor {name} holds {tensor.dtype}, not floating-point weights"
            )
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise WeightsError(f"{path}: {bad} of {tensor.numel()} values of {name} are not finite")


_LEAST = 0.3
"""Share of the student's numbers that a warm start has to bring."""


def warm_start(student: Network, path: Path) -> str:
    """Copy every tensor of the same name and shape from a file, which may be of another scale.

    Returns:
        A sentence that says how much was taken.

    Raises:
        ValueError: If it holds another kind of network, or hardly anything fits.
    """
    other = read(path)
    theirs, ours = other.state_dict(), student.state_dict()
    fitting = {
        name: value
        for name, value in theirs.items()
        if name in ours and ours[name].shape == value.shape
    }
    taken, whole = (sum(v.numel() for v in some.values()) for some in (fitting, ours))
    if other.config.name != student.config.name or taken < _LEAST * whole:
        raise ValueError(
            f"{path} holds {other.config}, of which {100 * taken // whole} % fits the student "
            f"{student.config}: a warm start needs a network of the same kind and width"
        )
    student.load_state_dict(ours | fitting)
    left = [name for name in ours if name not in fitting]
    rest = (f"; new are {', '.join(left[:4])}{' ...' if len(left) > 4 else ''}") if left else ""
    return f"the student starts with {len(fitting)} of {len(ours)} tensors from {path}{rest}"
