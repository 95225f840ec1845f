"""What was measured of a run adds up, and nothing that cannot stand in one table gets into one."""

import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from dukd.evaluation.evaluate import fingerprint
from dukd.evaluation.table import Row, Table, Value
from dukd.networks import EDSRConfig
from dukd.runs import results
from dukd.runs.results import file_name, keep

FIRST, SECOND = {"Set5": (30.0, 32.0, 34.0)}, {"Set14": (28.0, 29.0, 32.0)}
"""By set: PSNR of bicubic, student and teacher."""


def scores(
    psnr: float, *, images: int = 5, agreement: float | None = None, seconds: float | None = None
) -> dict[str, Value]:
    found: dict[str, Value] = {"images": images, "psnr_y": psnr, "ssim_y": 0.9}
    return found | {
        name: value
        for name, value in (("agreement", agreement), ("seconds", seconds))
        if value is not None
    }


def table(
    sets: dict[str, tuple[float, float, float]],
    *,
    student: str = "s",
    teacher: str | None = "t",
    images: int = 5,
    label: str = "mine",
    seconds: float = 1.0,
    **facts: object,
) -> Table:
    rows = [
        Row(
            model="bicubic",
            label="bicubic",
            sets={n: scores(b, images=images) for n, (b, _, _) in sets.items()},
        ),
        Row(
            model="student",
            label=label,
            values={"network": student},
            sets={
                n: scores(s, images=images, agreement=40.0 if teacher else None, seconds=seconds)
                for n, (_, s, _) in sets.items()
            },
        ),
    ]
    if teacher:
        better = {n: scores(t, images=images) for n, (_, _, t) in sets.items()}
        values = {"network": teacher}
        rows.append(Row(model="teacher", label="EDSR", values=values, sets=better))
    known = Table(scale=2, border=2, rows=tuple(rows), protocol={"border": "as the scale"})
    return replace(known, **facts)


def kept(path: Path) -> dict[str, dict[str, dict[str, object]]]:
    """Scores by model and set."""
    return {row["model"]: row["sets"] for row in json.loads(path.read_text())["rows"]}


def test_a_set_joins_those_that_were_measured_before(tmp_path: Path) -> None:
    keep(tmp_path, table(FIRST))

    found = keep(tmp_path, table(SECOND))

    assert found == results.Kept(path=tmp_path / "evaluation.json")
    assert [p.name for p in tmp_path.iterdir()] == ["evaluation.json"]
    values = {m: {n: s["psnr_y"] for n, s in sets.items()} for m, sets in kept(found.path).items()}
    assert values == {
        "bicubic": {"Set5": 30.0, "Set14": 28.0},
        "student": {"Set5": 32.0, "Set14": 29.0},
        "teacher": {"Set5": 34.0, "Set14": 32.0},
    }


def test_two_that_measure_at_once_lose_nothing(tmp_path: Path) -> None:
    """Eight threads, to which locks are what they are to processes, each add a set of their own."""
    names = [f"set {n}" for n in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(
            threads.map(keep, [tmp_path] * 8, [table({name: (30.0, 31.0, 32.0)}) for name in names])
        )

    assert sorted(kept(tmp_path / "evaluation.json")["student"]) == names


def test_seconds_are_those_of_all_images(tmp_path: Path) -> None:
    """Five images of one second and fifteen of three: two and a half each."""
    keep(tmp_path, table(FIRST, seconds=1.0))
    keep(tmp_path, table(SECOND, seconds=3.0, images=15))

    rows = json.loads((tmp_path / "evaluation.json").read_text())["rows"]

    assert [row["seconds_per_image"] for row in rows] == [None, 2.5, None]


def test_measuring_again_without_the_teacher_loses_nothing(tmp_path: Path) -> None:
    keep(tmp_path, table(FIRST))
    before = kept(tmp_path / "evaluation.json")

    keep(tmp_path, table(FIRST, teacher=None))

    assert kept(tmp_path / "evaluation.json") == before


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"student": "u"}, "it is of another student, such as before it was trained on"),
        ({"teacher": "u"}, "it is of another teacher"),
        ({"scale": 3, "border": 3}, "it is of x2"),
        ({"protocol": {"border": "none"}}, "it was measured by another protocol"),
    ],
)
def test_what_cannot_stand_in_one_table_is_set_aside(
    tmp_path: Path, other: dict[str, object], reason: str
) -> None:
    keep(tmp_path, table(FIRST))
    before = (tmp_path / "evaluation.json").read_bytes()

    found = keep(tmp_path, table(SECOND, **other))

    assert list(kept(found.path)["student"]) == ["Set14"]
    (aside,) = set(tmp_path.iterdir()) - {found.path}
    assert aside.read_bytes() == before
    assert found.notes == (f"the evaluation.json that was there is now {aside.name}: {reason}",)
    keep(tmp_path, table(FIRST))
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    "content", ["", "[]", '{"rows": [3]}', '{"scale": 2, "rows": []}', "[" * 100_000]
)
def test_a_file_of_somebody_else_is_not_lost(tmp_path: Path, content: str) -> None:
    (tmp_path / "evaluation.json").write_text(content)

    found = keep(tmp_path, table(FIRST))

    (aside,) = set(tmp_path.iterdir()) - {found.path}
    assert aside.read_text() == content
    assert re.search(f"{aside.name}: it (cannot be understood|is of an older)", found.notes[0])


