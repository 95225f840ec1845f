"""Make a pack: decode in threads, write with a journal, read back, rename.

The file grows under the name ``<name>.partial`` beside a journal of finished images; a run that was
killed goes on where it stopped, and the final name appears only when everything is there and has
been read back. An image that cannot be read does not end the work: all such images are named at
the end, and on request the pack is made without them.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial as bound
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from dukd.core import files
from dukd.core.files import Progress, sha256, silent, sync_folder
from dukd.core.text import amount, shown
from dukd.data.matching import count
from dukd.data.pack import (
    HEADER,
    MAGIC,
    START,
    VERSION,
    Absent,
    Pack,
    PackError,
    Record,
    SourceFile,
    digest_of,
    map_file,
    parse_record,
    same_files,
    sha256_of,
)
from dukd.data.pairs import Pair, Pairs, PairsError, load
from dukd.images import ImageError

_ALIGN = 64
_SPARE = 64 << 20
_PAUSE = 0.2
"""Seconds between two looks whether another process is done."""


def packed_bytes(pairs: Pairs) -> int:
    """Bytes that a pack of ``pairs`` will take, but for an index of about 700 bytes per image."""
    return _offsets(pairs)[-1] + _bytes(pairs[-1]) if len(pairs) else START


def prepare(
    pairs: Pairs,
    path: Path | str,
    *,
    progress: Progress = silent,
    workers: int | None = None,
    skip_bad: bool = False,
) -> Pack:
    """Decode ``pairs`` into a pack at ``path``, or open the one there if it holds exactly these.

    A run that was killed is continued, and another one that makes this pack is waited for. Memory
    stays at a few images per worker, whatever the size of the set.

    Args:
        pairs: What to pack.
        path: The file to make; a pack of other images there is replaced at the end, any other file
            is refused.
        progress: Called after each image, with its name.
        workers: Threads that decode; as many as there are processors, at most 8, if None.
        skip_bad: Whether images that cannot be read are left out, and named in the pack.

    Raises:
        PackError: If there is too little room, there is nothing to pack, or ``path`` is something
            else than a pack.
        PairsError: If images cannot be read, or are not what their headers said; all of them are
            named, at the end. What was finished is kept.
    """
    path = Path(path)
    if not len(pairs):
        raise PackError("there are no pairs to pack")
    if workers is not None and workers < 1:
        raise PackError(f"at least one worker decodes, but got {workers}")
    partial, journal = (path.with_name(f"{path.name}.{end}") for end in ("partial", "journal"))
    if (ready := _existing(path, pairs)) is not None:
        _clear_away(journal, path)
        return ready
    path.parent.mkdir(parents=True, exist_ok=True)
    say = bound(progress, 0, len(pairs), "another process is preparing them")
    with _locked(journal, path, say) as log:
        if (ready := _existing(path, pairs)) is None:
            _check_room(pairs, path, partial, journal)
            threads = workers or min(8, os.cpu_count() or 1)
            records, absent = _fill(pairs, partial, log, progress, threads)
            if absent and not (skip_bad and records):
                raise _refused(pairs, absent)
            _write_index(partial, pairs, records, absent)
            try:
                Pack.open(partial).verify()
            except PackError:
                partial.unlink()
                raise
            partial.replace(path)
            sync_folder(path.parent)
        journal.unlink()
    return ready or Pack.open(path)


def _clear_away(journal: Path, path: Path) -> None:
    """Delete what a stop between the last two operations leaves, unless somebody is at work."""
    with contextlib.suppress(PackError, OSError):
        if journal.exists():
            with _locked(journal, path):
                journal.unlink()


def _existing(path: Path, pairs: Pairs) -> Pack | None:
    """The pack at ``path``, if it holds these pairs; another file there is not replaced."""
    if not path.exists():
        return None
    if path.is_dir() or not _is_pack(path):
        raise PackError(f"{shown(path)} exists and is not a pack: choose another name")
    with contextlib.suppress(PackError):  # a damaged one is made anew
        pack = Pack.open(path)
        return pack if pack.matches(pairs) else None
    return None


def _is_pack(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


@contextlib.contextmanager
def _locked(
    journal: Path, path: Path, waiting: Callable[[], None] | None = None
) -> Generator[IO[bytes], None, None]:
    """Open the journal for this process alone.

    Args:
        journal: What is opened.
        path: The pack that it is of.
        waiting: Called now and then while another process has it.

    Raises:
        PackError: If another process has it, and we do not wait.
    """
    while True:
        with journal.open("a+b") as log, contextlib.ExitStack() as stack:
            try:
                stack.enter_context(files.lock(log, wait=False))
            except BlockingIOError:
                if waiting is None:
                    raise PackError(f"another process is preparing {shown(path)}") from None
                waiting()
                time.sleep(_PAUSE)
                continue
            # whoever had it may have deleted it since, and a third made another
            if _lies_at(log, journal):
                yield log
                return


def _lies_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _check_room(pairs: Pairs, path: Path, partial: Path, journal: Path) -> None:
    there = partial.stat().st_size if partial.exists() else 0
    needed = packed_bytes(pairs) + 1024 * len(pairs) + _SPARE - there
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        if not partial.exists():  # nothing to go on with
            journal.unlink()
        raise PackError(
            f"a pack of {len(pairs)} images needs {amount(needed)} more in "
            f"{shown(path.parent)}, but {amount(free)} are free"
        )


def _refused(pairs: Pairs, absent: Sequence[Absent]) -> PairsError:
    heading = f"{count(absent)} with the pixels of the pairs in {shown(pairs.folder)}"
    advice = (
        "replace or delete them, or go on without them (--skip-bad); dukd check-data lists them"
    )
    return PairsError(heading, [*(each.reason for each in absent), advice])


def _fill(
    pairs: Pairs, partial: Path, log: IO[bytes], progress: Progress, workers: int
) -> tuple[list[Record], list[Absent]]:
    """Write the pixels of every image that the journal does not have; each adds a line to it."""
    finished = _resume(pairs, partial, log)
    records: list[Record] = []
    absent: list[Absent] = []
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(partial.open("r+b" if partial.exists() else "w+b"))
        ready = stack.enter_context(contextlib.closing(_in_order(pairs, finished, workers)))
        for done, (pair, offset, made) in enumerate(ready, start=1):
            if isinstance(made, Absent):
                absent.append(made)
            elif isinstance(made, Record):
                records.append(made)
            else:
                record = _written(file, pair, offset, made)
                log.write(json.dumps(asdict(record)).encode() + b"\n")
                log.flush()
                records.append(record)
            progress(done, len(pairs), pair.name)
        file.truncate(packed_bytes(pairs))
        os.fsync(file.fileno())
    return records, absent


@dataclass(frozen=True)
class _Decoded:
    lr: NDArray[np.uint8]
    hr: NDArray[np.uint8]
    hr_file: SourceFile
    lr_file: SourceFile | None


def _written(file: IO[bytes], pair: Pair, offset: int, made: _Decoded) -> Record:
    """Write an image's pixels."""
    file.seek(offset)
    digest = hashlib.sha256()
    for part in (made.lr, made.hr):
        file.write(part.data)
        digest.update(part.data)
    file.flush()
    return Record(
        name=pair.name,
        height=pair.height,
        width=pair.width,
        offset=offset,
        sha256=digest.hexdigest(),
        hr=made.hr_file,
        lr=made.lr_file,
    )


