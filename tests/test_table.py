"""One table for evaluations, comparisons and timings: what people see, and what programs read."""

import csv
import io
import json
import math

import pytest

from dukd.core.text import NOTHING, signed
from dukd.evaluation.table import FORMS, Column, Row, Spread, Table, decimals

PSNR = Column(name="psnr", title="PSNR", unit="dB", show=decimals(2), better="higher")
SSIM = Column(name="ssim", title="SSIM", show=decimals(3), joined=True)
HIDDEN = Column(name="hidden", title="hidden", shown=False)
STEPS = Column(name="steps", title="steps", show=lambda value: f"{value:,.0f}")


def student(label: str, psnr: float | Spread, *, on: str = "Set5", **values: float) -> Row:
    sets = {on: {"psnr": psnr, "ssim": 0.9, "hidden": 7.0}}
    return Row(label=label, model="student", values=dict(values), sets=sets)


def table(*rows: Row) -> Table:
    return Table(
        rows=rows,
        columns=(STEPS,),
        measures=(PSNR, SSIM, HIDDEN),
        scale=4,
        facts={"device": "cpu", "steps": 100},
        protocol={"border": "4 pixels"},
    )


def test_the_deviation_is_that_of_a_sample() -> None:
    """31.9 and 32.1: mean 32, deviation sqrt(0.02)."""
    assert Spread.of([31.9, 32.1]) == Spread(32.0, pytest.approx(math.sqrt(0.02)), 2)
    assert Spread.of([5.0]) == Spread(5.0)
    assert Spread.of([1.0, math.inf]) == Spread(math.inf, None, 2)


def test_a_deviation_has_no_sign() -> None:
    gain = Column(name="gain", title="gain", show=signed)

    assert gain.text(Spread.of([0.1, 0.3])) == "+0.20 ± 0.14"
    assert gain.text(Spread.of([-0.1, -0.3])) == "\u22120.20 ± 0.14"


def test_markdown_shows_what_people_read() -> None:
    found = table(student("a|b", Spread.of([31.9, 32.1]), steps=1000), student("c", math.inf))

    assert found.to_markdown().splitlines() == [
        "| model | steps | Set5 PSNR (dB) / SSIM |",
        "| --- | ---: | ---: |",
        "| a\\|b | 1,000 | 32.00 ± 0.14 / 0.900 |",
        f"| c | {NOTHING} | ∞ / 0.900 |",
        "",
        "x4, cpu, 100 steps. border: 4 pixels.",
    ]


def test_a_notebook_shows_the_best_student_bold_and_escapes_names() -> None:
    shown = table(student("a<b", 31.0), student("c", 32.0))._repr_html_()

    cell = '<td style="white-space: nowrap">'  # a number and its unit stay together
    assert f"{cell}a&lt;b</td>" in shown
    assert f"{cell}<b>32.00 / 0.900</b></td>" in shown
    assert "<b>31.00" not in shown
    assert shown.endswith("<small>x4, cpu, 100 steps. border: 4 pixels.</small></p>")


def test_what_no_row_has_is_left_out_and_what_one_lacks_is_a_dash() -> None:
    header, lines = table(student("a", 31.0), student("b", 32.0, on="Set14")).cells()

    assert header == ["model", "Set5 PSNR (dB) / SSIM", "Set14 PSNR (dB) / SSIM"]
    assert lines == [["a", "31.00 / 0.900", NOTHING], ["b", NOTHING, "32.00 / 0.900"]]


def test_columns_can_be_chosen() -> None:
    found = table(student("a", 31.0, steps=5)).only("hidden", "psnr")

    assert found.cells()[0] == ["model", "Set5 hidden", "Set5 PSNR (dB)"]


def test_csv_holds_everything_with_a_line_per_set() -> None:
    found = table(student("a", Spread.of([31.9, 32.1])), Row(label="b", model="bicubic"))

    first, second = csv.DictReader(io.StringIO(found.to_csv()))

    assert (first["label"], first["set"], first["hidden"]) == ("a", "Set5", "7.0")
    assert float(first["psnr_deviation"]) == pytest.approx(math.sqrt(0.02))
    assert (second["label"], second["set"], second["psnr"]) == ("b", "", "")
    assert first["protocol"] == found.protocol_line()


def test_json_is_strict_and_holds_everything() -> None:
    """Equal images have an infinite PSNR, for which JSON has no number."""
    found = table(student("a", math.inf), student("b", Spread.of([1.0, 3.0])))

    read = json.loads(found.to_json(), parse_constant=pytest.fail)

    assert (read["scale"], read["device"], read["protocol"]) == (4, "cpu", {"border": "4 pixels"})
    assert read["rows"][0]["sets"]["Set5"] == {"psnr": "inf", "ssim": 0.9, "hidden": 7.0}
    assert read["rows"][1]["sets"]["Set5"]["psnr"] == {
        "mean": 2.0,
        "deviation": pytest.approx(math.sqrt(2)),
        "n": 2,
    }


def test_the_best_is_a_student() -> None:
    rows = (
        student("a", 31.0),
        student("b", Spread.of([32.0, 32.2])),
        Row(label="t", model="teacher", sets={"Set5": {"psnr": 40.0}}),
    )

    assert table(*rows).best(PSNR, "Set5") is rows[1]
    assert table(*rows).best(SSIM, "Set5") is None
    assert table(*rows[2:]).best(PSNR, "Set5") is None


def test_problems_stand_below() -> None:
    found = Table(rows=(Row(label="a"),), problems=("b.png is torn <x>",))

    assert found.to_markdown().endswith("Not measured: b.png is torn &lt;x>\n")
    assert json.loads(found.to_json())["problems"] == ["b.png is torn <x>"]


def test_latex_is_for_booktabs_with_the_best_student_in_bold() -> None:
    found = table(student("a_b", Spread.of([31.9, 32.1])), student("c", 31.5))

    assert FORMS[".tex"](found).splitlines() == [
        "% x4, cpu, 100 steps. border: 4 pixels.",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"model & Set5 PSNR (dB) / SSIM \\",
        r"\midrule",
        r"a\_b & \textbf{32.00 $\pm$ 0.14} / 0.900 \\",
        r"c & 31.50 / 0.900 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
