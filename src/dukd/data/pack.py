"""Decode images once, into one file that is mapped into memory: cutting a patch then costs a copy.

Reading a patch from a PNG decodes the whole image; from a pack it touches the rows it needs.
The layout::

    0     magic, version, where the index stands, its SHA-256, zeros up to 4096 4096  images: lr (h,
    w, 3) uint8, then hr (h * scale, w * scale, 3); each begins at a multiple of 64 end   the index:
    JSON with names, sizes, offsets, the SHA-256 of the pixels and the state of the source files

The file grows under the name ``<name>.partial`` beside a journal of finished images; a run that was
killed goes on where it stopped, and the final name appears only when everything is there and has
been read back.
"""

import contextlib
import hashlib
import json
import mmap
import os
import shutil
import struct
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, final

import numpy as np
from numpy.typing import NDArray

from dukd.core import files
from dukd.core.files import Progress, sha256, silent, sync_folder
from dukd.core.text import amount, shown
from dukd.data.pairs import Pair, Pairs, load

_MAGIC = b"dukdpack"
_VERSION = 1
_HEADER = struct.Struct(
    "<8sQQQ32s"
)  # magic, version, index offset, index length, SHA-256 of the index
_START = 4096
_ALIGN = 64
_SPARE = 64 << 20
_SHOWN = 20


class PackError(ValueError):
    """A pack that cannot be made or opened, or that is not what it was."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """An image file as it was when it was packed."""

    path: str
    """Absolute path."""
    bytes: int
    """Size of the file."""
    mtime_ns: int
    """Time of its last change."""
    sha256: str
    """SHA-256 of its bytes."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """An image in a pack."""

    name: str
    """Name of the pair."""
    height: int
    """Rows of the low-resolution image."""
    width: int
    """Columns of the low-resolution image."""
    offset: int
    """Where its pixels begin in the file."""
    sha256: str
    """SHA-256 of the pixels, lr before hr."""
    hr: Source
    """The high-resolution file."""
    lr: Source | None
    """The low-resolution file; None where it was made from the other."""


@final
class Pack:
    """Images in one file, mapped into memory and read-only; open one with ``Pack.open``."""

    def __init__(self, path: Path, content: mmap.mmap, index: Mapping[str, Any]) -> None:
        self.path = path
        self.scale: int = index["scale"]
        self.lr_source: str = index["lr_source"]
        """Where the low-resolution images came from, in words."""
        self.digest: str = index["digest"]
        """SHA-256 over scale, names, sizes and pixels: equal for equal data, wherever it lies."""
        self.records = tuple(_record(entry) for entry in index["images"])
        self._pixels: NDArray[np.uint8] = np.frombuffer(content, np.uint8)

    @staticmethod
    def open(path: Path | str) -> "Pack":
        """Open a pack in milliseconds; header and index are checked, not pixels (``verify``).

        Raises:
            PackError: If the file is missing, is no pack, is of another version, or was cut or
                changed.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                index = _read_index(file, path)
                return Pack(path, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), index)
        except FileNotFoundError:
            raise PackError(f"there is no pack {shown(path)}: make it with prepare") from None
        except IsADirectoryError:
            raise PackError(f"{shown(path)} is a folder, a pack is one file") from None

    def __len__(self) -> int:
        return len(self.records)

    def __reduce__(self) -> tuple[Any, ...]:
        return Pack.open, (self.path,)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the images, in order."""
        return tuple(record.name for record in self.records)

    def lr(self, i: int) -> NDArray[np.uint8]:
        """The low-resolution image ``i``: a read-only view ``(h, w, 3)``, nothing is copied."""
        record = self.records[i]
        return self._view(record.offset, record.height, record.width)

    def hr(self, i: int) -> NDArray[np.uint8]:
        """The high-resolution image ``i``: a read-only view ``(h * scale, w * scale, 3)``."""
        record = self.records[i]
        offset = record.offset + record.height * record.width * 3
        return self._view(offset, record.height * self.scale, record.width * self.scale)

    def _view(self, offset: int, h: int, w: int) -> NDArray[np.uint8]:
        return self._pixels[offset : offset + h * w * 3].reshape(h, w, 3)

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The whole file as bytes, read-only; the records' offsets point into it."""
        return self._pixels

    def verify(self, progress: Progress = silent) -> None:
        """Read every pixel and compare with the digests written when the pack was made.

        Raises:
            PackError: If any image differs; it names them.
        """
        bad: list[str] = []
        for i, record in enumerate(self.records):
            if _hash(self._pixels, record, self.scale) != record.sha256:
                bad.append(record.name)
            progress(i + 1, len(self), record.name)
        if bad:
            raise PackError(
                f"{shown(self.path)} is damaged, {len(bad)} of {len(self)} images have changed: "
                f"{_list(bad)}; remove it and prepare it again"
            )

    def differences(self, pairs: Pairs) -> list[str]:
        """What has changed since the pack was made; empty where it still holds exactly these pairs.

        A file of the same size and time counts as the same; where only the time differs its bytes
        are compared.
        """
        found: list[str] = []
        if self.scale != pairs.scale:
            found.append(f"the pack is for scale {self.scale}, the pairs are for {pairs.scale}")
        ours, theirs = {r.name: r for r in self.records}, {p.name: p for p in pairs}
        if gone := [name for name in ours if name not in theirs]:
            found.append(f"{len(gone)} removed: {_list(gone)}")
        if new := [name for name in theirs if name not in ours]:
            found.append(f"{len(new)} added: {_list(new)}")
        if changed := [
            name for name, pair in theirs.items() if name in ours and not _same(ours[name], pair)
        ]:
            found.append(f"{len(changed)} changed: {_list(changed)}")
        if not found and list(ours) != list(theirs):
            found.append("the order differs")
        return found

    def matches(self, pairs: Pairs) -> bool:
        """Whether the pack holds exactly these pairs, as their files are now."""
        return not self.differences(pairs)


