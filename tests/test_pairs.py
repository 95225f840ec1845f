import os
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dukd.data import Pairs, PairsError, find_pairs, join, load
from dukd.data.pairs import check_readable
from dukd.images.resize import imresize_uint8

HR_SIZE = (25, 17)  # width and height; at scale 4: 6 x 4


def write(path: Path, size: tuple[int, int] = HR_SIZE, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def problems(find: Callable[[], Pairs]) -> tuple[str, ...]:
    with pytest.raises(PairsError) as caught:
        find()
    return caught.value.problems


LAYOUTS = {
    "DIV2K": ("DIV2K_train_HR/{}.png", "DIV2K_train_LR_bicubic/X4/{}x4.png"),
    "DIV2K-valid": ("DIV2K_valid_HR/{}.png", "DIV2K_valid_LR_bicubic/X4/{}x4.png"),
    "DIV2K-by-scale": (
        "DIV2K_train_HR/{}.png",
        "DIV2K_train_LR_bicubic_X4/DIV2K_train_LR_bicubic/X4/{}x4.png",
    ),
    "Flickr2K": ("Flickr2K_HR/{}.png", "Flickr2K_LR_bicubic/X4/{}x4.png"),
    "sub-images": ("DIV2K_train_HR_sub/{}_s001.png", "DIV2K_train_LR_bicubic/X4_sub/{}_s001.png"),
    "benchmark": ("HR/{}.png", "LR_bicubic/X4/{}x4.png"),
    "small letters": ("hr/{}.png", "lr_bicubic/x4/{}x4.png"),
    "BasicSR": ("GTmod12/{}.png", "LRbicx4/{}.png"),
    "BasicSR-suffix": ("GTmod12/{}.png", "LRbicx4/{}x4.png"),
    "parallel": ("HR/{}.png", "LR/{}.png"),
    "other extension": ("HR/{}.webp", "LR/X4/{}_x4.bmp"),
    "SRF": ("image_SRF_4/{}_SRF_4_HR.png", "image_SRF_4/{}_SRF_4_LR.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_the_field_are_found(tmp_path: Path, layout: str) -> None:
    hr, lr = LAYOUTS[layout]
    for name in ("b2", "b10", "a"):
        write(tmp_path / hr.format(name))
        write(tmp_path / lr.format(name), (6, 4))
    pairs = find_pairs(tmp_path, scale=4)

    assert [pair.hr.name for pair in pairs] == [
        Path(hr.format(name)).name for name in ("a", "b2", "b10")
    ]
    assert [pair.lr and pair.lr.name for pair in pairs] == [
        Path(lr.format(n)).name for n in ("a", "b2", "b10")
    ]
    assert (pairs[0].width, pairs[0].height, pairs.scale, pairs.lr_source) == (6, 4, 4, "files")


@pytest.mark.parametrize(
    ("high", "low"),
    [("_HR", "_LR"), ("_hr", "_lr"), ("_HR", "_LR4"), ("-gt", "-lq"), (".High", ".Low")],
)
def test_pairs_in_one_folder_are_never_both_truth(tmp_path: Path, high: str, low: str) -> None:
    """RealSR's own layout, ``a_HR.png`` beside ``a_LR4.png``, and what people make of it."""
    for name in ("a", "b"):
        write(tmp_path / f"{name}{high}.png")
        write(tmp_path / f"{name}{low}.png", (6, 4))

    pairs = find_pairs(tmp_path, scale=4)

    assert [pair.name for pair in pairs] == ["a", "b"]
    first = pairs[0]
    assert (first.hr.name, first.lr and first.lr.name) == (f"a{high}.png", f"a{low}.png")
    write(tmp_path / f"c{high}.png")
    write(tmp_path / "d.png")
    found = problems(lambda: find_pairs(tmp_path, scale=4))
    assert any(problem.startswith(f"c{high}.png has no partner") for problem in found)
    assert any(problem.startswith("d.png is called neither") for problem in found)


@pytest.mark.parametrize("folder", ["HR", "myGT", "trainHR"])
def test_pairs_in_a_folder_that_is_called_as_truths_are(tmp_path: Path, folder: str) -> None:
    """The folder's name alone decided, and the small images were trained on as truths."""
    for name in ("a", "b"):
        write(tmp_path / folder / f"{name}_hr.png")
        write(tmp_path / folder / f"{name}_lr.png", (6, 4))

    pairs = find_pairs(tmp_path / folder, scale=4)

    assert [pair.name for pair in pairs] == ["a", "b"]
    assert [pair.lr and pair.lr.name for pair in pairs] == ["a_lr.png", "b_lr.png"]


@pytest.mark.parametrize(
    ("high", "low"), [("_big", "_small"), ("_x1", "_x2"), ("-1", "-0"), ("_hr", "_lr4")]
)
def test_versions_of_one_image_are_refused_whatever_they_are_called(
    tmp_path: Path, high: str, low: str
) -> None:
    """Two different images of such sizes and names are two images."""
    levels = np.random.default_rng(0).integers(0, 256, (4, 8, 12, 3)).astype(np.uint8)
    for number, name in enumerate(("a", "b")):
        large = levels[number].repeat(3, 0).repeat(3, 1)
        Image.fromarray(large).save(tmp_path / f"{name}{high}.png")
        Image.fromarray(levels[number + 2]).save(tmp_path / f"{name}{low}.png")
    assert len(find_pairs(tmp_path, scale=2)) == 4
    Image.fromarray(levels[1]).save(tmp_path / f"b{low}.png")

    (problem,) = problems(lambda: find_pairs(tmp_path, scale=2))

    assert problem.startswith(f"b{low}.png is b{high}.png made 3 times smaller: call such images")


def test_a_smaller_copy_beside_an_image_is_refused(tmp_path: Path) -> None:
    for name, wh in (("a", (24, 16)), ("ax4", (6, 4)), ("b", (24, 16)), ("b_x2", (24, 16))):
        write(tmp_path / f"{name}.png", wh)

    (problem,) = problems(lambda: find_pairs(tmp_path, scale=4))

    assert problem.startswith("ax4.png is a.png made 4 times smaller: move such images")


def test_everything_wrong_is_listed_at_once_or_left_out(tmp_path: Path) -> None:
    """Frames and empty files stand in headers; what is torn is found by reading."""
    write(tmp_path / "a.png")
    still = Image.new("RGB", (24, 16))
    still.save(tmp_path / "b.gif", save_all=True, append_images=[Image.new("RGB", (24, 16), "red")])
    still.save(
        tmp_path / "c.webp", save_all=True, append_images=[Image.new("RGB", (24, 16), "red")]
    )
    write(tmp_path / "d.png")
    torn = (tmp_path / "d.png").read_bytes()
    (tmp_path / "d.png").write_bytes(torn[: len(torn) // 2 + 20])
    (tmp_path / "e.png").write_bytes(b"")
    (tmp_path / "f.heif").mkdir()
    (tmp_path / "g.jp2").write_bytes(b"")

    refused = problems(lambda: find_pairs(tmp_path, scale=2))
    pairs = find_pairs(tmp_path, scale=2, skip_bad=True)
    listed = problems(lambda: check_readable(pairs))

    assert [Path(problem.split(":")[0]).name for problem in refused] == ["b.gif", "c.webp", "e.png"]
    assert [pair.name for pair in pairs] == ["a", "d"]
    assert pairs.left_out == refused
    assert [Path(problem.split(":")[0]).name for problem in listed[:4]] == [
        "b.gif",
        "c.webp",
        "e.png",
        "d.png",
    ]
    assert "check-data" in listed[4]
    assert pairs.note == "passed over: 1 JPEG 2000, 1 folder (--recursive enters it)"
    check_readable(find_pairs(tmp_path / "a.png", scale=2))


@pytest.mark.parametrize("layout", ["DIV2K", "benchmark", "BasicSR", "SRF"])
def test_the_folder_of_high_resolution_images_may_be_named_itself(
    tmp_path: Path, layout: str
) -> None:
    hr, lr = (tmp_path / part.format("a") for part in LAYOUTS[layout])
    write(hr)
    write(lr, (6, 4))

    assert find_pairs(hr.parent, scale=4)[0].lr == lr


def test_two_folders_are_matched_by_name(tmp_path: Path) -> None:
    for name, lr in (("a", "a"), ("b", "bx4"), ("c", "c_x4")):
        write(tmp_path / "sharp" / f"{name}.png")
        write(tmp_path / "small" / f"{lr}.png", (6, 4))
    pairs = find_pairs(tmp_path / "sharp", scale=4, lr=tmp_path / "small")

    assert [pair.lr and pair.lr.stem for pair in pairs] == ["a", "bx4", "c_x4"]


def test_a_folder_of_folders_by_scale_may_be_given_for_lr(tmp_path: Path) -> None:
    write(tmp_path / "sharp" / "a.png")
    write(tmp_path / "unknown" / "X4" / "a.png", (6, 4))

    assert find_pairs(tmp_path / "sharp", scale=4, lr=tmp_path / "unknown")[0].lr is not None


def test_lr_is_made_where_there_are_no_files(tmp_path: Path) -> None:
    """HR is cropped at the bottom and right, then reduced as MATLAB does it on 8 bits."""
    path = write(tmp_path / "a.png")
    pairs = find_pairs(tmp_path, scale=4)
    lr, hr = load(pairs[0])
    whole = np.asarray(Image.open(path))

    assert (pairs.made, pairs.lr_source) == (1, "bicubic, MATLAB's uint8 path")
    assert np.array_equal(hr, whole[:16, :24])
    assert np.array_equal(lr, imresize_uint8(whole[:16, :24], 1 / 4))


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["Set5", "Set14"])
def test_made_images_are_the_genuine_ones_bit_for_bit(
    real_data: Path, name: str, scale: int
) -> None:
    genuine = find_pairs(real_data / "eval" / name, scale=scale)
    made = find_pairs(real_data / "eval" / name, scale=scale, lr_from_hr=True)

    assert (genuine.made, made.made) == (0, len(genuine))
    for ours, theirs in zip(made, genuine, strict=True):
        assert np.array_equal(load(ours)[0], load(theirs)[0]), ours.name


def test_lr_can_be_made_in_spite_of_files_and_insisted_on(tmp_path: Path) -> None:
    write(tmp_path / "HR" / "a.png")
    assert find_pairs(tmp_path, scale=4)[0].lr is None
    assert problems(lambda: find_pairs(tmp_path, scale=4, lr_from_hr=False)) == (
        "low-resolution images for x4 are in none of the usual places, such as LR_bicubic/X4",
    )
    write(tmp_path / "LR_bicubic" / "X4" / "ax4.png", (6, 4))
    assert find_pairs(tmp_path, scale=4, lr_from_hr=False)[0].lr is not None
    assert find_pairs(tmp_path, scale=4, lr_from_hr=True)[0].lr is None


def test_one_image_is_a_set(tmp_path: Path) -> None:
    hr, lr = write(tmp_path / "a.png"), write(tmp_path / "tiny.png", (6, 4))

    assert [pair.name for pair in find_pairs(hr, scale=4)] == ["a"]
    assert find_pairs(hr, scale=4, lr=lr)[0].lr == lr
    assert "is not a file" in problems(lambda: find_pairs(hr, scale=4, lr=tmp_path))[0]
    assert "name it as lr" in problems(lambda: find_pairs(hr, scale=4, lr_from_hr=False))[0]


def test_the_cut_for_the_scale_is_preferred(tmp_path: Path) -> None:
    for folder in ("GTmod2", "GTmod3", "GTmod12", "original"):
        write(tmp_path / folder / "a.png")

    assert find_pairs(tmp_path, scale=4).folder.name == "GTmod12"
    (tmp_path / "GTmod12" / "a.png").unlink()
    (tmp_path / "GTmod12").rmdir()
    assert find_pairs(tmp_path, scale=2).folder.name == "GTmod2"
    assert find_pairs(tmp_path, scale=4).folder.name == "original"


def test_every_missing_partner_is_named(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path / "HR" / f"{name}.png")
    for name in ("a", "c", "d"):
        write(tmp_path / "LR" / f"{name}x4.png", (6, 4))

    assert problems(lambda: find_pairs(tmp_path, scale=4)) == (
        f"b.png has no partner in {tmp_path}/LR: bx4.png or b.png is missing",
        f"dx4.png has no partner in {tmp_path}/HR: no high-resolution image of that name",
    )


def test_sizes_that_contradict_the_scale_are_named_with_the_expected_one(tmp_path: Path) -> None:
    for name, size in (("a", (6, 4)), ("b", (7, 5)), ("c", (6, 3))):
        write(tmp_path / "HR" / f"{name}.png")
        write(tmp_path / "LR" / f"{name}.png", size)

    assert problems(lambda: find_pairs(tmp_path, scale=4)) == (
        "b.png is 7x5, but b.png is 25x17, so 6x4 is expected at scale 4",
        "c.png is 6x3, but c.png is 25x17, so 6x4 is expected at scale 4",
    )


def test_a_wrong_scale_is_recognized(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / "HR" / f"{name}.png")
        write(tmp_path / "LR" / f"{name}.png", (12, 8))

    assert problems(lambda: find_pairs(tmp_path, scale=4))[0] == "every pair fits scale 2, not 4"


def test_a_image_below_one_pixel_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.png", (3, 50))

    assert problems(lambda: find_pairs(tmp_path, scale=4)) == (
        "a.png is 3x50, smaller than one pixel of scale 4",
    )


def test_equal_names_are_refused(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "b.png"):
        write(tmp_path / name)

    assert problems(lambda: find_pairs(tmp_path, scale=4)) == (
        f"a.jpg and a.png in {tmp_path} have the same name (a): keep one of them",
    )


def test_unreadable_files_are_named_among_all_other_problems(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    (tmp_path / "c.png").write_text("<html>404</html>")
    write(tmp_path / "d.png", (2, 2))
    found = problems(lambda: find_pairs(tmp_path, scale=4))

    assert [
        name for name in ("a.png", "b.png", "c.png", "d.png") if any(name in p for p in found)
    ] == [
        "b.png",
        "c.png",
        "d.png",
    ]


def test_twenty_problems_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    for i in range(25):
        write(tmp_path / f"{i}.png", (2, 2))
    with pytest.raises(PairsError) as caught:
        find_pairs(tmp_path, scale=4)
    lines = str(caught.value).splitlines()

    assert lines[0] == f"25 problems with the pairs in {tmp_path} at scale 4:"
    assert lines[1].strip() == "0.png is 2x2, smaller than one pixel of scale 4"
    assert lines[21:] == ["  and 5 more"]


def test_a_folder_without_images_suggests_where_they_are(tmp_path: Path) -> None:
    write(tmp_path / "x" / "Set5" / "HR" / "a.png")
    write(tmp_path / "x" / "Set5" / "A" / "a.png")

    assert problems(lambda: find_pairs(tmp_path, scale=4)) == (
        f"it holds no images: did you mean {tmp_path}/x/Set5/HR?",
    )


@pytest.mark.parametrize("empty", ["HR", "."])
def test_an_empty_folder_says_so(tmp_path: Path, empty: str) -> None:
    (tmp_path / empty).mkdir(exist_ok=True)

    assert problems(lambda: find_pairs(tmp_path, scale=4)) == ("it holds no images",)


def test_an_image_that_does_not_exist_is_called_a_file(tmp_path: Path) -> None:
    (tmp_path / "HR").mkdir()
    write(tmp_path / "HR" / "comic.png")
    write(tmp_path / "baboon.png")

    assert problems(lambda: find_pairs(tmp_path / "comic.png", scale=4)) == (
        f"there is no such file: did you mean {tmp_path}/HR/comic.png?",
    )
    assert problems(lambda: find_pairs(tmp_path / "babon.png", scale=4)) == (
        f"there is no such file: did you mean {tmp_path}/baboon.png?",
    )
    assert problems(lambda: find_pairs(tmp_path / "zebra.png", scale=4)) == (
        "there is no such file",
    )


def test_a_folder_that_does_not_exist_suggests_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "DIV2K").mkdir()

    assert problems(lambda: find_pairs(tmp_path / "div2", scale=4)) == (
        f"there is no such folder: did you mean {tmp_path}/DIV2K?",
    )
    assert problems(lambda: find_pairs(tmp_path / "no" / "div2", scale=4)) == (
        f"there is no such folder, nor is there {tmp_path}/no",
    )
    write(tmp_path / "a.png")
    assert problems(lambda: find_pairs(tmp_path, scale=4, lr=tmp_path / "DIV2")) == (
        f"there is no such folder: did you mean {tmp_path}/DIV2K?",
    )
    assert problems(lambda: find_pairs(tmp_path, scale=4, lr=tmp_path / "DIV2K")) == (
        f"{tmp_path}/DIV2K holds no images",
    )


def test_a_choice_between_sets_is_left_to_the_caller(tmp_path: Path) -> None:
    write(tmp_path / "DIV2K_train_HR" / "a.png")
    write(tmp_path / "DIV2K_valid_HR" / "b.png")
    assert problems(lambda: find_pairs(tmp_path, scale=4)) == (
        f"name the one you mean: {tmp_path}/DIV2K_train_HR, {tmp_path}/DIV2K_valid_HR",
    )

    write(tmp_path / "one" / "HR" / "a.png")
    write(tmp_path / "one" / "b.png")
    assert problems(lambda: find_pairs(tmp_path / "one", scale=4)) == (
        f"name {tmp_path}/one/HR, or move the images beside it into a folder of their own",
    )


@pytest.mark.parametrize("scale", [0, -2])
def test_a_scale_is_positive(tmp_path: Path, scale: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1, but got {scale}"):
        find_pairs(tmp_path, scale=scale)


def test_lr_comes_from_one_place(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leave out lr or lr_from_hr"):
        find_pairs(tmp_path, scale=2, lr=tmp_path, lr_from_hr=True)


def test_hidden_files_and_other_files_are_no_images(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    (tmp_path / "._a.png").write_bytes(b"resource fork")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "folder.png").mkdir()

    assert [pair.name for pair in find_pairs(tmp_path, scale=4)] == ["a"]


def test_folders_below_are_searched_on_request_and_loops_end(tmp_path: Path) -> None:
    write(tmp_path / "set" / "0001" / "a.png")
    write(tmp_path / "set" / "0002" / "a.png")
    (tmp_path / "set" / "0002" / "loop").symlink_to(tmp_path / "set")

    assert [p.name for p in find_pairs(tmp_path / "set", scale=4, recursive=True)] == [
        "0001/a",
        "0002/a",
    ]
    assert problems(lambda: find_pairs(tmp_path / "set", scale=4)) == (
        f"it holds no images, but folders below it do (0001, 0002): dukd prepare {tmp_path}/set "
        "--recursive packs them all, and training takes the pack",
    )


def test_a_link_to_itself_is_an_unreadable_image(tmp_path: Path) -> None:
    write(tmp_path / "b.png")
    (tmp_path / "a.png").symlink_to(tmp_path / "a.png")
    (found,) = problems(lambda: find_pairs(tmp_path, scale=4))

    assert "a.png" in found


@pytest.mark.skipif(
    sys.platform != "linux", reason="other systems choose the encoding of names themselves"
)
def test_odd_names_work(tmp_path: Path) -> None:
    """The same letters, composed on one side and decomposed on the other, belong together."""
    composed, decomposed = (unicodedata.normalize(form, "schön") for form in ("NFC", "NFD"))
    names = [
        "with space",
        "-rf",
        "日本",
        "line\nbreak",
        os.fsdecode(b"caf\xe9"),
        "x" * 240,
        "a.b",
        "imagex4",
    ]
    for hr, lr in [(composed, decomposed), *((name, name) for name in names)]:
        write(tmp_path / "HR" / f"{hr}.png")
        write(tmp_path / "LR" / f"{lr}.png", (6, 4))

    assert {pair.name for pair in find_pairs(tmp_path, scale=4)} == {composed, *names}
    write(tmp_path / "HR" / os.fsdecode(b"\xff.png"))
    with pytest.raises(PairsError) as caught:
        find_pairs(tmp_path, scale=4)
    assert "\\udcff.png has no partner" in str(caught.value).encode().decode()


def test_images_are_paired_upright(tmp_path: Path) -> None:
    """A photograph that lies on its side by its EXIF tag counts as it is displayed: 17 x 25."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", HR_SIZE).save(tmp_path / "a.jpg", exif=exif)
    pair = find_pairs(tmp_path, scale=4)[0]

    assert (pair.width, pair.height) == (4, 6)
    assert load(pair)[1].shape == (24, 16, 3)


def test_gray_images_become_rgb(tmp_path: Path) -> None:
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "a.png")
    _, hr = load(find_pairs(tmp_path, scale=2)[0])

    assert np.array_equal(hr, np.arange(64).reshape(8, 8, 1).repeat(3, 2))


def test_a_file_that_changed_its_size_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "HR" / "a.png")
    lr = write(tmp_path / "LR" / "a.png", (6, 4))
    pair = find_pairs(tmp_path, scale=4)[0]
    write(lr, (5, 4))

    with pytest.raises(PairsError, match="lr is 5x4, and 6x4 times 4 was expected"):
        load(pair)


def test_sets_are_joined_in_order(tmp_path: Path) -> None:
    write(tmp_path / "one" / "a.png")
    write(tmp_path / "two" / "b.png")
    one, two = (find_pairs(tmp_path / folder, scale=4) for folder in ("one", "two"))

    assert [pair.name for pair in join(two, one)] == ["b", "a"]
    assert [pair.name for pair in join(one, one)] == ["1/a", "2/a"]
    assert join(one, two).folder == tmp_path
    with pytest.raises(ValueError, match=r"got the scales \[2, 4\]"):
        join(one, find_pairs(tmp_path / "two", scale=2))
