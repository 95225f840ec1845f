"""What the command line promises: commands work, and a mistake gets a sentence and a code."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from dukd import images
from dukd.cli import COMMANDS, commands, run, terminal
from dukd.cli.terminal import Bar
from dukd.cli.train import Train, parse
from dukd.core.registry import known
from dukd.core.schema import field_texts
from dukd.core.text import amount, duration
from dukd.data.packing import prepare
from dukd.data.pairs import find_pairs
from dukd.images import Image
from dukd.methods import Method, ZoomIn
from dukd.networks import EDSRConfig, PlainConfig, RCANConfig, SMFANetConfig
from dukd.networks.files import weights
from dukd.training.loop import Interrupted

TEACHER = EDSRConfig(scale=2, width=8, blocks=1, value_range=1.0)
YAML = """
student: {{type: edsr, scale: 2, width: 8, blocks: 1, value_range: 1.0, skip: nearest}}
teacher: {{weights: {root}/teacher.safetensors}}
method: {{type: dukd}}
data: {{train: {root}/images, packs: {root}/packs, patch: 12, batch: 2}}
optimization: {{steps: 20, learning_rate: 1e-3}}
evaluation:
  {{sets: [{root}/images], every: 10, log_every: 5, images: 2, teacher_images: 0, samples: 1}}
"""


@dataclass
class World:
    """A folder with images, a teacher and an experiment, and the commands run in it."""

    root: Path
    capsys: pytest.CaptureFixture[str]

    def dukd(self, line: str) -> tuple[int, str, str]:
        """Run a command (``{root}`` is the folder); its code, and what it said on both streams."""
        words = [word.replace("{root}", str(self.root)) for word in line.split()]
        code = run(["" if word == "{empty}" else word for word in words])
        said = self.capsys.readouterr()
        return code, said.out, said.err

    def works(self, line: str) -> str:
        code, said, complained = self.dukd(line)
        assert code == 0, complained
        return said

    def fails(self, line: str) -> tuple[int, str]:
        """The code and the one complaint, without a traceback; a list may follow its sentence."""
        code, said, complained = self.dukd(line)
        assert code, f"{line} worked: {said}"
        assert "Traceback" not in complained + said
        assert "should not have happened" not in complained
        _, *complaints = ("\n" + complained).split("\ndukd: ")
        assert len(complaints) == 1, complained
        return code, complaints[0].rstrip("\n").replace(str(self.root), "{root}")


def _image(path: Path, number: int, size: int = 96) -> None:
    """A gradient with noise and a few edges."""
    rng = np.random.default_rng(number)
    x, y = np.meshgrid(np.linspace(0, 200, size), np.linspace(0, 150 + 20 * number, size))
    levels = (
        np.stack([x, y, 255 - x], axis=2)
        + 40 * ((x + y) % 60 > 30)[..., None]
        + rng.normal(0, 6, (size, size, 3))
    )
    images.write(path, Image(pixels=levels.clip(0, 255).astype(np.uint8)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    for number in range(3):
        _image(root / "images" / f"{number}.png", number)
        _image(root / "small" / f"{number}.png", number, size=20)
    torch.manual_seed(0)
    weights.write(root / "teacher.safetensors", TEACHER.build())
    (root / "mine.yaml").write_text(YAML.format(root=root))
    (root / "empty").mkdir()
    (root / "notes.txt").write_text("no weights")
    return root


@pytest.fixture
def world(folder: Path, capsys: pytest.CaptureFixture[str]) -> World:
    return World(folder, capsys)


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """A run that was evaluated."""
    out = folder / "runs" / "dukd"
    assert run(["train", str(folder / "mine.yaml"), "--out", str(out), "--device", "cpu"]) == 0
    options = ["--teacher", str(folder / "teacher.safetensors"), "--sets", str(folder / "images")]
    assert run(["evaluate", str(out), *options, "--images", "2"]) == 0
    return out


# What the commands do


def test_a_folder_becomes_a_student_and_the_student_images(world, tmp_path):
    root, out = world.root, tmp_path / "run"

    assert "3 images" in world.works(f"check-data {root}/images -s 2")
    world.works(f"prepare {root}/images --scale 2 --out {tmp_path}/p.pack --verify")
    assert f"{tmp_path}/p.pack is sound: 3 images, x2" in world.works(
        f"check-data {tmp_path}/p.pack"
    )
    assert "only the header was read" in world.works(
        f"check-data {tmp_path}/p.pack -s 2 --headers-only"
    )

    code, _, bars = world.dukd(
        f"train {root}/mine.yaml --out {tmp_path}/other --data.packs {tmp_path}/packs --device cpu"
    )
    assert code == 0
    assert "3/3  packing images: 2" in bars
    said = world.works(
        f"train {root}/mine.yaml --data.train {tmp_path}/p.pack --out {out} --device cpu"
    )
    assert f"the student is {out}/student.safetensors" in said
    first = (out / "student.safetensors").read_bytes()
    world.works(f"train {out} --resume --device cpu")
    assert (out / "student.safetensors").read_bytes() == first

    shown = world.works(f"info {out}")
    assert "finished" in shown
    assert "20 of 20, saved at 20" in shown
    table = world.works(
        f"evaluate {out} --teacher {root}/teacher.safetensors --sets {root}/images --images 2"
    )
    assert "images PSNR-Y" in table
    assert [line.split()[0] for line in table.splitlines()[1:4]] == ["bicubic", "teacher", "run"]

    world.works(f"report {out} -o {tmp_path}/page.html")
    assert "<!doctype html>" in (tmp_path / "page.html").read_text()
    assert "| dukd |" in world.works(f"compare {out}")
    for form in ("md", "csv", "json", "html"):
        world.works(f"compare {out} -o {tmp_path}/table.{form}")
        assert (tmp_path / f"table.{form}").stat().st_size > 100

    world.works(f"upscale {root}/small -o {tmp_path}/large -m {out}")
    assert images.header(tmp_path / "large" / "0_x2.png").width == 40


def test_info_says_what_code_makes(world: World, tmp_path: Path) -> None:
    """As `dukd train --teacher file.py:make` takes it: twelve filters of 27 numbers at x2."""
    code = tmp_path / "mine.py"
    code.write_text(
        "from torch import nn\n"
        "def make(scale=2):\n"
        "    n = 3 * scale**2\n"
        "    return nn.Sequential(nn.Conv2d(3, n, 3, padding=1), nn.PixelShuffle(scale))\n"
        "def enlarge():\n"
        "    return lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3)\n"
    )

    said = world.works(f"info {code}:make")
    assert "Sequential x2" in said
    assert f"{12 * 27 + 12}" in said
    assert "0.1 G for 640 x 360 to 1280 x 720" in said  # 640 * 360 * 12 * 27
    assert "Sequential x3" in world.works(f"info {code}:make -s 3")
    assert "not counted: it is not a module" in world.works(f"info {code}:enlarge")


def test_export_says_how_far_the_file_is_from_the_student(world, trained, tmp_path):
    pytest.importorskip("onnxruntime")

    said = world.works(f"export {trained} -o {tmp_path}/a.onnx")

    assert "edsr x2 as onnx" in said
    assert "largest difference to the student: " in said
    shown = world.works(f"info {tmp_path}/a.onnx")
    assert "batch x 3 x height x width" in shown
    assert "scale          2\n" in shown


def test_export_goes_by_the_ending(world, folder, tmp_path):
    assert "as weights" in world.works(f"export {folder}/teacher.safetensors -o {tmp_path}/a.pth")
    assert "as weights" in world.works(
        f"export {folder}/teacher.safetensors -o {tmp_path}/a.safetensors"
    )
    assert "as weights (official)" in world.works(
        f"export {folder}/teacher.safetensors -o {tmp_path}/b.pth --layout official"
    )
    assert "under params" in world.works(f"info {tmp_path}/a.pth")


def test_a_card_says_what_the_run_knows_and_no_more(world, trained, tmp_path):
    """The fields are those of OpenModelDB's schema; the id begins with the scale."""
    said = world.works(f"model-card {trained} -o {tmp_path} --author me --license CC-BY-4.0")

    assert said.splitlines() == [f"wrote {tmp_path}/2x-dukd.json", f"wrote {tmp_path}/2x-dukd.md"]
    card = json.loads((tmp_path / "2x-dukd.json").read_text())
    assert {"name", "author", "license", "tags", "description", "date", "resources"} <= card.keys()
    assert (card["architecture"], card["scale"], card["size"]) == ("edsr", 2, ["8nf", "1nb"])
    assert (card["trainingIterations"], card["trainingBatchSize"]) == (20, 2)
    assert (card["trainingHRSize"], card["datasetSize"]) == (24, 3)
    assert card["trainingOTF"] is False
    fields = {f"training{what}" for what in ("Iterations", "Epochs", "BatchSize", "HRSize", "OTF")}
    fields |= {"name", "author", "license", "tags", "description", "date", "architecture", "size"}
    fields |= {"scale", "inputChannels", "outputChannels", "resources", "images", "dataset"}
    assert card.keys() <= fields | {"datasetSize", "pretrainedModelG", "pretrainedModelD"}
    student = trained / "student.safetensors"
    (resource,) = card["resources"]
    assert resource["sha256"] == hashlib.sha256(student.read_bytes()).hexdigest()
    assert resource["size"] == student.stat().st_size
    assert "Its teacher is teacher.safetensors" in card["description"]
    assert "license unknown" in card["description"]
    text = (tmp_path / "2x-dukd.md").read_text()
    assert text.startswith("---\nlicense: CC-BY-4.0\n")
    figures = json.loads((trained / "evaluation.json").read_text())
    for row in figures["rows"]:
        assert f"| {row['label']} | {row['sets']['images']['psnr_y']:.2f} / " in text
    assert "](samples/" in text
    assert "Elsewhere: no program that uses spandrel, such as chaiNNer, opens it" in text


