import warnings
from collections.abc import Callable

import pytest
import torch
from torch.testing import assert_close

from dukd.networks import EDSRConfig, NetworkConfig, RCANConfig, SMFANetConfig, SwinIRConfig, gather
from dukd.networks.compile import as_written, compiled, lowered

CONFIG = EDSRConfig(scale=2, width=4, blocks=1)
SWINIR = SwinIRConfig(scale=2, width=8, depths=(2, 2), heads=(2, 2), window=4)
NETWORKS: tuple[NetworkConfig, ...] = (
    CONFIG,
    RCANConfig(scale=2, width=8, groups=2, blocks=1, squeeze=4),
    SWINIR,
    SMFANetConfig(scale=2, width=8, blocks=2),
    gather({"one": CONFIG.build(), "two": SWINIR.build()}, width=4, blocks=2).config,
)


def test_a_compiler_that_fails_is_told_once_and_done_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(function: Callable[..., object], **_: object) -> Callable[..., object]:
        def fails(*arguments: object) -> object:
            raise OSError("no C++ compiler\nand a long story")

        return fails

    monkeypatch.setattr(torch, "compile", broken)
    network, x = CONFIG.build(), torch.rand(1, 3, 6, 6)
    expected = network(x)
    compiled(network)

    with pytest.warns(
        RuntimeWarning,
        match=r"torch.compile failed for edsr, which goes on without: OSError: no C\+\+ compiler$",
    ):
        first = network(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = network(x)
    assert torch.equal(first, expected)
    assert torch.equal(second, expected)


@pytest.mark.parametrize("config", NETWORKS, ids=lambda config: config.name)
def test_weights_that_are_lowered_once_answer_as_if_lowered_every_time(
    config: NetworkConfig,
) -> None:
    network, x = config.build().frozen(), torch.rand(2, 3, 8, 12)
    copied = lowered(network)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        expected, features, _ = network.observe(x, (0.5, 1.0))
        answer, theirs, _ = copied.observe(x, (0.5, 1.0))

    assert torch.equal(answer, expected)
    assert all(torch.equal(ours, own) for ours, own in zip(theirs, features, strict=True))
    assert any(p.dtype == torch.bfloat16 for p in copied.parameters())
    assert all(p.dtype == torch.float32 for p in network.parameters())


def test_compiled_passes_of_all_networks_fit_into_the_compilers_account() -> None:
    """Torch counts them together, and would leave the ninth uncompiled without a word."""
    compiled(CONFIG.build())

    assert torch._dynamo.config.recompile_limit >= 64


def test_a_lack_of_memory_is_no_fault_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def short_of_memory(*_: object) -> object:
        calls.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "compile", lambda _, **__: short_of_memory)
    network = compiled(CONFIG.build())
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            network(torch.rand(1, 3, 6, 6))

    assert len(calls) == 2


def test_mistakes_of_the_caller_stay_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)

    with pytest.raises(ValueError, match="a depth is a fraction"):
        compiled(CONFIG.build()).observe(torch.rand(1, 3, 6, 6), (2.0,))


def test_graphs_are_asked_of_the_compiler_and_every_size_is_compiled_for_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(
        torch, "compile", lambda function, **options: asked.append(options) or function
    )
    for graphs in (False, True):
        compiled(CONFIG.build(), graphs=graphs)

    assert asked == [
        {"mode": None, "dynamic": False},
        {"mode": "reduce-overhead", "dynamic": False},
    ]


@pytest.mark.slow
def test_nothing_is_compiled_for_images_shown_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test images come in many sizes, and a compiler that meets the ninth gives up."""
    made: list[int] = []
    compile_ = torch.compile

    def counting(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        made.append(1)
        return graph.forward

    monkeypatch.setattr(
        torch, "compile", lambda function, **_: compile_(function, backend=counting, dynamic=False)
    )
    network = compiled(CONFIG.build())
    expected = CONFIG.build()
    expected.load_state_dict(network.state_dict())
    for side in (6, 8, 6, 8):
        network(torch.rand(1, 3, side, side))
    with as_written():
        for side in range(5, 20):
            x = torch.rand(1, 3, side, side)
            assert torch.equal(network(x), expected(x))
    network(torch.rand(1, 3, 8, 8))

    assert len(made) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_network_gives_the_same_answers_and_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Traced forward and backward.

    The C++ compiler behind it takes minutes on a busy machine, and is torch's.
    """
    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **_: compile_(function, backend="aot_eager")
    )
    network, x = CONFIG.build(), torch.rand(2, 3, 8, 8)
    sr, (features,), _ = network.observe(x, (1.0,))
    sr.square().mean().backward()
    expected = [p.grad for p in network.parameters()]
    network.zero_grad()
    compiled(network)
    fast, (fast_features,), _ = network.observe(x, (1.0,))
    fast.square().mean().backward()

    assert_close(fast, sr, rtol=1e-4, atol=1e-5)  # sums in another order
    assert_close(fast_features, features, rtol=1e-4, atol=1e-4)
    for p, gradient in zip(network.parameters(), expected, strict=True):
        assert_close(p.grad, gradient, rtol=1e-3, atol=1e-5)
