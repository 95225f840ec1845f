"""Augmentations are undone exactly, in any composition, and commute with upscaling."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from dukd.images import invertible
from dukd.images.invertible import ALL, FLIP_COLUMNS, FLIP_ROWS, INVERT, TRANSPOSE, compose, draw
from dukd.images.resize import downscale, upscale
from stand_ins import Nearest

IMAGE = torch.arange(6.0, dtype=torch.float64).reshape(1, 1, 2, 3) / 8


def test_each_operation_does_what_its_name_says():
    rows = IMAGE[0, 0].tolist()

    assert FLIP_ROWS.apply(IMAGE)[0, 0].tolist() == rows[::-1]
    assert FLIP_COLUMNS.apply(IMAGE)[0, 0].tolist() == [row[::-1] for row in rows]
    assert TRANSPOSE.apply(IMAGE)[0, 0].tolist() == [
        list(column) for column in zip(*rows, strict=True)
    ]
    assert INVERT.apply(IMAGE)[0, 0].tolist() == [[1 - v for v in row] for row in rows]


@given(st.permutations(ALL), st.integers(0, 4), st.integers(1, 7), st.integers(1, 7))
def test_augmentations_are_undone(operations, count, h, w):
    """Also on images that are not square, and in any order (methods.md D3, D14)."""
    x = torch.rand(2, 3, h, w, dtype=torch.float64)
    a = compose(operations[:count])

    assert_close(a.invert(a.apply(x)), x, atol=1e-15, rtol=0)


@given(
    st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 5), st.integers(1, 5), st.floats(0, 1)
)
def test_drawn_augmentations_are_undone(seed, n, h, w, probability):
    x = torch.rand(n, 3, h, w, dtype=torch.float64)
    a = draw(x.shape, probability=probability, rng=torch.Generator().manual_seed(seed))
    changed = a.apply(x)

    assert_close(a.invert(changed), x, atol=1e-15, rtol=0)
    assert sorted(changed.shape[-2:]) == sorted([h, w])


@given(st.integers(0, 2**31), st.sampled_from([2, 3, 4]))
def test_augmentations_commute_with_enlarging_and_reducing(seed, scale):
    x = torch.rand(4, 3, 12, 12, dtype=torch.float64)
    a = draw(x.shape, probability=0.5, rng=torch.Generator().manual_seed(seed))
    nearest = Nearest.of(scale).double()

    assert_close(a.invert(nearest(a.apply(x))), nearest(x))
    assert_close(a.invert(upscale(a.apply(x), scale)), upscale(x, scale), atol=1e-6, rtol=0)
    assert_close(a.invert(downscale(a.apply(x), scale)), downscale(x, scale), atol=1e-6, rtol=0)


def test_applying_a_composition_again_is_not_undoing_it():
    """methods.md D3: with transposition and exactly one flip the released code leaves a half
    turn."""
    x = torch.arange(9.0).reshape(1, 1, 3, 3) / 16
    wrong = []
    for count in range(5):
        for chosen in itertools.combinations(ALL, count):
            a = compose(chosen)
            if not torch.equal(a.apply(a.apply(x)), x):
                wrong.append({ALL.index(step) for step in chosen})
                assert_close(a.apply(a.apply(x)), x.rot90(2, (-2, -1)))

    transposes, rows, columns = ALL.index(TRANSPOSE), ALL.index(FLIP_ROWS), ALL.index(FLIP_COLUMNS)
    assert len(wrong) == 4
    assert all(transposes in w and (rows in w) != (columns in w) for w in wrong)


def test_every_image_has_its_own_augmentation():
    x = torch.rand(1, 3, 5, 5).expand(64, 3, 5, 5)
    a = draw(x.shape, probability=0.5, rng=torch.Generator().manual_seed(1))

    distinct = {tuple(y.flatten().tolist()) for y in a.apply(x)}
    assert len(distinct) == 16  # eight turns, each inverted or not


def test_the_share_of_images_left_alone():
    """With four operations of probability 0.3, an image stays as it is with probability 0.7 ** 4
    = 24 %."""
    x = torch.rand(1, 3, 4, 4).expand(20_000, 3, 4, 4)
    a = draw(x.shape, probability=0.3, rng=torch.Generator().manual_seed(2))
    unchanged = (a.apply(x) == x).flatten(1).all(1).double().mean().item()

    assert unchanged == pytest.approx(0.7**4, abs=0.01)  # three standard deviations


def test_probability_zero_returns_the_same_tensor():
    x = torch.rand(2, 3, 4, 4)
    a = draw(x.shape, probability=0.0, rng=torch.Generator())

    assert a.apply(x) is x


def test_a_probability_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"in \[0, 1\], but got 1.5"):
        draw((1, 3, 4, 4), probability=1.5, rng=torch.Generator())


def test_gradients_pass_through():
    x = torch.rand(3, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    a = draw(x.shape, probability=0.6, rng=torch.Generator().manual_seed(3))

    assert torch.autograd.gradcheck(lambda t: a.invert(a.apply(t) ** 2), x)


def test_the_draw_comes_from_the_generator_alone():
    first = draw((8, 3, 4, 4), probability=0.5, rng=torch.Generator().manual_seed(4))
    torch.rand(7)
    second = draw((8, 3, 4, 4), probability=0.5, rng=torch.Generator().manual_seed(4))
    x = torch.rand(8, 3, 4, 4)

    assert torch.equal(first.apply(x), second.apply(x))
    assert set(invertible.OPERATIONS) == {"invert", "flip_rows", "flip_columns", "transpose"}


NAMED = dict(zip(invertible.OPERATIONS, ALL, strict=True))


def masked(change, x, *, back):
    """As a device does it: all of the batch changed, and taken where an image is to be."""
    order = range(len(change.operations))
    for number in reversed(order) if back else order:
        changed = NAMED[change.operations[number]].apply(x)
        mask = change.chosen[number][:, None, None, None]
        if mask.any():  # transposed or not, images that are not square are so together
            x = changed if mask.all() else torch.where(mask, changed, x)
    return x


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("size", [(6, 6), (5, 8)], ids=str)
def test_images_changed_one_by_one_are_those_of_the_batch_changed_at_once(size, layout, back):
    """To the bit, gradients too, and in the same order in memory, on which sums depend."""
    for seed in range(20):
        rng = torch.Generator().manual_seed(seed)
        x = torch.rand(5, 3, *size, generator=rng).to(memory_format=layout)
        x = (x.mT if seed % 2 else x).requires_grad_()
        change = draw(x.shape, probability=0.5, rng=rng)
        ours = change.invert(x) if back else change.apply(x)
        theirs = masked(change, x, back=back)
        weight = torch.rand(ours.shape, generator=rng)

        assert torch.equal(ours, theirs)
        assert ours.stride() == theirs.stride()
        assert torch.equal(*(torch.autograd.grad((y * weight).sum(), x)[0] for y in (ours, theirs)))


@pytest.mark.parametrize("back", [False, True])
def test_gradients_of_gradients_pass_through_images_changed_one_by_one(back):
    rng = torch.Generator().manual_seed(2)
    x = torch.rand(4, 1, 3, 3, dtype=torch.float64, generator=rng, requires_grad=True)
    change = draw(x.shape, probability=0.5, rng=rng)

    def cubed(x):
        return (change.invert(x) if back else change.apply(x)) ** 3

    assert torch.autograd.gradcheck(cubed, x)
    assert torch.autograd.gradgradcheck(cubed, x)
