"""One HTML page about one or several runs: numbers, curves, images, and how they came about.

The page stands alone: it loads nothing over the network, runs no script but the one whose digest
its policy names, and shows whatever the run directories hold as text. It reads run directories
only, so it can be made on another machine than the one that trained; images that no run has kept
are computed anew where the images that judged the training can be reached.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import cast

from dukd.core import files
from dukd.core.files import Progress, silent
from dukd.core.given import as_paths
from dukd.core.text import amount
from dukd.evaluation.table import Table
from dukd.runs import curves, gallery, numbers, outputs, quantized, scenes
from dukd.runs.compare import Varied, tabulate
from dukd.runs.looks import Look, looks
from dukd.runs.scenes import Scene
from dukd.runs.summary import EVALUATION, Summary, read_all

_STYLE = Path(__file__).with_name("report.css")
_SCRIPT = Path(__file__).with_name("report.js")
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


@dataclass(frozen=True, kw_only=True)
class Images:
    """Which images a page shows, and how large it may become."""

    files: tuple[Path, ...] = ()
    """High-resolution images, or folders of them; without any, those that the runs have kept, else
    some of those that judged the training."""
    teacher: Path | None = None
    """The teacher's file; the one that the runs name if left out."""
    count: int = 3
    """Images to compare by hand, where ``files`` names none; 0 leaves images out."""
    crops: int = 3
    """Crops that are shown large."""
    megabytes: float = 3.0
    """Size of all images; larger ones are cut around the place where outputs differ most."""


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
    runs: Iterable[Path | str] | Path | str,
    out: Path | str,
    *,
    title: str = "Distillation report",
    about: str = "",
    measured: str = EVALUATION,
    images: Images = Images(),
    sections: Sequence[Section] = (),
    labels: Mapping[str, str] = MappingProxyType({}),
    varied: Collection[Varied] = (),
    progress: Progress = silent,
) -> Path:
    """Write a page about runs.

    Args:
        runs: Run directories, or one; what one does not hold is left out.
        out: The HTML file.
        title: Headline.
        about: A paragraph below it.
        measured: The file of each run that the table is made from.
        images: Which images it shows.
        sections: Further sections, below those of ``EXTRAS``.
        labels: What experiments are called, by the names of directories; else after methods.
        varied: What may differ between experiments, as it is meant to.
        progress: Told how many outputs were computed, where no run has kept any.

    Returns:
        ``out``.

    Raises:
        ReportError: If runs differ in what makes numbers comparable; the message names it.
        dukd.runs.checkpoint.CheckpointError: If no directory holds a run.
        ValueError: If an image or a teacher that was named cannot be used.
    """
    summaries, problems = read_all(as_paths("what is reported", runs), measured, labels)
    table, named = tabulate(summaries, varied), looks(summaries)
    shown, notes = _scenes(summaries, named, images, measured, progress)
    parts = [
        _header(title, about, table, summaries, problems),
        numbers.headline(table),
        _gallery(shown, notes, table, images),
        numbers.section(table),
        curves.section(summaries, named, table),
        *_further(summaries, sections),
        _origin(summaries),
    ]
    content = "".join(parts)
    content += f"<footer>Made by dukd; {amount(len(content))}, no other file, no network.</footer>"
    # names may hold what UTF-8 cannot
    files.write_bytes(Path(out), _page(title, content).encode(errors="backslashreplace"))
    return Path(out)


def _header(
    title: str, about: str, table: Table, summaries: Sequence[Summary], problems: Sequence[str]
) -> str:
    steps = table.facts.get("steps")
    common = [
        f"×{table.scale}" if table.scale else "",  # noqa: RUF001  the times sign is meant
        f"{steps:,} steps".replace(",", "\u2009") if isinstance(steps, int) else "",
        f"{len(summaries)} run{'s' if len(summaries) > 1 else ''}",
    ]
    said = f"<p>{escape(about)}</p>" if about else ""
    return (
        f"<header><h1>{escape(title)}</h1><p>{escape(' · '.join(filter(None, common)))}</p>"
        f"{said}{_unfinished(summaries, problems)}</header>"
    )


