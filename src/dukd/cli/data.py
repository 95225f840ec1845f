"""Commands that look at images: prepare, check-data, degrade."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dukd.cli.terminal import Bar, note, say
from dukd.core.text import amount, shown
from dukd.data.degrading import degrade_folder
from dukd.data.pack import Pack
from dukd.data.packing import packed_bytes, prepare
from dukd.data.pairs import Pairs, check_readable, find_pairs
from dukd.images import passed_over
from dukd.images.degrade import preset


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
    skip_bad: bool = False
    """Whether images that cannot be used are left out, and listed; otherwise all of them are named
    and no pack is made."""
    verify: bool = False
    """Whether every pixel is read back and compared at the end."""

    def __call__(self) -> int:
        pairs = _found(self.source, self.scale, lr=self.lr, recursive=self.recursive)
        with Bar() as progress:
            if pairs.left_out and not self.skip_bad:
                check_readable(pairs, progress)
            pack = prepare(pairs, self.out, progress=progress, skip_bad=self.skip_bad)
            if self.verify:
                pack.verify(progress)
        for reason in pack.left_out:
            note(f"left out: {reason}")
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
        pairs = _found(self.source, scale, lr=self.lr, recursive=self.recursive)
        with Bar() as progress:
            check_readable(pairs, progress, headers_only=self.headers_only)
        say("nothing is wrong with them")
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


@dataclass(frozen=True, kw_only=True)
class Degrade:
    """Make low-resolution images as cameras and the web do: blurred, noisy, compressed.

    Each result has the name of its source, and depends on the seed and that name alone. A contact
    sheet beside the folder shows the first ones. Training takes `--data.degradation` instead, and
    draws anew for every patch.

    Example: dukd degrade photos -o lr --preset real-esrgan --seed 1
    """

    source: tyro.conf.Positional[Path]
    """Folder of images, or one image."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of the results, as PNG."""
    preset: Annotated[str, tyro.conf.arg(aliases=["-p"])] = "real-esrgan"
    """real-esrgan, bsrgan, adcsr, redux, jpeg or bicubic, or the name of a plug-in's."""
    scale: Annotated[int, tyro.conf.arg(aliases=["-s"])] = 4
    """Factor by which they become smaller."""
    seed: int = 1
    """Decides everything that is random."""
    recursive: bool = False
    """Whether folders below are entered too."""

    def __call__(self) -> int:
        with Bar() as progress:
            made = degrade_folder(
                self.source,
                self.out,
                preset(self.preset),
                scale=self.scale,
                seed=self.seed,
                recursive=self.recursive,
                progress=progress,
            )
        if beside := passed_over(made.passed_over):
            note(beside)
        for path, target in made.renamed.items():
            note(f"{shown(path)} became {shown(target.name)}, since another has its name")
        for assumed in made.assumed:
            note(assumed)
        for reason in made.failed:
            note(f"left out: {reason}")
        say(f"wrote {len(made.written)} images to {shown(self.out)}")
        if made.sheet is not None:
            say(f"look at {shown(made.sheet)}")
        return 1 if made.failed else 0


def _found(source: Path, scale: int, *, lr: Path | None, recursive: bool) -> Pairs:
    """Find pairs, with the bad ones beside them, and say what there is."""
    pairs = find_pairs(source, scale=scale, lr=lr, recursive=recursive, skip_bad=True)
    say(
        f"{len(pairs)} images for x{scale}, low resolution: {pairs.lr_source}; a pack takes "
        f"{amount(packed_bytes(pairs))}"
    )
    if pairs.note:
        note(pairs.note)
    return pairs
