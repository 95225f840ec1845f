"""Every control is its recipe with the one thing changed that its name says."""

from dataclasses import replace

import pytest

from dukd.images import invertible
from dukd.methods import DUKD, FrugalDUKD, Late, ReleasedDUKD
from dukd.recipes.ablations import CONTROLS
from dukd.recipes.papers import FAMILIES, recipe
from dukd.training.experiment import Experiment


def make(name: str) -> Experiment:
    return recipe(name).make()


def method(name: str) -> DUKD:
    found = make(name).method
    assert isinstance(found, DUKD)
    return found


@pytest.mark.parametrize("name", CONTROLS)
@pytest.mark.parametrize("family", ["small", "edsr"])
def test_a_control_is_its_recipe_but_for_the_method_and_its_length(family: str, name: str) -> None:
    control = make(f"{family}-x2-{name}")
    start = make(f"{family}-x2-{CONTROLS[name].start.name}")

    assert replace(control.optimization, steps=start.optimization.steps) == start.optimization
    assert (control.student, control.evaluation) == (start.student, start.evaluation)
    assert replace(control.data, period=start.data.period) == start.data
    assert control.method.needs_teacher == (control.teacher is not None)
    assert (control.method, control.data, control.optimization) != (
        start.method,
        start.data,
        start.optimization,
    )
    assert CONTROLS[name].about in recipe(f"{family}-x2-{name}").about


def test_a_teacher_free_control_is_left_with_ground_truths() -> None:
    control = make("small-x2-dukd-no-teacher")

    assert control.teacher is None
    assert control.method == DUKD(imitation=0, zoom_in=0, zoom_out=0, zoom_out_reconstruction=1)


def test_parts_of_the_method_are_left_out_one_by_one() -> None:
    assert method("small-x2-dukd-zoom-in-only") == DUKD(zoom_out=0, zoom_out_reconstruction=0)
    assert method("small-x2-dukd-zoom-out-only") == DUKD(zoom_in=0)
    assert method("small-x2-dukd-no-consistency") == DUKD(consistency=0)
    assert {
        method(f"small-x2-dukd-{o.replace('_', '-')}-only").operations
        for o in invertible.OPERATIONS
    } == {(o,) for o in invertible.OPERATIONS}


def test_weights_are_changed_from_the_recipes_own() -> None:
    """EDSR's released recipe gives the ground truth 5, so three times it is 15, on the pair and on the reduced one."""
    high = method("edsr-x2-dukd-high-reconstruction")

    assert (high.reconstruction, high.zoom_out_reconstruction) == (15, 15)
    assert replace(high, reconstruction=5, zoom_out_reconstruction=5) == method("edsr-x2-dukd")
    assert method("small-x2-dukd-low-zoom-in") == DUKD(zoom_in=1 / 3)


def test_equal_updates_and_equal_pixels_change_the_number_of_steps() -> None:
    """Two optimizer steps per batch at half the batches; 1 + 1 + 1/4 images of DUKD against 1 of logits at x2."""
    assert make("small-x2-dukd-released-equal-updates").optimization.steps == 1_250
    assert make("small-x2-logits-equal-pixels").optimization.steps == 5_625
    assert len(make("small-x2-dukd-released-equal-updates").method.parts) == 2
    assert isinstance(make("small-x2-dukd-released-one-step").method, ReleasedDUKD)
    assert len(make("small-x2-dukd-released-one-step").method.parts) == 1


def test_a_late_start_is_a_share_of_the_recipes_steps() -> None:
    assert make("small-x2-dukd-late").method == Late(base=DUKD(), start=2_000)
    assert make("small-x2-dukd-late").optimization.steps == 2_500


def test_replayed_controls_repeat_a_tenth_of_the_batches() -> None:
    assert make("small-x2-logits-replayed").data.period == 250
    assert make("edsr-x2-dukd-frugal-replayed").data.period == 25_000
    assert isinstance(make("small-x2-dukd-frugal-replayed").method, FrugalDUKD)


def test_a_misspelt_control_is_offered() -> None:
    with pytest.raises(ValueError, match="did you mean dukd-no-teacher"):
        recipe("small-x2-dukd-no-techer")
    assert not set(CONTROLS) & set(FAMILIES)
