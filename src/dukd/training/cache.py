"""The teacher's answers to one period of batches, computed once, kept in a file and replayed.

Where batches come again after a period, so do the method's questions to the teacher: the images,
and the generator a method draws from, are functions of the batch's number. The teacher answers
during the first period; every later step reads its answers from a mapped file. A method does not
know of it.

The file holds a header and one record per batch, all of the same size: CRC-32, number, fingerprints
of the images asked, answers, and the features that were read with them. A record counts when its
sum is right, so one that a kill or a power cut left half written is simply asked again, and so is
one in which a bit flipped. How values are kept is told in `dukd.training.codec`; what is replayed
is also what the first period returns, so a run does not depend on who filled the bank, or how far.
"""

import errno
import hashlib
import json
import mmap
import os
import shutil
import struct
import weakref
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from dukd.core import files
from dukd.core.device import to_device
from dukd.networks.base import Network, Output, Wrapped
from dukd.training.codec import Bits, Codec, Codes, FeatureCodec

Shape = tuple[int, int, int, int]

_MAGIC = b"DUKDBANK"
_VERSION = 2
_PREFIX = struct.Struct("<8sII")  # magic, version, length of the JSON that follows
_PAGE = 4096
_PROJECTIONS = 4
_TOLERANCE = 1e-3  # one value of one image changed by one level moves every projection by 1 / 255
REMEDY = "switch the cache off (--teacher-cache off), or let no batch come again (--data.period 0)"
"""What to do where answers cannot be reused."""


class BankError(ValueError):
    """The teacher's answers cannot be reused; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the kept outputs follow from; runs in which all of it is equal share a cache."""

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
    accumulate: int
    """Number of parts of a batch."""
    rank: int
    """Which process this is."""
    world: int
    """How many processes share a batch."""
    bits: Bits
    """Bits per value of an answer."""


@dataclass(frozen=True)
class Question:
    """A batch of images a method asks the teacher about."""

    shape: Shape
    """``(n, 3, h, w)``."""
    mark: str
    """SHA-256 of its fingerprints in batch 0, rounded: unlike questions are not kept in the same
    file."""
    depths: tuple[float, ...] = ()
    """Where the teacher's features are read as well."""
    width: int = 0
    """Channels of these features."""


class _Asked(Wrapped, ABC):
    """Stands for a teacher, for methods that read its outputs and features."""

    @abstractmethod
    def answer(self, lr: Tensor, depths: tuple[float, ...]) -> tuple[Tensor, list[Tensor]]:
        """Upscale ``(n, 3, h, w)``, and give the features ``(n, width, h, w)`` at these depths."""

    @override
    def observe(self, lr: Tensor, depths: Sequence[float]) -> Output:
        if lr.requires_grad:
            raise self._refusal("asks the teacher about what the student made")
        return Output(*self.answer(lr, tuple(depths)), self)

    @property
    @override
    def stages(self) -> Sequence[nn.Module]:
        raise self._refusal("runs the teacher's stages")

    @override
    def head(self, lr: Tensor) -> Tensor:
        raise self._refusal("runs the teacher's head")

    @override
    def tail(self, x: Tensor, kept: Mapping[int, Tensor], lr: Tensor) -> Tensor:
        raise self._refusal("runs the teacher's tail")

    def _refusal(self, what: str) -> BankError:
        return BankError(f"this method {what}, so the teacher's answers cannot be reused: {REMEDY}")


class _Listener(_Asked):
    """Hears what a teacher is asked, and answers nothing."""

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self.heard: list[Question] = []

    @override
    def answer(self, lr: Tensor, depths: tuple[float, ...]) -> tuple[Tensor, list[Tensor]]:
        n, c, h, w = lr.shape
        rounded = np.round(fingerprints(lr).cpu().numpy(), 1)
        mark = hashlib.sha256(rounded.tobytes()).hexdigest()[:16]
        self.heard.append(Question((n, c, h, w), mark, depths, self.width if depths else 0))
        features = [lr.new_zeros((n, self.width, h, w)) for _ in depths]
        return lr.new_zeros((n, c, h * self.scale, w * self.scale)), features


