"""What comes again is made once, and stays what it was."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dukd.core.kept import Kept
from dukd.data.source import Recurring
from dukd.images.degrade import Degradation, preset
from dukd.methods import DUKD, DegradedZoomIn, DegradedZoomOut, degraded
from dukd.methods.base import Batch
from dukd.methods.upcycling import Upcycling
from dukd.runs.directory import Run
from dukd.training import loop
from tiny_runs import experiment, prepare

REAL = preset("adcsr")
VIEWS: tuple[Upcycling, ...] = (
    DegradedZoomIn(degradation=REAL),
    DegradedZoomIn(degradation=REAL, grid="window"),
    DegradedZoomOut(degradation=REAL, reconstruction=0.0),
)


def test_what_does_not_fit_is_made_every_time() -> None:
    made: list[int] = []
    kept = Kept[bytes](len, limit=5)

    def make(n: int) -> bytes:
        made.append(n)
        return bytes(n)

    for n in (2, 4, 3, 2, 4, 3):
        assert len(kept.get(n, lambda n=n: make(n))) == n
    assert made == [2, 4, 3, 4]
    assert kept.bytes == 5


class Counted:
    """Batches that differ, and how often each was made."""

    def __init__(self) -> None:
        self.made: list[tuple[int, int, int]] = []

    def batch(self, k: int, rank: int = 0, world: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        self.made.append((k, rank, world))
        value = 10 * (k % 3) + rank
        return torch.full((1, 3, 2, 2), value), torch.full((1, 3, 4, 4), value)


def test_batches_that_come_again_are_made_once_for_each_rank() -> None:
    source = Counted()
    kept = Recurring(source, period=3)

    values = [int(kept.batch(k, rank, 2)[0][0, 0, 0, 0]) for k in range(9) for rank in (0, 1)]

    assert values == [0, 1, 10, 11, 20, 21] * 3
    assert len(source.made) == 6


def images(seed: int) -> Batch:
    made = torch.Generator().manual_seed(seed)
    hr = torch.rand(2, 3, 64, 64, generator=made)
    return Batch(hr[..., ::2, ::2], hr, torch.Generator().manual_seed(5), recurs=True)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the degradations that were applied; nothing is kept yet."""
    found: list[str] = []
    before = type(REAL).apply
    monkeypatch.setattr(degraded, "_KEPT", Kept[torch.Tensor](lambda x: x.nbytes, 1 << 20))
    monkeypatch.setattr(
        type(REAL), "apply", lambda self, *rest: (found.append(self.name), before(self, *rest))[1]
    )
    return found


@pytest.mark.parametrize("upcycling", VIEWS, ids=repr)
def test_a_view_that_comes_again_is_degraded_once(upcycling: Upcycling, calls: list[str]) -> None:
    anew = upcycling.view(replace(images(1), recurs=False)).image
    first = upcycling.view(images(1)).image
    calls.clear()
    again = upcycling.view(images(1)).image

    assert not calls
    assert torch.equal(first, anew)
    assert torch.equal(again, anew)


def test_other_images_draws_and_degradations_are_others(calls: list[str]) -> None:
    def view(batch: Batch, degradation: Degradation = REAL) -> torch.Tensor:
        return DegradedZoomOut(degradation=degradation, reconstruction=0.0).view(batch).image

    here = view(images(1))
    for other in (
        view(images(2)),
        view(replace(images(1), rng=torch.Generator().manual_seed(6))),
        view(images(1), replace(REAL, sinc=0.0)),
    ):
        assert not torch.equal(here, other)
    assert len(calls) == 4 * 2


def test_a_run_whose_batches_are_kept_ends_in_equal_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = prepare(tmp_path / "data")
    method = DUKD(upcyclings=VIEWS[1:])
    wanted = experiment(folder, method=method, data__degradation=REAL, data__period=2)
    loop.train(wanted, tmp_path / "kept")
    made = Recurring.batch
    monkeypatch.setattr(Recurring, "batch", lambda self, *rest: self._source.batch(*rest))
    monkeypatch.setattr(degraded, "_KEPT", Kept[torch.Tensor](lambda x: x.nbytes, 0))
    loop.train(wanted, tmp_path / "made")

    assert made is not Recurring.batch
    kept, anew = (Run.open(tmp_path / name).student for name in ("kept", "made"))
    assert kept.read_bytes() == anew.read_bytes()
