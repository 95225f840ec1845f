"""Inputs that are degraded: at scale 1, where a network restores, and where students are judged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dukd.data.packing import prepare
from dukd.data.pairs import PairsError, find_pairs, load
from dukd.evaluation.sets import open_set
from dukd.images.degrade import Bicubic, preset
from dukd.images.two_stage import RealESRGAN
from dukd.methods import DUKD, Scratch
from dukd.networks import CompactConfig
from dukd.networks.files import weights
from dukd.training import trial
from dukd.training.assemble import assemble, open_pack
from dukd.training.experiment import Data, Evaluation, Experiment, Optimization
from dukd.training.loop import train
from dukd.training.teachers import File
from dukd.training.validation import Validation

JPEG = preset("jpeg-40")
NOTHING = "nothing is to be learned"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in "ab":
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        coarse.resize((48, 40), Image.Resampling.BICUBIC).save(folder / f"{name}.png")
    return folder


def test_interpolation_leaves_nothing_to_restore(photos: Path, tmp_path: Path) -> None:
    """lr would be hr, and PSNR infinite."""
    with pytest.raises(PairsError, match=NOTHING):
        find_pairs(photos, scale=1).restored_from(Bicubic())
    with pytest.raises(PairsError, match=NOTHING):
        open_set(photos, 1)
    with pytest.raises(PairsError, match=NOTHING):
        open_pack(Data(train=photos, packs=tmp_path), 1)
    with pytest.raises(PairsError, match=NOTHING):
        Validation.open(Evaluation(sets=(photos,)), 1, torch.device("cpu"))
    pack = prepare(find_pairs(photos, scale=1), tmp_path / "x1.pack")
    with pytest.raises(ValueError, match=r"train with --data\.degradation jpeg-40"):
        open_pack(Data(train=Path(pack.path)), 1)


def test_what_is_judged_is_degraded_alike_every_time(photos: Path) -> None:
    pairs = find_pairs(photos, scale=1).restored_from(JPEG)
    first, again = ([load(pair) for pair in pairs] for _ in range(2))

    for (lr, hr), (same, _) in zip(first, again, strict=True):
        assert np.array_equal(lr, same)
        assert not np.array_equal(lr, hr)
        assert lr.shape == hr.shape


def test_files_are_taken_as_they_are(photos: Path) -> None:
    """HR beside LR, as `dukd degrade` writes them."""
    low = photos.parent / "LR"
    low.mkdir()
    for path in photos.iterdir():
        Image.new("RGB", (48, 40), "red").save(low / path.name)
    photos = photos.rename(photos.parent / "HR")

    (lr, _), _ = map(load, find_pairs(photos, scale=1).restored_from(Bicubic()))

    assert (lr == (255, 0, 0)).all()


def test_above_scale_1_inputs_without_files_are_degraded_too(photos: Path) -> None:
    """By the same draws whenever they are read; an interpolation is what makes them anyway."""
    pairs = find_pairs(photos, scale=2)
    assert pairs.restored_from(Bicubic()) is pairs

    degraded = pairs.restored_from(RealESRGAN())
    (lr, hr), (again, _) = (load(degraded[0]) for _ in range(2))
    bicubic, same = load(pairs[0])

    assert np.array_equal(lr, again)
    assert np.array_equal(hr, same)
    assert lr.shape == bicubic.shape
    assert np.abs(lr.astype(float) - bicubic).mean() > 2
    assert not np.array_equal(load(degraded[1])[0], lr)


def test_a_student_is_judged_on_what_it_learns(photos: Path, tmp_path: Path) -> None:
    """Files beside are taken as they are; the trial of a teacher stays on clean inputs."""
    evaluation = Evaluation(sets=(photos,))
    validation = Validation.open(evaluation, 2, torch.device("cpu"), degradation=RealESRGAN())
    (note,) = validation.notes()
    assert note.endswith("that no file holds are degraded by real-esrgan, always in the same way")
    pair = validation.sets[photos.name][0]
    assert np.array_equal(load(trial._clean(pair))[0], load(find_pairs(photos, scale=2)[0])[0])

    assert not Validation.open(evaluation, 2, torch.device("cpu")).notes()


def test_a_run_says_that_its_judging_inputs_are_degraded(photos: Path, tmp_path: Path) -> None:
    data = Data(train=photos, packs=tmp_path, degradation=RealESRGAN(), patch=8, batch=1, workers=0)
    experiment = Experiment(
        student=CompactConfig(scale=2, width=4, blocks=1),
        teacher=None,
        method=Scratch(),
        data=data,
        evaluation=Evaluation(sets=(photos,)),
    )

    training = assemble(experiment)

    assert training.validation.sets[photos.name][0].degradation == RealESRGAN()
    assert any("are degraded by real-esrgan" in note for note in training.notes)


def test_a_student_learns_to_restore_from_end_to_end(photos: Path, tmp_path: Path) -> None:
    teacher = CompactConfig(scale=1, width=6, blocks=1).build()
    weights.write(tmp_path / "teacher.safetensors", teacher)
    experiment = Experiment(
        student=CompactConfig(scale=1, width=4, blocks=1),
        teacher=File(weights=tmp_path / "teacher.safetensors"),
        method=DUKD(base=Scratch()),
        data=Data(
            train=photos, packs=tmp_path / "packs", degradation=JPEG, patch=16, batch=2, workers=0
        ),
        optimization=Optimization(steps=2),
        evaluation=Evaluation(sets=(photos,), every=2, teacher_images=0),
    )

    student = weights.read(train(experiment, tmp_path / "run"))

    assert student.scale == 1
    clean = replace(experiment, data=replace(experiment.data, degradation=Bicubic()))
    with pytest.raises(PairsError, match=NOTHING):
        train(clean, tmp_path / "other")
