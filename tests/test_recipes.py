"""Every recipe is what the papers' tables need; all methods of a family train alike."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from dukd import networks
from dukd.core.registry import known
from dukd.data import datasets
from dukd.data.pairs import find_pairs
from dukd.methods import (
    DUKD,
    FAKD,
    FrugalDUKD,
    Logits,
    Method,
    ReleasedDUKD,
    Scratch,
    ZoomIn,
    ZoomOut,
)
from dukd.methods.base import needs_teacher
from dukd.networks import (
    CompactConfig,
    EDSRConfig,
    PlainConfig,
    SMFANetConfig,
    SPANConfig,
    SwinIRConfig,
)
from dukd.networks.files import weights
from dukd.recipes.families import FAMILIES, config_of, method_named, names, recipe
from dukd.recipes.students import STUDENT_SCALES
from dukd.training.experiment import Experiment
from dukd.training.schedule import rate_factor
from dukd.training.teachers import File

METHODS = sorted(
    name for name in known(Method) if known(Method)[name].__module__.startswith("dukd.")
)


def make(name: str) -> Experiment:
    return recipe(name).make()


@pytest.mark.parametrize("name", names())
def test_every_name_makes_a_network_that_can_be_built(name: str) -> None:
    experiment = make(name)

    with torch.device("meta"):
        network = experiment.student.build()

    assert network.scale == int(name.split("-x")[1][0])
    assert (experiment.teacher is None) == name.endswith("-scratch")
    assert recipe(name).name == name
    assert recipe(name).about


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_end_a_name(method: str) -> None:
    assert make(f"edsr-x2-{method}").method.name == method
    assert method_named(method).label == method


PARAMETERS = {
    ("edsr", 2): 2_551_555,
    ("edsr", 3): 2_736_195,
    ("edsr", 4): 2_699_267,
    ("rcan", 2): 5_023_603,
    ("rcan", 3): 5_208_243,
    ("rcan", 4): 5_171_315,
    ("swinir", 2): 1_087_727,
    ("swinir", 3): 1_272_367,
    ("swinir", 4): 1_235_439,
    ("edsr-teacher", 2): 40_729_603,
    ("edsr-teacher", 4): 43_089_923,
    ("rcan-teacher", 4): 15_592_355,
    ("swinir-teacher", 4): 11_900_199,
}


@pytest.mark.parametrize(("family", "scale"), PARAMETERS)
def test_students_have_the_sizes_of_the_tables(family: str, scale: int) -> None:
    """methods.md section 3.3."""
    with torch.device("meta"):
        count = make(f"{family}-x{scale}-scratch").student.build().parameter_count()

    assert count == PARAMETERS[family, scale]


def test_the_swinir_student_is_60_wide_at_x2_too() -> None:
    """The released configuration says 18 (methods.md D10)."""
    student = make("swinir-x2-dukd").student

    assert isinstance(student, SwinIRConfig)
    assert student.width == 60


TABLE = {
    ("edsr", 2): (5, 2),
    ("edsr", 3): (5, 1),
    ("edsr", 4): (5, 1),
    ("rcan", 2): (1, 1),
    ("rcan", 3): (2, 1),
    ("rcan", 4): (1, 1),
    ("swinir", 2): (5, 1),
    ("swinir", 3): (5, 1),
    ("swinir", 4): (5, 1),
}
"""Weight of the ground truth beside 1, and windows: methods.md section 3.2."""
LEFT_OUT = {("rcan", 2), ("rcan", 4), ("swinir", 2), ("swinir", 3), ("swinir", 4)}
"""Where the released configurations have no zoom out (methods.md D7)."""


@pytest.mark.parametrize(("family", "scale"), TABLE)
def test_dukd_has_the_weights_of_the_table_and_is_the_full_method(family: str, scale: int) -> None:
    weight, windows = TABLE[family, scale]

    assert make(f"{family}-x{scale}-dukd").method == DUKD(
        base=Logits(reconstruction=weight, imitation=1),
        upcyclings=(
            ZoomIn(imitation=1, windows=windows),
            ZoomOut(imitation=1, reconstruction=weight),
        ),
        consistency=0.3,
    )


@pytest.mark.parametrize(("family", "scale"), TABLE)
def test_the_released_form_leaves_out_what_its_configurations_leave_out(
    family: str, scale: int
) -> None:
    weight, windows = TABLE[family, scale]
    method = make(f"{family}-x{scale}-dukd-released").method
    less = (family, scale) in LEFT_OUT

    assert isinstance(method, ReleasedDUKD)
    assert method.base == Logits(reconstruction=weight, imitation=1)
    zoom_out = () if less else (ZoomOut(imitation=1, reconstruction=weight, consistent=False),)
    zoom_in = ZoomIn(imitation=1, windows=windows, placement="tiles")
    assert method.upcyclings == (zoom_in, *zoom_out)
    assert method.consistency == (0 if family == "rcan" and less else 0.3)
    assert method.two_steps


def test_the_logits_baseline_weighs_both_alike() -> None:
    """methods.md section 3.2: KD is 1 : 1."""
    assert make("edsr-x4-logits").method == Logits(reconstruction=1, imitation=1)


def test_frugal_upcycling_has_the_weights_too_and_stays_frugal() -> None:
    method = make("edsr-x2-dukd-frugal").method

    assert isinstance(method, FrugalDUKD)
    assert method.base == Logits(reconstruction=5)
    assert method.upcyclings == (ZoomOut(imitation=1, reconstruction=5),)


@pytest.mark.parametrize("family", ["edsr", "rcan", "swinir"])
def test_the_protocol_of_the_tables(family: str) -> None:
    """methods.md section 3.1."""
    experiment = make(f"{family}-x4-dukd")
    data, optimization, evaluation = experiment.data, experiment.optimization, experiment.evaluation

    assert (data.patch, data.batch, data.flips, data.rotations) == (48, 16, True, True)
    assert (optimization.learning_rate, optimization.betas, optimization.weight_decay) == (
        1e-4,
        (0.9, 0.99),
        0,
    )
    assert (optimization.warm_up, optimization.ema, optimization.seed, optimization.warm_start) == (
        0,
        0.999,
        10,
        None,
    )
    assert evaluation.every == 5_000
    steps = [0, 99_999, 100_000, 199_999, 200_000, 249_999]
    assert optimization.steps == 250_000
    assert [rate_factor(optimization, s) for s in steps] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"edsr-warm"}))
def test_every_method_of_a_family_is_trained_alike(family: str) -> None:
    """A published baseline had another schedule than the method compared (methods.md D20)."""
    first, *others = [
        make(f"{family}-x2-{method}")
        for method in ("dukd", "scratch", "logits", "fakd", "fakd+dukd")
    ]

    for other in others:
        teacher = first.teacher if needs_teacher(other.method, 2) else None
        assert other == replace(first, method=other.method, teacher=teacher)


def test_the_best_student_is_chosen_on_no_test_set() -> None:
    """methods.md D22."""
    for name in names():
        first = make(name).evaluation.sets[0]
        assert first.name not in datasets.TEST_SETS
        assert "valid" in str(first)


def test_folders_are_where_the_data_sets_unpack(tmp_path: Path) -> None:
    """DIV2K's folder holds two sets; its parts have to be named."""
    for part in ("train", "valid"):
        folder = tmp_path / "datasets" / "DIV2K" / f"DIV2K_{part}_HR"
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "0001.png")
    experiment = make("edsr-x2-dukd")

    assert len(find_pairs(tmp_path / experiment.data.train, scale=2)) == 1
    assert len(find_pairs(tmp_path / experiment.evaluation.sets[0], scale=2)) == 1
    assert [path.name for path in experiment.evaluation.sets[1:]] == [
        "Set5",
        "Set14",
        "BSD100",
        "Urban100",
    ]


