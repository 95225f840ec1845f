"""Files of tensors from anywhere: read without running anything, and without trusting sizes.

The order of the checks is the point: the size of the file, the members of the archive, the globals
its pickle needs, the sizes it declares (on tensors without storage), and only then torch's safe
loader. There is no other loader to fall back to.
"""

import math
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint

from dukd.networks.files import ncnn


class WeightsError(ValueError):
    """A file of weights that cannot be used; the message names the file and says why."""


MAX_BYTES = 8 << 30
"""Largest file that is read; the largest network of the field takes a twentieth."""
MAX_TENSORS = 100_000
"""Most tensors in a file."""
MAX_RANK = 8
"""Most dimensions of a tensor."""
_DEEPEST = 12
"""Containers in containers in which tensors are looked for."""

_MEMBER = re.compile(
    r"[^/]*/(data\.pkl|version|byteorder|\.format_version|\.storage_alignment"
    r"|\.data/serialization_id|data/\d+)"
)
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")

Form = Literal["safetensors", "torch", "ncnn"]


@dataclass(frozen=True, kw_only=True)
class TensorFile:
    """What was found in a file, before it is known which network it is."""

    form: Form
    """How the file is made."""
    content: Mapping[object, object]
    """Tensors by name on the CPU, or what a checkpoint holds beside them."""
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
        raise WeightsError(f"{path} is not a file; name a .safetensors or .pth file of weights")
    if size > MAX_BYTES:
        raise WeightsError(
            f"{path} has {size} bytes, more than the {MAX_BYTES} that weights may have"
        )
    if path.suffix == ".onnx":
        raise WeightsError(
            f"{path} is an ONNX graph; name the file of weights or the run it was made from"
        )
    try:
        if path.suffix == ".param" or ncnn.partner(path) is not None:
            content = cast("Mapping[object, object]", ncnn.read(path))
            return TensorFile(form="ncnn", content=content, metadata={})
        if path.suffix == ".safetensors":
            return _load_safetensors(path)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # torch's, of files that are refused or read all the same
            return _load_torch(path, size)
    except WeightsError:
        raise
    except MemoryError as error:
        raise WeightsError(f"{path} asks for more memory than there is") from error
    except Exception as error:  # hostile bytes raise more than ten classes of exceptions
        what = _known(path) or f"is damaged, or no file of weights ({_first_line(error)})"
        raise WeightsError(f"{path} {what}") from error


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
        what = _known(path) or f"is damaged, or no safetensors file ({_first_line(error)})"
        raise WeightsError(f"{path} {what}") from error
    if not tensors:
        raise WeightsError(f"{path} holds no tensors")
    _check_sizes(path, tensors, path.stat().st_size)
    content = cast("Mapping[object, object]", tensors)
    return TensorFile(form="safetensors", content=content, metadata=metadata)


def _load_torch(path: Path, size: int) -> TensorFile:
    with torch.serialization.safe_globals(_INERT):
        loaded = _loaded_safely(path, size)
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"{path} holds a {type(loaded).__name__}, not weights by name")
    content = cast("Mapping[object, object]", loaded)
    strings = content.get("dukd")
    pairs = cast("Mapping[object, object]", strings) if isinstance(strings, Mapping) else {}
    metadata = {str(k): v for k, v in pairs.items() if isinstance(v, str)}
    return TensorFile(form="torch", content=content, metadata=metadata)


def _loaded_safely(path: Path, size: int) -> object:
    if zipfile.is_zipfile(path):
        _check_archive(path, size)
        unsafe = get_unsafe_globals_in_checkpoint(path)
        if unsafe:
            raise _refusal(path, sorted(unsafe))
    try:
        _check_sizes(path, dict(_tensors_in(_declared(path), _DEEPEST)), size)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        found = _GLOBAL.search(str(error))
        if found:
            raise _refusal(path, [found[1]]) from error
        raise


def _declared(path: Path) -> object:
    """What a file says that it holds; no storage is made, so that lies are found out for free."""
    if zipfile.is_zipfile(path):
        return torch.load(path, map_location="meta", weights_only=True)
    # Of files from before 2020 torch makes the storages first; only this mode, whose import takes
    # longer than everything else, keeps it from that.
    from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: PLC0415

    with FakeTensorMode():
        return torch.load(path, map_location="cpu", weights_only=True)


class _Inert:
    """Stands for what trainers keep beside weights, such as a score; nothing of it is run."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


_INERT: list[Callable[..., object] | tuple[Callable[..., object], str]] = [
    (_Inert, name)
    for name in (
        *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype"),
        *("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
        *("numpy.ndarray", "argparse.Namespace", "pathlib.PosixPath", "pathlib.WindowsPath"),
        *("pathlib.PurePosixPath", "datetime.datetime", "datetime.timedelta"),
        *(
            f"numpy.dtypes.{dtype}DType"
            for dtype in ("Float64", "Float32", "Int64", "Int32", "Bool")
        ),
    )
]
"""Names in a checkpoint that are read as nothing."""


def _tensors_in(value: object, depth: int, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested containers, with where it stands."""
    if isinstance(value, Tensor):
        yield name, value
        return
    if depth == 0:
        return
    inner: Iterable[tuple[object, object]] = ()
    if isinstance(value, Mapping):
        inner = cast("Mapping[object, object]", value).items()
    elif isinstance(value, list | tuple):
        inner = enumerate(cast("Sequence[object]", value))
    for key, one in inner:
        yield from _tensors_in(one, depth - 1, f"{name}.{key}" if name else str(key))


def _refusal(path: Path, names: list[str]) -> WeightsError:
    return WeightsError(
        f"{path} is refused: the file needs {', '.join(names)}, and loading it would run code. "
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


def _known(path: Path) -> str:
    """What a download gave in place of weights, and what to do; empty for anything else."""
    with suppress(OSError), path.open("rb") as file:
        start = file.read(200).lstrip().lower()
        if start.startswith((b"<!doctype html", b"<html", b"<?xml")):
            return "is a web page: what was downloaded is not the file, but a page about it"
        if start.startswith(b"version https://git-lfs"):
            return "is a pointer of Git LFS: get the file itself with git lfs pull"
        if not start:
            return "is empty: get it again"
    return ""


def _first_line(error: Exception) -> str:
    """The error's class and first line, without torch's advice to load without its safe loader."""
    lines = str(error).split("Weights only load failed.")[0].splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
