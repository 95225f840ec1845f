import math
import multiprocessing
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from dukd.core.registry import known
from dukd.methods import (
    AT,
    DUKD,
    FAKD,
    LSFD,
    Combined,
    CrossKD,
    FitNet,
    Logits,
    Losses,
    Method,
    ReleasedDUKD,
)
from dukd.networks import EDSRConfig, Network, NetworkConfig, Output, Staged, SwinIRConfig
from dukd.training.cache import (
    Bank,
    BankedTeacher,
    BankError,
    Source,
    fingerprints,
    questions,
    size,
)
from dukd.training.codec import Codec, FeatureCodec
from dukd.training.schedule import generator

CPU = torch.device("cpu")
BATCH, PATCH, PERIOD = 2, 16, 3
CONFIG = EDSRConfig(scale=2, width=8, blocks=2)
SOURCE = Source(
    teacher="t",
    data="d",
    scale=2,
    patch=PATCH,
    batch=BATCH,
    period=PERIOD,
    seed=1,
    flips=True,
    rotations=True,
    by_area=False,
    precision="float32",
    accumulate=1,
    rank=0,
    world=1,
    bits=8,
)
OUTPUTS_ONLY = (Logits(), DUKD(), DUKD(windows=2, zoom_out=0), Combined(), ReleasedDUKD())
FEATURES = (FitNet(), LSFD(imitation=1), FAKD(), Combined(base=AT(depths=(0.5, 1.0))))


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


def batch(k: int) -> tuple[Tensor, Tensor]:
    rng = generator(7, k % PERIOD)
    hr = torch.randint(256, (BATCH, 3, 2 * PATCH, 2 * PATCH), generator=rng) / 255
    return hr[..., ::2, ::2].contiguous(), hr


def losses(method: Method, student: Network, teacher: Network, step: int) -> list[Losses]:
    """As training asks for them: batch and generator come again after the period."""
    lr, hr = batch(step)
    rng = generator(1, step % PERIOD)
    torch.manual_seed(1)  # adapters are the same every time
    extras = method.extras(student, teacher)
    return [
        part.losses(student=student, teacher=teacher, extras=extras, lr=lr, hr=hr, rng=rng)
        for part in method.parts
    ]


def banked(
    folder: Path, method: Method, student: Network, teacher: Network, source: Source = SOURCE
) -> BankedTeacher:
    asked = questions(teacher, lambda listener: losses(method, student, listener, 0))
    return BankedTeacher(teacher, Bank.open(folder, source, asked, limit=1e9))


def run(method: Method, student: Network, teacher: BankedTeacher, step: int) -> list[Losses]:
    teacher.at(step)
    made = losses(method, student, teacher, step)
    teacher.done()
    return made


class Silent(Staged):
    """Refuses to answer: what is replayed does not come from it."""

    def __init__(self, network: Network) -> None:
        super().__init__(network.config, width=network.width, radius=network.radius)

    def observe(self, lr: Tensor, depths: object) -> Output:
        raise AssertionError("the teacher ran")

    stages = ()
    head = tail = observe  # type: ignore[assignment]


# Codes


@pytest.mark.parametrize(("bits", "step"), [(8, 1 / 224), (16, 1 / 32768)])
def test_black_and_white_are_kept_exactly_and_the_rest_to_half_a_step(
    bits: int, step: float
) -> None:
    codec = Codec(bits)  # type: ignore[arg-type]
    x = torch.cat([torch.tensor([0.0, 1.0]), torch.rand(10_000)])

    again = codec.decode(codec.encode(x), torch.device("cpu"))

    assert torch.equal(again[:2], x[:2])
    assert float((again - x).abs().max()) <= step / 2 + 1e-7
    assert torch.equal(codec.decode(codec.encode(again), torch.device("cpu")), again)


@pytest.mark.parametrize(
    ("bits", "low", "high"), [(8, -16 / 224, 239 / 224), (16, -0.5, 1.5 - 2**-15)]
)
def test_what_lies_outside_the_codes_is_clamped(bits: int, low: float, high: float) -> None:
    codec = Codec(bits)  # type: ignore[arg-type]

    ends = codec.decode(codec.encode(torch.tensor([-9.0, 9.0])), torch.device("cpu"))

    assert_close(ends, torch.tensor([low, high]), rtol=0, atol=1e-7)


