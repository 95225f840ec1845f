"""One image of a run of many: what to do with it, and what became of it."""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dukd import images
from dukd.core.device import DeviceName, is_out_of_memory
from dukd.core.files import Progress, silent
from dukd.deploy import engine
from dukd.deploy.engine import Precision
from dukd.deploy.image import resized, upscale_image
from dukd.images import Image, ImageError
from dukd.networks import Network
from dukd.networks.upscaler import SelfEnsemble, Upscaler, UpscalerError

_ENDLESS = 1e12
_BESIDE = 16_000_000
"""Pixels of a result up to which files are read and written beside the work."""

Format = Literal["same", "png", "jpg", "webp", "tif", "bmp", "avif"]


@dataclass(frozen=True, kw_only=True)
class UpscaleOptions:
    """How images are enlarged, for `dukd.upscale` and for the command line alike."""

    outscale: float | None = None
    """Final size as a factor of the input's, if it is not the model's; reached by bicubic
    resizing."""
    tile: int | None = None
    """Side of the pieces large images are cut into, in pixels of the input; chosen by itself if
    left out or 0."""
    self_ensemble: bool = False
    """Whether the output is the mean over eight flips and rotations: eight times slower, a little
    better."""
    format: Format = "same"
    """Format of the results; same is that of the input, or PNG where it cannot hold the result."""
    quality: int | None = None
    """Quality of JPEG, WebP and AVIF, 1 to 100; 95 if left out, and a lossless WebP stays
    lossless."""
    suffix: str | None = None
    """What is put behind the names; _x4 for a scale of 4 if left out."""
    recursive: bool = False
    """Whether folders below are searched too."""
    skip_existing: bool = False
    """Whether images are left out whose results are there and not older than they are; otherwise
    results are overwritten."""
    max_pixels: int = images.MAX_PIXELS
    """Largest input, in pixels."""
    precision: Precision | Literal["auto"] = "auto"
    """Arithmetic of the network; auto is float32, or bfloat16 where the processor multiplies it
    itself and at most 0.01 dB are lost."""
    runtime: engine.Engine | Literal["auto"] = "auto"
    """What runs the network; auto tries all that is installed where there is much to do, and
    remembers which is the fastest for this student on this machine."""
    exact: bool = False
    """Whether to run the network as it was trained: by torch, in float32."""
    device: DeviceName = "auto"
    """Where the network runs; on a cluster, say cuda to give each worker a GPU or its share of
    one."""
    workers: int = 0
    """Processes that share the images and the cores or GPUs, by Ray; with 0, all is done in this
    one."""
    ray_address: str | None = None
    """Ray cluster on which the workers run, host:port, or auto for one on this machine; a private
    one if left out."""

    def __post_init__(self) -> None:
        """Refuse what cannot be done, in the words of the command line."""
        if self.outscale is not None and not 0 < self.outscale < math.inf:
            raise ValueError(f"the final scale is a positive number, but got {self.outscale}")
        if self.tile is not None and self.tile < 0:
            raise ValueError(f"--tile is a number of pixels, but got {self.tile}")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(f"--quality is 1 to 100, but got {self.quality}")
        if self.suffix is not None and set(self.suffix) & set('/\\\0:*?"<>|\n\r'):
            raise ValueError(f"--suffix is part of a file name, but got {self.suffix!r}")
        if self.exact and (self.runtime, self.precision) != ("auto", "auto"):
            raise ValueError("--exact is torch in float32: leave --runtime and --precision out")
        if self.max_pixels < 1:
            raise ValueError(f"--max-pixels is at least 1, but got {self.max_pixels}")
        if self.workers < 0:
            raise ValueError(f"--workers is 0, for none, or more, but got {self.workers}")
        if self.ray_address is not None and not self.workers:
            raise ValueError("--ray-address is for workers: say how many with --workers")


