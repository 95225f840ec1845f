"""The command that describes a student to others: model-card."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dukd.cli.terminal import say
from dukd.core.text import shown
from dukd.deploy.card import model_card


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """Write the card of a run's student: JSON as OpenModelDB takes it, and Markdown.

    Teacher, data, figures and samples are taken from the run; author and license only you know.

    Example: dukd model-card runs/edsr-x4-dukd --author me --license CC-BY-4.0
    """

    run: tyro.conf.Positional[Path]
    """The run directory."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for the two files; the run directory if left out."""
    best: bool = False
    """Whether the student of the best validation is meant."""
    name: str | None = None
    """Name of the model; that of the directory if left out."""
    author: str = "unknown"
    """Who publishes it."""
    license: str | None = None
    """Its license, as an SPDX identifier such as CC-BY-4.0."""
    description: str | None = None
    """A sentence of your own, in front of what the run says."""

    def __call__(self) -> int:
        card = model_card(
            self.run,
            best=self.best,
            name=self.name,
            author=self.author,
            license=self.license,
            description=self.description,
        )
        for path in card.write(self.run if self.out is None else self.out):
            say(f"wrote {shown(path)}")
        return 0
