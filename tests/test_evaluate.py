"""Numbers agree with published and measured ones to 0.002 dB, and say how they were made."""

import io
import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from dukd.data.pairs import Pairs, find_pairs, load
from dukd.evaluation import metrics
from dukd.evaluation import output as output_module
from dukd.evaluation.candidates import BICUBIC, Candidate, Unsaid, candidate, open_all
from dukd.evaluation.columns import PROTOCOL
from dukd.evaluation.evaluate import evaluate, part_of_way
from dukd.evaluation.metrics import Metric
from dukd.evaluation.output import output, strips
from dukd.evaluation.sets import Inputs
from dukd.evaluation.table import Row
from dukd.images.convert import to_tensor
from dukd.images.resize import imresize_uint8
from dukd.networks import EDSRConfig, Network, PlainConfig, RCANConfig, bands, edsr_teacher
from dukd.networks.files import weights
from dukd.networks.files.weights import Contents
from dukd.networks.upscaler import self_ensemble
from dukd.runs.compare import compare
from dukd.runs.directory import Run
from dukd.runs.report import report
from dukd.runs.results import keep_each
from dukd.runs.signed import with_header
from dukd.runs.summary import ReportError
from dukd.training.experiment import Data, Experiment
from stand_ins import Nearest


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
        Candidate(model="student", label="SMFANet+", upscaler=smfanet),
    ]
    for width in (64, 32) if scale == 2 else ():
        path = files / f"edsr_f{width}b5_x2_basicsr.safetensors"
        network = weights.read(path, value_range=255.0, mean=(0.0, 0.0, 0.0))
        found.append(Candidate(model="student", label=f"EDSR {width}", upscaler=network))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("scale", ANCHORS)
def test_anchors_on_set5(real_data: Path, scale: int) -> None:
    """Other sets and scales: docs/results/anchors.md."""
    sets = {"Set5": find_pairs(real_data / "eval" / "Set5", scale=scale)}

    table = evaluate(anchors(real_data, scale), sets)

    assert {row.label: row.value("psnr_y", "Set5") for row in table.rows} == pytest.approx(
        ANCHORS[scale], abs=0.002
    )
    assert table.rows[2].value("parameters") == {2: 480_300, 3: 486_795, 4: 495_888}[scale]
    assert table.rows[1].value("seconds_per_image") is None


@pytest.mark.slow
def test_the_published_set14_treats_its_gray_image_as_gray(real_data: Path) -> None:
    """Without the luma's 219 / 255 one image of 14 is 1.32 dB lower, the mean 0.09: 30.24 dB are
    published.
    """
    sets = {"Set14": find_pairs(real_data / "eval" / "Set14", scale=2)}
    measured = evaluate([BICUBIC], sets).rows[0].value("psnr_y", "Set14")

    assert measured == pytest.approx(30.325, abs=0.002)
    assert measured - 20 * math.log10(255 / 219) / 14 == pytest.approx(30.24, abs=0.01)


# Answers


def test_the_self_ensemble_is_the_mean_of_eight_outputs() -> None:
    network, lr = small().double(), torch.rand(1, 3, 5, 7, dtype=torch.float64)
    with torch.no_grad():
        turned = [(lr.rot90(k, (2, 3)), k, False) for k in range(4)]
        turned += [(lr.flip(3).rot90(k, (2, 3)), k, True) for k in range(4)]
        outputs = [network(x).rot90(-k, (2, 3)) for x, k, _ in turned]
        undone = [
            sr.flip(3) if flipped else sr
            for sr, (_, _, flipped) in zip(outputs, turned, strict=True)
        ]

        assert_close(self_ensemble(network, lr), torch.stack(undone).mean(0))