@dataclass(frozen=True)
class Done:
    """An image that was enlarged."""

    source: Path
    target: Path
    note: str | None
    """What is worth knowing of the result, such as that it is approximate."""


@dataclass(frozen=True)
class Failed:
    """An image that was not."""

    source: Path
    reason: str


Outcome = Done | Failed


@dataclass(frozen=True)
class Job:
    """An image to enlarge."""

    source: Path
    target: Path
    tiles: int
    """How many it is cut into, as far as is known beforehand: what progress counts."""
    note: str | None = None
    """What is known before the work, such as that the format was changed."""
    frames: int = 1
    """Frames of an animation or pages, which are enlarged one by one."""
    pixels: int = 1 << 62
    """Of one enlarged frame; where there are few, files are read and written beside the work."""


Engine = Callable[
    [Upscaler, Sequence[Job], UpscaleOptions, Mapping[str, str], Progress],
    Generator[Outcome, None, None],
]
"""Does jobs in any order, and yields what became of each as soon as that is known; progress counts
tiles, the mapping holds notes for files that have room for them."""


def ready(model: Upscaler, options: UpscaleOptions) -> Upscaler:
    """The model as the options want it: on a device, in a precision, as an ensemble.

    Raises:
        ValueError: If there is no such device, or the network overflows in float16.
    """
    if isinstance(model, Network):
        model = engine.run_by(
            model,
            "torch" if options.runtime == "auto" else options.runtime,
            device=options.device,
            precision="float32" if options.precision == "auto" else options.precision,
        )
    elif options.runtime not in _runs_by_itself(model):
        raise ValueError(f"{model.name} is for one runtime: --runtime is for files of weights")
    elif options.precision not in {"float32", "auto"}:
        raise ValueError(
            f"{model.name} computes as it was exported: --precision is for files of weights"
        )
    return SelfEnsemble(model) if options.self_ensemble else model


def _runs_by_itself(model: Upscaler) -> set[str]:
    """What may be named for a model that brings its own runtime."""
    return {"torch", "auto", getattr(model, "engine", "torch")}


def enlarge(
    upscaler: Upscaler,
    job: Job,
    options: UpscaleOptions,
    text: Mapping[str, str],
    progress: Progress = silent,
) -> Outcome:
    """Read an image, enlarge it and write the result, whole or not at all.

    Whatever is wrong with one image becomes a `Failed`, since others wait.

    Args:
        upscaler: What enlarges, as `ready` gives it.
        job: What to read, and where to write.
        options: How.
        text: Notes for the result, where the format has room for them.
        progress: Called after every tile.

    Raises:
        UpscalerError: If the upscaler is at fault, whatever the image.
    """
    image = read(job, options)
    if isinstance(image, Failed):
        return image
    made = _made(upscaler, job, image, options, progress)
    return made if isinstance(made, Done | Failed) else _written(job, *made, options, text)


def read(job: Job, options: UpscaleOptions) -> Image | Failed | None:
    """The image of a job; None for frames, which are read one by one."""
    if job.frames > 1:
        return None
    try:
        return images.read(job.source, max_pixels=options.max_pixels)
    except Exception as error:  # noqa: BLE001  one image must not end the others
        return _failed(job, error)


def _made(
    upscaler: Upscaler,
    job: Job,
    image: Image | None,
    options: UpscaleOptions,
    progress: Progress,
) -> tuple[Image, list[str]] | Outcome:
    """An enlarged image with its notes, which is to be written; or what became of frames."""
    try:
        if image is not None:
            return _enlarged(upscaler, image, options, progress)
        return _done(job, _enlarge_frames(upscaler, job, options, progress))
    except UpscalerError:
        raise
    except Exception as error:  # noqa: BLE001  one image must not end the others
        return _failed(job, error)


def _written(
    job: Job, result: Image, notes: list[str], options: UpscaleOptions, text: Mapping[str, str]
) -> Outcome:
    try:
        left = images.write(job.target, result, quality=options.quality, text=text)
    except Exception as error:  # noqa: BLE001  one image must not end the others
        return _failed(job, error)
    return _done(job, [*notes, *left])


