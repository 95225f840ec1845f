"""A student is judged while it trains, and a teacher before hours are spent on it."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dukd import images
from dukd.data.pairs import find_pairs, load
from dukd.evaluation import metrics
from dukd.evaluation.output import output
from dukd.evaluation.sets import open_sets, set_name, some
from dukd.images.convert import to_tensor
from dukd.images.resize import imresize_uint8
from dukd.networks import EDSRConfig, Network, SMFANetConfig
from dukd.networks.files import weights
from dukd.runs.windows import busiest
from dukd.training.experiment import Evaluation
from dukd.training.samples import write_samples
from dukd.training.trial import try_teacher
from dukd.training.validation import Validation
from stand_ins import Nearest

CPU = torch.device("cpu")
DIV2K = (0.4488, 0.4371, 0.4040)


@pytest.fixture
def reddish(tmp_path: Path) -> Validation:
    """Images of squares, bright red and never black: what `repeater` enlarges better than
    bicubic.
    """
    rng = np.random.default_rng(0)
    for i in range(3):
        lr = rng.integers((140, 10, 10), (250, 120, 120), (14, 18, 3)).astype(np.uint8)
        hr = lr.repeat(2, 0).repeat(2, 1) + rng.integers(0, 3, (28, 36, 3)).astype(np.uint8)
        for folder, name, image in (("HR", f"p{i}", hr), ("LR_bicubic/X2", f"p{i}x2", lr)):
            (tmp_path / "reddish" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(tmp_path / "reddish" / folder / f"{name}.png")
    return Validation.open(Evaluation(sets=(tmp_path / "reddish",)), 2, CPU)


def repeater(config: EDSRConfig) -> Network:
    """Weights that repeat pixels, if red is above 120 and the rest above 1 in the range of 255
    and with no mean.
    """
    network = config.build()
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
        state = network.state_dict()
        for c in range(3):
            state["conv_first.weight"][c, c, 1, 1] = 1
            state["body.0.conv1.weight"][c, c, 1, 1] = -1
            state["body.0.conv1.bias"][c] = 120 if c == 0 else 1
            state["body.0.conv2.weight"][c, c, 1, 1] = 5
            state["upsample.0.weight"][4 * c : 4 * c + 4, c, 1, 1] = 1
            state["conv_after_body.weight"][c, c, 1, 1] = 1
            state["conv_last.weight"][c, c, 1, 1] = (
                0.5  # of the body's answer and the skip around it
            )
    return network.frozen()


RIGHT = EDSRConfig(scale=2, width=4, blocks=1, value_range=255.0, mean=(0.0, 0.0, 0.0))


def test_a_good_teacher_passes(reddish: Validation) -> None:
    message = try_teacher(repeater(RIGHT), reddish, 3)

    assert message.startswith("the teacher beats bicubic: 4")
    assert message.endswith("dB on 3 images of reddish")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            replace(RIGHT, value_range=1.0),
            r"Likely it was read wrongly: .* with --teacher\.value-range 255\.0, but",
        ),
        (replace(RIGHT, mean=DIV2K), r"with --teacher\.mean 0\.0 0\.0 0\.0, but"),
        (
            replace(RIGHT, value_range=1.0, mean=DIV2K),
            r"with --teacher\.value-range 255\.0 --teacher\.mean 0\.0 0\.0 0\.0, but",
        ),
    ],
)
def test_a_teacher_that_was_read_wrongly(
    reddish: Validation, wrong: EDSRConfig, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        try_teacher(repeater(wrong), reddish, 3)
    assert str(caught.value).startswith("the teacher does not beat bicubic: ")


def test_a_teacher_for_bgr(reddish: Validation) -> None:
    network = repeater(RIGHT)
    with torch.no_grad():
        state = network.state_dict()
        state["conv_first.weight"].copy_(state["conv_first.weight"].flip(1))
        state["conv_last.weight"].copy_(state["conv_last.weight"].flip(0))

    with pytest.raises(
        ValueError, match=r"it has 48\.\d\d dB with blue and red exchanged \(.*, but 2\d\.\d\d dB"
    ):
        try_teacher(network, reddish, 3)


def test_a_good_teacher_that_could_be_better_says_so(reddish: Validation) -> None:
    """Only one image of three has what the exchange of colors spoils."""
    network = repeater(RIGHT)
    with torch.no_grad():
        network.state_dict()["conv_last.bias"].fill_(-1.5)
        almost = replace(RIGHT, value_range=240.0)
        read_as = almost.build().frozen()
        read_as.load_state_dict(network.state_dict())

    said = try_teacher(read_as, reddish, 3)

    assert re.search(
        r"beats bicubic: .*; but on crops it has .* dB with --teacher\.value-range 255\.0, but",
        said,
    )


@pytest.mark.parametrize("config", [RIGHT, SMFANetConfig(scale=2, width=12, blocks=1)])
def test_a_teacher_that_was_never_trained(
    reddish: Validation, config: EDSRConfig | SMFANetConfig
) -> None:
    before = torch.random.get_rng_state()
    network = config.build().frozen()
    torch.random.set_rng_state(before)

    with pytest.raises(ValueError, match="weights were never trained"):
        try_teacher(network, reddish, 3)
    assert torch.equal(
        torch.random.get_rng_state(), before
    )  # training draws what it would without the trial


@pytest.mark.slow
@pytest.mark.parametrize(
    ("value_range", "mean", "verdict"),
    [
        (255.0, (0.0, 0.0, 0.0), "images of Set5$"),
        (1.0, (0.0, 0.0, 0.0), r"--teacher\.value-range 255\.0, but"),
        (255.0, DIV2K, r"--teacher\.mean 0\.0 0\.0 0\.0, but"),
    ],
)
def test_a_real_file_read_rightly_and_wrongly(
    real_data: Path, value_range: float, mean: tuple[float, float, float], verdict: str
) -> None:
    path = real_data / "weights" / "edsr_f32b5_x2_basicsr.safetensors"
    teacher = weights.read(path, value_range=value_range, mean=mean).frozen()
    validation = Validation.open(Evaluation(sets=(real_data / "eval" / "Set5",)), 2, CPU)
    try:
        said = try_teacher(teacher, validation, 2)
    except ValueError as error:
        said = str(error)

    assert re.search(verdict, said), said


def test_a_validation_is_the_mean_over_each_set(reddish: Validation) -> None:
    student, teacher = Nearest.of(2), repeater(RIGHT)
    pairs = reddish.sets["reddish"]
    expected = [
        metrics.psnr_y(output(student, lr)[0], to_tensor(hr), border=2).item()
        for lr, hr in map(load, pairs)
    ]

    first = reddish.measure(student, teacher)["reddish"]
    again = reddish.measure(student, teacher)["reddish"]  # the teacher's answers are remembered

    assert first["psnr_y"] == pytest.approx(np.mean(expected), abs=1e-9)
    assert set(first) == {"psnr_y", "ssim_y", "psnr_rgb", "agreement"}
    assert first["agreement"] > 50
    assert first == again
    assert "agreement" not in reddish.measure(student, None)["reddish"]


def test_the_line_of_the_log(reddish: Validation) -> None:
    record = reddish.record(500, Nearest.of(2), None)

    assert (record["kind"], record["step"], list(record["sets"])) == (
        "validation",
        500,
        ["reddish"],
    )
    assert record["seconds"] > 0


def test_sets_of_one_name_are_refused(tmp_path: Path) -> None:
    for above in ("a", "b"):
        (tmp_path / above / "Set5").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / above / "Set5" / "p.png")

    with pytest.raises(ValueError, match="two sets are called Set5"):
        open_sets([tmp_path / "a" / "Set5", tmp_path / "b" / "Set5"], 2)


def test_names_of_sets(tmp_path: Path) -> None:
    (tmp_path / "somewhere").mkdir()
    (tmp_path / "Set5").symlink_to(tmp_path / "somewhere")

    assert set_name(Path("x/Set14/HR")) == "Set14"
    assert set_name(Path("x/Set14/GTmod12/")) == "Set14"
    assert set_name(Path("x/DIV2K_valid_HR")) == "DIV2K_valid_HR"
    assert set_name(Path("x/Set5/y/..")) == "Set5"
    assert set_name(tmp_path / "Set5") == "Set5"


def test_some_images_are_evenly_spaced(tmp_path: Path) -> None:
    for i in range(10):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
    pairs = find_pairs(tmp_path, scale=2)

    assert [pair.name for pair in some(pairs, 4)] == ["0", "2", "5", "7"]
    assert len(some(pairs, 0)) == len(some(pairs, 99)) == 10


def test_the_busiest_window_holds_the_detail() -> None:
    hr = np.zeros((40, 60, 3), np.uint8)
    hr[22:38:2, 42:58] = 255

    assert busiest(hr, 20) == (20, 40)
    assert busiest(hr[:10, :10], 20) == (0, 0)


def test_samples_are_crops_of_the_same_places(reddish: Validation, tmp_path: Path) -> None:
    write_samples(reddish, Nearest.of(2), repeater(RIGHT), tmp_path / "samples", 2, label="dukd")

    index = json.loads((tmp_path / "samples" / "index.json").read_text())
    assert [entry["sample"] for entry in index] == ["p0", "p1"]
    shown = {image["label"]: image for image in index[0]["images"]}
    assert list(shown) == ["bicubic", "dukd", "teacher", "ground truth"]
    assert shown["ground truth"]["psnr_y"] is None
    lr, hr = load(reddish.sets["reddish"][0])
    expected = metrics.psnr_y(to_tensor(imresize_uint8(lr, 2)), to_tensor(hr), border=2).item()
    assert math.isclose(shown["bicubic"]["psnr_y"], expected)
    truth = images.read_rgb8(tmp_path / "samples" / shown["ground truth"]["file"])
    assert truth.shape == (28, 36, 3)  # smaller than a crop would be: whole


def test_what_is_wrong_with_every_set_is_told_at_once(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"")

    with pytest.raises(ValueError, match="2 sets cannot be used") as error:
        open_sets([tmp_path / "one", tmp_path / "two"], 2)

    assert all(str(tmp_path / name / "a.png") in str(error.value) for name in ("one", "two"))
