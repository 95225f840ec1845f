"""Any teacher goes in: files, code, graphs, and images that were made of the training inputs."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import dukd
import tiny_runs
from dukd import images
from dukd.cli.program import parse, run
from dukd.cli.train import Train
from dukd.core.config import ConfigError
from dukd.core.distributed import World
from dukd.images.convert import from_tensor, to_tensor
from dukd.images.degrade import preset
from dukd.images.resize import downscale, imresize_uint8
from dukd.methods import DUKD, FAKD, CrossKD, Logits
from dukd.networks import EDSRConfig
from dukd.networks.files import weights
from dukd.networks.reduced import Reduced
from dukd.runs.checkpoint import CheckpointError
from dukd.runs.directory import Run
from dukd.testing import check_teacher
from dukd.training import loop
from dukd.training.assemble import assemble
from dukd.training.experiment import Experiment
from dukd.training.stored import Stored, served
from dukd.training.teachers import File, Graph, Module, Outputs, Teacher

CODE = """
import torch
from torch import nn

from beside import FACTOR


class Nearest(nn.Module):
    def __init__(self, scale, gain):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(float(gain)))
        self.scale = scale
        self.body = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1))

    def forward(self, x):
        self.body(x)
        s = self.scale
        return FACTOR * self.gain * x.repeat_interleave(s, -1).repeat_interleave(s, -2)


def make(scale=2, gain=1.0):
    return Nearest(scale, gain)


def function():
    return lambda x: x.repeat_interleave(2, -1).repeat_interleave(2, -2)


def text():
    return "no network"


def fails():
    raise KeyError("weights")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tiny_runs.prepare(tmp_path_factory.mktemp("teachers"))
    (root / "code").mkdir()
    (root / "code" / "mine.py").write_text(CODE)
    (root / "code" / "beside.py").write_text("FACTOR = 1.0\n")
    return root


def learned(folder: Path, teacher: Teacher, **changes: object) -> Experiment:
    return tiny_runs.experiment(folder, teacher=teacher, **changes)


def outputs(folder: Path, where: Path, scale: int = 2) -> Path:
    """What a program made of the training inputs: they, enlarged by bicubic, and a gray level."""
    where.mkdir()
    for path in sorted((folder / "images").glob("*.png")):
        lr = imresize_uint8(images.read_rgb8(path), 0.5)
        sr = imresize_uint8(lr, scale) // 2 + 20
        Image.fromarray(sr).save(where / f"{path.stem}_SR.png")
    return where


def test_what_people_write_names_a_teacher(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "experiment.yaml").write_text("")

    assert Teacher.of("gan.pth") == File(weights=Path("gan.pth"))
    assert Teacher.of("a/net.ONNX") == Graph(file=Path("a/net.ONNX"))
    assert Teacher.of("a/mine.py:make") == Module(code="a/mine.py:make")
    assert Teacher.of("package.module:make") == Module(code="package.module:make")
    assert Teacher.of(folder / "images") == Outputs(folder=folder / "images")
    assert Teacher.of(tmp_path / "run") == File(weights=tmp_path / "run")
    with pytest.raises(ValueError, match=r"mine.py is code: name the function .*, mine.py:make"):
        Teacher.of("mine.py")


@pytest.mark.parametrize(
    "teacher",
    [
        File(weights=Path("a.pth"), value_range=255.0),
        Module(code="a.py:make", arguments=("width=64", "weights=gan.pth"), taps=("body.0",)),
        Graph(file=Path("a.onnx")),
        Outputs(folder=Path("a"), validation=Path("b")),
    ],
    ids=lambda t: t.name,
)
def test_a_teacher_comes_back_from_yaml(folder: Path, teacher: Teacher) -> None:
    experiment = learned(folder, teacher)

    assert Experiment.from_yaml(experiment.to_yaml()).teacher == teacher


def test_a_teacher_of_no_type_is_a_file(folder: Path) -> None:
    """As experiments were written before there were others."""
    text = learned(folder, File(weights=Path("a.pth"))).to_yaml().replace("  type: file\n", "")

    assert Experiment.from_yaml(text).teacher == File(weights=Path("a.pth"))
    with pytest.raises(ConfigError, match=r"teacher.type is 'modul'; did you mean module\?"):
        Experiment.from_yaml(text.replace("teacher:\n", "teacher:\n  type: modul\n"))


