"""A forked process that does inputs by itself, with limits, and reports in lines of JSON."""

import hashlib
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from fuzz.oracle import targets

CORPUS = Path(__file__).with_name("corpus")
SECONDS = 5.0
"""Processor time that one input may take."""
MEMORY = 2 << 30
"""Address space that an input may take beside what is there."""
_SILENCE = 60.0  # seconds without a report after which a child is taken to hang
_EVERY = 1.0
_MOST = 20  # failures of one kind after which a child ends


class TooLong(BaseException):
    """An input took too much processor time."""


def judge(check: Callable[[bytes, Path], str], data: bytes, folder: Path) -> tuple[str, str]:
    """What came of an input, and what is wrong with that; nothing if nothing is."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TooLong

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        return check(data, folder), ""
    except TooLong:
        return "failed", f"took more than {SECONDS:g} s"
    except Exception as error:  # noqa: BLE001  which is the finding
        return "failed", f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def keep(kind: str, data: bytes, folder: Path = CORPUS) -> Path:
    """Put an input into the corpus, under its digest."""
    path = folder / kind / hashlib.sha256(data).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def warm(kind: str) -> None:
    """Do a few inputs here, so that children do not each import what is imported late."""
    make, check = targets()[kind]
    rng = random.Random(kind)
    silent, real = os.open(os.devnull, os.O_WRONLY), os.dup(2)
    os.dup2(silent, 2)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(12 if kind == "command" else 3):
            judge(check, make(rng), Path(folder))
    os.dup2(real, 2)
    os.close(silent)
    os.close(real)


class Child:
    """A process that makes and judges inputs of one kind for some seconds."""

    def __init__(self, kind: str, seed: str, seconds: float) -> None:
        self.kind = kind
        self._folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        reading, writing = os.pipe()
        sys.stdout.flush()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(reading)
            with os.fdopen(writing, "w") as out:
                code = 1
                try:
                    _work(kind, seed, seconds, self._folder, out.write, out.flush)
                    code = 0
                finally:
                    out.flush()
                    os._exit(code)
        os.close(writing)
        self._reading = reading

    def reports(self) -> Iterator[dict[str, object]]:
        """What the child says; at its end, what it died of, if it did."""
        with os.fdopen(self._reading, "rb", buffering=0) as pipe:
            waiting = b""
            while True:
                ready, _, _ = select.select([pipe], [], [], _SILENCE)
                if not ready:
                    os.kill(self._pid, signal.SIGKILL)
                    break
                if not (block := pipe.read(1 << 16)):
                    break
                *lines, waiting = (waiting + block).split(b"\n")
                yield from map(json.loads, lines)
        _, status = os.waitpid(self._pid, 0)
        if code := os.waitstatus_to_exitcode(status):
            last = self._folder / "now"
            path = keep(self.kind, last.read_bytes() if last.exists() else b"")
            what = f"the process ended with {code}: killed, or it hung"
            yield {
                "inputs": 1,
                "seconds": 0.0,
                "ends": {"failed": 1},
                "failures": [{"what": what, "path": str(path)}],
            }
        shutil.rmtree(self._folder, ignore_errors=True)


def _work(
    kind: str,
    seed: str,
    seconds: float,
    folder: Path,
    say: Callable[[str], object],
    flush: Callable[[], object],
) -> None:
    warnings.simplefilter("ignore")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # libtiff's remarks
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    make, check = targets()[kind]
    rng = random.Random(f"{kind} {seed}")
    end, ends, failures = time.monotonic() + seconds, Counter[str](), list[dict[str, str]]()
    inputs, reported, begun, seen = 0, time.monotonic(), time.process_time(), Counter[str]()
    while time.monotonic() < end:
        try:
            data = make(rng)
        except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError):
            ends["not made"] += 1  # a change that fits nothing
            continue
        (folder / "now").write_bytes(data)
        what, wrong = judge(check, data, folder)
        inputs += 1
        ends[what] += 1
        if wrong:
            seen[wrong[:40]] += 1
            if seen[wrong[:40]] <= 2:  # of one kind two are enough to keep
                failures.append({"what": wrong, "path": str(keep(kind, data))})
        if time.monotonic() - reported > _EVERY or time.monotonic() >= end:
            now = time.process_time()
            line = {"inputs": inputs, "seconds": now - begun, "ends": ends, "failures": failures}
            say(json.dumps(line) + "\n")
            flush()
            inputs, ends, failures = 0, Counter[str](), []
            reported, begun = time.monotonic(), now
        if sum(seen.values()) >= _MOST:
            break
