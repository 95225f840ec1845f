"""The teacher runs once per micro-batch of a period, and what is replayed is what it gave."""

import errno
import math
import multiprocessing
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from dukd.core.registry import known
from dukd.methods import (
    AT,
    DUKD,
    FAKD,
    LSFD,
    Batch,
    CrossKD,
    FitNet,
    FrugalDUKD,
    Late,
    Logits,
    Losses,
    Method,
    ReleasedDUKD,
    View,
    ZoomIn,
    ZoomOut,
)
from dukd.methods.base import needs_teacher
from dukd.networks import EDSRConfig, Network, NetworkConfig, SwinIRConfig
from dukd.training.cache import TeacherOutputCache, fingerprints
from dukd.training.codec import Codec
from dukd.training.observe import Replay, observe, taught
from dukd.training.records import CacheError, NoRoomError, Records, Shown, Source, size
from dukd.training.schedule import generator

BATCH, PATCH, PERIOD = 2, 16, 3
CONFIG = EDSRConfig(scale=2, width=8, blocks=2)
SOURCE = Source(
    teacher="t",
    data="d",
    scale=2,
    patch=PATCH,
    batch=BATCH,
    period=PERIOD,
    parts=1,
    seed=1,
    flips=True,
    rotations=True,
    by_area=False,
    precision="float32",
    bits=8,
)
OUTPUTS_ONLY = (Logits(), DUKD(), DUKD(upcyclings=(ZoomIn(windows=2),)), ReleasedDUKD())
FEATURES = (FitNet(), LSFD(imitation=1), FAKD(), DUKD(base=AT(depths=(0.5, 1.0))), CrossKD())
SHOWN = (Shown("pair", (BATCH, 3, PATCH, PATCH), "m"),)


@pytest.fixture
def teacher() -> Network:
    return CONFIG.build().frozen()


@pytest.fixture
def student() -> Network:
    return EDSRConfig(scale=2, width=4, blocks=1).build()


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut leaves behind is for test_files.py."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def batch(step: int) -> Batch:
    """As training cuts it: batch and generator come again after the period."""
    k = step % PERIOD
    hr = torch.randint(256, (BATCH, 3, 2 * PATCH, 2 * PATCH), generator=generator(7, k)) / 255
    return Batch(hr[..., ::2, ::2].contiguous(), hr, generator(1, k), step)


def cache(folder: Path, teacher: nn.Module, source: Source = SOURCE) -> TeacherOutputCache:
    return TeacherOutputCache(folder, source, teacher, limit=1e9)


def losses(
    method: Method,
    student: Network,
    teacher: Network,
    step: int,
    kept: TeacherOutputCache | None = None,
) -> list[Losses]:
    torch.manual_seed(1)  # adapters are the same every time
    state = method.state(student, teacher)
    made: list[Losses] = []
    for phase in method.phases:
        replay = kept and Replay(
            place=step % PERIOD, following=(step + 1) % PERIOD, first=lambda: batch(0), cache=kept
        )
        shown = batch(step)
        seen = observe(phase, student, teacher, shown, replay or None)
        made.append(phase.losses(seen, shown, state))
    return made


def silenced(network: Network) -> Network:
    """It refuses to run: what is replayed does not come from it."""

    def refuse(*_: object) -> None:
        raise AssertionError("the teacher ran")

    network.register_forward_pre_hook(refuse)
    network.observe = refuse  # type: ignore[assignment, method-assign]
    return network


# Fingerprints


@settings(max_examples=30)
@given(st.integers(0, 3 * 16 * 16 - 1), st.booleans())
def test_a_change_by_one_level_in_one_value_is_seen_by_every_projection(
    place: int, up: bool
) -> None:
    x = torch.full((1, 3, 16, 16), 0.5)
    y = x.clone()
    y.view(-1)[place] += 1 / 255 if up else -1 / 255

    assert_close(
        (fingerprints(x) - fingerprints(y)).abs(),
        torch.full((1, 4), 1 / 255).double(),
        rtol=0,
        atol=1e-6,
    )


