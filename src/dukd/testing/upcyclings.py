"""What every upcycling promises, as a check that needs no test framework."""

import torch

from dukd.methods import DUKD, Batch, Upcycling
from dukd.networks.base import SCALES
from dukd.testing.cases import PAIRS, check_view, has_a_sentence, hold
from dukd.testing.methods import check_method


def check_upcycling(upcycling: Upcycling, *, scales: tuple[int, ...] = SCALES) -> None:
    """Hold an upcycling to what every one promises, alone and in `DUKD`. It takes a second or two.

    Args:
        upcycling: The upcycling, with the numbers to check.
        scales: Upscaling factors to check it at.

    Raises:
        AssertionError: If a promise is broken; the message says which.
    """
    has_a_sentence(type(upcycling))
    for scale in scales:
        for h, w in ((16, 16), (13, 18)):
            _makes_a_view(upcycling, scale, h, w)
    check_method(
        DUKD(upcyclings=(upcycling,)), pairs={"edsr-edsr": PAIRS["edsr-edsr"]}, scales=scales
    )


def _makes_a_view(upcycling: Upcycling, scale: int, h: int, w: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        lr, hr = torch.rand(4, 3, h, w), torch.rand(4, 3, h * scale, w * scale)
    before = lr.clone(), hr.clone()
    view = upcycling.view(Batch(lr, hr, torch.Generator().manual_seed(3)))
    again = upcycling.view(Batch(lr, hr, torch.Generator().manual_seed(3)))
    name = upcycling.name
    check_view(view, scale, where=name)
    hold(view.name == name, f"{name} gives a view called {view.name}")
    hold(torch.equal(view.image, again.image), f"{name} draws from elsewhere than rng")
    hold(torch.equal(lr, before[0]), f"{name} changes lr in place")
    hold(torch.equal(hr, before[1]), f"{name} changes hr in place")
    weights = (view.imitation, view.reconstruction)
    hold(
        weights == (upcycling.imitation, upcycling.reconstruction if view.truth is not None else 0),
        f"{name} weighs its view by {weights}, not by its own numbers",
    )
