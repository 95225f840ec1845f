"""A file of records of one size, one per micro-batch, that survives kills and power cuts.

After a header, a record is CRC-32, its number, fingerprints of the images shown, and what the
teacher made of them. It counts when its sum is right, so one that was left half written is simply
made again, and so is one in which a bit flipped. Several processes may read and write a file.
"""

import hashlib
import json
import mmap
import os
import shutil
import struct
import weakref
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dukd.core import files
from dukd.training.codec import Bits, Codec, Stored

PROJECTIONS = 4
"""Numbers that a fingerprint has."""
REMEDY = "let no batch come again (--data.period 0), or switch the cache off (--teacher-cache off)"
"""What to do where outputs cannot be kept."""

_MAGIC = b"DUKDCACH"
_VERSION = 3
_PREFIX = struct.Struct("<8sII")  # magic, version, length of the JSON that follows
_PAGE = 4096


class CacheError(ValueError):
    """The teacher's outputs cannot be kept or replayed; the message says why and what to do."""


class NoRoomError(CacheError):
    """They take more room than there is, or than is allowed."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the teacher's outputs follow from; runs in which all of it is equal share files."""

    teacher: str
    """SHA-256 of its weights, and how they are read."""
    data: str
    """Digest of the training images."""
    scale: int
    """Upscaling factor."""
    patch: int
    """Side of a training crop of lr."""
    batch: int
    """Patches per batch, over all processes."""
    period: int
    """Number of batches after which the same ones come again."""
    parts: int
    """Number of micro-batches of a batch, over all processes."""
    seed: int
    """Seed of patches and of what methods draw."""
    flips: bool
    """Whether patches are flipped."""
    rotations: bool
    """Whether patches are transposed."""
    by_area: bool
    """Whether large images are drawn more often."""
    precision: str
    """Arithmetic of the teacher."""
    bits: Bits
    """Bits per value of an output."""

    @property
    def records(self) -> int:
        """Number of micro-batches in a period."""
        return self.period * self.parts


@dataclass(frozen=True)
class Shown:
    """A view as the teacher sees it in every micro-batch."""

    name: str
    """The view's."""
    shape: tuple[int, ...]
    """``(n, 3, h, w)``."""
    mark: str
    """SHA-256 of its fingerprints in micro-batch 0, rounded: unlike views never share a file."""
    depths: tuple[float, ...] = ()
    """Where the teacher is read as well."""
    widths: tuple[int, ...] = ()
    """Channels of these features."""


