"""Studies: what their cells are, where they stand, and what is held against what."""

import json
import math
import shutil
from dataclasses import replace
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from dukd.cli.program import run as main
from dukd.core.config import ConfigError
from dukd.networks import EDSRConfig
from dukd.networks.files import weights
from dukd.recipes import recipe, studying
from dukd.recipes.study import Study, Variant, changed
from dukd.recipes.study_curves import cpu_seconds, drawn, learning_curves
from dukd.recipes.study_plan import plan
from dukd.recipes.study_standing import Standing, described, standing, unmeasured
from dukd.recipes.study_tables import compared, differences, interval, write_tables
from dukd.recipes.studying import run_cell
from dukd.runs.compare import compare
from dukd.runs.directory import Run
from dukd.runs.summary import ReportError

SMALL = [
    "student.width=4",
    "student.blocks=1",
    "optimization.steps=2",
    "data.patch=8",
    "data.batch=2",
    "data.workers=0",
    "evaluation.sets=[]",
    "evaluation.teacher_images=0",
]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("desk")
    rng = np.random.default_rng(0)
    for part, count in (("images", 2), ("test", 1)):
        (folder / part).mkdir()
        for i in range(count):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8).repeat(2, 0).repeat(2, 1)
            Image.fromarray(pixels).save(folder / part / f"{i}.png")
    torch.manual_seed(0)
    weights.write(folder / "t.safetensors", EDSRConfig(scale=2, width=4, blocks=1).build())
    content = {
        "recipes": ["plain-small-x2"],
        "methods": ["scratch", "logits"],
        "seeds": [1, 2],
        "sets": [str(folder / "test")],
        "options": [
            *SMALL,
            f"data.train={folder / 'images'}",
            f"data.packs={folder / 'packs'}",
            f"teacher.weights={folder / 't.safetensors'}",
        ],
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder


def test_cells_are_every_recipe_method_and_seed_seed_by_seed():
    study = Study(
        recipes=("plain-x2", "plain-small-x2"),
        methods=("scratch", "dukd"),
        variants=(Variant(name="strong", method="logits", options=("method.imitation=3",)),),
        seeds=(5, 6),
        options=("optimization.steps=7",),
    )
    cells = study.cells()
    assert [c.name for c in cells[:3]] == [
        "plain-x2-scratch-seed5",
        "plain-x2-dukd-seed5",
        "plain-x2-strong-seed5",
    ]
    assert len(cells) == 2 * 3 * 2
    assert {c.experiment.optimization.seed for c in cells[:6]} == {5}
    assert {c.experiment.optimization.steps for c in cells} == {7}
    assert cells[2].experiment.method.imitation == 3


def test_an_option_is_typed_and_a_part_that_is_not_there_is_passed_over():
    made = recipe("small-x2-scratch").make()
    other = changed(made, ["optimization.learning_rate=1e-4", "teacher.weights=t.pth"])
    assert other.optimization.learning_rate == 1e-4
    assert other.teacher is None
    dukd = changed(recipe("small-x2-dukd").make(), ["method.consistency=0"])
    assert dukd.method.consistency == 0


def test_an_option_takes_the_seed_of_its_cell():
    warm = "optimization.warm_start=first/logits-seed{seed}/student.safetensors"
    zoomed = Variant(name="out", method="dukd", options=("method.upcyclings=[{type: zoom_out}]",))
    study = Study(recipes=("small-x2",), variants=(zoomed,), seeds=(4, 7), options=(warm,))

    paths = [str(cell.experiment.optimization.warm_start) for cell in study.cells()]

    assert paths == [f"first/logits-seed{seed}/student.safetensors" for seed in (4, 7)]
    assert [len(cell.experiment.method.upcyclings) for cell in study.cells()] == [1, 1]


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("optimization.stepz=3", "did you mean steps"),
        ("optimisation.steps=3", "there is no optimisation; did you mean optimization"),
        ("optimization.steps", "has no value"),
        ("optimization.steps=many", "must be a whole number"),
        ("data.degradation.sinc=1", "degradation is 'bicubic', which has no sinc"),
        ("optimization.steps=[", "is not YAML"),
    ],
)
def test_an_option_that_does_not_fit_is_named(option, words):
    with pytest.raises(ValueError, match=words):
        changed(recipe("small-x2-scratch").make(), [option])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("recipes: [a-x2]\nmethods: []", "at least one"),
        ("recipes: [a-x2, a-x2]\nmethods: [logits]", "named once"),
        ("recipes: [a-x2]\nvariants: [{name: a/b, method: logits}]", "cannot name a folder"),
        ("recipes: [a-x2]\nmethod: [logits]", "did you mean methods"),
    ],
)
def test_a_study_that_is_none_is_refused(tmp_path, content, words):
    (tmp_path / "s.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        Study.from_file(tmp_path / "s.yaml")


def test_the_interval_of_two_values_by_hand():
    """Mean 0.2, deviation 0.1414, half 12.706 x 0.1 = 1.2706."""
    assert interval([0.1, 0.3]) == pytest.approx((-1.0706, 1.4706))
    assert interval([0.1]) is None


def test_a_plan_counts_what_is_left_with_the_price_of_each_step(desk):
    cells = Study.from_file(desk / "study.yaml").cells()
    options = ["optimization.steps=100", "data.period=10"]
    again = [type(c)(c.recipe, c.method, c.seed, changed(c.experiment, options)) for c in cells[:2]]
    standings = [Standing(again[0], "planned"), Standing(again[1], "begun", step=40)]
    asked = []

    def price(cell):
        asked.append(cell.method)
        return (1.0, 0.1)

    made = plan(standings, price, evaluation=2.0)
    assert made.seconds[again[0].name] == pytest.approx(10 * 1.0 + 90 * 0.1 + 2)
    assert made.seconds[again[1].name] == pytest.approx(60 * 0.1 + 2)
    assert asked == ["scratch", "logits"]
    assert made.energy(watts=10) == pytest.approx(made.total * 10 / 3.6e6)


def test_a_study_is_run_stopped_continued_and_ends_in_tables(desk, tmp_path):
    study, out = Study.from_file(desk / "study.yaml"), tmp_path / "out"
    assert described(standing(study, out)) == "4 cells: 4 planned"
    cells = study.cells()
    for cell in cells[:3]:
        run_cell(study, cell, out)
    assert [s.stage for s in standing(study, out)] == ["measured"] * 3 + ["planned"]
    before = (out / cells[0].name / "student.safetensors").stat().st_mtime_ns
    for cell in cells:
        run_cell(study, cell, out)
    assert (out / cells[0].name / "student.safetensors").stat().st_mtime_ns == before

    standings = standing(study, out)
    assert all(s.stage == "measured" and s.seconds > 0 and s.step == 2 for s in standings)
    written, problems = write_tables(study, out, standings)
    assert not problems
    assert [p.name for p in written] == ["study.md", "plain-small-x2.html"]
    text = (out / "study.md").read_text(encoding="utf-8")
    assert "4 cells: 4 measured" in text
    assert "± " in text
    assert "± +" not in text
    assert "to -" not in text  # the minus of everywhere else

    assert len(list((out / "teachers").rglob("test/0.png"))) == 1  # once for both of its cells
    assert "| teacher |" in text
    assert "agreement" in text

    held = differences(study, out, "plain-small-x2", standings)
    row, base = held.rows
    figures, agreement = {}, {}
    for cell in cells:
        content = json.loads((out / cell.name / "evaluation.json").read_text(encoding="utf-8"))
        (student,) = [r for r in content["rows"] if r["model"] == "student"]
        (teacher,) = [r for r in content["rows"] if r["model"] == "teacher"]
        figures[cell.method, cell.seed] = student["sets"]["test"]["psnr_y"]
        agreement[cell.method, cell.seed] = student["sets"]["test"]["agreement"]
    wanted = [figures["scratch", s] - figures["logits", s] for s in (1, 2)]
    assert row.label == "scratch"
    assert row.value("mean") == pytest.approx(np.mean(wanted), abs=1e-6)
    assert row.sets["test"]["difference"].deviation == pytest.approx(
        np.std(wanted, ddof=1), abs=1e-6
    )
    assert base.label == "logits"
    assert base.value("mean") is None
    top = teacher["sets"]["test"]["psnr_y"]
    closed = [
        (figures["logits", s] - figures["scratch", s]) / (top - figures["scratch", s])
        for s in (1, 2)
    ]
    assert base.value("gap_closed") == pytest.approx(np.mean(closed), abs=1e-6)
    assert "gap_closed" not in {k for k, v in row.values.items() if v is not None}
    assert set(agreement) == {(m, s) for m in ("scratch", "logits") for s in (1, 2)}


@pytest.fixture(scope="module")
def half(desk, tmp_path_factory):
    """Three of four cells are measured, and trained with a validation every step."""
    content = yaml.safe_load((desk / "study.yaml").read_text(encoding="utf-8"))
    content["options"] += [f"evaluation.sets=[{desk / 'test'}]", "evaluation.every=1"]
    content["options"] += ["evaluation.log_every=1"]
    (desk / "half.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    study, out = Study.from_file(desk / "half.yaml"), tmp_path_factory.mktemp("half")
    for cell in study.cells()[:3]:
        run_cell(study, cell, out)
    return study, out


def test_what_is_not_finished_stands_in_the_table_as_such(half):
    study, out = half
    table = compared(study, out, standing(study, out))

    assert [row.label for row in table.rows] == ["bicubic", "scratch", "logits", "teacher"]
    assert table.rows[1].values["done"] == "2 of 2"
    assert table.rows[2].values["done"] == "1 of 2, planned"

    none = replace(study, methods=("scratch", "logits", "dukd"), seeds=(1,))
    table = compared(none, out, standing(none, out))
    assert [row.label for row in table.rows][1:4] == ["scratch", "logits", "dukd"]
    assert table.rows[3].values == {"done": "0 of 1, planned"}
    write_tables(none, out, standing(none, out))
    assert "| dukd | 0 of 1, planned |" in (out / "study.md").read_text(encoding="utf-8")


def test_what_a_study_asks_to_be_measured_stands_in_its_table(half):
    """PSNR in RGB is left to the data where nobody asked for it."""
    study, out = half
    for metrics, there in (((), False), (("psnr_y", "psnr_rgb"), True)):
        asking = replace(study, methods=("scratch",), metrics=metrics)
        write_tables(asking, out, standing(asking, out))
        text = (out / "study.md").read_text(encoding="utf-8")
        assert ("PSNR-RGB" in text) is there


def test_methods_are_called_as_the_study_calls_them(half):
    """Not after the directory of the first seed, as where runs are merely compared."""
    study, out = half
    shutil.copytree(out / "plain-small-x2-logits-seed1", out / "plain-small-x2-mine-seed1")
    mine = replace(
        study, methods=("scratch",), variants=(Variant(name="mine", method="logits"),), seeds=(1,)
    )
    table = compared(mine, out, standing(mine, out))

    assert [row.label for row in table.rows] == ["bicubic", "scratch", "mine", "teacher"]


def test_what_variants_vary_stands_in_one_table_and_is_named(half, desk):
    """Steps and data are a study's question where a variant says so; elsewhere runs are refused."""
    study, out = half
    variants = (
        Variant(name="longer", method="logits", options=("optimization.steps=3",)),
        Variant(name="spoiled", method="scratch", options=("data.degradation=jpeg",)),
    )
    varied = replace(study, methods=("scratch", "logits"), variants=variants, seeds=(1,))
    for cell in varied.cells():
        run_cell(varied, cell, out)

    table = compared(varied, out, standing(varied, out))
    rows = {row.label: row for row in table.rows}
    assert [*rows] == ["bicubic", "scratch", "logits", "longer", "spoiled", "teacher"]
    assert table.facts["steps"] is None
    assert rows["longer"].values["steps"] == 3
    assert "Rows differ in steps and training data, as meant." in table.notes
    assert "gap_closed" in rows["logits"].sets["test"]  # the equal student from scratch
    assert "gap_closed" not in rows["longer"].sets["test"]
    assert write_tables(varied, out, standing(varied, out))[1] == []
    text = (out / "study.md").read_text(encoding="utf-8")
    assert "| model | steps |" in text
    assert "3 steps" not in (out / "plain-small-x2.html").read_text(encoding="utf-8")

    runs = [out / cell.name for cell in varied.cells()]
    with pytest.raises(ReportError, match="differ in steps do not belong in one table"):
        compare(runs)
    with pytest.raises(ReportError, match=r"differ in training data \(data_digest\)"):
        compare(runs, varied=("steps",))


def test_sets_that_are_new_are_measured_without_training_again(half, desk, monkeypatch):
    study, out = half
    more = replace(study, sets=(*study.sets, desk / "images"))
    cell = more.cells()[0]
    assert standing(more, out)[0].stage == "trained"
    file = out / cell.name / "evaluation.json"
    old = json.loads(file.read_text(encoding="utf-8"))
    seen = []
    real = studying.evaluate
    monkeypatch.setattr(
        studying, "evaluate", lambda c, sets, **k: seen.append(list(sets)) or real(c, sets, **k)
    )
    monkeypatch.setattr(studying.loop, "train", None)

    run_cell(more, cell, out)

    assert seen == [["images"]]
    assert standing(more, out)[0].stage == "measured"
    new = json.loads(file.read_text(encoding="utf-8"))
    for was, now in zip(old["rows"], new["rows"], strict=True):
        assert now["sets"]["test"] == was["sets"]["test"]
    named = replace(more, metrics=("psnr_y", "niqe"))
    assert list(unmeasured(named, cell, Run(out / cell.name))) == ["test", "images"]


def test_learning_curves_go_over_steps_and_over_processor_time(half):
    study, out = half
    lines = learning_curves(out, standing(study, out))
    assert set(lines) == {("test", "steps"), ("test", "cpu-seconds")}
    scratch, logits = lines["test", "steps"]
    records = [Run(out / f"plain-small-x2-scratch-seed{s}").records() for s in (1, 2)]
    judged = [
        [r["sets"]["test"]["psnr_y"] for r in found if r["kind"] == "validation"]
        for found in records
    ]
    assert scratch.points == [
        (k + 1, pytest.approx(np.mean(v))) for k, v in enumerate(zip(*judged, strict=True))
    ]
    assert [b[1:] for b in scratch.band] == [(min(v), max(v)) for v in zip(*judged, strict=True)]
    assert not logits.band

    spent = [[r["cpu_seconds"] for r in found if r["kind"] == "train"] for found in records]
    over_time, _ = lines["test", "cpu-seconds"]
    assert [x for x, _ in over_time.points] == pytest.approx(
        [np.mean([sum(s[:k]) for s in spent]) for k in (1, 2)]
    )
    assert [y for _, y in over_time.points] == [y for _, y in scratch.points]
    page, (steps, seconds) = drawn(out, "plain-small-x2", standing(study, out))
    assert steps.name == "plain-small-x2-test-steps.svg"
    assert "CPU second" in page
    root = ET.fromstring(seconds.read_text(encoding="utf-8"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"


def test_logs_without_processor_time_share_it_out_by_the_clock():
    records = [{"kind": "train", "step": s, "seconds": t} for s, t in ((5, 1.0), (10, 4.0))]

    assert cpu_seconds(records, 20.0) == {5: 5.0, 10: 20.0}
    newer = [r | {"cpu_seconds": c} for r, c in zip(records, (0.5, 0.75), strict=True)]
    assert cpu_seconds(newer, 20.0) == {5: 0.5, 10: 1.25}
    assert cpu_seconds([], 1.0) == {}


def test_a_cell_that_fails_is_listed_and_tried_again(desk, tmp_path):
    study, out = Study.from_file(desk / "study.yaml"), tmp_path / "out"
    good = study.cells()[0]
    options = [f"data.train={tmp_path / 'none'}"]
    bad = type(good)(good.recipe, good.method, good.seed, changed(good.experiment, options))
    with pytest.raises(ValueError, match="none"):
        run_cell(study, bad, out)
    first = standing(study, out)[0]
    assert first.stage == "failed"
    assert "none" in first.problem
    run_cell(study, good, out)
    assert standing(study, out)[0].stage == "measured"


def test_the_command_plans_prints_arrays_and_runs_cells(desk, tmp_path, capsys):
    out = tmp_path / "out"
    common = ["study", str(desk / "study.yaml"), "--out", str(out)]
    assert main([*common, "--slurm"]) == 0
    assert "--array 0-3" in (shown := capsys.readouterr().out)
    assert "--cell $SLURM_ARRAY_TASK_ID" in shown
    assert main([*common, "--plan", "--workers", "2"]) == 0
    assert "kWh" in capsys.readouterr().out
    assert main([*common, "--cell", "9"]) != 0
    assert "from 0 to 3" in capsys.readouterr().err
    for k in range(3):
        assert main([*common, "--cell", str(k)]) == 0
    assert main(common) == 0  # the last one, in a process of its own
    assert "4 measured" in (out / "study.md").read_text(encoding="utf-8")
    assert not math.isnan(standing(Study.from_file(desk / "study.yaml"), out)[3].seconds)