def test_rounding_errors_of_float32_leave_fingerprints_alone() -> None:
    x = torch.rand(4, 3, 48, 48)
    noisy = x * (1 + torch.randn_like(x) * 2**-23)

    assert float((fingerprints(x) - fingerprints(noisy)).abs().max()) < 1e-4


def test_a_batch_has_the_fingerprints_of_its_images() -> None:
    x = torch.rand(3, 3, 8, 8)

    assert_close(fingerprints(x), torch.cat([fingerprints(p) for p in x.split(1)]))
    assert_close(fingerprints(x.to(memory_format=torch.channels_last)), fingerprints(x))


# Replays


@pytest.mark.parametrize("method", [*OUTPUTS_ONLY, *FEATURES], ids=lambda m: m.label)
def test_replayed_losses_equal_the_teachers_own(
    method: Method, student: Network, teacher: Network, tmp_path: Path
) -> None:
    kept = cache(tmp_path, teacher, replace(SOURCE, bits=32))
    truth = [losses(method, student, teacher, step) for step in range(PERIOD)]
    first = [losses(method, student, teacher, step, kept) for step in range(PERIOD)]
    silenced(teacher)
    again = [losses(method, student, teacher, step, kept) for step in range(PERIOD, 3 * PERIOD)]

    assert first == truth
    assert again == truth * 2
    assert kept.computed == PERIOD * len(method.phases)


@pytest.mark.parametrize("bits", [8, 16])
def test_the_first_period_returns_what_is_replayed_later(
    bits: int, student: Network, teacher: Network, tmp_path: Path
) -> None:
    kept = cache(tmp_path, teacher, replace(SOURCE, bits=bits))
    first = [losses(DUKD(), student, teacher, step, kept) for step in range(PERIOD)]
    again = [losses(DUKD(), student, teacher, step, kept) for step in range(PERIOD, 2 * PERIOD)]

    assert again == first
    truth = losses(DUKD(), student, teacher, 0)[0]
    for name, value in first[0][0].items():
        # each value of an output in range is off by at most half a step
        off = float((value - truth[name]).detach().abs())
        assert off <= {8: 0.5 / 224, 16: 0.5 / 32768}[bits] + 1e-6


@dataclass(frozen=True, kw_only=True)
class _Reads(Logits):
    """Reads the middle and the end."""

    name: ClassVar[str] = "reads"

    def views(self, batch: Batch) -> list[View]:
        return [self.pair(batch, depths=(0.5, 1.0))]


@pytest.mark.parametrize(
    "config", [CONFIG, SwinIRConfig(scale=2, width=8, depths=(1, 1), heads=(2, 2), window=8)]
)
def test_replayed_features_are_the_teachers_own_without_what_it_padded(
    config: NetworkConfig, tmp_path: Path
) -> None:
    """8 bits: off by half a step, a 510th of each channel's range; SwinIR pads 12 pixels to 16."""
    teacher, kept = config.build().frozen(), cache(tmp_path, CONFIG.build())
    pair = Batch(torch.rand(2, 3, 12, 13), torch.rand(2, 3, 24, 26), torch.Generator())
    views = _Reads().views(pair)

    def outputs() -> tuple[Tensor, list[Tensor]]:
        replay = Replay(place=0, following=0, first=lambda: pair, cache=kept)
        return taught(_Reads(), views, teacher, pair, replay)[0][:2]

    truth = teacher.observe(pair.lr, (0.5, 1.0))
    first = outputs()
    silenced(teacher)
    again = outputs()

    assert torch.equal(first[0], again[0])
    assert len(again[1]) == 2
    for before, replayed, own in zip(first[1], again[1], truth.features, strict=True):
        inside = own[..., :12, :13]
        assert torch.equal(before, replayed)
        half = (inside.amax((2, 3), keepdim=True) - inside.amin((2, 3), keepdim=True)) / 510
        assert bool(((replayed - inside).abs() <= half * 1.001).all())


