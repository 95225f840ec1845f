"""Batches of training patches: batch ``k`` is a pure function of the seed and ``k``.

So a resumed run, another number of workers and another number of processes see the same patches,
and seeking costs nothing (see ``dukd.data.draw``).
"""

import copy
import hashlib
from dataclasses import replace
from typing import Literal, final

import numpy as np
import torch
from numpy.typing import NDArray

from dukd.core.text import shown
from dukd.data.draw import Draw, Sample
from dukd.data.names import size
from dukd.data.pack import Pack
from dukd.data.resident import Resident
from dukd.data.source import Batch, Batches, Recurring
from dukd.images.degrade import Degradation

_SHOWN = 20

Residence = Literal["auto", "always", "never"]
"""Whether all images are copied to the device."""


@final
class Patches:
    """Random patches of a pack, in batches that depend on the seed and their number alone.

    Args:
        pack: Where the images are.
        patch: Rows and columns of a low-resolution patch.
        batch: Patches in a batch, over all processes.
        seed: Decides everything that is random; not negative.
        flips: Mirror half of the patches, in each direction.
        rotations: Turn the patches by multiples of 90 degrees, all equally likely.
        period: Number of different batches, after which they repeat; 0 for no end. What a teacher
            gives for them can be kept.
        degradation: What makes the low-resolution patches; none leaves them as they were packed.
            Sample ``g`` draws from ``default_rng([seed, g, 2])``, and surroundings as wide as the
            degradation's margin are degraded with the patch.
        by_area: Show each image in proportion to its area, in place of once per epoch (which is
            what papers do).

    Raises:
        ValueError: If a number is out of range, or images are smaller than a patch; they are
            listed.
    """

    def __init__(
        self,
        pack: Pack,
        *,
        patch: int = 48,
        batch: int = 16,
        seed: int = 10,
        flips: bool = True,
        rotations: bool = True,
        period: int = 0,
        by_area: bool = False,
        degradation: Degradation | None = None,
    ) -> None:
        for name, value, least in (
            ("patch", patch, 1),
            ("batch", batch, 1),
            ("seed", seed, 0),
            ("period", period, 0),
        ):
            if value < least:
                raise ValueError(f"{name} is at least {least}, but got {value}")
        small = [record for record in pack.records if min(record.height, record.width) < patch]
        if small:
            names = ", ".join(
                f"{shown(record.name)} ({size(record.width, record.height)})"
                for record in small[:_SHOWN]
            )
            more = f" and {len(small) - _SHOWN} more" if len(small) > _SHOWN else ""
            largest = min(min(record.height, record.width) for record in small)
            raise ValueError(
                f"{len(small)} of {len(pack)} low-resolution images are smaller than a patch of "
                f"{patch}: {names}{more}; use a patch of at most {largest}, or leave these images "
                "out"
            )
        self.pack = pack
        self.degradation = None if degradation is None or degradation.fixed else degradation
        self.patch = patch
        self._draw = Draw(
            heights=tuple(record.height for record in pack.records),
            widths=tuple(record.width for record in pack.records),
            patch=patch,
            batch=batch,
            seed=seed,
            flips=flips,
            rotations=rotations,
            period=period,
            by_area=by_area,
        )

    @property
    def digest(self) -> str:
        """The pack's: equal for equal images; another one where they are degraded anew."""
        if self.degradation is None:
            return self.pack.digest
        content = f"{self.pack.digest} {self.degradation!r}"
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def lr_source(self) -> str:
        """Where the low-resolution patches come from, in words."""
        return self.pack.lr_source if self.degradation is None else self.degradation.name

    def samples(self, k: int, rank: int = 0, world: int = 1) -> list[Sample]:
        """What the patches of batch ``k`` show, in order."""
        return self._draw.samples(k, rank, world)

    def names(self, k: int, rank: int = 0, world: int = 1) -> list[str]:
        """Names of the images in batch ``k``, in order."""
        return [self.pack.records[sample.image].name for sample in self.samples(k, rank, world)]

    def batch(self, k: int, rank: int = 0, world: int = 1) -> Batch:
        """Cut batch ``k``, or the share of one of several processes.

        Args:
            k: Number of the batch, from 0.
            rank: Number of this process.
            world: How many processes share the batch; a divisor of it.

        Returns:
            ``lr`` ``(n, 3, p, p)`` and ``hr`` ``(n, 3, p * scale, p * scale)``, uint8, where ``n =
            batch / world``.

        Raises:
            ValueError: If a number is out of range.
        """
        samples = self.samples(k, rank, world)
        first = self._draw.first(k, rank, world)
        p, s = self.patch, self.pack.scale
        lr = np.empty((len(samples), 3, p, p), np.uint8)
        hr = np.empty((len(samples), 3, p * s, p * s), np.uint8)
        for i, sample in enumerate(samples):
            try:
                if self.degradation is not None:
                    self._degrade(self.degradation, sample, first + i, lr[i], hr[i])
                    continue
                _cut(self.pack.lr(sample.image), sample, p, 1, lr[i])
                _cut(self.pack.hr(sample.image), sample, p, s, hr[i])
            except Exception as error:
                error.add_note(
                    f"while cutting a patch of {shown(self.pack.records[sample.image].name)}, "
                    f"batch {k}"
                )
                raise
        return torch.from_numpy(lr), torch.from_numpy(hr)

    def _degrade(
        self,
        degradation: Degradation,
        sample: Sample,
        g: int,
        lr: NDArray[np.uint8],
        hr: NDArray[np.uint8],
    ) -> None:
        """Degrade a window with its surroundings, and cut the patch out of both."""
        s, p = self.pack.scale, self.patch
        record = self.pack.records[sample.image]
        tops, lefts = (
            (max(0, at - degradation.margin), min(length, at + p + degradation.margin))
            for at, length in ((sample.top, record.height), (sample.left, record.width))
        )
        image = self.pack.hr(sample.image)
        window = np.ascontiguousarray(image[tops[0] * s : tops[1] * s, lefts[0] * s : lefts[1] * s])
        truth = degradation.truth(window)
        low = degradation.apply(truth, s, np.random.default_rng([self._draw.seed, g, 2]))
        within = replace(sample, top=sample.top - tops[0], left=sample.left - lefts[0])
        _cut(low, within, p, 1, lr)
        _cut(truth, within, p, s, hr)

    def of(self, pack: Pack) -> "Patches":
        """The same patches, at equal places under equal flips, of a pack of equal lr sizes.

        Raises:
            ValueError: If their sizes differ.
        """
        own, other = ([(r.height, r.width) for r in p.records] for p in (self.pack, pack))
        if own != other:
            raise ValueError(f"{shown(pack.path)} and {shown(self.pack.path)} differ in sizes")
        found = copy.copy(self)
        found.pack = pack
        return found

    def near(self, device: torch.device, residence: Residence) -> Batches:
        """Decide where patches are cut; degraded ones that come again are kept.

        Args:
            device: Where they are wanted.
            residence: Whether all images are copied there; by default where it is a GPU and they
                take at most half of its free memory.

        Raises:
            ValueError: If they are always to be copied and do not fit.
        """
        if self.degradation is not None:
            if residence == "always":
                raise ValueError(
                    f"the degradation {self.degradation.name} is computed on the processor: leave "
                    "data.resident at auto"
                )
            return Recurring(self, self._draw.period) if self._draw.period else self
        if residence == "auto":
            fits = (
                device.type == "cuda"
                and self.pack.pixels.size <= torch.cuda.mem_get_info(device)[0] / 2
            )
            residence = "always" if fits else "never"
        return self.on_device(device) if residence == "always" else self

    def on_device(self, device: torch.device | str) -> "Resident":
        """Copy all images to ``device`` and cut there: the same batches, without the processor.

        Raises:
            ValueError: If a GPU's free memory is too small for the pack.
        """
        return Resident(self.pack, self._draw, torch.device(device))


def _cut(
    image: NDArray[np.uint8], sample: Sample, patch: int, scale: int, out: NDArray[np.uint8]
) -> None:
    """Copy a patch ``(h, w, 3)`` into ``out`` ``(3, h, w)``."""
    top, left, length = sample.top * scale, sample.left * scale, patch * scale
    # Whole rows are fetched first: reading the map once per channel takes twice as long.
    view = np.ascontiguousarray(image[top : top + length, left : left + length])
    if sample.flip_rows:
        view = view[::-1]
    if sample.flip_columns:
        view = view[:, ::-1]
    out[:] = view.transpose(2, 1, 0) if sample.transpose else view.transpose(2, 0, 1)
