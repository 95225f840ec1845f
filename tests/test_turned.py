from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from dukd.networks import EDSRConfig, Network, Staged
from dukd.training.schedule import generator
from dukd.training.turned import TURNS, Turned


class Nearest(Staged):
    """Repeats pixels, and so commutes with every symmetry; its features are its padded input."""

    stages: Sequence[nn.Module] = (nn.Identity(),)

    def __init__(self, size_multiple: int = 1) -> None:
        super().__init__(EDSRConfig(scale=2), width=3, size_multiple=size_multiple, radius=0)

    def head(self, lr: Tensor) -> Tensor:
        return lr

    def tail(self, x: Tensor, kept: Mapping[int, Tensor], lr: Tensor) -> Tensor:
        return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


def turned(network: Network, seed: int = 0, operations: Sequence[str] = TURNS) -> Turned:
    made = Turned(network, operations)  # type: ignore[arg-type]
    made.draw_from(generator(seed))
    return made


@pytest.mark.parametrize("size", [(6, 6), (4, 7)])
@pytest.mark.parametrize("multiple", [1, 4])
def test_a_network_that_commutes_answers_as_if_nothing_had_been_turned(
    size: tuple[int, int], multiple: int
) -> None:
    network, x = Nearest(multiple), torch.rand(9, 3, *size)
    sr, (features,), _ = turned(network).observe(x, (1.0,))

    assert torch.equal(sr, network(x))
    assert torch.equal(features, x)


def test_without_operations_it_is_the_network_itself() -> None:
    network, x = EDSRConfig(scale=2, width=4, blocks=1).build(), torch.rand(2, 3, 8, 8)

    assert torch.equal(turned(network, operations=())(x), network(x))


def test_each_image_is_seen_in_each_of_eight_ways_equally_often() -> None:
    x = torch.arange(9.0).reshape(1, 1, 3, 3).expand(4000, 3, 3, 3)
    seen: list[Tensor] = []

    class Looks(Nearest):
        def head(self, lr: Tensor) -> Tensor:
            seen.append(lr)
            return lr

    turned(Looks())(x)
    views = Counter(tuple(view[0].flatten().tolist()) for view in seen[0])

    assert len(views) == 8
    assert max(abs(count - 500) for count in views.values()) < 120  # five standard deviations of 21


def test_the_answer_is_the_turned_back_answer_to_the_turned_image() -> None:
    network, x = EDSRConfig(scale=2, width=4, blocks=1).build(), torch.rand(1, 3, 5, 5)
    views = [
        network(x),
        network(x.flip(-1)).flip(-1),
        network(x.flip(-2)).flip(-2),
        network(x.flip(-1, -2)).flip(-1, -2),
        network(x.mT).mT,
        network(x.mT.flip(-1)).flip(-1).mT,
        network(x.mT.flip(-2)).flip(-2).mT,
        network(x.mT.flip(-1, -2)).flip(-1, -2).mT,
    ]
    found = {
        next(
            i
            for i, view in enumerate(views)
            if torch.allclose(turned(network, seed)(x), view, rtol=1e-5, atol=1e-6)
        )
        for seed in range(60)
    }

    assert found == set(range(8))


def test_the_draw_follows_from_the_generator_alone() -> None:
    network, x = EDSRConfig(scale=2, width=4, blocks=1).build(), torch.rand(8, 3, 5, 5)

    assert torch.equal(turned(network, 3)(x), turned(network, 3)(x))
    assert not torch.equal(turned(network, 3)(x), turned(network, 4)(x))


def test_gradients_reach_the_network_and_the_image() -> None:
    network, x = (
        EDSRConfig(scale=2, width=4, blocks=1).build(),
        torch.rand(4, 3, 5, 5, requires_grad=True),
    )
    target = torch.rand(4, 3, 10, 10)
    (turned(network)(x) - target).abs().mean().backward()

    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in network.parameters())
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0


def test_colors_are_inverted_only_where_no_features_are_read() -> None:
    network = turned(Nearest(), operations=("invert",))
    x = torch.rand(5, 3, 4, 4)

    assert_close(network(x), Nearest()(x))
    with pytest.raises(ValueError, match="leave invert out"):
        network.observe(x, (1.0,))
