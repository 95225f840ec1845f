"""Where the authors' codes and ours were found to differ, each with the value that settles it."""

import math
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, mse_loss, normalize, softplus
from torch.testing import assert_close

from dukd.images.resize import upscale
from dukd.methods import AT, DUKD, FAKD, VID, Aggregation, Logits, Scratch, SlimmableCSD
from dukd.methods.at import energy
from dukd.methods.crd import contrast
from dukd.methods.csd import enlarged
from dukd.methods.features import unit
from dukd.methods.haar import haar
from dukd.methods.slimmable import Wider
from dukd.networks import EDSRConfig, SwinIRConfig, edsr_baseline, edsr_student, edsr_teacher
from dukd.networks.files import weights
from dukd.recipes import FAMILIES, recipe
from dukd.testing.cases import PAIRS, Case
from dukd.training import loop
from dukd.training.assemble import assemble
from dukd.training.experiment import Experiment
from tiny_runs import digest, experiment, prepare

SWINIR = SwinIRConfig(
    scale=2,
    width=8,
    depths=(2,),
    heads=(2,),
    window=4,
    stochastic_depth=0.5,
    upsampler="pixelshuffledirect",
)


def interrupt(record: dict[str, object]) -> None:
    if record["kind"] == "step" and record["step"] == 5:
        signal.raise_signal(signal.SIGINT)


def make(name: str) -> Experiment:
    return recipe(name).make()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return prepare(tmp_path_factory.mktemp("runs"))


# 1. SwinIR's stochastic depth


@pytest.mark.parametrize("family", ["swinir", "swinir-teacher"])
def test_swinir_trains_with_the_stochastic_depth_that_the_papers_students_had(family: str) -> None:
    """BasicSR's default, which no configuration of DUKD or DCKD sets: 0 to 0.1 over the layers."""
    student = make(f"{family}-x2-dukd").student
    assert isinstance(student, SwinIRConfig)
    with torch.device("meta"):
        network = student.build()
    chances = [layer.drop for layer in network.modules() if hasattr(layer, "drop")]

    assert (chances[0], chances[-1]) == (0, pytest.approx(0.1))
    assert chances == pytest.approx([0.1 * i / (len(chances) - 1) for i in range(len(chances))])


def test_what_swinir_leaves_out_is_the_same_after_a_resume(folder: Path, tmp_path: Path) -> None:
    whole = experiment(
        folder,
        student=SWINIR,
        method=Scratch(),
        teacher=None,
        optimization__steps=7,
        evaluation__sets=(),
    )
    loop.train(whole, tmp_path / "calm")
    with pytest.raises(loop.Interrupted):
        loop.train(whole, tmp_path / "run", observe=interrupt)
    loop.train(whole, tmp_path / "run", resume=True)

    assert digest(tmp_path / "run") == digest(tmp_path / "calm")


def test_what_swinir_leaves_out_hangs_on_the_micro_batch_and_not_on_who_computes_it(
    folder: Path,
) -> None:
    """Ranks share micro-batches: each draws by its number, in any order and any process."""
    parts = experiment(
        folder, student=SWINIR, method=Scratch(), teacher=None, optimization__accumulate=2
    )
    training = assemble(parts)
    lr, hr = training.share.patches.batch(0)

    def losses(order: tuple[int, ...]) -> dict[int, Tensor]:
        micro_batches = training.share.split(0, lr, hr)
        return {
            n: training.objective.losses(micro_batches[n])["reconstruction"].detach() for n in order
        }

    both = losses((0, 1))
    assert losses((1, 0)) == both
    assert losses((1,))[1] == both[1]


# 2. Upcycled inputs in units of the pair


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("family", ["edsr", "rcan", "swinir", "tiny"])
def test_logits_with_dukd_is_dukd(family: str, scale: int) -> None:
    assert make(f"{family}-x{scale}-logits+dukd") == make(f"{family}-x{scale}-dukd")