def questions(teacher: Network, ask: Callable[[Network], object]) -> tuple[Question, ...]:
    """What a method asks its teacher for one batch; the teacher itself is not run.

    Args:
        teacher: The teacher.
        ask: Computes the losses of batch 0 with the teacher it is given.

    Raises:
        BankError: If the method reads more than answers and features, so that they cannot be
            reused.
    """
    listener = _Listener(teacher)
    with torch.no_grad():
        ask(listener)
    return tuple(listener.heard)


def fingerprints(x: Tensor) -> Tensor:
    """Four projections of each image on random signs: ``(n, c, h, w)`` to ``(n, 4)``, float64.

    Unlike a hash they can be compared across devices, where a reduced image differs in its last
    bits. A change of one value by one gray level moves all of them by 1 / 255; of two different
    images all four agree to 0.001 with odds of about 1e-16.
    """
    x = x.detach().flatten(1)
    x = x.cpu() if x.device.type == "mps" else x  # which has no float64
    return x.double() @ _signs(x.shape[1], x.device)


@lru_cache(maxsize=32)
def _signs(count: int, device: torch.device) -> Tensor:
    chances = np.random.default_rng(0).random((count, _PROJECTIONS))
    return torch.from_numpy(np.where(chances < 0.5, -1.0, 1.0)).to(device)


