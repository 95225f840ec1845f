"""Durable files: what is written appears whole or not at all.

A file is written under a temporary name in its own folder, synced, renamed over the old one, and
the folder is synced: after a kill or a power cut at any instant the old or the new file is there,
never a torn one. What a killed process leaves under a temporary name is cleared away by the next
one that writes into the folder.
"""

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

_BLOCK = 1 << 20
_LEFT = re.compile(r"\..{1,55}\.dukd-[0-9a-f]{8}\.tmp", re.DOTALL)
_CLEARED: set[Path] = set()  # folders, of this process
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # which writing alone meets
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}


@contextmanager
def replacing(path: Path) -> Generator[IO[bytes], None, None]:
    """Open a file that takes the place of ``path`` when the block ends without an exception.

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
    _clear(path.parent)
    with _named(path):
        temporary, file = _begun(path)
    try:
        with file:
            yield file
            file.flush()
            _fsync(file.fileno())
            if os.name == "posix":
                with _named(path):
                    temporary.replace(path)  # still locked, so that nobody clears it away
        if os.name != "posix":
            with _named(path):
                temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if type(error) is OSError and error.filename is None and error.errno in _NO_ROOM:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    sync_folder(path.parent)


@contextmanager
def _named(path: Path) -> Generator[None, None, None]:
    """Name the file that was to be written, not the temporary one, in an error."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _begun(path: Path) -> tuple[Path, IO[bytes]]:
    """Open a new file beside ``path``, locked where the system can until it is closed."""
    while True:
        # 55 characters: up to 220 bytes, where a name may have 255
        temporary = path.with_name(f".{path.name[:55]}.dukd-{secrets.token_hex(4)}.tmp")
        file = temporary.open("x+b")
        if not _claim(file) or temporary.exists():
            return temporary, file
        file.close()  # cleared away by somebody before it was locked


def _claim(file: IO[bytes]) -> bool:
    """Lock a file until it is closed; whether that could be done."""
    if sys.platform == "win32":
        return False
    import fcntl  # noqa: PLC0415 (does not exist on Windows)

    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
    except OSError:
        return False  # then nobody else has locks here either, and clears nothing away
    return True


def _clear(folder: Path) -> None:
    """Delete what killed processes left in a folder, once; not what a living one writes."""
    folder = real(folder)
    if folder in _CLEARED:
        return
    _CLEARED.add(folder)
    with suppress(OSError), os.scandir(folder) as entries:
        left = [Path(entry.path) for entry in entries if _LEFT.fullmatch(entry.name)]
        for path in left:
            with suppress(OSError), lock(path, wait=False) as held:
                if held:
                    path.unlink(missing_ok=True)


def make_writable(folder: Path) -> None:
    """Make a folder where results will go, and see that files can be written there.

    Raises:
        OSError: If the folder cannot be made or written.
        ValueError: If it is a file.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise ValueError(f"results go into a folder, but {folder} is a file")
    folder.mkdir(parents=True, exist_ok=True)
    with _named(folder), tempfile.TemporaryFile(dir=folder):
        pass


def check_target(path: Path, *, sources: Iterable[Path] = ()) -> None:
    """See, before long work, that its result can be written, and is none of what is read.

    Args:
        path: The file to be written; its folder is made if it is missing.
        sources: Files that are read.

    Raises:
        OSError: If the folder cannot be made or written, or no file can have that name.
        ValueError: If it is a folder, or one of the sources.
    """
    path = Path(path)
    if path.is_dir() and not is_package(path):
        raise ValueError(f"{path} is a folder: name a file that may be replaced")
    if real(path) in map(real, map(Path, sources)):
        raise ValueError(f"{path} would be overwritten, but it is read: write to another file")
    make_writable(path.parent)
    with _named(path), suppress(FileNotFoundError):
        path.lstat()  # which notices a name that is too long


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text to ``path``, whole or not at all."""
    write_bytes(path, content.encode())


def write_folder(path: Path, source: Path) -> None:
    """Copy a folder to ``path``, whole or not at all, in the place of what is there.

    A kill at the worst instant leaves the old one aside under a hidden name, and nothing here.

    Raises:
        OSError: If it cannot be written; ``path`` is then as it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = f".{path.name[:55]}.dukd-{secrets.token_hex(4)}"
    made, old = path.with_name(f"{mark}.new"), path.with_name(f"{mark}.old")
    try:
        with _named(path):
            made.mkdir()
            for inner in sorted(source.rglob("*")):  # a folder comes before what is in it
                copy = made / inner.relative_to(source)
                if inner.is_dir():
                    copy.mkdir()
                else:
                    shutil.copyfile(inner, copy)
                    sync(copy)
            for folder in (made, *(inner for inner in made.rglob("*") if inner.is_dir())):
                sync_folder(folder)
            if path.exists():
                path.rename(old)
            try:
                made.rename(path)
            except OSError:
                old.rename(path)
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def is_package(path: Path) -> bool:
    """Whether a folder is one file for programs, as packages of Core ML (``.mlpackage``) are."""
    return path.suffix.lower() == ".mlpackage" and (path / "Manifest.json").is_file()


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


@contextmanager
def lock(place: IO[Any] | Path, *, wait: bool = True) -> Generator[bool, None, None]:
    """Hold the lock of a file, or of a folder, until the block ends, or the process does.

    Args:
        place: A file, open as long as the block runs, or the path of a file or folder.
        wait: Whether to wait for another holder.

    Yields:
        Whether it is held. Windows and some network file systems have no locks; whoever goes on
        without one must be able to bear a second process.

    Raises:
        BlockingIOError: If another process holds it, and we do not wait.
    """
    if sys.platform == "win32":
        yield False
        return
    import fcntl  # noqa: PLC0415 (does not exist on Windows)

    handle = os.open(place, os.O_RDONLY) if isinstance(place, Path) else place.fileno()
    held = True
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            held = False
        yield held
    finally:
        if isinstance(place, Path):
            os.close(handle)  # which frees the lock
        elif held:
            fcntl.flock(handle, fcntl.LOCK_UN)


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock of a file now; nothing is written."""
    try:
        with lock(path, wait=False):
            return False
    except BlockingIOError:
        return True


def real(path: Path) -> Path:
    """Where a path leads, without links and dots; a link to itself stays as it is.

    ``Path.resolve`` raises for such a link, which need not be the file that is worked on.
    """
    return Path(os.path.realpath(path))


def is_endless(path: Path) -> bool:
    """Whether reading may never end: a pipe, a device or a socket, also behind a link."""
    mode = path.stat().st_mode
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


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
