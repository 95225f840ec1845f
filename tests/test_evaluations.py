"""What was measured of a run adds up, and nothing that cannot stand in one table gets into one."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from dukd.evaluation import evaluate
from dukd.evaluation.evaluate import Row, Scores, Table
from dukd.networks import EDSRConfig
from dukd.runs import results
from dukd.runs.results import file_name, keep

FIRST, SECOND = {"Set5": (30.0, 32.0, 34.0)}, {"Set14": (28.0, 29.0, 32.0)}
"""By set: PSNR of bicubic, student and teacher."""


def scores(
    psnr: float, *, images: int = 5, agreement: float | None = None, seconds: float | None = None
) -> Scores:
    return Scores(
        psnr_y=psnr,
        ssim_y=0.9,
        psnr_rgb=psnr,
        ssim_rgb=0.9,
        agreement=agreement,
        images=images,
        seconds=seconds,
    )


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
            network=student,
            sets={
                n: scores(s, images=images, agreement=40.0 if teacher else None, seconds=seconds)
                for n, (_, s, _) in sets.items()
            },
        ),
    ]
    if teacher:
        better = {n: scores(t, images=images) for n, (_, _, t) in sets.items()}
        rows.append(Row(model="teacher", label="EDSR", network=teacher, sets=better))
    return replace(Table(scale=2, rows=tuple(rows)), **facts)


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
    assert [s["gap_closed"] for s in kept(found.path)["student"].values()] == [0.5, 0.25]


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
        ({"scale": 3}, "it is of x2"),
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
    assert found.notes[0].endswith(f"{aside.name}: it cannot be understood")


def test_figures_of_a_version_that_did_not_say_what_it_measured_are_set_aside(
    tmp_path: Path,
) -> None:
    content = table(FIRST).to_dict()
    for row in content["rows"]:
        del row["network"]
    (tmp_path / "evaluation.json").write_text(json.dumps(content))

    assert "it does not say which student it measured" in keep(tmp_path, table(SECOND)).notes[0]


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
    assert found["student"]["Set5"]["agreement"] is None
    assert list(found["teacher"]) == ["Set14"]


def test_each_way_of_measuring_has_a_file(tmp_path: Path) -> None:
    plain, turned = keep(tmp_path, table(FIRST)), keep(tmp_path, table(FIRST, label="mine+"))
    half = keep(tmp_path, table(FIRST, label="mine+", precision="bfloat16"))

    assert [k.path.name for k in (plain, turned, half)] == [
        "evaluation.json",
        "evaluation-self-ensemble.json",
        "evaluation-bfloat16-self-ensemble.json",
    ]
    assert file_name(precision="bfloat16") == "evaluation-bfloat16.json"
    assert len(list(tmp_path.iterdir())) == 3


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

    assert evaluate.fingerprint(one) == evaluate.fingerprint(same)
    assert evaluate.fingerprint(one) != evaluate.fingerprint(other)
    assert evaluate.fingerprint(one) != evaluate.fingerprint(small.build())
