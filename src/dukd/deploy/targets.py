"""Which images a run enlarges, and where each result goes: all that is known before the work.

Names never clash, also where file systems ignore case; no input is overwritten; formats that cannot
hold a result are changed, and that is said.
"""

import shutil
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dukd import images
from dukd.core.device import machine_memory
from dukd.core.files import make_writable, real
from dukd.core.once import Repeat, entry, once
from dukd.core.text import amount
from dukd.deploy.job import Failed, UpscaleOptions, final_size
from dukd.images import ImageError
from dukd.images.formats import BY_SUFFIX
from dukd.images.naming import Wanted, distinct

_SHOWN = 4  # sizes that a message lists
_TIFF_PAGES = 4_000_000_000  # bytes of all pages; a single image above that becomes a BigTIFF


@dataclass(frozen=True)
class Source:
    """An image to enlarge."""

    path: Path
    folder: Path
    """Below the output folder."""
    header: images.Header


@dataclass(frozen=True)
class Target:
    """Where a result goes."""

    path: Path
    note: str | None
    """What is known of it before the work."""


@dataclass
class Found:
    """What the inputs hold."""

    sources: list[Source] = field(default_factory=list[Source])
    failed: list[Failed] = field(default_factory=list[Failed])
    passed_over: Counter[str] = field(default_factory=Counter[str])
    """Files that are not images for us and folders that were not entered, counted by kind."""
    repeated: list[Repeat] = field(default_factory=list[Repeat])
    """Names of inputs that lead to what was named before, each with the earlier name."""


def find(inputs: Sequence[Path], out: Path, options: UpscaleOptions) -> Found:
    """Find images and look at their headers.

    Raises:
        ValueError: If there is no image, or an input folder is the output folder.
    """
    found = Found()
    paths: dict[Path, Path] = {}  # of each source its folder below the output folder
    first: dict[Hashable, Path] = {}
    folders, found.repeated = _once(inputs)
    for path in folders:
        if not path.is_dir():
            sources = {path: Path()}
        else:
            inner = _in_folder(path, out, found, recursive=options.recursive)
            sources = {source: source.parent.relative_to(path) for source in inner}
        for source, folder in sources.items():
            if (before := first.setdefault(entry(source), source)) is source:
                paths[source] = folder
            else:
                found.repeated.append((source, before))
    if not paths:
        if not inputs:
            raise ValueError("name images, or folders of them")
        there = images.passed_over(found.passed_over)
        shown = f" ({there})" if there else ""
        raise ValueError(f"no images in {', '.join(map(str, inputs))}{shown}")
    for source, folder in paths.items():
        try:
            header = images.header(source, max_pixels=options.max_pixels)
            found.sources.append(Source(source, folder, header))
        except ImageError as error:
            found.failed.append(Failed(source, str(error)))
    return found


def _once(inputs: Sequence[Path]) -> tuple[list[Path], list[Repeat]]:
    """The inputs without folders that were named before, which are not entered again."""
    _, repeated = once([path for path in inputs if path.is_dir()])
    again = Counter(path for path, _ in repeated)
    kept: list[Path] = []
    for path in reversed(inputs):  # it is the first of equal names that stays
        if again[path]:
            again[path] -= 1
        else:
            kept.insert(0, path)
    return kept, repeated


def _in_folder(path: Path, out: Path, found: Found, *, recursive: bool) -> list[Path]:
    """Images of a folder, in order; those in the output folder below it are results."""
    if real(path) == real(out):
        raise ValueError(
            f"{path}: results would be taken for images on the next run; write to another folder"
        )
    listing = images.list_images(path, recursive=recursive)
    found.passed_over.update(listing.passed_over)
    if not recursive and real(out).parent == real(path) and out.is_dir():
        found.passed_over["folder"] -= 1
    results = real(out)
    if real(path) not in results.parents:
        return sorted(listing.images)
    return sorted(image for image in listing.images if results not in real(image).parents)


