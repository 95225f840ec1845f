"""What `dukd recipes` lists, kept in a file, so that a list need not wait for torch.

    python -m dukd.recipes.listing

writes ``listing.json`` again. It holds digests of the sources that it follows from; where one is
another, the command does without the file.
"""

from pathlib import Path
from typing import TypedDict

from dukd.core.files import sha256, write_text
from dukd.core.text import to_json
from dukd.recipes.ablations import ABLATIONS
from dukd.recipes.families import FAMILIES, scales_of

FILE = Path(__file__).with_suffix(".json")
_SOURCES = ("ablations.py", "families.py", "papers.py", "students.py")


class Listing(TypedDict):
    """Families of recipes and ablations."""

    sources: dict[str, str]
    """Digests of the files of this folder that it follows from."""
    families: list[tuple[str, list[int], str]]
    """Name, scales, and what it is."""
    ablations: list[tuple[str, str]]
    """Name, and what is changed."""


def listing() -> Listing:
    """Make the list from the recipes themselves."""
    return {
        "sources": {name: sha256(FILE.with_name(name)) for name in _SOURCES},
        "families": [
            (name, list(scales_of(name)), (maker.__doc__ or "").partition("\n")[0])
            for name, maker in FAMILIES.items()
        ],
        "ablations": [(name, ablation.about) for name, ablation in ABLATIONS.items()],
    }


if __name__ == "__main__":
    write_text(FILE, to_json(listing()))