def test_what_is_upcycled_stands_to_the_pair_as_in_dukd() -> None:
    """EDSR x4 has 5 on the pair, 1 and 5 beside it; FAKD 0.5 on the pair, so 0.1 and 0.5."""
    for name in ("dukd", "fakd+dukd", "scratch+dukd", "mtkd+dukd"):
        method = make(f"edsr-x4-{name}").method
        assert isinstance(method, DUKD)
        unit = getattr(method.base, "reconstruction", 1.0)
        zoom_in, zoom_out = method.upcyclings
        assert zoom_in.imitation == pytest.approx(unit / 5)
        assert zoom_out.imitation == pytest.approx(unit / 5)
        assert zoom_out.reconstruction == pytest.approx(unit)
    small = make("small-x2-fakd+dukd").method
    assert isinstance(small, DUKD)
    assert [u.imitation for u in small.upcyclings] == [0.5, 0.5]


def test_weights_that_were_chosen_stay() -> None:
    mine = DUKD(base=Logits(reconstruction=2), consistency=0.5)

    assert FAMILIES["edsr"](4, mine).method == mine


# 3. Equal pixels


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("edsr-x2", 812_500),  # 1 + 2 windows + 1/4
        ("edsr-x4", 515_625),  # 1 + 1 + 1/16
        ("rcan-x2", 562_500),
        ("small-x2", 5_625),
    ],
)
def test_equal_pixels_count_every_window(name: str, steps: int) -> None:
    assert make(f"{name}-logits-equal-pixels").optimization.steps == steps


# 4. CSD from a trained wide network


def test_csd_begins_in_the_first_quarter_of_the_wide_network(tmp_path: Path) -> None:
    """slim_contrast_trainer.py loads --teacher_model, whose first quarter is the student."""
    wide = EDSRConfig(scale=2, width=16, blocks=2).build()
    weights.write(tmp_path / "wide.safetensors", wide)
    student = EDSRConfig(scale=2, width=4, blocks=2).build()
    method = SlimmableCSD(wide_weights=tmp_path / "wide.safetensors")
    around = method.state(student, None).get_submodule("wider")
    assert isinstance(around, Wider)
    lr = torch.rand(1, 3, 8, 8)

    assert torch.equal(student.body[1].conv2.weight, wide.body[1].conv2.weight[:4, :4])
    assert torch.equal(student.conv_last.bias, wide.conv_last.bias)
    assert torch.equal(around(student, lr), wide(lr))
    assert method.resumed() == SlimmableCSD()


def test_csds_recipe_begins_from_its_teacher_and_others_from_nothing(tmp_path: Path) -> None:
    method = make("edsr-x4-csd-slimmable").method
    assert isinstance(method, SlimmableCSD)
    assert method.wide_weights == make("edsr-x4-csd").teacher.weights
    assert replace(edsr_student(4), width=4 * 64) == edsr_teacher(4)
    assert make("small-x2-csd-slimmable").method == SlimmableCSD()
    other = EDSRConfig(scale=2, width=12, blocks=2).build()
    weights.write(tmp_path / "other.safetensors", other)
    narrow = EDSRConfig(scale=2, width=4, blocks=2).build()
    with pytest.raises(ValueError, match="required is EDSR x2, 16 channels"):
        SlimmableCSD(wide_weights=tmp_path / "other.safetensors").state(narrow, None)


# 5. MTKD's wavelet distance


def test_the_details_of_a_level_are_one_mean() -> None:
    """The authors' dwtLoss; a sum of three means, as here before, is three times that."""
    case = Case.of(Aggregation(levels=2), PAIRS["edsr-edsr"])
    (pair,) = case.seen(case.method, case.batch())
    coarse, *first = haar(pair.student.sr - case.hr)
    coarsest, *second = haar(coarse)
    expected = sum(torch.stack(bands).abs().mean() for bands in (first, second, [coarsest]))

    assert_close(case.losses()["wavelet"], expected)


