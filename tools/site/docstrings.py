"""Docstrings as the reference's builder wants them: examples as code, no doubled colons."""

import re

import griffe


class Docstrings(griffe.Extension):
    """Writes ``Example:`` as the section of code that it is."""

    def on_object(self, *, obj: griffe.Object, **_others: object) -> None:
        """Change the docstring of whatever was read."""
        if obj.docstring is not None:
            obj.docstring.value = plain(obj.docstring.value)


def plain(text: str) -> str:
    """A docstring without what its markup and the builder's do not share."""
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
    return re.sub(r"::$", ":", text, flags=re.MULTILINE)
