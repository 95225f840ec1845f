"""One HTML page about one or several runs: numbers, curves, images, and how they came about.

The page stands alone: it asks for nothing over the network, holds no script, and shows whatever the
run directories hold as text. It reads run directories only, so it can be made on another machine
than the one that trained.

Images are PNG crops in ``samples/<sample>/<label>.png``, listed in ``samples/index.json``::

    [{"sample": "butterfly", "images": [{"label": "bicubic", "file": "butterfly/bicubic.png",
    "psnr_y": 24.1}]}]

``file`` is relative to ``samples/``; ``psnr_y`` is that of the whole image. Labels are ``bicubic``,
``teacher``, ``ground truth``, and the method's name for the run's own student. Several runs that
cropped the same sample are shown side by side.
"""

# ruff: noqa: RUF001 (the times sign, the dash and the minus are meant)

import base64
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, cast

from dukd.core import files
from dukd.runs import charts
from dukd.runs.charts import Line
from dukd.runs.compare import (
    EVALUATION,
    METRICS,
    Comparison,
    ReportError,
    Row,
    Score,
    Spread,
    Story,
    compact,
    compare,
    read_all,
    spread_text,
    tabulate,
)

__all__ = ["Comparison", "ReportError", "compare", "report"]

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_PNG = b"\x89PNG\r\n\x1a\n"
_LARGEST_IMAGE = 8 << 20
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
_NAMES = {
    "psnr_y": "PSNR-Y",
    "ssim_y": "SSIM-Y",
    "psnr_rgb": "PSNR-RGB",
    "ssim_rgb": "SSIM-RGB",
    "agreement": "Agreement",
    "data_digest": "training data (digest)",
    "teacher_sha256": "teacher (sha256)",
}


def report(
    runs: Sequence[Path], out: Path, *, title: str = "Distillation report", about: str = "", measured: str = EVALUATION
) -> Path:
    """Write a page about runs.

    Args:
        runs: Run directories; what one does not hold is left out.
        out: The HTML file.
        title: Headline.
        about: A paragraph below it.
        measured: The file of each run that the table is made from.

    Returns:
        ``out``.

    Raises:
        ReportError: If runs differ in what makes numbers comparable; the message names the
        difference. dukd.runs.checkpoint.CheckpointError: If a directory holds no run.
    """
    stories = read_all(runs, measured)
    table = tabulate(stories)
    styles = _styles(stories)
    sections = [
        _headline(table),
        _table(table),
        _images(stories),
        _curves(stories, styles),
        _origin(stories),
    ]
    common = [
        f"×{table.scale}" if table.scale else "",
        f"{table.steps:,} steps".replace(",", "\u2009") if table.steps else "",
        f"{len(stories)} run{'s' if len(stories) > 1 else ''}",
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{_text(title)}</title><style>{_STYLE}{charts.dashes()}</style></head><body><main>"
        f"<header><h1>{_text(title)}</h1><p>{_text(' · '.join(filter(None, common)))}</p>"
        f"{f'<p>{_text(about)}</p>' if about else ''}{_unfinished(stories)}</header>"
        f"{''.join(sections)}<footer>Made by dukd from run directories alone.</footer></main></body></html>\n"
    )
    # names may hold what UTF-8 cannot
    files.write_bytes(out, page.encode(errors="backslashreplace"))
    return Path(out)


def _text(value: object) -> str:
    return escape(str(value))


def _styles(stories: Sequence[Story]) -> dict[str, int]:
    """The number of each run's color: seeds of one experiment share theirs."""
    kins = list(dict.fromkeys(story.kin for story in stories))
    return {story.name: kins.index(story.kin) for story in stories}


def _unfinished(stories: Sequence[Story]) -> str:
    open_runs = [f"{story.name} is at step {story.reached} of {story.steps}" for story in stories if not story.finished]
    return f'<p class="note">Not finished: {_text("; ".join(open_runs))}.</p>' if open_runs else ""


# Numbers


