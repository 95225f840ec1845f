"""Stop a writer at each of its operations on the disk in turn: the method of SQLite's tests.

Operations are: opening a file to write, the middle of every write, syncing a file, renaming,
syncing a folder and deleting. A stop is a kill (nothing after it happens), a full disk (the one
operation fails) or a power cut: a kill after which unsynced bytes are lost in part, and renames and
deletions in a folder that was not synced are undone by chance.
"""

import errno
import itertools
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, Self

import pytest

from dukd.core import files

Stop = Literal["kill", "full disk", "power cut"]


class Killed(BaseException):
    """The process is gone; nothing catches this but the harness."""


class _File:
    def __init__(self, disk: "Disk", path: Path, mode: str) -> None:
        self._disk = disk
        self._raw = _open(path, mode, buffering=0)
        self.path = path
        self.synced = 0

    def write(self, data: bytes) -> int:
        content = bytes(data)
        half = len(content) // 2
        self._raw.write(content[:half])
        self._disk.operation()
        self._raw.write(content[half:])
        return len(content)

    def flush(self) -> None: ...

    def fileno(self) -> int:
        return self._raw.fileno()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()


_open, _replace, _unlink = Path.open, Path.replace, Path.unlink


class Disk:
    """Stands between a writer and the disk, and stops it at one operation."""

    def __init__(self, stop: Stop, at: int, seed: int) -> None:
        self.stop = stop
        self.at = at
        self.count = 0
        self.stopped = False
        self._rng = random.Random(seed)
        self._files: list[_File] = []
        self._undo: list[Callable[[], object]] = []

    def operation(self) -> None:
        self.count += 1
        if self.count != self.at:
            return
        self.stopped = True
        if self.stop == "full disk":
            raise OSError(errno.ENOSPC, "No space left on device")
        raise Killed

    @property
    def _dead(self) -> bool:
        return self.stopped and self.stop != "full disk"

    # one small function per operation
    def install(self, patch: pytest.MonkeyPatch) -> None:  # noqa: C901
        disk = self

        def opened(path: Path, mode: str = "r", *args: object, **options: object) -> object:
            if disk._dead or not set(mode) & set("wx"):
                return _open(path, mode, *args, **options)
            disk.operation()
            file = _File(disk, path, mode)
            disk._files.append(file)
            return file

        def fsync(handle: int) -> None:
            disk.operation()
            for file in disk._files:
                if not file._raw.closed and file.fileno() == handle:
                    file.synced = os.fstat(handle).st_size

        def replace(path: Path, target: Path) -> Path:
            disk.operation()
            new, old = path.read_bytes(), target.read_bytes() if target.exists() else None

            def undo() -> None:
                path.write_bytes(new)
                _unlink(target) if old is None else target.write_bytes(old)

            disk._undo.append(undo)
            for file in disk._files:
                if file.path == path:
                    file.path = target
            return _replace(path, target)

        def unlink(path: Path, missing_ok: bool = False) -> None:
            if disk._dead or not path.exists():
                return
            disk.operation()
            content = path.read_bytes()
            disk._undo.append(lambda: path.write_bytes(content))
            _unlink(path, missing_ok=missing_ok)

        def sync_folder(folder: Path) -> None:
            disk.operation()
            disk._undo.clear()

        patch.setattr(Path, "open", opened)
        patch.setattr(Path, "replace", replace)
        patch.setattr(Path, "unlink", unlink)
        patch.setattr(os, "fsync", fsync)
        patch.setattr(files, "sync_folder", sync_folder)

    def cut_power(self) -> None:
        """Lose what was not synced: the order in which a disk writes is its own affair."""
        for file in self._files:
            if file.path.exists():
                size = file.path.stat().st_size
                keep = self._rng.choice(
                    [file.synced, self._rng.randint(min(file.synced, size), size)]
                )
                os.truncate(file.path, min(keep, size))
        for undo in reversed(self._undo):
            if self._rng.random() < 0.5:
                undo()


def crash_points(
    stop: Stop, prepare: Callable[[Path], object], write: Callable[[Path], object], folder: Path
) -> Iterator[tuple[Path, bool]]:
    """Stop ``write`` at its first, second, third … operation, until one run goes through untouched.

    Yields:
        The folder as the stop left it, and whether ``write`` was stopped at all.
    """
    good = folder / "good"
    good.mkdir()
    prepare(good)
    for at in itertools.count(1):
        stopped = False
        for seed in range(5 if stop == "power cut" else 1):
            trial = folder / f"{at}-{seed}"
            shutil.copytree(good, trial)
            disk = Disk(stop, at, seed)
            with pytest.MonkeyPatch.context() as patch:
                disk.install(patch)
                try:
                    write(trial)
                except Killed:
                    pass
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
            if disk.stopped and stop == "power cut":
                disk.cut_power()
            stopped = disk.stopped
            yield trial, stopped
            shutil.rmtree(trial)
        if not stopped:
            return
