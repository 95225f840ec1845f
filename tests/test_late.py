"""A late start: no teacher for a while, then the method itself, and a resumed run knows where it is."""

from typing import Any, cast

import pytest
import torch

from dukd.methods import DUKD, FitNet, Late, Logits, Method, ReleasedDUKD, Scratch
from dukd.testing.methods import PAIRS, Case

EDSRS = PAIRS["edsr-edsr"]


def at(case: Case, step: int) -> Case:
    """The case after ``step`` optimizer steps."""
    case.method.after_step(student=case.student, extras=case.extras, step=step)
    return case


def test_the_teacher_is_not_asked_before_the_start() -> None:
    case = Case.of(Late(base=Logits(imitation=3), start=2, reconstruction=2), EDSRS)
    teacher, case.teacher = case.teacher, cast("Any", None)  # whoever asks it fails
    early = [case.losses(), at(case, 1).losses()]
    case.teacher = teacher

    for losses in early:
        assert list(losses) == ["reconstruction"]
        assert torch.equal(
            losses["reconstruction"], case.losses(Scratch(reconstruction=2))["reconstruction"]
        )
    assert list(at(case, 2).losses()) == ["reconstruction", "imitation"]


def test_afterwards_it_is_the_method_itself() -> None:
    case = at(Case.of(Late(start=1), EDSRS), 1)
    alone = Case.of(DUKD(), EDSRS)

    for (name, ours), theirs in zip(
        case.losses(seed=3).items(), alone.losses(seed=3).values(), strict=True
    ):
        assert torch.equal(ours, theirs), name


def test_what_trains_beside_the_student_is_the_methods_and_the_count_is_kept() -> None:
    case = at(Case.of(Late(base=FitNet(), start=5), EDSRS), 4)
    again = Case.of(Late(base=FitNet(), start=5), EDSRS)
    again.extras.load_state_dict(case.extras.state_dict())

    assert (
        len(list(again.extras.parameters()))
        == len(list(Case.of(FitNet(), EDSRS).extras.parameters()))
        > 0
    )
    assert "hint" not in again.losses()
    assert "hint" in at(again, 5).losses()
    assert Late(base=FitNet()).taps == FitNet().taps
    assert not Late(base=Scratch()).needs_teacher


@pytest.mark.parametrize(
    ("base", "start", "message"),
    [
        (DUKD(), -1, "start is a number of steps, but got -1"),
        (ReleasedDUKD(), 0, "of one part, and once, but got dukd-released"),
        (Late(), 0, "of one part, and once, but got late"),
    ],
)
def test_what_cannot_start_late_is_refused(base: Method, start: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Late(base=base, start=start)
