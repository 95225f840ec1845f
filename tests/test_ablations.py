"""Every ablation is its recipe with the one thing changed that its name says."""

from dataclasses import replace

import pytest

from dukd.images import invertible
from dukd.methods import DUKD, FrugalDUKD, Late, Logits, ReleasedDUKD, ZoomIn, ZoomOut
from dukd.methods.base import needs_teacher
from dukd.recipes.ablations import ABLATIONS
from dukd.recipes.families import FAMILIES, recipe
from dukd.training.experiment import Experiment


def make(name: str) -> Experiment:
    return recipe(name).make()


def method(name: str) -> DUKD:
    found = make(name).method
    assert isinstance(found, DUKD)
    return found


@pytest.mark.parametrize("name", ABLATIONS)
@pytest.mark.parametrize("family", ["small", "edsr"])
def test_a_ablation_is_its_recipe_but_for_the_method_and_its_length(family: str, name: str) -> None:
    ablation = make(f"{family}-x2-{name}")
    start = make(f"{family}-x2-{ABLATIONS[name].start.name}")

    assert replace(ablation.optimization, steps=start.optimization.steps) == start.optimization
    assert (ablation.student, ablation.evaluation) == (start.student, start.evaluation)
    assert replace(ablation.data, period=start.data.period) == start.data
    assert needs_teacher(ablation.method, 2) == (ablation.teacher is not None)
    assert (ablation.method, ablation.data, ablation.optimization) != (
        start.method,
        start.data,
        start.optimization,
    )
    assert ABLATIONS[name].about in recipe(f"{family}-x2-{name}").about


def test_a_teacher_free_ablation_is_left_with_ground_truths() -> None:
    ablation = make("small-x2-dukd-no-teacher")

    assert ablation.teacher is None
    assert ablation.method == DUKD(
        base=Logits(imitation=0), upcyclings=(ZoomIn(imitation=0), ZoomOut(imitation=0))
    )


def test_parts_of_the_method_are_left_out_one_by_one() -> None:
    assert method("small-x2-dukd-zoom-in-only") == DUKD(upcyclings=(ZoomIn(),))
    assert method("small-x2-dukd-zoom-out-only") == DUKD(upcyclings=(ZoomOut(),))
    assert method("small-x2-dukd-no-consistency") == DUKD(consistency=0)
    assert {
        method(f"small-x2-dukd-{o.replace('_', '-')}-only").operations
        for o in invertible.OPERATIONS
    } == {(o,) for o in invertible.OPERATIONS}


def test_weights_are_changed_from_the_recipes_own() -> None:
    """EDSR's recipe gives ground truths 5, so three times it is 15, on the pair and reduced."""
    high = method("edsr-x2-dukd-high-reconstruction")

    assert high == DUKD(
        base=Logits(reconstruction=15),
        upcyclings=(ZoomIn(windows=2), ZoomOut(reconstruction=15)),
    )
    low = method("small-x2-dukd-low-zoom-in")
    assert low == DUKD(upcyclings=(ZoomIn(imitation=1 / 3), ZoomOut()))


def test_equal_updates_and_equal_pixels_change_the_number_of_steps() -> None:
    """Two steps per batch at half the batches; 1 + 1 + 1/4 images of DUKD to 1 of logits."""
    assert make("small-x2-dukd-released-equal-updates").optimization.steps == 1_250
    assert make("small-x2-logits-equal-pixels").optimization.steps == 5_625
    assert len(make("small-x2-dukd-released-equal-updates").method.phases) == 2
    assert isinstance(make("small-x2-dukd-released-one-step").method, ReleasedDUKD)
    assert len(make("small-x2-dukd-released-one-step").method.phases) == 1


def test_a_late_start_is_a_share_of_the_recipes_steps() -> None:
    assert make("small-x2-dukd-late").method == Late(base=DUKD(), start=2_000)
    assert make("small-x2-dukd-late").optimization.steps == 2_500


def test_replayed_ablations_repeat_a_tenth_of_the_batches() -> None:
    assert make("small-x2-logits-replayed").data.period == 250
    assert make("edsr-x2-dukd-frugal-replayed").data.period == 25_000
    assert isinstance(make("small-x2-dukd-frugal-replayed").method, FrugalDUKD)


def test_a_misspelt_ablation_is_offered() -> None:
    with pytest.raises(ValueError, match="did you mean dukd-no-teacher"):
        recipe("small-x2-dukd-no-techer")
    assert not set(ABLATIONS) & set(FAMILIES)


def test_both_inputs_take_the_place_of_half_of_the_batch_with_the_weights_of_dukd() -> None:
    dukd, frugal = make("edsr-x4-dukd"), make("edsr-x4-dukd-frugal-both")
    assert isinstance(frugal.method, FrugalDUKD)
    assert isinstance(dukd.method, DUKD)
    assert (frugal.method.base, frugal.method.upcyclings, frugal.method.share) == (
        dukd.method.base,
        dukd.method.upcyclings,
        0.5,
    )
    assert frugal.optimization.steps == 2 * dukd.optimization.steps == 500_000
