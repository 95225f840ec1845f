"""One HTML page about one or several runs: numbers, curves, images, and how they came about.

The page stands alone: it loads nothing over the network, and shows whatever the run directories
hold as text. It reads run directories only, so it can be made on another machine than the one that
trained.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import cast

from dukd.core import files
from dukd.core.text import compact, elapsed, percent, signed
from dukd.evaluation.table import Column, Row, Table, decimals
from dukd.runs import charts, curves, quantized, samples
from dukd.runs.compare import DEFINITION, GAIN, GAP_CLOSED, tabulate
from dukd.runs.summary import EVALUATION, Summary, read_all

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = Path(__file__).with_name("report.css")
_FACTS = (
    "command",
    "dukd",
    "torch",
    "python",
    "platform",
    "device",
    "seed",
    "started",
    "data_digest",
    "teacher_sha256",
)
_NAMES = {"data_digest": "training data (digest)", "teacher_sha256": "teacher (sha256)"}


@dataclass(frozen=True)
class Section:
    """A part of the page that something else made."""

    title: str
    """Its headline."""
    html: str
    """What stands below, with whatever comes from files escaped; `dukd.runs.bars.bars` makes such
    text. Scripts, styles and links in it have no effect on the page."""


Extra = Callable[[Sequence[Summary]], "Section | None"]
"""What makes a section of runs; None where they hold nothing of its kind."""


def _in_few_bits(summaries: Sequence[Summary]) -> Section | None:
    html = quantized.section(summaries)
    return Section("In few bits, without training", html) if html else None


EXTRAS: list[Extra] = [_in_few_bits]
"""Sections that every page has below the curves, where the runs hold something for them."""


def report(
    runs: Sequence[Path],
    out: Path,
    *,
    title: str = "Distillation report",
    about: str = "",
    measured: str = EVALUATION,
    sections: Sequence[Section] = (),
) -> Path:
    """Write a page about runs.

    Args:
        runs: Run directories; what one does not hold is left out.
        out: The HTML file.
        title: Headline.
        about: A paragraph below it.
        measured: The file of each run that the table is made from.
        sections: Further sections, below those of ``EXTRAS``.

    Returns:
        ``out``.

    Raises:
        ReportError: If runs differ in what makes numbers comparable; the message names the
            difference.
        dukd.runs.checkpoint.CheckpointError: If no directory holds a run.
    """
    summaries, problems = read_all(runs, measured)
    table = tabulate(summaries)
    common = [
        f"×{table.scale}" if table.scale else "",  # noqa: RUF001  the times sign is meant
        f"{summaries[0].steps:,} steps".replace(",", "\u2009") if summaries[0].steps else "",
        f"{len(summaries)} run{'s' if len(summaries) > 1 else ''}",
    ]
    parts = [
        f"<header><h1>{escape(title)}</h1><p>{escape(' · '.join(filter(None, common)))}</p>"
        f"{f'<p>{escape(about)}</p>' if about else ''}{_unfinished(summaries, problems)}</header>",
        _headline(table),
        _table(table),
        samples.section(summaries),
        curves.section(summaries),
        *_further(summaries, sections),
        _origin(summaries),
        "<footer>Made by dukd from run directories alone.</footer>",
    ]
    # names may hold what UTF-8 cannot
    files.write_bytes(out, _page(title, "".join(parts)).encode(errors="backslashreplace"))
    return Path(out)


def _further(summaries: Sequence[Summary], sections: Sequence[Section]) -> list[str]:
    found = [made for extra in EXTRAS if (made := extra(summaries)) is not None]
    return [f"<section><h2>{escape(s.title)}</h2>{s.html}</section>" for s in (*found, *sections)]


def _page(title: str, content: str) -> str:
    style = _STYLE.read_text(encoding="utf-8") + charts.dashes()
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{style}</style></head>"
        f"<body><main>{content}</main></body></html>\n"
    )


def _unfinished(summaries: Sequence[Summary], problems: Sequence[str]) -> str:
    found = [
        f"{summary.name} is at step {summary.reached} of {summary.steps}"
        for summary in summaries
        if not summary.finished
    ]
    said = [f"Not finished: {'; '.join(found)}."] if found else []
    said += [f"Left out: {problem}" for problem in problems]
    said += [f"Without figures: {s.name}: {s.problem}" for s in summaries if s.problem]
    return "".join(f'<p class="note">{escape(sentence)}</p>' for sentence in said)


# Numbers


def _headline(table: Table) -> str:
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


def _table(table: Table) -> str:
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
    return (
        '<section><h2>Results</h2><div class="wide"><table class="results"><thead>'
        f"<tr><th>Model</th>{head}<th>gap closed</th><th>parameters</th><th>MACs</th>"
        "<th>time per<br>image</th></tr></thead>"
        f"<tbody>{''.join(_line(row, table) for row in table.rows)}</tbody></table></div>"
        '<p class="legend">Upper line: PSNR-Y in dB. Lower line: SSIM-Y, and PSNR-Y above '
        f"bicubic. {escape(DEFINITION)} ±: standard deviation over seeds. Bold: best student.</p>"
        '<h3>Protocol</h3><dl class="facts">'
        f"{protocol or '<div><dt>none</dt><dd>nothing said</dd></div>'}</dl>{_more(table)}"
        "</section>"
    )


def _line(row: Row, table: Table) -> str:
    seeds = row.value("seeds")
    several = f" <small>{seeds:.0f} seeds</small>" if seeds else ""
    first = table.sets[0] if table.sets else None
    cells = "".join(_scores(row, table, name) for name in table.sets)
    return (
        f'<tr class="{escape(row.model)}"><th scope="row">{escape(row.label)}{several}</th>{cells}'
        f"<td>{percent(row.value(GAP_CLOSED.name, first) if first else None)}</td>"
        f"<td>{compact(row.value('parameters'))}</td><td>{compact(row.value('macs'))}</td>"
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


# Origin


def _origin(summaries: Sequence[Summary]) -> str:
    blocks: list[str] = []
    for summary in summaries:
        facts = summary.facts
        found = [(key, facts[key]) for key in _FACTS if facts.get(key) or facts.get(key) == 0]
        rest = "".join(_fact(key, value) for key, value in found)
        blocks.append(
            f'<h3>{escape(summary.name)}</h3><dl class="facts">{rest}</dl>'
            "<details><summary>experiment.yaml</summary>"
            f"<pre>{escape(summary.experiment_text)}</pre></details>"
        )
    return f"<section><h2>How it was made</h2>{''.join(blocks)}</section>"


def _fact(key: str, value: object) -> str:
    text = str(value)
    if isinstance(value, list):
        text = " ".join(map(str, cast("list[object]", value)))
    code = ' class="code"' if key in {"command", "data_digest", "teacher_sha256"} else ""
    return f"<div><dt>{escape(_NAMES.get(key, key))}</dt><dd{code}>{escape(text)}</dd></div>"
