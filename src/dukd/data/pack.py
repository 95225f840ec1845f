"""Decode images once, into one file that is mapped into memory: cutting a patch then costs a copy.

Reading a patch from a PNG decodes the whole image; from a pack it touches the rows it needs.
The layout::

    0     magic, version, where the index stands, its SHA-256, zeros up to 4096
    4096  images: lr (h, w, 3) uint8, then hr (h * scale, w * scale, 3); each at a multiple of 64
    end   the index, JSON: names, sizes, offsets, SHA-256 of pixels, state of the source files

The pixels of an image are compared with their SHA-256 when they are first touched: what a run
learns from is what was packed.

``dukd.data.packing`` makes it.
"""

import hashlib
import json
import mmap
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, final

import numpy as np
from numpy.typing import NDArray

from dukd.core.files import Progress, is_endless, sha256, silent
from dukd.core.text import shown
from dukd.data.pairs import Pair, Pairs

MAGIC = b"dukdpack"
VERSION = 2  # 2: images that were left out are named
HEADER = struct.Struct("<8sQQQ32s")
"""Magic, version, offset and length of the index, SHA-256 of the index."""
START = 4096
_SHOWN = 20


class PackError(ValueError):
    """A pack that cannot be made or opened, or that is not what it was."""


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """An image file as it was when it was packed."""

    path: str
    """Absolute path."""
    bytes: int
    """Size of the file."""
    mtime_ns: int
    """Time of its last change."""
    sha256: str
    """SHA-256 of its bytes."""

    def holds(self, path: Path) -> bool:
        """Whether a file is still the same."""
        try:
            state = path.stat()
            if state.st_size != self.bytes:
                return False
            return state.st_mtime_ns == self.mtime_ns or sha256(path) == self.sha256
        except OSError:
            return False


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
    hr: SourceFile
    """The high-resolution file."""
    lr: SourceFile | None
    """The low-resolution file; None where it was made from the other."""


@dataclass(frozen=True, kw_only=True)
class Absent:
    """A pair that could not be read, and was left out."""

    name: str
    """Name of the pair."""
    reason: str
    """Why, in a sentence."""
    hr: SourceFile
    """The high-resolution file as it was."""


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
        self.records = tuple(parse_record(entry) for entry in index["images"])
        self.left_out: tuple[str, ...] = tuple(index["left_out"])
        """Why images were left out when it was made, a sentence each."""
        self.assumed: tuple[str, ...] = tuple(index.get("assumed", ()))
        """What had to be assumed of images when it was made, a sentence each."""
        self._absent = {entry["name"]: SourceFile(**entry["hr"]) for entry in index["absent"]}
        self._vouched = bytearray(len(self.records))
        self._pixels: NDArray[np.uint8] = np.frombuffer(content, np.uint8)

    @staticmethod
    def open(path: Path | str) -> "Pack":
        """Open a pack in milliseconds; header and index are checked, pixels at first touch.

        Raises:
            PackError: If the file is missing, is not a pack, is of another version, or was cut or
                changed.
        """
        path = Path(path)
        try:
            if is_endless(path):
                raise PackError(f"{shown(path)} is a pipe or a device, a pack is one file")
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
        """The low-resolution image ``i``: a read-only view ``(h, w, 3)``, nothing is copied.

        Raises:
            PackError: If its pixels are not what was packed.
        """
        record = self._vouch(i)
        return self._view(record.offset, record.height, record.width)

    def hr(self, i: int) -> NDArray[np.uint8]:
        """The high-resolution image ``i``: a read-only view ``(h * scale, w * scale, 3)``.

        Raises:
            PackError: If its pixels are not what was packed.
        """
        record = self._vouch(i)
        offset = record.offset + record.height * record.width * 3
        return self._view(offset, record.height * self.scale, record.width * self.scale)

    def _vouch(self, i: int) -> Record:
        """The record of an image whose pixels are as they were packed."""
        record = self.records[i]
        if not self._vouched[i]:
            if sha256_of(self._pixels, record, self.scale) != record.sha256:
                raise PackError(
                    f"{shown(self.path)} is damaged: {shown(record.name)} has changed since it was "
                    "packed; remove the pack and prepare it again"
                )
            self._vouched[i] = 1
        return record

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
            if sha256_of(self._pixels, record, self.scale) != record.sha256:
                bad.append(record.name)
            else:
                self._vouched[i] = 1
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
        known = {n for n, file in self._absent.items() if n in theirs and file.holds(theirs[n].hr)}
        if new := [name for name in theirs if name not in ours and name not in known]:
            found.append(f"{len(new)} added: {_list(new)}")
        if changed := [
            name
            for name, pair in theirs.items()
            if name in ours and not same_files(ours[name], pair)
        ]:
            found.append(f"{len(changed)} changed: {_list(changed)}")
        if not found and list(ours) != [name for name in theirs if name not in known]:
            found.append("the order differs")
        return found

    def matches(self, pairs: Pairs) -> bool:
        """Whether the pack holds exactly these pairs, as their files are now."""
        return not self.differences(pairs)


def _read_index(file: IO[bytes], path: Path) -> dict[str, Any]:
    start = file.read(HEADER.size)
    if not start.startswith(MAGIC):
        raise PackError(f"{shown(path)} is not a pack")
    damaged = PackError(f"{shown(path)} is damaged: remove it and prepare it again")
    if len(start) < HEADER.size:
        raise damaged
    _, version, offset, length, digest = HEADER.unpack(start)
    if version != VERSION:
        raise PackError(
            f"{shown(path)} is a pack of version {version}, this program reads version "
            f"{VERSION}: prepare it again"
        )
    if file.seek(0, os.SEEK_END) != offset + length:
        raise damaged
    file.seek(offset)
    content = file.read(length)
    if hashlib.sha256(content).digest() != digest:
        raise damaged
    index: dict[str, Any] = json.loads(content)
    return index


def digest_of(scale: int, records: Sequence[Record]) -> str:
    """SHA-256 over scale, names, sizes and pixels."""
    content = [
        scale,
        [[record.name, record.height, record.width, record.sha256] for record in records],
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def parse_record(entry: Mapping[str, Any]) -> Record:
    """An image's record from JSON.

    Raises:
        TypeError: If keys are missing or unknown; KeyError likewise.
    """
    numbers: dict[str, Any] = {
        **entry,
        "hr": SourceFile(**entry["hr"]),
        "lr": None if entry["lr"] is None else SourceFile(**entry["lr"]),
    }
    return Record(**numbers)


def same_files(record: Record, pair: Pair) -> bool:
    """Whether a pair is what was packed."""
    if (record.height, record.width) != (pair.height, pair.width) or (record.lr is None) != (
        pair.lr is None
    ):
        return False
    files = [(record.hr, pair.hr)] + ([(record.lr, pair.lr)] if record.lr and pair.lr else [])
    return all(file.holds(path) for file, path in files)


def sha256_of(pixels: NDArray[np.uint8], record: Record, scale: int) -> str:
    """SHA-256 of an image's pixels, lr before hr, in the bytes of a whole pack."""
    length = record.height * record.width * 3 * (1 + scale**2)
    return hashlib.sha256(pixels[record.offset : record.offset + length].data).hexdigest()


def map_file(path: Path) -> mmap.mmap:
    """A file's bytes, read-only."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _list(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(shown(name) for name in names[:_SHOWN]) + (
        f" and {more} more" if more > 0 else ""
    )