@pytest.mark.parametrize("method", ["dukd", "logits", "scratch", "fakd+dukd"])
def test_edsr_x4_can_start_from_the_x2_student_of_the_same_method(method: str) -> None:
    """26.45 dB on Urban100 with, 26.32 dB without (methods.md 4.4); baselines start warm too."""
    warm, cold = make(f"edsr-warm-x4-{method}"), make(f"edsr-x4-{method}")

    assert (
        warm.optimization.warm_start == Path("runs") / f"edsr-x2-{method}" / "student.safetensors"
    )
    assert replace(warm, optimization=cold.optimization) == cold
    assert replace(warm.optimization, warm_start=None) == cold.optimization


def test_pairs_across_architectures() -> None:
    edsr, rcan, swinir = (make(f"{family}-x4-dukd") for family in ("edsr", "rcan", "swinir"))

    assert make("rcan-from-edsr-x4-dukd") == replace(rcan, teacher=edsr.teacher)
    assert make("rcan-from-swinir-x4-dukd") == replace(rcan, teacher=swinir.teacher)
    assert make("edsr-from-swinir-x4-dukd") == replace(edsr, teacher=swinir.teacher)


@pytest.mark.parametrize("family", ["small", "tiny"])
def test_small_families_are_for_a_computer_without_a_gpu(family: str) -> None:
    experiment = make(f"{family}-x2-dukd")

    assert isinstance(experiment.student, EDSRConfig)
    assert experiment.student.build().parameter_count() < 150_000
    assert experiment.optimization.steps <= 5_000
    assert experiment.student.skip == "nearest"


