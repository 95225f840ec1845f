"""Learning rates have the values computed by hand, and depend on nothing but the step."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dukd.training.experiment import Optimization
from dukd.training.schedule import (
    generator,
    notes_on_average,
    rate_factor,
    seed_networks,
    seed_of,
)


def factors(optimization: Optimization) -> list[float]:
    return [rate_factor(optimization, step) for step in range(optimization.steps)]


def test_step_decays_after_each_milestone() -> None:
    """As torch's MultiStepLR: the rate of the step that follows 4 of 10 finished ones is the
    lower one."""
    optimization = Optimization(steps=10, milestones=(0.4, 0.8), decay=0.5)

    assert factors(optimization) == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_step_agrees_with_torch() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([weight], lr=1.0)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 7, 9], gamma=0.1)
    expected: list[float] = []
    for _ in range(10):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()

    assert factors(Optimization(steps=10, milestones=(0.3, 0.7, 0.9))) == pytest.approx(expected)


def test_milestones_lie_at_whole_steps() -> None:
    """0.29 * 100 is 28.999999999999996 in floating point; the milestone is at 29."""
    optimization = Optimization(steps=100, milestones=(0.29,))

    assert rate_factor(optimization, 28) == 1
    assert rate_factor(optimization, 29) == pytest.approx(0.1)


def test_cosine_falls_along_half_a_wave() -> None:
    expected = [1, 0.5 + math.sqrt(0.5) / 2, 0.5, 0.5 - math.sqrt(0.5) / 2]

    assert factors(Optimization(steps=4, schedule="cosine")) == pytest.approx(expected)


def test_warm_up_rises_linearly_to_the_full_rate() -> None:
    flat = factors(Optimization(steps=6, schedule="constant", warm_up=4))
    cosine = factors(Optimization(steps=6, schedule="cosine", warm_up=4))

    assert flat == [0.25, 0.5, 0.75, 1, 1, 1]
    assert cosine == pytest.approx([0.25, 0.5, 0.75, 1, 1, 0.5])


def test_one_cycle_rises_over_three_tenths_and_falls_to_nearly_nothing() -> None:
    values = factors(Optimization(steps=100, schedule="one-cycle"))

    assert values[0] == pytest.approx(0.04 + 0.96 * (1 - math.cos(math.pi / 30)) / 2)
    assert values[14] == pytest.approx(0.52)  # halfway up
    assert values[29] == 1
    assert values[:30] == sorted(values[:30])
    assert values[29:] == sorted(values[29:], reverse=True)
    assert 0 < values[-1] < 0.001
    assert max(abs(a - b) for a, b in pairwise(values)) < 0.06


@pytest.mark.parametrize("schedule", ["step", "cosine", "one-cycle", "constant"])
@given(steps=st.integers(1, 500), data=st.data())
def test_every_factor_is_above_0_and_at_most_1(
    schedule: str, steps: int, data: st.DataObject
) -> None:
    warm_up = 0 if schedule == "one-cycle" else data.draw(st.integers(0, steps - 1))
    optimization = Optimization(steps=steps, schedule=schedule, warm_up=warm_up)

    for step in data.draw(st.lists(st.integers(0, steps - 1), min_size=1)):
        factor = rate_factor(optimization, step)
        assert 0 < factor <= 1
        assert rate_factor(optimization, step) == factor


def test_seeds_depend_on_every_number_and_their_order() -> None:
    seeds = {seed_of(*numbers) for numbers in [(1, 2, 3), (3, 2, 1), (1, 2), (1, 2, 4), (2, 2, 3)]}

    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)
    state = np.random.SeedSequence((1, 2, 3)).generate_state(1, np.uint64)[0]
    assert seed_of(1, 2, 3) == int(state) // 2


def test_generators_of_equal_numbers_draw_equal_numbers() -> None:
    first, second, other = generator(10, 1, 5), generator(10, 1, 5), generator(10, 1, 6)
    drawn = torch.rand(4, generator=first)

    assert torch.equal(drawn, torch.rand(4, generator=second))
    assert not torch.equal(drawn, torch.rand(4, generator=other))


@pytest.mark.parametrize(
    ("steps", "ema", "said"),
    [
        (3_000, 0.999, ("5.0% of the weights it begins with", "0.998 (--optimization.ema)")),
        (1_500, 0.999, ("22.3%", "0.996")),
        (3, 0.9, ("72.9%", "0.215")),
        (4_605, 0.999, None),
        (460, 0.99, None),
        (1, 0.0, None),
    ],
)
def test_an_average_that_still_holds_its_first_weights_is_told(
    steps: int, ema: float, said: tuple[str, ...] | None
) -> None:
    """0.999 ** 3,000 is 0.0497; 0.998 ** 3,000 is 0.0025."""
    notes = notes_on_average(Optimization(steps=steps, ema=ema))

    assert len(notes) == (said is not None)
    assert all(words in notes[0] for words in said or ())


def test_what_networks_draw_follows_from_the_seed_and_the_step():
    """As after `torch.manual_seed`, of which the rest is for devices that are not used."""

    def drawn(seed: int, step: int) -> list[float]:
        torch.rand(5)
        seed_networks(seed, step)
        return torch.rand(4).tolist()

    assert drawn(1, 7) == drawn(1, 7)
    assert len({tuple(drawn(*numbers)) for numbers in ((1, 7), (1, 8), (2, 7))}) == 3
    torch.manual_seed(seed_of(1, 2, 7))
    assert torch.rand(4).tolist() == drawn(1, 7)