class Bank:
    """The answers to one period of batches, in a file."""

    def __init__(self, path: Path, source: Source, asked: tuple[Question, ...]) -> None:
        """Open the file of ``path``; see `Bank.open`."""
        self.path, self.source, self.asked = path, source, asked
        self.codec, self.features = Codec(source.bits), FeatureCodec(source.bits)
        self._record = _record(source, asked)
        self._start = _header_size(source, asked)
        self._file = path.open("r+b", buffering=0)
        self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        self._closing = weakref.finalize(self, _close, self._map, self._file)

    @staticmethod
    def open(folder: Path, source: Source, asked: tuple[Question, ...], *, limit: float) -> "Bank":
        """Open the bank of a source and its questions, or make an empty one.

        Args:
            folder: Where banks lie.
            source: What the answers follow from.
            asked: What a method asks per batch.
            limit: Most bytes a new bank may take.

        Raises:
            BankError: If it would take too much, or the file is not what its name says.
        """
        header = _header(source, asked)
        path = Path(folder) / f"{hashlib.sha256(header).hexdigest()[:16]}.bank"
        if not path.exists():
            _create(path, header, size(source, asked), source.period, limit)
        with path.open("rb") as file:
            there = file.read(len(header))
        if there != header or path.stat().st_size != size(source, asked):
            raise BankError(
                f"{path} is damaged, or no bank of these questions: delete it, and it is made anew"
            )
        return Bank(path, source, asked)

    def read(self, number: int) -> NDArray[np.void] | None:
        """The record of a batch, None if there is none yet.

        Its fields are ``fingerprints``, and of each question ``answer0``, and ``feature0_0`` and
        ``scales0_0`` of its first depth.
        """
        at = self._start + number * self._record.itemsize
        if struct.unpack_from("<I", self._map, at + 4)[0] != number + 1:
            return None
        raw = np.frombuffer(self._map, np.uint8, self._record.itemsize, at).copy()
        record = cast("NDArray[np.void]", raw.view(self._record)[0])
        return record if zlib.crc32(raw[4:].data) == int(record["crc"]) else None

    def write(self, number: int, prints: Sequence[Tensor], answers: Mapping[str, Codes]) -> None:
        """Keep the answers to a batch, unless another process has done so meanwhile."""
        record = np.zeros((), self._record)
        record["number"] = number + 1  # so that 0, which a new file is full of, is none
        record["fingerprints"] = torch.cat(list(prints)).cpu().numpy()
        for name, codes in answers.items():
            record[name] = codes
        raw = bytearray(record.tobytes())
        struct.pack_into("<I", raw, 0, zlib.crc32(memoryview(raw)[4:]))
        with files.lock(self._file):
            if self.read(number) is None:
                self._file.seek(self._start + number * self._record.itemsize)
                try:
                    self._put(raw)
                except OSError as error:
                    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                        what = (
                            "the disk filled up while the teacher's answers were kept in "
                            f"{self.path}; make room"
                        )
                        raise OSError(error.errno, what) from error
                    raise

    def _put(self, raw: bytearray) -> None:
        left = memoryview(raw)
        while left:  # a raw file may take less than it was given
            left = left[self._file.write(left) :]

    def missing(self) -> list[int]:
        """Numbers of the batches without answers; reads the whole file."""
        return [k for k in range(self.source.period) if self.read(k) is None]

    def sync(self) -> None:
        """Make what was written so far survive a power cut."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._closing()


def _close(mapped: mmap.mmap, file: IO[bytes]) -> None:
    mapped.close()
    file.close()


def size(source: Source, asked: tuple[Question, ...]) -> int:
    """Bytes that the bank of a source and its questions takes."""
    return _header_size(source, asked) + source.period * _record(source, asked).itemsize


def _record(source: Source, asked: tuple[Question, ...]) -> np.dtype[np.void]:
    images = sum(q.shape[0] for q in asked)
    fields: list[tuple[str, str, tuple[int, ...]]] = [
        ("crc", "<u4", ()),
        ("number", "<u4", ()),
        ("fingerprints", "<f8", (images, _PROJECTIONS)),
    ]
    for i, question in enumerate(asked):
        n, c, h, w = question.shape
        dtype = Codec(source.bits).dtype
        fields.append((f"answer{i}", dtype, (n, c, h * source.scale, w * source.scale)))
        for j in range(len(question.depths)):
            fields.append((f"feature{i}_{j}", dtype, (n, question.width, h, w)))
            if source.bits < 32:
                fields.append((f"scales{i}_{j}", "<f4", (n, question.width, 2)))
    return np.dtype(fields)


def _header(source: Source, asked: tuple[Question, ...]) -> bytes:
    described = {"source": asdict(source), "questions": [asdict(q) for q in asked]}
    text = json.dumps(described, indent=1, sort_keys=True).encode()
    content = _PREFIX.pack(_MAGIC, _VERSION, len(text)) + text + b"\n"
    return content.ljust(-(-len(content) // _PAGE) * _PAGE, b"\0")


def _header_size(source: Source, asked: tuple[Question, ...]) -> int:
    return len(_header(source, asked))


def _create(path: Path, header: bytes, total: int, period: int, limit: float) -> None:
    per_batch = (total - len(header)) / period
    if total > limit:
        fitting = int((limit - len(header)) // per_batch)
        remedy = f"a period of at most {fitting} fits" if fitting > 0 else "not even one batch fits"
        raise BankError(
            f"the teacher's answers to {period} batches take {total / 1e9:.2f} GB "
            f"({per_batch / 1e6:.2f} MB each), but the limit is {limit / 1e9:.2f} GB: {remedy} "
            "(--data.period), or raise --teacher-cache.limit-gb"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if total > free:
        raise BankError(
            f"the teacher's answers to {period} batches take {total / 1e9:.2f} GB, but "
            f"{free / 1e9:.2f} GB are free in {path.parent}: choose a shorter --data.period, or "
            "another --teacher-cache.folder"
        )
    with (path.parent / "lock").open("ab") as handle, files.lock(handle):
        if not path.exists():
            with files.replacing(path) as file:
                file.write(header)
                file.truncate(total)


class BankedTeacher(_Asked):
    """A teacher that answers each question of a period once, and from then on from its bank.

    A question is recognized by its place in the step, and by fingerprints of its images. On a GPU
    the comparison's outcome is fetched by `verify`, so that no step waits for it; a thread reads
    and checks the next batch's answers.
    """

    def __init__(self, network: Network, bank: Bank, *, late: bool = False) -> None:
        """Put ``bank`` before ``network``; a ``late`` method may not read it at first."""
        super().__init__(network)
        self.bank = bank
        self.late = late
        self.asked = 0
        """Steps for which the teacher itself was asked."""
        self._number = 0
        self._place = 0
        self._sound = True
        self._known: NDArray[np.void] | None = None
        self._prints: list[Tensor] = []
        self._answers: dict[str, Codes] = {}
        self._differs: list[Tensor] = []
        self._reader = ThreadPoolExecutor(1, "bank")
        self._ahead: tuple[int, Future[NDArray[np.void] | None] | None] = 0, None

    def at(self, step: int) -> None:
        """Begin the step with this number, from 0."""
        self._number = step % self.bank.source.period
        self._place = 0
        self._prints, self._answers, self._sound = [], {}, True
        self._known = self._fetched(self._number)

    def _fetched(self, number: int) -> NDArray[np.void] | None:
        """Read a record, and have a thread read and check the next one meanwhile."""
        (waited_for, record), following = self._ahead, (number + 1) % self.bank.source.period
        known = record.result() if record is not None and waited_for == number else None
        if known is None:  # or written since then
            known = self.bank.read(number)
        self._ahead = following, self._reader.submit(self.bank.read, following)
        return known

    def close(self) -> None:
        """Wait for the thread, and close the file."""
        self._reader.shutdown(wait=True, cancel_futures=True)
        self.bank.close()

    def done(self) -> None:
        """End the step: keep what the teacher answered.

        Raises:
            BankError: If the method asked less than it did for the first batch.
        """
        if self.late and not self._place:
            return
        if self._place != len(self.bank.asked):
            raise self._changed(f"asked {self._place} questions, not {len(self.bank.asked)}")
        if self._known is None:
            self.asked += 1
            if self._sound:
                self.bank.write(self._number, self._prints, self._answers)

    def verify(self) -> None:
        """Make sure that every answer so far was to the question asked.

        Raises:
            BankError: If it was not.
        """
        if self._differs and bool(torch.stack(self._differs).any()):
            raise self._changed("asked about other images")
        self._differs = []

    @override
    def answer(self, lr: Tensor, depths: tuple[float, ...]) -> tuple[Tensor, list[Tensor]]:
        place, expected = self._place, [(q.shape, q.depths) for q in self.bank.asked]
        if place >= len(expected) or (tuple(lr.shape), depths) != expected[place]:
            known = ", ".join(
                f"{shape} at depths {at}" if at else f"{shape}" for shape, at in expected
            )
            read = f" at depths {depths}" if depths else ""
            raise self._changed(
                f"asked about {tuple(lr.shape)}{read} as question {place + 1}, but it asks {known}"
            )
        self._place += 1
        prints = fingerprints(lr)
        if self._known is None:
            return self._ask(lr, depths, place, prints)
        first = sum(shape[0] for shape, _ in expected[:place])
        kept = to_device(
            torch.from_numpy(self._known["fingerprints"][first : first + lr.shape[0]].copy()),
            prints.device,
        )
        self._differs.append(((prints - kept).abs() > _TOLERANCE).any())
        if prints.device.type == "cpu":
            self.verify()
        return self._decoded(cast("Mapping[str, Codes]", self._known), place, depths, lr.device)

    def _ask(
        self, lr: Tensor, depths: tuple[float, ...], place: int, prints: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Ask the teacher itself, and answer what will be replayed."""
        sr, features, _ = self.network.observe(lr, depths)
        features = [
            f[..., : lr.shape[-2], : lr.shape[-1]] for f in features
        ]  # what it padded is no part of the answer
        if not all(
            bool(torch.isfinite(x).all()) for x in (sr, *features)
        ):  # no code stands for it; the loss will tell
            self._sound = False
            return sr, features
        self._prints.append(prints)
        made: dict[str, Codes] = {f"answer{place}": self.bank.codec.encode(sr)}
        for j, feature in enumerate(features):
            codes, scales = self.bank.features.encode(feature)
            made |= {f"feature{place}_{j}": codes} | (
                {} if scales is None else {f"scales{place}_{j}": scales}
            )
        self._answers |= made
        return self._decoded(made, place, depths, lr.device)

    def _decoded(
        self, stored: Mapping[str, Codes], place: int, depths: Sequence[float], device: torch.device
    ) -> tuple[Tensor, list[Tensor]]:
        features: list[Tensor] = []
        for j in range(len(depths)):
            scales = None if self.bank.source.bits == 32 else stored[(f"scales{place}_{j}")]
            features.append(
                self.bank.features.decode(stored[f"feature{place}_{j}"], scales, device)
            )
        return self.bank.codec.decode(stored[f"answer{place}"], device), features

    def _changed(self, what: str) -> BankError:
        return BankError(
            f"at batch {self._number} the method {what}; the answers in {self.bank.path} are to "
            "other questions, and the cache needs questions that follow from the batch and its "
            f"generator alone: {REMEDY}"
        )
