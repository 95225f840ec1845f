"""A teacher is judged by what it is for, and a student by what it is to be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import tiny_runs
from dukd.cli.program import run as dukd_command
from dukd.evaluation.metrics import Metric
from dukd.images.convert import to_tensor
from dukd.images.resize import upscale
from dukd.methods import Scratch
from dukd.networks import Opaque
from dukd.networks.code import Called
from dukd.networks.files import weights
from dukd.runs.checkpoint import CheckpointError
from dukd.runs.directory import Run
from dukd.training import loop
from dukd.training.assemble import assemble
from dukd.training.experiment import Evaluation
from dukd.training.trial import try_teacher
from dukd.training.validation import Validation


class Gloom(Metric):
    """Mean of one minus an output: alone, and less is better."""

    name = "gloom"
    title = "dark"
    better = "lower"
    reference = "none"
    chosen = False
    protocol: ClassVar = {}

    def __call__(self, sr: Tensor, other: Tensor, border: int) -> Tensor:
        return (1 - sr.clamp(0, 1)).double().mean((1, 2, 3))


@pytest.fixture(scope="module")
def portrait(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph of 384 x 384 pixels."""
    data = pytest.importorskip("skimage.data")
    folder = tmp_path_factory.mktemp("judging") / "portrait"
    folder.mkdir()
    Image.fromarray(data.astronaut()[:384, :384]).save(folder / "p.png")
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.prepare(tmp_path_factory.mktemp("judged"))


def taught_by(upscaling: Callable[[Tensor], Tensor]) -> Opaque:
    return Opaque(Called(upscaling, "stand-in"), 4)


def shifted(folder: Path) -> Opaque:
    """Natural detail in the wrong place: the photograph itself, by one pixel aside, as a GAN's."""
    return taught_by(lambda x: middle(folder, x).roll((1, 1), (2, 3)))


def middle(folder: Path, lr: Tensor) -> Tensor:
    """What the middle of the photograph is, as large as an output for ``lr``."""
    hr = to_tensor(np.asarray(Image.open(folder / "p.png")))
    side = 4 * lr.shape[-1]
    start = (hr.shape[-1] - side) // 2
    return hr[..., start : start + side, start : start + side]


def validation(folder: Path) -> Validation:
    return Validation.open(Evaluation(sets=(folder,)), 4, torch.device("cpu"))


def test_a_teacher_that_invents_detail_is_judged_by_niqe(portrait: Path) -> None:
    sets = validation(portrait)

    note = try_teacher(shifted(portrait), sets, 1)

    assert "it is taken for one that invents detail, as GANs do" in note
    assert "--evaluation.teacher-measure psnr_y" in note
    with pytest.raises(ValueError, match=r"24.58 dB against 27.07 dB .*If it is a GAN, which PSNR"):
        try_teacher(shifted(portrait), sets, 1, "psnr_y")
    assert try_teacher(shifted(portrait), sets, 1, "niqe").startswith(
        "the teacher beats bicubic by NIQE: 4.1"
    )
    with pytest.raises(ValueError, match="agreement, which compares with the teacher itself"):
        try_teacher(shifted(portrait), sets, 1, "agreement")


def test_outputs_that_do_not_reduce_to_their_inputs_are_of_no_gan(portrait: Path) -> None:
    """Half as bright: as natural, but read wrongly."""
    dark = taught_by(lambda x: middle(portrait, x) * 0.5)

    with pytest.raises(ValueError, match="the teacher does not beat bicubic: "):
        try_teacher(dark, validation(portrait), 1)


def test_a_blurred_teacher_is_no_gan(portrait: Path) -> None:
    """Reduced it is its input, but it looks no more natural than bicubic."""
    with pytest.raises(ValueError, match="the teacher does not beat bicubic: "):
        try_teacher(taught_by(lambda x: 0.97 * upscale(x, 4)), validation(portrait), 1)


def validations(run: Path) -> list[dict[str, Any]]:
    found = [r for r in Run.open(run).records() if r["kind"] == "validation"]
    return [cast("dict[str, Any]", r) for r in found]


@pytest.mark.parametrize(("best", "choose"), [("agreement", max), ("gloom", min), ("psnr_y", max)])
def test_the_best_student_is_chosen_by_what_is_named(
    tiny: Path, tmp_path: Path, best: str, choose: Callable[..., dict[str, Any]]
) -> None:
    """Also by a metric of a plug-in, and where less is better."""
    experiment = tiny_runs.experiment(
        tiny, evaluation__best=best, evaluation__metrics=("gloom",), evaluation__every=3
    )

    loop.train(experiment, tmp_path / "run")

    records = validations(tmp_path / "run")
    assert len(records) == 4
    assert list(records[0]["sets"]["images"]) == [
        "psnr_y",
        "ssim_y",
        "psnr_rgb",
        "agreement",
        "gloom",
    ]
    wanted = choose(records, key=lambda r: r["sets"]["images"][best])
    kept = weights.inspect(Run.open(tmp_path / "run").best_student)
    assert kept.metadata["step"] == str(wanted["step"])


def test_a_run_keeps_to_what_chooses(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Values of two metrics cannot be compared."""
    experiment = tiny_runs.experiment(tiny, evaluation__best="agreement", optimization__steps=4)
    loop.train(experiment, tmp_path / "run")
    other = tiny_runs.experiment(tiny, optimization__steps=4)

    with pytest.raises(CheckpointError, match=r"evaluation.best was agreement, is psnr_y"):
        loop.train(other, tmp_path / "run", resume=True)
    assert dukd_command(["info", str(tmp_path / "run")]) == 0
    assert "by agreement" in capsys.readouterr().out


def test_agreement_needs_a_teacher(tiny: Path) -> None:
    with pytest.raises(ValueError, match=r"evaluation.best is agreement, but there is no teacher"):
        assemble(
            tiny_runs.experiment(tiny, method=Scratch(), teacher=None, evaluation__best="agreement")
        )
    with pytest.raises(ValueError, match=r"no metric .agrement.; did you mean agreement\?"):
        Evaluation(best="agrement")


def test_niqe_of_images_that_are_too_small_is_left_out(tiny: Path) -> None:
    sets = Validation.open(
        Evaluation(sets=(tiny / "images",), images=1, metrics=("niqe",)), 2, torch.device("cpu")
    )
    nearest = Opaque(
        Called(lambda x: x.repeat_interleave(2, -1).repeat_interleave(2, -2), "nearest"), 2
    )

    measured = sets.measure(nearest, None)["images"]

    assert set(measured) == {"psnr_y", "ssim_y", "psnr_rgb"}
    assert measured["psnr_y"] > 10
