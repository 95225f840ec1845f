"""What every degradation promises, checked on one that you wrote."""

import numpy as np

from dukd.images.degrade import Degradation, Levels

__all__ = ["check_degradation"]


def check_degradation(degradation: Degradation, *, scale: int = 4, side: int = 16) -> None:
    """Check that a degradation is a function of its image and generator, of the right size.

    Args:
        degradation: The one to check, with its numbers.
        scale: Factor by which it reduces.
        side: Rows and columns of the low-resolution image, in pixels.

    Raises:
        AssertionError: With the promise that is broken.
    """
    hr = _image(side * scale)
    before = hr.copy()
    first, again = (degradation.apply(hr, scale, np.random.default_rng(1)) for _ in range(2))
    assert np.array_equal(hr, before), "the image that was given has been changed"
    assert first.shape == (side, side, 3), f"{(side, side, 3)} was expected, not {first.shape}"
    assert first.dtype == np.uint8, f"8 bits were expected, not {first.dtype}"
    assert np.array_equal(first, again), "the same generator gave two results"
    other = degradation.apply(hr, scale, np.random.default_rng(2))
    if degradation.fixed:
        assert np.array_equal(first, other), "it is fixed, but depends on the generator"
    state = str(np.random.get_state())  # noqa: NPY002  the one that must not be used
    results = [degradation.apply(hr, scale, np.random.default_rng(k)) for k in range(8)]
    now = str(np.random.get_state())  # noqa: NPY002
    assert state == now, "it draws from numpy's own generator"
    if degradation.varies and not degradation.fixed:
        assert any(not np.array_equal(first, r) for r in results), "it draws nothing: set fixed"
    truth = degradation.truth(hr)
    assert truth.shape == hr.shape, "the ground truth has changed its size"
    wide = degradation.apply(hr[: 12 * scale], scale, np.random.default_rng(1))
    assert wide.shape == (12, side, 3), f"{(12, side, 3)} was expected, not {wide.shape}"
    shift = abs(np.mean([result.mean() for result in results]) - hr.mean())
    assert shift < 64, f"it changes brightness by {shift:.0f} levels in the mean"
    for wrong in (hr[..., :1], hr[:-1]):
        try:
            degradation.apply(wrong, scale, np.random.default_rng(1))
        except ValueError:
            continue
        raise AssertionError(f"{wrong.shape} of {wrong.dtype} is not refused by a ValueError")


def _image(side: int) -> Levels:
    """Waves of every direction and some hard edges."""
    y, x = np.mgrid[:side, :side] / side
    waves = [np.sin(40 * x * x), np.cos(31 * y + 9 * x), np.sin(50 * x * y)]
    image = np.stack(waves, -1) * 90 + 128
    image[side // 4 : side // 2, side // 4 : side // 2] = (250, 10, 60)
    return image.astype(np.uint8)
