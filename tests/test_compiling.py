import warnings
from collections.abc import Callable

import pytest
import torch
from torch.testing import assert_close

from dukd.compiling import compiled
from dukd.networks import EDSRConfig

CONFIG = EDSRConfig(scale=2, width=4, blocks=1)


def test_a_compiler_that_fails_is_told_once_and_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: Callable[..., object]) -> Callable[..., object]:
        def fails(*arguments: object) -> object:
            raise OSError("no C++ compiler\nand a long story")

        return fails

    monkeypatch.setattr(torch, "compile", broken)
    network, x = CONFIG.build(), torch.rand(1, 3, 6, 6)
    expected = network(x)
    compiled(network)

    with pytest.warns(
        RuntimeWarning, match=r"torch.compile failed for edsr, which goes on without: OSError: no C\+\+ compiler$"
    ):
        first = network(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = network(x)
    assert torch.equal(first, expected)
    assert torch.equal(second, expected)


def test_mistakes_of_the_caller_stay_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: function)

    with pytest.raises(ValueError, match="a depth is a fraction"):
        compiled(CONFIG.build()).forward_with_features(torch.rand(1, 3, 6, 6), (2.0,))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_network_gives_the_same_answers_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced forward and backward; the C++ compiler behind it takes minutes on a busy machine, and is torch's."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compile_(function, backend="aot_eager"))
    network, x = CONFIG.build(), torch.rand(2, 3, 8, 8)
    sr, (features,) = network.forward_with_features(x, (1.0,))
    sr.square().mean().backward()
    expected = [p.grad for p in network.parameters()]
    network.zero_grad()
    compiled(network)
    fast, (fast_features,) = network.forward_with_features(x, (1.0,))
    fast.square().mean().backward()

    assert_close(fast, sr, rtol=1e-4, atol=1e-5)  # sums in another order
    assert_close(fast_features, features, rtol=1e-4, atol=1e-4)
    for p, gradient in zip(network.parameters(), expected, strict=True):
        assert_close(p.grad, gradient, rtol=1e-3, atol=1e-5)
