"""ECO: targets that go from the teacher's output to the ground truth, by hand."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from distilling import losses_of
from dukd.images.resize import downscale
from dukd.methods import DUKD, ECO, Method, SelfECO, View
from dukd.methods.base import needs_teacher
from dukd.recipes import recipe
from dukd.training.distiller import Distiller


class Bright(nn.Module):
    """Repeats pixels and multiplies them."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.shown: list[Tensor] = []

    def forward(self, lr: Tensor) -> Tensor:
        self.shown.append(lr.detach())
        return self.factor * lr.repeat_interleave(2, 2).repeat_interleave(2, 3)


LR, HR = torch.full((2, 3, 8, 8), 0.4), torch.full((2, 3, 16, 16), 0.6)


def loss(method: Method, step: int, student: nn.Module, teacher: nn.Module | None) -> Tensor:
    losses = losses_of(method, student, teacher, (LR, HR), step=step)
    assert list(losses) == ["reconstruction"]
    return losses["reconstruction"]


@pytest.mark.parametrize(
    ("mode", "step", "shown", "target"),
    [
        ("full", 0, 0.8, 0.8),  # the teacher doubles 0.4
        ("full", 25, 0.7, 0.75),  # a quarter of the way to 0.4 and to 0.6
        ("full", 100, 0.4, 0.6),
        ("full", 999, 0.4, 0.6),
        ("hr_only", 0, 0.4, 0.8),
        ("hr_only", 25, 0.4, 0.75),
        ("hr_only", 100, 0.4, 0.6),
    ],
)
def test_input_and_target_go_from_the_teacher_to_the_pair(mode, step, shown, target) -> None:
    student = Bright(0.5)
    value = loss(ECO(mode=mode, end=100), step, student, Bright(2.0))

    assert_close(student.shown[-1], torch.full_like(LR, shown))
    assert_close(value, torch.tensor(abs(0.5 * shown - target)))


def test_the_teachers_output_is_kept_in_the_range_of_images() -> None:
    student = Bright(0.5)

    assert_close(loss(ECO(end=100), 0, student, Bright(4.0)), torch.tensor(0.5))  # 1.6 is 1
    assert_close(student.shown[-1], torch.ones_like(LR))


def test_the_teacher_does_not_run_after_the_end() -> None:
    method, teacher = ECO(end=10), Bright(2.0)
    loss(method, 10, Bright(0.5), teacher)

    assert teacher.shown == []
    assert needs_teacher(method, 2)
    with pytest.raises(ValueError, match="compares view pair with a teacher"):
        loss(method, 9, Bright(0.5), None)


def test_a_network_teaches_itself_along_a_sigmoid() -> None:
    """Half at a quarter of the schedule; before the start, and far behind it, the pair alone."""
    method = SelfECO(start=5, end=100)
    student = Bright(2.0)

    assert not needs_teacher(method, 2)
    assert method.share(4) == 1
    assert method.share(25) == 0.5
    assert method.share(5) == pytest.approx(1 / (1 + math.exp(2)))
    assert method.share(100) == pytest.approx(1, abs=6e-4)
    # Own output 0.8: input (0.8 + 0.4) / 2, target (0.8 + 0.6) / 2, and the student doubles.
    assert_close(loss(method, 25, student, None), torch.tensor(abs(2 * 0.6 - 0.7)))
    assert_close(loss(method, 4, student, None), torch.tensor(abs(2 * 0.4 - 0.6)))


def test_own_targets_have_no_gradient() -> None:
    """Through the second pass alone: 2 f x - y has the slope x, whatever y came from."""
    student = Bright(2.0)
    loss(SelfECO(start=0, end=100), 25, student, None).backward()

    assert_close(student.factor.grad, torch.tensor(0.6))


def test_upcycled_inputs_can_stand_on_it() -> None:
    losses = losses_of(DUKD(base=ECO()), Bright(0.5), Bright(2.0), (LR, HR))

    assert {"reconstruction", "zoom_in_imitation", "zoom_out_imitation"} <= set(losses)


def test_reduction_is_matlabs() -> None:
    teacher, student = Bright(1.0), Bright(1.0)
    lr, hr = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 16, 16)
    losses_of(ECO(), student, teacher, (lr, hr))

    assert_close(student.shown[-1], downscale(teacher(lr), 2).detach())


def test_plain_modules_and_symmetries_are_served() -> None:
    distiller = Distiller(ECO(end=2), Bright(0.5), Bright(2.0))

    assert [distiller(LR, HR)["reconstruction"].item() for _ in range(3)] == pytest.approx(
        [0.4, abs(0.3 - 0.7), 0.4]
    )


def test_recipes_take_three_quarters_of_their_steps() -> None:
    assert recipe("edsr-x4-eco").make().method == ECO(end=187_500)
    assert recipe("tiny-x2-eco").make().method == ECO(end=1_875)
    assert recipe("tiny-x2-eco-hr-only").make().method == ECO(mode="hr_only", end=1_875)
    assert recipe("tiny-x2-eco-self").make().method == SelfECO(start=150, end=800)
    assert recipe("tiny-x2-eco-self").make().teacher is None


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="from 1 on"):
        ECO(end=0)
    with pytest.raises(ValueError, match="numbers of steps"):
        SelfECO(start=-1)
    with pytest.raises(ValueError, match="is not for the teacher"):
        View(name="x", image=LR, remake=torch.maximum)