def _headline(table: Comparison) -> str:
    """The best student in a few large numbers, on the first set."""
    name = table.sets[0] if table.sets else ""
    students = [row for row in table.rows if row.model == "student" and _value(row, name, "psnr_y")]
    if not students:
        return ""
    best = max(students, key=lambda row: cast("Spread", _value(row, name, "psnr_y")).mean)
    teacher = next((row for row in table.rows if row.model == "teacher"), None)
    score = best.sets[name]
    cards = [(f"{spread_text(Spread(score.values['psnr_y'].mean), 2)} dB", f"PSNR-Y on {name}, {best.label}")]
    if score.gain is not None:
        cards.append((f"{_signed(score.gain)} dB", "over bicubic"))
    if score.gap_closed is not None:
        cards.append((_percent(score.gap_closed), "of the gap to the teacher closed"))
    if teacher and teacher.parameters and best.parameters:
        cards.append((f"{teacher.parameters / best.parameters:.3g}×", "fewer parameters than the teacher"))
    if teacher and teacher.seconds_per_image and best.seconds_per_image:
        cards.append((f"{teacher.seconds_per_image / best.seconds_per_image:.3g}×", "faster than the teacher"))
    items = "".join(f"<li><b>{_text(number)}</b><span>{_text(what)}</span></li>" for number, what in cards)
    return f'<ul class="cards">{items}</ul>'


def _table(table: Comparison) -> str:
    if not table.rows:
        return '<section><h2>Results</h2><p class="none">No run was evaluated yet (dukd evaluate).</p></section>'
    images = {name: next(row.sets[name].images for row in table.rows if name in row.sets) for name in table.sets}
    groups = "".join(f"<th>{_text(name)}<small>{_count(images[name])}</small></th>" for name in table.sets)
    best = {name: _best(table, name) for name in table.sets}
    rows = "".join(
        f'<tr class="{row.model}"><th scope="row">{_text(row.label)}{_seeds(row)}</th>'
        + "".join(_scores(row.sets.get(name), best=row is best[name]) for name in table.sets)
        + f"<td>{_percent(_closed(row, table))}</td><td>{compact(row.parameters)}</td>"
        f"<td>{compact(row.macs)}</td><td>{_seconds(row.seconds_per_image)}</td></tr>"
        for row in table.rows
    )
    first = f" on {_text(table.sets[0])}" if table.sets else ""
    protocol = "".join(
        f"<div><dt>{_text(key)}</dt><dd>{_text(value)}</dd></div>" for key, value in table.protocol.items()
    )
    return (
        '<section><h2>Results</h2><div class="wide"><table class="results"><thead>'
        f"<tr><th>Model</th>{groups}<th>gap closed</th><th>parameters</th><th>MACs</th><th>time per<br>image</th>"
        f"</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
        '<p class="legend">Upper line: PSNR-Y in dB. Lower line: SSIM-Y, and PSNR-Y above bicubic. Gap closed: share '
        f"of the way from the same student trained from scratch to the teacher, in PSNR-Y{first}. "
        "±: standard deviation over seeds. Bold: best student.</p>"
        f'<h3>Protocol</h3><dl class="facts">{protocol or "<div><dt>none</dt><dd>nothing said</dd></div>"}</dl>'
        f"{_more(table)}</section>"
    )


