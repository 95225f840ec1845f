"""The numbers of a report: a few large ones, and the table of all models."""

from html import escape

from dukd.core.text import compact, elapsed, percent, signed
from dukd.evaluation.table import Column, Row, Table, decimals
from dukd.runs.compare import DEFINITION, GAIN, GAP_CLOSED
from dukd.runs.looks import STRONG


def headline(table: Table) -> str:
    """The best student in a few large numbers, on the first set."""
    name = table.sets[0] if table.sets else ""
    psnr = _measure(table, "psnr_y")
    best = table.best(psnr, name) if psnr else None
    if best is None or psnr is None:
        return ""
    teacher = next((row for row in table.rows if row.model == "teacher"), None)
    cards = [
        (f"{psnr.show(best.value('psnr_y', name) or 0)} dB", f"PSNR-Y on {name}, {best.label}")
    ]
    if (gain := best.value(GAIN.name, name)) is not None:
        cards.append((f"{signed(gain)} dB", "over bicubic"))
    if (share := best.value(GAP_CLOSED.name, name)) is not None:
        cards.append((percent(share), "of the gap to the teacher closed"))
    for key, what in (("parameters", "fewer parameters"), ("seconds_per_image", "faster")):
        theirs, ours = (row.value(key) if row else None for row in (teacher, best))
        if theirs and ours:
            cards.append((f"{theirs / ours:.3g}×", f"{what} than the teacher"))  # noqa: RUF001
    items = "".join(
        f"<li><b>{escape(number)}</b><span>{escape(what)}</span></li>" for number, what in cards
    )
    return f'<ul class="cards">{items}</ul>'


def _measure(table: Table, name: str) -> Column | None:
    return next((column for column in table.measures if column.name == name), None)


def section(table: Table) -> str:
    """The table of results, its protocol, and all measures below it."""
    if not table.rows:
        none = '<p class="none">No run was evaluated yet (dukd evaluate).</p>'
        return f"<section><h2>Results</h2>{none}</section>"
    head = "".join(
        f"<th>{escape(name)}<small>{_count(table, name)}</small></th>" for name in table.sets
    )
    protocol = "".join(
        f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>"
        for key, value in table.protocol.items()
    )
    gap = any(
        row.value(GAP_CLOSED.name, name) is not None for row in table.rows for name in row.sets
    )
    closed = "<th>gap closed</th>" if gap else ""
    spread = (
        " ±: standard deviation over seeds." if any(r.value("seeds") for r in table.rows) else ""
    )
    return (
        '<section><h2>Results</h2><div class="wide"><table class="results"><thead>'
        f"<tr><th>Model</th>{head}{closed}<th>parameters</th><th>MACs</th>"
        "<th>time per<br>image</th></tr></thead>"
        f"<tbody>{''.join(_line(row, table, gap=gap) for row in table.rows)}</tbody></table></div>"
        '<p class="legend">Upper line: PSNR-Y in dB. Lower line: SSIM-Y, and PSNR-Y above '
        f"bicubic. {escape(DEFINITION) if gap else ''}{spread} Bold: best student.</p>"
        '<h3>Protocol</h3><dl class="facts">'
        f"{protocol or '<div><dt>none</dt><dd>nothing said</dd></div>'}</dl>{_more(table)}"
        "</section>"
    )


def _line(row: Row, table: Table, *, gap: bool) -> str:
    seeds = row.value("seeds")
    several = f" <small>{seeds:.0f} seeds</small>" if seeds else ""
    first = table.sets[0] if table.sets else None
    closed = f"<td>{percent(row.value(GAP_CLOSED.name, first) if first else None)}</td>"
    closed = closed if gap else ""
    strong = " strong" if row.label.split(" ")[0].rstrip("+") == STRONG else ""
    cells = "".join(_scores(row, table, name) for name in table.sets)
    return (
        f'<tr class="{escape(row.model)}{strong}"><th scope="row">{escape(row.label)}{several}</th>'
        f"{cells}{closed}<td>{compact(row.value('parameters'))}</td>"
        f"<td>{compact(row.value('macs'))}</td>"
        f"<td>{elapsed(row.value('seconds_per_image'))}</td></tr>"
    )


def _scores(row: Row, table: Table, name: str) -> str:
    values = row.sets.get(name)
    psnr = _measure(table, "psnr_y")
    if values is None or psnr is None:
        return "<td>–</td>"  # noqa: RUF001
    ssim, gain = row.value("ssim_y", name), row.value(GAIN.name, name)
    below = [] if ssim is None else [decimals(4)(ssim)]
    below += [] if gain is None else [signed(gain)]
    text = escape(psnr.text(values.get("psnr_y")))
    marked = f"<strong>{text}</strong>" if row is table.best(psnr, name) else text
    return f"<td>{marked}<small>{' · '.join(below)}</small></td>"


def _more(table: Table) -> str:
    measures = [c for c in table.measures if c.name not in {GAIN.name, GAP_CLOSED.name}]
    rows = "".join(
        f'<tr><th scope="row">{escape(row.label)}</th><td>{escape(name)}</td>'
        + "".join(f"<td>{escape(c.text(values.get(c.name)))}</td>" for c in measures)
        + "</tr>"
        for row in table.rows
        for name, values in row.sets.items()
    )
    head = "".join(f"<th>{escape(c.title)}</th>" for c in measures)
    return (
        '<details><summary>All measures</summary><div class="wide"><table><thead>'
        f"<tr><th>Model</th><th>Set</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        "</details>"
    )


def _count(table: Table, name: str) -> str:
    images = next((row.value("images", name) for row in table.rows if name in row.sets), None) or 0
    return f"{images:.0f} image{'s' if images != 1 else ''}"
