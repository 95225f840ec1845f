"""Whole steps from what is known of a batch: the same weights, and who cannot have them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from dukd.core.distributed import World
from dukd.images.invertible import OPERATIONS, Operation, Tabled, draw, drawn
from dukd.methods import DUKD, Batch, Losses, Method, Seen, View
from dukd.networks.recorded import Recorder
from dukd.training import recording
from dukd.training.assemble import Training, assemble
from dukd.training.experiment import Experiment
from dukd.training.recording import WatchedBatch
from dukd.training.rows import Rows, UnsteadyError
from dukd.training.schedule import generator
from pretended import gpu_stand_in
from test_gpu import experiment, stepped, weights
from test_methods import METHODS

CPU = torch.device("cpu")
BY_STEP, DRAWS = "depends on the number of the step", "draws while it compares"
AFTERWARDS = BY_ITSELF = ""
OTHERWISE = {
    "adversarial": AFTERWARDS,
    "csd": DRAWS,
    "csd+dukd": DRAWS,
    "csd-slimmable": DRAWS,
    "dckd": AFTERWARDS,
    "dukd-released": BY_ITSELF,
    "eco": BY_STEP,
    "eco-self": BY_STEP,
    "late": BY_STEP,
    "lowrank": AFTERWARDS,
    "mcir": AFTERWARDS,
    "mipkd": DRAWS,
    "mipkd+dukd": DRAWS,
    "perceptual": AFTERWARDS,
}
"""Methods whose steps are not the same each time, and what the log says of them, if anything."""


class Graphs:
    """Stands for CUDA graphs: counts them, and computes again in place of replaying."""

    training: Training

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.made = self.replayed = 0

        def record(compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
            if error is not None:
                raise error
            self.made += 1

            def replay() -> Tensor:
                self.replayed += 1
                self.training.state.optimizer.zero_grad()
                return compute()

            return replay

        monkeypatch.setattr(recording, "captured", record)
        monkeypatch.setattr(recording, "aside", lambda compute, _: compute())
        monkeypatch.setattr(Recorder, "_recorded", lambda *_: None)

    @property
    def said(self) -> str:
        recorder = self.training.recording
        return " ".join(recorder.notes()) if recorder is not None else ""


def wanted(folder: Path, method: Method, **changes: object) -> Experiment:
    made = experiment(folder, method)
    numbers: dict[str, object] = {"steps": 8, "cuda_graphs": True, "schedule": "one-cycle"}
    optimization = replace(made.optimization, **numbers | changes)
    return replace(made, data=replace(made.data, period=2), optimization=optimization)


def replayed(
    made: Experiment, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None
) -> tuple[Graphs, list[Tensor]]:
    """Eight steps on the stand-in, and the weights after them."""
    graphs = Graphs(monkeypatch, error)
    with gpu_stand_in(monkeypatch):
        graphs.training = assemble(made, World(device=torch.device("cuda")))
        for k in range(8):
            stepped(graphs.training, k)
        return graphs, everything(graphs.training)


def at_home(made: Experiment) -> list[Tensor]:
    training = assemble(made)
    assert training.recording is None
    before = [p.detach().clone() for p in training.state.trained()]
    for k in range(8):
        stepped(training, k)
    assert not all(map(torch.equal, before, training.state.trained()))
    return everything(training)


def everything(training: Training) -> list[Tensor]:
    """The weights and their average."""
    averaged = training.state.averaged.parameters()
    return [*weights(training), *(p.detach().cpu() for p in averaged)]


def assert_alike(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_recorded_steps_move_the_weights_as_others_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = wanted(tmp_path, METHODS[name])
    graphs, found = replayed(made, monkeypatch)

    assert_alike(found, at_home(made))
    if name in OTHERWISE:
        assert (graphs.made, graphs.replayed) == (0, 0)
        assert OTHERWISE[name] in graphs.said
    else:  # two are kept, of which three are made by hand with the next
        assert (graphs.made, graphs.replayed) == (1, 5)


@pytest.mark.parametrize("changes", [{"optimizer": "muon"}, {"ema": 0.5}, {"clip": 0.0}], ids=str)
def test_whatever_the_optimizer(
    changes: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = wanted(tmp_path, DUKD(), **changes)
    graphs, found = replayed(made, monkeypatch)

    assert graphs.replayed == 5
    assert_alike(found, at_home(made))


def test_a_step_that_cannot_be_recorded_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = wanted(tmp_path, DUKD())
    graphs, found = replayed(made, monkeypatch, RuntimeError("not while capturing\nand more"))

    assert_alike(found, at_home(made))
    assert "is not recorded as a whole, since RuntimeError: not while capturing; its" in graphs.said


def test_too_little_memory_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        replayed(wanted(tmp_path, DUKD()), monkeypatch, torch.OutOfMemoryError("full"))


@dataclass(frozen=True, kw_only=True)
class Unequal(Method):
    """Shows of its second batch something else than of its first, as the draws fall."""

    name: ClassVar[str] = "unequal"

    @override
    def views(self, batch: Batch) -> list[View]:
        weight = 1.0 + torch.rand((), generator=batch.rng).item()
        return [View.pair(batch, reconstruction=weight)]


@dataclass(frozen=True, kw_only=True)
class Forgetful(Method):
    """Draws from torch's own generator, where nobody sees it."""

    name: ClassVar[str] = "forgetful"

    @override
    def views(self, batch: Batch) -> list[View]:
        return [View.pair(batch)]

    @override
    def compare(self, seen: Sequence[Seen], batch: Batch, state: nn.Module) -> Losses:
        truth = seen[0].view.truth
        assert truth is not None
        return {"drawn": torch.rand(()).item() * (seen[0].student.sr - truth).square().mean()}


