"""A late start: no teacher for a while, then the method itself."""

import pytest
import torch

from dukd.methods import DUKD, FitNet, Late, Logits, Method, ReleasedDUKD, Scratch
from dukd.methods.base import needs_teacher
from dukd.testing.cases import PAIRS, Case

EDSRS = PAIRS["edsr-edsr"]


def test_the_teacher_does_not_run_before_the_start() -> None:
    case = Case.of(Late(base=Logits(imitation=3), start=2, reconstruction=2), EDSRS)
    runs: list[object] = []
    case.teacher.register_forward_hook(lambda *_: runs.append(None))
    early = [case.losses(step=step) for step in (0, 1)]

    assert not runs
    alone = case.losses(Scratch(reconstruction=2))["reconstruction"]
    for losses in early:
        assert list(losses) == ["reconstruction"]
        assert torch.equal(losses["reconstruction"], alone)
    assert list(case.losses(step=2)) == ["reconstruction", "imitation"]
    assert runs


def test_afterwards_it_is_the_method_itself() -> None:
    late, alone = Case.of(Late(start=1), EDSRS), Case.of(DUKD(), EDSRS)

    for (name, ours), theirs in zip(
        late.losses(seed=3, step=1).items(), alone.losses(seed=3).values(), strict=True
    ):
        assert torch.equal(ours, theirs), name


def test_what_trains_beside_the_student_is_the_methods() -> None:
    case = Case.of(Late(base=FitNet(), start=5), EDSRS)
    beside = list(Case.of(FitNet(), EDSRS).state.parameters())

    assert len(list(case.state.parameters())) == len(beside) > 0
    assert "hint" not in case.losses(step=4)
    assert "hint" in case.losses(step=5)
    assert needs_teacher(Late(base=FitNet(), start=1000), 2)
    assert not needs_teacher(Late(base=Scratch()), 2)


@pytest.mark.parametrize(
    ("base", "start", "message"),
    [
        (DUKD(), -1, "start is a number of steps, but got -1"),
        (ReleasedDUKD(), 0, "of one phase, and once, but got dukd-released"),
        (Late(), 0, "of one phase, and once, but got late"),
    ],
)
def test_what_cannot_start_late_is_refused(base: Method, start: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Late(base=base, start=start)
