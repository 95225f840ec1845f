"""Enlarge images of any size and kind, and folders of them.

A large image is cut into tiles (`dukd.networks.tiles`) and enlarged as the whole would be. What
cannot be read is listed, and the others are done: one after the other here, or by worker processes
(`dukd.deploy.workers`).
"""

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from dukd.core.files import Progress, silent
from dukd.core.given import as_paths
from dukd.core.once import Repeat
from dukd.deploy import targets
from dukd.deploy.fastest import fastest
from dukd.deploy.job import (
    Done,
    Engine,
    Failed,
    Job,
    UpscaleOptions,
    one_by_one,
)
from dukd.deploy.model import Model
from dukd.deploy.targets import Source, Target
from dukd.deploy.workers import Workers
from dukd.networks import Network, Quantized, tiles
from dukd.networks.upscaler import SelfEnsemble, Upscaler

__all__ = ["Done", "Failed", "UpscaleOptions", "Upscaled", "upscale"]


@dataclass(frozen=True)
class Upscaled:
    """What became of every input."""

    done: tuple[Done, ...]
    skipped: tuple[Path, ...]
    """Sources whose results were there already."""
    failed: tuple[Failed, ...]
    passed_over: Counter[str]
    """What of the input folders is not an image for us, counted by kind."""
    repeated: tuple[Repeat, ...] = ()
    """Names that lead to an image or a folder that was named before, each with the earlier one."""


def upscale(
    model: Upscaler,
    inputs: Iterable[Path | str] | Path | str,
    out: Path | str,
    options: UpscaleOptions | None = None,
    *,
    progress: Progress = silent,
    engine: Engine | None = None,
    report: Callable[[str], None] = lambda _note: None,
) -> Upscaled:
    """Enlarge files and folders of images; what cannot be read is listed, and the others are done.

    ``a.png`` becomes ``a_x4.png`` (see `dukd.images.naming`). The format stays, or becomes PNG
    where it cannot hold the image or is not written (GIF).

    Args:
        model: A network, or anything else that `dukd.load` gives.
        inputs: Files, whatever their names, and folders, of which images count; or one of these.
        out: Folder of the results, made if missing; folders below an input folder are repeated in
            it.
        options: How; by default as the model is.
        progress: Called after every tile of all images, with the name of the image.
        engine: Who does the work, if not the one that ``options.workers`` names.
        report: Called with a sentence that says which runtime was chosen, and why.

    Raises:
        ValueError: If there is no image among the inputs, or the model is at fault.
        OSError: If the output folder cannot be written.

    Example:
        ``dukd.upscale(dukd.load("student.safetensors"), ["photos"], "out")``
    """
    options, out = options or UpscaleOptions(), Path(out)
    found = targets.find(as_paths("what is enlarged", inputs), out, options)
    named, clashes = targets.name_targets(found.sources, out, model.scale, options)
    skipped = [
        source
        for source, target in named.items()
        if options.skip_existing and _finished(source, target.path)
    ]
    wanted = [s for s in found.sources if s.path in named and s.path not in skipped]
    jobs = [_job(source, named[source.path], model, options) for source in wanted]
    targets.check_place(out, wanted)
    text = {"Comment": f"enlarged {model.scale} times by {model.name} with dukd"}
    engine = engine or (
        Workers(options.workers, options.ray_address) if options.workers else one_by_one
    )
    inner = model.upscaler if isinstance(model, Model) else model
    pixels = sum(s.header.width * s.header.height * s.header.frames for s in wanted)
    options = chosen(inner, pixels, options, report)
    with closing(engine(inner, jobs, options, text, progress)) as results:
        outcomes = {outcome.source: outcome for outcome in results}
    ordered = [outcomes[job.source] for job in jobs]
    done = tuple(outcome for outcome in ordered if isinstance(outcome, Done))
    failed = (*found.failed, *clashes, *(o for o in ordered if isinstance(o, Failed)))
    return Upscaled(done, tuple(skipped), failed, found.passed_over, tuple(found.repeated))


def chosen(
    model: Upscaler,
    pixels: int,
    options: UpscaleOptions,
    report: Callable[[str], None] = lambda _note: None,
) -> UpscaleOptions:
    """The options with the fastest runtime for this work, where they leave it open.

    Args:
        model: What enlarges.
        pixels: Of all inputs together.
        options: How.
        report: Called with a sentence that says which runtime was chosen, and why.
    """
    if not isinstance(model, Network) or isinstance(model, Quantized) or options.exact:
        return options
    if (options.runtime, options.precision) != ("auto", "auto"):
        return options
    passes = 8 if options.self_ensemble else 1
    way = fastest(model, passes * pixels, device=options.device, report=report)
    return replace(options, runtime=way.engine, precision=way.precision)


def _job(source: Source, target: Target, model: Upscaler, options: UpscaleOptions) -> Job:
    planned = SelfEnsemble(model) if options.self_ensemble else model
    head = source.header
    tiling = tiles.plan(planned, head.height, head.width, tile=options.tile or None)
    return Job(
        source.path,
        target.path,
        tiling.count * head.frames,
        target.note,
        head.frames,
        head.width * head.height * model.scale**2,
    )


def _finished(source: Path, target: Path) -> bool:
    return target.is_file() and target.stat().st_mtime >= source.stat().st_mtime