def _more(table: Comparison) -> str:
    rows = "".join(
        f'<tr><th scope="row">{_text(row.label)}</th><td>{_text(name)}</td>'
        + "".join(f"<td>{spread_text(score.values.get(metric), _digits(metric))}</td>" for metric in METRICS)
        + "</tr>"
        for row in table.rows
        for name, score in row.sets.items()
    )
    head = "".join(f"<th>{_NAMES[metric]}</th>" for metric in METRICS)
    return (
        '<details><summary>All measures</summary><div class="wide"><table><thead>'
        f"<tr><th>Model</th><th>Set</th>{head}</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )


def _scores(score: Score | None, *, best: bool) -> str:
    if score is None:
        return "<td>–</td>"
    psnr = spread_text(score.values.get("psnr_y"), 2)
    ssim = score.values.get("ssim_y")
    below = [spread_text(Spread(ssim.mean), 4)] if ssim else []
    below += [_signed(score.gain)] if score.gain is not None else []
    shown = f"<strong>{psnr}</strong>" if best else psnr
    return f"<td>{shown}<small>{' · '.join(below)}</small></td>"


def _best(table: Comparison, name: str) -> Row | None:
    students = [row for row in table.rows if row.model == "student" and _value(row, name, "psnr_y")]
    return max(students, key=lambda row: cast("Spread", _value(row, name, "psnr_y")).mean) if students else None


def _closed(row: Row, table: Comparison) -> float | None:
    score = row.sets.get(table.sets[0]) if table.sets and row.model == "student" else None
    return score.gap_closed if score else None


def _value(row: Row, name: str, metric: str) -> Spread | None:
    score = row.sets.get(name)
    return score.values.get(metric) if score else None


def _seeds(row: Row) -> str:
    return f" <small>{len(row.runs)} seeds</small>" if len(row.runs) > 1 else ""


def _digits(metric: str) -> int:
    return 4 if metric.startswith("ssim") else 2


def _count(images: int) -> str:
    return f"{images} image{'s' if images != 1 else ''}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}".replace("-", "\u2212")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %".replace("-", "\u2212")


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.3g} ms"


# Curves


def _curves(stories: Sequence[Story], styles: Mapping[str, int]) -> str:
    validation: dict[str, list[Line]] = {}
    training: dict[str, list[Line]] = {}
    for story in stories:
        style = styles[story.name]
        for name, points in _series(story, "validation").items():
            validation.setdefault(name, []).append(Line(story.name, points, style))
        for name, points in _series(story, "train").items():
            training.setdefault(name, []).append(Line(story.name, points, style))
    if not validation and not training:
        return ""
    figures = [
        _figure(f"PSNR-Y on {name}", "dB, while training", charts.chart(lines, label=f"PSNR-Y on {name}"))
        for name, lines in validation.items()
    ]
    figures += [
        _figure(
            f"Loss: {name.replace('_', ' ')}",
            "weighted, logarithmic",
            charts.chart(lines, label=name, log=True, digits=5),
        )
        for name, lines in training.items()
    ]
    seen: dict[int, list[str]] = {}
    for story in stories:
        seen.setdefault(styles[story.name], []).append(story.name)
    legend = "".join(f"<li>{charts.swatch(style)}{_text(', '.join(names))}</li>" for style, names in seen.items())
    return (
        f'<section><h2>Training</h2><ul class="key">{legend}</ul><div class="charts">{"".join(figures)}</div>'
        '<p class="legend">A point names its run and value when the pointer rests on it.</p></section>'
    )


def _series(story: Story, kind: str) -> dict[str, list[tuple[float, float]]]:
    """Curves by name: losses of training lines, PSNR-Y by set of validation lines."""
    found: dict[str, list[tuple[float, float]]] = {}
    for record in story.records:
        step = record.get("step")
        values = record.get("losses" if kind == "train" else "sets")
        if record.get("kind") != kind or not isinstance(step, int) or not isinstance(values, dict):
            continue
        for name, value in cast("dict[str, Any]", values).items():
            number = value.get("psnr_y") if isinstance(value, dict) else value  # pyright: ignore[reportUnknownMemberType]
            try:
                found.setdefault(str(name), []).append((float(step), float(cast("float", number))))
            except (TypeError, ValueError):
                continue
    return {name: sorted(points) for name, points in found.items()}


def _figure(title: str, note: str, content: str) -> str:
    return f"<figure><figcaption>{_text(title)} <small>{_text(note)}</small></figcaption>{content}</figure>"


# Images


@dataclass(frozen=True)
class _Picture:
    label: str
    file: Path
    psnr: float | None


