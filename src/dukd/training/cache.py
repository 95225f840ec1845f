"""The teacher's outputs on one period of micro-batches: computed once, kept in files and replayed.

Where batches come again after a period, so do the views that a method shows its teacher: the
images, and the generator a method draws from, follow from the batch's number. The teacher runs
during the first period; every later step reads its outputs.

A file holds micro-batches whose views are alike: of the same names, sizes and depths, and of the
same images in micro-batch 0 (`dukd.training.records`). A method that shows other things later, as
one that starts late, gets a second file then. `dukd.training.codec` says how values are kept;
what is replayed is also what the first period returns, and what is returned where a file has no
room: so a run does not depend on who filled the cache, or how far.
"""

import errno
import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dukd.core.device import lies_together, to_device
from dukd.methods.base import View
from dukd.networks.base import Network, Output
from dukd.training.codec import Codec, FeatureCodec, Stored
from dukd.training.records import (
    PROJECTIONS,
    REMEDY,
    CacheError,
    NoRoomError,
    Records,
    Shown,
    Source,
    size,
)

Kept = tuple[Tensor, list[Tensor]]
"""The teacher's output on a view, and its features."""
_Layout = tuple[tuple[str, torch.Size, tuple[float, ...]], ...]
_TOLERANCE = 1e-3  # one value of one image changed by one level moves every projection by 1 / 255