def test_the_self_ensemble_is_marked_and_costs_eight_times_as_much(tmp_path: Path) -> None:
    network, sets = small(), {"a": images(tmp_path / "a")}
    plain = Candidate(model="student", label="s", upscaler=network)
    one, eight = evaluate([plain, replace(plain, self_ensemble=True)], sets).rows

    assert (one.label, eight.label) == ("s", "s+")
    assert eight.value("macs") == 8 * cast("float", one.value("macs"))
    lr, hr = load(sets["a"][0])
    averaged = metrics.psnr_y(output(network, lr, averaged=True)[0], to_tensor(hr), border=2).item()
    assert averaged != pytest.approx(
        metrics.psnr_y(output(network, lr)[0], to_tensor(hr), border=2).item(), abs=1e-6
    )


def test_branches_that_only_train_do_not_count(tmp_path: Path) -> None:
    """Three convolutions of 3 x 3 (3 to 8, 8 to 8, 8 to 12 channels), and slopes of two of them."""
    network = PlainConfig(scale=2, width=8, blocks=1, gain=2).build()
    (row,) = evaluate(
        [Candidate(model="student", label="s", upscaler=network)], {"a": images(tmp_path / "a")}
    ).rows

    assert row.value("parameters") == (27 * 8 + 8) + (72 * 8 + 8) + (72 * 12 + 12) + 2 * 8
    assert network.parameter_count() > 2 * cast("float", row.value("parameters"))


