"""Durable files: what is written appears whole or not at all.

A file is written under a temporary name in its own folder, synced, renamed over the old one, and
the folder is synced: after a kill or a power cut at any instant the old or the new file is there,
never a torn one.
"""

import errno
import hashlib
import os
import secrets
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_BLOCK = 1 << 20


@contextmanager
def replacing(path: Path) -> Generator[IO[bytes], None, None]:
    """Open a file for writing that takes the place of ``path`` only when the block ends without an exception.

    Args:
        path: The final name; its folder is made if it is missing.

    Yields:
        A binary file, open for writing and reading.

    Raises:
        OSError: If the folder cannot be written or the disk is full; ``path`` is then as it was
            before.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # 55 characters: up to 220 bytes, where a name may have 255
    temporary = path.with_name(f".{path.name[:55]}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("x+b") as file:
            yield file
            file.flush()
            _fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text to ``path``, whole or not at all."""
    write_bytes(path, content.encode())


def sync(path: Path) -> None:
    """Make what was written to ``path`` so far survive a power cut."""
    with Path(path).open("rb+") as file:
        _fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power cut, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in {
            errno.EINVAL,
            errno.ENOTSUP,
        }:  # some network file systems sync files only
            raise
    finally:
        os.close(handle)


def _fsync(handle: int) -> None:
    if sys.platform == "darwin":  # macOS's fsync stops at the drive's own memory
        import fcntl  # noqa: PLC0415 (does not exist on Windows)

        try:
            fcntl.fcntl(handle, fcntl.F_FULLFSYNC)
        except OSError:
            pass  # not every file system knows it
        else:
            return
    os.fsync(handle)


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


Progress = Callable[[int, int, str], None]
"""Called by long work as ``progress(done, total, what)``; only the command line turns it into
something to see."""


def silent(done: int, total: int, what: str) -> None:
    """Report progress to nobody."""