def test_code_makes_a_teacher_that_trains(folder: Path, tmp_path: Path) -> None:
    """With its arguments, what lies beside it, and the student's scale; the digest knows them."""
    code = f"{folder / 'code' / 'mine.py'}:make"
    made = [Module(code=code, arguments=a).open(2, print) for a in ((), ("gain=0.5",), ())]

    assert made[0].sha256 == made[2].sha256 != made[1].sha256
    x = torch.rand(1, 3, 5, 4)
    assert_close(made[1].network(x), 0.5 * x.repeat_interleave(2, -1).repeat_interleave(2, -2))
    student = loop.train(learned(folder, Module(code=code)), tmp_path / "run")
    facts = Run.open(tmp_path / "run").read_facts()
    assert facts["teacher_sha256"] == made[0].sha256
    assert student.is_file()


def test_a_run_knows_its_teachers_code(folder: Path, tmp_path: Path) -> None:
    """A line of code that changed is another teacher."""
    path = tmp_path / "mine.py"
    path.write_text(CODE.replace("from beside import FACTOR", "FACTOR = 1"))
    experiment = learned(folder, Module(code=f"{path}:make"), optimization__steps=2)
    loop.train(experiment, tmp_path / "run")
    loop.train(experiment, tmp_path / "run", resume=True)
    path.write_text(path.read_text() + "\n# another\n")

    with pytest.raises(CheckpointError, match="the teacher changed since step 2"):
        loop.train(experiment, tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("none", r"mine.py has no function 'none'; .*it has Nearest, make, function, text, fails"),
        ("text", "gives str, but it is to give a module"),
        ("fails", "mine.py:fails failed: KeyError: 'weights'"),
    ],
)
def test_code_that_makes_no_teacher(folder: Path, name: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Module(code=f"{folder / 'code' / 'mine.py'}:{name}").open(2, print)


def test_a_function_of_code_enlarges(folder: Path) -> None:
    network = Module(code=f"{folder / 'code' / 'mine.py'}:function").open(2, print).network

    assert network.scale == 2
    assert network.name == "opaque"


def test_features_of_code_are_read_at_its_taps(folder: Path) -> None:
    code = f"{folder / 'code' / 'mine.py'}:make"
    method = FAKD(depths=(1.0,))

    training = assemble(learned(folder, Module(code=code, taps=("body.0",)), method=method))
    part = training.share.at(0)[0]
    assert "affinity" in " ".join(training.objective.losses(part))


def test_a_graph_teaches_as_its_network_does(folder: Path, tmp_path: Path) -> None:
    """Losses of the first step, from the file of weights and from its export: equal to 1e-5."""
    pytest.importorskip("onnxruntime")
    network = weights.read(folder / "teacher.safetensors").frozen()
    dukd.export(network, tmp_path / "teacher.onnx")
    losses = [
        {n: v.item() for n, v in t.objective.losses(t.share.at(0)[0]).items()}
        for t in (
            assemble(learned(folder, File(weights=folder / "teacher.safetensors"))),
            assemble(learned(folder, Teacher.of(tmp_path / "teacher.onnx"))),
        )
    ]

    assert losses[0].keys() == losses[1].keys()
    assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-7)


def test_stored_outputs_are_cut_with_their_inputs(folder: Path, tmp_path: Path) -> None:
    """Of each patch, under its flips, they are what the images say: half of it, and 20 levels."""
    where = outputs(folder, tmp_path / "outputs")
    experiment = learned(
        folder, Teacher.of(where), method=Logits(), optimization__accumulate=2, data__batch=6
    )
    training = assemble(experiment)

    assert training.teacher is None
    assert any("5 training images are those in" in note for note in training.notes)
    for k in (0, 3):
        for part in training.share.at(k):
            assert part.sr is not None
            whole = imresize_uint8(from_tensor(part.lr[:1]), 2) // 2 + 20
            # Beyond the crop bicubic would see other pixels.
            inner = (slice(None), slice(None), slice(6, -6), slice(6, -6))
            assert_close(part.sr[:1][inner], to_tensor(whole)[inner], atol=1.01 / 255, rtol=0)
    part = training.share.at(0)[0]
    losses = training.objective.losses(part)
    student = training.state.student(part.lr)
    assert part.sr is not None
    assert_close(losses["imitation"], (student - part.sr).abs().mean() * Logits().imitation)


