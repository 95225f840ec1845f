"""What a pair of images is, and the error that lists all that is wrong with some."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

from dukd.core.text import shown
from dukd.images import passed_over
from dukd.images.degrade import Bicubic, Degradation

_SHOWN = 20

MADE = "bicubic, MATLAB's uint8 path"
"""How low-resolution images come about where no file holds them; packs and records keep this
text."""


class PairsError(ValueError):
    """Images that cannot serve as pairs, with every reason found.

    Args:
        heading: What was looked at, without a full stop.
        problems: One sentence each; the message shows the first 20.
    """

    def __init__(self, heading: str, problems: Sequence[str]) -> None:
        self.heading = heading
        self.problems = tuple(problems)
        super().__init__(heading, self.problems)

    def with_hint(self, hint: str) -> "PairsError":
        """The same, with a further sentence that says what to do."""
        return PairsError(self.heading, [*self.problems, hint])

    def __str__(self) -> str:
        lines = [f"{self.heading}:", *(f"  {problem}" for problem in self.problems[:_SHOWN])]
        if (more := len(self.problems) - _SHOWN) > 0:
            lines.append(f"  and {more} more")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An image and its low-resolution version, known by their headers."""

    name: str
    """Unique in its set: the stem of the high-resolution file, with its folders where they are
    searched."""
    hr: Path
    """The high-resolution file; it may exceed ``scale`` times the size below by less than ``scale``
    pixels."""
    lr: Path | None
    """The low-resolution file; None where it is made from ``hr``."""
    scale: int
    """Upscaling factor."""
    height: int
    """Rows of the low-resolution image."""
    width: int
    """Columns of the low-resolution image."""
    degradation: Degradation = field(default_factory=Bicubic)
    """What makes the low-resolution image where there is no file; what it draws for an image
    depends on the name alone."""


@dataclass(frozen=True, kw_only=True)
class Pairs(Sequence[Pair]):
    """A set of pairs in natural order of their names."""

    folder: Path
    """Where the high-resolution images were found."""
    scale: int
    """Upscaling factor of every pair."""
    pairs: tuple[Pair, ...]
    """The pairs themselves."""
    left_out: tuple[str, ...] = ()
    """Why images were left out, a sentence each, where that was wanted."""
    passed_over: Mapping[str, int] = field(default_factory=dict[str, int])
    """How many files and folders of each other kind lie beside the images."""
    assumed: tuple[str, ...] = ()
    """What had to be assumed of images, a sentence each; usually nothing."""

    @property
    def note(self) -> str:
        """What was passed over and what was assumed, in words; nothing if nothing was."""
        return "; ".join(filter(None, (passed_over(self.passed_over), *self.assumed)))

    @property
    def made(self) -> int:
        """How many low-resolution images are made from the others, for want of a file."""
        return sum(pair.lr is None for pair in self.pairs)

    @property
    def lr_source(self) -> str:
        """Where the low-resolution images come from, in words."""
        if not self.made:
            return "files"
        return (
            MADE if self.made == len(self) else f"{self.made} of {len(self)} {MADE}, the rest files"
        )

    def restored_from(self, degradation: Degradation) -> "Pairs":
        """The pairs with what makes their inputs, where there are no files.

        Each image has draws of its own, which follow from its name and stay. An interpolation
        makes what is made without it.

        Raises:
            PairsError: If that is an interpolation at scale 1, which is the image itself.
        """
        if not self.made or (degradation.fixed and self.scale > 1):
            return self
        if degradation.fixed:
            raise PairsError(
                f"{self.made} of {len(self)} images in {shown(self.folder)} have no low-resolution "
                "file",
                [
                    f"at scale 1 a network restores, and {degradation.name} makes the image "
                    "itself: nothing is to be learned",
                    "name degraded images of the same names (HR beside LR; `dukd degrade --scale 1 "
                    "--preset jpeg-40` makes them), or train with --data.degradation jpeg-40",
                ],
            )
        pairs = tuple(p if p.lr else replace(p, degradation=degradation) for p in self.pairs)
        return replace(self, pairs=pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Pair, ...]: ...
    def __getitem__(self, index: int | slice) -> Pair | tuple[Pair, ...]:
        return self.pairs[index]

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)
