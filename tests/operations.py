"""Every operation of a whole run on its disk, one after the other: what a stop at each would leave.

Operations are: making a folder, opening a file to write, the middle of every write, syncing a file
or a folder, renaming, deleting and cutting short. Before each of them a callback is called, which
may look at the disk, fail, or kill the process by an exception that nothing catches.
"""

import hashlib
import os
import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest

from dukd.core import files

_VOLATILE = {"lock"}


class Killed(BaseException):
    """The process is gone; nothing catches this but the harness."""


@dataclass(frozen=True)
class Move:
    """A rename, or a deletion where there is no target, that a power cut may undo."""

    path: Path
    content: bytes
    target: Path | None = None
    before: bytes | None = None
    """What the target held."""


@dataclass
class Operations:
    """Stands between a program and the files below a folder."""

    root: Path
    before: Callable[[int, str], object]
    """Told the number of each operation, from 1, and what it is, before it happens."""
    count: int = 0
    dead: bool = False
    paused: bool = False
    """Whether what happens now is another program's."""
    files: "list[_File]" = field(default_factory=list)
    """Files that were written, with how much of each is synced."""
    moves: list[Move] = field(default_factory=list)
    """Renames and deletions in folders that were not synced since."""
    every_thread: bool = False
    """Whether what threads beside the first do is seen too, one after the other."""
    _thread: int = field(default_factory=threading.get_ident)
    _one: threading.RLock = field(default_factory=threading.RLock)

    def happen(self, what: str, path: Path) -> None:
        """Count an operation on a path below the root."""
        ours = self.every_thread or threading.get_ident() == self._thread
        if self.dead or self.paused or not ours or not self.concerns(path):
            return
        with self._one:
            self.count += 1
            try:
                self.before(self.count, f"{what} {kind(path)}")
            except Killed:
                self.dead = True
                raise

    def concerns(self, path: Path) -> bool:
        """Whether a path is below the root, and no lock."""
        return path.name not in _VOLATILE and self.root in path.absolute().parents

    def write(self, file: "_File", content: bytes) -> int:
        """Write the first half, let a stop happen, write the rest."""
        if self.dead:  # a process that is gone writes nothing
            return len(content)
        half = len(content) // 2
        file.raw.write(content[:half])
        self.happen("write", file.path)
        file.raw.write(content[half:])
        return len(content)


class _File:
    """A file opened to write, without a buffer of its own."""

    def __init__(self, operations: Operations, path: Path, raw: object) -> None:
        self.operations, self.path, self.raw = operations, path, raw
        self.synced = os.fstat(raw.fileno()).st_size  # what was there is there
        operations.files.append(self)

    def write(self, data: bytes) -> int:
        content = bytes(data)
        del data  # which the frames of an exception would hold on to
        return self.operations.write(self, content)

    def flush(self) -> None: ...

    def truncate(self, size: int | None = None) -> int:
        self.operations.happen("truncate", self.path)
        length = self.raw.truncate(size)
        for file in self.operations.files:
            if file.path == self.path:
                file.synced = min(file.synced, length)
        return length

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.raw.close()

    def __getattr__(self, name: str) -> object:
        return getattr(self.raw, name)


def kind(path: Path) -> str:
    """What a path is, whatever its step and its temporary name."""
    name = path.name
    if name.startswith(".") and name.endswith(".tmp"):
        name = name[1:].rsplit(".", 2)[0]
    stem, dot, ending = name.rpartition(".")
    return f"N{dot}{ending}" if stem.isdigit() else name


