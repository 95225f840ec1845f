"""Which images a page shows, where they come from, and how large they may be."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dukd.core.files import sha256
from dukd.evaluation import metrics
from dukd.images.convert import to_tensor
from dukd.images.resize import imresize_uint8
from dukd.networks import EDSRConfig
from dukd.networks.files import weights
from dukd.runs.encode import encoded, fitted
from dukd.runs.gallery import chosen
from dukd.runs.looks import looks
from dukd.runs.report import Images, report
from dukd.runs.scenes import Layer, Scene, psnr
from dukd.runs.signed import with_digest, with_header
from dukd.runs.summary import ReportError, read
from dukd.runs.windows import Window

RNG = np.random.default_rng(3)


def _scene(name: str, spot: tuple[int, int], size: int = 96) -> Scene:
    """Two outputs that differ in one place; the truth differs from both everywhere."""
    one = RNG.integers(0, 255, (size, size, 3), np.uint8)
    two = one.copy()
    y, x = spot
    two[y : y + 6, x : x + 6] ^= 255
    layers = (
        Layer("a", "bicubic", one),
        Layer("b", "student", two),
        Layer("t", "truth", one ^ 255),
    )
    return Scene(name, layers)


def test_crops_lie_where_outputs_differ_and_no_image_has_them_all() -> None:
    scenes = [_scene("first", (70, 20)), _scene("second", (10, 60))]

    picks = chosen(scenes, 2, 24)

    assert [pick.scene for pick in picks] == [0, 1]
    for pick, (y, x) in zip(picks, ((70, 20), (10, 60)), strict=True):
        window = pick.window
        assert window.top <= y
        assert y + 6 <= window.top + 24
        assert window.left <= x
        assert x + 6 <= window.left + 24
    assert chosen([], 3, 24) == chosen(scenes, 0, 24) == []


def test_images_are_kept_to_the_last_bit() -> None:
    pixels = RNG.integers(0, 255, (9, 7, 3), np.uint8)

    with Image.open(io.BytesIO(encoded(pixels))) as image:
        assert (np.array(image.convert("RGB")) == pixels).all()


def test_a_scene_that_is_too_large_is_cut_around_its_place() -> None:
    scene, window = _scene("noise", (200, 40), 256), Window(192, 32, 24, 24)
    whole = sum(len(encoded(layer.pixels)) for layer in scene.layers)

    same, contents, part = fitted(scene, window, whole)
    assert (same, part) == (scene, Window(0, 0, 256, 256))
    small, contents, part = fitted(scene, window, whole // 3)

    assert sum(map(len, contents)) <= whole // 3
    assert part.top <= 192
    assert part.top + part.height >= 216
    assert part.left <= 32
    assert part.left + part.width >= 56
    assert (small.layers[0].pixels == part.of(scene.layers[0].pixels)).all()
    assert min(fitted(scene, window, 1)[2].width, fitted(scene, window, 1)[2].height) == 96


def test_psnr_of_a_crop_is_that_of_the_metric_without_a_border() -> None:
    a, b = (RNG.integers(0, 255, (20, 20, 3), np.uint8) for _ in range(2))

    expected = metrics.psnr_y(to_tensor(a), to_tensor(b), border=0).item()
    assert psnr(a, b) == pytest.approx(expected, abs=1e-4)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A run that has kept no samples, beside its images and its teacher."""
    (tmp_path / "valid").mkdir()
    for n in range(4):
        pixels = RNG.integers(0, 255, (40, 56, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "valid" / f"{n}.png")
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    for name in (run / "student.safetensors", tmp_path / "teacher.safetensors"):
        weights.write(name, EDSRConfig(scale=2, width=4, blocks=1).build())
    text = (
        "student: {type: edsr}\nmethod: {type: dukd}\noptimization: {steps: 9}\n"
        "teacher: {weights: teacher.safetensors, value_range: null}\n"
        "evaluation: {sets: [valid]}\n"
    )
    (run / "experiment.yaml").write_text(with_header(text))
    _facts(run, sha256(tmp_path / "teacher.safetensors"))
    return tmp_path


def _facts(run: Path, teacher: str) -> None:
    facts = {"folder": "/nowhere", "folder_from_run": "../..", "teacher_sha256": teacher}
    (run / "run.json").write_text(with_digest(facts))


def _images(text: str) -> list[tuple[str, np.ndarray]]:
    found = re.findall(r'alt="([^"]+)" src="data:image/webp;base64,([^"]+)"', text)
    opened: list[tuple[str, np.ndarray]] = []
    for name, content in found:
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            opened.append((name, np.array(image.convert("RGB"))))
    return opened


def test_images_that_no_run_has_kept_are_those_that_judged_the_training(world: Path) -> None:
    """Paths of the experiment lead from where it was begun, though it has moved since."""
    text = report([world / "runs" / "mine"], world / "out.html").read_text()

    shown = dict(_images(text))
    models = ("bicubic", "dukd", "teacher", "ground truth")
    assert set(shown) == {f"{n}, {model}" for n in (0, 1, 2) for model in models}
    truth = np.array(Image.open(world / "valid" / "1.png"))
    assert (shown["1, ground truth"] == truth).all()
    bicubic = imresize_uint8(imresize_uint8(truth, 0.5), 2)
    assert (shown["1, bicubic"] == bicubic).all()
    figure = metrics.psnr_y(to_tensor(bicubic), to_tensor(truth), border=2).item()
    assert f"<td>{figure:.2f}</td>" in text


def test_images_can_be_named(world: Path) -> None:
    images = Images(files=(world / "valid" / "3.png",))

    text = report([world / "runs" / "mine"], world / "out.html", images=images).read_text()

    assert {name.split(",")[0] for name, _ in _images(text)} == {"3"}
    named = Images(files=(world / "none.png",))
    with pytest.raises(ValueError, match=r"none\.png"):
        report([world / "runs" / "mine"], world / "out.html", images=named)


def test_what_is_missing_is_said_and_the_page_is_written(world: Path) -> None:
    run = world / "runs" / "mine"
    _facts(run, "ab" * 32)
    text = report([run], world / "out.html").read_text()
    assert "teacher.safetensors has changed since mine was trained" in text
    assert "0, dukd" in text

    (world / "valid").rename(world / "elsewhere")
    text = report([run], world / "out.html").read_text()
    assert "name some with --images" in text
    assert _images(text) == []
    assert "<h2>Images" not in report([run], world / "out.html", images=Images(count=0)).read_text()


def test_samples_of_unlike_sizes_are_refused(world: Path) -> None:
    run = world / "runs" / "mine"
    (run / "samples").mkdir()
    index = []
    for label, size in (("bicubic", (4, 4)), ("dukd", (8, 4))):
        Image.new("RGB", size).save(run / "samples" / f"{label}.png")
        index.append({"label": label, "file": f"{label}.png"})
    index_ = json.dumps([{"sample": "cat", "images": index}])
    (run / "samples" / "index.json").write_text(index_)

    with pytest.raises(ReportError, match="the samples of cat have unlike sizes, 4 x 4 and 8 x 4"):
        report([run], world / "out.html")


def test_the_strong_look_is_dukds_or_that_of_a_run_alone(world: Path) -> None:
    dukd = read(world / "runs" / "mine")
    other = world / "runs" / "other"
    other.mkdir()
    (other / "experiment.yaml").write_text(with_header("method: {type: logits}\n"))

    both = looks([read(other), dukd])
    assert {look.label: look.style for look in both.values()} == {"logits": 1, "dukd": 0}
    assert [look.strong for look in looks([read(other)]).values()] == [True]
