import math

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

from dukd.training.nonfinite import Seen, Watch

CPU = torch.device("cpu")


def seen(step: int) -> Seen:
    return Seen(step, torch.zeros(1), torch.zeros(1))


def stepped(optimiser: Adam, watch: Watch, parameter: nn.Parameter, step: int, loss: float) -> Seen | None:
    parameter.grad = torch.full_like(parameter, loss)
    found = watch.look(seen(step), [torch.tensor(loss)])
    if found is None:
        optimiser.step()
    return found


def setting(*, deferred: bool) -> tuple[nn.Parameter, Adam, Watch]:
    parameter = nn.Parameter(torch.ones(3))
    optimiser = Adam([parameter], lr=0.1, fused=True)
    return parameter, optimiser, Watch(optimiser, CPU, deferred=deferred)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_at_once_on_the_processor(value: float) -> None:
    parameter, optimiser, watch = setting(deferred=False)

    assert stepped(optimiser, watch, parameter, 1, 0.5) is None
    found = stepped(optimiser, watch, parameter, 2, value)
    assert found is not None
    assert found.step == 2
    assert torch.isfinite(parameter).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_deferred_the_weights_stay_as_before_the_bad_step(value: float) -> None:
    """The verdict comes with the next step; Adam has left weights and moments alone meanwhile."""
    parameter, optimiser, watch = setting(deferred=True)
    assert stepped(optimiser, watch, parameter, 1, 0.5) is None
    before: Tensor = parameter.detach().clone()

    assert stepped(optimiser, watch, parameter, 2, value) is None
    assert torch.equal(parameter, before)
    found = stepped(optimiser, watch, parameter, 3, 0.5)
    assert found is not None
    assert found.step == 2
    assert torch.equal(parameter, before)
    assert all(torch.isfinite(v).all() for v in optimiser.state[parameter].values())


def test_deferred_nothing_is_trained_after_a_bad_step_even_if_nobody_asks() -> None:
    parameter, optimiser, watch = setting(deferred=True)
    watch.look(seen(1), [torch.tensor(math.nan)])
    before = parameter.detach().clone()
    stepped(optimiser, watch, parameter, 2, 0.5)
    optimiser.step()

    assert torch.equal(parameter, before)


def test_deferred_the_last_step_is_settled() -> None:
    parameter, optimiser, watch = setting(deferred=True)
    stepped(optimiser, watch, parameter, 1, 0.5)
    assert watch.settle() is None
    stepped(optimiser, watch, parameter, 2, math.nan)

    found = watch.settle()
    assert found is not None
    assert found.step == 2


def test_deferred_steps_equal_those_at_once() -> None:
    parameters: list[Tensor] = []
    for deferred in (True, False):
        parameter, optimiser, watch = setting(deferred=deferred)
        for step in range(1, 6):
            assert stepped(optimiser, watch, parameter, step, 0.1 * step) is None
        parameters.append(parameter.detach())

    assert torch.equal(*parameters)


def test_any_of_the_values_counts() -> None:
    _, _, watch = setting(deferred=False)

    assert watch.look(seen(1), [torch.tensor(1.0), torch.tensor(math.inf)]) is not None
    assert watch.look(seen(1), [torch.tensor(1.0, dtype=torch.bfloat16), torch.tensor(2.0)]) is None