def test_a_run_with_stored_outputs_is_resumed(folder: Path, tmp_path: Path) -> None:
    """Other outputs are another teacher."""
    where = outputs(folder, tmp_path / "outputs")
    experiment = learned(folder, Teacher.of(where), method=Logits(), data__packs=tmp_path)
    loop.train(replace_steps(experiment, 4), tmp_path / "run")
    loop.train(replace_steps(experiment, 4), tmp_path / "run", resume=True)
    Image.fromarray(255 - images.read_rgb8(where / "0_SR.png")).save(where / "0_SR.png")

    with pytest.raises(CheckpointError, match="the teacher changed since step 4"):
        loop.train(replace_steps(experiment, 4), tmp_path / "run", resume=True)


def replace_steps(experiment: Experiment, steps: int) -> Experiment:
    return replace(experiment, optimization=replace(experiment.optimization, steps=steps))


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        (DUKD(), r"dukd shows its teacher zoom_in and zoom_out beside .* outputs alone \(.*logits"),
        (FAKD(), "fakd compares features of its teacher, which a folder of outputs does not hold"),
        (CrossKD(), "crosskd .*which a folder of outputs does not hold"),
    ],
    ids=lambda m: getattr(m, "name", ""),
)
def test_methods_that_need_more_than_outputs_say_so(
    folder: Path, tmp_path: Path, method: dukd.Method, sentence: str
) -> None:
    where = outputs(folder, tmp_path / "outputs")

    with pytest.raises(ValueError, match=sentence):
        assemble(learned(folder, Teacher.of(where), method=method))


def test_the_methods_that_outputs_are_enough_for() -> None:
    assert {"logits", "mtkd"} <= set(served())
    assert not {"dukd", "fakd", "scratch", "crosskd", "mipkd"} & set(served())


def test_all_that_is_wrong_with_outputs_is_said_at_once(folder: Path, tmp_path: Path) -> None:
    where = outputs(folder, tmp_path / "outputs")
    (where / "0_SR.png").unlink()
    Image.new("RGB", (8, 8)).save(where / "1_SR.png")
    with pytest.raises(ValueError, match=r"no output is called NAME or NAME_... for 0"):
        assemble(learned(folder, Teacher.of(where), method=Logits()))
    Image.fromarray(images.read_rgb8(where / "2_SR.png")).save(where / "0_SR.png")
    sr = images.read_rgb8(where / "3_SR.png")
    Image.fromarray(sr.repeat(2, 0).repeat(2, 1)).save(where / "3_SR.png")
    with pytest.raises(ValueError, match=r"(?s)1_SR.png: 8 x 8 .*3_SR.png: x4, but the others are"):
        assemble(learned(folder, Teacher.of(where), method=Logits()))


def test_outputs_of_inputs_that_are_drawn_anew(folder: Path, tmp_path: Path) -> None:
    where = outputs(folder, tmp_path / "outputs")

    with pytest.raises(ValueError, match="jpeg is drawn anew for every patch, so no stored output"):
        assemble(
            learned(folder, Teacher.of(where), method=Logits(), data__degradation=preset("jpeg"))
        )


def test_the_library_takes_stored_outputs() -> None:
    torch.manual_seed(0)
    student = tiny_runs.STUDENT.build()
    lr, hr, sr = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)

    losses = dukd.Distiller(Logits(), student, Stored())(lr, hr, sr)

    assert_close(losses["imitation"], (student(lr) - sr).abs().mean() * Logits().imitation)
    with pytest.raises(ValueError, match="dukd shows the teacher zoom_in, but only its outputs"):
        dukd.Distiller(DUKD(), student, Stored())(lr, hr, sr)


def test_a_larger_teacher_is_reduced(folder: Path, tmp_path: Path) -> None:
    """Of every view of DUKD the target is the x4 output, reduced by two as MATLAB does."""
    torch.manual_seed(3)
    large = EDSRConfig(scale=4, width=6, blocks=1, value_range=1.0, skip="nearest").build()
    weights.write(tmp_path / "large.safetensors", large)
    large.frozen()
    experiment = learned(folder, File(weights=tmp_path / "large.safetensors"))
    training = assemble(experiment)

    assert isinstance(training.teacher, Reduced)
    assert any("reduced to x2 by MATLAB's bicubic" in note for note in training.notes)
    x = torch.rand(2, 3, 9, 7)
    assert_close(training.teacher(x), downscale(large(x), 2), rtol=0, atol=0)
    losses = training.objective.losses(training.share.at(0)[0])
    assert {"imitation", "zoom_in_imitation", "zoom_out_imitation"} <= losses.keys()
    loop.train(replace_steps(experiment, 2), tmp_path / "run")
    assert Run.open(tmp_path / "run").read_facts()["teacher_reduced"] == (
        "x4 to x2 by MATLAB's bicubic with antialiasing"
    )