def test_a_plus_joins_any_method_with_upcycling() -> None:
    method = make("edsr-x4-fakd+dukd").method

    assert method == DUKD(
        base=FAKD(),
        upcyclings=(ZoomIn(imitation=0.1), ZoomOut(imitation=0.1, reconstruction=0.5)),
    )
    assert method.label == "fakd+dukd"
    assert method_named("scratch+dukd") == DUKD(base=Scratch())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("edsr-x4-duk", "there is no method 'duk'; did you mean dukd?"),
        ("esdr-x4-dukd", "there is no recipe for 'esdr'; did you mean edsr?"),
        ("edsr-x5-dukd", "the recipes for edsr are for x2, x3, x4, x8, but got x5"),
        ("small-x4-dukd", "the recipes for small are for x2, but got x4"),
        ("edsr-warm-x2-dukd", "the recipes for edsr-warm are for x4, but got x2"),
        (
            "edsr-dukd-x4",
            "such as edsr-x4-dukd, but got 'edsr-dukd-x4'; did you mean edsr-x4-dukd?",
        ),
        ("", "such as edsr-x4-dukd, but got ''"),
        ("edsr-x4-fakd+dukt", "there is no method 'dukt'; did you mean dukd?"),
        ("edsr-x4-fakd+", "a plus joins a method"),
        ("edsr-x4-dukd+dukd", "a plus joins a method that does not upcycle with dukd"),
        ("edsr-x4-fakd+logits", "a plus joins a method"),
    ],
)
def test_names_that_are_no_recipe(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("+", r"\+").replace("?", r"\?")):
        recipe(name)


def test_what_recipes_teachers_are_is_known_without_their_files() -> None:
    """`dukd bench step` measures them with random weights."""
    for name in names():
        experiment = make(name)
        if experiment.teacher is not None:
            config = config_of(experiment.teacher, experiment.student.scale)
            assert config is not None, name
            assert config.scale == experiment.student.scale
    assert config_of(File(weights=Path("mine_x2.pth")), 2) is None


def test_the_files_at_hand_hold_what_recipes_say(real_data: Path) -> None:
    for name in ("small-x2-dukd", "tiny-x3-dukd"):
        experiment = make(name)
        teacher = experiment.teacher
        assert isinstance(teacher, File)
        read = weights.read(
            real_data / "weights" / teacher.weights.name,
            value_range=teacher.value_range,
            mean=teacher.mean,
            residual_scale=teacher.residual_scale,
        )
        assert read.config == config_of(teacher, experiment.student.scale)


# Students that people run

FOLDED = {
    "compact": (CompactConfig, 600_652, 621_424, 704_512),
    "compact-big": (CompactConfig, 1_192_524, 1_213_296, 1_296_384),
    "compact-ultra": (CompactConfig, 304_716, 325_488, 408_576),
    "compact-super-ultra": (CompactConfig, 45_156, 52_968, 84_216),
    "span": (SPANConfig, 141_580, 150_688, 187_120),
    "smfanet": (SMFANetConfig, 185_628, 197_328, 244_128),
    "plain": (PlainConfig, 45_156, 52_968, 84_216),
    "plain-small": (PlainConfig, 11_548, 16_768, 37_648),
    "plain-large": (PlainConfig, 78_636, 89_040, 130_656),
}
"""Parameters at x2, x4 and x8. Published are Compact x4 64 x 16 and 64 x 32, SPAN x4 of 28 channels
and SMFANet x4 (197K)."""


@pytest.mark.parametrize("family", FOLDED)
def test_students_that_people_run_have_their_sizes_once_folded(family: str) -> None:
    kind, *counts = FOLDED[family]
    students = [make(f"{family}-x{scale}-dukd").student for scale in (2, 4, 8)]

    assert {type(student) for student in students} == {kind}
    assert [s.build().folded().parameter_count() for s in students] == counts


@pytest.mark.parametrize("family", FOLDED)
def test_their_teachers_are_public_at_every_scale(family: str) -> None:
    teachers = {
        scale: teacher.weights.name
        for scale in STUDENT_SCALES
        if isinstance(teacher := make(f"{family}-x{scale}-dukd").teacher, File)
    }

    assert teachers == {
        1: "006_colorCAR_DFWB_s126w7_SwinIR-M_jpeg40.pth",
        2: "smfanet_plus_df2k_x2.pth",
        3: "smfanet_plus_df2k_x3.pth",
        4: "smfanet_plus_df2k_x4.pth",
        8: "RCAN_BIX8.pt",
    }


def test_they_train_at_the_rate_of_networks_of_their_size_down_to_nothing() -> None:
    for family in FOLDED:
        o = make(f"{family}-x4-dukd").optimization
        rates = [o.learning_rate * rate_factor(o, o.steps * k // 4) for k in range(4)]
        if o.schedule == "cosine":
            assert rates == pytest.approx([5e-4, 4.27e-4, 2.5e-4, 0.73e-4], rel=1e-2)
        else:
            assert (o.steps, o.learning_rate, o.schedule) == (2_500, 2e-3, "one-cycle")


def test_recipes_at_scale_1_restore() -> None:
    """With bicubic interpolation the input would be the ground truth."""
    for family in FOLDED:
        data = make(f"{family}-x1-dukd").data
        assert data.degradation.name == "jpeg-40"
        assert make(f"{family}-x2-dukd").data.degradation.name == "bicubic"


def test_edsr_at_x8_learns_from_rcan() -> None:
    teacher, scale = make("edsr-x8-dukd").teacher, 8
    assert isinstance(teacher, File)
    assert teacher.weights == Path("weights/RCAN_BIX8.pt")
    assert config_of(teacher, scale) == networks.rcan_teacher(scale)