def test_thirty_two_bits_keep_every_value() -> None:
    x = torch.randn(100)

    assert torch.equal(Codec(32).decode(Codec(32).encode(x), torch.device("cpu")), x)


def test_features_are_kept_within_the_range_of_each_channel() -> None:
    """By hand: a channel from -200 to 310 in steps of 2, one of a single value, exactly."""
    x = torch.tensor([[[[-200.0, 310.0, 0.9]], [[7.0, 7.0, 7.0]]]])
    codes, scales = FeatureCodec(8).encode(x)

    assert codes.tolist() == [[[[0, 255, 100]], [[0, 0, 0]]]]
    assert FeatureCodec(8).decode(codes, scales, CPU).tolist() == [[[[-200, 310, 0]], [[7, 7, 7]]]]
    sixteen = FeatureCodec(16)
    assert_close(sixteen.decode(*sixteen.encode(x), CPU), x, rtol=0, atol=510 / 65535 / 2 * 1.001)
    exact = FeatureCodec(32)
    assert torch.equal(exact.decode(*exact.encode(x), CPU), x)


def test_eight_bits_are_fifty_seven_decibels_from_the_teacher() -> None:
    """Rounding to steps of 1 / 224 has the variance 1 / (12 * 224^2): 57.8 dB."""
    x = torch.rand(200_000, dtype=torch.float64)
    error = Codec(8).decode(Codec(8).encode(x), torch.device("cpu")).double() - x

    assert -10 * math.log10(error.square().mean()) == pytest.approx(
        10 * math.log10(12 * 224**2), abs=0.05
    )


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


@pytest.mark.parametrize("method", [*OUTPUTS_ONLY, *FEATURES], ids=lambda m: m.name)
def test_replayed_losses_equal_the_teachers_own(
    method: Method, student: Network, teacher: Network, tmp_path: Path
) -> None:
    asked = banked(tmp_path, method, student, teacher, replace(SOURCE, bits=32))
    truth = [losses(method, student, teacher, step) for step in range(PERIOD)]
    first = [run(method, student, asked, step) for step in range(PERIOD)]
    asked.network = Silent(teacher)
    again = [run(method, student, asked, step) for step in range(PERIOD, 3 * PERIOD)]

    assert first == truth
    assert again == truth * 2
    assert asked.asked == PERIOD


@pytest.mark.parametrize("bits", [8, 16])
def test_the_first_period_returns_what_is_replayed_later(
    bits: int, student: Network, teacher: Network, tmp_path: Path
) -> None:
    asked = banked(tmp_path, DUKD(), student, teacher, replace(SOURCE, bits=bits))
    first = [run(DUKD(), student, asked, step) for step in range(PERIOD)]

    assert [run(DUKD(), student, asked, step) for step in range(PERIOD, 2 * PERIOD)] == first
    truth = losses(DUKD(), student, teacher, 0)[0]
    for name, value in first[0][0].items():
        # each value of an answer in range is off by at most half a code
        assert (
            float((value - truth[name]).detach().abs())
            <= {8: 0.5 / 224, 16: 0.5 / 32768}[bits] + 1e-6
        )


@pytest.mark.parametrize(
    "config", [CONFIG, SwinIRConfig(scale=2, width=8, depths=(1, 1), heads=(2, 2), window=8)]
)
def test_replayed_features_are_the_teachers_own_without_what_it_padded(
    config: NetworkConfig, tmp_path: Path
) -> None:
    """8 bits: off by half a step, a 510th of each channel's range; SwinIR pads 12 pixels to 16."""
    teacher, lr, depths = config.build().frozen(), torch.rand(2, 3, 12, 13), (0.5, 1.0)
    asked = questions(teacher, lambda listener: listener.observe(lr, depths))
    made = BankedTeacher(teacher, Bank.open(tmp_path, SOURCE, asked, limit=1e9))
    made.at(0)
    first = made.observe(lr, depths)
    made.done()
    made.network = Silent(teacher)
    made.at(PERIOD)
    again = made.observe(lr, depths)
    truth = teacher.observe(lr, depths)

    assert torch.equal(first[0], again[0])
    assert len(again[1]) == len(depths)
    for kept, replayed, own in zip(first[1], again[1], truth[1], strict=True):
        inside = own[..., :12, :13]
        assert torch.equal(kept, replayed)
        half = (inside.amax((2, 3), keepdim=True) - inside.amin((2, 3), keepdim=True)) / 510
        assert bool(((replayed - inside).abs() <= half * 1.001).all())