@pytest.mark.parametrize(
    ("teacher", "student", "sentence"),
    [
        (2, 4, "enlarges x2, but the student x4: what a teacher does not show cannot be imitated"),
        (3, 2, "enlarges x3, which the student's x2 does not divide"),
    ],
)
def test_scales_that_make_no_sense_together(teacher: int, student: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Reduced(EDSRConfig(scale=teacher, width=4, blocks=1).build(), student)


def test_one_option_names_any_teacher(folder: Path) -> None:
    """Its own options follow from what it is."""
    code = f"{folder / 'code' / 'mine.py'}:make"
    arguments = [
        "small-x2-logits",
        "--teacher",
        code,
        "--teacher.arguments",
        "gain=2",
        "--out",
        "r",
    ]

    assert named_by(arguments) == Module(code=code, arguments=("gain=2",))
    assert named_by(["tiny-x2-dukd", "--teacher=gan.pth"]) == File(weights=Path("gan.pth"))


def named_by(arguments: list[str]) -> Teacher | None:
    command = parse("train", arguments)
    assert isinstance(command, Train)
    return command.experiment.teacher


def refused(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert run(arguments) == 2
    return " ".join(capsys.readouterr().err.split())


def test_the_option_without_a_teacher(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--teacher takes a file of weights" in refused(
        ["train", "small-x2-logits", "--teacher"], capsys
    )
    assert "trains without a teacher: leave --teacher" in refused(
        ["train", "small-x2-scratch", "--teacher", "t.pth"], capsys
    )


def test_evaluate_takes_every_teacher(folder: Path, tmp_path: Path) -> None:
    """The agreement of a network with itself is infinite, however it is named."""
    network = weights.read(folder / "teacher.safetensors").frozen()
    file = tmp_path / "code.py"
    file.write_text(
        "from dukd.networks.files import weights\n"
        f"def make():\n    return weights.read({str(folder / 'teacher.safetensors')!r})\n"
    )
    made = tmp_path / "made"
    made.mkdir()
    for path in sorted((folder / "images").glob("*.png")):
        lr = to_tensor(imresize_uint8(images.read_rgb8(path), 0.5))
        Image.fromarray(from_tensor(network(lr))).save(made / path.name)
    for teacher in (folder / "teacher.safetensors", f"{file}:make", made):
        table = dukd.evaluate([network], {"images": folder / "images"}, teacher=teacher, images=2)
        row = next(row for row in table.rows if row.model == "student")
        assert row.sets["images"]["agreement"] == float("inf")


def test_evaluate_reduces_a_larger_teacher(folder: Path) -> None:
    large = EDSRConfig(scale=4, width=4, blocks=1).build()
    student = EDSRConfig(scale=2, width=4, blocks=1).build()

    table = dukd.evaluate([student], {"images": folder / "images"}, teacher=large, images=1)

    assert [row.label for row in table.rows] == ["edsr (x4 reduced to x2)", "edsr (2)"]
    assert "agreement" in table.rows[1].sets["images"]


def test_outputs_for_the_images_that_judge(folder: Path, tmp_path: Path) -> None:
    where = outputs(folder, tmp_path / "outputs")
    teacher = Outputs(folder=where, validation=where)
    experiment = learned(folder, teacher, method=Logits(), optimization__steps=4)

    loop.train(experiment, tmp_path / "run", world=World())

    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    sets = next(r["sets"] for r in records if r["kind"] == "validation")
    assert 10 < sets["images"]["agreement"] < 60


def test_what_every_teacher_promises(folder: Path, tmp_path: Path) -> None:
    check_teacher(File(weights=folder / "teacher.safetensors"))
    check_teacher(Module(code=f"{folder / 'code' / 'mine.py'}:make"))
    drawn = tmp_path / "drawn.py"
    drawn.write_text(
        "import os\nfrom torch import nn, tensor\n\n\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        seed = int.from_bytes(os.urandom(3), 'big')\n"
        "        self.gain = nn.Parameter(tensor(float(seed)))\n\n"
        "    def forward(self, x):\n"
        "        return self.gain * x.repeat_interleave(2, -1).repeat_interleave(2, -2)\n"
    )
    with pytest.raises(AssertionError, match="another digest when it is opened again"):
        check_teacher(Module(code=f"{drawn}:Net"))