_Made = _Decoded | Absent


def _in_order(
    pairs: Pairs, finished: Mapping[str, Record], workers: int
) -> Generator[tuple[Pair, int, Record | _Made], None, None]:
    """Decode in several threads, a few images ahead; deliver in the order of the pairs."""
    waiting: deque[tuple[Pair, int, Record | Future[_Made]]] = deque()
    with ThreadPoolExecutor(workers, "decode") as pool:
        try:
            for pair, offset in zip(pairs, _offsets(pairs), strict=True):
                made = finished.get(pair.name) or pool.submit(_decode, pair)
                waiting.append((pair, offset, made))
                if len(waiting) > workers:
                    yield _delivered(*waiting.popleft())
            while waiting:
                yield _delivered(*waiting.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _delivered(
    pair: Pair, offset: int, made: Record | Future[_Made]
) -> tuple[Pair, int, Record | _Made]:
    return pair, offset, made if isinstance(made, Record) else made.result()


def _decode(pair: Pair) -> _Made:
    # The state is taken first: a file that changes while it is read will be found stale afterwards.
    try:
        hr, lr = _state(pair.hr), None if pair.lr is None else _state(pair.lr)
    except OSError as error:
        gone = SourceFile(path=str(pair.hr.absolute()), bytes=-1, mtime_ns=0, sha256="")
        return Absent(name=pair.name, reason=f"{shown(pair.hr)}: {error.strerror}", hr=gone)
    try:
        pixels = load(pair)
    except (ImageError, PairsError) as error:
        return Absent(name=pair.name, reason=str(error), hr=hr)
    except MemoryError:
        reason = f"{shown(pair.hr)}: memory does not suffice for it"
        return Absent(name=pair.name, reason=reason, hr=hr)
    return _Decoded(*pixels, hr, lr)


def _state(path: Path) -> SourceFile:
    path = path.absolute()
    state = path.stat()
    return SourceFile(
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
        pixels = np.frombuffer(map_file(partial), np.uint8)
        for line in log.read().splitlines():
            try:
                record = parse_record(json.loads(line))
            except (
                ValueError,
                TypeError,
                KeyError,
            ):  # the line that was being written when the run was killed
                continue
            pair, offset = offsets.get(record.name, (None, -1))
            intact = offset == record.offset and pair is not None and same_files(record, pair)
            if intact and sha256_of(pixels, record, pairs.scale) == record.sha256:
                kept[record.name] = record
    log.seek(0)
    log.truncate()
    log.writelines(json.dumps(asdict(record)).encode() + b"\n" for record in kept.values())
    log.flush()
    return kept


def _write_index(
    partial: Path, pairs: Pairs, records: Sequence[Record], absent: Sequence[Absent]
) -> None:
    """Append the index, then write the header that points to it."""
    with partial.open("r+b") as file:
        index = json.dumps(
            {
                "scale": pairs.scale,
                "lr_source": pairs.lr_source,
                "digest": digest_of(pairs.scale, records),
                "images": [asdict(record) for record in records],
                "assumed": list(pairs.assumed),
                "left_out": [*pairs.left_out, *(each.reason for each in absent)],
                "absent": [asdict(each) for each in absent],
            }
        ).encode()
        offset = file.seek(0, os.SEEK_END)
        file.write(index)
        file.seek(0)
        digest = hashlib.sha256(index).digest()
        file.write(HEADER.pack(MAGIC, VERSION, offset, len(index), digest))
        file.flush()
        os.fsync(file.fileno())


def _offsets(pairs: Pairs) -> list[int]:
    offsets: list[int] = []
    offset = START
    for pair in pairs:
        offsets.append(offset)
        offset = _aligned(offset + _bytes(pair))
    return offsets


def _bytes(pair: Pair) -> int:
    return pair.height * pair.width * 3 * (1 + pair.scale**2)


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGN) * _ALIGN
