"""Where the images of a set lie: every layout that the field uses, and advice where none fits."""

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from dukd.core.text import shown
from dukd.data.names import natural
from dukd.data.pair import PairsError
from dukd.images import list_images
from dukd.images.formats import BY_SUFFIX

_SUGGESTION_DEPTH, _SUGGESTIONS, _NAMED = 3, 200, 5


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Where the images of a set lie."""

    hr: Path
    """Folder of the high-resolution images."""
    lr: Path | None
    """Folder of the low-resolution images; None where they are made from the others."""
    hr_ending: str = ""
    """What stems of the high-resolution images end with, where high and low share a folder."""
    lr_ending: str = ""
    """What stems of the low-resolution images end with then."""


_HR_FOLDER = re.compile(
    r"(?P<prefix>.*?)(?:HR|GT|original)(?:mod(?P<modulus>[0-9]+))?(?P<sub>_sub)?", re.IGNORECASE
)


def locate(source: Path, scale: int, *, recursive: bool) -> Folders:
    """Decide which folders hold the images of a set.

    Raises:
        PairsError: If there are none, or several; it names what could be meant.
    """
    direct = has_images(source)
    inside: dict[str, list[tuple[int, Folders]]] = {}
    for child in sorted(source.iterdir(), key=lambda path: natural(path.name)):
        if child.is_dir() and (found := _HR_FOLDER.fullmatch(child.name)):
            modulus = int(found["modulus"] or 1)
            # Of GTmod2, GTmod12 and HR, the one cut to a multiple of this scale was the source of
            # its images.
            fit = modulus if modulus % scale == 0 else -modulus
            folders = Folders(
                hr=child,
                lr=_lr_beside(
                    source, found["prefix"], found["sub"] or "", scale, recursive=recursive
                ),
            )
            inside.setdefault(found["prefix"] + (found["sub"] or ""), []).append((fit, folders))
    if (both := subfolder(source, f"image_SRF_{scale}")) and not inside:
        return Folders(hr=both, lr=both, hr_ending="_HR", lr_ending="_LR")
    best = [max(alternatives, key=lambda pair: pair[0])[1] for alternatives in inside.values()]
    if len(best) == 1 and not direct:
        return best[0]
    if best and direct:
        choice = (
            f"name {shown(best[0].hr)}, or move the images beside it into a folder of their own"
        )
        raise PairsError(f"{shown(source)} holds both images and a set", [choice])
    if best:
        choice = f"name the one you mean: {', '.join(shown(folders.hr) for folders in best)}"
        raise PairsError(f"{shown(source)} holds more than one set", [choice])
    if not direct and not recursive:
        raise PairsError(
            f"no pairs in {shown(source)}", [f"it holds no images{_folder_with_images(source)}"]
        )
    return _alone(source, scale, recursive=recursive)


def _alone(source: Path, scale: int, *, recursive: bool) -> Folders:
    """What goes with a folder that holds the images itself."""
    if (found := _HR_FOLDER.fullmatch(source.absolute().name)) is not None:
        beside = _lr_beside(
            source.absolute().parent,
            found["prefix"],
            found["sub"] or "",
            scale,
            recursive=recursive,
        )
        if beside is not None:
            return Folders(hr=source, lr=beside)
    if source.absolute().name.casefold() == f"image_srf_{scale}":
        return Folders(hr=source, lr=source, hr_ending="_HR", lr_ending="_LR")
    if (endings := _shared(source, scale, recursive=recursive)) is not None:
        return Folders(hr=source, lr=source, hr_ending=endings[0], lr_ending=endings[1])
    return Folders(hr=source, lr=None)


_HIGH = re.compile(r"(?P<base>.+?)(?P<mark>[ _.-])(?:hr|gt|high)", re.IGNORECASE)


def _shared(source: Path, scale: int, *, recursive: bool) -> tuple[str, str] | None:
    """How names end where both lie in one folder, as ``_HR`` and ``_LR4``; None otherwise."""
    stems = {path.stem.casefold(): path.stem for path in images_in(source, recursive=recursive)}
    for stem in sorted(stems.values()):
        if (found := _HIGH.fullmatch(stem)) is None:
            continue
        base, mark = found["base"], found["mark"]
        for low in ("lr", "lq", "low", f"lr{scale}", f"lrx{scale}", f"lr_x{scale}"):
            if (partner := stems.get(f"{base}{mark}{low}".casefold())) is not None:
                return stem[len(base) :], partner[len(base) :]
    return None


def images_in(folder: Path, *, recursive: bool = False) -> tuple[Path, ...]:
    """Files with an image's extension, in no order, but for contact sheets of `dukd degrade`."""
    found = list_images(folder, recursive=recursive).images
    return tuple(path for path in found if not _is_sheet(path))


