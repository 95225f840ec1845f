"""Docstrings as a terminal shows them: one paragraph in one piece, names in single backticks."""

import re
from collections.abc import Generator
from contextlib import contextmanager

import docstring_parser
from docstring_parser import Docstring


@contextmanager
def in_one_piece() -> Generator[None, None, None]:
    """Have tyro read help texts without the line breaks of the source.

    tyro joins lines before it takes off their indentation, and joins none that are indented: every
    docstring of two lines under a field would be broken in the middle, whatever the terminal's
    width.
    """
    read = docstring_parser.parse_from_object

    def parsed(obj: object) -> Docstring:
        found = read(obj)
        for field in found.params:
            field.description = field.description and plain(field.description)
        return found

    docstring_parser.parse_from_object = parsed
    try:
        yield
    finally:
        docstring_parser.parse_from_object = read


def plain(text: str) -> str:
    """A docstring with one line for each of its paragraphs."""
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip()))
    return "\n\n".join(paragraphs).replace("``", "`")
