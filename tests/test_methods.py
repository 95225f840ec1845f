"""What every method promises, on every pair of networks and every scale."""

import copy
import random

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import dukd.methods
from dukd.kinds import known
from dukd.methods import AT, DUKD, FAKD, Combined, Logits, Method, Scratch
from dukd.networks import EDSRConfig, RCANConfig, SwinIRConfig

PAIRS = {
    "edsr-edsr": (lambda s: EDSRConfig(scale=s, width=8, blocks=3), lambda s: EDSRConfig(scale=s, width=12, blocks=5)),
    "edsr-swinir": (
        lambda s: EDSRConfig(scale=s, width=8, blocks=3),
        lambda s: SwinIRConfig(scale=s, width=12, depths=(2, 2), heads=(2, 2), window=4),
    ),
    "swinir-rcan": (
        lambda s: SwinIRConfig(scale=s, width=8, depths=(2, 2), heads=(2, 2), window=4),
        lambda s: RCANConfig(scale=s, width=8, groups=2, blocks=2, squeeze=4),
    ),
}
METHODS: dict[str, Method] = {
    name: kind() for name, kind in known(Method).items() if kind.__module__.startswith("dukd.")
}
METHODS |= {
    "at+dukd": Combined(base=AT()),
    "fakd+dukd": Combined(base=FAKD()),
    "scratch+dukd": Combined(base=Scratch()),
}
SIGNED = {"mcir", "vid"}
"""Methods with a loss that may be negative: a distance to move away from, a logarithm of a variance."""

every_method = pytest.mark.parametrize("name", METHODS)
every_pair = pytest.mark.parametrize("pair", PAIRS)


class Case:
    """A method, a pair of networks and a batch."""

    def __init__(self, name: str, pair: str, scale: int, size: tuple[int, int] = (16, 16)) -> None:
        torch.manual_seed(5)
        self.method = METHODS[name]
        student, teacher = PAIRS[pair]
        self.student = student(scale).build().train()
        self.teacher = teacher(scale).build().frozen()
        try:
            self.extras = self.method.extras(self.student, self.teacher).train()
        except ValueError as error:
            assert len(str(error)) > 40, "a refusal says why, and what would serve"  # noqa: PT017
            pytest.skip(f"{name} does not serve {pair}: {error}")
        self.lr = torch.rand(2, 3, *size)
        self.hr = torch.rand(2, 3, size[0] * scale, size[1] * scale)

    def losses(self, seed: int = 1, method: Method | None = None):
        return (method or self.method).losses(
            student=self.student,
            teacher=self.teacher,
            extras=self.extras,
            lr=self.lr,
            hr=self.hr,
            rng=torch.Generator().manual_seed(seed),
        )


@every_method
@every_pair
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_losses_are_finite_scalars_that_teach_the_student_and_not_the_teacher(name, pair, scale):
    """A loss that is cut from the graph falls in the log and teaches nothing (methods.md D1, D16)."""
    case = Case(name, pair, scale)
    before = copy.deepcopy(case.teacher.state_dict())
    for part in case.method.parts:
        losses = case.losses(method=part)
        assert losses
        for term, loss in losses.items():
            assert loss.shape == (), f"{term} is no scalar"
            assert torch.isfinite(loss), f"{term} is {loss}"
            assert loss >= 0 or name in SIGNED, f"{term} is {loss}"
            parameters = list(case.student.parameters())
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            reached = sum(g is not None and bool(g.abs().sum() > 0) for g in gradients)
            assert reached, f"{term} has no gradient for the student"
        torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is None for p in case.teacher.parameters())
    assert not case.teacher.training
    for key, value in case.teacher.state_dict().items():
        assert torch.equal(value, before[key]), f"the teacher's {key} changed"


@every_method
def test_all_randomness_comes_from_rng(name):
    case = Case(name, "edsr-edsr", 2)
    part = case.method.parts[-1]
    first = case.losses(3, part)
    torch.manual_seed(99)
    torch.rand(5)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    second = case.losses(3, part)

    assert list(first) == list(second)
    for term in first:
        assert torch.equal(first[term], second[term]), f"{term} draws from elsewhere"


@every_method
def test_inputs_stay_as_they_are(name):
    case = Case(name, "edsr-edsr", 2)
    lr, hr = case.lr.clone(), case.hr.clone()
    for part in case.method.parts:
        case.losses(method=part)

    assert torch.equal(lr, case.lr)
    assert torch.equal(hr, case.hr)


