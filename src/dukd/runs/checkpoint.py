"""Checkpoints that survive a kill, a full disk, a power cut and a flipped bit.

A checkpoint is what ``torch.save`` writes, followed by a footer of 39 bytes: ``SHA256:`` and the
digest of all before it. It is written beside its final name, synced, renamed and read back before
an older one is deleted. Neither torch nor safetensors notices a flipped bit in a tensor; the footer
does.

Everything needed to go on is in one file, so there is one instant at which a step counts as saved.
It holds tensors, numbers, strings, None, lists, tuples and dictionaries; nothing else is written,
and nothing else is read.
"""

import errno
import hashlib
import io
import os
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, cast

import numpy as np
import torch
from torch import Tensor, nn

from dukd.core import files

_MAGIC = b"SHA256:"
_FOOTER = len(_MAGIC) + hashlib.sha256().digest_size
_ZIP = b"PK\x03\x04"
_BLOCK = 1 << 20
_DEPTH = 64
_INT_BITS = 1024  # torch's safe loader does not read integers of more than 255 bytes


class CheckpointError(ValueError):
    """A checkpoint or a run directory cannot be used so; the message says why and what to do."""


class DiskFullError(OSError):
    """A checkpoint does not fit on the disk; the one before it is untouched."""

    def __str__(self) -> str:
        return str(self.strerror)


def save(path: Path, state: Mapping[str, object]) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: The file to write or replace.
        state: Tensors, bool, int, float, str, None, and lists, tuples and dictionaries (keys: str
            or int) of them. Numpy's scalars become Python's; tensors are stored on the CPU, each
            with its own elements only.

    Raises:
        CheckpointError: If something else is in ``state``; the message names where.
        DiskFullError: If the file does not fit; an old file of this name is untouched.
        OSError: If the folder cannot be written.
    """
    path = Path(path)
    plain = _plain(state, at="")
    path.parent.mkdir(parents=True, exist_ok=True)
    need = _size(plain, seen=set())
    if shutil.disk_usage(path.parent).free < need:
        raise _disk_full(path, need)
    try:
        with files.replacing(path) as file:
            hashed = _Hashed(file)
            torch.save(plain, cast("IO[bytes]", hashed))
            if hashed.failure is not None:
                raise hashed.failure
            file.write(_MAGIC + hashed.digest.digest())
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise _disk_full(path, need) from error
        raise


def load(path: Path) -> dict[str, object]:
    """Read a checkpoint whose bytes are the ones that were written; tensors are on the CPU.

    Raises:
        CheckpointError: If the footer is missing or wrong, or if the file holds more than data. No
            code in it is run.
        OSError: If the file cannot be read.
    """
    path = Path(path)
    content = path.read_bytes()
    body = memoryview(content)[:-_FOOTER]
    footer = content[-_FOOTER:]
    if len(content) <= _FOOTER or not footer.startswith(_MAGIC):
        raise CheckpointError(
            f"no SHA-256 footer in {path.name}: it was cut short, or is not a checkpoint of dukd"
        )
    if hashlib.sha256(body).digest() != footer[len(_MAGIC) :]:
        raise CheckpointError(f"sha256 mismatch in {path.name}")
    _refuse_odd_archives(path, body)
    try:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(body))
        state: object = (
            None
            if unsafe
            else torch.load(io.BytesIO(body), map_location=("cpu"), weights_only=True)
        )
    # torch's reader raises, on hostile bytes, more than ten kinds of exceptions
    except Exception as error:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(
            f"refused {path.name}: torch's safe loader cannot read it ({text})"
        ) from error
    if unsafe:
        raise CheckpointError(
            f"refused {path.name}: it asks for {', '.join(sorted(unsafe))}; a checkpoint is data"
        )
    if not isinstance(state, dict):
        raise CheckpointError(
            f"refused {path.name}: it holds {_type(state)} instead of a dictionary"
        )
    try:
        return cast("dict[str, object]", _plain(cast("object", state), at=""))
    except CheckpointError as error:
        raise CheckpointError(f"refused {path.name}: {error}") from error


def verify(path: Path) -> bool:
    """Whether a checkpoint's bytes are the ones that were written; its content is not looked at."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        left = os.fstat(file.fileno()).st_size - _FOOTER
        while left > 0 and (block := file.read(min(left, _BLOCK))):
            digest.update(block)
            left -= len(block)
        return left == 0 and file.read() == _MAGIC + digest.digest()