def plan(pairs: Pairs) -> int:
    """Bytes that a pack of ``pairs`` will take, but for an index of about 700 bytes per image."""
    return _offsets(pairs)[-1] + _bytes(pairs[-1]) if len(pairs) else _START


def prepare(
    pairs: Pairs, path: Path | str, *, progress: Progress = silent, workers: int | None = None
) -> Pack:
    """Decode ``pairs`` into a pack at ``path``, or open the one there if it holds exactly these.

    A run that was killed is continued. Memory stays at a few images per worker, whatever the size
    of the set.

    Args:
        pairs: What to pack.
        path: The file to make; a pack of other images there is replaced at the end, any other file
            is refused.
        progress: Called after each image, with its name.
        workers: Threads that decode; as many as there are processors, at most 8, if None.

    Raises:
        PackError: If there is too little room, another process is making this pack, there is
            nothing to pack, or ``path`` is something else than a pack.
        PairsError: If a file is not what its header said.
        ImageError: If an image cannot be decoded. What was finished is kept.
    """
    path = Path(path)
    if not len(pairs):
        raise PackError("there are no pairs to pack")
    if workers is not None and workers < 1:
        raise PackError(f"at least one worker decodes, but got {workers}")
    if (ready := _existing(path, pairs)) is not None:
        return ready
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, journal = (
        path.with_name(f"{path.name}.partial"),
        path.with_name(f"{path.name}.journal"),
    )
    with _locked(journal, path) as log:
        if (ready := _existing(path, pairs)) is None:
            _check_room(pairs, path, partial)
            records = _fill(pairs, partial, log, progress, workers or min(8, os.cpu_count() or 1))
            _write_index(partial, pairs, records)
            try:
                Pack.open(partial).verify()
            except PackError:
                partial.unlink()
                raise
            partial.replace(path)
            sync_folder(path.parent)
        journal.unlink()
    return ready or Pack.open(path)


def _existing(path: Path, pairs: Pairs) -> Pack | None:
    """The pack at ``path``, if it holds these pairs; another file there is not replaced."""
    if not path.exists():
        return None
    if path.is_dir() or not _is_pack(path):
        raise PackError(f"{shown(path)} exists and is no pack: choose another name")
    with contextlib.suppress(PackError):  # a damaged one is made anew
        pack = Pack.open(path)
        return pack if pack.matches(pairs) else None
    return None