def test_ids_of_a_card_are_those_that_its_schema_takes(world, trained, tmp_path):
    """src/lib/schema.ts of OpenModelDB: letters, digits, single hyphens."""
    world.works(f"model-card {trained} -o {tmp_path} --name my_best.student --author A.B.")

    card = json.loads((tmp_path / "2x-my-best-student.json").read_text())

    assert card["name"] == "my_best.student"
    assert card["author"] == "A-B"


def test_each_run_keeps_its_own_student_when_two_are_evaluated_together(world, trained, folder):
    other = folder / "runs" / "logits"
    if not other.exists():
        text = (folder / "mine.yaml").read_text().replace("type: dukd", "type: logits")
        (folder / "logits.yaml").write_text(text)
        world.works(f"train {folder}/logits.yaml --out {other} --device cpu")

    world.works(
        f"evaluate {trained} {other} --teacher {folder}/teacher.safetensors --sets {folder}/images"
    )

    for path in (trained, other):
        rows = json.loads((path / "evaluation.json").read_text())["rows"]
        assert [row["label"] for row in rows] == ["bicubic", "teacher", path.name]
    compared = world.works(f"compare {trained} {other}")
    assert "| dukd |" in compared
    assert "| logits |" in compared


def test_evaluating_on_one_set_more_keeps_the_others(world, trained, folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "evaluation.json").unlink()
    line = f"evaluate {run} --teacher {folder}/teacher.safetensors --sets"
    world.works(f"{line} {folder}/images --images 2")
    world.works(f"{line} {folder}/small")
    world.works(f"{line} {folder}/small --self-ensemble")

    (head,) = [
        text for text in world.works(f"compare {run}").splitlines() if text.startswith("| model")
    ]
    assert "| images PSNR-Y / SSIM-Y |" in head
    assert "| small PSNR-Y / SSIM-Y |" in head
    ensembles = world.works(f"compare {run} --self-ensemble")
    assert "| dukd+ |" in ensembles
    assert "images" not in ensembles.splitlines()[0]
    world.works(f"report {run} --self-ensemble -o {tmp_path}/page.html")
    assert "dukd+" in (tmp_path / "page.html").read_text()
    assert world.fails(f"compare {run} --precision bfloat16")[1].endswith(
        "it has evaluation-self-ensemble.json, evaluation.json: see --self-ensemble, --precision, "
        "--best and --border"
    )


