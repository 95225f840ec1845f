"""A table as LaTeX: booktabs, the best student of each measure in bold."""

from dukd.core import text
from dukd.evaluation.table import FORMS, Group, Row, Table

_SPECIAL = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "∞": r"$\infty$",
        text.NOTHING: "--",
        "\u2212": "$-$",
    }
)


def to_latex(table: Table) -> str:
    """The table for a paper whose preamble loads booktabs."""
    groups = table.groups()
    header = " & ".join(map(escape, [table.of, *(group.title for group in groups)]))
    lines = [
        " & ".join([escape(row.label), *(_cell(table, group, row) for group in groups)])
        for row in table.rows
    ]
    below = [f"% {' '.join(sentence.split())}" for sentence in table.below()]
    return "\n".join(
        [
            *below,
            rf"\begin{{tabular}}{{l{'r' * len(groups)}}}",
            r"\toprule",
            rf"{header} \\",
            r"\midrule",
            *(rf"{line} \\" for line in lines),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def escape(words: str) -> str:
    """Text as LaTeX sets it."""
    return words.translate(_SPECIAL)


def _cell(table: Table, group: Group, row: Row) -> str:
    values = group.values(row)
    if not any(value is not None for value in values):
        return "--"
    parts: list[str] = []
    for column, value in zip(group.columns, values, strict=True):
        shown = escape(column.text(value))
        best = group.on is not None and table.best(column, group.on) is row
        parts.append(rf"\textbf{{{shown}}}" if best else shown)
    return " / ".join(parts)


FORMS[".tex"] = to_latex