def _is_pack(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


@contextlib.contextmanager
def _locked(journal: Path, path: Path) -> Generator[IO[bytes], None, None]:
    """Open the journal for this process alone."""
    with journal.open("a+b") as log, contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.lock(log, wait=False))
        except BlockingIOError:
            raise PackError(f"another process is preparing {shown(path)}: wait for it") from None
        yield log


def _check_room(pairs: Pairs, path: Path, partial: Path) -> None:
    there = partial.stat().st_size if partial.exists() else 0
    needed = plan(pairs) + 1024 * len(pairs) + _SPARE - there
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise PackError(
            f"a pack of {len(pairs)} images needs {amount(needed)} more in "
            f"{shown(path.parent)}, but {amount(free)} are free"
        )


def _fill(
    pairs: Pairs, partial: Path, log: IO[bytes], progress: Progress, workers: int
) -> list[Record]:
    """Write the pixels of every image that the journal does not have yet, and a line for each."""
    finished = _resume(pairs, partial, log)
    offsets = _offsets(pairs)
    records: list[Record] = []
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(partial.open("r+b" if partial.exists() else "w+b"))
        ready = stack.enter_context(contextlib.closing(_in_order(pairs, finished, workers)))
        for pair, offset, made in ready:
            if isinstance(made, Record):
                record = made
            else:
                pixels, hr, lr = made
                file.seek(offset)
                digest = hashlib.sha256()
                for part in pixels:
                    file.write(part.data)
                    digest.update(part.data)
                file.flush()
                record = Record(
                    name=pair.name,
                    height=pair.height,
                    width=pair.width,
                    offset=offset,
                    sha256=digest.hexdigest(),
                    hr=hr,
                    lr=lr,
                )
                log.write(json.dumps(asdict(record)).encode() + b"\n")
                log.flush()
            records.append(record)
            progress(len(records), len(pairs), pair.name)
        file.truncate(offsets[-1] + _bytes(pairs[-1]))
        os.fsync(file.fileno())
    return records


_Decoded = tuple[tuple[NDArray[np.uint8], NDArray[np.uint8]], Source, Source | None]


