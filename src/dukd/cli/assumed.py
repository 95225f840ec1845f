"""What had to be assumed of a file of weights, and what to type if it is not so."""

from dukd.cli.terminal import note
from dukd.core.text import shown
from dukd.networks.files import guess
from dukd.networks.files.weights import Contents


def note_assumed(contents: Contents, *, how: str = "try {options}") -> None:
    """Note what had to be assumed of a file, and what to type if it is not so."""
    for text in contents.notes:
        note(f"{shown(contents.path)}: {text}")
    if options := instead(contents):
        advice = how.format(options=options)
        note(
            f"{shown(contents.path)}: if its outputs look wrong (below bicubic, too dark or "
            f"tinted), {advice}"
        )


def instead(contents: Contents) -> str:
    """Options for what had to be assumed of a file, with the field's other values."""
    found: list[str] = []
    for name, other in guess.others(contents.config, contents.assumed).items():
        text = " ".join(f"{v:g}" for v in other) if isinstance(other, tuple) else f"{other:g}"
        found.append(f"--{name.replace('_', '-')} {text}")
    return " or ".join(found)
