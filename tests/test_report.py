# ruff: noqa: RUF001 (the times sign and the dash are meant)
import csv
import io
import itertools
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dukd.core.text import NOTHING
from dukd.evaluation.table import Spread
from dukd.runs import axes
from dukd.runs.charts import Level, Line, chart
from dukd.runs.compare import DEFINITION, compare
from dukd.runs.curves import over_seeds, series
from dukd.runs.directory import Run
from dukd.runs.report import report
from dukd.runs.signed import read_with_header, with_crc, with_digest, with_header
from dukd.runs.summary import ReportError
from dukd.training import provenance

HOSTILE = '<img src=x onerror="alert(1)">'


def _row(model: str, label: str, psnr: Any, **more: Any) -> dict[str, Any]:
    sets = {"Set5": {"psnr_y": psnr, "ssim_y": 0.9, "psnr_rgb": 30.0, "images": 5}}
    return {"model": model, "label": label, "sets": sets, **more}


def _sign(path: Path, content: dict[str, Any]) -> None:
    """Write figures as an evaluation does, with their checksum."""
    path.write_text(with_digest({k: v for k, v in content.items() if k != "sha256"}))


def _run(
    folder: Path,
    name: str,
    *,
    method: str = "dukd",
    psnr: Any = 32.0,
    seed: int = 1,
    steps: int = 100,
    reached: int = 100,
    scale: int = 2,
    border: str = "2 px",
    data: str = "aa",
    teacher: str = "bb",
    images: bool = False,
    evaluated: bool = True,
    averaged: bool = False,
    precision: str = "float32",
) -> Path:
    run = folder / name
    run.mkdir(parents=True)
    text = (
        f"student: {{type: edsr, width: 64}}\nmethod: {{type: {method}}}\n"
        f"optimization: {{steps: {steps}, seed: {seed}}}\n"
    )
    (run / "experiment.yaml").write_text(with_header(text))
    facts = {
        "command": f"dukd train {name}",
        "dukd": "0.1.0",
        "data_digest": data,
        "teacher_sha256": teacher,
        "started": "2026-11-27T02:26:42+00:00",
    }
    (run / "run.json").write_text(with_digest(facts))
    lines = [
        line
        for step in range(10, reached + 1, 10)
        for line in (
            {"kind": "train", "step": step, "losses": {"reconstruction": 1 / step}},
            {"kind": "validation", "step": step, "sets": {"Set5": {"psnr_y": 30 + step / 100}}},
        )
    ]
    (run / "log.jsonl").write_bytes(b"".join(map(with_crc, lines)) + b'{"kind": "tr')
    (run / "state").mkdir()
    Run(run).states.file(reached).touch()
    if evaluated:
        student = _row(
            "student",
            "student+" if averaged else "student",
            psnr,
            parameters=1_500_000,
            macs=10**9,
            seconds_per_image=0.5,
        )
        rows = [
            _row("bicubic", "bicubic", 28.0),
            student,
            _row("teacher", "EDSR", 33.0, parameters=43_000_000),
        ]
        evaluation = {
            "protocol": {"border": border},
            "scale": scale,
            "precision": precision,
            "rows": rows,
        }
        _sign(run / "evaluation.json", evaluation)
    if images:
        (run / "samples" / "cat").mkdir(parents=True)
        labels = ["ground truth", "teacher", method, "bicubic"]
        for label in labels:
            Image.new("RGB", (3, 2)).save(run / "samples" / "cat" / f"{label}.png")
        images = [
            {"label": label, "file": f"cat/{label}.png", "psnr_y": 25.126} for label in labels
        ]
        (run / "samples" / "index.json").write_text(
            json.dumps([{"sample": "cat", "images": images}])
        )
    return run


