from collections import Counter
from pathlib import Path
from threading import active_count, current_thread

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from dukd.data import Pack, Patches, batches, find_pairs, prepare
from dukd.data.draw import Draw, Sample
from dukd.data.stream import Stream

SCALE = 2


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def place(h: int, w: int, image: int) -> np.ndarray:
    """An image whose pixels say their row, column and image."""
    rows, columns = np.mgrid[:h, :w]
    return np.stack([rows, columns, np.full_like(rows, image)], -1).astype(np.uint8)


def make_pack(folder: Path, sizes: list[tuple[int, int]]) -> Pack:
    """lr tells where it is; hr repeats each of its pixels: aligned patches are enlarged ones,
    exactly.
    """
    for i, (h, w) in enumerate(sizes):
        lr = place(h, w, i)
        write(folder / "LR" / f"p{i}x{SCALE}.png", lr)
        write(folder / "HR" / f"p{i}.png", lr.repeat(SCALE, 0).repeat(SCALE, 1))
    return prepare(find_pairs(folder, scale=SCALE), folder / "pack")


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return make_pack(tmp_path_factory.mktemp("data"), [(12, 9), (8, 8), (20, 31), (10, 40), (9, 9)])


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Pack]:
    return {n: make_pack(tmp_path_factory.mktemp(f"n{n}"), [(6, 5)] * n) for n in range(1, 8)}