def test_every_image_of_a_batch_is_compared() -> None:
    """methods.md D53: theirs compares the coarsest approximation of one image of the batch."""
    case = Case.of(Aggregation(), PAIRS["edsr-edsr"])
    before = case.losses()["wavelet"]
    for image in range(2):
        hr = case.hr.clone()
        hr[image] += 0.1
        changed = replace(case, hr=hr)
        assert (changed.losses()["wavelet"] - before).abs() > 1e-3


# 6. CRD


def reference(ours: Tensor, theirs: Tensor, *, constant: bool) -> Tensor:
    """Both directions of the noise-contrastive loss, with Z the mean over all pairs."""
    logits = ours @ theirs.mT / 0.07
    mean = (logits.detach() if constant else logits).exp().mean().log()
    odds = logits - mean - math.log(len(ours) - 1)
    same = torch.eye(len(ours), dtype=torch.bool)
    one = [softplus(torch.where(same, -o, o)).sum(1).mean() for o in (odds, odds.mT)]
    return one[0] + one[1]


def test_the_normalizer_is_a_constant_and_both_directions_are_added() -> None:
    torch.manual_seed(2)
    raw = torch.randn(12, 8, dtype=torch.float64, requires_grad=True)
    theirs = unit(torch.randn(12, 8, dtype=torch.float64))

    def gradient(loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, raw, retain_graph=True)[0].flatten()

    ours = unit(raw)
    value = contrast(ours, theirs, temperature=0.07)
    as_there, through = (reference(ours, theirs, constant=c) for c in (True, False))

    assert_close(value, as_there)
    assert_close(gradient(value), gradient(as_there))
    assert_close(value, through)  # the value does not tell them apart, the gradient does
    assert cosine_similarity(gradient(through), gradient(as_there), dim=0) < 0.99


# 7. FAKD's taps


@pytest.mark.parametrize(
    ("config", "depths", "expected"),
    [
        (edsr_student(4), (10 / 33, 21 / 33, 1.0), (10, 21, 33)),  # He et al., 32 blocks
        (edsr_baseline(4), (5 / 17, 10 / 17, 1.0), (5, 10, 17)),  # He et al., 16 blocks
        (edsr_student(4), FAKD().depths, (11, 22, 33)),  # DUKD's copy
        (edsr_student(4), (0.0, 1 / 3, 2 / 3, 1.0), (0, 11, 22, 33)),  # with conv_first
    ],
)
def test_taps_are_those_of_the_published_codes(config, depths, expected) -> None:
    network = replace(config, width=2).build()
    lr = torch.rand(1, 3, 4, 4)
    read, (_, row) = network.observe(lr, depths).features, network.run(lr, range(34))
    assert all(torch.equal(f, row[n]) for f, n in zip(read, expected, strict=True))


def test_taps_are_an_option_of_recipes() -> None:
    he, four = (make(f"edsr-x4-{name}").method for name in ("fakd-he", "fakd-four"))

    assert he == FAKD(depths=(10 / 33, 21 / 33, 1.0))
    assert four == FAKD(depths=(0.0, 1 / 3, 2 / 3, 1.0))
    assert "affinity" in Case.of(four, PAIRS["edsr-edsr"]).losses()


# 8. Smaller ones


def test_attention_has_the_papers_half() -> None:
    """The authors' code has none: their beta of 1000 is 2000 here."""
    ours, theirs = torch.rand(2, 2, 5, 6, 6).unbind(0)
    as_there = 1000 * mse_loss(*(normalize(f.square().mean(1).flatten(1)) for f in (ours, theirs)))

    assert_close(2000 / 2 * mse_loss(energy(ours), energy(theirs)), as_there)
    assert AT().attention == 1000