def _gallery(shown: list[Scene], notes: list[str], table: Table, images: Images) -> str:
    budget = int(images.megabytes * 1e6)
    return gallery.section(shown, scale=table.scale, crops=images.crops, budget=budget, notes=notes)


def _scenes(
    summaries: Sequence[Summary],
    named: Mapping[str, Look],
    images: Images,
    measured: str,
    progress: Progress,
) -> tuple[list[Scene], list[str]]:
    """The images of a page, and sentences about what is missing."""
    if images.count < 1 and not images.files:
        return [], []
    if not images.files and images.teacher is None and (kept := scenes.kept(summaries, named)):
        return kept[: images.count], []
    best = "-best" in measured
    models, notes = outputs.models(summaries, named, teacher=images.teacher, best=best)
    if not models:
        return [], notes
    scale = models[0].upscaler.scale
    if images.files:
        pairs, said = outputs.named_images(images.files, scale)
        return outputs.scenes(models, pairs, progress=progress), [*notes, *said]
    try:
        pairs = outputs.validation_images(summaries, scale, images.count)
        found = outputs.scenes(models, pairs, progress=progress)
    except (ValueError, OSError) as error:
        return [], [*notes, f"The images that judged the training cannot be shown: {error}"]
    missing = "The images that judged the training are not here: name some with --images."
    return found, notes if found else [*notes, missing]


def _further(summaries: Sequence[Summary], sections: Sequence[Section]) -> list[str]:
    found = [made for extra in EXTRAS if (made := extra(summaries)) is not None]
    return [f"<section><h2>{escape(s.title)}</h2>{s.html}</section>" for s in (*found, *sections)]


def _page(title: str, content: str) -> str:
    style, script = (path.read_text(encoding="utf-8") for path in (_STYLE, _SCRIPT))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{style}</style></head>"
        f"<body><main>{content}</main><script>{script}</script></body></html>\n"
    )


def _digest(text: str) -> str:
    """How a policy names the one script, or style sheet, that it lets in."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


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


# Origin


def _origin(summaries: Sequence[Summary]) -> str:
    """Where the numbers come from: what all runs share first, then what is each one's own."""
    known = [
        {key: s.facts[key] for key in _FACTS if s.facts.get(key) or s.facts.get(key) == 0}
        for s in summaries
    ]
    shared = {k: v for k, v in known[0].items() if all(facts.get(k) == v for facts in known[1:])}
    shared = shared if len(known) > 1 else {}
    blocks = [f"<h3>All runs</h3>{_facts(shared)}"] if shared else []
    for summary, facts in zip(summaries, known, strict=True):
        own = {key: value for key, value in facts.items() if key not in shared}
        blocks.append(
            f"<h3>{escape(summary.name)}</h3>{_facts(own)}"
            "<details><summary>experiment.yaml</summary>"
            f"<pre>{escape(summary.experiment_text)}</pre></details>"
        )
    return f"<section><h2>How it was made</h2>{''.join(blocks)}</section>"


def _facts(facts: Mapping[str, object]) -> str:
    return f'<dl class="facts">{"".join(_fact(key, value) for key, value in facts.items())}</dl>'


def _fact(key: str, value: object) -> str:
    text = str(value)
    if isinstance(value, list):
        text = " ".join(map(str, cast("list[object]", value)))
    if key == "started":
        text = re.sub(r"(-\d\d)T(\d\d:\d\d):\d\d\+00:00$", r"\1 \2 UTC", text)
    long = key in {"command", "platform", "data_digest", "teacher_sha256"}
    wide = ' class="long"' if long else ""
    code = ' class="code"' if long and key != "platform" else ""
    return f"<div{wide}><dt>{escape(_NAMES.get(key, key))}</dt><dd{code}>{escape(text)}</dd></div>"
