"""Students by name and by budget, and who opens what is written of them."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from dukd.cli import run
from dukd.cli.students import with_student
from dukd.deploy import Weights, export
from dukd.networks import (
    CompactConfig,
    EDSRConfig,
    ExitsConfig,
    NetworkConfig,
    PlainConfig,
    QuantizedConfig,
    RRDBConfig,
    SPANConfig,
    SwinIRConfig,
    macs,
)
from dukd.networks.branches import Branches
from dukd.networks.files import foreign, weights
from dukd.networks.files.openers import opening
from dukd.networks.quantize.calibrate import in_float
from dukd.recipes import recipe, scales_of
from dukd.recipes.budget import parsed_count, student_named, within
from dukd.training.quantizing import warm_start

START = recipe("tiny-x2-scratch").make()


# By name


def test_a_name_stands_for_the_usual_student_of_any_recipe() -> None:
    for scale in (1, 2, 3, 4, 8):
        assert student_named("compact", scale) == CompactConfig(scale=scale, width=64, blocks=16)
        assert student_named("span", scale) == SPANConfig(scale=scale, width=28)
    assert student_named("edsr", 4).build().parameter_count() == 2_699_267


def test_options_take_the_place_of_the_recipes_student() -> None:
    experiment, rest, choice = with_student(
        START, ["--student", "compact", "--student.width", "8", "--out=x"]
    )

    assert experiment == replace(START, student=CompactConfig(scale=2))
    assert rest == ["--student.width", "8", "--out=x"]
    assert choice is None
    assert with_student(START, ["-o", "x"]) == (START, ["-o", "x"], None)


def test_a_student_in_8_bits_stays_in_8_bits() -> None:
    start = recipe("tiny-x2-scratch-int8").make()
    experiment, _, _ = with_student(start, ["--student=compact"])

    assert isinstance(experiment.student, QuantizedConfig)
    assert experiment.student.network == CompactConfig(scale=2)


# By budget


def test_a_budget_is_filled_at_the_usual_proportion() -> None:
    """64 channels for 16 blocks is 4 to 1: 40 for 9 is 4.4, 36 for 12 is 3.0."""
    choice = within(student_named("compact", 2), 150_000)

    assert choice.chosen.config == CompactConfig(scale=2, width=40, blocks=9)
    assert choice.chosen.parameters == 135_812
    assert [c.config.width for c in choice.considered] == [32, 36, 40, 44, 48]
    assert all(c.parameters <= 150_000 for c in choice.considered)
    network = choice.chosen.config.build()
    assert choice.chosen.macs == macs(network, 360, 640)
    one_more = CompactConfig(scale=2, width=40, blocks=10).build().parameter_count()
    assert one_more == 150_292  # would not fit


def test_what_counts_is_the_network_once_folded() -> None:
    chosen = within(student_named("plain", 2), 45_156).chosen

    assert chosen.config == PlainConfig(scale=2, width=24, blocks=8)
    assert chosen.config.build().parameter_count() > 4 * chosen.parameters


def test_what_is_given_is_not_chosen() -> None:
    given = {"width": 16, "blocks": None}, {"width": None, "blocks": 4}
    chosen = [within(student_named("compact", 2), 50_000, **one).chosen.config for one in given]

    assert chosen[0] == CompactConfig(scale=2, width=16, blocks=20)
    assert chosen[1] == CompactConfig(scale=2, width=32, blocks=4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--student", "compct"], "no network 'compct' for a student; did you mean compact"),
        (["--student"], "--student takes a value, as in --student compact"),
        (["--student.max-parameters", "many"], "such as 150000, 150k or 1.2M, but got 'many'"),
        (
            ["--student", "compact", "--student.max-parameters", "500"],
            "fits into 500 parameters: Compact x2, 4 channels, 1 convolutions has 712",
        ),
        (
            ["--student.max-parameters", "9k", "--student.width", "wide"],
            "--student.width is a whole number, but got 'wide'",
        ),
    ],
)
def test_mistakes_are_sentences(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_student(START, arguments)


def test_numbers_of_parameters_are_read_as_people_write_them() -> None:
    counts = [parsed_count(text) for text in ("150000", "150_000", "150k", "1.2M", "0.5m")]
    assert counts == [150_000, 150_000, 150_000, 1_200_000, 500_000]


def test_the_choice_and_who_opens_it_are_shown_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "train tiny-x2-scratch --student compact --student.max-parameters 45_156"
    code = run([*line.split(), "--data.train", str(tmp_path), "--device", "cpu", "-o", "x"])
    said = capsys.readouterr()

    assert code != 0  # there are no images
    assert "24 channels, 8 convolutions" in said.out
    assert "45,156" in said.out
    assert "chaiNNer and others that use spandrel open it" in said.err


# Who opens it

OPENED = {"compact", "compact-big", "compact-ultra", "compact-super-ultra", "span", "plain"}
OPENED |= {"plain-small", "plain-large", "rcan", "swinir"}
CLOSED = {"edsr", "small", "tiny", "smfanet"}
FORMS = [
    (family, scale)
    for family in sorted(OPENED)
    for scale in (scales_of(family) if family not in {"rcan", "swinir"} else (2,))
]


@pytest.mark.parametrize(("family", "scale"), FORMS)
@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")
def test_spandrel_opens_the_students_of_recipes_and_gives_equal_images(
    family: str, scale: int, tmp_path: Path
) -> None:
    if (spandrel := foreign.library()) is None:
        pytest.skip("spandrel or einops is not installed")
    config = recipe(f"{family}-x{scale}-scratch").make().student
    assert opening(config).layouts
    network = config.build().frozen()
    weights.write(tmp_path / "a.pth", network, layout=Weights().chosen(network, Path("a.pth")))

    model = spandrel.ModelLoader().load_from_file(tmp_path / "a.pth").eval()

    assert model.scale == scale
    lr = torch.rand(1, 3, 16, 18)
    seen = model(lr.clone())  # its RCAN multiplies its input in place
    assert_close(seen, network(lr).clamp(0, 1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", sorted(CLOSED))
def test_what_no_program_opens_is_said_and_is_so(family: str, tmp_path: Path) -> None:
    spandrel = foreign.library()
    config = recipe(f"{family}-x2-scratch").make().student
    assert opening(config).layouts == ()
    assert "no program that uses spandrel, such as chaiNNer, opens it" in str(opening(config))
    if spandrel is None:
        pytest.skip("spandrel or einops is not installed")
    for layout in config.layouts():
        plain = replace(config, skip="none") if isinstance(config, EDSRConfig) else config
        path = tmp_path / f"{layout.name}.pth"
        weights.write(path, plain.build(), layout=layout.name)
        with pytest.raises(spandrel.UnsupportedModelError):
            spandrel.ModelLoader().load_from_file(path)


SWINIR = SwinIRConfig(scale=1, width=12, depths=(2,), heads=(2,), upsampler="none")


@pytest.mark.parametrize(
    ("config", "opens"),
    [
        (CompactConfig(scale=2, activation="relu"), False),
        (RRDBConfig(scale=4), True),
        (RRDBConfig(scale=4, growth=16), False),
        (SPANConfig(scale=2, mean=(0.0, 0.0, 0.0)), False),
        (SPANConfig(scale=2, folded=True), True),
        (replace(SWINIR, window=7, value_range=255.0), True),
        (replace(SWINIR, window=7), False),
        (replace(SWINIR, window=8, value_range=255.0), False),
        (QuantizedConfig(network=CompactConfig(scale=2)), False),
    ],
)
def test_numbers_that_other_programs_do_not_know_close_a_file(
    config: NetworkConfig, opens: bool
) -> None:
    assert bool(opening(config).layouts) == opens


@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")
def test_spandrel_opens_the_network_against_jpeg(tmp_path: Path) -> None:
    """Its window of 7 is odd, by which spandrel knows its range."""
    if (spandrel := foreign.library()) is None:
        pytest.skip("spandrel or einops is not installed")
    network = replace(SWINIR, window=7, value_range=255.0).build().frozen()
    export(network, tmp_path / "a.pth", Weights())

    model = spandrel.ModelLoader().load_from_file(tmp_path / "a.pth").eval()

    lr = torch.rand(1, 3, 21, 30)
    assert_close(model(lr), network(lr).clamp(0, 1), rtol=1e-4, atol=1e-4)


# Branches


def test_gradients_through_the_fold_are_those_through_the_branches() -> None:
    """All is linear; a step with one convolution costs a quarter."""
    branches = Branches(3, 5).double()
    x = torch.rand(2, 3, 6, 7, dtype=torch.float64)
    parts = list(branches.parameters())
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    slow = branches.conv(padded) + branches.sk(x)
    expected = torch.autograd.grad(slow.square().sum(), parts)

    found = torch.autograd.grad(branches(x).square().sum(), parts)

    assert_close(found, expected, rtol=1e-9, atol=1e-9)


# Branches that train

BRANCHED = (PlainConfig(scale=2, width=8, blocks=2), SPANConfig(scale=2, width=8))


@pytest.mark.parametrize(
    "config",
    [
        *BRANCHED,
        replace(BRANCHED[1], folded=True),
        *(ExitsConfig(network=inside) for inside in BRANCHED),
        CompactConfig(scale=2, width=8, blocks=2),
        EDSRConfig(scale=2, width=8, blocks=2),
    ],
    ids=NetworkConfig.describe,
)
def test_numbers_fold_as_their_network_does(config: NetworkConfig) -> None:
    network = config.build()
    drawn = torch.get_rng_state()

    assert config.deployed() == network.folded().config
    assert config.deployed().deployed() == config.deployed()
    torch.set_rng_state(drawn)
    assert network.deployed_parameter_count() == network.folded().parameter_count()
    torch.set_rng_state(drawn)
    network.deployed_parameter_count()
    assert torch.equal(torch.get_rng_state(), drawn), "counting draws nothing"


@pytest.mark.parametrize("config", BRANCHED, ids=NetworkConfig.describe)
def test_a_student_without_branches_starts_from_one_that_had_them(
    config: NetworkConfig, tmp_path: Path
) -> None:
    """In float and in 8 bits, where only what is folded has convolutions."""
    trained, path, lr = config.build().frozen(), tmp_path / "a.safetensors", torch.rand(1, 3, 9, 11)
    weights.write(path, trained)
    plain = config.deployed().build().eval()
    few = QuantizedConfig(network=config, target="onnxruntime").build().eval()

    for student in (plain, few):
        assert "the student starts with" in warm_start(student, path)
        with torch.no_grad(), in_float(student) if student is few else nullcontext():
            assert_close(student(lr), trained(lr), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["plain", "plain-small", "span"])
def test_a_recipe_in_8_bits_is_of_the_folded_network(family: str) -> None:
    student = recipe(f"{family}-x2-logits-int8").make().student

    assert isinstance(student, QuantizedConfig)
    assert student.network == recipe(f"{family}-x2-logits").make().student.deployed()
    assert student.build().parameter_count() > 0