def equal(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> bool:
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


@given(
    n=st.integers(1, 7),
    batch=st.integers(1, 17),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 3),
)
def test_every_image_is_seen_once_per_epoch(
    packs: dict[int, Pack], n: int, batch: int, seed: int, epoch: int
) -> None:
    patches = Patches(packs[n], patch=4, batch=batch, seed=seed)
    seen = [
        sample.image for k in range(n * (epoch + 1) // batch + 1) for sample in patches.samples(k)
    ]

    assert sorted(seen[n * epoch : n * (epoch + 1)]) == list(range(n))


@given(
    k=st.integers(0, 10**9), seed=st.integers(0, 99), flips=st.booleans(), rotations=st.booleans()
)
def test_hr_is_cut_where_lr_is(pack: Pack, k: int, seed: int, flips: bool, rotations: bool) -> None:
    lr, hr = Patches(pack, patch=8, batch=4, seed=seed, flips=flips, rotations=rotations).batch(k)

    assert lr.shape == (4, 3, 8, 8)
    assert lr.dtype == torch.uint8
    assert torch.equal(hr, lr.repeat_interleave(SCALE, -1).repeat_interleave(SCALE, -2))


def test_a_patch_shows_what_its_sample_says(pack: Pack) -> None:
    patches = Patches(pack, patch=5, batch=64)
    lr, _ = patches.batch(3)
    for sample, patch in zip(patches.samples(3), lr, strict=True):
        expected = pack.lr(sample.image)[sample.top : sample.top + 5, sample.left : sample.left + 5]
        expected = np.flip(
            expected,
            [axis for axis, on in enumerate((sample.flip_rows, sample.flip_columns)) if on],
        )
        expected = expected.transpose(1, 0, 2) if sample.transpose else expected

        assert np.array_equal(patch.permute(1, 2, 0).numpy(), expected)


def test_patches_never_change() -> None:
    """Written down on the day they were first drawn: another draw breaks every resumed run."""
    draw = Draw(
        heights=(12, 8, 20, 10, 9),
        widths=(9, 8, 31, 40, 9),
        patch=5,
        batch=4,
        seed=10,
        flips=True,
        rotations=True,
        period=0,
        by_area=False,
    )

    assert draw.samples(0, 0, 1) == [
        Sample(1, 3, 0, flip_rows=False, flip_columns=True, transpose=False),
        Sample(4, 0, 3, flip_rows=False, flip_columns=False, transpose=True),
        Sample(2, 4, 18, flip_rows=False, flip_columns=True, transpose=False),
        Sample(3, 3, 19, flip_rows=True, flip_columns=False, transpose=True),
    ]
    assert draw.samples(10**6, 0, 1)[2] == Sample(
        2, 15, 7, flip_rows=False, flip_columns=False, transpose=True
    )


@pytest.mark.parametrize(
    ("flips", "rotations", "expected"),
    [
        (False, False, {(0, 0, 0)}),
        (True, False, {(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0)}),
        (False, True, {(0, 0, 0), (1, 1, 0), (0, 1, 1), (1, 0, 1)}),
        (True, True, {(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)}),
    ],
)
def test_orientations_are_equally_likely(
    pack: Pack, flips: bool, rotations: bool, expected: set[tuple[int, int, int]]
) -> None:
    """2000 draws among at most 8: each share is within 0.05, six standard deviations, of its
    expectation.
    """
    samples = Patches(pack, patch=4, batch=2000, flips=flips, rotations=rotations).samples(0)
    counts = Counter((s.flip_rows, s.flip_columns, s.transpose) for s in samples)

    assert set(counts) == expected
    assert all(abs(count / 2000 - 1 / len(expected)) < 0.05 for count in counts.values())


def test_rotations_without_flips_never_mirror(pack: Pack) -> None:
    """A rotated pair of axes keeps its handedness: the row and column steps of the patch have a
    determinant of 1.
    """
    patches = Patches(pack, patch=4, batch=64, flips=False)
    for patch in patches.batch(0)[0].int():
        down, across = patch[:2, 1, 0] - patch[:2, 0, 0], patch[:2, 0, 1] - patch[:2, 0, 0]

        assert down[0] * across[1] - down[1] * across[0] == 1


def test_all_places_are_reached(packs: dict[int, Pack]) -> None:
    """6 x 5 pixels hold 3 x 2 places for a patch of 4."""
    samples = Patches(packs[1], patch=4, batch=500).samples(0)

    assert {(s.top, s.left) for s in samples} == {
        (top, left) for top in range(3) for left in range(2)
    }


def test_batches_depend_on_seed_and_number_alone(pack: Pack) -> None:
    first = Patches(pack, patch=6, batch=4, seed=1)
    again = Patches(pack, patch=6, batch=4, seed=1)
    again.batch(7)

    assert equal(first.batch(5), again.batch(5))
    assert not equal(first.batch(5), first.batch(6))
    assert not equal(first.batch(5), Patches(pack, patch=6, batch=4, seed=2).batch(5))


def test_batches_that_are_kept_are_those_that_were_drawn(pack: Pack) -> None:
    """In any order, and for any share of a rank."""
    patches, fresh = Patches(pack, patch=4, batch=6, period=4), Patches(pack, patch=4, batch=6)
    shares = [(0, 1), (0, 2), (1, 2), (2, 3)]
    for _ in range(2):
        for k in (3, 0, 2, 1, 7):
            for rank, world in shares:
                drawn = patches.samples(k, rank, world)
                assert drawn == fresh.samples(k % 4, rank, world)
                drawn.clear()  # a caller's own list


@given(k=st.integers(0, 100), period=st.integers(1, 9))
def test_batches_repeat_after_their_period(pack: Pack, k: int, period: int) -> None:
    patches = Patches(pack, patch=4, batch=3, period=period)

    assert patches.samples(k) == Patches(pack, patch=4, batch=3).samples(k % period)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6, 12])
def test_shares_of_the_processes_make_up_the_batch(pack: Pack, world: int) -> None:
    patches = Patches(pack, patch=5, batch=12)
    shares = [patches.batch(9, rank, world) for rank in range(world)]

    assert equal(
        (torch.cat([s[0] for s in shares]), torch.cat([s[1] for s in shares])), patches.batch(9)
    )


@given(k=st.integers(0, 1000), world=st.sampled_from([1, 2, 4]))
def test_patches_cut_on_a_device_are_the_same(pack: Pack, k: int, world: int) -> None:
    patches = Patches(pack, patch=7, batch=8)

    assert equal(
        patches.on_device("cpu").batch(k, world - 1, world), patches.batch(k, world - 1, world)
    )


def test_areas_weigh_the_images(tmp_path: Path) -> None:
    """Areas of 16, 48 and 64 pixels: an eighth, three eighths and a half; each epoch of 3 starts
    anew.
    """
    pack = make_pack(tmp_path, [(4, 4), (4, 12), (8, 8)])
    counts = Counter(s.image for s in Patches(pack, patch=4, batch=3000, by_area=True).samples(0))

    assert [counts[i] / 3000 for i in range(3)] == pytest.approx([0.125, 0.375, 0.5], abs=0.01)