@pytest.mark.parametrize(
    ("method", "why"),
    [(Unequal(), "not every batch is compared alike"), (Forgetful(), "draws on the processor")],
    ids=["unequal", "forgetful"],
)
def test_what_differs_from_step_to_step_is_noticed(
    method: Method, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = wanted(tmp_path, method)
    graphs, found = replayed(made, monkeypatch)

    assert_alike(found, at_home(made))
    assert graphs.made == 0
    assert why in graphs.said


def test_what_does_not_fit_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = wanted(tmp_path, DUKD())
    graphs = Graphs(monkeypatch)
    with gpu_stand_in(monkeypatch, free=1000):
        graphs.training = assemble(made, World(device=torch.device("cuda")))
        for k in range(8):
            stepped(graphs.training, k)
        found = everything(graphs.training)

    assert "since what is seen of 2 batches takes" in graphs.said
    assert_alike(found, at_home(made))


@pytest.mark.parametrize(
    "changes",
    [{"cuda_graphs": False}, {"accumulate": 2}, {"compile": True}, {"deterministic": True}],
    ids=str,
)
def test_other_ways_to_train_stay_as_they_are(
    changes: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Graphs(monkeypatch)
    made = wanted(tmp_path, DUKD(), **changes)
    fresh = replace(wanted(tmp_path, DUKD()), data=experiment(tmp_path, DUKD()).data)
    with gpu_stand_in(monkeypatch):
        for one in (made, fresh):  # batches that never come again
            assert assemble(one, World(device=torch.device("cuda"))).recording is None


def test_a_batch_notices_who_looks() -> None:
    batch = WatchedBatch(torch.rand(4, 3, 8, 8), torch.rand(4, 3, 16, 16), torch.Generator())

    assert batch.scale == 2
    assert batch.rng.initial_seed()
    assert batch.part(slice(1)).lr.shape[0] == 1
    with pytest.raises(UnsteadyError, match="number of the step"):
        batch.step  # noqa: B018
    later = WatchedBatch(batch.lr, batch.hr, torch.Generator(), comparing=True)
    with pytest.raises(UnsteadyError, match="draws while it compares"):
        later.rng  # noqa: B018


def test_rows_give_back_what_they_hold() -> None:
    """Of all types, sizes and layouts; what is the same twice lies there once."""
    whole = torch.rand(2, 3, 4, 5)
    example = [
        whole,
        torch.rand(2, 8, 3, 3).to(memory_format=torch.channels_last),
        torch.tensor([True, False, True]),
        torch.arange(5),
        torch.rand(3, 1, 7).to(torch.bfloat16),
        whole,
    ]
    rows = Rows(example, 3, CPU)

    def held(n: int) -> list[Tensor]:
        changed = [(x.float() + n).to(x.dtype) if x.is_floating_point() else x for x in example[:5]]
        return [*changed, changed[0]]

    for n in (0, 2):
        rows.write(n, held(n))
    for n in (0, 2):
        for found, expected in zip(rows.read(torch.tensor([n])), held(n), strict=True):
            assert torch.equal(found, expected)
            assert found.stride() == expected.stride()
    words = 120 // 2 + 144 // 2 + 1 + 5 + 6
    assert rows.bytes == 3 * 8 * words


def test_rows_refuse_what_lies_otherwise() -> None:
    rows = Rows([torch.rand(2, 3)], 1, CPU)
    for other in (torch.rand(3, 3), torch.rand(2, 3).double()):
        with pytest.raises(UnsteadyError, match="not of equal size"):
            rows.write(0, [other])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(
    "operations",
    [OPERATIONS, ("transpose", "flip_rows"), ("invert",), ("flip_columns", "invert", "transpose")],
    ids=str,
)
def test_tables_do_what_is_drawn(
    operations: tuple[Operation, ...], layout: torch.memory_format
) -> None:
    change = draw((64, 3, 6, 6), probability=0.5, rng=generator(1), operations=operations)
    found = drawn(change)
    assert found is not None
    tabled = Tabled(found[0], *found[1])
    x = torch.rand(64, 3, 6, 6).to(memory_format=layout)
    y = torch.rand(64, 3, 12, 12).to(memory_format=layout).requires_grad_()

    assert torch.equal(tabled.apply(x), change.apply(x))
    assert torch.equal(tabled.invert(tabled.apply(x)), x)
    assert torch.equal(tabled.invert(y), change.invert(y))
    weights = torch.rand(64, 3, 12, 12)
    (ours,) = torch.autograd.grad((tabled.invert(y) * weights).sum(), y)
    (theirs,) = torch.autograd.grad((change.invert(y) * weights).sum(), y)
    assert torch.equal(ours, theirs)