class _Page(HTMLParser):
    """What a page loads, and which elements it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.styled: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [
            value or "" for name, value in attrs if name in {"src", "href", "srcset", "action"}
        ]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.styled += [tag for name, _ in attrs if name == "style"]


# Comparison


def test_seeds_become_a_mean_and_a_deviation(tmp_path: Path) -> None:
    """31.9 and 32.1: mean 32, deviation of a sample sqrt(0.02)."""
    runs = [_run(tmp_path, "a", psnr=31.9, seed=1), _run(tmp_path, "b", psnr=32.1, seed=2)]

    bicubic, student, teacher = compare(runs).rows

    assert (bicubic.label, student.label, teacher.label) == ("bicubic", "dukd", "EDSR")
    assert student.values["runs"] == "a b"
    psnr = student.sets["Set5"]["psnr_y"]
    assert psnr == Spread(pytest.approx(32.0), pytest.approx(math.sqrt(0.02)), 2)
    assert student.value("seeds") == 2


def test_gain_and_share_of_the_gap(tmp_path: Path) -> None:
    """Scratch 31, teacher 33, student 31.5: 3.5 dB over bicubic's 28, a quarter of the gap."""
    runs = [_run(tmp_path, "a", method="scratch", psnr=31.0), _run(tmp_path, "b", psnr=31.5)]

    rows = {row.label: row.sets["Set5"] for row in compare(runs).rows}

    assert rows["dukd"]["gain"] == pytest.approx(3.5)
    assert rows["dukd"]["gap_closed"] == pytest.approx(0.25)
    assert "gap_closed" not in rows["scratch"]
    assert "gain" not in rows["bicubic"]
    assert rows["EDSR"]["gain"] == pytest.approx(5.0)


def test_the_gap_is_closed_by_the_same_student_only(tmp_path: Path) -> None:
    """A smaller student from scratch is no start of the way; neither are two of them."""
    scratch = _run(tmp_path, "a", method="scratch", psnr=31.0)
    text = read_with_header(scratch / "experiment.yaml").text.replace("width: 64", "width: 32")
    (scratch / "experiment.yaml").write_text(with_header(text))

    table = compare([scratch, _run(tmp_path, "b", psnr=31.5)])

    assert "gap" not in table.to_markdown()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"steps": 90}, "differ in steps do not belong in one table: a has 100, b has 90"),
        ({"scale": 4}, "differ in scale .*: a has 2, b has 4"),
        ({"border": "4 px"}, r"differ in the protocol \(border\) .*: a has 2 px, b has 4 px"),
        ({"data": "cc"}, r"differ in training data \(data_digest\) .*: a has aa, b has cc"),
        ({"teacher": "cc"}, r"differ in teacher \(teacher_sha256\) .*: a has bb, b has cc"),
        (
            {"averaged": True},
            r"differ in self-ensemble \(--self-ensemble\) .*: a has no, b has yes",
        ),
        ({"precision": "bfloat16"}, r"differ in precision .*: a has float32, b has bfloat16"),
        (
            {"teacher": "ab" * 32},
            r"\(teacher_sha256\) .*: a has bb, b has abababababab…; report them apart",
        ),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(
    tmp_path: Path, other: dict[str, Any], message: str
) -> None:
    runs = [_run(tmp_path, "a"), _run(tmp_path, "b", method="logits", **other)]

    with pytest.raises(ReportError, match=message):
        compare(runs)


def test_all_differences_are_listed_at_once(tmp_path: Path) -> None:
    runs = [_run(tmp_path, "a"), _run(tmp_path, "b", steps=90, data="cc", scale=4)]

    with pytest.raises(ReportError, match=r"(?s)steps.*\n.*data_digest.*\n.*differ in scale"):
        compare(runs)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"reached": 50}, "b was saved at step 50 of 100: resume it first"),
        ({"evaluated": False}, "b was not evaluated: it has no evaluation.json"),
    ],
)
def test_a_run_that_is_not_ready_does_not_end_the_rest(
    tmp_path: Path, other: dict[str, Any], message: str
) -> None:
    runs = [_run(tmp_path, "a"), _run(tmp_path, "b", method="logits", **other), tmp_path / "none"]

    table = compare(runs)

    assert [row.label for row in table.rows] == ["bicubic", "dukd", "EDSR"]
    assert "none holds no run" in table.problems[0]
    assert message in table.problems[1]
    with pytest.raises(ReportError, match=message):
        compare(runs[1:2])


def test_figures_that_were_altered_are_not_compared(tmp_path: Path) -> None:
    runs = [_run(tmp_path, "a"), _run(tmp_path, "b", method="logits")]
    path = runs[1] / "evaluation.json"
    path.write_text(path.read_text().replace("32.0", "35.0"))

    (problem,) = compare(runs).problems

    assert "it was altered after it was measured; run dukd evaluate again" in problem
    page = report(runs, tmp_path / "out.html").read_text()
    assert "Without figures: b: " in page
    assert "logits, step 100: 31.00" in page  # its curves are there all the same


def test_a_self_ensemble_is_marked(tmp_path: Path) -> None:
    table = compare(
        [_run(tmp_path, "a", averaged=True), _run(tmp_path, "b", method="logits", averaged=True)]
    )

    assert [row.label for row in table.rows] == ["bicubic", "dukd+", "logits+", "EDSR"]