def test_equal_areas_are_seen_once_per_epoch(packs: dict[int, Pack]) -> None:
    assert sorted(
        s.image for s in Patches(packs[7], patch=4, batch=7, by_area=True).samples(4)
    ) == list(range(7))


def test_images_smaller_than_a_patch_are_named(pack: Pack) -> None:
    with pytest.raises(
        ValueError,
        match=r"3 of 5 .* patch of 10: p0 \(9x12\), p1 \(8x8\), p4 \(9x9\); .* at most 8",
    ):
        Patches(pack, patch=10)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"patch": 0}, "patch is at least 1, but got 0"),
        ({"batch": 0}, "batch is at least 1"),
        ({"seed": -1}, "seed is at least 0"),
        ({"period": -1}, "period is at least 0"),
    ],
)
def test_numbers_out_of_range_are_refused(pack: Pack, wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Patches(pack, **wrong)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((-1, 0, 1), "numbered from 0"),
        ((0, 0, 5), r"shared by \[1, 2, 3, 4, 6, 12\] processes, but got 5"),
        ((0, 3, 3), "0 to 2, but got 3"),
    ],
)
def test_shares_that_cannot_be_are_refused(
    pack: Pack, numbers: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Patches(pack, patch=4, batch=12).batch(*numbers)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_streams_are_the_same_for_any_number_of_workers(pack: Pack, workers: int) -> None:
    patches = Patches(pack, patch=4, batch=3)
    with batches(patches, 11, stop=31, workers=workers) as stream:
        got = list(stream)

    assert len(got) == 20
    assert all(equal(batch, patches.batch(k)) for k, batch in enumerate(got, start=11))


def test_streams_give_the_share_of_a_process(pack: Pack) -> None:
    patches = Patches(pack, patch=4, batch=4)
    with batches(patches, 2, rank=1, world=2) as stream:
        assert equal(next(stream), patches.batch(2, 1, 2))


def test_a_closed_stream_has_no_threads(pack: Pack) -> None:
    before = active_count()
    stream = batches(Patches(pack, patch=4), workers=4)
    next(stream)
    stream.close()
    stream.close()

    assert active_count() == before
    with pytest.raises(StopIteration):
        next(stream)


class Failing:
    """Batches of which one cannot be cut."""

    def batch(self, k: int, rank: int = 0, world: int = 1) -> tuple[Tensor, Tensor]:
        if k == 3:
            raise OSError(5, "Input/output error")
        return torch.tensor(k), torch.tensor(k)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_a_worker_arrives_as_itself_in_its_turn(workers: int) -> None:
    before = active_count()
    stream = batches(Failing(), workers=workers)

    assert [int(next(stream)[0]) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="Input/output error"):
        next(stream)
    assert active_count() == before


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_names_its_image(
    pack: Pack, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    def broken(self: Pack, i: int) -> np.ndarray:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Pack, "hr", broken)
    patches = Patches(pack, patch=4, batch=1)
    with (
        batches(patches, 6, workers=workers) as stream,
        pytest.raises(OSError, match="Input/output") as caught,
    ):
        next(stream)

    assert caught.value.__notes__ == [f"while cutting a patch of {patches.names(6)[0]}, batch 6"]


def test_a_stream_counts_from_nought() -> None:
    with pytest.raises(ValueError, match="not negative"):
        batches(Failing(), -1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_same_batches(pack: Pack) -> None:
    patches = Patches(pack, patch=6, batch=8)
    with (
        batches(patches, workers=2, device="cuda") as copied,
        batches(patches.on_device("cuda"), workers=1) as cut,
    ):
        for k in range(20):
            expected = patches.batch(k)
            assert_close(next(copied)[0].cpu(), expected[0], rtol=0, atol=0)
            assert equal(tuple(x.cpu() for x in next(cut)), expected)


def test_threads_pin_memory_for_the_gpu_they_serve(
    pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread starts with the first GPU; one that pinned there would take memory from another
    process's.
    """
    chosen: list[tuple[str, torch.device]] = []
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda device: chosen.append((current_thread().name[:7], device))
    )
    monkeypatch.setattr(Tensor, "pin_memory", lambda x: x)
    monkeypatch.setattr(Stream, "_placed", lambda _, batch: batch)
    with batches(Patches(pack, patch=4, batch=2), workers=1, device="cuda:3") as stream:
        next(stream)

    assert chosen == [("patches", torch.device("cuda", 3))]
