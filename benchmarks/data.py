"""Patches per second of processor time: PNG files, an LMDB and HDF5 files as others use them,
against a pack.

    python benchmarks/data.py FOLDER_OF_IMAGES [--scale 2] [--images 26] [--out
    docs/results/input.md]

The images are written in each form into a temporary folder, and the same patches are cut from all,
one thread at work, in turns. How others do it:

- BasicSR, files: both PNGs are decoded whole and made float32 whole, then cut.
- BasicSR, LMDB: the same with PNGs of overlapping sub-images of 480 pixels, which
  ``extract_subimages.py`` makes.
- HDF5, as many codebases have it: uint8 arrays, one per image, read whole or only where the patch
  is.

PNGs are decoded by Pillow; OpenCV, which BasicSR uses, takes about three quarters of its time.
Needs the optional packages of ``dukd[benchmarks]``.
"""

import argparse
import io
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import h5py
import lmdb
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dukd import recipes
from dukd.core import files
from dukd.data import Pack, Pairs, Patches, batches, find_pairs, load, prepare
from dukd.data.draw import Sample
from dukd.data.source import Batch
from dukd.evaluation.timing import interleaved
from dukd.images.io import read_rgb8
from dukd.testing import speed
from dukd.training.experiment import Optimization

SIDE, STEP = 480, 240
"""Pixels on a side of a sub-image of hr, and between two."""
BACKGROUND = "pack, one thread in the background"
Pixels = NDArray[np.uint8]
Cut = Callable[[Sample, int], Tensor]
"""Cut what a sample shows, of lr (1) or of hr (the scale): ``(3, h, w)``, uint8, or float32 in [0,
1]."""


@dataclass(frozen=True)
class Rate:
    """How fast patches come."""

    way: str
    """What was measured."""
    per_second: tuple[float, ...]
    """Patches per second of processor time, in each round."""

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.per_second)