def test_strips_keep_large_images_within_two_gigabytes() -> None:
    """EDSR 256 x 32 takes 8 KiB per pixel of lr at x2: 262,144 pixels, with what is around."""
    with torch.device("meta"):
        teacher, student = edsr_teacher(2).build(), EDSRConfig(scale=2, width=64, blocks=32).build()
    assert teacher.radius is not None

    rows = strips(teacher, 678, 1020).rows
    assert max(b - a for a, b in pairwise(rows)) <= 262_144 // 1020 - 2 * teacher.radius
    assert len(rows) - 1 == math.ceil(678 / (262_144 // 1020 - 2 * teacher.radius))
    assert strips(student, 678, 1020).count == 1  # all of DIV2K in one piece
    assert strips(teacher, 680, 100_000).rows[1] == teacher.radius
    pooled = RCANConfig(scale=2, width=16, groups=1, blocks=1).build()
    assert strips(pooled, 100, 100_000).count == 1


def test_a_large_image_is_cut_into_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    network, lr = small(), np.random.default_rng(0).integers(0, 256, (40, 8, 3), np.uint8)
    whole, _ = output(network, lr)
    heights: list[int] = []
    network.register_forward_pre_hook(
        lambda _, args: heights.append(cast("tuple[Tensor]", args)[0].shape[-2])
    )
    monkeypatch.setattr(
        output_module, "_BUDGET", 2 * 4 * 4 * 4 * 8 * 22
    )  # 22 rows of 4 channels, 8 columns, x2

    strips, _ = output(network, lr)

    assert_close(strips, whole, rtol=1e-5, atol=1e-6)
    assert len(heights) > 1
    assert max(heights) <= 22


def test_features_of_the_outputs_size_are_never_there_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tail sees some rows at a time, and the output is that of the whole bit for bit."""
    network, lr = small(), np.random.default_rng(0).integers(0, 256, (80, 8, 3), np.uint8)
    whole = network(to_tensor(lr))
    heights: list[int] = []
    tail = network.tail

    def seen(x: Tensor, kept: Mapping[int, Tensor], part: Tensor) -> Tensor:
        heights.append(x.shape[-2])
        return tail(x, kept, part)

    monkeypatch.setattr(network, "tail", seen)
    monkeypatch.setattr(bands, "_BUDGET", 0)  # at least 32 rows, and what they see around

    assert torch.equal(output(network, lr)[0], whole)
    seen_around = network.tail_radius
    assert seen_around is not None
    assert heights == [
        32 + network.tail_radius,
        32 + 2 * network.tail_radius,
        80 - 64 + network.tail_radius,
    ]
    assert "observe" not in vars(network)


def test_a_network_runs_in_eval_mode_and_is_left_as_it_was() -> None:
    network, lr = small().train(), np.zeros((4, 4, 3), np.uint8)
    modes: list[bool] = []
    network.register_forward_pre_hook(lambda module, _: modes.append(module.training))

    sr, seconds = output(network, lr)

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

    row = evaluate([BICUBIC], {"a": pairs}).rows[0]

    assert row.value("psnr_rgb", "a") == pytest.approx(sum(expected) / 3, abs=1e-9)
    assert row.value("images", "a") == 3
    assert "seconds" not in row.sets["a"]


def test_agreement_is_with_the_teacher_wherever_it_stands(tmp_path: Path) -> None:
    sets = {"a": images(tmp_path / "a")}
    teacher = Candidate(model="teacher", label="t", upscaler=small())
    student = Candidate(model="student", label="s", upscaler=Nearest.of(2))
    expected = [
        metrics.agreement(
            output(student.upscaler, lr)[0], output(teacher.upscaler, lr)[0], border=2
        ).item()
        for lr, _ in map(load, sets["a"])
        if student.upscaler is not None and teacher.upscaler is not None
    ]

    for order in ([student, teacher, BICUBIC], [BICUBIC, teacher, student]):
        rows = {row.model: row for row in evaluate(order, sets).rows}
        assert rows["student"].value("agreement", "a") == pytest.approx(sum(expected) / 2, abs=1e-9)
        assert rows["teacher"].value("agreement", "a") is None
        assert rows["bicubic"].value("agreement", "a") is not None


def psnr(model: str, value: float) -> Row:
    return Row(model=model, label=model, sets={"Set5": {"psnr_y": value}})


def test_the_share_of_a_way() -> None:
    """From 28 dB to 33, 32 is four fifths of the way; a way no longer than noise has none."""
    low, high, own = (psnr("student", value) for value in (28.0, 33.0, 32.0))

    assert part_of_way(own, low, high, "Set5") == pytest.approx(0.8)
    assert part_of_way(own, high, low, "Set5") is None
    assert part_of_way(own, low, psnr("teacher", 28.004), "Set5") is None
    assert part_of_way(psnr("student", math.inf), low, high, "Set5") is None
    assert part_of_way(own, low, high, "Set14") is None


def test_the_share_of_bicubic_to_teacher_stands_under_its_own_name(tmp_path: Path) -> None:
    """Gap closed is another share, from scratch to the teacher: an evaluation does not know it."""
    sets = {"a": images(tmp_path / "a")}
    for path in sets["a"].folder.iterdir():
        levels = np.asarray(Image.open(path)).clip(1, 255) - 1
        (tmp_path / "better").mkdir(exist_ok=True)
        Image.fromarray(levels).save(tmp_path / "better" / path.name)
    better = Candidate(model="teacher", label="t", images=tmp_path / "better")

    table = evaluate([BICUBIC, better, Candidate(label="s", upscaler=Nearest.of(2))], sets)

    assert "a share of bicubic to teacher" in table.cells()[0]
    assert "gap" not in table.to_markdown() + table.to_csv() + table.to_json()


def test_what_evaluation_writes_comparison_and_report_read(tmp_path: Path) -> None:
    sets = {"a": images(tmp_path / "a")}
    teacher = Candidate(model="teacher", label="T", upscaler=small())
    students = [Candidate(model="student", label=name, upscaler=small()) for name in ("r1", "r2")]
    table = evaluate([BICUBIC, teacher, *students], sets)
    runs = [tmp_path / "runs" / name for name in ("r1", "r2")]
    for run, seed in zip(runs, (1, 2), strict=True):
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
        weights.write(run / "student.safetensors", students[seed - 1].network)
    keep_each(table, {run.name: run for run in runs})
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
        assert theirs.value("psnr_y", "a") == ours.value("psnr_y", "a")
        assert theirs.value("parameters") == ours.value("parameters")
    assert compared.protocol["gray"] == PROTOCOL["gray"]
    report(runs, tmp_path / "report.html")
    assert f"{table.rows[2].value('psnr_y', 'a'):.2f}" in (tmp_path / "report.html").read_text()
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
        evaluate([], {"a": pairs})
    with pytest.raises(ValueError, match="name at least one model and one set"):
        evaluate([BICUBIC], {})
    with pytest.raises(ValueError, match=r"nothing to measure on:\n  b: it holds no images"):
        evaluate([BICUBIC], {"b": replace(pairs, pairs=())})
    with pytest.raises(ValueError, match=r"nothing says the scale: give it"):
        evaluate([BICUBIC], {"a": tmp_path / "a"})
    with pytest.raises(ValueError, match=r"\(--scale\); .*a is not a run, its images stand for"):
        evaluate(tmp_path / "a", {"a": tmp_path / "a"})


def test_scales_that_differ(tmp_path: Path) -> None:
    sets = {"a": images(tmp_path / "a"), "b": images(tmp_path / "b", scale=4)}

    with pytest.raises(
        ValueError, match="different scales: a x2, b x4; measure each scale by itself"
    ):
        evaluate([BICUBIC], sets)
    with pytest.raises(ValueError, match="a x2, s x3"):
        evaluate([Candidate(model="student", label="s", upscaler=small(3))], {"a": sets["a"]})


def test_two_teachers_and_precisions_without_autocast(tmp_path: Path) -> None:
    sets = {"a": images(tmp_path / "a")}
    teachers = [Candidate(model="teacher", label=name, upscaler=small()) for name in "tu"]

    with pytest.raises(ValueError, match="agreement is with one teacher, but got t, u"):
        evaluate(teachers, sets)
    with pytest.raises(ValueError, match=r"float32 or bfloat16, but got torch\.float16"):
        evaluate([BICUBIC], sets, precision=torch.float16)


def ready(folder: Path, names: list[str], size: tuple[int, int] = (24, 20)) -> Candidate:
    folder.mkdir()
    for name in names:
        Image.new("RGB", size, "red").save(folder / name)
    return Candidate(model="images", label="p", images=folder)


@pytest.mark.parametrize("form", ["{}.png", "{}_RCAN_x2.png", "{}x2.bmp", "{}_x2_SR.webp"])
def test_ready_images_are_found_by_their_names(tmp_path: Path, form: str) -> None:
    sets = {"a": images(tmp_path / "a")}
    candidate = ready(tmp_path / "sr", [form.format("p0"), form.format("p1")])

    assert evaluate([candidate], sets).rows[0].value("images", "a") == 2


def test_a_ready_image_belongs_to_the_longest_name(tmp_path: Path) -> None:
    pairs = images(tmp_path / "a")
    named = tuple(
        replace(pair, name=name) for pair, name in zip(pairs, ("img", "img_2"), strict=True)
    )
    candidate = ready(tmp_path / "sr", ["img_SR.png", "img_2_SR.png"])

    assert (
        evaluate([candidate], {"a": replace(pairs, pairs=named)}).rows[0].value("images", "a") == 2
    )


@pytest.mark.parametrize(
    ("names", "size", "message"),
    [
        ([], (24, 20), "not a run, so its images stand for outputs of another program: no output"),
        (["p0.png"], (24, 20), "no output is called NAME or NAME_... for p1"),
        ([], (24, 20), "no output is called NAME or NAME_... for p0, p1"),
        (["p0.png", "p1_a.png", "p1_b.png"], (24, 20), "p1 has 2 outputs: p1_a.png, p1_b.png"),
        (["p0.png", "p1.png"], (20, 24), "20 x 24 pixels, but 24 x 20 are expected"),
    ],
)
def test_ready_images_that_are_missing(
    tmp_path: Path, names: list[str], size: tuple[int, int], message: str
) -> None:
    sets = {"a": images(tmp_path / "a")}
    candidate = ready(tmp_path / "sr", names, size)

    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        evaluate([candidate], sets)
    with pytest.raises(ValueError, match="no such folder"):
        evaluate([replace(candidate, images=tmp_path / "nowhere")], sets)


def test_progress_counts_images(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []

    evaluate([BICUBIC], {"a": images(tmp_path / "a")}, progress=lambda *step: seen.append(step))

    assert seen == [(1, 2, "a p0"), (2, 2, "a p1")]


# What fails


class Broken(Nearest):
    """Gives NaN for one image, which is wider than the other."""

    def tail(self, x: Tensor, kept: Mapping[int, Tensor], lr: Tensor) -> Tensor:
        sr = super().tail(x, kept, lr)
        return sr * math.nan if lr.shape[-1] > 10 else sr


def test_one_bad_candidate_does_not_end_the_rest(tmp_path: Path) -> None:
    """Its means would be of other images than the others': it has none on this set."""
    sets = {"narrow": images(tmp_path / "n", size=(20, 24)), "wide": images(tmp_path / "w")}
    broken = Candidate(label="broken", upscaler=Broken.of(2))

    table = evaluate([BICUBIC, broken, Candidate(label="s", upscaler=Nearest.of(2))], sets)

    assert table.problems == ("broken on wide, p0: the output holds NaN or infinity",)
    assert [list(row.sets) for row in table.rows] == [
        ["narrow", "wide"],
        ["narrow"],
        ["narrow", "wide"],
    ]
    assert "Not measured: broken on wide" in table.to_markdown()


def test_images_that_cannot_be_measured_are_found_before_the_first_is(tmp_path: Path) -> None:
    """A torn file, and one too small for SSIM: all are listed, and the rest is measured."""
    images(tmp_path / "a", 3)
    jpeg = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(jpeg, "JPEG")
    (tmp_path / "a" / "torn.jpg").write_bytes(jpeg.getvalue()[:-300])
    Image.new("RGB", (40, 14)).save(tmp_path / "a" / "tiny.png")
    seen: list[tuple[int, int]] = []

    table = evaluate(
        ["bicubic"], {"a": tmp_path / "a"}, scale=2, progress=lambda d, n, _: seen.append((d, n))
    )

    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert table.rows[0].value("images", "a") == 3
    tiny, torn = table.problems
    assert "tiny.png is too small: 40 x 14 pixels" in tiny
    assert "need 15 x 15" in tiny
    assert "torn.jpg" in torn


def test_one_pair_that_does_not_fit_is_listed_and_the_others_measured(tmp_path: Path) -> None:
    """A file of no use, and a partner of another size: two sentences, and one image of three."""
    images(tmp_path / "HR", 3)
    (tmp_path / "LR_bicubic" / "X2").mkdir(parents=True)
    for i, size in enumerate(((12, 10), (12, 10), (12, 9))):
        Image.new("RGB", size).save(tmp_path / "LR_bicubic" / "X2" / f"p{i}x2.png")
    (tmp_path / "HR" / "p1.png").write_bytes(b"no image")

    table = evaluate([BICUBIC], {"HR": tmp_path / "HR"}, scale=2)

    assert table.rows[0].sets["HR"]["images"] == 1
    assert [problem.startswith("HR: ") for problem in table.problems] == [True, True]
    assert "p1.png" in table.problems[0]
    assert "p2x2.png is 12x9" in table.problems[1]


def test_models_that_cannot_be_opened_are_listed(tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    weights.write(tmp_path / "good.safetensors", small())
    named = [tmp_path / name for name in ("good.safetensors", "bad.safetensors", "none.pth")]

    found, problems = open_all(named)

    assert [c.label for c in found] == ["good"]
    assert "bad.safetensors" in problems[0]
    assert "none.pth" in problems[1]
    with pytest.raises(ValueError, match=r"bad\.safetensors.*\n.*none\.pth"):
        open_all(["bicubic", *named[1:]])


# What can be named


def test_paths_names_and_networks_are_candidates(tmp_path: Path) -> None:
    images(tmp_path / "a")
    network = small()
    weights.write(tmp_path / "one" / "student.safetensors", network)
    weights.write(tmp_path / "two" / "student.safetensors", network)
    (tmp_path / "two" / "experiment.yaml").touch()

    table = evaluate(
        ["bicubic", tmp_path / "one" / "student.safetensors", str(tmp_path / "two"), network],
        {"a": str(tmp_path / "a")},
        teacher=network,
    )

    assert [row.label for row in table.rows] == ["bicubic", "edsr", "student", "two", "edsr (2)"]
    assert [row.model for row in table.rows][1:] == ["teacher", "student", "student", "student"]
    assert table.rows[2].value("agreement", "a") == math.inf


def test_a_run_stands_for_its_last_or_its_best_student(tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").touch()
    weights.write(tmp_path / "student.safetensors", small())

    assert candidate(tmp_path).weights == tmp_path / "student.safetensors"
    with pytest.raises(ValueError, match=r"has no best student yet: .* at the first validation"):
        candidate(tmp_path, best=True)
    weights.write(tmp_path / "best.safetensors", small())
    assert candidate(tmp_path, best=True).weights == tmp_path / "best.safetensors"


def test_numbers_count_only_where_a_file_is_silent(tmp_path: Path) -> None:
    weights.write(tmp_path / "says.safetensors", small())
    torch.save({"params": small().state_dict()}, tmp_path / "silent.pth")
    unsaid = Unsaid(value_range=100.0)
    said: list[Contents] = []

    found = [
        candidate(tmp_path / name, unsaid=unsaid, report=said.append)
        for name in ("says.safetensors", "silent.pth")
    ]

    ranges = [getattr(c.network.config, "value_range") for c in found if c.network]  # noqa: B009
    assert ranges == [1.0, 100.0]
    assert [bool(contents.notes) for contents in said] == [False, True]  # of its mean too


def test_inputs_without_a_truth_have_agreement_alone(tmp_path: Path) -> None:
    images(tmp_path / "lr")

    table = evaluate(
        ["bicubic", Nearest.of(2)], {"phone": Inputs(tmp_path / "lr")}, teacher=small()
    )

    assert [sorted(row.sets["phone"]) for row in table.rows] == [
        ["agreement", "images"],
        ["images", "seconds"],
        ["agreement", "images", "seconds"],
    ]
    assert table.notes == (
        "NIQE has no value on phone: an image is too small for it, or too flat.",
    )
    with pytest.raises(ValueError, match="it holds no images"):
        evaluate([small()], {"none": Inputs(tmp_path)})


def test_a_border_of_its_own_stands_in_the_protocol(tmp_path: Path) -> None:
    sets = {"a": images(tmp_path / "a")}
    lr, hr = load(sets["a"][0])
    expected = metrics.psnr_y(to_tensor(imresize_uint8(lr, 2)), to_tensor(hr), border=0).item()

    table = evaluate([BICUBIC], sets, border=0, images=1)

    assert table.rows[0].value("psnr_y", "a") == pytest.approx(expected, abs=1e-9)
    assert table.protocol["border"] == "none"
    assert evaluate([BICUBIC], sets).protocol["border"] == "as many pixels as the scale"


class Darkness(Metric):
    """A metric of a plug-in: how dark an output is."""

    name = "darkness"
    title = "darkness"
    digits = 1
    better = "lower"
    reference = "none"
    chosen = False

    def __call__(self, sr: Tensor, other: Tensor, border: int) -> Tensor:
        return 1 - sr.mean((1, 2, 3)).double()


def test_a_new_metric_is_one_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Darkness, "chosen", True)  # as is the rule; other tests shall not see it
    sets = {"a": images(tmp_path / "a")}

    table = evaluate([BICUBIC], sets)

    assert "a darkness" in table.cells()[0]
    assert '"darkness": 0.' in table.to_json()
    assert "darkness" in table.to_csv().splitlines()[0]
    alone = evaluate([BICUBIC], sets, metrics=["darkness"])
    assert list(alone.rows[0].sets["a"]) == ["images", "darkness"]
    with pytest.raises(ValueError, match="no metric 'darknes'; did you mean darkness"):
        evaluate([BICUBIC], sets, metrics=["darknes"])