def _done(job: Job, notes: list[str]) -> Done:
    known = [job.note] if job.note else []
    return Done(job.source, job.target, "; ".join([*known, *notes]) or None)


def _failed(job: Job, error: Exception) -> Failed:
    said = str(error) if isinstance(error, ImageError) else f"{job.source}: {_reason(error)}"
    return Failed(job.source, said)


def _enlarged(
    upscaler: Upscaler, image: Image, options: UpscaleOptions, progress: Progress
) -> tuple[Image, list[str]]:
    """An image at its final size, and what is worth knowing of it."""
    result, note = upscale_image(upscaler, image, tile=options.tile or None, progress=progress)
    if options.outscale is not None and options.outscale != upscaler.scale:
        h, w = (final_size(n, options.outscale) for n in image.pixels.shape[:2])
        result = resized(result, h, w)
    return result, [*image.notes, *([note] if note else [])]


def _enlarge_frames(
    upscaler: Upscaler, job: Job, options: UpscaleOptions, progress: Progress
) -> list[str]:
    """Enlarge an animation, or the pages of a file, frame by frame."""
    results: list[Image] = []
    durations: list[float] = []
    notes: dict[str, None] = {}  # in their order, once each
    loop = 0
    each = job.tiles // job.frames
    for frame in images.frames(job.source, max_pixels=options.max_pixels):

        def count(done: int, _total: int, what: str, *, number: int = frame.number) -> None:
            progress(number * each + done, job.tiles, what)

        result, found = _enlarged(upscaler, frame.image, options, count)
        results.append(result)
        notes |= dict.fromkeys(found)
        durations += [] if frame.duration is None else [frame.duration]
        loop = frame.loop or 0
    left = images.write_frames(
        job.target, results, durations=durations, loop=loop, quality=options.quality
    )
    return [*notes, *left, f"{job.frames} frames, each for itself"]


def final_size(pixels: int, outscale: float) -> int:
    """Side of a result, in pixels; of one beyond all memory, some such side."""
    return max(1, round(min(pixels * outscale, _ENDLESS)))


def _reason(error: Exception) -> str:
    if is_out_of_memory(error):
        return str(error) or "not enough memory for it"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"{type(error).__name__}: {error}"


def one_by_one(
    model: Upscaler,
    jobs: Sequence[Job],
    options: UpscaleOptions,
    text: Mapping[str, str],
    progress: Progress,
) -> Generator[Outcome, None, None]:
    """Do jobs in this process, in their order: the `Engine` that needs nothing else.

    While an image is enlarged, the next one is read and the last one written, unless they are so
    large that three of them at once would not fit.
    """
    upscaler = ready(model, options)
    total, before = sum(job.tiles for job in jobs), 0
    ahead: Future[Image | Failed | None] | None = None
    behind: Future[Outcome] | None = None
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="files") as pool:
        for number, job in enumerate(jobs):
            following = jobs[number + 1] if number + 1 < len(jobs) else None

            def count(
                done: int, _total: int, _what: str, *, before: int = before, job: Job = job
            ) -> None:
                progress(before + done, total, job.source.name)

            image = read(job, options) if ahead is None else ahead.result()
            ahead, beside = None, job.pixels <= _BESIDE
            if following is not None and beside:
                beside = following.pixels <= _BESIDE
                ahead = pool.submit(read, following, options) if beside else None
            if isinstance(image, Failed):
                made: tuple[Image, list[str]] | Outcome = image
            else:
                made = _made(upscaler, job, image, options, count)
            if behind is not None:
                yield behind.result()
                behind = None
            if isinstance(made, Done | Failed):
                yield made
            elif beside:
                behind = pool.submit(_written, job, *made, options, text)
            else:
                yield _written(job, *made, options, text)
            before += job.tiles
        if behind is not None:
            yield behind.result()
