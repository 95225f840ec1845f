"""Patches per second of processor time: whole PNGs decoded for every patch, against a pack.

    python benchmarks/data.py FOLDER_OF_PICTURES [--scale 4] [--pictures 26] [--seconds 10]

The pictures are written as PNG, with low-resolution PNGs beside them, into a temporary folder. The first way is that
of the usual training code: decode both files, cut the same window, flip and turn it. The second asks ``Patches``.
Both give the same uint8 tensors. Time is that of the processor, all threads together, with one thread at work.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dukd.data import Pack, Pairs, Patches, batches, find_pairs, load, prepare
from dukd.data.patches import Sample
from dukd.images import read_rgb8


@dataclass(frozen=True)
class Rate:
    """How fast patches come."""

    way: str
    """What was measured."""
    patches: int
    """How many were cut."""
    seconds: float
    """Processor time they took."""

    @property
    def per_second(self) -> float:
        """Patches per second of processor time."""
        return self.patches / self.seconds


def write_pngs(source: Path, folder: Path, *, scale: int, pictures: int) -> Pairs:
    """Write pictures as a data set of PNGs: ``HR`` and ``LR_bicubic/X<scale>``."""
    found = find_pairs(source, scale=scale, lr_from_hr=True)
    for pair in found[:pictures]:
        lr, hr = load(pair)
        for part, path in ((hr, "HR/{}.png"), (lr, f"LR_bicubic/X{scale}/{{}}x{scale}.png")):
            target = folder / path.format(pair.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(part).save(target)
    return find_pairs(folder, scale=scale)


def from_pngs(pairs: Pairs, patches: Patches) -> Iterator[int]:
    """Decode both files whole for each patch; yields how many patches a step gave."""
    for k in count():
        cut = [_decode_and_cut(pairs, patches, sample) for sample in patches.samples(k)]
        _ = torch.stack([lr for lr, _ in cut]), torch.stack([hr for _, hr in cut])
        yield len(cut)


def _decode_and_cut(pairs: Pairs, patches: Patches, sample: Sample) -> tuple[Tensor, Tensor]:
    pair = pairs[sample.picture]
    assert pair.lr is not None
    return (
        _turned(read_rgb8(pair.lr), sample, patches.patch, 1),
        _turned(read_rgb8(pair.hr), sample, patches.patch, pairs.scale),
    )


def _turned(picture: NDArray[np.uint8], sample: Sample, patch: int, scale: int) -> Tensor:
    top, left, length = sample.top * scale, sample.left * scale, patch * scale
    window = picture[top : top + length, left : left + length]
    window = window[::-1] if sample.flip_rows else window
    window = window[:, ::-1] if sample.flip_columns else window
    window = window.transpose(1, 0, 2) if sample.transpose else window
    return torch.from_numpy(np.ascontiguousarray(window.transpose(2, 0, 1)))


def from_pack(patches: Patches, workers: int = 0) -> Iterator[int]:
    """Ask for batches; yields how many patches a step gave."""
    with batches(patches, workers=workers) as stream:
        for lr, _ in stream:
            yield lr.shape[0]


def rate(way: str, steps: Callable[[], Iterator[int]], seconds: float) -> Rate:
    """Measure for a while, after one step that warms up."""
    running = steps()
    next(running)
    done, wall, start = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds:
        done += next(running)
    spent = time.process_time() - start
    del running
    return Rate(way, done, spent)


def compare(pairs: Pairs, pack: Pack, *, patch: int = 48, seconds: float = 10.0) -> list[Rate]:
    """Measure every way on the same pictures; the first is whole PNGs."""
    one, batch = Patches(pack, patch=patch, batch=1), Patches(pack, patch=patch, batch=16)
    return [
        rate("whole PNGs, decoded for each patch", lambda: from_pngs(pairs, one), seconds),
        rate("pack", lambda: from_pack(batch), seconds),
        rate("pack, one thread in the background", lambda: from_pack(batch, workers=1), seconds),
    ]


def table(rates: list[Rate]) -> str:
    """The rates as text, with their ratio to the first."""
    width = max(len(r.way) for r in rates)
    head = f"{'':{width}}  {'patches/s':>10}  {'ms/patch':>9}  {'ratio':>7}"
    lines = [
        f"{r.way:{width}}  {r.per_second:10.1f}  {1e3 / r.per_second:9.3f}  {r.per_second / rates[0].per_second:6.0f}x"
        for r in rates
    ]
    return "\n".join([head, *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--patch", type=int, default=48)
    parser.add_argument("--pictures", type=int, default=26)
    parser.add_argument("--seconds", type=float, default=10.0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        pairs = write_pngs(asked.source, Path(folder), scale=asked.scale, pictures=asked.pictures)
        start = time.perf_counter()
        find_pairs(folder, scale=asked.scale)
        print(f"{2 * len(pairs)} headers checked in {1e3 * (time.perf_counter() - start):.0f} ms")
        start = time.process_time()
        pack = prepare(pairs, Path(folder) / "pack")
        sizes = [Path(pair.hr).stat().st_size + (pair.lr.stat().st_size if pair.lr else 0) for pair in pairs]
        megabytes = pack.path.stat().st_size / 1e6
        print(
            f"{len(pairs)} pairs packed in {time.process_time() - start:.1f} s of processor time: "
            f"{megabytes:.0f} MB, {megabytes * 1e6 / sum(sizes):.2f} times their PNGs"
        )
        start = time.perf_counter()
        Pack.open(pack.path)
        print(f"opened in {1e3 * (time.perf_counter() - start):.2f} ms\n")
        print(table(compare(pairs, pack, patch=asked.patch, seconds=asked.seconds)))


if __name__ == "__main__":
    main()
