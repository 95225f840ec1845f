"""Files of tensors from anywhere: read without running anything in them, and without trusting their sizes.

The order of the checks is the point: the size of the file, the members of the archive, the globals
its pickle asks for, the sizes it declares (on tensors without storage), and only then torch's safe
loader. There is no other loader to fall back to.
"""

import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.serialization import get_unsafe_globals_in_checkpoint


class WeightsError(ValueError):
    """A file of weights that cannot be used; the message names the file and says why."""


MAX_BYTES = 8 << 30
"""Largest file that is read; the largest network of the field takes a twentieth."""
MAX_TENSORS = 100_000
"""Most tensors in a file."""
MAX_RANK = 8
"""Most dimensions of a tensor."""

WRAPPERS = ("params_ema", "params-ema", "params", "state_dict", "model_state_dict", "model")
"""Keys under which a file keeps its weights, the averaged ones first."""
_PREFIXES = ("module.", "_orig_mod.", "model.", "net_g.")
_NOT_WEIGHTS = frozenset({"n_averaged"})  # the counter of torch's AveragedModel
_MEMBER = re.compile(
    r"[^/]*/(data\.pkl|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id|data/\d+)"
)
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")

Kind = Literal["safetensors", "torch"]


@dataclass(frozen=True, kw_only=True)
class TensorFile:
    """What was found in a file, before anybody asks which network it is."""

    kind: Kind
    """How the file is made."""
    tensors: Mapping[str, Tensor]
    """On the CPU, by name without prefixes."""
    wrapper: str | None
    """Key under which they stood, or None."""
    others: tuple[str, ...]
    """Other keys under which weights stand, which were not chosen."""
    prefix: str
    """What was taken off every name."""
    metadata: Mapping[str, str]
    """Strings beside the tensors."""


