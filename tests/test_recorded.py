"""Recorded passes: when a graph is replayed, and when a network runs as it is written."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dukd.networks import CompactConfig
from dukd.networks.recorded import Recorder, held, recorded, release
from pretended import GPU, OnGPU, gpu_stand_in


class Recorded:
    """A network on the stand-in whose graphs are counted, not recorded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[torch.Size] = []
        self.replayed = 0

        def record(made: Callable[[Tensor], tuple[Tensor, ...]], lr: Tensor):
            self.made.append(lr.shape)

            def replay(images: Tensor) -> tuple[Tensor, ...]:
                self.replayed += 1
                return made(images)

            return replay

        monkeypatch.setattr("dukd.networks.recorded._graphed", record)
        monkeypatch.setattr("dukd.networks.recorded._forward", record)
        monkeypatch.setattr(torch.random, "fork_rng", lambda **_: warnings.catch_warnings())
        self.network = CompactConfig(scale=2, width=4, blocks=1).build().to(GPU)
        self.recorder = recorded(self.network)

    def __call__(self, n: int = 1) -> Tensor:
        return self.network(OnGPU(torch.rand(n, 3, 6, 6)))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch):
    with gpu_stand_in(monkeypatch):
        yield Recorded(monkeypatch)


def test_a_size_is_recorded_once_and_replayed(passes: Recorded) -> None:
    for _ in range(3):
        passes()
        release()
    passes(2)

    assert passes.made == [torch.Size([1, 3, 6, 6]), torch.Size([2, 3, 6, 6])]
    assert passes.replayed == 4


def test_what_a_graph_gave_is_not_written_over_before_it_is_released(passes: Recorded) -> None:
    passes()
    passes()
    passes()
    assert passes.replayed == 1
    release()
    passes()
    assert passes.replayed == 2


def test_images_of_validation_run_as_written(passes: Recorded) -> None:
    with held():
        passes()
    assert not passes.made


def test_passes_with_and_without_gradients_are_apart(passes: Recorded) -> None:
    passes()
    with torch.no_grad():
        passes()
    passes.network.eval()
    passes()

    assert len(passes.made) == 3


def test_no_more_than_sixteen_sizes_are_kept(passes: Recorded) -> None:
    for n in range(1, 19):
        passes(n)
    assert len(passes.made) == 16
    assert passes.replayed == 16


def test_a_pass_that_cannot_be_recorded_is_a_warning_once(
    passes: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr("dukd.networks.recorded._graphed", fails)
    with pytest.warns(RuntimeWarning, match=r"no CUDA graph of compact.*not permitted.*capturing$"):
        passes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        release()
        passes()


def test_too_little_memory_is_not_the_graphs_fault(
    passes: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("dukd.networks.recorded._graphed", fails)
    with pytest.raises(torch.OutOfMemoryError):
        passes()


def test_nothing_changes_on_a_processor() -> None:
    network, lr = CompactConfig(scale=2, width=4, blocks=1).build(), torch.rand(1, 3, 6, 6)
    expected = network(lr)
    recorder: Recorder = recorded(network)

    assert torch.equal(network(lr), expected)
    assert not recorder.busy