def _is_sheet(path: Path) -> bool:
    """Whether an image is the contact sheet of a folder that lies beside it."""
    name = path.name.removesuffix("-sheet.png")
    return name != path.name and path.with_name(name).is_dir()


def has_images(folder: Path, *, recursive: bool = False) -> bool:
    """Whether a folder holds a file with an image's extension."""
    return bool(images_in(folder, recursive=recursive))


def _lr_beside(root: Path, prefix: str, sub: str, scale: int, *, recursive: bool) -> Path | None:
    """Find the folder of low-resolution images that goes with ``<prefix>HR``."""
    bicubic = f"{prefix}LR_bicubic"
    places = (
        f"{bicubic}/X{scale}{sub}",
        f"{bicubic}_X{scale}{sub}",
        f"{bicubic}_X{scale}/{bicubic}/X{scale}{sub}",
        f"{prefix}LRbicx{scale}{sub}",
        f"{prefix}LR/X{scale}{sub}",
        f"{prefix}LR_X{scale}{sub}",
        f"{prefix}LRX{scale}{sub}",
        f"{prefix}LR{sub}",
    )
    found = (
        place
        for name in places
        if (place := subfolder(root, name)) and has_images(place, recursive=recursive)
    )
    return next(found, None)


def lr_given(folder: Path, scale: int) -> Path:
    """The folder of low-resolution images that was named, or the one of the scale in it.

    Raises:
        PairsError: If there is no such folder.
    """
    if not folder.is_dir():
        raise PairsError(f"no pairs with {shown(folder)}", [nothing_at(folder)])
    if not has_images(folder) and (inner := subfolder(folder, f"X{scale}")):
        return inner
    return folder


def subfolder(root: Path, name: str) -> Path | None:
    """The folder ``name`` below ``root``, whatever the case of its letters."""
    folder = root
    for part in name.split("/"):
        if (exact := folder / part).is_dir():
            folder = exact
            continue
        if not folder.is_dir():
            return None
        alike = [
            path
            for path in folder.iterdir()
            if path.name.casefold() == part.casefold() and path.is_dir()
        ]
        if not alike:
            return None
        folder = min(alike)
    return folder


def nothing_at(path: Path) -> str:
    """That there is nothing at a path, and what may have been meant: by its ending, an image."""
    is_image = path.suffix.lower() in BY_SUFFIX
    what = "file" if is_image else "folder"
    parent = path.absolute().parent
    if not parent.is_dir():
        return f"there is no such {what}, nor is there {shown(parent)}"
    entries = sorted(parent.iterdir())
    folders = [entry for entry in entries if entry.is_dir()]
    deeper = [folder / path.name for folder in folders if is_image]
    alike = _alike(path.name, (e.name for e in entries if (e not in folders) == is_image))
    meant = next((p for p in deeper if p.is_file()), parent / alike if alike else None)
    return f"there is no such {what}" + (f": did you mean {shown(meant)}?" if meant else "")


def _alike(name: str, names: Iterable[str]) -> str | None:
    by_case = {Path(other).stem.casefold(): other for other in names}
    close = get_close_matches(Path(name).stem.casefold(), by_case, n=1)
    return by_case[close[0]] if close else None


def _folder_with_images(source: Path) -> str:
    """A suggestion for a folder without images: what works with those below it."""
    level = [source]
    for _ in range(_SUGGESTION_DEPTH):
        level = [path for folder in level for path in _folders_in(folder)][:_SUGGESTIONS]
        found: list[Path] = []
        for folder in sorted(level, key=lambda path: _HR_FOLDER.fullmatch(path.name) is None):
            with contextlib.suppress(OSError):
                if has_images(folder):
                    found.append(folder)
        if len(found) == 1 or (found and _HR_FOLDER.fullmatch(found[0].name)):
            return f": did you mean {shown(found[0])}?"
        if found:
            names = ", ".join(shown(folder.relative_to(source)) for folder in found[:_NAMED])
            more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
            return (
                f", but folders below it do ({names}{more}): dukd prepare {shown(source)} "
                "--recursive packs them all, and training takes the pack"
            )
    return ""


def _folders_in(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):  # a folder that may not be read is not suggested
        return sorted(path for path in folder.iterdir() if path.is_dir())
    return []