def test_evaluate_writes_tables(world, folder, tmp_path):
    for form in ("md", "csv", "json"):
        world.works(
            f"evaluate {folder}/teacher.safetensors --sets {folder}/small -o {tmp_path}/t.{form}"
        )
        assert "bicubic" in (tmp_path / f"t.{form}").read_text()


def test_what_was_assumed_of_a_file_comes_with_what_to_type_instead(world, folder, tmp_path):
    """EDSR's files do not say which range and mean their network has."""
    config = EDSRConfig(scale=2, width=8, blocks=1, value_range=255.0)
    file = tmp_path / "foreign.pth"
    torch.save({"params": config.build().state_dict()}, file)

    _, _, said = world.dukd(f"evaluate {file} --sets {folder}/small --no-bicubic")
    options = "--value-range 1 or --mean 0 0 0 or --residual-scale 0.1"
    assert (
        "foreign.pth: if its outputs look wrong (below bicubic, too dark or tinted), try "
        f"{options}" in said
    )
    _, _, said = world.dukd(
        f"evaluate {file} --sets {folder}/small --value-range 1 --mean 0 0 0 --residual-scale 1"
    )
    assert "answers come out wrong" not in said
    assert "assumed" not in said
    _, _, said = world.dukd(f"upscale {folder}/small/0.png -o {tmp_path}/o -m {file}")
    assert (
        f"make a file that says so: dukd export {file} -o sure.safetensors with {options}" in said
    )
    world.works(f"export {file} -o {tmp_path}/sure.safetensors --value-range 1 --mean 0 0 0")
    assert "value_range=1.0, mean=(0.0, 0.0, 0.0)" in world.works(
        f"info {tmp_path}/sure.safetensors"
    )


def test_several_teachers_become_a_file_and_the_file_a_student(world, folder, tmp_path):
    """MTKD from the command line: join, train what joins, distil (methods.md D48, D49)."""
    root = folder
    (tmp_path / "other").mkdir()
    other = EDSRConfig(scale=2, width=6, blocks=2, value_range=1.0)
    weights.write(tmp_path / "other" / "teacher.safetensors", other.build())
    small = (
        "--data.patch 12 --data.batch 2 --evaluation.teacher-images 0 --optimization.steps 2 "
        "--device cpu"
    )
    small += f" --data.train {root}/images --data.packs {root}/packs"

    said = world.works(
        f"ensemble {root}/teacher.safetensors {tmp_path}/other/teacher.safetensors -o "
        f"{tmp_path}/both.safetensors --width 4 --blocks 1"
    )
    assert "teacher, teacher_2 joined, x2" in said
    joined = weights.read(tmp_path / "both.safetensors")
    members = [weights.read(f / "teacher.safetensors") for f in (root, tmp_path / "other")]
    lr = torch.rand(1, 3, 9, 7)
    torch.testing.assert_close(joined(lr), sum(member(lr) for member in members) / 2)

    world.works(f"train {tmp_path}/both.yaml {small} --out {tmp_path}/both --evaluation.every 1")
    better = weights.read(tmp_path / "both" / "student.safetensors").state_dict()
    before = joined.state_dict()
    changed = {
        name.split(".")[0] for name, value in better.items() if not torch.equal(value, before[name])
    }
    assert changed == {"conv_first", "body", "conv_after_body", "conv_last"}

    teacher = f"--teacher.weights {tmp_path}/both/student.safetensors"
    world.works(
        f"train tiny-x2-mtkd {teacher} {small} --evaluation.sets {root}/small --out "
        f"{tmp_path}/student"
    )
    assert (tmp_path / "student" / "student.safetensors").is_file()
    facts = json.loads((tmp_path / "student" / "run.json").read_text())
    assert facts["teacher_parameters"] == joined.parameter_count()
    assert facts["method"] == "mtkd"


def test_upscale_takes_the_flags_that_upscalers_have(world, folder, tmp_path):
    flags = f"-o {tmp_path} -n {folder}/teacher.safetensors -s 3 -t 8 -x --suffix _big"

    said = world.works(f"upscale -i {folder}/small/0.png {flags}")

    note = "x2 by the network, x1.5 more by resampling"
    assert said.strip() == f"{tmp_path}/0_big.png  ({note})"
    assert images.header(tmp_path / "0_big.png").width == 60


def test_upscale_says_which_model_and_where(world, folder, tmp_path):
    line = f"upscale {folder}/small -o {tmp_path} -m {folder}/teacher.safetensors --device cpu"

    _, _, said = world.dukd(line)

    assert "teacher.safetensors: edsr x2, " in said
    assert "parameters, cpu" in said
    assert "100 %  3/3  2.png" in said
    code, out, said = world.dukd(f"{line} --skip-existing")
    assert (code, out) == (0, "")
    assert "3 were finished already" in said