class Records:
    """The teacher's outputs on one period of micro-batches, in a file."""

    def __init__(self, path: Path, source: Source, shown: tuple[Shown, ...]) -> None:
        """Open the file of ``path``; see `Records.open`."""
        self.path, self.source, self.shown = path, source, shown
        self._record = _record(source, shown)
        self._start = len(_header(source, shown))
        self._file = path.open("r+b", buffering=0)
        self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        self._closing = weakref.finalize(self, _close, self._map, self._file)

    @classmethod
    def open(
        cls, folder: Path, source: Source, shown: tuple[Shown, ...], *, limit: float
    ) -> "Records":
        """Open the file of a source and what is shown, or make an empty one.

        Args:
            folder: Where such files lie.
            source: What the outputs follow from.
            shown: What the teacher sees of each micro-batch.
            limit: Most bytes a new file may take.

        Raises:
            NoRoomError: If it would take too much.
            CacheError: If the file is not what its name says.
        """
        header = _header(source, shown)
        path = Path(folder) / f"{hashlib.sha256(header).hexdigest()[:16]}.cache"
        if not path.exists():
            _create(path, header, size(source, shown), source, limit)
        with path.open("rb") as file:
            there = file.read(len(header))
        if there != header or path.stat().st_size != size(source, shown):
            raise CacheError(f"{path} is damaged: delete it, and it is made anew")
        return cls(path, source, shown)

    def read(self, number: int) -> NDArray[np.void] | None:
        """The record of a micro-batch, None if there is none yet.

        Its fields are ``fingerprints``, and of each view ``sr0``, and ``feature0_0`` and
        ``scales0_0`` of its first depth.
        """
        at = self._start + number * self._record.itemsize
        if struct.unpack_from("<I", self._map, at + 4)[0] != number + 1:
            return None
        raw = np.frombuffer(self._map, np.uint8, self._record.itemsize, at).copy()
        record = cast("NDArray[np.void]", raw.view(self._record)[0])
        return record if zlib.crc32(raw[4:].data) == int(record["crc"]) else None

    def write(self, number: int, fingerprints: Tensor, fields: Mapping[str, Stored]) -> None:
        """Keep what the teacher made of a micro-batch, unless another process has done so.

        Raises:
            OSError: If the disk is full.
        """
        record = np.zeros((), self._record)
        record["number"] = number + 1  # so that 0, which a new file is full of, is none
        record["fingerprints"] = fingerprints.cpu().numpy()
        for name, stored in fields.items():
            record[name] = stored
        raw = bytearray(record.tobytes())
        struct.pack_into("<I", raw, 0, zlib.crc32(memoryview(raw)[4:]))
        with files.lock(self._file):
            if self.read(number) is None:
                self._file.seek(self._start + number * self._record.itemsize)
                self._put(raw)

    def _put(self, raw: bytearray) -> None:
        left = memoryview(raw)
        while left:  # a raw file may take less than it was given
            left = left[self._file.write(left) :]

    def missing(self) -> list[int]:
        """Numbers of the micro-batches without a record; reads the whole file."""
        return [k for k in range(self.source.records) if self.read(k) is None]

    def sync(self) -> None:
        """Make what was written so far survive a power cut."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._closing()


def _close(mapped: mmap.mmap, file: IO[bytes]) -> None:
    mapped.close()
    file.close()


def size(source: Source, shown: Sequence[Shown]) -> int:
    """Bytes that the file of a source and what is shown takes."""
    return len(_header(source, shown)) + source.records * _record(source, shown).itemsize


def _record(source: Source, shown: Sequence[Shown]) -> np.dtype[np.void]:
    images, dtype = sum(view.shape[0] for view in shown), Codec(source.bits).dtype
    fields: list[tuple[str, str, tuple[int, ...]]] = [
        ("crc", "<u4", ()),
        ("number", "<u4", ()),
        ("fingerprints", "<f8", (images, PROJECTIONS)),
    ]
    for i, view in enumerate(shown):
        n, c, h, w = view.shape
        fields.append((f"sr{i}", dtype, (n, c, h * source.scale, w * source.scale)))
        for j, width in enumerate(view.widths):
            fields.append((f"feature{i}_{j}", dtype, (n, width, h, w)))
            if source.bits < 32:
                fields.append((f"scales{i}_{j}", "<f4", (n, width, 2)))
    return np.dtype(fields)


def _header(source: Source, shown: Sequence[Shown]) -> bytes:
    described = {"source": asdict(source), "views": [asdict(view) for view in shown]}
    text = json.dumps(described, indent=1, sort_keys=True).encode()
    content = _PREFIX.pack(_MAGIC, _VERSION, len(text)) + text + b"\n"
    return content.ljust(-(-len(content) // _PAGE) * _PAGE, b"\0")


def _create(path: Path, header: bytes, total: int, source: Source, limit: float) -> None:
    per_batch = (total - len(header)) / source.period
    costs = f"the teacher's outputs for {source.period} batches take {total / 1e9:.2f} GB"
    if total > limit:
        fitting = int((limit - len(header)) // per_batch)
        remedy = f"a period of at most {fitting} fits" if fitting > 0 else "not even one batch fits"
        raise NoRoomError(
            f"{costs} ({per_batch / 1e6:.2f} MB each), but the limit is {limit / 1e9:.2f} GB: "
            f"{remedy} (--data.period), or raise --teacher-cache.limit-gb"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if total > free:
        raise NoRoomError(
            f"{costs}, but {free / 1e9:.2f} GB are free in {path.parent}: choose a shorter "
            "--data.period, or another --teacher-cache.folder"
        )
    with (path.parent / "lock").open("ab") as file, files.lock(file):
        if not path.exists():
            with files.replacing(path) as made:
                made.write(header)
                made.truncate(total)