def _in_order(
    pairs: Pairs, finished: Mapping[str, Record], workers: int
) -> Generator[tuple[Pair, int, Record | _Decoded], None, None]:
    """Decode in several threads, a few images ahead; deliver in the order of the pairs."""
    waiting: deque[tuple[Pair, int, Record | Future[_Decoded]]] = deque()
    with ThreadPoolExecutor(workers, "decode") as pool:
        try:
            for pair, offset in zip(pairs, _offsets(pairs), strict=True):
                waiting.append(
                    (pair, offset, finished.get(pair.name) or pool.submit(_decode, pair))
                )
                if len(waiting) > workers:
                    yield _delivered(*waiting.popleft())
            while waiting:
                yield _delivered(*waiting.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _delivered(
    pair: Pair, offset: int, made: Record | Future[_Decoded]
) -> tuple[Pair, int, Record | _Decoded]:
    return pair, offset, made if isinstance(made, Record) else made.result()


def _decode(pair: Pair) -> _Decoded:
    # The state is taken first: a file that changes while it is read will be found stale afterwards.
    hr, lr = _source(pair.hr), None if pair.lr is None else _source(pair.lr)
    return load(pair), hr, lr


def _source(path: Path) -> Source:
    path = path.absolute()
    state = path.stat()
    return Source(
        path=str(path), bytes=state.st_size, mtime_ns=state.st_mtime_ns, sha256=sha256(path)
    )


def _resume(pairs: Pairs, partial: Path, log: IO[bytes]) -> dict[str, Record]:
    """Read which images are finished, and check their pixels; anything doubtful is done again."""
    log.seek(0)
    kept: dict[str, Record] = {}
    if partial.exists() and partial.stat().st_size:
        offsets = {
            pair.name: (pair, offset) for pair, offset in zip(pairs, _offsets(pairs), strict=True)
        }
        pixels = np.frombuffer(_map(partial), np.uint8)
        for line in log.read().splitlines():
            try:
                record = _record(json.loads(line))
            except (
                ValueError,
                TypeError,
                KeyError,
            ):  # the line that was being written when the run was killed
                continue
            pair, offset = offsets.get(record.name, (None, -1))
            intact = offset == record.offset and pair is not None and _same(record, pair)
            if intact and _hash(pixels, record, pairs.scale) == record.sha256:
                kept[record.name] = record
    log.seek(0)
    log.truncate()
    log.writelines(json.dumps(asdict(record)).encode() + b"\n" for record in kept.values())
    log.flush()
    return kept


def _write_index(partial: Path, pairs: Pairs, records: Sequence[Record]) -> None:
    """Append the index, then write the header that points to it."""
    with partial.open("r+b") as file:
        index = json.dumps(
            {
                "scale": pairs.scale,
                "lr_source": pairs.lr_source,
                "digest": _digest(pairs.scale, records),
                "images": [asdict(record) for record in records],
            }
        ).encode()
        offset = file.seek(0, os.SEEK_END)
        file.write(index)
        file.seek(0)
        file.write(
            _HEADER.pack(_MAGIC, _VERSION, offset, len(index), hashlib.sha256(index).digest())
        )
        file.flush()
        os.fsync(file.fileno())


def _read_index(file: IO[bytes], path: Path) -> dict[str, Any]:
    start = file.read(_HEADER.size)
    if not start.startswith(_MAGIC):
        raise PackError(f"{shown(path)} is no pack")
    damaged = PackError(f"{shown(path)} is damaged: remove it and prepare it again")
    if len(start) < _HEADER.size:
        raise damaged
    _, version, offset, length, digest = _HEADER.unpack(start)
    if version != _VERSION:
        raise PackError(
            f"{shown(path)} is a pack of version {version}, this program reads version "
            f"{_VERSION}: prepare it again"
        )
    if file.seek(0, os.SEEK_END) != offset + length:
        raise damaged
    file.seek(offset)
    content = file.read(length)
    if hashlib.sha256(content).digest() != digest:
        raise damaged
    index: dict[str, Any] = json.loads(content)
    return index


def _digest(scale: int, records: Sequence[Record]) -> str:
    content = [
        scale,
        [[record.name, record.height, record.width, record.sha256] for record in records],
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _record(entry: Mapping[str, Any]) -> Record:
    numbers: dict[str, Any] = {
        **entry,
        "hr": Source(**entry["hr"]),
        "lr": None if entry["lr"] is None else Source(**entry["lr"]),
    }
    return Record(**numbers)


def _same(record: Record, pair: Pair) -> bool:
    """Whether a pair is what was packed."""
    if (record.height, record.width) != (pair.height, pair.width) or (record.lr is None) != (
        pair.lr is None
    ):
        return False
    files = [(record.hr, pair.hr)] + ([(record.lr, pair.lr)] if record.lr and pair.lr else [])
    return all(_unchanged(source, path) for source, path in files)


def _unchanged(source: Source, path: Path) -> bool:
    try:
        state = path.stat()
        if state.st_size != source.bytes:
            return False
        return state.st_mtime_ns == source.mtime_ns or sha256(path) == source.sha256
    except OSError:
        return False


def _offsets(pairs: Pairs) -> list[int]:
    offsets: list[int] = []
    offset = _START
    for pair in pairs:
        offsets.append(offset)
        offset = _aligned(offset + _bytes(pair))
    return offsets


def _bytes(pair: Pair) -> int:
    return pair.height * pair.width * 3 * (1 + pair.scale**2)


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGN) * _ALIGN


def _hash(pixels: NDArray[np.uint8], record: Record, scale: int) -> str:
    length = record.height * record.width * 3 * (1 + scale**2)
    return hashlib.sha256(pixels[record.offset : record.offset + length].data).hexdigest()


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _list(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(shown(name) for name in names[:_SHOWN]) + (
        f" and {more} more" if more > 0 else ""
    )
