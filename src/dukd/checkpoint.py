"""The run directory: checkpoints that survive a kill, a full disk, a power cut and a flipped bit; a log; a lock.

A checkpoint is what ``torch.save`` writes, followed by a footer of 39 bytes: ``SHA256:`` and the digest of all before
it. It is written beside its final name, synced, renamed and read back before an older one is deleted. Neither torch
nor safetensors notices a flipped bit in a tensor; the footer does.

Everything needed to go on is in one file, so there is one instant at which a step counts as saved. It holds tensors,
numbers, strings, None, lists, tuples and dictionaries; nothing else is written, and nothing else is read.
"""

import errno
import hashlib
import io
import json
import math
import os
import re
import shutil
import socket
import sys
import warnings
import zipfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from dukd import files

FORMAT = 1
"""Version of a checkpoint's layout; a file of a later version is refused."""

_MAGIC = b"SHA256:"
_FOOTER = len(_MAGIC) + hashlib.sha256().digest_size
_ZIP = b"PK\x03\x04"
_BLOCK = 1 << 20
_DEPTH = 64
_INT_BITS = 1024  # torch's safe loader does not read integers of more than 255 bytes
_NAME = re.compile(r"(\d{8,})\.pt")


class CheckpointError(ValueError):
    """A checkpoint or a run directory cannot be used as asked; the message says why and what to do."""


class DiskFullError(OSError):
    """A checkpoint does not fit on the disk; the one before it is untouched."""

    def __str__(self) -> str:
        return str(self.strerror)


