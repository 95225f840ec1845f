"""Formulas of the pages as MathML, made when the site is built: nothing is loaded to show them.

A block that is fenced as ``math`` holds LaTeX, as GitHub shows it; ``$`...`$`` is its inline form.
"""

import re
from itertools import cycle

from latex2mathml.converter import convert

BLOCK = re.compile(r"^```math\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"\$`([^`\n]+)`\$")


def with_formulas(markdown: str) -> str:
    """A page whose formulas are MathML.

    Raises:
        ValueError: If a formula has a command that the converter does not know.
    """
    shown = BLOCK.sub(
        lambda found: f'<div class="formula">{mathml(found[1], "block")}</div>', markdown
    )
    return INLINE.sub(lambda found: f"<span>{mathml(found[1], 'inline')}</span>", shown)


def mathml(latex: str, display: str) -> str:
    """One formula, in one line.

    Raises:
        ValueError: If it has a command that the converter does not know.
    """
    plain = " ".join(latex.split()).replace("{aligned}", "{split}")  # which it knows by that name
    made = convert(plain, display=display)
    made = _OVERLINE.sub(r'<mrow class="bar">\1</mrow>', _barred(made))
    left = re.findall(r"\\[A-Za-z]+", re.sub(r"<annotation.*?</annotation>", "", made))
    if left:
        raise ValueError(f"the formula {latex!r} has commands that cannot be shown: {left}")
    return made.replace("\n", " ")


_OVERLINE = re.compile(
    r'<mover>((?:(?!<mover>).)*?)<mo accent="true">&#x02015;</mo></mover>', re.DOTALL
)
"""A line over a formula, which no browser draws as long as the formula is; a border is."""
_BAR = re.compile(r'<mo stretchy="false">(&#x0007C;)</mo>')


def _barred(made: str) -> str:
    """Bars stand in pairs around what they measure, closely; alone they would be set as signs."""
    forms = cycle(("prefix", "postfix"))
    return _BAR.sub(
        lambda bar: (
            f'<mo stretchy="false" form="{next(forms)}" lspace="0" rspace="0">{bar[1]}</mo>'
        ),
        made,
    )
