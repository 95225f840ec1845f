"""The demo: its photographs, its teacher, and the whole of it in a few steps."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from dukd import images
from dukd.core.files import sha256
from dukd.data.pairs import find_pairs, load
from dukd.evaluation import metrics
from dukd.evaluation.output import output
from dukd.images.convert import to_tensor
from dukd.images.resize import imresize_uint8
from dukd.networks.files import weights
from dukd.recipes import demo
from dukd.recipes.demo import HELD_OUT, TEACHER, TRAINING, Photograph

SMALL = (
    Photograph("chelsea", "skimage", "data/chelsea.png", 2),
    Photograph("ihc", "skimage", "data/ihc.png", 4),
)
JUDGES = (Photograph("coffee", "skimage", "data/coffee.png", 4),)


def thumbnail(photograph: Photograph) -> np.ndarray:
    """Sixteen by sixteen means, without the image's own brightness and contrast."""
    pixels = images.read_rgb8(demo.locate(photograph)).mean(2)
    h, w = (side // 16 * 16 for side in pixels.shape)
    means = pixels[:h, :w].reshape(16, h // 16, 16, w // 16).mean((1, 3))
    return (means - means.mean()) / means.std()


def test_the_photographs_are_installed_and_in_color_but_for_the_page():
    for photograph in (*TRAINING, *HELD_OUT):
        pixels = images.read_rgb8(demo.locate(photograph))

        assert min(pixels.shape[:2]) // photograph.reduced // demo.SCALE >= 95, photograph
        colors = np.ptp(pixels.astype(int), axis=2).max()
        assert colors > 50 or photograph.name == "page", photograph


def test_no_photograph_that_judges_is_trained_on():
    """Neither the same file, nor the same scene in another file."""
    files = [{sha256(demo.locate(p)) for p in photographs} for photographs in (TRAINING, HELD_OUT)]
    alike = {
        (t.name, j.name): float((thumbnail(t) * thumbnail(j)).mean())
        for t in TRAINING
        for j in HELD_OUT
    }

    assert not files[0] & files[1]
    assert max(alike.values()) < 0.6, alike


def test_the_likeness_of_scenes_is_seen():
    """The test above would notice an image that was only made smaller or seen from beside."""
    left, right = (Photograph(s, "skimage", f"data/motorcycle_{s}.png") for s in ("left", "right"))

    assert (thumbnail(left) * thumbnail(right)).mean() > 0.6


def test_the_runs_differ_in_nothing_but_the_method(tmp_path: Path):
    plans = [
        demo.experiment(method, tmp_path, packs=tmp_path, cache=tmp_path) for method in demo.METHODS
    ]

    for a, b in combinations(plans, 2):
        assert (a.student, a.data, a.optimization, a.evaluation) == (
            b.student,
            b.data,
            b.optimization,
            b.evaluation,
        )


def test_the_teacher_beats_bicubic_by_two_decibels(tmp_path: Path):
    demo.write_photographs(HELD_OUT[:2], tmp_path)
    teacher = weights.read(TEACHER).frozen()

    assert TEACHER.stat().st_size < 2_500_000
    for pair in find_pairs(tmp_path, scale=2):
        lr, hr = load(pair)
        ours = metrics.psnr_y(output(teacher, lr)[0], to_tensor(hr), border=2)
        bicubic = metrics.psnr_y(to_tensor(imresize_uint8(lr, 2)), to_tensor(hr), border=2)
        assert ours > bicubic + 2, pair.name


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "TRAINING", SMALL)
    monkeypatch.setattr(demo, "HELD_OUT", JUDGES)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_the_whole_demo_makes_a_page_and_goes_on_where_it_was(tmp_path: Path):
    seen: list[tuple[int, int]] = []
    told: list[str] = []

    outcome = demo.demo(
        tmp_path,
        steps=4,
        notify=told.append,
        progress=lambda done, total, _what: seen.append((done, total)),
    )

    labels = [row.label for row in outcome.table.rows]
    page = outcome.page.read_text(encoding="utf-8")
    assert labels == ["bicubic", "scratch", "logits", "dukd", "teacher"]
    assert len(told) == 3
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]
    # bicubic, three students, teacher, ground truth: one image, and crops of it
    assert page.count("<img ") in {12, 18, 24}
    assert "http" not in page.replace("http-equiv", "")

    logs = [
        (tmp_path / "runs" / name / "log.jsonl").read_text()
        for name in ("scratch", "logits", "dukd")
    ]
    again = demo.demo(tmp_path, steps=4)

    for log, name in zip(logs, ("scratch", "logits", "dukd"), strict=True):
        now = (tmp_path / "runs" / name / "log.jsonl").read_text()
        assert now.startswith(log.rstrip("\n"))
        assert now.count('"kind": "train"') == log.count('"kind": "train"')
    for before, after in zip(outcome.table.rows, again.table.rows, strict=True):
        assert before.value("psnr_y", "held-out") == after.value("psnr_y", "held-out")

    with pytest.raises(ValueError, match="--fresh"):
        demo.demo(tmp_path, steps=5)
    assert demo.demo(tmp_path, steps=3, fresh=True).page == outcome.page


def test_a_missing_package_is_named():
    with pytest.raises(ValueError, match=r"no_such_package: pip install 'dukd\[demo\]'"):
        demo.locate(Photograph("x", "no_such_package", "x.png"))


def test_a_missing_image_is_named():
    with pytest.raises(ValueError, match=r"skimage has no data/none\.png"):
        demo.locate(Photograph("x", "skimage", "data/none.png"))
