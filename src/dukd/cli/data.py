"""Commands that look at images: prepare, check-data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dukd.cli.terminal import Bar, say
from dukd.core.text import amount, shown
from dukd.data.pack import Pack, plan, prepare
from dukd.data.pairs import Pairs, PairsError, find_pairs, load
from dukd.images import ImageError


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Decode a folder of images once into a pack, from which training reads patches.

    Training does this by itself where it is given a folder. A pack of its own is worth having for
    large sets, for machines that share one disk, and to move images as one file. An interrupted
    call goes on where it stopped.

    Example: dukd prepare DIV2K --scale 4 --out packs/div2k-x4.pack
    """

    source: tyro.conf.Positional[Path]
    """Folder of images, in any layout the field uses."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The pack to write, such as packs/div2k-x4.pack."""
    scale: Annotated[int, tyro.conf.arg(aliases=["-s"])]
    """Upscaling factor."""
    lr: Path | None = None
    """Folder of low-resolution images, where it does not lie beside the others."""
    recursive: bool = False
    """Whether folders below are searched too."""
    verify: bool = False
    """Whether every pixel is read back and compared at the end."""

    def __call__(self) -> int:
        pairs = find_pairs(self.source, scale=self.scale, lr=self.lr, recursive=self.recursive)
        say(
            f"{len(pairs)} images, low resolution: {pairs.lr_source}; the pack takes "
            f"{amount(plan(pairs))}"
        )
        with Bar() as progress:
            pack = prepare(pairs, self.out, progress=progress)
            if self.verify:
                pack.verify(progress)
        say(
            f"wrote {shown(self.out)}: {len(pack)} images, x{pack.scale}, digest {pack.digest[:16]}"
        )
        return 0


@dataclass(frozen=True, kw_only=True)
class CheckData:
    """Check a folder of images, or a pack, and list every problem at once; every pixel is read.

    Example: dukd check-data DIV2K --scale 4
    """

    source: tyro.conf.Positional[Path]
    """Folder of images, or a pack."""
    scale: Annotated[int | None, tyro.conf.arg(aliases=["-s"])] = None
    """Upscaling factor; 4 for a folder if left out, and a pack knows its own, which is compared
    with this."""
    lr: Path | None = None
    """Folder of low-resolution images, where it does not lie beside the others."""
    recursive: bool = False
    """Whether folders below are searched too."""
    headers_only: bool = False
    """Whether only names and sizes of images are checked: much faster, but torn files are not
    found."""

    def __call__(self) -> int:
        if self.source.is_file():
            return self._pack()
        scale = 4 if self.scale is None else self.scale
        pairs = find_pairs(self.source, scale=scale, lr=self.lr, recursive=self.recursive)
        say(f"{len(pairs)} images for x{scale}, low resolution: {pairs.lr_source}")
        if not self.headers_only and (problems := _unreadable(pairs)):
            raise PairsError(
                f"{shown(self.source)}: replace or delete what cannot be read", problems
            )
        say(f"nothing is wrong with them; a pack of them takes {amount(plan(pairs))}")
        return 0

    def _pack(self) -> int:
        where, pack = shown(self.source), Pack.open(self.source)
        if self.scale is not None and self.scale != pack.scale:
            raise ValueError(
                f"{where} is a pack for x{pack.scale}, not for x{self.scale}: leave --scale out, "
                f"or make another with dukd prepare FOLDER --scale {self.scale} --out FILE.pack"
            )
        if self.lr is not None or self.recursive:
            raise ValueError(
                f"{where} is a pack: --lr and --recursive are for folders, leave them out"
            )
        if not self.headers_only:
            with Bar() as progress:
                pack.verify(progress)
        read = ", of which only the header was read" if self.headers_only else ""
        say(
            f"{where} is sound: {len(pack)} images, x{pack.scale}, low resolution: "
            f"{pack.lr_source}{read}"
        )
        return 0


def _unreadable(pairs: Pairs) -> list[str]:
    """One sentence for every pair that cannot be read."""
    problems: list[str] = []
    with Bar() as progress:
        for done, pair in enumerate(pairs, start=1):
            try:
                load(pair)
            except (ImageError, PairsError) as error:
                problems.append(str(error))
            progress(done, len(pairs), pair.name)
    return problems
