"""Mistakes of type get the project's sentences, which say what to write."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

import dukd
import tiny_runs
from dukd import images
from dukd.core.given import described

LR, HR = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 16, 16)
NETWORK = tiny_runs.STUDENT.build()
EXPERIMENT = tiny_runs.experiment(Path("nowhere"))
face: Any = dukd  # what is given is wrong on purpose


def test_what_a_value_is_in_words() -> None:
    assert described(3) == "int 3"
    assert described(dukd.DUKD) == "the class DUKD itself, which is to be called: DUKD(...)"
    assert described("a.pth") == "the text 'a.pth'"
    assert described(nn.Upsample(scale_factor=2)) == "a torch Upsample"
    assert described(NETWORK) == "an EDSR"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (
            lambda: face.Distiller(dukd.DUKD, NETWORK),
            r"the method is one of dukd.methods, .*: DUKD\(...\)",
        ),
        (lambda: face.Distiller("dukd", NETWORK), "but got the text 'dukd'"),
        (
            lambda: face.Distiller(dukd.DUKD(), "s.pth", NETWORK),
            r"the student is a module .*dukd.load\(path\).network",
        ),
        (
            lambda: face.Distiller(dukd.DUKD(), NETWORK, tiny_runs.STUDENT),
            r"the teacher is a module .* build\(\)\), but got an EDSRConfig",
        ),
        (
            lambda: dukd.Distiller(dukd.Scratch(), NETWORK)(cast("Any", LR.numpy()), HR),
            "lr is a tensor .* got a numpy ndarray",
        ),
        (
            lambda: face.evaluate(NETWORK, {"Set5": "Set5"}),
            r"what is measured is a list, such as \['bicubic'",
        ),
        (lambda: face.evaluate([3], {"Set5": "Set5"}), "what is measured is a file, .* got int 3"),
        (
            lambda: face.evaluate(["bicubic"], ["Set5"]),
            "sets is images by the name of their set, .*, but got a list",
        ),
        (lambda: face.evaluate(["bicubic"], {"Set5": 5}), "the set Set5 is a folder, "),
        (
            lambda: face.train("tiny-x2-dukd", Path("runs/mine")),
            r"what is trained is a dukd.Experiment: dukd.recipe\(name\).make\(\)",
        ),
        (lambda: replace(EXPERIMENT, teacher=cast("Any", "gan.pth")), r"dukd.Teacher.of\(...\)"),
        (lambda: replace(EXPERIMENT, method=cast("Any", dukd.DUKD)), "which is to be called"),
        (
            lambda: replace(EXPERIMENT, student=cast("Any", NETWORK)),
            "numbers of a network, .* an EDSR",
        ),
        (lambda: dukd.Data(train=cast("Any", "photos")), r"train is made of paths: pathlib.Path"),
        (lambda: dukd.Evaluation(sets=cast("Any", ("Set5",))), "sets is made of paths"),
        (
            lambda: dukd.Evaluation(sets=cast("Any", Path("Set5"))),
            r"sets is made of paths: \(pathlib.Path\(...\),\), but got a pathlib",
        ),
        (lambda: face.compare(3), "what is compared is a path, or a list of paths, but got int 3"),
        (lambda: face.report([3], "a.html"), "what is reported is a path, or a list of paths"),
        (lambda: face.upscale(NETWORK, [b"a"], "out"), "what is enlarged is a path, or a list"),
        (lambda: face.load(NETWORK), r"what is loaded is a path \(dukd.Model\(network\)"),
        (lambda: face.export("x.pth", "x.onnx"), r"a network \(of a file: dukd.load\(path\)"),
        (lambda: face.save(NETWORK, "x.safetensors"), r"as in dukd.save\(path, network\)"),
    ],
)
def test_a_mistake_of_type_says_what_to_write(wrong: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        wrong()


def test_evaluate_takes_paths_as_texts_and_plain_modules(tmp_path: Path) -> None:
    """A folder, a file and a metric as texts; a module that nobody has wrapped."""
    root = tiny_runs.prepare(tmp_path / "root")

    table = dukd.evaluate(
        [str(root / "teacher.safetensors"), nn.Upsample(scale_factor=2)],
        {"mine": str(root / "images")},
        metrics="psnr_y",
        images=1,
    )

    assert [row.label for row in table.rows] == ["teacher", "opaque"]
    assert all(set(row.sets["mine"]) >= {"psnr_y", "images"} for row in table.rows)


def test_one_path_stands_for_a_list_of_one(tmp_path: Path) -> None:
    """A text is a path, not its letters."""
    place = tmp_path / "nothing"
    for one in (place, str(place)):
        for call in (
            lambda one=one: dukd.compare(one),
            lambda one=one: dukd.report(one, tmp_path / "a.html"),
            lambda one=one: dukd.evaluate(one, {"Set5": tmp_path}),
        ):
            with pytest.raises((ValueError, OSError), match=f"{place}(?! holds no run.*\n)"):
                call()
    for one in (image := tmp_path / "a.png", str(image)):
        images.write(image, images.Image(pixels=np.zeros((8, 8, 3), np.uint8)))

        assert [done.source for done in dukd.upscale(NETWORK, one, tmp_path / "out").done] == [
            image
        ]