def test_upscale_does_what_it_can_and_lists_the_rest(world, folder, tmp_path):
    whole = (folder / "small" / "0.png").read_bytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.png").write_bytes(whole)
    (tmp_path / "in" / "torn.png").write_bytes(whole[: len(whole) // 2])

    code, out, said = world.dukd(
        f"upscale {tmp_path}/in -o {tmp_path}/out -m {folder}/teacher.safetensors"
    )

    assert code == 1
    assert out.strip() == f"{tmp_path}/out/good_x2.png"
    assert "1 of 2 images were not enlarged:" in said
    assert f"{tmp_path}/in/torn.png" in said
    assert "Traceback" not in said


def test_help_is_given_for_every_command(world):
    said = world.works("--help")
    for name, command in COMMANDS.items():
        assert f"  {name} " in said
        text = command.load().__doc__ or ""
        assert command.summary == text.splitlines()[0]
        assert "Example: dukd " in text
        assert f"usage: dukd {name}" in world.works(f"{name} --help")


@pytest.mark.parametrize("line", ["--help", "--version", "methods", "mehods"])
def test_lists_do_not_wait_for_torch(line):
    """Its import takes seconds; whoever mistypes a command is not to wait for it either."""
    program = (
        f"import sys; from dukd.cli import run; run([{line!r}]); print('torch' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(images.__file__).parents[2])}

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )

    assert done.stdout.splitlines()[-1] == "False"


def test_methods_are_listed_from_the_sources_as_they_are():
    assert list(commands.methods().items()) == [
        (name, (method.__doc__ or "").splitlines()[0])
        for name, method in known(Method).items()
        if method.__module__.startswith("dukd.")
    ]


def test_the_help_of_train_knows_the_experiment(world):
    said = world.works("train edsr-x4-dukd --help")

    assert "--method.upcyclings.0.windows" in said
    assert "--student.blocks" in said


def test_methods_and_recipes_are_listed(world):
    listed = [line.split()[0] for line in world.works("methods").splitlines() if line]
    assert {"dukd", "logits", "fakd"} < set(listed)
    one = world.works("methods dukd")
    assert "--method.consistency = 0.3" in one
    assert "with which each augmentation changes" in one
    listed = world.works("recipes")
    assert "edsr-x[2|3|4]-METHOD" in listed
    assert "small-x2-METHOD" in listed


def test_a_recipe_is_yaml_that_can_be_trained(world, tmp_path):
    (tmp_path / "r.yaml").write_text(world.works("recipes edsr-x4-dukd"))

    assert "--method.consistency" in world.works(f"train {tmp_path}/r.yaml --help")


@pytest.mark.parametrize("options", ["", "--teacher.value-range 1"])
def test_a_recipe_does_not_say_what_another_teachers_file_says_itself(folder, options):
    """The recipe's own file does not say that it computes up to 255; this one says up to 1."""
    given = ["small-x2-logits", "--teacher.weights", str(folder / "teacher.safetensors")]
    command = parse([*given, "--data.train", str(folder / "images"), *options.split()])

    assert isinstance(command, Train)
    described = command.experiment.teacher
    assert described is not None
    assert (described.value_range, described.mean, described.residual_scale) == (
        1.0 if options else None,
        None,
        None,
    )


def test_a_recipe_says_what_its_teachers_file_does_not_wherever_it_lies(folder, tmp_path):
    weights.write(tmp_path / "moved.pth", TEACHER.build(), layout="basicsr")
    content = torch.load(tmp_path / "moved.pth", weights_only=True)
    torch.save({"params": content["params"]}, tmp_path / "moved.pth")  # as BasicSR writes it
    command = parse(
        [
            "small-x2-logits",
            "--teacher.weights",
            str(tmp_path / "moved.pth"),
            "--data.train",
            str(folder),
        ]
    )

    assert isinstance(command, Train)
    assert command.experiment.teacher is not None
    assert command.experiment.teacher.value_range == 255


def test_a_recipe_takes_a_teacher_of_another_kind(tmp_path):
    """Any network; what the recipe says of its own EDSR does not count for another file."""
    weights.write(
        tmp_path / "smfanet.pth",
        SMFANetConfig(scale=2, width=8, blocks=2).build(),
        layout="official",
    )
    content = torch.load(tmp_path / "smfanet.pth", weights_only=True)
    torch.save({"params": content["params"]}, tmp_path / "smfanet.pth")  # as its authors write it
    command = parse(
        [
            "small-x2-logits",
            "--teacher.weights",
            str(tmp_path / "smfanet.pth"),
            "--data.train",
            str(tmp_path),
        ]
    )

    assert isinstance(command, Train)
    assert command.experiment.teacher is not None
    assert command.experiment.teacher.value_range is None


def test_every_field_of_a_method_is_described():
    assert (
        field_texts(ZoomIn)["windows"]
        == "Windows per image and batch; their distances are averaged."
    )


def test_info_tells_a_run_that_is_going_from_one_that_was_killed(world, trained):
    fcntl = pytest.importorskip("fcntl")
    lock = trained / "lock"
    lock.write_text("pid 4711 on host alpha\n")
    try:
        assert "finished" in world.works(f"info {trained}")
        with lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert "running: pid 4711 on host alpha" in world.works(f"info {trained}")
    finally:
        lock.write_text("")


def test_info_of_weights_says_what_matters(world, folder):
    said = world.works(f"info {folder}/teacher.safetensors")

    assert "edsr x2" in said
    assert "6 pixels around each" in said
    assert f"{TEACHER.build().parameter_count():,}" in said
    assert "float16        safe" in said


def test_info_counts_branches_apart_from_what_is_deployed(world, tmp_path):
    network = PlainConfig(scale=2, width=4, blocks=1).build()
    weights.write(tmp_path / "plain.safetensors", network)
    whole, used = network.parameter_count(), network.folded().parameter_count()

    said = world.works(f"info {tmp_path}/plain.safetensors")

    assert f"{whole:,}, {used:,} when branches are folded" in said


def test_info_of_a_network_that_overflows_says_so(world, tmp_path):
    weights.write(
        tmp_path / "r.safetensors", RCANConfig(scale=2, width=16, groups=1, blocks=1).build()
    )

    said = world.works(f"info {tmp_path}/r.safetensors")

    assert "overflows: use bfloat16 or float32" in said
    assert "the whole image: tiles are approximate" in said


# What they say to mistakes

MISTAKES: dict[str, tuple[int, str]] = {
    "bend": (2, "there is no command 'bend'; did you mean bench?; `dukd --help` lists them"),
    "trian": (2, "there is no command 'trian'; did you mean train?; `dukd --help` lists them"),
    "train edsr-x4-dukt": (2, "there is no method 'dukt'; did you mean dukd?"),
    "train esdr-x4-dukd": (2, "there is no recipe for 'esdr'; did you mean edsr?"),
    "train edsr-x5-dukd": (2, "the recipes for edsr are for x2, x3, x4, x8, but got x5"),
    "train {root}/none.yaml": (2, "{root}/none.yaml: No such file or directory"),
    "train {root}/empty": (2, "{root}/empty is a folder, but no run: it has no experiment.yaml"),
    "train {root}/gone --resume": (2, "there is no run {root}/gone; a new run is begun with"),
    "train tiny-x2-scratch --teacher.weights t.pth": (
        2,
        "tiny-x2-scratch trains without a teacher: leave",
    ),
    "train {root}/typo.yaml": (2, "optimization has no field 'stepz'; did you mean steps?"),
    "train {root}/kind.yaml": (2, "experiment.method.type is 'dukt'; did you mean dukd?"),
    "train {root}/mine.yaml --import {root}/none.py": (
        2,
        "--import takes a Python file, but there is no '{root}/none.py'",
    ),
    "train {root}/mine.yaml --import {root}/bad.py": (
        2,
        "--import {root}/bad.py failed: ZeroDivisionError: division by zero",
    ),
    "train {root}/mine.yaml --device cuda": (
        2,
        "there is no cuda device here: leave --device out, or say --device cpu",
    ),
    "train {root}/mine.yaml --teacher.weights {root}/none.pth": (
        65,
        "{root}/none.pth is not a file",
    ),
    "train {root}/mine.yaml --data.train {root}/empty": (65, "{root}/empty"),
    "train {root}/mine.yaml --data.train {root}/torn": (65, "torn.png"),
    "train {root}/mine.yaml --out {root}/used --resume": (
        65,
        "{root}/used holds no run: it has no experiment.yaml",
    ),
    "train {root}/mine.yaml --out {root}/used": (
        65,
        "{root}/used is used already (something): it holds no run: choose another name",
    ),
    "prepare {root}/none --scale 2 --out {root}/x.pack": (65, "{root}/none"),
    "prepare {root}/empty --scale 2 --out {root}/x.pack": (65, "{root}/empty"),
    "prepare {root}/images --scale 0 --out {root}/x.pack": (2, "a scale is at least 1, but got 0"),
    "check-data {root}/torn --scale 2": (65, "torn.png"),
    "check-data {root}/notes.txt": (65, "{root}/notes.txt"),
    "check-data {root}/whole.pack --scale 3": (
        2,
        "{root}/whole.pack is a pack for x2, not for x3: leave --scale out, or",
    ),
    "check-data {root}/whole.pack --recursive": (
        2,
        "{root}/whole.pack is a pack: --lr and --recursive are for folders",
    ),
    "info {root}/mine.py": (2, "mine.py is code: name the function that makes the teacher"),
    "info {root}/none.py:make": (2, "there is no file {root}/none.py"),
    "info {root}/images": (
        2,
        "{root}/images is a folder of images, not a run: `dukd check-data {root}/images",
    ),
    "export {root}/skip.safetensors -o {root}/x.pth": (
        65,
        "write .safetensors (the layout dukd) or .onnx, which hold it",
    ),
    "ensemble {root}/teacher.safetensors -o {root}/x.pth": (
        2,
        "--out is to end in .safetensors, but got {root}/x.pth",
    ),
    "ensemble {root}/teacher.safetensors {root}/x3.safetensors -o {root}/x.safetensors": (
        2,
        "an ensemble of x2 has members of x2, but x3 is x3",
    ),
    "ensemble {root}/teacher.safetensors -o {root}/mine.safetensors": (
        2,
        "{root}/mine.yaml is there already: choose",
    ),
    "evaluate {root}/teacher.safetensors --sets {root}/empty": (65, "{root}/empty"),
    "evaluate {root}/teacher.safetensors --sets {root}/images --scale 4": (
        65,
        "this looks like EDSR x2",
    ),
    "evaluate --sets {root}/images": (
        2,
        "nothing says the scale: give it (--scale)",
    ),
    "evaluate {root}/notes.txt --sets {root}/images": (
        65,
        "{root}/notes.txt is damaged, or no file of weights",
    ),
    "evaluate {root}/bad.onnx --sets {root}/images": (
        2,
        "{root}/bad.onnx is damaged, or not an ONNX file",
    ),
    "evaluate {root}/teacher.safetensors --sets {root}/images -o {root}/t.xls": (
        2,
        "--out writes .md, .csv, .json or .tex, but got {root}/t.xls",
    ),
    "evaluate {root}/teacher.safetensors --sets {root}/images --images -1": (
        2,
        "--images is a number from 0 (all) up, but got -1",
    ),
    "evaluate {root}/teacher.safetensors --sets {root}/images --device cuda": (
        2,
        "there is no cuda device here",
    ),
    "upscale {root}/none.png -o {root}/o -m {root}/teacher.safetensors": (
        1,
        "1 of 1 images were not enlarged:",
    ),
    "upscale -o {root}/o -m {root}/teacher.safetensors": (2, "name images, or folders of them"),
    "upscale {root}/empty -o {root}/o -m {root}/teacher.safetensors": (
        2,
        "no images in {root}/empty",
    ),
    "upscale {root}/small -o {root}/small -m {root}/teacher.safetensors": (
        2,
        "write to another folder",
    ),
    "upscale {root}/small -o {root}/o -m {root}/empty": (
        2,
        "{root}/empty is a folder, but not a run: name a file of weights, or a run directory",
    ),
    "upscale {root}/small -o {root}/o.png -m {root}/teacher.safetensors": (
        2,
        "--out is a folder, but got {root}/o.png; the results are named after the inputs",
    ),
    "upscale {root}/small -o {root}/o -m {root}/hostile.pth": (
        65,
        "{root}/hostile.pth is refused: the file needs posix.system",
    ),
    "upscale {root}/small -o {root}/o -m {root}/teacher.safetensors -s -1": (
        2,
        "the final scale is a positive number, but got -1.0",
    ),
    "upscale {root}/small -o {root}/o -m {root}/teacher.safetensors -t -5": (
        2,
        "--tile is a number of pixels, but got -5",
    ),
    "upscale {root}/small -o {root}/o -m {root}/teacher.safetensors --quality 0": (
        2,
        "--quality is 1 to 100, but got 0",
    ),
    "upscale {root}/small -o {root}/o -m {root}/teacher.safetensors --workers -2": (
        2,
        "--workers is 0, for none, or more, but got -2",
    ),
    "upscale {root}/small -o {root}/o -m {root}/teacher.safetensors --ray-address auto": (
        2,
        "--ray-address is for workers: say how many with --workers",
    ),
    "upscale {root}/small -o {root}/o -m {root}/rcan.safetensors --precision float16": (
        2,
        "rcan overflows in float16: use bfloat16 or float32",
    ),
    "upscale {root}/small -o {root}/notes.txt/o -m {root}/teacher.safetensors": (
        74,
        "{root}/notes.txt/o: not a directory",
    ),
    "upscale {root}/small -o {root}/notes.txt -m {root}/teacher.safetensors": (
        2,
        "results go into a folder, but {root}/notes.txt is a file",
    ),
    "upscale {root}/small -o {root}/o -m {root}/teacher.safetensors -s inf": (
        2,
        "--outscale is a finite number, but got inf",
    ),
    "upscale {root}/small -o {root}/o -m {root}/teacher.safetensors --best": (
        2,
        "{root}/teacher.safetensors is one file: --best is for run directories",
    ),
    "upscale {root}/small -o {root}/o -m {root}/bad.onnx": (
        2,
        "{root}/bad.onnx is damaged, or not an ONNX file",
    ),
    "upscale {root}/small -o {root}/o -m {root}/notes.txt": (
        65,
        "{root}/notes.txt is damaged, or no file of weights",
    ),
    "upscale {empty} -o {root}/o": (2, "there is an empty word among the arguments: is a variable"),
    "upscale {root}/small -o {empty}": (2, "there is an empty word after -o: is a variable"),
    "upscale {root}/small --out=": (2, "there is an empty word after --out: is a variable"),
    "train {root}/mine.yaml --data.train {empty}": (2, "an empty word after --data.train: is a"),
    **{
        f"{command} -o {{root}}/{out}": (2, f"{{root}}/{out} would be overwritten, but it is read")
        for command, out in (
            ("export {root}/teacher.safetensors", "teacher.safetensors"),
            ("quantize {root}/teacher.safetensors --images {root}/images", "teacher.safetensors"),
            ("ensemble {root}/teacher.safetensors {root}/rcan.safetensors", "rcan.safetensors"),
            ("figure {root}/teacher.safetensors --images {root}/images", "images/1.png"),
        )
    },
    **{
        f"{command} -o {{root}}/notes.txt/x.{ending}": (
            2,
            "results go into a folder, but {root}/notes.txt is a file",
        )
        for command, ending in (
            ("export {root}/teacher.safetensors", "onnx"),
            ("quantize {root}/teacher.safetensors --images {root}/images", "safetensors"),
            ("ensemble {root}/teacher.safetensors {root}/rcan.safetensors", "safetensors"),
            ("figure {root}/teacher.safetensors --images {root}/images", "png"),
            ("page {root}/teacher.safetensors", "html"),
            ("report {root}/empty", "html"),
            ("compare {root}/empty", "csv"),
            ("evaluate {root}/teacher.safetensors --sets {root}/images", "json"),
        )
    },
    "degrade {root}/images -o {root}/notes.txt/d": (74, "{root}/notes.txt/d: not a directory"),
    "evaluate {root}/teacher.safetensors --sets {root}/images --border -1": (
        2,
        "--border is a number of pixels from 0 up, but got -1",
    ),
    "figure --images {root}/images -o {root}/f.png": (2, "name what is shown: run directories"),
    "figure {root}/teacher.safetensors --images {root}/images -o {root}/f.png --zoom 99999": (
        2,
        "the figure would have more than 300 megapixels: lower --zoom (now 99999)",
    ),
    "info {root}/none": (
        2,
        "there is no {root}/none: name a file of weights, a pack or a run directory",
    ),
    "info {root}/notes.txt": (65, "{root}/notes.txt is damaged, or no file of weights"),
    "info {root}/empty": (65, "{root}/empty holds no run: it has no experiment.yaml"),
    "info {root}/hostile.pth": (65, "{root}/hostile.pth is refused"),
    "info {root}/bad.pack": (65, "{root}/bad.pack"),
    "report {root}/empty -o {root}/r.html": (65, "{root}/empty holds no run"),
    "report {root}/empty -o {root}/r.pdf": (
        2,
        "the report is a page: --out ends in .html, but got {root}/r.pdf",
    ),
    "report -o {root}/r.html": (2, "there is no run to report"),
    "compare {root}/empty": (65, "{root}/empty holds no run"),
    "compare": (2, "there is no run to report"),
    "compare {root}/empty -o {root}/t.xls": (
        2,
        "--out writes .md, .csv, .json, .tex or .html, but got {root}/t.xls",
    ),
    "export {root}/teacher.safetensors -o {root}/a.pb": (
        2,
        "no runtime has files like {root}/a.pb; known endings are",
    ),
    "export {root}/teacher.safetensors -o {root}/a.txt --runtime onnx": (
        2,
        "{root}/a.txt: onnx writes .onnx",
    ),
    "export {root}/teacher.safetensors -o {root}/a.onnx --runtime onyx": (
        2,
        "there is no runtime 'onyx'; did you mean onnx?; known are ",
    ),
    "export {root}/rcan.safetensors -o {root}/a.onnx --half": (
        2,
        "rcan overflows in float16: leave --half out",
    ),
    "export {root}/none.pth -o {root}/a.onnx": (
        65,
        "{root}/none.pth is not a file; name a .safetensors or .pth file of weights",
    ),
    "bench network small-x2-scratch --patch 0": (2, "--patch is 0, but at least 1 is needed"),
    "bench network small-x2-scratch --repetitions -3": (2, "--repetitions is -3, but at least 1"),
    "bench network small-x2-scratch --threads 99999999999": (2, "--threads is 99999999999, but"),
    "bench network small-x2-scratch --patch 100000000": (2, "not enough memory for this ("),
    "train {root}/mine.yaml --out {root}/wide --student.width 9000000000000000000": (
        2,
        "not enough memory for this (Storage size calculation overflowed",
    ),
    "methods dukt": (2, "there is no method 'dukt'; did you mean dukd?"),
    "recipes edsr-x4-dukt": (2, "there is no method 'dukt'; did you mean dukd?"),
    "recipes edsr": (
        2,
        "a recipe is called <networks>-x<scale>-<method>, such as edsr-x4-dukd, but got 'edsr'",
    ),
}


class _Hostile:
    def __reduce__(self) -> object:
        return os.system, ("touch hacked",)


@pytest.fixture(scope="module")
def mistaken(folder: Path) -> Path:
    """The folder with everything in it that the mistakes name."""
    text = (folder / "mine.yaml").read_text()
    (folder / "typo.yaml").write_text(text.replace("steps:", "stepz:"))
    (folder / "kind.yaml").write_text(text.replace("type: dukd", "type: dukt"))
    (folder / "bad.py").write_text("1 / 0\n")
    (folder / "bad.pack").write_text("no pack")
    (folder / "bad.onnx").write_text("no graph")
    (folder / "used").mkdir()
    (folder / "used" / "something").write_text("")
    (folder / "torn").mkdir()
    (folder / "torn" / "torn.png").write_bytes((folder / "images" / "0.png").read_bytes()[:200])
    torch.save({"params": _Hostile()}, folder / "hostile.pth")
    weights.write(
        folder / "rcan.safetensors", RCANConfig(scale=2, width=16, groups=1, blocks=1).build()
    )
    skip = EDSRConfig(scale=2, width=8, blocks=1, value_range=1.0, skip="nearest")
    weights.write(folder / "skip.safetensors", skip.build())
    weights.write(folder / "x3.safetensors", EDSRConfig(scale=3, width=8, blocks=1).build())
    prepare(find_pairs(folder / "images", scale=2), folder / "whole.pack")
    return folder


@pytest.mark.parametrize("line", MISTAKES, ids=lambda line: line.replace("{root}/", "")[:70])
def test_a_mistake_gets_one_sentence_and_a_code(line, mistaken, world):
    if "cuda" in line and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    code, sentence = MISTAKES[line]

    got, complaint = world.fails(line)

    assert sentence in complaint
    assert got == code
    assert not Path("hacked").exists()


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("evaluate {root}/teacher.safetensors --setz x", "--sets"),
        ("train {root}/mine.yaml --optimization.step 5", "--optimization.steps"),
        ("train {root}/mine.yaml --method.consistancy 5", "--method.consistency"),
        ("train {root}/mine.yaml --data.batch 0", "batch is 0, but must be at least 1"),
        (
            "train {root}/mine.yaml --optimization.learning-rate -1",
            "learning_rate is -1.0, but must be above 0",
        ),
        ("upscale {root}/small -o o -m m --precision float23", "float32"),
        ("export {root}/teacher.safetensors -o a.onnx --opset 3", "opset is 11 to 20, but got 3"),
        ("export {root}/teacher.safetensors -o a.pth --half", "Unrecognized options: --half"),
        ("prepare {root}/images --scale two --out x.pack", "--scale"),
        ("prepare {root}/images --out x.pack", "--scale"),
    ],
)
def test_a_wrong_option_is_refused_and_the_right_one_named(line, hint, world):
    code, _, complaint = world.dukd(line)

    assert code == 2
    assert hint in " ".join(complaint.replace("│", " ").split())
    assert "Traceback" not in complaint


