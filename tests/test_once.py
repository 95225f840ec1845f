"""What is named twice, by any spelling or link, is done once, and that is said."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from dukd.cli.program import run
from dukd.core.once import entry, once, place, said_of
from dukd.deploy.upscale import Upscaled, UpscaleOptions, upscale
from dukd.evaluation.candidates import open_all
from dukd.evaluation.evaluate import evaluate
from dukd.networks import EDSRConfig
from dukd.networks.files import weights


def _image(path: Path, seed: int = 0, size: int = 24) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    PillowImage.fromarray(levels).save(path)
    return path


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder one is in, with a student under three names and images under many."""
    for number, name in enumerate("abc"):
        _image(tmp_path / "photos" / f"{name}.png", number)
    _image(tmp_path / "x.png", 3)
    (tmp_path / "link").symlink_to("photos")
    weights.write(tmp_path / "student.safetensors", EDSRConfig(scale=2, width=4, blocks=1).build())
    (tmp_path / "linked.safetensors").symlink_to("student.safetensors")
    (tmp_path / "hard.safetensors").hardlink_to(tmp_path / "student.safetensors")
    shutil.copy(tmp_path / "student.safetensors", tmp_path / "copy.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_place_has_one_key(world: Path) -> None:
    names = ["x.png", "./photos/../x.png", str(world / "x.png")]
    assert len({place(Path(name)) for name in names}) == 1
    assert place(Path("link")) == place(Path("photos")) != place(Path("x.png"))
    assert place(Path("none")) == place(world / "none") != place(Path("nothing"))
    assert entry(Path("link/a.png")) == entry(Path("photos/a.png")) != entry(Path("photos/b.png"))

    kept, repeated = once(map(Path, ["x.png", "photos", "link", "none", "none"]))

    assert kept == [Path("x.png"), Path("photos"), Path("none")]
    assert repeated == [(Path("link"), Path("photos")), (Path("none"), Path("none"))]
    assert said_of(repeated, "read") == "link is photos; none comes twice, and each is read once"
    assert said_of([(Path(f"{n}"), Path("x")) for n in range(9)], "read") == (
        "0 is x; 1 is x; 2 is x; 3 is x; 4 is x; 4 more were named before, and each is read once"
    )
    assert not said_of([], "read")


def _upscaled(out: str, *inputs: str, recursive: bool = False) -> tuple[Upscaled, list[str]]:
    network = EDSRConfig(scale=2, width=4, blocks=1).build()
    found = upscale(network, inputs, out, UpscaleOptions(recursive=recursive, exact=True))
    files = sorted(str(path.relative_to(out)) for path in Path(out).rglob("*.png"))
    return found, files


@pytest.mark.parametrize(
    ("inputs", "recursive", "files", "repeats"),
    [
        ("photos photos", False, "a b c", 1),
        ("photos link", False, "a b c", 1),
        ("link ./photos/../photos photos", False, "a b c", 2),
        ("x.png ./x.png photos/../x.png", False, "x", 2),
        ("photos link/a.png photos/b.png", False, "a b c", 2),
        ("link/a.png photos", False, "a b c", 1),
        ("x.png photos", False, "a b c x", 0),
    ],
)
def test_an_image_reached_twice_is_enlarged_once(
    world: Path, inputs: str, recursive: bool, files: str, repeats: int
) -> None:
    found, written = _upscaled("out", *inputs.split(), recursive=recursive)

    assert written == [f"{name}_x2.png" for name in files.split()]
    assert len(found.done) == len(written)
    assert len(found.repeated) == repeats


def test_a_folder_inside_another_is_done_once(world: Path) -> None:
    """In the place that the first of both gives it."""
    found, written = _upscaled("out", ".", "photos", recursive=True)

    assert written == ["photos/a_x2.png", "photos/b_x2.png", "photos/c_x2.png", "x_x2.png"]
    assert len(found.repeated) == 3


def test_links_to_files_are_images_of_their_own(world: Path) -> None:
    """A data set may hold one file under two names, each of which has a result."""
    (world / "photos" / "d.png").symlink_to("a.png")
    (world / "photos" / "e.png").hardlink_to(world / "photos" / "a.png")

    found, written = _upscaled("out", "photos")

    assert written == [f"{name}_x2.png" for name in "abcde"]
    assert not found.repeated


def test_upscale_says_what_came_twice(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "upscale photos link x.png ./x.png -o out -m student.safetensors"

    assert run(line.split()) == 0
    said = capsys.readouterr()
    assert "link is photos; x.png comes twice, and each is enlarged once" in said.err
    assert len(said.out.splitlines()) == 4


def test_a_model_named_twice_is_measured_once(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = "student.safetensors ./student.safetensors linked.safetensors hard.safetensors"

    assert run([*f"evaluate {models} copy.safetensors --sets photos -o t.md".split()]) == 0
    said = capsys.readouterr().out
    rows = [line.split()[0] for line in said.splitlines()[1:4]]

    assert rows == ["bicubic", "student", "copy"]  # a copy is another file
    for sentence in (
        "student.safetensors comes twice, and is measured once",
        "linked.safetensors is student.safetensors, and is measured once",
        "hard.safetensors is student.safetensors, and is measured once",
    ):
        assert said.count(sentence) == 1
        assert sentence in (world / "t.md").read_text()


def test_sets_and_teachers_named_twice_are_said(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "evaluate student.safetensors --sets photos link ./photos --images 1"

    assert run([*line.split(), "--teacher", "linked.safetensors"]) == 0
    said = capsys.readouterr().out

    assert "link is photos; photos comes twice, and each is measured once" in said
    assert "student.safetensors is the teacher too, and has a row as either" in said
    assert said.splitlines()[0].count("PSNR-Y") == 1
    line = "evaluate student.safetensors --sets photos --inputs photos"
    assert run(line.split()) == 2
    assert "photos is called photos as one of --sets is" in capsys.readouterr().err


def test_python_has_the_note_in_its_table(world: Path) -> None:
    table = evaluate(["student.safetensors", world / "linked.safetensors"], {"p": "photos"})

    assert [row.label for row in table.rows] == ["student"]
    assert table.notes[0].endswith(
        "linked.safetensors is student.safetensors, and is measured once"
    )


def test_a_run_is_measured_instead_of_its_file(tmp_path: Path) -> None:
    """Whichever is named first: a run keeps its figures, a file does not."""
    made = tmp_path / "mine"
    made.mkdir()
    (made / "experiment.yaml").write_text("")
    weights.write(made / "student.safetensors", EDSRConfig(scale=2, width=4, blocks=1).build())
    notes: list[str] = []

    for names in (made, made / "student.safetensors"), (made / "student.safetensors", made):
        found, problems = open_all(names, say=notes.append)
        assert not problems
        assert [c.run for c in found] == [made]
    assert len(notes) == 2


def test_code_named_twice_is_measured_once(world: Path) -> None:
    (world / "net.py").write_text(
        "from dukd.networks import EDSRConfig\n"
        "def make():\n    return EDSRConfig(scale=2, width=4, blocks=1).build()\n"
    )
    notes: list[str] = []

    found, _ = open_all(["net.py:make", "net.py:make"], say=notes.append)

    assert len(found) == 1
    assert notes == ["net.py:make comes twice, and is measured once"]


def test_a_figure_shows_each_once(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "figure student.safetensors linked.safetensors --images photos link/a.png --size 8"

    assert run([*line.split(), "-o", "f.png"]) == 0
    said = capsys.readouterr().err
    assert "linked.safetensors is student.safetensors, and is shown once" in said
    assert "link/a.png is photos/a.png, and is shown once" in said
    assert run([*line.split(), "-o", "f.png", "--labels", "one", "two"]) == 2
    assert "leave it and its label out" in capsys.readouterr().err


def test_bicubic_by_its_name_is_measured_without_a_model(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", "bicubic", "bicubic", "--sets", "photos", "-s", "2"]) == 0
    assert capsys.readouterr().out.count("\nbicubic ") == 1
