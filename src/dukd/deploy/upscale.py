"""Enlarge images of any size and kind with a network, and folders of them.

A large image is cut into tiles (``dukd.deploy.tiles``) and enlarged as the whole would be. What
cannot be read is listed, and the others are done: one after the other here, or by another engine
(``dukd.deploy.workers``).
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  the name everybody knows

from dukd import images
from dukd.core.files import Progress, silent
from dukd.deploy import tiles
from dukd.deploy.tiles import plan
from dukd.images import Image, ImageError, resize
from dukd.networks import Network
from dukd.networks.base import set_memory_format

_LONGEST_NAME = 255  # bytes of a file name on common file systems


def _quiet(note: str) -> None:
    """Tell nobody."""


def upscale_image(
    network: Network,
    image: Image,
    *,
    tile: int | None = None,
    device: torch.device | str = "cpu",
    precision: torch.dtype = torch.float32,
    self_ensemble: bool = False,
    progress: Progress = silent,
    report: Callable[[str], None] = _quiet,
) -> Image:
    """Enlarge one image by the network's scale.

    Gray stays gray, 16 bits stay 16 bits, profile and EXIF are carried over. Transparency is
    enlarged beside the colors, bicubic; colors under full transparency are filled in from their
    surroundings first, so that none of them bleeds into visible edges.

    Args:
        network: Asked in eval mode; it is moved to the device and stays there.
        image: Of at least one pixel.
        tile: Largest side of a part, as in ``plan``.
        device: Where the network runs; it never holds more than one tile.
        precision: ``torch.float32``, or ``torch.bfloat16`` or ``torch.float16`` for mixed
            precision.
        self_ensemble: Whether to answer as the mean over the eight flips and rotations.
        progress: Told after every tile.
        report: Told if the answer is approximate, and why.

    Raises:
        ValueError: If the network is not safe in float16, or answers with something that is no
            number.
        MemoryError: If not even the smallest tile finds memory.
    """
    if precision == torch.float16 and not network.fp16_safe:
        raise ValueError(f"{network.config.name} overflows in float16: use bfloat16 or float32")
    colors = image.pixels
    if image.alpha is not None and not image.alpha.all():
        colors = _filled(colors, image.alpha)
    height, width = colors.shape[:2]
    tiling = plan(network, height, width, tile=tile, self_ensemble=self_ensemble)
    training = network.training
    set_memory_format(network.to(device).eval())
    try:
        pixels, note = tiles.answer(
            network,
            colors,
            tiling,
            device=torch.device(device),
            precision=precision,
            self_ensemble=self_ensemble,
            progress=progress,
        )
    finally:
        network.train(training)
    if note:
        report(note)
    return replace(image, pixels=pixels, alpha=_resized(image.alpha, pixels.shape[:2]))


def _filled(colors: images.Pixels, alpha: images.Pixels) -> images.Pixels:
    """Give fully transparent pixels the colors around them; visible pixels stay as they are."""
    x = torch.from_numpy(colors.astype(np.float32)).permute(2, 0, 1)[None]
    visible = torch.from_numpy(alpha.astype(np.float32) / np.iinfo(alpha.dtype).max)[None, None]
    filled = _pushed(x, visible)[0].permute(1, 2, 0).round().numpy().astype(colors.dtype)
    result: NDArray[np.uint8 | np.uint16] = np.where(alpha[..., None] > 0, colors, filled)
    return result


def _pushed(x: Tensor, weight: Tensor) -> Tensor:
    """Fill ``x`` ``(1, c, h, w)`` where ``weight`` ``(1, 1, h, w)`` is 0, from coarser means."""
    if max(x.shape[-2:]) == 1 or bool((weight > 0).all()):
        return x
    totals, weights = (F.avg_pool2d(a, 2, ceil_mode=True) for a in (x * weight, weight))
    coarse = _pushed(totals / weights.clamp(min=1e-9), weights)
    nearby = F.interpolate(
        coarse, size=(2 * coarse.shape[-2], 2 * coarse.shape[-1]), mode="nearest"
    )
    return torch.where(weight > 0, x, nearby[..., : x.shape[-2], : x.shape[-1]])


def _resized(plane: images.Pixels | None, size: tuple[int, int]) -> images.Pixels | None:
    """Resize ``(h, w)`` or ``(h, w, c)`` bicubic, rounded and clipped."""
    if plane is None:
        return None
    planes = plane if plane.ndim == 3 else plane[..., None]
    x = images.to_tensor(planes, channels=planes.shape[2])
    levels = images.from_tensor(resize.imresize(x, size=size), bits=8 * plane.dtype.itemsize)
    return levels if plane.ndim == 3 else levels[..., 0]


@dataclass(frozen=True)
class Done:
    """An image that was enlarged."""

    source: Path
    target: Path
    note: str | None
    """That the answer is approximate, if it is."""


@dataclass(frozen=True)
class Failed:
    """An image that was not."""

    source: Path
    reason: str


@dataclass(frozen=True)
class Upscaled:
    """What became of every input."""

    done: tuple[Done, ...]
    skipped: tuple[Path, ...]
    """Sources whose results were there already."""
    failed: tuple[Failed, ...]


@dataclass(frozen=True)
class Job:
    """An image to enlarge."""

    source: Path
    target: Path
    tiles: int
    """How many it is cut into, as far as is known beforehand: what progress counts."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How every image of a run is enlarged; explained at ``upscale_files``."""

    outscale: float | None = None
    quality: int = 95
    max_pixels: int = images.MAX_PIXELS
    tile: int | None = None
    device: torch.device | str = "cpu"
    precision: torch.dtype = torch.float32
    self_ensemble: bool = False
    text: Mapping[str, str]
    """Notes for the results, where the format has room for them."""