def save(path: Path, state: Mapping[str, object]) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: The file to write or replace.
        state: Tensors, bool, int, float, str, None, and lists, tuples and dictionaries (keys: str or int) of them.
            Numpy's scalars become Python's; tensors are stored on the CPU, each with its own elements only.

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
        CheckpointError: If the footer is missing or wrong, or if the file holds more than data. No code in it is run.
        OSError: If the file cannot be read.
    """
    path = Path(path)
    content = path.read_bytes()
    body = memoryview(content)[:-_FOOTER]
    footer = content[-_FOOTER:]
    if len(content) <= _FOOTER or not footer.startswith(_MAGIC):
        raise CheckpointError(f"no SHA-256 footer in {path.name}: it was cut short, or is no checkpoint of dukd")
    if hashlib.sha256(body).digest() != footer[len(_MAGIC) :]:
        raise CheckpointError(f"sha256 mismatch in {path.name}")
    _refuse_odd_archives(path, body)
    try:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(body))
        state: object = None if unsafe else torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader answers hostile bytes with more than ten kinds of exceptions
        text = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(f"refused {path.name}: torch's safe loader cannot read it ({text})") from error
    if unsafe:
        raise CheckpointError(f"refused {path.name}: it asks for {', '.join(sorted(unsafe))}; a checkpoint is data")
    if not isinstance(state, dict):
        raise CheckpointError(f"refused {path.name}: it holds {_type(state)} instead of a dictionary")
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

    An exception must not cross torch's C++ writer, which would forget its cause: it is kept, what follows is dropped.
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
            except BaseException as error:  # noqa: BLE001 (an interrupt as well: save raises it again)
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
        raise CheckpointError(f"{at[:80]}…: a checkpoint is at most {_DEPTH} levels deep (does it contain itself?)")
    if isinstance(value, np.generic):
        value = cast("object", value.item())
    if type(value) in {bool, float, str, type(None)}:
        return value
    if type(value) is int:
        if value.bit_length() > _INT_BITS:
            raise CheckpointError(f"{_place(at)}: an integer in a checkpoint has at most {_INT_BITS} bits")
        return value
    if isinstance(value, Tensor):
        return _plain_tensor(value, at)
    if isinstance(value, Mapping):
        return _plain_mapping(cast("Mapping[object, object]", value), at, depth)
    if type(value) is list or type(value) is tuple:
        items = cast("Sequence[object]", value)
        plain = [_plain(item, at=f"{at}[{index}]", depth=depth + 1) for index, item in enumerate(items)]
        return plain if isinstance(value, list) else tuple(plain)
    raise CheckpointError(
        f"{_place(at)} is {_type(value)}; a checkpoint holds tensors, bool, int, float, str, None, "
        "and lists, tuples and dictionaries of them"
    )


def _plain_mapping(entries: Mapping[object, object], at: str, depth: int) -> dict[object, object]:
    for key in entries:
        if type(key) not in {str, int}:
            raise CheckpointError(f"{_place(at)}: the key {key!r} is {_type(key)}; keys are str or int")
    return {key: _plain(entry, at=f"{at}.{key}", depth=depth + 1) for key, entry in entries.items()}


def _plain_tensor(tensor: Tensor, at: str) -> Tensor:
    if type(tensor) not in {Tensor, nn.Parameter} or tensor.layout != torch.strided or tensor.is_quantized:
        raise CheckpointError(f"{_place(at)} is {_type(tensor)} ({tensor.layout}); only dense, plain tensors are kept")
    if tensor.is_meta:
        raise CheckpointError(f"{_place(at)} is a tensor without data (device meta)")
    tensor = tensor.detach()
    stored = tensor.untyped_storage().nbytes()
    if tensor.numel() * tensor.element_size() > stored:
        raise CheckpointError(f"{_place(at)} repeats its elements (shape {tuple(tensor.shape)}, {stored} bytes stored)")
    tensor = tensor.cpu()
    # A view would take the whole storage behind it into the file.
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size() else tensor


def _size(value: object, *, seen: set[int]) -> int:
    """About how many bytes a checkpoint takes; tensors that share their elements count once, as in the file."""
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
        return 1024 + sum(_size(key, seen=seen) + _size(entry, seen=seen) for key, entry in entries.items())
    if isinstance(value, list | tuple):
        return 16 + sum(_size(item, seen=seen) for item in cast("Sequence[object]", value))
    return 16


def _refuse_odd_archives(path: Path, body: memoryview) -> None:
    """Refuse what torch never writes and its reader would unpack: compressed members, or none at all."""
    if bytes(body[: len(_ZIP)]) != _ZIP:
        raise CheckpointError(f"refused {path.name}: its content is not torch's archive")
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise CheckpointError(f"refused {path.name}: its archive is damaged ({error})") from error
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise CheckpointError(f"refused {path.name}: it has compressed members, which a checkpoint never has")
    if sum(member.file_size for member in members) > len(body):
        raise CheckpointError(f"refused {path.name}: its members claim more bytes than the file has")


def _disk_full(path: Path, need: int) -> DiskFullError:
    free = shutil.disk_usage(path.parent).free
    text = f"disk full: need {_bytes(need)}, {_bytes(free)} free on {path.parent}; {path.name} was not written"
    return DiskFullError(errno.ENOSPC, text)


def _bytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"  # noqa: PLR2004 (1 MB)


def _place(at: str) -> str:
    return at.lstrip(".") or "the state"


def _type(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


class Loaded(NamedTuple):
    """What a run goes on from."""

    step: int
    """Optimiser steps done."""
    state: dict[str, object]
    """As it was given to ``Run.save_state``."""
    reports: list[str]
    """One sentence for every newer checkpoint that could not be used."""


class Run:
    """A run directory; ``docs/architecture.md`` lists what is in it. Make one with ``create`` or ``open``."""

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)
        self._damaged: set[int] = set()
        self._known_best: tuple[int | None] | None = None

    @property
    def experiment(self) -> Path:
        """The resolved experiment."""
        return self.directory / "experiment.yaml"

    @property
    def facts(self) -> Path:
        """Versions, command, seed, digests."""
        return self.directory / "run.json"

    @property
    def log_file(self) -> Path:
        """What happened, one JSON object per line."""
        return self.directory / "log.jsonl"

    @property
    def student(self) -> Path:
        """The averaged student of the last save."""
        return self.directory / "student.safetensors"

    @property
    def best_student(self) -> Path:
        """The averaged student of the best validation."""
        return self.directory / "best.safetensors"

    @property
    def _states(self) -> Path:
        return self.directory / "state"

    @classmethod
    def create(cls, directory: Path, *, experiment_yaml: str, facts: Mapping[str, object]) -> "Run":
        """Begin a run in a new or empty directory.

        Raises:
            CheckpointError: If something is in the directory already, or if it cannot be written.
        """
        run = cls(directory)
        try:
            run.directory.mkdir(parents=True, exist_ok=True)
            used = sorted(entry.name for entry in run.directory.iterdir() if entry.name != "lock" and not _stray(entry))
            if used:
                names = ", ".join(used[:3]) + (", …" if len(used) > 3 else "")  # noqa: PLR2004
                raise CheckpointError(
                    f"{run.directory} is used already ({names}): --resume goes on with it, or choose another name"
                )
            files.write_text(run.experiment, experiment_yaml)
            files.write_text(run.facts, json.dumps(_strict(facts), indent=2, ensure_ascii=False) + "\n")
            run._states.mkdir(exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"cannot write to the run directory {run.directory}: {error.strerror}") from error
        return run

    @classmethod
    def open(cls, directory: Path) -> "Run":
        """Open a run that was begun before; nothing is written.

        Raises:
            CheckpointError: If there is none.
        """
        run = cls(directory)
        if not run.experiment.is_file():
            raise CheckpointError(f"{run.directory} holds no run: it has no {run.experiment.name}")
        return run

    @contextmanager
    def lock(self) -> Generator[None, None, None]:
        """Keep other processes from training here, and clear away what a killed one left half written.

        The kernel frees the lock when the process ends, however it ends. Where there is no ``flock`` (Windows, some
        network file systems) the run goes on without a lock, with a warning.

        Raises:
            CheckpointError: If another process holds the lock; the message names it.
        """
        with (self.directory / "lock").open("a+", encoding="utf-8") as file:
            self._acquire(file)
            file.truncate(0)
            since = datetime.now(UTC).astimezone().isoformat(sep=" ", timespec="seconds")
            file.write(f"pid {os.getpid()} on host {socket.gethostname()} since {since}\n")
            file.flush()
            self._clear()
            try:
                yield
            finally:
                file.truncate(0)  # closing the file frees the lock; the file stays, since deleting it would race

    def _acquire(self, file: IO[str]) -> None:
        if sys.platform == "win32":
            warnings.warn(f"{self.directory} is not locked: no flock on this system", RuntimeWarning, stacklevel=4)
            return
        import fcntl  # noqa: PLC0415 (does not exist on Windows)

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(500).strip() or "another process"
            raise CheckpointError(
                f"{self.directory} is in use by {holder}: wait for it, or choose another name"
            ) from None
        except OSError as error:
            text = f"{self.directory} is not locked: {error.strerror}; run one process here"
            warnings.warn(text, RuntimeWarning, stacklevel=4)

    def _clear(self) -> None:
        for folder in (self.directory, self._states):
            for entry in folder.iterdir() if folder.is_dir() else ():
                if _stray(entry):
                    entry.unlink(missing_ok=True)

    def log(self, record: Mapping[str, object]) -> None:
        """Append one line to the log; it reaches the system before this returns, the disk with the next checkpoint.

        A line that a kill left unfinished is cut off first. Numbers that JSON does not know are written as the strings
        ``"inf"``, ``"-inf"`` and ``"nan"``, which ``float`` reads.
        """
        line = json.dumps(_strict(record), ensure_ascii=False, separators=(", ", ": ")).encode() + b"\n"
        with self.log_file.open("a+b") as file:
            end = file.tell()
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":
                    file.truncate(_whole_lines(self.log_file.read_bytes()))
            file.write(line)

    def records(self) -> list[dict[str, object]]:
        """Every line of the log; an unfinished last one is left out.

        Raises:
            CheckpointError: If another line is damaged.
        """
        content = self.log_file.read_bytes() if self.log_file.exists() else b""
        lines = content[: _whole_lines(content)].splitlines()
        return [self._record(number, line) for number, line in enumerate(lines, 1)]

    def _record(self, number: int, line: bytes) -> dict[str, object]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{self.log_file}, line {number}, is damaged ({error}): delete that line") from error
        if not isinstance(record, dict):
            raise CheckpointError(f"{self.log_file}, line {number}, is no JSON object: delete that line")
        return cast("dict[str, object]", record)

    def truncate_log(self, step: int) -> list[dict[str, object]]:
        """Take the lines after ``step`` out of the log, since a resumed run writes them again.

        Returns:
            The lines taken out. On the same machine the steps come out equal to the last bit, so a caller can compare
            their ``total_hex`` with what is logged next.
        """
        kept: list[dict[str, object]] = []
        dropped: list[dict[str, object]] = []
        for record in self.records():
            at = record.get("step")
            (dropped if isinstance(at, int) and at > step else kept).append(record)
        text = "".join(json.dumps(record, ensure_ascii=False, separators=(", ", ": ")) + "\n" for record in kept)
        if self.log_file.exists() and self.log_file.read_bytes() != text.encode():
            files.write_text(self.log_file, text)
        return dropped

    def steps(self) -> list[int]:
        """Steps with a checkpoint, valid or not, oldest first."""
        if not self._states.is_dir():
            return []
        names = (_NAME.fullmatch(entry.name) for entry in self._states.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def state_file(self, step: int) -> Path:
        """Where the checkpoint of ``step`` is."""
        return self._states / f"{step:08d}.pt"

    def save_state(self, step: int, state: Mapping[str, object], *, best: bool = False) -> Path:
        """Write a checkpoint, read it back, and only then delete all but the last two and the best.

        Args:
            step: Optimiser steps done.
            state: Everything needed to go on; see ``save`` for what it may hold.
            best: Whether this is the best so far; it is then kept until a better one is saved.

        Raises:
            CheckpointError: If ``state`` holds something else, or a sound checkpoint of a later step is here.
            OSError: If it cannot be written; older checkpoints are untouched.
        """
        known_best = self._best_step()
        later = [other for other in self.steps() if other > step and other not in self._damaged]
        if step < 0 or later:
            reason = f"{self.state_file(later[-1]).name} is of a later step" if later else "steps count from 0"
            raise CheckpointError(f"cannot save step {step} in {self.directory}: {reason}")
        best_step = step if best else known_best
        path = self.state_file(step)
        if self.log_file.exists():
            files.sync(self.log_file)
        save(path, {"format": FORMAT, "step": step, "best_step": best_step, "state": dict(state)})
        if not verify(path):
            raise OSError(errno.EIO, "the disk did not store what was written", str(path))
        self._known_best = (best_step,)
        self._damaged.discard(step)
        self._prune(best_step)
        return path

    def load_state(self) -> Loaded:
        """Read the newest checkpoint that is sound; nothing is changed on disk.

        Raises:
            CheckpointError: If there is none.
        """
        problems: list[str] = []
        for step in reversed(self.steps()):
            try:
                best, state = self._read(step)
            except (CheckpointError, OSError) as error:
                problems.append(_sentence(error))
                self._damaged.add(step)
            else:
                self._known_best = (best,)
                using = self.state_file(step).name
                return Loaded(step, state, [f"{problem}; using {using}" for problem in problems])
        found = "; ".join(problems) or "nothing was saved yet"
        raise CheckpointError(
            f"{self.directory} has no checkpoint to go on from ({found}): begin another run, or delete it"
        )

    def _read(self, step: int) -> tuple[int | None, dict[str, object]]:
        """The best step as of then, and the state."""
        path = self.state_file(step)
        match load(path):
            case {"format": int(version)} if version > FORMAT:
                raise CheckpointError(f"{path.name} was written by a later version of dukd (format {version})")
            case {"step": int(found)} if found != step:
                raise CheckpointError(f"{path.name} holds step {found}: it was renamed")
            case {"best_step": int() | None as best, "state": dict() as state, "step": int(), "format": int()}:
                return best, cast("dict[str, object]", state)
            case _:
                raise CheckpointError(f"{path.name} is no checkpoint of a run")

    def _best_step(self) -> int | None:
        """The best step as the newest sound checkpoint knows it: there is no second file to disagree with it."""
        if self._known_best is None:
            self._known_best = (None,)
            with suppress(CheckpointError):
                self.load_state()
        return self._known_best[0]

    def _prune(self, best_step: int | None) -> None:
        sound = [step for step in self.steps() if step not in self._damaged]
        keep = {*sound[-2:], best_step}
        for step in self.steps():
            if step not in keep:
                self.state_file(step).unlink(missing_ok=True)
        self._damaged.clear()


def _stray(entry: Path) -> bool:
    """Whether ``files.replacing`` left this behind when its process was killed."""
    return entry.name.startswith(".") and entry.name.endswith(".tmp")


def _sentence(error: CheckpointError | OSError) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot read {Path(os.fsdecode(error.filename)).name}: {error.strerror}"
    return str(error)


def _whole_lines(content: bytes) -> int:
    return content.rfind(b"\n") + 1


def _strict(value: object) -> object:
    """The same value in strict JSON: what is infinite or no number becomes a string."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    if isinstance(value, Mapping):
        return {str(key): _strict(entry) for key, entry in cast("Mapping[object, object]", value).items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in cast("Sequence[object]", value)]
    return value
