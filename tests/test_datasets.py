from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dukd.data import PairsError
from dukd.data.datasets import (
    TEST_SETS,
    benchmark,
    bsd100,
    df2k,
    div2k,
    flickr2k,
    manga109,
    set5,
    set14,
    urban100,
)


def fill(folder: Path, names: Iterable[str], size: int = 8) -> None:
    """Write one tiny image under many names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(names)
    first = folder / f"{names[0]}.png"
    Image.fromarray(np.zeros((size, size, 3), np.uint8)).save(first)
    for name in names[1:]:
        (folder / f"{name}.png").hardlink_to(first)


def numbers(first: int, last: int, digits: int = 4, suffix: str = "") -> list[str]:
    return [f"{i:0{digits}d}{suffix}" for i in range(first, last + 1)]


@pytest.mark.parametrize("above", ["", "benchmark", "Set5/..", "eval"])
def test_a_test_set_is_found_in_several_places(tmp_path: Path, above: str) -> None:
    fill(tmp_path / above / "Set5" / "HR", "abcde")
    fill(tmp_path / above / "Set5" / "LR_bicubic" / "X2", [f"{name}x2" for name in "abcde"], 4)

    assert [pair.name for pair in set5(tmp_path, 2)] == list("abcde")
    assert set5(tmp_path / above / "Set5", 2).lr_source == "files"
    assert benchmark(tmp_path, "set5", 4).made == 5


@pytest.mark.parametrize("name", ["B100", "BSD100", "bsds100"])
def test_a_test_set_is_found_by_any_of_its_names(tmp_path: Path, name: str) -> None:
    fill(tmp_path / name / "GTmod12", numbers(1, 100))

    assert len(bsd100(tmp_path, 4)) == 100


def test_every_test_set_has_its_size(tmp_path: Path) -> None:
    for find, name, size in (
        (set14, "Set14", 14),
        (urban100, "Urban100", 100),
        (manga109, "Manga109", 109),
    ):
        fill(tmp_path / name / "HR", numbers(1, size))
        assert len(find(tmp_path, 3)) == size
    assert list(TEST_SETS) == ["Set5", "Set14", "BSD100", "Urban100", "Manga109"]


def test_real_test_sets_are_found(real_data: Path) -> None:
    assert [len(find(real_data, 4)) for find in (set5, set14, urban100)] == [5, 14, 100]


def test_a_test_set_that_is_absent_or_unknown_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        PairsError,
        match=r"no Urban100 below .*\n  Urban100/HR is not there\n  EDSR's benchmark package",
    ):
        urban100(tmp_path, 4)
    with pytest.raises(ValueError, match="no test set 'Set6'; there are Set5, Set14"):
        benchmark(tmp_path, "Set6", 4)


def test_a_test_set_that_is_not_complete_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "Set5" / "HR", "abcd")
    with pytest.raises(PairsError, match="it has 5 images, but 4 are there"):
        set5(tmp_path, 4)


@pytest.mark.parametrize("above", ["", "DIV2K", "datasets/DIV2K"])
def test_div2k_is_found_in_its_parts(tmp_path: Path, above: str) -> None:
    fill(tmp_path / above / "DIV2K_train_HR", numbers(1, 800))
    fill(tmp_path / above / "DIV2K_train_LR_bicubic" / "X4", numbers(1, 800, suffix="x4"), 2)
    fill(tmp_path / above / "DIV2K_valid_HR" / "DIV2K_valid_HR", numbers(801, 900))
    train, valid = div2k(tmp_path, 4), div2k(tmp_path, 4, "valid")

    assert (len(train), train[0].name, train[-1].name, train.lr_source) == (
        800,
        "0001",
        "0800",
        "files",
    )
    assert (len(valid), valid[0].name, valid.made) == (100, "0801", 100)


def test_parts_of_div2k_in_one_folder_are_told_apart(tmp_path: Path) -> None:
    fill(tmp_path / "DIV2K" / "DIV2K_train_HR", numbers(1, 900))

    assert div2k(tmp_path, 4)[-1].name == "0800"
    assert div2k(tmp_path, 4, "valid")[0].name == "0801"


def test_missing_images_of_div2k_are_named(tmp_path: Path) -> None:
    fill(
        tmp_path / "DIV2K_train_HR",
        [name for name in numbers(1, 800) if name not in ("0017", "0513")],
    )

    with pytest.raises(
        PairsError, match="it has 800 images, but 798 are there; 0017, 0513 missing"
    ):
        div2k(tmp_path, 2)
    with pytest.raises(
        PairsError, match=r"no DIV2K, part valid below .*\n.*\n  unpack DIV2K_valid_HR and"
    ):
        div2k(tmp_path, 2, "valid")


def test_df2k_is_one_folder_or_two(tmp_path: Path) -> None:
    fill(tmp_path / "two" / "DIV2K" / "DIV2K_train_HR", numbers(1, 800))
    with pytest.raises(PairsError, match="no Flickr2K below"):
        df2k(tmp_path / "two", 4)
    fill(tmp_path / "two" / "Flickr2K" / "Flickr2K_HR", numbers(1, 2650, 6))
    fill(tmp_path / "one" / "DF2K" / "DF2K_train_HR", numbers(1, 3450))

    assert len(flickr2k(tmp_path / "two", 4)) == 2650
    assert len(df2k(tmp_path / "two", 4)) == len(df2k(tmp_path / "one", 4)) == 3450
