"""The field's data sets by name: found in the usual places below a folder, complete, and checked.

Part of a set, or a set of one's own, is read with ``find_pairs``.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from dukd.core.text import shown
from dukd.data.layouts import subfolder
from dukd.data.pairs import Pairs, PairsError, find_pairs, join

_BENCHMARKS: dict[str, tuple[int, tuple[str, ...]]] = {
    "Set5": (5, ("Set5",)),
    "Set14": (14, ("Set14",)),
    "BSD100": (100, ("BSD100", "B100", "BSDS100")),
    "Urban100": (100, ("Urban100",)),
    "Manga109": (109, ("Manga109",)),
}
_ABOVE = ("", "benchmark", "benchmarks", "eval", "test", "testset", "testsets", "datasets")
_SHOWN = 20


def benchmark(root: Path | str, name: str, scale: int, *, lr_from_hr: bool | None = None) -> Pairs:
    """Find a test set: Set5, Set14, BSD100 (also called B100 or BSDS100), Urban100 or Manga109.

    Args:
        root: A folder that holds the set, the ``benchmark`` folder of EDSR, or the folder of the
            set itself.
        name: Name of the set, in capital or small letters.
        scale: Upscaling factor.
        lr_from_hr: As for ``find_pairs``.

    Raises:
        PairsError: If the set is not there, or not complete, or for the reasons of ``find_pairs``.
        ValueError: If there is no set of that name.
    """
    known = {
        alias.casefold(): title for title, (_, aliases) in _BENCHMARKS.items() for alias in aliases
    }
    if (title := known.get(name.casefold())) is None:
        raise ValueError(
            f"there is no test set {name!r}; there are {', '.join(_BENCHMARKS)}; others: find_pairs"
        )
    size, aliases = _BENCHMARKS[title]
    root = Path(root)
    places = [
        path
        for above in _ABOVE
        for alias in aliases
        if (path := subfolder(root, f"{above}/{alias}".strip("/")))
    ]
    if root.absolute().name.casefold() in {alias.casefold() for alias in aliases}:
        places.insert(0, root)
    if not places:
        advice = (
            "EDSR's benchmark package holds Set5, Set14, B100 and Urban100; Manga109 is given "
            "out by its authors"
        )
        raise _absent(title, root, f"{title}/HR", advice)
    return _complete(find_pairs(places[0], scale=scale, lr_from_hr=lr_from_hr), title, size)


def set5(root: Path | str, scale: int) -> Pairs:
    """Set5: five images, Bevilacqua et al., BMVC 2012."""
    return benchmark(root, "Set5", scale)


def set14(root: Path | str, scale: int) -> Pairs:
    """Set14: fourteen images, one of them gray; Zeyde et al., 2010."""
    return benchmark(root, "Set14", scale)


def bsd100(root: Path | str, scale: int) -> Pairs:
    """BSD100: validation images of BSDS500, so never train on those; Martin et al., ICCV 2001."""
    return benchmark(root, "BSD100", scale)


def urban100(root: Path | str, scale: int) -> Pairs:
    """Urban100: a hundred images of buildings, Huang et al., CVPR 2015."""
    return benchmark(root, "Urban100", scale)


def manga109(root: Path | str, scale: int) -> Pairs:
    """Manga109: a page of each of 109 volumes, Matsui et al., 2017."""
    return benchmark(root, "Manga109", scale)


def div2k(
    root: Path | str,
    scale: int,
    part: Literal["train", "valid"] = "train",
    *,
    lr_from_hr: bool | None = None,
) -> Pairs:
    """DIV2K: 800 images to train on, 100 to validate; Agustsson and Timofte, NTIRE 2017.

    Args:
        root: A folder that holds ``DIV2K_train_HR`` and the like, or that holds ``DIV2K``.
        scale: Upscaling factor.
        part: Which images; where all 900 lie in ``DIV2K_train_HR``, as in EDSR's package, their
            numbers say which.
        lr_from_hr: As for ``find_pairs``.

    Raises:
        PairsError: If the set is not there, or not complete, or for the reasons of ``find_pairs``.
    """
    first, last = (1, 800) if part == "train" else (801, 900)
    names = [f"{number:04d}" for number in range(first, last + 1)]
    folders = (f"DIV2K_{part}_HR", f"DIV2K_{part}_HR/DIV2K_{part}_HR", "DIV2K_train_HR")
    for folder in _below(Path(root), "DIV2K", folders):
        pairs = find_pairs(folder, scale=scale, lr_from_hr=lr_from_hr)
        chosen = tuple(pair for pair in pairs if pair.name in set(names))
        # A folder of other images altogether is reported as it is: everything is missing.
        if chosen or folder.name == f"DIV2K_{part}_HR":
            return _complete(
                replace(pairs, pairs=chosen), f"DIV2K, part {part},", len(names), names
            )
    advice = (
        f"unpack DIV2K_{part}_HR and, for genuine images, DIV2K_{part}_LR_bicubic_X{scale} of "
        "NTIRE 2017 there"
    )
    raise _absent(f"DIV2K, part {part},", Path(root), f"DIV2K/DIV2K_{part}_HR", advice)


def flickr2k(root: Path | str, scale: int, *, lr_from_hr: bool | None = None) -> Pairs:
    """Flickr2K: 2650 images, Lim et al., NTIRE 2017.

    Raises:
        PairsError: If the set is not there, or not complete, or for the reasons of ``find_pairs``.
    """
    for folder in _below(Path(root), "Flickr2K", ("Flickr2K_HR", "Flickr2K_train_HR", "HR")):
        return _complete(find_pairs(folder, scale=scale, lr_from_hr=lr_from_hr), "Flickr2K", 2650)
    raise _absent(
        "Flickr2K", Path(root), "Flickr2K/Flickr2K_HR", "EDSR's authors give it out as Flickr2K"
    )


def df2k(root: Path | str, scale: int, *, lr_from_hr: bool | None = None) -> Pairs:
    """DF2K: the 800 training images of DIV2K and the 2650 of Flickr2K, in one folder or in two.

    Raises:
        PairsError: If a set is not there, or not complete, or for the reasons of ``find_pairs``.
    """
    for folder in _below(Path(root), "DF2K", ("DF2K_train_HR", "DF2K_HR")):
        return _complete(find_pairs(folder, scale=scale, lr_from_hr=lr_from_hr), "DF2K", 3450)
    return join(
        div2k(root, scale, lr_from_hr=lr_from_hr), flickr2k(root, scale, lr_from_hr=lr_from_hr)
    )


def _below(root: Path, name: str, folders: tuple[str, ...]) -> Iterator[Path]:
    """Existing ones of ``folders`` below ``root/name`` and ``root``, the most exact first."""
    for folder in folders:
        for above in (f"{name}/", "", f"datasets/{name}/"):
            # The package of a scale or a part may unpack into a folder of its own name: look inside
            # first.
            if (path := subfolder(root, above + folder)) is not None and subfolder(
                path, path.name
            ) is None:
                yield path


def _complete(pairs: Pairs, title: str, size: int, names: list[str] | None = None) -> Pairs:
    if len(pairs) == size:
        return pairs
    found = {pair.name for pair in pairs}
    missing = [name for name in names or [] if name not in found]
    more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    which = f"; {', '.join(missing[:_SHOWN])}{more} missing" if missing else ""
    raise PairsError(
        f"{title} in {shown(pairs.folder)} is not complete",
        [
            f"it has {size} images, but {len(pairs)} are there{which}",
            "for a part or a variant of it use find_pairs",
        ],
    )


def _absent(title: str, root: Path, expected: str, advice: str) -> PairsError:
    return PairsError(
        f"no {title.rstrip(',')} below {shown(root)}", [f"{expected} is not there", advice]
    )


TEST_SETS: dict[str, Callable[[Path | str, int], Pairs]] = {
    "Set5": set5,
    "Set14": set14,
    "BSD100": bsd100,
    "Urban100": urban100,
    "Manga109": manga109,
}
"""The test sets of most papers, in their order."""
