"""Names and sizes as people read and sort them."""

import re


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Key for sorting names as people do: numbers by value, letters without regard to case."""
    parts = re.split(r"([0-9]+)", name)
    return (
        *((0, int(p), "") if p.isascii() and p.isdigit() else (1, 0, p.casefold()) for p in parts),
        (2, 0, name),
    )


def size(width: int, height: int) -> str:
    """Width by height, as people write it."""
    return f"{width}x{height}"