def name_targets(
    sources: Sequence[Source], out: Path, scale: int, options: UpscaleOptions
) -> tuple[dict[Path, Target], list[Failed]]:
    """Name every result (`dukd.images.naming`); sources that would be overwritten by one fail."""
    outscale = options.outscale or scale
    suffix = f"_x{outscale:g}" if options.suffix is None else options.suffix
    inputs = {real(s.path) for s in sources}
    formats = {s.path: _format(s.header, s.path, options, scale) for s in sources}
    wanted = [Wanted(s.path, out / s.folder, suffix + formats[s.path][0]) for s in sources]
    named = distinct(wanted)
    targets: dict[Path, Target] = {}
    failed: list[Failed] = []
    for s in sources:
        path, (ending, note) = named[s.path], formats[s.path]
        several = BY_SUFFIX[ending].name if s.header.sizes else ""
        if several and several != "TIFF":
            failed.append(Failed(s.path, f"{s.path}: {_differing(s.header, several)}"))
        elif real(path) in inputs:
            reason = f"{s.path}: the result would overwrite the input {path}"
            failed.append(Failed(s.path, reason))
        elif (size := _bytes(s.header, outscale)) > _TIFF_PAGES and _paged(s.header, ending):
            reason = f"{s.path}: its pages take {amount(size)}, more than a TIFF of pages holds"
            failed.append(Failed(s.path, f"{reason}: split it, or say --format png"))
        elif (size := _bytes(s.header, outscale)) > machine_memory():
            reason = f"{s.path}: the result takes {amount(size)}, more memory than there is"
            failed.append(Failed(s.path, reason))
        else:
            targets[s.path] = Target(path, note)
    return targets, failed


def _differing(header: images.Header, format_name: str) -> str:
    """Why pages of several sizes make no animation, and what to do."""
    sizes = ", ".join(f"{w} x {h}" for w, h in dict.fromkeys(header.sizes[:_SHOWN]))
    advice = "split it into a file for each page"
    if not header.beyond:
        advice = f"say --format tif, which holds them, or {advice}"
    one = f"frames of {format_name} are of one"
    return f"its pages are of several sizes ({sizes}), and {one}: {advice}"


def _paged(header: images.Header, ending: str) -> bool:
    return header.frames > 1 and ending in (".tif", ".tiff")


def _format(
    header: images.Header, source: Path, options: UpscaleOptions, scale: int
) -> tuple[str, str | None]:
    """Suffix of the result, and why it is not the one that was wanted."""
    wanted = source.suffix.lower() if options.format == "same" else f".{options.format}"
    outscale = options.outscale or scale
    width, height = (final_size(n, outscale) for n in (header.width, header.height))
    notes: list[str] = []
    if header.frames > 1:
        holds = wanted in images.WRITTEN and BY_SUFFIX[wanted].frames
        says = wanted in (".png", ".apng") or not header.beyond
        if header.beyond and not says:
            wanted = ".png"
            notes.append(f"as PNG, since others cannot say that it is {header.beyond}")
        elif not (holds and images.fits(wanted, width, height)):
            wanted = ".webp" if images.fits(".webp", width, height) else ".png"
            notes.append(f"as {BY_SUFFIX[wanted].name}, which holds all frames")
    elif not images.can_hold(wanted, bits=header.bits, alpha=header.alpha):
        if options.format != "same":
            lost = "16 bits" if header.bits == 16 else "transparency"
            notes.append(f"as PNG, since {options.format} does not hold {lost}")
        wanted = ".png"
    elif header.beyond and wanted != ".png":
        notes.append(f"as PNG, since {wanted[1:]} cannot say that it is {header.beyond}")
        wanted = ".png"
    elif not images.fits(wanted, width, height):
        notes.append(f"as PNG, since {wanted[1:]} does not hold {width} x {height} pixels")
        wanted = ".png"
    if outscale > scale:
        notes.append(f"x{scale} by the network, x{outscale / scale:g} more by resampling")
    return wanted, "; ".join(notes) or None


def check_place(out: Path, sources: Sequence[Source]) -> None:
    """Make the output folder, and see that it can be written and has some room.

    Raises:
        OSError: If the folder cannot be made or written.
        ValueError: If it is a file, or if less is free than the inputs take.
    """
    make_writable(out)
    needed = sum(source.path.stat().st_size for source in sources)
    free = shutil.disk_usage(out).free
    if needed > free:
        raise ValueError(
            f"the results are larger than their inputs, which take {amount(needed)}, but only "
            f"{amount(free)} are free in {out}"
        )


def _bytes(header: images.Header, outscale: float) -> int:
    """Memory that the pixels of a result take, those of all its frames."""
    sizes = header.sizes or ((header.width, header.height),) * header.frames
    pixels = sum(final_size(w, outscale) * final_size(h, outscale) for w, h in sizes)
    channels = 1 if header.mode.startswith(("1", "L", "I")) else 3
    return pixels * channels * (header.bits // 8)