Outcome = Done | Failed

Engine = Callable[[Network, Sequence[Job], Options, Progress], Generator[Outcome, None, None]]
"""Does jobs in any order, and yields what became of each as soon as that is known; progress counts
tiles."""


def enlarge(network: Network, job: Job, options: Options, progress: Progress = silent) -> Outcome:
    """Read an image, enlarge it and write the result, whole or not at all.

    Args:
        network: As for ``upscale_image``.
        job: What to read, and where to write.
        options: How.
        progress: Told after every tile.

    Returns:
        Failed if the image cannot be read, the result cannot be written, or memory does not
        suffice.

    Raises:
        ValueError: If the network is at fault, as for ``upscale_image``.
    """
    notes: list[str] = []
    try:
        image = images.read(job.source, max_pixels=options.max_pixels)
        result = upscale_image(
            network,
            image,
            tile=options.tile,
            device=options.device,
            precision=options.precision,
            self_ensemble=options.self_ensemble,
            progress=progress,
            report=notes.append,
        )
        if options.outscale is not None and options.outscale != network.scale:
            result = _rescaled(result, image, options.outscale)
        images.write(job.target, result, quality=options.quality, text=options.text)
    except ImageError as error:
        return Failed(job.source, str(error))
    except MemoryError as error:
        return Failed(job.source, f"{job.source}: {error}")
    return Done(job.source, job.target, next(iter(notes), None))


def one_by_one(
    network: Network, jobs: Sequence[Job], options: Options, progress: Progress
) -> Generator[Outcome, None, None]:
    """Do jobs in this process, in their order: the ``Engine`` that needs nothing else."""
    total, before = sum(job.tiles for job in jobs), 0
    for job in jobs:

        def told(
            count: int, _total: int, _what: str, *, before: int = before, job: Job = job
        ) -> None:
            progress(before + count, total, job.source.name)

        yield enlarge(network, job, options, told)
        before += job.tiles


@dataclass(frozen=True)
class _Found:
    source: Path
    folder: Path
    """Below the output folder."""
    head: images.Header

    def name(self, suffix: str, *, whole: bool) -> str:
        """File name of the result; with ``whole``, the old extension stays in it."""
        kept = self.source.suffix.lower()
        transparent = self.head.mode in {"LA", "RGBA", "PA", "La", "RGBa"}
        if not images.can_hold(kept, bits=self.head.bits, alpha=transparent):
            kept = ".png"
        stem = self.source.name if whole else self.source.stem
        if len(os.fsencode(stem + suffix + kept)) > _LONGEST_NAME:
            mark = "~" + hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]
            room = _LONGEST_NAME - len(os.fsencode(mark + suffix + kept))
            stem = os.fsencode(stem)[:room].decode(errors="ignore") + mark
        return stem + suffix + kept