@contextmanager
def operations(  # noqa: C901  one small function per operation
    root: Path, before: Callable[[int, str], object], *, every_thread: bool = False
) -> Generator[Operations]:
    """Watch what this thread, or every one, does to the files below ``root``."""
    it = Operations(root, before, every_thread=every_thread)
    plain_open, plain_replace, plain_unlink = Path.open, Path.replace, Path.unlink
    plain_mkdir, plain_fsync, plain_folder = Path.mkdir, os.fsync, files.sync_folder

    def opened(path: Path, mode: str = "r", *args: object, **options: object) -> object:
        if not set(mode) & set("wxa+") or "b" not in mode or not it.concerns(path):
            return plain_open(path, mode, *args, **options)
        it.happen("open", path)
        return _File(it, path, plain_open(path, mode, buffering=0))

    def replaced(path: Path, target: Path) -> Path:
        it.happen("rename", Path(target))
        if it.dead:
            return path
        if it.concerns(path):
            before = Path(target).read_bytes() if Path(target).exists() else None
            it.moves.append(Move(path, path.read_bytes(), Path(target), before))
            for file in it.files:
                file.path = Path(target) if file.path == path else file.path
        return plain_replace(path, target)

    def unlinked(path: Path, missing_ok: bool = False) -> None:
        if path.exists():
            it.happen("delete", path)
        if it.dead:
            return
        if path.is_file() and it.concerns(path):
            it.moves.append(Move(path, path.read_bytes()))
        plain_unlink(path, missing_ok=missing_ok)

    def made(path: Path, *args: object, **options: object) -> None:
        if not path.is_dir():
            it.happen("mkdir", path)
        plain_mkdir(path, *args, **options)

    def synced(handle: int) -> None:
        place = Path(f"/proc/self/fd/{handle}").readlink()
        it.happen("sync", place)
        plain_fsync(handle)
        for file in it.files:  # whoever wrote to it
            if file.path.absolute() == place:
                file.synced = os.fstat(handle).st_size

    def folder_synced(folder: Path) -> None:
        it.happen("sync folder", Path(folder) / "folder")
        plain_folder(folder)
        it.moves = [move for move in it.moves if move.path.parent != Path(folder)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", opened)
        patch.setattr(Path, "replace", replaced)
        patch.setattr(Path, "unlink", unlinked)
        patch.setattr(Path, "mkdir", made)
        patch.setattr(os, "fsync", synced)
        patch.setattr(files, "sync_folder", folder_synced)
        yield it


def cut_power(it: Operations, copy: Path, rng: random.Random) -> None:
    """Lose, in a copy of the disk, what was not synced: files in part, and the last moves.

    A disk writes in its own order, so each is lost or kept by chance.
    """

    def there(path: Path) -> Path:
        return copy / path.absolute().relative_to(it.root)

    for file in it.files:
        path = there(file.path)
        if path.is_file():
            size = path.stat().st_size
            kept = rng.choice((file.synced, rng.randint(min(file.synced, size), size), size))
            os.truncate(path, min(kept, size))
    for move in reversed(it.moves):
        if rng.random() < 0.5:
            if move.target is not None and there(move.target).is_file():
                if move.before is None:
                    there(move.target).unlink()
                else:
                    there(move.target).write_bytes(move.before)
            if there(move.path).parent.is_dir():
                there(move.path).write_bytes(move.content)


@contextmanager
def memory_folder() -> Generator[Path]:
    """A folder of its own in memory, where there is such a place: syncing costs nothing there."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as name:
        yield Path(name)


def content(root: Path) -> str:
    """SHA-256 of all that a reader could see; locks are no reader's, and of half-written files
    only that they are there."""
    whole = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.name.startswith(".") and path.name.endswith(".tmp"):
            whole.update(f"{path.parent.relative_to(root)} {kind(path)}".encode())
        elif path.is_file() and path.name not in _VOLATILE:
            body = path.read_bytes()
            whole.update(f"{path.relative_to(root)} {len(body)} ".encode() + body)
    return whole.hexdigest()


def classes(
    root: Path,
    copies: Path,
    program: Callable[[], object],
    *,
    power_cuts: int = 0,
    every: int = 1,
    every_thread: bool = False,
) -> tuple[int, list[Path]]:
    """Run a program, and keep a copy of the disk for each content that a stop could leave.

    Args:
        root: What the program changes.
        copies: Where the copies go.
        program: What to run.
        power_cuts: How many of them each operation meets, in place of a kill.
        every: Look before each operation, or each second, third ...
        every_thread: Whether what threads beside the first do is seen too.

    Returns:
        The number of operations, and the copies.
    """
    found: dict[str, Path] = {}
    copies.mkdir(parents=True, exist_ok=True)

    def look(number: int, what: str) -> None:
        if number % every:
            return
        name = f"{number:04d} {what}".replace(" ", "-").replace("/", "-")
        for seed in range(power_cuts or 1):
            copy = Path(shutil.copytree(root, copies / f"{name}-{seed}", symlinks=True))
            if power_cuts:
                cut_power(done, copy, random.Random(f"{number} {seed}"))
            digest = content(copy)
            if digest in found:
                shutil.rmtree(copy)
            else:
                found[digest] = copy

    with operations(root, look, every_thread=every_thread) as done:
        program()
    return done.count, list(found.values())