def test_a_image_below_the_size_of_a_patch_is_named(world, folder, tmp_path):
    options = f"--data.train {folder}/small --data.patch 48"

    code, complaint = world.fails(f"train {folder}/mine.yaml --out {tmp_path}/r {options}")

    assert code in {2, 65}
    assert "48" in complaint


def test_an_experiment_cannot_change_while_it_is_resumed(world, trained):
    code, complaint = world.fails(f"train {trained} --resume --optimization.seed 11")

    assert code == 65
    assert "optimization.seed was 10, is 11" in complaint


def test_a_run_that_was_not_evaluated_is_not_compared(world, trained, folder, tmp_path):
    out = tmp_path / "copy"
    out.mkdir()
    for name in ("experiment.yaml", "run.json", "log.jsonl"):
        (out / name).write_bytes((trained / name).read_bytes())

    code, complaint = world.fails(f"compare {out}")

    assert code == 2
    assert (
        complaint == "copy was not evaluated: it has no evaluation.json (dukd evaluate writes it)"
    )
    assert world.fails(f"upscale {folder}/small -o {tmp_path} -m {out}")[1].endswith(
        "has no student yet: training writes it at the first save"
    )


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_takes_no_files_is_named(world, folder, tmp_path):
    tmp_path.chmod(0o555)
    try:
        code, complaint = world.fails(
            f"prepare {folder}/images --scale 2 --out {tmp_path}/a/p.pack"
        )
    finally:
        tmp_path.chmod(0o755)

    assert code == 73
    assert "permission denied" in complaint