class TeacherOutputCache:
    """Gives the teacher's outputs on micro-batches: live the first time, then from a file.

    What is read is checked to belong to the images that are shown. On a GPU that comparison's
    outcome is fetched by `verify`, so that no step waits for it; a thread reads ahead.
    """

    def __init__(self, folder: Path, source: Source, teacher: nn.Module, *, limit: float) -> None:
        """Keep outputs under ``folder``.

        Args:
            folder: Where the files lie; runs of one source share them.
            source: What the outputs follow from.
            teacher: The network whose outputs these are; only its widths are read, and how its
                outputs lie in memory, so that sums over replayed ones have the same order.
            limit: Most bytes that a new file may take.
        """
        self.folder, self.source, self.teacher, self.limit = Path(folder), source, teacher, limit
        self.computed = 0
        """Micro-batches on which the teacher itself ran."""
        self.trouble = ""
        """Why outputs are not kept, where there is no room for them."""
        self._codec, self._features = Codec(source.bits), FeatureCodec(source.bits)
        together = any(map(lies_together, teacher.parameters()))
        self._lie = torch.channels_last if together else torch.contiguous_format
        self._files: dict[_Layout, Records | None] = {}
        self._notes: list[str] = []
        self._differs: list[Tensor] = []
        self._reader = ThreadPoolExecutor(1, "teacher-cache")
        self._ahead: dict[_Layout, tuple[int, Future[NDArray[np.void] | None]]] = {}

    def outputs(
        self,
        place: int,
        views: Sequence[View],
        first: Callable[[], Sequence[View]],
        live: Callable[[], Sequence[Output]],
        *,
        following: int,
    ) -> list[Kept]:
        """The teacher's outputs on a micro-batch.

        Args:
            place: Its number in the period.
            views: Those that the teacher sees.
            first: Gives the views of micro-batch 0 at the same step.
            live: Runs the teacher on ``views``.
            following: The place that is likely to be read next.

        Raises:
            CacheError: If what was kept is of other images.
        """
        layout = _layout(views)
        if layout not in self._files:
            self._files[layout] = self._open([view for view in first() if view.taught])
        records = self._files[layout]
        prints = torch.cat([fingerprints(v.image) for v in views])
        record = None if records is None else self._read(layout, records, place, following)
        if record is None:
            return self._computed(place, layout, views, prints, live)
        there = torch.from_numpy(np.asarray(record["fingerprints"]).copy())
        self._differs.append(((prints - to_device(there, prints.device)).abs() > _TOLERANCE).any())
        if prints.device.type == "cpu":
            self.verify()
        stored = cast("Mapping[str, Stored]", record)
        return [self._decoded(stored, i, view) for i, view in enumerate(views)]

    def open(self, views: Sequence[View]) -> None:
        """Open the file of what the teacher sees of micro-batch 0, or make an empty one.

        `outputs` does so by itself; ahead, a note says before training begins what will be kept.
        """
        if (layout := _layout(views)) not in self._files:
            self._files[layout] = self._open(views)

    def _open(self, views: Sequence[View]) -> Records | None:
        shown = tuple(self._shown(view) for view in views)
        try:
            records = Records.open(self.folder, self.source, shown, limit=self.limit)
        except NoRoomError as error:
            self.trouble = str(error)
            self._notes.append(f"{error}. Until then the teacher runs at every step")
            return None
        self._notes.append(
            f"the teacher's outputs for {self.source.period} batches are kept in {records.path} "
            f"({size(self.source, shown) / 1e6:,.1f} MB) and replayed"
        )
        return records

    def _shown(self, view: View) -> Shown:
        rounded = fingerprints(view.image).cpu().numpy().round(1)
        mark = hashlib.sha256(rounded.tobytes()).hexdigest()[:16]
        widths: tuple[int, ...] = ()
        if view.depths:
            assert isinstance(self.teacher, Network)
            widths = tuple(self.teacher.width_at(depth) for depth in view.depths)
        return Shown(view.name, tuple(view.image.shape), mark, view.depths, widths)

    def _read(
        self, layout: _Layout, records: Records, place: int, following: int
    ) -> NDArray[np.void] | None:
        """Read a record, and have a thread read and check the next one meanwhile."""
        number, future = self._ahead.get(layout, (place, None))
        record = future.result() if future is not None and number == place else None
        if record is None:  # or written since then
            record = records.read(place)
        self._ahead[layout] = following, self._reader.submit(records.read, following)
        return record

    def _computed(
        self,
        place: int,
        layout: _Layout,
        views: Sequence[View],
        prints: Tensor,
        live: Callable[[], Sequence[Output]],
    ) -> list[Kept]:
        """Run the teacher, and give what will be replayed."""
        self.computed += 1
        made: list[Kept] = []
        for view, output in zip(views, live(), strict=True):
            h, w = view.image.shape[-2:]  # what the teacher padded is not kept
            made.append((output.sr, [f[..., :h, :w] for f in output.features]))
        if not all(bool(x.isfinite().all()) for sr, features in made for x in (sr, *features)):
            return made  # no stored value stands for it; the loss will show it
        stored: dict[str, Stored] = {}
        for i, (sr, features) in enumerate(made):
            stored[f"sr{i}"] = self._codec.encode(sr)
            for j, feature in enumerate(features):
                stored[f"feature{i}_{j}"], scales = self._features.encode(feature)
                if scales is not None:
                    stored[f"scales{i}_{j}"] = scales
        self._write(place, layout, prints, stored)
        return [self._decoded(stored, i, view) for i, view in enumerate(views)]

    def _write(
        self, place: int, layout: _Layout, prints: Tensor, stored: Mapping[str, Stored]
    ) -> None:
        records = self._files[layout]
        if records is None:
            return
        try:
            records.write(place, prints, stored)
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            self._files[layout] = None
            self.trouble = (
                f"the disk filled up while the teacher's outputs were kept in {records.path}"
            )
            self._notes.append(
                f"{self.trouble}: the teacher runs at every step from now on, with the same "
                "results. Make room, and continue with --resume"
            )

    def _decoded(self, stored: Mapping[str, Stored], i: int, view: View) -> Kept:
        device, features = view.image.device, list[Tensor]()
        for j in range(len(view.depths)):
            scales = None if self.source.bits == 32 else stored[f"scales{i}_{j}"]
            feature = self._features.decode(stored[f"feature{i}_{j}"], scales, device)
            features.append(self._laid(feature))
        return self._laid(self._codec.decode(stored[f"sr{i}"], device)), features

    def _laid(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=self._lie) if x.ndim == 4 else x

    def verify(self) -> None:
        """Make sure that everything replayed so far was of the right images.

        Raises:
            CacheError: If it was not.
        """
        if self._differs and bool(torch.stack(self._differs).any()):
            raise CacheError(
                "a view shows other images than those whose outputs were kept: a view must follow "
                f"from the batch and its generator alone to be replayed; {REMEDY}"
            )
        self._differs = []

    def notes(self) -> list[str]:
        """Sentences for the log since the last call."""
        notes, self._notes = self._notes, []
        return notes

    def sync(self) -> None:
        """Make what was kept so far survive a power cut."""
        for records in self._files.values():
            if records is not None:
                records.sync()

    def close(self) -> None:
        """Wait for the thread, and close the files."""
        self._reader.shutdown(wait=True, cancel_futures=True)
        for records in self._files.values():
            if records is not None:
                records.close()


def _layout(views: Sequence[View]) -> _Layout:
    return tuple((v.name, v.image.shape, v.depths) for v in views)


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
    chances = np.random.default_rng(0).random((count, PROJECTIONS))
    return torch.from_numpy(np.where(chances < 0.5, -1.0, 1.0)).to(device)
