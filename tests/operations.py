"""Every operation of a whole run on its disk, one after the other: what a stop at each would leave.

Operations are: making a folder, opening a file to write, the middle of every write, syncing a file
or a folder, renaming, deleting and cutting short. Before each of them a callback is called, which
may look at the disk, fail, or kill the process by an exception that nothing catches.
"""

import hashlib
import os
import shutil
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
    _thread: int = field(default_factory=threading.get_ident)

    def happen(self, what: str, path: Path) -> None:
        """Count an operation on a path below the root."""
        if self.dead or self.paused or threading.get_ident() != self._thread:
            return
        if not self.concerns(path):
            return
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

    def write(self, data: bytes) -> int:
        content = bytes(data)
        del data  # which the frames of an exception would hold on to
        return self.operations.write(self, content)

    def flush(self) -> None: ...

    def truncate(self, size: int | None = None) -> int:
        self.operations.happen("truncate", self.path)
        return self.raw.truncate(size)

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
    root: Path, before: Callable[[int, str], object]
) -> Generator[Operations]:
    """Watch what this thread does to the files below ``root``."""
    it = Operations(root, before)
    plain_open, plain_replace, plain_unlink = Path.open, Path.replace, Path.unlink
    plain_mkdir, plain_fsync, plain_folder = Path.mkdir, os.fsync, files.sync_folder

    def opened(path: Path, mode: str = "r", *args: object, **options: object) -> object:
        if not set(mode) & set("wxa+") or "b" not in mode or not it.concerns(path):
            return plain_open(path, mode, *args, **options)
        it.happen("open", path)
        return _File(it, path, plain_open(path, mode, buffering=0))

    def replaced(path: Path, target: Path) -> Path:
        it.happen("rename", Path(target))
        return path if it.dead else plain_replace(path, target)

    def unlinked(path: Path, missing_ok: bool = False) -> None:
        if path.exists():
            it.happen("delete", path)
        if not it.dead:
            plain_unlink(path, missing_ok=missing_ok)

    def made(path: Path, *args: object, **options: object) -> None:
        if not path.is_dir():
            it.happen("mkdir", path)
        plain_mkdir(path, *args, **options)

    def synced(handle: int) -> None:
        it.happen("sync", Path(f"/proc/self/fd/{handle}").readlink())
        plain_fsync(handle)

    def folder_synced(folder: Path) -> None:
        it.happen("sync folder", Path(folder) / "folder")
        plain_folder(folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", opened)
        patch.setattr(Path, "replace", replaced)
        patch.setattr(Path, "unlink", unlinked)
        patch.setattr(Path, "mkdir", made)
        patch.setattr(os, "fsync", synced)
        patch.setattr(files, "sync_folder", folder_synced)
        yield it


def content(root: Path) -> str:
    """SHA-256 of all that a reader could see; half-written files and locks are no reader's."""
    whole = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        stray = path.name.startswith(".") and path.name.endswith(".tmp")
        if path.is_file() and not stray and path.name not in _VOLATILE:
            body = path.read_bytes()
            whole.update(f"{path.relative_to(root)} {len(body)} ".encode() + body)
    return whole.hexdigest()


def classes(root: Path, copies: Path, program: Callable[[], object]) -> tuple[int, list[Path]]:
    """Run a program, and keep a copy of the disk for each content that a kill could leave.

    Returns:
        The number of operations, and the copies.
    """
    found: dict[str, Path] = {}

    def look(number: int, what: str) -> None:
        digest = content(root)
        if digest not in found:
            name = f"{number:04d} {what}".replace(" ", "-").replace("/", "-")
            found[digest] = Path(shutil.copytree(root, copies / name))

    with operations(root, look) as done:
        program()
    return done.count, list(found.values())
