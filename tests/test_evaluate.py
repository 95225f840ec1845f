"""Numbers agree with published and measured ones to 0.002 dB, and say how they were made."""

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from dukd.data.pairs import Pairs, find_pairs, load
from dukd.evaluation import evaluate, metrics
from dukd.evaluation.evaluate import (
    Candidate,
    Row,
    Scores,
    Table,
    answer,
    in_strips,
    self_ensemble,
    strip_rows,
)
from dukd.images.convert import to_tensor
from dukd.images.resize import imresize_uint8
from dukd.networks import EDSRConfig, Network, RCANConfig, SwinIRConfig, edsr_teacher
from dukd.networks.files import weights
from dukd.runs.compare import ReportError, compare
from dukd.runs.directory import Run
from dukd.runs.report import report
from dukd.runs.signed import with_header
from dukd.training.experiment import Data, Experiment
from stand_ins import Nearest

BICUBIC = Candidate(model="bicubic", label="bicubic")


def images(
    folder: Path, count: int = 2, size: tuple[int, int] = (24, 20), *, scale: int = 2
) -> Pairs:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        noise = np.random.default_rng(i).integers(0, 256, (size[1] // 4, size[0] // 4, 3), np.uint8)
        Image.fromarray(imresize_uint8(noise, 4)).save(folder / f"p{i}.png")
    return find_pairs(folder, scale=scale)


def small(scale: int = 2, **numbers: int) -> Network:
    return EDSRConfig(scale=scale, width=4, blocks=1, value_range=1.0, **numbers).build().eval()


# Anchors


ANCHORS = {
    2: {
        "bicubic": 33.673,
        "RCAN": 38.274,
        "SMFANet+": 38.185,
        "EDSR 64": 37.652,
        "EDSR 32": 37.377,
    },
    3: {"bicubic": 30.403, "RCAN": 34.742, "SMFANet+": 34.665},
    4: {"bicubic": 28.429, "RCAN": 32.634, "SMFANet+": 32.511},
}
"""PSNR-Y on Set5. Published are 33.66, 30.39 and 28.42 for bicubic, 38.27, 34.74 and 32.63 for
RCAN."""


def anchors(data: Path, scale: int) -> list[Candidate]:
    files = data / "weights"
    smfanet = weights.read(files / f"smfanet_plus_df2k_x{scale}.pth")
    found = [
        BICUBIC,
        Candidate(
            model="images", label="RCAN", images=data / "sr_outputs" / "RCAN_Set5" / f"x{scale}"
        ),
        Candidate(model="student", label="SMFANet+", network=smfanet),
    ]
    for width in (64, 32) if scale == 2 else ():
        path = files / f"edsr_f{width}b5_x2_basicsr.safetensors"
        network = weights.read(path, value_range=255.0, mean=(0.0, 0.0, 0.0))
        found.append(Candidate(model="student", label=f"EDSR {width}", network=network))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("scale", ANCHORS)
def test_anchors_on_set5(real_data: Path, scale: int) -> None:
    """Other sets and scales: docs/results/anchors.md."""
    sets = {"Set5": find_pairs(real_data / "eval" / "Set5", scale=scale)}

    table = evaluate.evaluate(anchors(real_data, scale), sets)

    assert {row.label: row.sets["Set5"].psnr_y for row in table.rows} == pytest.approx(
        ANCHORS[scale], abs=0.002
    )
    assert table.rows[2].parameters == {2: 480_300, 3: 486_795, 4: 495_888}[scale]
    assert table.rows[1].seconds_per_image is None


@pytest.mark.slow
def test_the_published_set14_treats_its_gray_image_as_gray(real_data: Path) -> None:
    """Without the luma's 219 / 255 one image of 14 is 1.32 dB lower, the mean 0.09: 30.24 dB are
    published.
    """
    sets = {"Set14": find_pairs(real_data / "eval" / "Set14", scale=2)}
    measured = evaluate.evaluate([BICUBIC], sets).rows[0].sets["Set14"].psnr_y

    assert measured == pytest.approx(30.325, abs=0.002)
    assert measured - 20 * math.log10(255 / 219) / 14 == pytest.approx(30.24, abs=0.01)


# Answers


def test_the_self_ensemble_is_the_mean_of_eight_answers() -> None:
    network, lr = small().double(), torch.rand(1, 3, 5, 7, dtype=torch.float64)
    with torch.no_grad():
        turned = [(lr.rot90(k, (2, 3)), k, False) for k in range(4)]
        turned += [(lr.flip(3).rot90(k, (2, 3)), k, True) for k in range(4)]
        answers = [network(x).rot90(-k, (2, 3)) for x, k, _ in turned]
        undone = [
            sr.flip(3) if flipped else sr
            for sr, (_, _, flipped) in zip(answers, turned, strict=True)
        ]

        assert_close(self_ensemble(network, lr), torch.stack(undone).mean(0))


def test_the_self_ensemble_is_marked_and_costs_eight_times_as_much(tmp_path: Path) -> None:
    network, sets = small(), {"a": images(tmp_path / "a")}
    plain = Candidate(model="student", label="s", network=network)
    one, eight = evaluate.evaluate([plain, replace(plain, self_ensemble=True)], sets).rows

    assert (one.label, eight.label) == ("s", "s+")
    assert one.macs is not None
    assert eight.macs == 8 * one.macs
    lr, hr = load(sets["a"][0])
    averaged = metrics.psnr_y(answer(network, lr, ensemble=True)[0], to_tensor(hr), border=2).item()
    assert averaged != pytest.approx(
        metrics.psnr_y(answer(network, lr)[0], to_tensor(hr), border=2).item(), abs=1e-6
    )


NETWORKS = {
    "edsr": EDSRConfig(scale=2, width=4, blocks=1),
    "swinir": SwinIRConfig(scale=2, width=12, depths=(2,), heads=(2,)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("height", [41, 48])
def test_strips_answer_as_the_whole_image(name: str, height: int) -> None:
    network = NETWORKS[name].build().double().eval()
    lr = torch.rand(1, 3, height, 11, dtype=torch.float64)
    with torch.no_grad():
        whole = network(lr)

        for rows in (1, 9, 16, 40):
            assert_close(in_strips(network, lr, rows=rows), whole, rtol=0, atol=1e-9)


def test_strips_keep_large_images_within_two_gigabytes() -> None:
    """EDSR 256 x 32 takes 8 KiB per pixel of lr at x2: 262,144 pixels, of which 2 x 69 rows are
    surroundings.
    """
    with torch.device("meta"):
        teacher, student = edsr_teacher(2).build(), EDSRConfig(scale=2, width=64, blocks=32).build()
    assert teacher.radius is not None

    assert strip_rows(teacher, 1020) == 262_144 // 1020 - 2 * teacher.radius
    assert cast("int", strip_rows(student, 1020)) > 678  # all of DIV2K in one piece
    assert strip_rows(teacher, 100_000) == teacher.radius
    assert strip_rows(RCANConfig(scale=2, width=16, groups=1, blocks=1).build(), 100_000) is None


def test_a_large_image_is_asked_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    network, lr = small(), np.random.default_rng(0).integers(0, 256, (40, 8, 3), np.uint8)
    whole, _ = answer(network, lr)
    heights: list[int] = []
    network.register_forward_pre_hook(
        lambda _, args: heights.append(cast("tuple[Tensor]", args)[0].shape[-2])
    )
    monkeypatch.setattr(
        evaluate, "_BUDGET", 2 * 4 * 4 * 4 * 8 * 22
    )  # 22 rows of 4 channels, 8 columns, x2

    strips, _ = answer(network, lr)

    assert_close(strips, whole, rtol=1e-5, atol=1e-6)
    assert len(heights) > 1
    assert max(heights) <= 22


def test_a_network_is_asked_in_eval_mode_and_left_as_it_was() -> None:
    network, lr = small().train(), np.zeros((4, 4, 3), np.uint8)
    modes: list[bool] = []
    network.register_forward_pre_hook(lambda module, _: modes.append(module.training))

    sr, seconds = answer(network, lr)

    assert modes == [False]
    assert network.training
    assert not sr.requires_grad
    assert seconds > 0


# The table


def test_every_number_is_the_mean_over_images(tmp_path: Path) -> None:
    pairs = images(tmp_path / "a", 3)
    loaded = [load(pair) for pair in pairs]
    expected = [
        metrics.psnr_rgb(to_tensor(imresize_uint8(lr, 2)), to_tensor(hr), border=2).item()
        for lr, hr in loaded
    ]

    scores = evaluate.evaluate([BICUBIC], {"a": pairs}).rows[0].sets["a"]

    assert scores.psnr_rgb == pytest.approx(sum(expected) / 3, abs=1e-9)
    assert scores.images == 3
    assert scores.seconds is None


def test_agreement_is_with_the_teacher_wherever_it_stands(tmp_path: Path) -> None:
    sets = {"a": images(tmp_path / "a")}
    teacher = Candidate(model="teacher", label="t", network=small())
    student = Candidate(model="student", label="s", network=Nearest.of(2))
    expected = [
        metrics.agreement(
            answer(student.network, lr)[0], answer(teacher.network, lr)[0], border=2
        ).item()
        for lr, _ in map(load, sets["a"])
        if student.network is not None and teacher.network is not None
    ]

    for order in ([student, teacher, BICUBIC], [BICUBIC, teacher, student]):
        rows = {row.model: row for row in evaluate.evaluate(order, sets).rows}
        assert rows["student"].sets["a"].agreement == pytest.approx(sum(expected) / 2, abs=1e-9)
        assert rows["teacher"].sets["a"].agreement is None
        assert rows["bicubic"].sets["a"].agreement is not None


def row(model: str, psnr: float, label: str = "") -> Row:
    scores = Scores(psnr_y=psnr, ssim_y=0.9, psnr_rgb=psnr - 2, ssim_rgb=0.8, images=5)
    return Row(model=model, label=label or model, sets={"Set5": scores})


def test_the_share_of_the_gap_that_is_closed() -> None:
    """From bicubic 28 to the teacher 33, a student of 32 closes four fifths; from a baseline of
    31, half.
    """
    rows = (row("bicubic", 28.0), row("teacher", 33.0), row("student", 32.0))
    table = Table(scale=4, rows=rows)

    assert table.gap_closed(rows[2], "Set5") == pytest.approx(0.8)
    assert table.gap_closed(rows[0], "Set5") is None
    assert table.gap_closed(rows[1], "Set5") is None
    from_scratch = replace(table, rows=(*rows, row("baseline", 31.0)))
    assert from_scratch.gap_closed(rows[2], "Set5") == pytest.approx(0.5)
    hopeless = replace(table, rows=(row("bicubic", 28.0), row("teacher", 27.0), rows[2]))
    assert hopeless.gap_closed(rows[2], "Set5") is None


def test_the_table_as_markdown() -> None:
    table = Table(
        scale=4, rows=(row("bicubic", 28.0), row("teacher", 33.0), row("student", 32.0, "a|b"))
    )

    lines = table.to_markdown().splitlines()

    assert (
        lines[0] == "| model | Set5 PSNR-Y | Set5 SSIM-Y | Set5 RGB | Set5 gap closed |"
    )  # nothing empty
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: |"
    assert lines[4] == "| a\\|b | 32.000 | 0.9000 | 30.000 | 80.0 % |"
    assert lines[-1].startswith("x4, cpu, float32. luma: BT.601")


def test_the_table_as_csv() -> None:
    table = Table(scale=4, rows=(row("bicubic", 28.0), row("teacher", 33.0), row("student", 32.0)))

    *_, student = csv.DictReader(io.StringIO(table.to_csv()))

    assert (student["model"], student["set"], student["scale"]) == ("student", "Set5", "4")
    assert float(student["gap_closed"]) == pytest.approx(0.8)
    assert student["protocol"] == table.protocol_line()


def test_the_table_as_strict_json() -> None:
    """Equal images have an infinite PSNR, for which JSON has no number."""
    table = Table(scale=4, rows=(row("student", math.inf),))

    read = json.loads(table.to_json(), parse_constant=pytest.fail)

    assert read["rows"][0]["sets"]["Set5"]["psnr_y"] == "inf"
    assert read["rows"][0]["sets"]["Set5"]["ssim_y"] == 0.9
    assert read["protocol"]["border"] == "as many pixels as the scale"
    assert (read["scale"], read["device"], read["precision"]) == (4, "cpu", "float32")


def test_what_evaluation_writes_comparison_and_report_read(tmp_path: Path) -> None:
    sets = {"a": images(tmp_path / "a")}
    teacher = Candidate(model="teacher", label="T", network=small())
    students = [Candidate(model="student", label=name, network=small()) for name in ("r1", "r2")]
    table = evaluate.evaluate([BICUBIC, teacher, *students], sets)
    runs = [tmp_path / "runs" / name for name in ("r1", "r2")]
    for run, mine, seed in zip(runs, table.rows[2:], (1, 2), strict=True):
        experiment = Experiment(
            student=EDSRConfig(scale=2, width=4, blocks=1), data=Data(train=tmp_path / "a")
        )
        optimization = replace(
            experiment.optimization, steps=1, seed=seed, learning_rate=seed / 100
        )
        run.mkdir(parents=True)
        text = replace(experiment, optimization=optimization).to_yaml()
        (run / "experiment.yaml").write_text(with_header(text))
        Run(run).log({"kind": "event", "step": 1, "what": "finished", "detail": ""})
        (run / "evaluation.json").write_text(replace(table, rows=(*table.rows[:2], mine)).to_json())
        weights.write(run / "student.safetensors", students[seed - 1].network)
    with pytest.raises(ReportError, match="r1 was saved at step 0 of 1: resume it first"):
        compare(runs)  # the log says it made its last step, but a kill came before the save
    for run in runs:
        (run / "state").mkdir()
        Run(run).states.file(1).touch()

    compared = compare(runs)

    assert [r.model for r in compared.rows] == ["bicubic", "student", "student", "teacher"]
    for theirs, ours in zip(
        compared.rows, (table.rows[0], *table.rows[2:], table.rows[1]), strict=True
    ):
        assert theirs.sets["a"].values["psnr_y"].mean == ours.sets["a"].psnr_y
        assert theirs.parameters == ours.parameters
    assert compared.protocol["gray"] == evaluate.PROTOCOL["gray"]
    report(runs, tmp_path / "report.html")
    assert f"{table.rows[2].sets['a'].psnr_y:.2f}" in (tmp_path / "report.html").read_text()
    weights.write(runs[0] / "student.safetensors", small())
    with pytest.raises(
        ReportError, match=r"r1: measured before training went on.* run dukd evaluate again"
    ):
        compare(runs)
    (runs[0] / "student.safetensors").write_bytes(b"of a kind that nobody here knows")
    assert compare(runs).to_json() == compared.to_json()


# Refusals


def test_nothing_to_measure(tmp_path: Path) -> None:
    pairs = images(tmp_path / "a")

    with pytest.raises(ValueError, match="name at least one model and one set"):
        evaluate.evaluate([], {"a": pairs})
    with pytest.raises(ValueError, match="name at least one model and one set"):
        evaluate.evaluate([BICUBIC], {})
    with pytest.raises(ValueError, match="nothing to measure on: b without an image"):
        evaluate.evaluate([BICUBIC], {"a": pairs, "b": replace(pairs, pairs=())})


def test_scales_that_differ(tmp_path: Path) -> None:
    sets = {"a": images(tmp_path / "a"), "b": images(tmp_path / "b", scale=4)}

    with pytest.raises(
        ValueError, match="different scales: a x2, b x4; measure each scale by itself"
    ):
        evaluate.evaluate([BICUBIC], sets)
    with pytest.raises(ValueError, match="a x2, s x3"):
        evaluate.evaluate(
            [Candidate(model="student", label="s", network=small(3))], {"a": sets["a"]}
        )


def test_two_teachers_and_precisions_without_autocast(tmp_path: Path) -> None:
    sets = {"a": images(tmp_path / "a")}
    teachers = [Candidate(model="teacher", label=name, network=small()) for name in "tu"]

    with pytest.raises(ValueError, match="against one teacher, but got t, u"):
        evaluate.evaluate(teachers, sets)
    with pytest.raises(ValueError, match=r"float32 or bfloat16, but got torch\.float16"):
        evaluate.evaluate([BICUBIC], sets, precision=torch.float16)


def ready(folder: Path, names: list[str], size: tuple[int, int] = (24, 20)) -> Candidate:
    folder.mkdir()
    for name in names:
        Image.new("RGB", size, "red").save(folder / name)
    return Candidate(model="images", label="p", images=folder)


@pytest.mark.parametrize("form", ["{}.png", "{}_RCAN_x2.png", "{}x2.bmp", "{}_x2_SR.webp"])
def test_ready_images_are_found_by_their_names(tmp_path: Path, form: str) -> None:
    sets = {"a": images(tmp_path / "a")}
    candidate = ready(tmp_path / "sr", [form.format("p0"), form.format("p1")])

    assert evaluate.evaluate([candidate], sets).rows[0].sets["a"].images == 2


def test_a_ready_image_belongs_to_the_longest_name(tmp_path: Path) -> None:
    pairs = images(tmp_path / "a")
    named = tuple(
        replace(pair, name=name) for pair, name in zip(pairs, ("img", "img_2"), strict=True)
    )
    candidate = ready(tmp_path / "sr", ["img_SR.png", "img_2_SR.png"])

    assert (
        evaluate.evaluate([candidate], {"a": replace(pairs, pairs=named)}).rows[0].sets["a"].images
        == 2
    )


@pytest.mark.parametrize(
    ("names", "size", "message"),
    [
        (["p0.png"], (24, 20), "one image should be called p1 or p1_..., but there: none is"),
        (["p0.png", "p1_a.png", "p1_b.png"], (24, 20), "but there: p1_a.png, p1_b.png"),
        (["p0.png", "p1.png"], (20, 24), "20 x 24 pixels, but 24 x 20 are expected"),
    ],
)
def test_ready_images_that_are_missing(
    tmp_path: Path, names: list[str], size: tuple[int, int], message: str
) -> None:
    sets = {"a": images(tmp_path / "a")}
    candidate = ready(tmp_path / "sr", names, size)

    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        evaluate.evaluate([candidate], sets)
    with pytest.raises(ValueError, match="no such folder"):
        evaluate.evaluate([replace(candidate, images=tmp_path / "nowhere")], sets)


def test_progress_counts_images(tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []

    evaluate.evaluate(
        [BICUBIC], {"a": images(tmp_path / "a")}, progress=lambda *step: told.append(step)
    )

    assert told == [(1, 2, "a p0"), (2, 2, "a p1")]