def write_pngs(source: Path, folder: Path, *, scale: int, images: int) -> Pairs:
    """Write images as a data set of PNGs: ``HR`` and ``LR_bicubic/X<scale>``."""
    found = find_pairs(source, scale=scale, lr_from_hr=True)
    for pair in found[:images]:
        lr, hr = load(pair)
        for part, path in ((hr, "HR/{}.png"), (lr, f"LR_bicubic/X{scale}/{{}}x{scale}.png")):
            target = folder / path.format(pair.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(part).save(target)
    return find_pairs(folder, scale=scale)


def png_files(pairs: Pairs, patch: int, *, whole_as_float: bool) -> Cut:
    """Decode a file whole for each patch."""

    def cut(sample: Sample, scale: int) -> Tensor:
        pair = pairs[sample.image]
        path = pair.lr if scale == 1 else pair.hr
        assert path is not None
        return turned(read_rgb8(path), sample, patch, scale, whole_as_float=whole_as_float)

    return cut


def write_lmdb(pairs: Pairs, folder: Path) -> Path:
    """Write PNGs of sub-images, as BasicSR's scripts make them."""
    with (
        lmdb.open(str(folder), map_size=1 << 34) as database,
        database.begin(write=True) as transaction,
    ):
        for i, pair in enumerate(pairs):
            for image, scale in zip(load(pair), (1, pairs.scale), strict=True):
                side = SIDE // pairs.scale * scale
                height, width = (n // scale for n in image.shape[:2])
                for row, top in enumerate(starts(height, pairs.scale)):
                    for column, left in enumerate(starts(width, pairs.scale)):
                        part = image[top * scale :, left * scale :][:side, :side]
                        encoded = io.BytesIO()
                        Image.fromarray(part).save(encoded, "png", compress_level=1)
                        transaction.put(f"{i} {scale} {row} {column}".encode(), encoded.getvalue())
    return folder


def starts(length: int, scale: int) -> list[int]:
    """Where sub-images begin along a side of lr: every half one, and one that ends with the
    image.
    """
    side, step = SIDE // scale, STEP // scale
    regular = list(range(0, length - side + 1, step)) or [0]
    return regular if length - regular[-1] <= side else [*regular, length - side]


def lmdb_subimages(folder: Path, patches: Patches) -> Cut:
    """Decode, for each patch, a sub-image that holds it."""
    transaction = lmdb.open(str(folder), readonly=True, lock=False, readahead=False).begin()
    patch, records = patches.patch, patches.pack.records
    largest = patches.pack.scale

    def cut(sample: Sample, scale: int) -> Tensor:
        record = records[sample.image]
        corner: list[int] = []
        key = f"{sample.image} {scale}"
        for at, length in ((sample.top, record.height), (sample.left, record.width)):
            places = starts(length, largest)
            number = next(
                i for i, s in enumerate(places) if s <= at and at + patch <= s + SIDE // largest
            )
            key += f" {number}"
            corner.append(at - places[number])
        with Image.open(io.BytesIO(transaction.get(key.encode()))) as encoded:
            part = np.asarray(encoded)
        return turned(
            part, sample, patch, scale, whole_as_float=True, corner=(corner[0], corner[1])
        )

    return cut


def write_hdf5(pairs: Pairs, path: Path) -> Path:
    """Write every image as an array of uint8."""
    with h5py.File(path, "w") as file:
        for i, pair in enumerate(pairs):
            for image, scale in zip(load(pair), (1, pairs.scale), strict=True):
                file[f"{i}/{scale}"] = image
    return path


def hdf5(path: Path, patch: int, *, whole: bool) -> Cut:
    """Read the image whole, or only the patch."""
    file = h5py.File(path, "r")

    def cut(sample: Sample, scale: int) -> Tensor:
        image = file[f"{sample.image}/{scale}"]
        assert isinstance(image, h5py.Dataset)
        if whole:
            return turned(image[()], sample, patch, scale)
        top, left, length = sample.top * scale, sample.left * scale, patch * scale
        window = image[top : top + length, left : left + length]
        return turned(window, sample, patch, scale, corner=(0, 0))

    return cut


def turned(
    image: Pixels,
    sample: Sample,
    patch: int,
    scale: int,
    *,
    whole_as_float: bool = False,
    corner: tuple[int, int] | None = None,
) -> Tensor:
    """Cut a patch out of an image that begins elsewhere by ``corner``, flip and turn it."""
    values = image.astype(np.float32) / 255 if whole_as_float else image
    (top, left), length = corner or (sample.top, sample.left), patch * scale
    window = values[top * scale :, left * scale :][:length, :length]
    window = window[::-1] if sample.flip_rows else window
    window = window[:, ::-1] if sample.flip_columns else window
    window = window.transpose(1, 0, 2) if sample.transpose else window
    return torch.from_numpy(np.ascontiguousarray(window.transpose(2, 0, 1)))


def cut_batches(cut: Cut, patches: Patches) -> Iterator[Batch]:
    """Batches as data loaders collate them."""
    for k in count():
        samples = patches.samples(k)
        yield (
            torch.stack([cut(s, 1) for s in samples]),
            torch.stack([cut(s, patches.pack.scale) for s in samples]),
        )


def pack_batches(patches: Patches, workers: int = 0) -> Iterator[Batch]:
    """Batches as `dukd train` gets them."""
    with batches(patches, workers=workers) as stream:
        yield from stream


def sources(pairs: Pairs, patches: Patches, folder: Path) -> Mapping[str, Iterator[Batch]]:
    """Every way, with what it reads written into a folder; the first is BasicSR's."""
    patch = patches.patch
    database, arrays = write_lmdb(pairs, folder / "lmdb"), write_hdf5(pairs, folder / "images.h5")
    cuts: dict[str, Cut] = {
        "PNG files, as BasicSR": png_files(pairs, patch, whole_as_float=True),
        "PNG files, cut before anything else": png_files(pairs, patch, whole_as_float=False),
        "LMDB of PNG sub-images, as BasicSR": lmdb_subimages(database, patches),
        "HDF5, images read whole": hdf5(arrays, patch, whole=True),
        "HDF5, only the patch read": hdf5(arrays, patch, whole=False),
    }
    ways = {name: cut_batches(cut, patches) for name, cut in cuts.items()}
    return ways | {"pack": pack_batches(patches), BACKGROUND: pack_batches(patches, workers=1)}


def rates(ways: Mapping[str, Iterator[Batch]], *, seconds: float, rounds: int) -> list[Rate]:
    """Measure in turns, after a batch that warms up; a way's turn lasts ``seconds`` of processor
    time, or one batch.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(-1, rounds):
        for name, way in ways.items():
            done, begun = 0, time.process_time()
            while True:
                done += next(way)[0].shape[0]
                spent = time.process_time() - begun
                if turn < 0 or spent >= seconds:
                    break
            if turn >= 0:
                found[name].append(done / spent)
    return [Rate(name, tuple(values)) for name, values in found.items()]


def table(rates: list[Rate]) -> str:
    """The rates, with their ratio to the first."""
    lines = [
        "| way | patches/s | spread | ms per patch | ratio |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for r in rates:
        spread = (max(r.per_second) - min(r.per_second)) / r.median
        lines.append(
            f"| {r.way} | {r.median:.4g} | {100 * spread:.0f} % | {1e3 / r.median:.3g} | "
            f"{r.median / rates[0].median:.3g} |"
        )
    return "\n".join(lines) + "\n"


def share_of_steps(pack: Rate, *, scale: int, patch: int) -> str:
    """The input's time beside that of EDSR 64 x 32's cheapest steps, in bfloat16."""
    recipe = recipes.recipe(f"edsr-x{scale}-scratch").make()
    optimization = Optimization(precision="bfloat16")
    device = torch.device("cpu")
    with speed.steps(
        recipe.student,
        None,
        device=device,
        method=recipe.method,
        batch=2,
        patch=patch,
        optimization=optimization,
    ) as steps:
        [step] = interleaved({"step": steps.ways["step"]}, device=device, repetitions=3)
    share = 1 / pack.median / (step.median / 2)
    return (
        f"The cheapest training step there is, {steps.named}, bfloat16, takes "
        f"{1e3 * step.median / 2:.0f} ms per patch (spread {100 * step.spread:.0f} %): the pack's "
        f"{1e3 / pack.median:.2f} ms are {100 * share:.2f} % of it. A step with a teacher takes "
        "longer.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--patch", type=int, default=48)
    parser.add_argument("--images", type=int, default=26)
    parser.add_argument("--seconds", type=float, default=1.0, help="processor time of each turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = write_pngs(
            options.source, folder / "png", scale=options.scale, images=options.images
        )
        pngs = sum(p.stat().st_size for p in (folder / "png").rglob("*.png"))
        start = time.process_time()
        pack = prepare(pairs, folder / "pack")
        took = time.process_time() - start
        # One patch at a time: a batch of whole PNGs takes seconds.
        measured = rates(
            sources(pairs, Patches(pack, patch=options.patch, batch=1), folder),
            seconds=options.seconds,
            rounds=options.rounds,
        )
        start = time.perf_counter()
        Pack.open(pack.path)
        opened = time.perf_counter() - start
        size = pack.path.stat().st_size
    by_way = {r.way: r for r in measured}
    sides = [
        f"{records.width * options.scale} x {records.height * options.scale}"
        for records in pack.records
    ]
    command = (
        f"python benchmarks/data.py {options.source.name} --scale {options.scale} --patch "
        f"{options.patch} --images {options.images} --seconds {options.seconds:g} --rounds "
        f"{options.rounds}"
    )
    about = (
        f"{len(pairs)} images, most of {statistics.mode(sides)}, x{options.scale}, patches of "
        f"{options.patch}; one\nprocess, one thread, processor time, on {platform.machine()}. "
        f"Packing takes {took:.1f} s once and {size / 1e6:.0f} MB, {size / pngs:.2f} times\n"
        f"the PNGs; opening a pack takes {1e3 * opened:.1f} ms. All ways "
        "give the same patches, which `tests/test_benchmarks.py` checks."
    )
    share = share_of_steps(by_way["pack"], scale=options.scale, patch=options.patch)
    text = ["# Cost of the input", "", f"    {command}", "", about, "", table(measured), share]
    page = "\n".join(text)
    print(page)
    if options.out:
        files.write_text(options.out, page)


if __name__ == "__main__":
    main()