class _Hashed:
    """A file that hashes what passes through it.

    An exception must not cross torch's C++ writer, which would forget its cause: it is kept, what
    follows is dropped.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.failure: BaseException | None = None

    def write(self, data: bytes) -> int:
        if self.failure is None:
            try:
                self._file.write(data)
                self.digest.update(data)
            except BaseException as error:  # noqa: BLE001  save raises an interrupt again
                self.failure = error
        return len(data)

    def flush(self) -> None:
        """Leave it to the file: it is flushed and synced before it gets its name."""


def _plain(value: object, *, at: str, depth: int = 0) -> object:
    """The same value in the types a checkpoint may hold.

    Raises:
        CheckpointError: If there is none; the message names the key path.
    """
    if depth > _DEPTH:
        raise CheckpointError(
            f"{at[:80]}…: a checkpoint is at most {_DEPTH} levels deep (does it contain itself?)"
        )
    if isinstance(value, np.generic):
        value = cast("object", value.item())
    if type(value) in {bool, float, str, type(None)}:
        return value
    if type(value) is int:
        if value.bit_length() > _INT_BITS:
            raise CheckpointError(
                f"{_place(at)}: an integer in a checkpoint has at most {_INT_BITS} bits"
            )
        return value
    if isinstance(value, Tensor):
        return _plain_tensor(value, at)
    if isinstance(value, Mapping):
        return _plain_mapping(cast("Mapping[object, object]", value), at, depth)
    if type(value) is list or type(value) is tuple:
        items = cast("Sequence[object]", value)
        plain = [
            _plain(item, at=(f"{at}[{index}]"), depth=depth + 1) for index, item in enumerate(items)
        ]
        return plain if isinstance(value, list) else tuple(plain)
    raise CheckpointError(
        f"{_place(at)} is {_type(value)}; a checkpoint holds tensors, bool, int, float, str, None, "
        "and lists, tuples and dictionaries of them"
    )


def _plain_mapping(entries: Mapping[object, object], at: str, depth: int) -> dict[object, object]:
    for key in entries:
        if type(key) not in {str, int}:
            raise CheckpointError(
                f"{_place(at)}: the key {key!r} is {_type(key)}; keys are str or int"
            )
    return {key: _plain(entry, at=f"{at}.{key}", depth=depth + 1) for key, entry in entries.items()}


def _plain_tensor(tensor: Tensor, at: str) -> Tensor:
    if (
        type(tensor) not in {Tensor, nn.Parameter}
        or tensor.layout != torch.strided
        or tensor.is_quantized
    ):
        raise CheckpointError(
            f"{_place(at)} is {_type(tensor)} ({tensor.layout}); only dense, plain tensors are kept"
        )
    if tensor.is_meta:
        raise CheckpointError(f"{_place(at)} is a tensor without data (device meta)")
    tensor = tensor.detach()
    stored = tensor.untyped_storage().nbytes()
    if tensor.numel() * tensor.element_size() > stored:
        raise CheckpointError(
            f"{_place(at)} repeats its elements (shape {tuple(tensor.shape)}, {stored} bytes "
            "stored)"
        )
    tensor = tensor.cpu()
    # A view would take the whole storage behind it into the file.
    return (
        tensor.clone()
        if tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size()
        else tensor
    )


def _size(value: object, *, seen: set[int]) -> int:
    """About how many bytes a checkpoint takes; tensors that share elements count once."""
    if isinstance(value, Tensor):
        pointer = value.untyped_storage().data_ptr()
        if pointer in seen:
            return 256
        seen.add(pointer)
        return value.untyped_storage().nbytes() + 512
    if isinstance(value, str):
        return len(value.encode(errors="surrogatepass")) + 16
    if isinstance(value, dict):
        entries = cast("dict[object, object]", value)
        return 1024 + sum(
            _size(key, seen=seen) + _size(entry, seen=seen) for key, entry in entries.items()
        )
    if isinstance(value, list | tuple):
        return 16 + sum(_size(item, seen=seen) for item in cast("Sequence[object]", value))
    return 16


def _refuse_odd_archives(path: Path, body: memoryview) -> None:
    """Refuse what torch never writes and its reader would unpack, such as compressed members."""
    if bytes(body[: len(_ZIP)]) != _ZIP:
        raise CheckpointError(f"refused {path.name}: its content is not torch's archive")
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise CheckpointError(f"refused {path.name}: its archive is damaged ({error})") from error
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise CheckpointError(
            f"refused {path.name}: it has compressed members, which a checkpoint never has"
        )
    if sum(member.file_size for member in members) > len(body):
        raise CheckpointError(
            f"refused {path.name}: its members claim more bytes than the file has"
        )


def _disk_full(path: Path, need: int) -> DiskFullError:
    free = shutil.disk_usage(path.parent).free
    text = (
        f"disk full: need {_bytes(need)}, {_bytes(free)} free on {path.parent}; {path.name} was "
        "not written"
    )
    return DiskFullError(errno.ENOSPC, text)


def _bytes(count: int) -> str:
    return (f"{count / 1e6:.0f} MB") if count >= 1e6 else f"{count / 1e3:.0f} kB"


def _place(at: str) -> str:
    return at.lstrip(".") or "the state"


def _type(value: object) -> str:
    kind = type(value)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else (f"{kind.__module__}.{kind.__qualname__}")
    )