def test_a_full_disk_has_its_code(world, folder, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "/disk/file")

    monkeypatch.setattr("dukd.cli.evaluate.report", full)

    code, complaint = world.fails(f"report {folder} -o {tmp_path}/r.html")

    assert code == 73
    assert complaint == "/disk/file: no space left on device; make room, or choose another place"

    def full_of_answers(*_: object, **__: object) -> None:
        raise OSError(28, "The disk filled up in My/Banks; make room")

    monkeypatch.setattr("dukd.cli.evaluate.report", full_of_answers)
    _, complaint = world.fails(f"report {folder} -o {tmp_path}/r.html")

    assert complaint == "the disk filled up in My/Banks; make room"


def test_a_demo_that_was_interrupted_says_how_to_go_on(world, tmp_path, monkeypatch):
    """It takes no --resume: the same command goes on."""

    def stopped(*_: object, **__: object) -> None:
        raise Interrupted(145, tmp_path / "runs" / "scratch")

    monkeypatch.setattr("dukd.cli.demo.demo.demo", stopped)

    code, complaint = world.fails(f"demo --out {tmp_path}")

    assert code == 75
    assert complaint == (
        f"stopped after step 145; everything is in {tmp_path}, continue with the same command again"
    )


def test_what_we_did_wrong_is_not_blamed_on_the_user(world, folder, tmp_path, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise KeyError("oops")

    monkeypatch.setattr("dukd.cli.evaluate.report", broken)

    code, _, complaint = world.dukd(f"report {folder} -o {tmp_path}/r.html")

    assert code == 70
    assert "this should not have happened: KeyError: 'oops'" in complaint
    assert "--debug" in complaint
    assert "Traceback" not in complaint
    assert "Traceback" in world.dukd(f"report {folder} -o {tmp_path}/r.html --debug")[2]


# How they show progress


def test_a_log_has_a_line_for_every_tenth_with_the_time_left(capsys, monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr("dukd.cli.terminal.time.monotonic", lambda: float(next(clock)))

    with Bar() as progress:
        for step in range(1, 101):
            progress(step, 100, "x" * 300)

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11
    assert lines[0].startswith("  1 %  1/100")
    assert lines[1] == f" 10 %  10/100  {'x' * 300}  90 s left"
    assert lines[-1] == f"100 %  100/100  {'x' * 300}"


def test_slow_work_is_heard_of_every_five_minutes(capsys, monkeypatch):
    clock = iter(range(0, 1_000_000, 100))
    monkeypatch.setattr("dukd.cli.terminal.time.monotonic", lambda: float(next(clock)))

    with Bar() as progress:
        for step in range(1, 10):
            progress(step, 1000, "steps", seconds_left=7300.0)

    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"  0 %  {step}/1000  steps  2 h 02 min left" for step in (1, 5, 9)]


def test_progress_of_the_next_work_begins_anew(capsys):
    with Bar() as progress:
        progress(3, 3, "images")
        progress(0, 4, "steps")
        progress(4, 4, "steps")

    assert [line.split()[2] for line in capsys.readouterr().err.splitlines()] == [
        "3/3",
        "0/4",
        "4/4",
    ]


def test_training_shows_losses_speed_and_what_is_left(world, folder, tmp_path):
    code, _, said = world.dukd(f"train {folder}/mine.yaml --out {tmp_path}/r --device cpu")

    assert code == 0
    line = next(part for part in said.splitlines() if part.startswith(" 50 %"))
    assert "10/20" in line
    assert "loss 0." in line
    assert "reconstruction 0." in line
    assert "patches/s" in line
    assert " left" in line
    assert "step      20  images " in said


@pytest.mark.parametrize(
    ("seconds", "text"), [(42, "42 s"), (600, "10 min"), (7300, "2 h 02 min"), (200_000, "2 d 8 h")]
)
def test_time_is_told_as_people_tell_it(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(7, "7 bytes"), (1500, "1.5 kB"), (2_560_000, "2.6 MB"), (3_210_000_000, "3.21 GB")],
)
def test_sizes_are_told_as_people_tell_them(count, text):
    assert amount(count) == text