@every_method
def test_patches_need_not_be_square(name):
    case = Case(name, "edsr-edsr", 2, size=(16, 24))
    for part in case.method.parts:
        assert all(torch.isfinite(loss) for loss in case.losses(method=part).values())


@every_method
def test_half_precision_passes_give_losses_near_those_of_full_precision(name):
    case = Case(name, "edsr-edsr", 2)
    exact = case.losses(method=case.method.parts[-1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = case.losses(method=case.method.parts[-1])
    for term, value in exact.items():
        # bfloat16 keeps 8 bits, and what a method compares is often a small difference of large numbers
        assert_close(rough[term].float(), value.float(), rtol=0.25, atol=0.05, msg=lambda m, t=term: f"{t}: {m}")


@every_method
def test_an_extra_that_trains_belongs_to_the_extras(name):
    """What trains beside the student must be reachable by the optimiser (methods.md D44)."""
    case = Case(name, "edsr-edsr", 2)
    losses = case.losses(method=case.method.parts[-1])
    trained = [p for p in case.extras.parameters() if p.requires_grad]
    if trained:
        total = torch.stack(list(losses.values())).sum()
        gradients = torch.autograd.grad(total, trained, allow_unused=True)
        assert any(g is not None and bool(g.abs().sum() > 0) for g in gradients)


@every_method
def test_a_method_is_a_frozen_value(name):
    method = METHODS[name]

    assert method == copy.deepcopy(method)
    assert hash(method) == hash(copy.deepcopy(method))
    with pytest.raises(AttributeError):
        method.anything = 1  # type: ignore[attr-defined]


@every_method
def test_a_step_of_the_optimiser_lowers_the_sum(name):
    """Twenty small steps on one batch, with the same draws: what is minimised is what is returned."""
    case = Case(name, "edsr-edsr", 2)
    part = case.method.parts[-1]
    parameters = [*case.student.parameters(), *(p for p in case.extras.parameters() if p.requires_grad)]
    optimiser = torch.optim.Adam(parameters, lr=1e-3)
    totals = []
    for _ in range(21):
        total = torch.stack(list(case.losses(7, part).values())).sum()
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        totals.append(total.item())

    assert totals[-1] < totals[0]


@every_method
def test_extras_survive_a_checkpoint(name):
    """What is kept beside the student is tensors by name, so that a run can be resumed."""
    case = Case(name, "edsr-edsr", 2)
    case.losses()
    case.method.after_step(student=case.student, extras=case.extras, step=1)
    again = Case(name, "edsr-edsr", 2)
    again.extras.load_state_dict(case.extras.state_dict())

    assert all(isinstance(v, torch.Tensor) for v in case.extras.state_dict().values())
    assert case.losses(2).keys() == again.losses(2).keys()


def test_every_method_has_a_name_of_its_own_and_a_sentence():
    for name, kind in known(Method).items():
        assert kind.name == name
        assert (kind.__doc__ or "").splitlines()[0].endswith(".")
    public = {getattr(dukd.methods, n) for n in dukd.methods.__all__} - {Method}
    assert {k for k in known(Method).values() if k.__module__.startswith("dukd.")} <= public


def test_a_combination_makes_no_second_pass():
    """FAKD + DUKD asks each network for each size of picture once (AugKD, table 8)."""
    case = Case("fakd+dukd", "edsr-edsr", 2)
    sizes: list[tuple[int, ...]] = []
    for network in (case.student, case.teacher):
        begin = network.begin
        network.begin = lambda x, begin=begin: sizes.append(tuple(x.shape)) or begin(x)
    case.losses()

    assert sorted(sizes) == sorted([(4, 3, 16, 16), (2, 3, 8, 8)] * 2)


def test_a_combination_has_the_losses_of_both():
    case = Case("fakd+dukd", "edsr-edsr", 2)
    both = case.losses(4)
    base = Combined(base=FAKD()).base.losses(
        student=case.student, teacher=case.teacher, extras=case.extras, lr=case.lr, hr=case.hr, rng=torch.Generator()
    )
    alone = case.losses(4, DUKD())

    for term, value in base.items():
        assert_close(both[term], value)
    for term in ("zoom_in", "zoom_out", "zoom_out_reconstruction"):
        assert_close(both[term], alone[term])


def test_logits_with_no_weight_is_scratch():
    case = Case("logits", "edsr-edsr", 2)
    ours, theirs = case.losses(method=Logits(imitation=0)), case.losses(method=Scratch())

    assert list(ours) == ["reconstruction"]
    assert torch.equal(ours["reconstruction"], theirs["reconstruction"])
    assert not Logits(imitation=0).needs_teacher