def test_the_same_method_twice_is_told_apart_by_its_run(tmp_path: Path) -> None:
    runs = [_run(tmp_path, "a"), _run(tmp_path, "b")]
    text = "method: {type: dukd, weight: 2}\noptimization: {steps: 100}\n"
    (runs[1] / "experiment.yaml").write_text(with_header(text))

    assert [row.label for row in compare(runs).rows] == ["bicubic", "dukd (a)", "dukd (b)", "EDSR"]


def test_a_run_named_twice_is_refused(tmp_path: Path) -> None:
    run = _run(tmp_path, "a")

    with pytest.raises(ReportError, match="named twice"):
        compare([run, run])


def test_copies_of_a_run_are_not_taken_for_seeds(tmp_path: Path) -> None:
    """Their figures would be equal, and a deviation of 0.00 a promise."""
    runs = [_run(tmp_path, name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    for run, digest in zip(runs, ("d1", "d1", "d2"), strict=True):
        content = json.loads((run / "evaluation.json").read_text())
        for row in content["rows"]:
            if row["model"] == "student":
                row["network"] = digest
        _sign(run / "evaluation.json", content)

    with pytest.raises(ReportError, match="a and b hold the same student, so they are one run"):
        compare(runs)
    (student,) = (row for row in compare(runs[1:]).rows if row.model == "student")
    assert student.values["seeds"] == 2


def test_the_table_as_markdown(tmp_path: Path) -> None:
    table = compare(
        [_run(tmp_path, "a", method="scratch", psnr=31.0), _run(tmp_path, "b", psnr=31.5)]
    )

    assert table.to_markdown().replace(NOTHING, "-") == (
        "| model | parameters | MACs | time per image | Set5 PSNR-Y / SSIM-Y | Set5 gap closed |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| bicubic | - | - | - | 28.00 / 0.9000 | - |\n"
        "| scratch | 1,500,000 | 1 G | 500 ms | 31.00 / 0.9000 | - |\n"
        "| dukd | 1,500,000 | 1 G | 500 ms | 31.50 / 0.9000 | 25 % |\n"
        "| EDSR | 43,000,000 | - | - | 33.00 / 0.9000 | - |\n\n"
        "Gap closed: share of the way from the same student trained from scratch, at equal steps, "
        "to the teacher, in PSNR-Y.\n\n"
        "x2, float32, 100 steps. border: 2 px.\n"
    )


def test_the_table_as_data(tmp_path: Path) -> None:
    table = compare([_run(tmp_path, "a", psnr="inf")])

    lines = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert [line["label"] for line in lines] == ["bicubic", "dukd", "EDSR"]
    assert lines[0]["psnr_y"] == "28.0"
    assert lines[1]["parameters"] == "1500000"
    rows = json.loads(table.to_json(), parse_constant=pytest.fail)["rows"]
    assert rows[1]["sets"]["Set5"]["psnr_y"] == "inf"


# The page


def test_the_page_stands_alone(tmp_path: Path) -> None:
    text = report([_run(tmp_path, "a", images=True)], tmp_path / "out.html").read_text()
    page = _Page(text)

    assert "default-src 'none'; img-src data:; style-src 'sha256-" in text
    assert "unsafe" not in text
    assert len(page.links) == 8  # four models, as a crop and whole
    assert all(link.startswith("data:image/webp;base64,") for link in page.links)
    assert page.tags.count("script") == page.tags.count("style") == 1
    assert not page.styled
    assert "url(" not in text
    assert "@import" not in text


def test_the_page_shows_numbers_curves_images_and_origin(tmp_path: Path) -> None:
    runs = [
        _run(tmp_path, "a", method="scratch", psnr=31.0, images=True),
        _run(tmp_path, "b", psnr=31.5, images=True),
    ]

    text = report(runs, tmp_path / "out.html", title="Two ways").read_text()

    assert "<h1>Two ways</h1>" in text
    assert "<strong>31.50</strong><small>0.9000 · +3.50</small>" in text
    assert "<b>25 %</b>" in text
    assert "28.7×" in text
    assert "500 ms" in text
    assert "border</dt><dd>2 px" in text
    assert "dukd, step 100: 31.00" in text
    assert "dukd train b" in text
    captions = re.findall(r"<figcaption><span>([a-z ]+)</span>", text)
    models = ["bicubic", "scratch", "dukd", "teacher", "ground truth"]
    assert captions == models + models
    assert text.count("<small>25.13 dB</small></figcaption>") == 4
    assert text.count(DEFINITION) == 1


def test_the_hour_is_written_as_people_write_it(tmp_path: Path) -> None:
    """An ISO date without a space is broken behind a hyphen where the column is narrow."""
    report([_run(tmp_path, "a")], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()

    assert "<dd>2026-11-27 02:26 UTC</dd>" in page


@pytest.mark.parametrize(
    ("program", "command"),
    [
        ("/usr/bin/dukd", "dukd train x"),
        ("/lib/python3.13/site-packages/dukd/__main__.py", "dukd train x"),
        ("mine.py", "mine.py train x"),
    ],
)
def test_a_run_knows_the_command_that_was_typed(program, command, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", [program, "train", "x"])

    assert provenance._command() == command


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    run = _run(tmp_path, "a <b onclick=x>", images=True)
    (run / "run.json").write_text(with_digest({"command": HOSTILE, "torch": [HOSTILE]}))
    (run / "experiment.yaml").write_text(with_header(f"method: {{type: '{HOSTILE}'}}\n"))
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation["protocol"] = {HOSTILE: HOSTILE}
    evaluation["rows"][0] |= {"label": HOSTILE, "sets": {HOSTILE: {"psnr_y": 1, "images": 1}}}
    _sign(run / "evaluation.json", evaluation)
    (run / "log.jsonl").write_bytes(
        with_crc({"kind": "train", "step": 1, "losses": {HOSTILE: 1, "x": HOSTILE, "\\ud800": 2}})
        + with_crc({"kind": "validation", "step": 1, "sets": {HOSTILE: {"psnr_y": 1}, "y": 3}})
    )
    image = {"label": HOSTILE, "file": "cat/dukd.png"}
    (run / "samples" / "index.json").write_text(
        json.dumps([{"sample": HOSTILE, "images": [image]}])
    )

    text = report([run], tmp_path / "out.html", title=HOSTILE).read_text()
    page = _Page(text)

    assert page.handlers == []
    assert all(link.startswith("data:") for link in page.links)
    assert "<img src=x" not in text


def test_images_outside_the_samples_are_not_shown(tmp_path: Path) -> None:
    run = _run(tmp_path, "a", images=True)
    secret = tmp_path / "secret.png"
    Image.new("RGB", (1, 1)).save(secret)
    for file in ("../../secret.png", str(secret)):
        (run / "samples" / "index.json").write_text(
            json.dumps([{"sample": "s", "images": [{"label": "l", "file": file}]}])
        )
        with pytest.raises(ReportError, match="lies outside samples"):
            report([run], tmp_path / "out.html")


@pytest.mark.parametrize(
    "index", ["[1]", "{}x", '[{"sample": "s", "images": [{"label": 1}]}]', "null"]
)
def test_a_damaged_list_of_samples_is_named(tmp_path: Path, index: str) -> None:
    run = _run(tmp_path, "a", images=True)
    (run / "samples" / "index.json").write_text(index)

    with pytest.raises(ReportError, match=r"index\.json is not a list of samples"):
        report([run], tmp_path / "out.html")


def test_a_file_that_is_no_png_is_refused(tmp_path: Path) -> None:
    run = _run(tmp_path, "a", images=True)
    (run / "samples" / "cat" / "dukd.png").write_bytes(b"<svg onload=x>")

    with pytest.raises(ReportError, match=r"dukd\.png is not a PNG"):
        report([run], tmp_path / "out.html")


def test_a_run_that_has_only_begun_is_reported(tmp_path: Path) -> None:
    run = tmp_path / "a"
    run.mkdir()
    (run / "experiment.yaml").write_text(with_header("optimization: {steps: 100}\n"))

    text = report([run], tmp_path / "out.html").read_text()

    assert "a is at step 0 of 100" in text
    assert "scratch is not among the images" in text
    assert "No run was evaluated yet" in text


# Charts


def test_points_lie_where_their_values_are() -> None:
    """The axis reaches 6 % beyond the values 0 and 10 on each side: 5 is in its middle."""
    svg = chart([Line("a", [(0, 0.0), (50, 5.0), (100, 10.0)], 0)], label="x")

    middle = (14 + 300 - 40) / 2
    left, right = 14 + 9.6 * 2, 560 - 12 - 9.6  # beside "10", and before "a"
    assert f'cx="{(left + right) / 2:.1f}" cy="{middle:.1f}"' in svg
    assert "<title>a, step 50: 5.00</title>" in svg


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (29.9, 32.2, [30, 30.5, 31, 31.5, 32]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, expected: list[float]) -> None:
    assert axes.ticks(low, high) == expected


def test_odd_values_are_left_out() -> None:
    points = [(1, math.nan), (2, math.inf), (3, 0.0), (4, -1.0), (5, 0.5)]

    assert chart([Line("a", points, 0)], label="x", log=True).count('<circle class="dot"') == 1
    assert (
        chart([Line("a", points[:4], 0)], label="<x>", log=True)
        == '<p class="none">No values of &lt;x&gt;.</p>'
    )
    assert "nan" not in chart([Line("a", [(0, 1.0)], 0), Line("b", [], 1)], label="x")


def test_a_single_point_is_a_visible_dot() -> None:
    svg = chart([Line("a", [(10, 2.0)], 1)], label="x")

    assert re.search(r'<circle class="f1" cx="[\d.]+" cy="[\d.]+" r="4"/>', svg)
    assert "<polyline" not in svg


def test_long_curves_are_thinned_to_means() -> None:
    svg = chart([Line("a", [(step, float(step % 2)) for step in range(1, 32_001)], 0)], label="x")

    assert svg.count("<circle") == 80
    assert svg.count(": 0.50</title>") == 80


def test_thinning_leaves_no_group_of_a_few_points_at_the_end() -> None:
    """100 points in 80 groups of one or two; the last is a pair, so its mean is a half."""
    values = [1.0] * 99 + [0.0]
    svg = chart([Line("a", list(enumerate(values, 1)), 0)], label="x")

    assert "a, step 100: 0.50</title>" in svg


def test_the_last_loss_is_a_mean_of_as_many_steps_as_the_others() -> None:
    """Lines each 10 steps and a last one of 2: it counts a sixth beside the 10 before it."""
    values = [(10, 3.0), (20, 3.0), (22, 0.0)]
    records = [{"kind": "train", "step": s, "losses": {"x": v}} for s, v in values]

    assert series(records, "train") == {"x": [(10, 3.0), (22, pytest.approx(2.5))]}


def test_seeds_are_a_mean_with_a_band() -> None:
    seeds = [[(1, 1.0), (2, 2.0), (3, 9.0)], [(1, 3.0), (2, 2.0)]]

    line = over_seeds("dukd", seeds, 0)

    assert line.points == [(1, 2.0), (2, 2.0)]
    assert line.band == [(1, 1.0, 3.0), (2, 2.0, 2.0)]
    assert '<polygon class="b0"' in chart([line], label="x")


def test_labels_at_the_ends_of_lines_are_not_cut_and_do_not_touch() -> None:
    lines = [Line(f"name-{n}", [(0, 0.0), (9, 1.0 + n / 1000)], n) for n in range(5)]

    svg = chart(lines, label="x", levels=[Level("teacher", 1.0)])

    labels = re.findall(r'<text class="e\w" x="(\d+)" y="([\d.]+)">([^<]+)', svg)
    heights = sorted(float(y) for _, y, _ in labels)
    assert len(labels) == 6
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 16.9
    assert all(int(x) + 9.5 * len(name) <= 560 for x, _, name in labels)
    assert all(0 < y < 300 - 30 for y in heights)


def test_bicubic_and_teacher_are_levels_where_the_images_are_the_same(tmp_path: Path) -> None:
    """The last validation gives 31.00: an evaluation of the same images gives it too."""
    same = report([_run(tmp_path, "a", psnr=31.0)], tmp_path / "a.html").read_text()
    others = report([_run(tmp_path, "b", psnr=31.5)], tmp_path / "b.html").read_text()

    assert same.count('class="level"') == 2
    assert 'class="level"' not in others


def test_dukd_stands_out(tmp_path: Path) -> None:
    runs = [_run(tmp_path, "a", method="logits"), _run(tmp_path, "b")]

    text = report(runs, tmp_path / "out.html").read_text()

    assert '<tr class="student strong"><th scope="row">dukd' in text
    assert '<polyline class="s0"' in text
    assert re.search(r'class="e0"[^>]*>dukd', text)
    assert re.search(r'class="e1"[^>]*>logits', text)


@pytest.mark.parametrize(
    ("value", "text"), [(250_000, "250k"), (1_500_000, "1.5M"), (20, "20"), (0, "0")]
)
def test_steps_are_short(value: float, text: str) -> None:
    assert axes.steps(value) == text