def test_figures_that_were_altered_are_noticed(tmp_path: Path) -> None:
    """One digit, by hand: neither joined by a later measurement, nor read by anything else."""
    path = keep(tmp_path, table(FIRST)).path
    path.write_text(path.read_text().replace("32.0", "33.0"))

    with pytest.raises(results.ResultsError, match=r"it was altered .*; run dukd evaluate again"):
        results.read(path)
    found = keep(tmp_path, table(SECOND))
    assert found.notes[0].endswith("it was altered after it was measured")
    assert list(kept(found.path)["student"]) == ["Set14"]


def test_figures_of_an_older_version_are_set_aside(tmp_path: Path) -> None:
    content = json.loads(keep(tmp_path, table(FIRST)).path.read_text())
    del content["sha256"]
    (tmp_path / "evaluation.json").write_text(json.dumps(content))

    assert "it is of an older version" in keep(tmp_path, table(SECOND)).notes[0]


def test_figures_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = table({"Set5": (30.0, math.inf, 34.123456789012345)})

    found = results.read(keep(tmp_path, written).path)

    assert found.rows[1].sets["Set5"]["psnr_y"] == math.inf
    assert found.rows[2].sets["Set5"]["psnr_y"] == 34.123456789012345
    assert found.rows[1].values["network"] == "s"
    assert (found.scale, found.border, found.protocol) == (2, 2, written.protocol)


def test_a_metric_more_joins_the_others(tmp_path: Path) -> None:
    keep(tmp_path, table(FIRST))
    more = table(FIRST, teacher=None)
    rows = [replace(r, sets={"Set5": {"images": 5, "niqe": 4.5}}) for r in more.rows]

    found = keep(tmp_path, replace(more, rows=tuple(rows), protocol={"NIQE": "full range"}))

    assert kept(found.path)["student"]["Set5"]["niqe"] == 4.5
    assert kept(found.path)["student"]["Set5"]["psnr_y"] == 32.0
    assert results.read(found.path).protocol == {"border": "as the scale", "NIQE": "full range"}


def test_each_run_keeps_its_own_student_beside_what_all_are_compared_with(tmp_path: Path) -> None:
    both = table(FIRST)
    other = replace(both.rows[1], label="other", values={"network": "o"})
    runs = {"mine": tmp_path / "m", "other": tmp_path / "o", "gone": tmp_path / "g"}
    for run in runs.values():
        run.mkdir()

    found = results.keep_each(replace(both, rows=(*both.rows, other)), runs)

    assert [k.path.parent.name for k in found] == ["m", "o"]
    assert [r.label for r in results.read(found[1].path).rows] == ["bicubic", "EDSR", "other"]


def test_a_quick_look_does_not_replace_a_whole_set(tmp_path: Path) -> None:
    keep(tmp_path, table(FIRST | SECOND, images=14))

    found = keep(tmp_path, table({"Set14": (1.0, 2.0, 3.0)}, images=2))

    assert found.notes == ("Set14 keeps the figures that were there, which are of more images",)
    assert kept(found.path) == kept(keep(tmp_path, table(FIRST | SECOND, images=14)).path)


def test_a_set_whose_images_changed_is_replaced_in_every_row(tmp_path: Path) -> None:
    keep(tmp_path, table(FIRST | SECOND))

    keep(tmp_path, table({"Set5": (31.0, 33.0, 0.0)}, teacher=None))

    found = kept(tmp_path / "evaluation.json")
    assert found["bicubic"]["Set5"]["psnr_y"] == 31.0
    assert "agreement" not in found["student"]["Set5"]
    assert list(found["teacher"]) == ["Set14"]


def test_each_way_of_measuring_has_a_file(tmp_path: Path) -> None:
    plain, averaged = keep(tmp_path, table(FIRST)), keep(tmp_path, table(FIRST, label="mine+"))
    half = keep(tmp_path, table(FIRST, label="mine+", facts={"precision": "bfloat16"}))
    best, real = keep(tmp_path, table(FIRST), best=True), keep(tmp_path, table(FIRST, border=0))

    assert [k.path.name for k in (plain, averaged, half, best, real)] == [
        "evaluation.json",
        "evaluation-self-ensemble.json",
        "evaluation-bfloat16-self-ensemble.json",
        "evaluation-best.json",
        "evaluation-border-0.json",
    ]
    assert file_name(precision="bfloat16") == "evaluation-bfloat16.json"
    assert len(list(tmp_path.iterdir())) == 5


def test_equal_images_stay_infinitely_alike(tmp_path: Path) -> None:
    keep(tmp_path, table({"Set5": (30.0, math.inf, math.inf)}))
    keep(tmp_path, table(SECOND))

    assert kept(tmp_path / "evaluation.json")["student"]["Set5"]["psnr_y"] == "inf"


def test_a_fingerprint_knows_weights_and_numbers() -> None:
    small = EDSRConfig(scale=2, width=4, blocks=1)
    one, other = small.build(), replace(small, value_range=1.0, mean=(0.0, 0.0, 0.0)).build()
    same = small.build()
    same.load_state_dict(one.state_dict())
    other.load_state_dict(one.state_dict())

    assert fingerprint(one) == fingerprint(same)
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) != fingerprint(small.build())