def test_features_at_other_depths_are_another_question(
    student: Network, teacher: Network, tmp_path: Path
) -> None:
    paths = {
        banked(tmp_path, m, student, teacher).bank.path
        for m in (Logits(), FitNet(), FitNet(depths=(1.0,)))
    }
    assert len(paths) == 3
    asked = banked(tmp_path, FitNet(), student, teacher)
    asked.at(0)

    with pytest.raises(
        BankError, match=r"asked about .* as question 1, but it asks .* at depths \(0.5,\)"
    ):
        losses(Logits(), student, asked, 0)


def test_the_next_answers_are_read_beside_the_step(
    student: Network, teacher: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the second step of what is kept on, no step waits for the disk or for a checksum."""
    asked = banked(tmp_path, DUKD(), student, teacher)
    for step in range(PERIOD):
        run(DUKD(), student, asked, step)
    readers: list[tuple[int, str]] = []
    read = Bank.read
    monkeypatch.setattr(
        Bank,
        "read",
        lambda bank, k: readers.append((k, threading.current_thread().name[:4])) or read(bank, k),
    )
    for step in range(PERIOD, 2 * PERIOD):
        run(DUKD(), student, asked, step)
    asked.close()

    beside = [k for k, thread in readers if thread == "bank"]
    assert beside in ([1, 2, 0], [1, 2])  # closing may come before the last one begins
    # the thread had looked for batch 0 before it was kept, at the last step of the first period
    assert [k for k, thread in readers if thread != "bank"] in ([], [0])


def test_a_period_of_one_batch_is_replayed(
    student: Network, teacher: Network, tmp_path: Path
) -> None:
    """The next batch is this one, which is not kept yet while the thread looks for it."""
    asked = banked(tmp_path, Logits(), student, teacher, replace(SOURCE, period=1))
    for _ in range(4):
        asked.at(0)
        losses(Logits(), student, asked, 0)
        asked.done()

    assert asked.asked == 1


def test_what_another_run_keeps_meanwhile_is_found(
    student: Network, teacher: Network, tmp_path: Path
) -> None:
    first, second = (banked(tmp_path, DUKD(), student, teacher) for _ in range(2))
    run(DUKD(), student, first, 0)  # whose thread finds nothing of batch 1
    run(DUKD(), student, second, 1)
    first.network = Silent(teacher)
    run(DUKD(), student, first, 1)

    assert first.asked == 1


def test_another_run_takes_up_what_the_first_one_kept(
    student: Network, teacher: Network, tmp_path: Path
) -> None:
    first = banked(tmp_path, DUKD(), student, teacher)
    run(DUKD(), student, first, 1)
    first.close()
    second = banked(tmp_path, DUKD(), student, teacher)

    assert second.bank.missing() == [0, 2]
    run(DUKD(), student, second, 0)
    second.network = Silent(teacher)
    run(DUKD(), student, second, 1)
    assert second.asked == 1


def test_methods_with_equal_questions_share_a_bank_and_others_do_not(
    student: Network, teacher: Network, tmp_path: Path
) -> None:
    def path(method: Method, source: Source = SOURCE) -> Path:
        return banked(tmp_path, method, student, teacher, source).bank.path

    here = path(DUKD())
    assert path(DUKD(zoom_in=0.5, reconstruction=3, consistency=0.9)) == here
    assert path(Combined()) == here
    other = [
        path(DUKD(windows=2)),
        path(DUKD(zoom_in=0)),
        path(Logits()),
        path(DUKD(placement="tiles")),
    ]
    other += [
        path(DUKD(), replace(SOURCE, **{name: "x"})) for name in ("teacher", "data", "precision")
    ]
    other += [
        path(DUKD(), replace(SOURCE, **{name: 9}))
        for name in ("seed", "accumulate", "rank", "period")
    ]
    other += [path(DUKD(), replace(SOURCE, bits=16))]
    assert len({here, *other}) == len(other) + 1


# Refusals


@pytest.mark.parametrize("method", [CrossKD(), Combined(base=CrossKD())], ids=lambda m: m.name)
def test_methods_that_run_parts_of_the_teacher_are_refused_with_a_remedy(
    method: Method, student: Network, teacher: Network, tmp_path: Path
) -> None:
    with pytest.raises(
        BankError,
        match=r"this method .*: switch the cache off \(--teacher-cache off\), or .*--data.period 0",
    ):
        banked(tmp_path, method, student, teacher)

    assert list(tmp_path.iterdir()) == []


ASKABLE = [
    kind()
    for name, kind in sorted(known(Method).items())
    if kind().needs_teacher
    and name not in {"csd", "mcir", "dckd", "mtkd"}  # whose extras are large or need files
]


@pytest.mark.parametrize("method", ASKABLE, ids=lambda m: m.name)
def test_every_method_is_replayed_or_refused(
    method: Method, student: Network, teacher: Network, tmp_path: Path
) -> None:
    if method.runs_teacher:
        assert method.name in {"crosskd", "mipkd"}
        return
    asked = banked(tmp_path, method, student, teacher)
    for step in range(PERIOD):
        run(method, student, asked, step)
    asked.network = Silent(teacher)
    run(method, student, asked, PERIOD)


def test_images_made_by_the_student_are_refused(teacher: Network, tmp_path: Path) -> None:
    lr = batch(0)[0].requires_grad_()

    with pytest.raises(BankError, match="asks the teacher about what the student made"):
        questions(teacher, lambda listener: listener(lr))


def direct(folder: Path, teacher: Network) -> BankedTeacher:
    """A bank of one question per batch, filled."""
    asked = questions(teacher, lambda listener: listener(batch(0)[0]))
    made = BankedTeacher(teacher, Bank.open(folder, SOURCE, asked, limit=1e9))
    for k in range(PERIOD):
        made.at(k)
        made(batch(k)[0])
        made.done()
    return made


def test_another_image_than_the_one_recorded_gets_no_answer(
    teacher: Network, tmp_path: Path
) -> None:
    asked = direct(tmp_path, teacher)
    lr = batch(1)[0]
    lr[1, 2, 3, 4] += 1 / 255 if lr[1, 2, 3, 4] < 0.5 else -1 / 255
    asked.at(1)

    with pytest.raises(BankError, match="at batch 1 the method asked about other images"):
        asked(lr)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda t: [t(batch(0)[0]), t(batch(0)[0])], r"asked about \(2, 3, 16, 16\) as question 2"),
        (lambda t: t(batch(0)[0][:1]), r"asked about \(1, 3, 16, 16\) as question 1"),
        (lambda _: None, "asked 0 questions, not 1"),
    ],
)
def test_more_less_or_other_questions_are_refused(
    teacher: Network, tmp_path: Path, ask: Callable[[Network], object], message: str
) -> None:
    asked = direct(tmp_path, teacher)
    asked.at(0)

    def step() -> None:
        ask(asked)
        asked.done()

    with pytest.raises(BankError, match=message):
        step()


def test_a_bank_above_the_limit_is_refused_with_the_period_that_would_fit(
    teacher: Network, tmp_path: Path
) -> None:
    source = replace(SOURCE, period=1000)
    asked = questions(teacher, lambda listener: listener(batch(0)[0]))
    record = 2 * 3 * 32 * 32 + 2 * 4 * 8 + 8

    assert size(source, asked) == 4096 + 1000 * record
    with pytest.raises(
        BankError, match=rf"take 0.01 GB .* a period of at most {(10**6 - 4096) // record} fits"
    ):
        Bank.open(tmp_path, source, asked, limit=1e6)
    with pytest.raises(BankError, match="not even one batch fits"):
        Bank.open(tmp_path, source, asked, limit=100)


def test_a_bank_that_does_not_fit_on_the_disk_is_refused(teacher: Network, tmp_path: Path) -> None:
    asked = questions(teacher, lambda listener: listener(batch(0)[0]))

    with pytest.raises(BankError, match=r"GB are free in"):
        Bank.open(tmp_path, replace(SOURCE, period=10**12), asked, limit=math.inf)


@pytest.mark.parametrize("damage", ["cut", "header", "version"])
def test_a_damaged_bank_is_refused(teacher: Network, tmp_path: Path, damage: str) -> None:
    asked = direct(tmp_path, teacher)
    path = asked.bank.path
    asked.close()
    with path.open("r+b") as file:
        if damage == "cut":
            file.truncate(path.stat().st_size - 1)
        else:
            file.seek({"header": 40, "version": 8}[damage])
            file.write(b"\7")

    with pytest.raises(BankError, match="delete it, and it is made anew"):
        direct(tmp_path, teacher)


@pytest.mark.parametrize("place", [0, 3, 4, 7, 8, 71, 72, 5000, 2 * 3 * 32 * 32 + 71])
def test_a_flipped_bit_costs_one_record_and_gives_no_wrong_answer(
    teacher: Network, tmp_path: Path, place: int
) -> None:
    asked = direct(tmp_path, teacher)
    with asked.bank.path.open("r+b") as file:
        at = asked.bank._start + asked.bank._record.itemsize + place
        file.seek(at)
        old = file.read(1)[0]
        file.seek(at)
        file.write(bytes([old ^ 1 << place % 8]))

    assert asked.bank.missing() == [1]
    asked.at(1)
    asked(batch(1)[0])
    asked.done()
    assert asked.bank.missing() == []


def test_an_answer_that_is_no_number_is_passed_on_and_not_kept(
    teacher: Network, tmp_path: Path
) -> None:
    asked = direct(tmp_path, teacher)
    empty = BankedTeacher(
        teacher, Bank.open(tmp_path / "2", replace(SOURCE, bits=16), asked.bank.asked, limit=1e9)
    )
    next(iter(teacher.parameters())).data.fill_(math.nan)
    empty.at(0)

    assert not torch.isfinite(empty(batch(0)[0])).any()
    empty.done()
    assert empty.bank.missing() == [0, 1, 2]


# Kills, and several processes


def _fill(folder: Path, third: Event, period: int) -> None:
    """Fill a bank, as a process of its own would; tells when three records are there."""
    torch.manual_seed(0)
    made = asker(folder, period)
    for k in range(period):
        made.at(k)
        made(batch(k)[0])
        made.done()
        if k == 2:
            third.set()


def asker(folder: Path, period: int) -> BankedTeacher:
    teacher = CONFIG.build().frozen()
    asked = questions(teacher, lambda listener: listener(batch(0)[0]))
    return BankedTeacher(
        teacher, Bank.open(folder, replace(SOURCE, period=period), asked, limit=1e9)
    )


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
    torch.manual_seed(0)
    made = asker(tmp_path, 5000)
    missing = made.bank.missing()

    assert 0 < len(missing) <= 4997
    assert missing == list(range(missing[0], 5000))
    for k in range(missing[0]):
        record = made.bank.read(k)
        assert record is not None
        assert np.array_equal(record["answer0"], Codec(8).encode(made.network(batch(k)[0])))


@pytest.mark.slow
def test_two_processes_fill_one_bank(tmp_path: Path) -> None:
    child, third = another_process(tmp_path, 200)
    assert third.wait(100)
    _fill(tmp_path, third, 200)
    child.join()
    torch.manual_seed(0)

    assert child.exitcode == 0
    assert len(list(tmp_path.glob("*.bank"))) == 1
    assert asker(tmp_path, 200).bank.missing() == []