def _images(stories: Sequence[Story]) -> str:
    samples: dict[str, dict[str, _Picture]] = {}
    for story in stories:
        for sample, image in _listed(story):
            samples.setdefault(sample, {}).setdefault(image.label, image)
    blocks: list[str] = []
    for sample, images in samples.items():
        order = sorted(images.values(), key=lambda image: _rank(image.label))
        shown = "".join(_image(image, sample) for image in order)
        blocks.append(f'<h3>{_text(sample)}</h3><div class="crops">{shown}</div>')
    if not blocks:
        return ""
    told = "Pieces of images, enlarged without smoothing; below, the PSNR-Y of the whole image."
    return f'<section><h2>Images</h2><p class="legend">{told}</p>{"".join(blocks)}</section>'


def _listed(story: Story) -> list[tuple[str, _Picture]]:
    folder = story.directory / "samples"
    index = folder / "index.json"
    if not index.exists():
        return []
    try:
        found: list[tuple[str, _Picture]] = []
        for entry in json.loads(index.read_bytes()):
            for image in entry["images"]:
                file = (folder / str(image["file"])).resolve()
                if not file.is_relative_to(folder.resolve()):
                    raise ReportError(f"{index} names {image['file']}, which lies outside samples")
                psnr = None if image.get("psnr_y") is None else float(image["psnr_y"])
                found.append((str(entry["sample"]), _Picture(str(image["label"]), file, psnr)))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, ReportError):
            raise
        raise ReportError(f"{index} is no list of samples ({type(error).__name__}: {error})") from error
    return found


def _rank(label: str) -> int:
    return {"bicubic": 0, "teacher": 2, "ground truth": 3}.get(label, 1)


def _image(image: _Picture, sample: str) -> str:
    try:
        content = image.file.read_bytes()
    except OSError as error:
        raise ReportError(f"cannot read {image.file}: {error.strerror}") from error
    if not content.startswith(_PNG) or len(content) > _LARGEST_IMAGE:
        raise ReportError(f"{image.file} is no PNG of at most {_LARGEST_IMAGE >> 20} MB")
    width, height = struct.unpack(">II", content[16:24])
    psnr = "" if image.psnr is None else f" <small>{image.psnr:.2f} dB</small>"
    alternative = _text(f"{sample}, {image.label}")
    return (
        f'<figure><img width="{width}" height="{height}" alt="{alternative}" '
        f'src="data:image/png;base64,{base64.b64encode(content).decode()}">'
        f"<figcaption>{_text(image.label)}{psnr}</figcaption></figure>"
    )


# Origin


def _origin(stories: Sequence[Story]) -> str:
    blocks: list[str] = []
    for story in stories:
        told = [(key, story.facts[key]) for key in _FACTS if story.facts.get(key) or story.facts.get(key) == 0]
        rest = "".join(
            f"<div><dt>{_text(_NAMES.get(key, key))}</dt><dd{_code(key)}>{_text(_fact(value))}</dd></div>"
            for key, value in told
        )
        blocks.append(
            f'<h3>{_text(story.name)}</h3><dl class="facts">{rest}</dl>'
            f"<details><summary>experiment.yaml</summary><pre>{_text(story.experiment_text)}</pre></details>"
        )
    return f"<section><h2>How it was made</h2>{''.join(blocks)}</section>"


def _fact(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, cast("list[object]", value)))
    return str(value)


def _code(key: str) -> str:
    return ' class="code"' if key in {"command", "data_digest", "teacher_sha256"} else ""