def test_the_next_outputs_are_read_beside_the_step(
    student: Network, teacher: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the second step of what is kept on, no step waits for the disk or for a checksum."""
    kept = cache(tmp_path, teacher)
    for step in range(PERIOD):
        losses(DUKD(), student, teacher, step, kept)
    readers: list[tuple[int, bool]] = []
    read = Records.read

    def counted(records: Records, k: int) -> object:
        readers.append((k, threading.current_thread() is threading.main_thread()))
        return read(records, k)

    monkeypatch.setattr(Records, "read", counted)
    for step in range(PERIOD, 2 * PERIOD):
        losses(DUKD(), student, teacher, step, kept)
    kept.close()

    beside = [k for k, main in readers if not main]
    assert beside in ([1, 2, 0], [1, 2])  # closing may come before the last one begins
    # the thread had looked for batch 0 before it was kept, at the last step of the first period
    assert [k for k, main in readers if main] in ([], [0])


def test_what_another_run_keeps_meanwhile_is_found(
    student: Network, teacher: Network, tmp_path: Path
) -> None:
    first, second = cache(tmp_path, teacher), cache(tmp_path, teacher)
    losses(DUKD(), student, teacher, 0, first)  # whose thread finds nothing of batch 1
    losses(DUKD(), student, teacher, 1, second)
    silenced(teacher)
    losses(DUKD(), student, teacher, 1, first)

    assert (first.computed, second.computed) == (1, 1)


def test_another_run_takes_up_what_the_first_one_kept(
    student: Network, teacher: Network, tmp_path: Path
) -> None:
    first = cache(tmp_path, teacher)
    losses(DUKD(), student, teacher, 1, first)
    first.close()
    second = cache(tmp_path, teacher)
    losses(DUKD(), student, teacher, 0, second)
    silenced(teacher)
    losses(DUKD(), student, teacher, 1, second)

    assert second.computed == 1


def files_of(folder: Path, method: Method, teacher: Network, source: Source = SOURCE) -> set[str]:
    """Names of the files that a method fills."""
    kept = TeacherOutputCache(folder, source, teacher, limit=1e9)
    before = {path.name for path in folder.glob("*.cache")}
    losses(method, EDSRConfig(scale=2, width=4, blocks=1).build(), teacher, 0, kept)
    kept.close()
    return {path.name for path in folder.glob("*.cache")} - before


def test_methods_that_show_the_same_share_a_file_and_others_do_not(
    teacher: Network, tmp_path: Path
) -> None:
    assert len(files_of(tmp_path, DUKD(), teacher)) == 1
    alike = DUKD(
        base=Logits(reconstruction=3),
        upcyclings=(ZoomIn(imitation=0.5), ZoomOut()),
        consistency=0.9,
    )
    assert not files_of(tmp_path, alike, teacher)
    for other in (
        DUKD(upcyclings=(ZoomIn(windows=2), ZoomOut())),
        DUKD(upcyclings=(ZoomOut(),)),
        Logits(),
        FitNet(),
        FitNet(depths=(1.0,)),
        DUKD(upcyclings=(ZoomIn(placement="tiles"), ZoomOut())),
    ):
        assert len(files_of(tmp_path, other, teacher)) == 1, other
    for name, value in (("teacher", "x"), ("data", "x"), ("precision", "x"), ("seed", 9)):
        source = replace(SOURCE, **{name: value})
        assert len(files_of(tmp_path, DUKD(), teacher, source)) == 1, name
    assert len(files_of(tmp_path, DUKD(), teacher, replace(SOURCE, bits=16))) == 1


def test_a_late_start_opens_a_file_of_its_own(
    student: Network, teacher: Network, tmp_path: Path
) -> None:
    """Steps 5 to 9 show batches 1, 2 and 0 to the teacher; what changes gets two files."""
    kept = cache(tmp_path, teacher)
    late = Late(base=Logits(), start=4)
    computed: list[int] = []
    for step in range(9):
        losses(late, student, teacher, step, kept)
        computed.append(kept.computed)
    assert computed == [0, 0, 0, 0, 1, 2, 3, 3, 3]

    kept = cache(tmp_path / "frugal", teacher)
    for step in range(12):
        losses(FrugalDUKD(late=3, until=9), student, teacher, step, kept)
    assert len(list((tmp_path / "frugal").glob("*.cache"))) == 2
    assert kept.computed == 6


TAUGHT = [
    kind()
    for name, kind in sorted(known(Method).items())
    if kind.__module__.startswith("dukd.")
    and needs_teacher(kind(), 2)
    and name not in {"csd", "dckd"}  # whose encoders take their time
]


@pytest.mark.parametrize("method", TAUGHT, ids=lambda m: m.name)
def test_every_method_is_replayed(
    method: Method, student: Network, teacher: Network, tmp_path: Path
) -> None:
    kept = cache(tmp_path, teacher)
    for step in range(2 * PERIOD):
        losses(method, student, teacher, step, kept)

    assert kept.computed == PERIOD * len(method.phases)


# Faults


def pair_of(step: int) -> Callable[[], Batch]:
    return lambda: batch(step)


def run(kept: TeacherOutputCache, teacher: Network, shown: Batch, place: int) -> Tensor:
    """The kept output on the pair."""
    replay = Replay(place=place, following=(place + 1) % PERIOD, first=pair_of(0), cache=kept)
    return taught(Logits(), Logits().views(shown), teacher, shown, replay)[0].sr


def filled(folder: Path, teacher: Network) -> TeacherOutputCache:
    kept = cache(folder, teacher)
    for k in range(PERIOD):
        run(kept, teacher, batch(k), k)
    return kept


def records(kept: TeacherOutputCache) -> Records:
    (only,) = kept._files.values()
    assert only is not None
    return only


def test_another_image_than_the_one_that_was_kept_gets_no_output(
    teacher: Network, tmp_path: Path
) -> None:
    kept = filled(tmp_path, teacher)
    shown = batch(1)
    shown.lr[1, 2, 3, 4] += 1 / 255 if shown.lr[1, 2, 3, 4] < 0.5 else -1 / 255

    with pytest.raises(CacheError, match="shows other images than those whose outputs were kept"):
        run(kept, teacher, shown, 1)


def test_a_view_that_follows_from_the_step_is_noticed(
    student: Network, teacher: Network, tmp_path: Path
) -> None:
    class _Moody(Logits):
        def views(self, batch: Batch) -> list[View]:
            return [replace(self.pair(batch), image=batch.lr + batch.step / 100)]

    kept = cache(tmp_path, teacher)
    for step in range(PERIOD):
        losses(_Moody(), student, teacher, step, kept)
    with pytest.raises(CacheError, match="must follow from the batch and its generator alone"):
        losses(_Moody(), student, teacher, PERIOD, kept)


def test_a_file_above_the_limit_is_refused_with_the_period_that_would_fit(tmp_path: Path) -> None:
    source = replace(SOURCE, period=1000)
    record = 2 * 3 * 32 * 32 + 2 * 4 * 8 + 8

    assert size(source, SHOWN) == 4096 + 1000 * record
    fits = (10**6 - 4096) // record
    with pytest.raises(NoRoomError, match=rf"take 0.01 GB .* a period of at most {fits} fits"):
        Records.open(tmp_path, source, SHOWN, limit=1e6)
    with pytest.raises(NoRoomError, match="not even one batch fits"):
        Records.open(tmp_path, source, SHOWN, limit=100)
    with pytest.raises(NoRoomError, match=r"GB are free in"):
        Records.open(tmp_path, replace(SOURCE, period=10**12), SHOWN, limit=math.inf)


def full(_: object, __: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("fault", ["limit", "disk"])
def test_without_room_the_numbers_are_the_same_at_the_teachers_price(
    student: Network,
    teacher: Network,
    tmp_path: Path,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = [
        losses(DUKD(), student, teacher, k, cache(tmp_path / "a", teacher)) for k in range(3)
    ]
    limit = 5000 if fault == "limit" else 1e9
    kept = TeacherOutputCache(tmp_path / "b", SOURCE, teacher, limit=limit)
    if fault == "disk":
        monkeypatch.setattr(Records, "_put", full)
    made = [losses(DUKD(), student, teacher, step, kept) for step in range(2 * PERIOD)]

    assert made == expected * 2
    assert kept.computed == 2 * PERIOD
    notes = kept.notes()
    assert {"limit": "raise --teacher-cache.limit-gb", "disk": "the disk filled up"}[
        fault
    ] in notes[-1]
    assert kept.notes() == []


@pytest.mark.parametrize("damage", ["cut", "header", "version"])
def test_a_damaged_file_is_refused(teacher: Network, tmp_path: Path, damage: str) -> None:
    kept = filled(tmp_path, teacher)
    path = records(kept).path
    kept.close()
    with path.open("r+b") as file:
        if damage == "cut":
            file.truncate(path.stat().st_size - 1)
        else:
            file.seek({"header": 40, "version": 8}[damage])
            file.write(b"\7")

    with pytest.raises(CacheError, match="delete it, and it is made anew"):
        filled(tmp_path, teacher)


@pytest.mark.parametrize("place", [0, 3, 4, 7, 8, 71, 72, 5000, 2 * 3 * 32 * 32 + 71])
def test_a_flipped_bit_costs_one_record_and_gives_no_wrong_output(
    teacher: Network, tmp_path: Path, place: int
) -> None:
    kept = filled(tmp_path, teacher)
    with records(kept).path.open("r+b") as file:
        at = records(kept)._start + records(kept)._record.itemsize + place
        file.seek(at)
        old = file.read(1)[0]
        file.seek(at)
        file.write(bytes([old ^ 1 << place % 8]))

    assert records(kept).missing() == [1]
    kept._ahead.clear()
    run(kept, teacher, batch(1), 1)
    assert records(kept).missing() == []


def test_an_output_that_is_not_finite_is_passed_on_and_not_kept(
    teacher: Network, tmp_path: Path
) -> None:
    kept = cache(tmp_path, teacher)
    next(iter(teacher.parameters())).data.fill_(math.nan)

    assert not torch.isfinite(run(kept, teacher, batch(0), 0)).any()
    assert records(kept).missing() == [0, 1, 2]


# Kills, and several processes


def _fill(folder: Path, third: Event, period: int) -> None:
    """Fill a file, as a process of its own would; signals when three records are there."""
    kept, teacher = filler(folder, period)
    for k in range(period):
        run(kept, teacher, batch(k), k)
        if k == 2:
            third.set()


def filler(folder: Path, period: int) -> tuple[TeacherOutputCache, Network]:
    torch.manual_seed(0)
    teacher = CONFIG.build().frozen()
    return cache(folder, teacher, replace(SOURCE, period=period)), teacher


def another_process(folder: Path, period: int) -> tuple[BaseProcess, Event]:
    context = multiprocessing.get_context("spawn")
    third = context.Event()
    child = context.Process(target=_fill, args=(folder, third, period))
    child.start()
    return child, third


@pytest.mark.slow
def test_a_kill_leaves_only_whole_records(tmp_path: Path) -> None:
    child, third = another_process(tmp_path, 5000)
    assert third.wait(100)
    child.kill()
    child.join()
    kept, teacher = filler(tmp_path, 5000)
    kept.open(Logits().views(batch(0)))
    missing = records(kept).missing()

    assert 0 < len(missing) <= 4997
    assert missing == list(range(missing[0], 5000))
    for k in range(missing[0]):
        record = records(kept).read(k)
        assert record is not None
        assert np.array_equal(record["sr0"], Codec(8).encode(teacher(batch(k).lr)))


@pytest.mark.slow
def test_two_processes_fill_one_file(tmp_path: Path) -> None:
    child, third = another_process(tmp_path, 200)
    assert third.wait(100)
    _fill(tmp_path, third, 200)
    child.join()

    assert child.exitcode == 0
    assert len(list(tmp_path.glob("*.cache"))) == 1