def load(path: Path) -> TensorFile:
    """Read every tensor of a file that may come from anywhere.

    Args:
        path: ``.safetensors``, or what ``torch.save`` wrote (any other ending).

    Raises:
        WeightsError: If there is no such file, or it is damaged, dangerous, too large, or holds no
            weights.
    """
    try:
        size = path.stat().st_size if path.is_file() else -1
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    if size < 0:
        raise WeightsError(f"{path} is no file; name a .safetensors or .pth file of weights")
    if size > MAX_BYTES:
        raise WeightsError(
            f"{path} has {size} bytes, more than the {MAX_BYTES} that weights may have"
        )
    if path.suffix == ".onnx":
        raise WeightsError(
            f"{path} is an ONNX graph; name the file of weights or the run it was made from"
        )
    try:
        if path.suffix == ".safetensors":
            return _load_safetensors(path)
        return _load_torch(path, size)
    except (WeightsError, MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # hostile bytes raise more than ten classes of exceptions
        raise WeightsError(
            f"{path} is damaged, or no file of weights ({_first_line(error)})"
        ) from error


def _load_safetensors(path: Path) -> TensorFile:
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if len(names) > MAX_TENSORS:
                raise WeightsError(
                    f"{path} holds {len(names)} tensors, more than the {MAX_TENSORS} that weights "
                    "may"
                )
            tensors = {name: cast("Tensor", file.get_tensor(name)) for name in names}
            metadata = dict(file.metadata() or {})
    except SafetensorError as error:
        raise WeightsError(
            f"{path} is damaged, or no safetensors file ({_first_line(error)})"
        ) from error
    if not tensors:
        raise WeightsError(f"{path} holds no tensors")
    names, prefix = _without_prefix(tensors)
    return TensorFile(
        kind="safetensors", tensors=names, wrapper=None, others=(), prefix=prefix, metadata=metadata
    )


def _load_torch(path: Path, size: int) -> TensorFile:
    if zipfile.is_zipfile(path):
        _check_archive(path, size)
        unsafe = get_unsafe_globals_in_checkpoint(path)
        if unsafe:
            raise _refusal(path, sorted(unsafe))
    try:
        with (
            FakeTensorMode()
        ):  # no storage is made: a file that lies about its sizes is found out for free
            declared = torch.load(path, map_location="cpu", weights_only=True)
        _check_sizes(path, _pick(path, declared)[0], size)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        found = _GLOBAL.search(str(error))
        if found:
            raise _refusal(path, [found[1]]) from error
        raise
    tensors, wrapper, others = _pick(path, loaded)
    names, prefix = _without_prefix(tensors)
    strings = loaded.get("dukd")
    metadata = (
        {str(k): v for k, v in strings.items() if isinstance(v, str)}
        if isinstance(strings, dict)
        else {}
    )
    return TensorFile(
        kind="torch",
        tensors=names,
        wrapper=wrapper,
        others=others,
        prefix=prefix,
        metadata=metadata,
    )


def _refusal(path: Path, names: list[str]) -> WeightsError:
    return WeightsError(
        f"{path} is refused: the file asks for {', '.join(names)}, and loading it would run code. "
        "Save its state dict alone, where you trust it, and read that"
    )


def _check_archive(path: Path, size: int) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if len(members) > MAX_TENSORS:
        raise WeightsError(
            f"{path} holds {len(members)} members, more than the {MAX_TENSORS} that weights may"
        )
    if any(name.endswith(("constants.pkl", ".py")) for name in (m.filename for m in members)):
        raise WeightsError(f"{path} is a TorchScript program, not a file of weights")
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > size:
            raise WeightsError(
                f"{path} is refused: its member {member.filename!r} is compressed, torch stores "
                "them plain"
            )
        if not _MEMBER.fullmatch(member.filename):
            raise WeightsError(
                f"{path} is refused: its member {member.filename!r} is none that torch writes"
            )


def _check_sizes(path: Path, tensors: Mapping[str, Tensor], size: int) -> None:
    if len(tensors) > MAX_TENSORS:
        raise WeightsError(
            f"{path} holds {len(tensors)} tensors, more than the {MAX_TENSORS} that weights may"
        )
    for name, tensor in tensors.items():
        if tensor.dim() > MAX_RANK or tensor.layout != torch.strided:
            raise WeightsError(
                f"{path} is refused: tensor {name!r} is none of weights ({tensor.layout}, "
                f"{tensor.dim()}d)"
            )
        needed = math.prod(tensor.shape) * tensor.element_size()
        if max(needed, tensor.untyped_storage().nbytes()) > size:
            raise WeightsError(
                f"{path} is refused: tensor {name!r} declares {tuple(tensor.shape)}, {needed} "
                f"bytes, but the whole file has {size}"
            )


def _is_state_dict(value: object) -> bool:
    return isinstance(value, Mapping) and any(
        isinstance(v, Tensor) for v in cast("Mapping[object, object]", value).values()
    )


def _pick(path: Path, loaded: object) -> tuple[dict[str, Tensor], str | None, tuple[str, ...]]:
    """Choose the weights among what a file holds."""
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"{path} holds a {type(loaded).__name__}, not weights by name")
    content = cast("Mapping[object, object]", loaded)
    present = [key for key in WRAPPERS if _is_state_dict(content.get(key))]
    wrapper = present[0] if present else None
    chosen = cast("Mapping[object, object]", content[wrapper]) if wrapper else content
    tensors = {str(name): value for name, value in chosen.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(
            f"{path} holds no weights; its keys are {_some([repr(k) for k in content])}"
        )
    return tensors, wrapper, tuple(present[1:])


def _without_prefix(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Take off what training wrappers put before every name, in whatever order they were nested."""
    kept = {name: tensor for name, tensor in tensors.items() if name not in _NOT_WEIGHTS}
    taken = ""
    while prefix := next(_common(kept), None):
        kept = {name.removeprefix(prefix): tensor for name, tensor in kept.items()}
        taken += prefix
    return kept, taken


def _common(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    return (
        prefix
        for prefix in _PREFIXES
        if tensors and all(len(n) > len(prefix) and n.startswith(prefix) for n in tensors)
    )


def _some(names: list[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (
        f" and {len(names) - count} more" if len(names) > count else ""
    )


def _first_line(error: Exception) -> str:
    """The error's class and first line; of torch's advice to load without its safe loader, nothing."""
    lines = str(error).split("Weights only load failed.")[0].splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