def upscale_files(
    network: Network,
    inputs: Sequence[Path],
    out: Path,
    *,
    model: str = "",
    suffix: str | None = None,
    recursive: bool = False,
    skip_existing: bool = False,
    outscale: float | None = None,
    quality: int = 95,
    max_pixels: int = images.MAX_PIXELS,
    tile: int | None = None,
    device: torch.device | str = "cpu",
    precision: torch.dtype = torch.float32,
    self_ensemble: bool = False,
    progress: Progress = silent,
    engine: Engine = one_by_one,
) -> Upscaled:
    """Enlarge files and folders of images; what cannot be read is listed, and the others are done.

    ``a.png`` becomes ``a_x4.png``. The format stays, or becomes PNG where it cannot hold the image
    or is not written (GIF). Where two images would get one name, as ``a.gif`` and ``a.png``, both
    keep their old extension in it: ``a.gif_x4.png``, ``a.png_x4.png``.

    Args:
        network: As for ``upscale_image``.
        inputs: Files, whatever their names, and folders, in which the extensions of images count.
        out: Folder of the results, made if missing; folders below an input folder are repeated in
            it.
        model: Name of the model for a text chunk in PNG results.
        suffix: Put behind the name; ``_x4`` for a scale of 4 if left out.
        recursive: Whether folders below the inputs are searched too; links to folders are not
            followed.
        skip_existing: Whether images are left out whose result is there and not older than they
            are.
        outscale: Final size as a factor of the input's, reached from the network's own scale by
            bicubic resizing.
        quality: Of JPEG and WebP, as for ``images.write``.
        max_pixels: Largest input.
        tile: As for ``upscale_image``, like all that follow.
        device: See there.
        precision: See there.
        self_ensemble: See there.
        progress: Told after every tile of all images, with the name of the image.
        engine: Who does the work: this process, or ``dukd.deploy.workers.Workers``.

    Raises:
        ValueError: If there is no image among the inputs, an input folder is the output folder, or
            ``outscale`` is not positive.
    """
    if outscale is not None and not outscale > 0:
        raise ValueError(f"the final scale is a positive number, but got {outscale}")
    if suffix is None:
        suffix = f"_x{outscale or network.scale:g}"
    failed: list[Failed] = []
    found = _found(inputs, out, recursive=recursive, max_pixels=max_pixels, failed=failed)
    targets = _targets(found, out, suffix, failed)
    skipped = {
        source
        for source, (_, target) in targets.items()
        if skip_existing and _finished(source, target)
    }
    jobs = [
        Job(
            source,
            target,
            plan(network, head.height, head.width, tile=tile, self_ensemble=self_ensemble).count,
        )
        for source, (head, target) in targets.items()
        if source not in skipped
    ]
    options = Options(
        outscale=outscale,
        quality=quality,
        max_pixels=max_pixels,
        tile=tile,
        device=device,
        precision=precision,
        self_ensemble=self_ensemble,
        text={
            "Comment": f"enlarged {network.scale} times by {model or network.config.name} with dukd"
        },
    )
    with closing(engine(network, jobs, options, progress)) as results:
        outcomes = {outcome.source: outcome for outcome in results}
    ordered = [outcomes[job.source] for job in jobs]
    done = tuple(outcome for outcome in ordered if isinstance(outcome, Done))
    failed += [outcome for outcome in ordered if isinstance(outcome, Failed)]
    return Upscaled(done, tuple(source for source in targets if source in skipped), tuple(failed))


def _rescaled(result: Image, image: Image, outscale: float) -> Image:
    h, w = (max(1, round(n * outscale)) for n in image.pixels.shape[:2])
    pixels = _resized(result.pixels, (h, w))
    assert pixels is not None
    return replace(result, pixels=pixels, alpha=_resized(result.alpha, (h, w)))


def _found(
    inputs: Sequence[Path], out: Path, *, recursive: bool, max_pixels: int, failed: list[Failed]
) -> list[_Found]:
    """Find the images and look at their headers; what fails is added to ``failed``."""
    found: dict[Path, Path] = {}  # source: folder below the output folder
    for path in map(Path, inputs):
        if not path.is_dir():
            found.setdefault(path, Path())
            continue
        if path.resolve() == out.resolve():
            raise ValueError(
                f"{path}: results would be taken for images on the next run; write to another "
                "folder"
            )
        for folder, below, names in os.walk(path):
            here = Path(folder)
            below[:] = sorted(
                b for b in below if recursive and (here / b).resolve() != out.resolve()
            )
            for name in sorted(names):
                if Path(name).suffix.lower() in images.EXTENSIONS and not name.startswith("."):
                    found.setdefault(here / name, here.relative_to(path))
    if not found:
        raise ValueError(
            f"no images in {', '.join(map(str, inputs))}"
            if inputs
            else "name images, or folders of them"
        )
    entries: list[_Found] = []
    for source, folder in found.items():
        try:
            entries.append(_Found(source, folder, images.header(source, max_pixels=max_pixels)))
        except ImageError as error:
            failed.append(Failed(source, str(error)))
    return entries


def _targets(
    found: Sequence[_Found], out: Path, suffix: str, failed: list[Failed]
) -> dict[Path, tuple[images.Header, Path]]:
    """Name every result: no two alike, even where case is ignored, and none over an input."""
    names = {one.source: out / one.folder / one.name(suffix, whole=False) for one in found}
    shared = _repeated(names.values())
    for one in found:
        if _key(names[one.source]) in shared:
            names[one.source] = out / one.folder / one.name(suffix, whole=True)
    shared = _repeated(names.values())
    sources = {one.source.resolve() for one in found}
    targets: dict[Path, tuple[images.Header, Path]] = {}
    for one in found:
        target = names[one.source]
        if _key(target) in shared:
            failed.append(
                Failed(one.source, f"{one.source}: another input would be written to {target} too")
            )
        elif target.resolve() in sources:
            failed.append(
                Failed(one.source, f"{one.source}: the result would overwrite the input {target}")
            )
        else:
            targets[one.source] = (one.head, target)
    return targets


def _key(path: Path) -> str:
    return str(path).casefold()


def _repeated(paths: Iterable[Path]) -> set[str]:
    return {key for key, count in Counter(map(_key, paths)).items() if count > 1}


def _finished(source: Path, target: Path) -> bool:
    return target.is_file() and target.stat().st_mtime >= source.stat().st_mtime
