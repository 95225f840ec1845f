"""What `dukd recipes` lists, kept in a file, so that a list need not wait for torch.

    python -m dukd.recipes.listing

writes ``listing.json`` again. It holds a digest of the sources of this folder; where that is
another, the command does without the file.
"""

from pathlib import Path
from typing import TypedDict

from dukd.core.files import folder_sha256, write_text
from dukd.core.text import to_json
from dukd.recipes.ablations import ABLATIONS
from dukd.recipes.families import FAMILIES, scales_of

FILE = Path(__file__).with_suffix(".json")


class Listing(TypedDict):
    """Families of recipes and ablations."""

    sources: str
    """Digest of this folder's sources."""
    families: list[tuple[str, list[int], str]]
    """Name, scales, and what it is."""
    ablations: list[tuple[str, str]]
    """Name, and what is changed."""


def listing() -> Listing:
    """Make the list from the recipes themselves."""
    return {
        "sources": folder_sha256(FILE.parent, "*.py"),
        "families": [
            (name, list(scales_of(name)), (maker.__doc__ or "").partition("\n")[0])
            for name, maker in FAMILIES.items()
        ],
        "ablations": [(name, ablation.about) for name, ablation in ABLATIONS.items()],
    }


if __name__ == "__main__":
    write_text(FILE, to_json(listing()))