def test_vids_convolutions_have_no_bias_and_pisrs_have() -> None:
    networks = [EDSRConfig(scale=2, width=4, blocks=2).build() for _ in range(2)]
    gaussian, laplace = (VID(distribution=d).state(*networks) for d in ("gaussian", "laplace"))

    assert [name for name, _ in gaussian[0].named_parameters()] == [
        *("raw", "mean.0.weight", "mean.2.weight", "mean.4.weight"),
    ]
    assert "mean.0.bias" in dict(laplace[0].named_parameters())


def test_csds_negatives_are_enlarged_with_a_of_three_quarters() -> None:
    """Before an edge only the tail of Keys' kernel acts, which is proportional to its a."""
    step = torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1]).expand(1, 3, 8, 8).contiguous()

    def kernel(a: float) -> float:  # the overshoot before the step, at 1.75 and 0.75 from it
        return a * (1.25**3 - 5 * 1.25**2 + 8 * 1.25 - 4)

    torch_, matlab = (f(step, 2)[0, 0, 8, 6].item() for f in (enlarged, upscale))
    assert torch_ == pytest.approx(kernel(-0.75), abs=1e-6)
    assert matlab == pytest.approx(kernel(-0.5), abs=1e-6)


def test_a_warm_start_takes_the_raw_weights_and_its_average_the_averaged(
    folder: Path, tmp_path: Path
) -> None:
    """BasicSR: `params` start the network, `params_ema` its average."""
    start = experiment(folder, method=Scratch(), teacher=None)
    raw, average = (replace(start.student, skip="none").build() for _ in range(2))
    content = {"params": raw.state_dict(), "params_ema": average.state_dict()}
    torch.save(content, tmp_path / "start.pth")
    training = assemble(
        replace(start, optimization=replace(start.optimization, warm_start=tmp_path / "start.pth"))
    )
    student, averaged = training.state.student, training.state.averaged

    assert torch.equal(student.conv_first.weight, raw.conv_first.weight)
    assert torch.equal(averaged.conv_first.weight, average.conv_first.weight)
    assert torch.equal(
        weights.read(tmp_path / "start.pth").conv_first.weight, average.conv_first.weight
    )


def test_ablations_start_from_the_x2_student_of_the_same_ablation() -> None:
    warm = make("edsr-warm-x4-dukd-no-teacher").optimization.warm_start

    assert warm == Path("runs/edsr-x2-dukd-no-teacher/student.safetensors")
    assert make("edsr-x4-dukd-no-teacher").optimization.warm_start is None


def test_swinir_pads_as_basicsr_and_not_as_the_authors_test_script() -> None:
    """The script flips with the edge repeated, and adds a window where none is needed."""
    torch.manual_seed(0)
    config = SwinIRConfig(scale=2, width=8, depths=(2, 2), heads=(2, 2), window=4)
    network, lr = config.build().eval(), torch.rand(1, 3, 14, 12)

    def scripted(x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        tall = torch.cat([x, x.flip(2)], 2)[:, :, : (h // 4 + 1) * 4]
        both = torch.cat([tall, tall.flip(3)], 3)[..., : (w // 4 + 1) * 4]
        return network(both)[..., : 2 * h, : 2 * w]

    with torch.no_grad():
        ours, theirs = network(lr), scripted(lr)
        reflected = torch.nn.functional.pad(lr, (0, 0, 0, 2), mode="reflect")
        assert torch.equal(ours, network(reflected)[..., :28, :])
    assert (ours - theirs).square().mean().sqrt() / ours.std() > 0.01
    assert_close(ours[..., :4, :4], theirs[..., :4, :4])  # far from what was padded


# 9. The pair of AugKD's ablation


def test_the_ablations_pair_is_64_by_16() -> None:
    experiment = make("edsr-16-x4-dukd")

    assert experiment.student == edsr_baseline(4)
    assert replace(experiment, student=edsr_student(4)) == make("edsr-x4-dukd")