_STYLE = """
:root{--paper:#fff;--ink:#1c2024;--soft:#60666d;--line:#e2e5e9;--panel:#f6f7f9;--accent:#0067a5;
--c0:#0072b2;--c1:#c8500a;--c2:#00845f;--c3:#a8457f;--c4:#9a6b00;--c5:#4b5157}
@media(prefers-color-scheme:dark){:root{--paper:#14171a;--ink:#e7eaed;--soft:#9ba3ab;--line:#2c3238;--panel:#1c2125;
--accent:#6cbdf0;--c0:#56b4e9;--c1:#ff9148;--c2:#36c99d;--c3:#e59ac6;--c4:#e8b93c;--c5:#b9c0c7}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,"DejaVu Sans",sans-serif;-webkit-text-size-adjust:100%}
main{max-width:1180px;margin:0 auto;padding:2.5rem 1.25rem 3rem}
h1{font-size:1.9rem;line-height:1.2;letter-spacing:-.015em;margin:0;overflow-wrap:anywhere}
h2{font-size:1.25rem;letter-spacing:-.01em;margin:3rem 0 1rem;padding-bottom:.4rem;border-bottom:1px solid var(--line)}
h3{font-size:1rem;margin:1.6rem 0 .6rem;overflow-wrap:anywhere}
header p{margin:.4rem 0 0;color:var(--soft);max-width:75ch}
header .note{color:var(--c1)}
small{font-size:.82em;color:var(--soft);font-weight:400}
.cards{list-style:none;margin:2rem 0 0;padding:0;display:grid;gap:.75rem;
grid-template-columns:repeat(auto-fit,minmax(150px,1fr))}
.cards li{background:var(--panel);border-radius:10px;padding:.9rem 1rem}
.cards b{display:block;font-size:1.5rem;line-height:1.25;font-weight:600;letter-spacing:-.02em;
font-variant-numeric:tabular-nums;white-space:nowrap}
.cards span{color:var(--soft);font-size:.86rem;line-height:1.35;display:block}
.wide{overflow-x:auto;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{padding:.45rem .6rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th:first-child{text-align:left;position:sticky;left:0;background:var(--paper)}
thead th{font-weight:500;color:var(--soft);font-size:.84rem;vertical-align:bottom;line-height:1.3}
.results small{display:block;line-height:1.35}
tbody th{font-weight:500}
.bicubic th,.bicubic td,.baseline th,.baseline td,.teacher th,.teacher td{color:var(--soft)}
strong{font-weight:650;color:var(--accent)}
.legend,.none{color:var(--soft);font-size:.86rem;max-width:75ch}
.facts{margin:0;display:grid;grid-template-columns:repeat(auto-fit,minmax(260px,1fr));gap:.5rem 2rem}
.facts dt{color:var(--soft);font-size:.82rem}
.facts dd{margin:0;overflow-wrap:anywhere}
.facts .code,pre{font:.84rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
pre{background:var(--panel);padding:1rem;border-radius:8px;overflow-x:auto}
details{margin-top:1rem}
summary{cursor:pointer;color:var(--accent);font-size:.92rem}
.key{list-style:none;display:flex;flex-wrap:wrap;gap:.3rem 1.4rem;margin:0 0 1rem;padding:0;font-size:.9rem}
.swatch{width:28px;height:8px;margin-right:.5rem;vertical-align:middle;stroke-width:2.5}
.charts{display:grid;gap:1.5rem 2rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr))}
figure{margin:0;min-width:0}
figcaption{font-size:.92rem;font-weight:500}
.chart{width:100%;height:auto;display:block;margin-top:.3rem}
.chart text{fill:var(--soft);font-size:12.5px;font-variant-numeric:tabular-nums}
.chart polyline{stroke-width:1.9;stroke-linejoin:round;stroke-linecap:round}
.grid{stroke:var(--line)}
.axis{stroke:var(--soft);stroke-opacity:.5}
.dot{stroke:none!important;fill:transparent!important}
.dot:hover{fill:var(--ink)!important;fill-opacity:.75}
.crops{display:grid;gap:.9rem;grid-template-columns:repeat(auto-fit,minmax(140px,1fr))}
.crops figure{max-width:260px}
.crops img{width:100%;height:auto;display:block;image-rendering:pixelated;border-radius:4px;background:var(--panel)}
.crops figcaption{margin-top:.3rem;display:flex;justify-content:space-between;gap:.5rem}
footer{margin-top:3rem;color:var(--soft);font-size:.84rem}
@media(max-width:520px){main{padding:1.5rem 1rem}h1{font-size:1.5rem}.crops{grid-template-columns:repeat(2,1fr)}
.cards{grid-template-columns:1fr 1fr}.cards b{font-size:1.2rem}.chart text{font-size:16px}}
@media print{.wide{overflow:visible}details{display:none}}
"""
