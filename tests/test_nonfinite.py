import math

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

from dukd.training.nonfinite import CheckedStep, NonFiniteGuard

CPU = torch.device("cpu")


def seen(step: int) -> CheckedStep:
    return CheckedStep(step, torch.zeros(1), torch.zeros(1))


def stepped(
    optimizer: Adam, guard: NonFiniteGuard, parameter: nn.Parameter, step: int, loss: float
) -> CheckedStep | None:
    parameter.grad = torch.full_like(parameter, loss)
    found = guard.check(seen(step), [torch.tensor(loss)])
    if found is None:
        optimizer.step()
    return found


def setting(*, deferred: bool) -> tuple[nn.Parameter, Adam, NonFiniteGuard]:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = Adam([parameter], lr=0.1, fused=True)
    return parameter, optimizer, NonFiniteGuard(optimizer, CPU, deferred=deferred)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_at_once_on_the_processor(value: float) -> None:
    parameter, optimizer, guard = setting(deferred=False)

    assert stepped(optimizer, guard, parameter, 1, 0.5) is None
    found = stepped(optimizer, guard, parameter, 2, value)
    assert found is not None
    assert found.step == 2
    assert torch.isfinite(parameter).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_deferred_the_weights_stay_as_before_the_bad_step(value: float) -> None:
    """The verdict comes with the next step; Adam has left weights and moments alone meanwhile."""
    parameter, optimizer, guard = setting(deferred=True)
    assert stepped(optimizer, guard, parameter, 1, 0.5) is None
    before: Tensor = parameter.detach().clone()

    assert stepped(optimizer, guard, parameter, 2, value) is None
    assert torch.equal(parameter, before)
    found = stepped(optimizer, guard, parameter, 3, 0.5)
    assert found is not None
    assert found.step == 2
    assert torch.equal(parameter, before)
    assert all(torch.isfinite(v).all() for v in optimizer.state[parameter].values())


def test_deferred_nothing_is_trained_after_a_bad_step_even_if_nobody_settles() -> None:
    parameter, optimizer, guard = setting(deferred=True)
    guard.check(seen(1), [torch.tensor(math.nan)])
    before = parameter.detach().clone()
    stepped(optimizer, guard, parameter, 2, 0.5)
    optimizer.step()

    assert torch.equal(parameter, before)


def test_deferred_the_last_step_is_settled() -> None:
    parameter, optimizer, guard = setting(deferred=True)
    stepped(optimizer, guard, parameter, 1, 0.5)
    assert guard.settle() is None
    stepped(optimizer, guard, parameter, 2, math.nan)

    found = guard.settle()
    assert found is not None
    assert found.step == 2


def test_deferred_steps_equal_those_at_once() -> None:
    parameters: list[Tensor] = []
    for deferred in (True, False):
        parameter, optimizer, guard = setting(deferred=deferred)
        for step in range(1, 6):
            assert stepped(optimizer, guard, parameter, step, 0.1 * step) is None
        parameters.append(parameter.detach())

    assert torch.equal(*parameters)


def test_any_of_the_values_counts() -> None:
    _, _, guard = setting(deferred=False)

    assert guard.check(seen(1), [torch.tensor(1.0), torch.tensor(math.inf)]) is not None
    assert (
        guard.check(seen(1), [torch.tensor(1.0, dtype=torch.bfloat16), torch.tensor(2.0)]) is None
    )
