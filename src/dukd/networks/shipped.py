"""The small students that come with the package, for who has images and no model.

``starter/models.json`` says what each is, and what it reaches; ``starter/README.md`` how it was
made, from what, and under which license. `dukd.load` and ``dukd upscale -m`` take their names.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dukd.core.text import shown

FOLDER = Path(__file__).with_name("starter")


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """A student that comes with the package."""

    name: str
    """Such as ``x2``."""
    scale: int
    about: str
    """What it is for."""
    general: bool
    """Whether it is taken where no model is named."""

    @property
    def path(self) -> Path:
        """Its file of weights."""
        return FOLDER / f"{self.name}.safetensors"


@cache
def shipped() -> tuple[Shipped, ...]:
    """All of them, by rising scale."""
    entries: list[dict[str, Any]] = json.loads((FOLDER / "models.json").read_bytes())
    fields = ("name", "scale", "about", "general")
    found = [Shipped(**{key: entry[key] for key in fields}) for entry in entries]
    return tuple(sorted(found, key=lambda one: one.scale))


def for_scale(factor: float | None) -> Shipped:
    """The one that is taken where no model is named.

    Args:
        factor: By how much images are to be enlarged; None takes the smallest scale.

    Returns:
        The one of the smallest scale that is at least the factor, else of the largest.
    """
    general = [one for one in shipped() if one.general]
    return next((one for one in general if factor is None or one.scale >= factor), general[-1])


def named(path: Path) -> Path:
    """The path, or the file of a student that comes with the package if that is its name."""
    if path.exists():
        return path
    return next((one.path for one in shipped() if one.name == str(path)), path)


def said_of(one: Shipped) -> str:
    """What is said where it was taken without being named."""
    names = ", ".join(other.name for other in shipped())
    return (
        f"no model is named: {one.name} of those that come with dukd ({one.about}) is used; -m "
        f"takes another ({names}, or a file such as {shown('student.safetensors')}); `dukd models` "
        "has their figures"
    )