def test_no_line_in_a_log_is_broken():
    assert terminal.err.width > 1000 or terminal.err.is_terminal


# As processes of their own


def _process(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[1] / "src"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "dukd", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=100,
        **options,
    )


def test_the_program_exits_with_the_code_and_no_traceback(folder):
    done = _process("info", str(folder / "notes.txt"))

    assert done.returncode == 65
    assert done.stdout == ""
    assert done.stderr.startswith("dukd: ")
    assert len(done.stderr.splitlines()) == 1


def test_output_can_be_cut_off(folder):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    command = f"set -o pipefail; {sys.executable} -m dukd methods | true"

    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=environment, check=False
    )

    assert "Traceback" not in done.stderr
    assert done.stderr == ""
    assert done.returncode in {0, 141}


def test_names_that_are_no_utf_8_can_be_told(folder, tmp_path):
    name = os.fsdecode(b"\xff.png")
    try:
        (tmp_path / name).write_bytes((folder / "small" / "0.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")

    done = _process(
        "upscale",
        str(tmp_path),
        "-o",
        str(tmp_path / "out"),
        "-m",
        str(folder / "teacher.safetensors"),
    )

    assert done.returncode == 0, done.stderr
    assert r"\udcff_x2.png" in done.stdout


def test_an_interrupted_run_saves_and_goes_on(folder, tmp_path):
    """The promise of reliability: exit 75 after the step, and --resume continues."""
    text = (folder / "mine.yaml").read_text().replace("steps: 20", "steps: 100000")
    (tmp_path / "long.yaml").write_text(text.replace("every: 10", "every: 100000"))
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[1] / "src"),
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable,
        "-m",
        "dukd",
        "train",
        str(tmp_path / "long.yaml"),
        "--out",
        str(tmp_path / "r"),
    ]
    with subprocess.Popen(
        [*command, "--device", "cpu"], stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "%" in line and "/100000" in line:
                break
        process.terminate()
        said = process.stderr.read()

    assert process.returncode == 75, said
    assert "stopped after step" in said
    assert "--resume" in said
