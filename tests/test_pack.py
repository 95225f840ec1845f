import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import pytest
from PIL import Image

import dukd.data.packing as module
from dukd.data import (
    Pack,
    PackError,
    Pair,
    Pairs,
    PairsError,
    find_pairs,
    join,
    load,
    packed_bytes,
    prepare,
)

SIZES = [(16, 12), (9, 31), (40, 8), (21, 22)]


def image(seed: int, h: int, w: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, (h, w) in enumerate(SIZES):
        write(tmp_path / "set" / "HR" / f"p{i}.png", image(i, h, w))
    return tmp_path / "set"


@pytest.fixture
def pairs(folder: Path) -> Pairs:
    return find_pairs(folder, scale=4)


def test_a_pack_holds_the_images_as_they_are_loaded(pairs: Pairs, tmp_path: Path) -> None:
    pack = prepare(pairs, tmp_path / "pack")

    assert pack.names == ("p0", "p1", "p2", "p3")
    for i, pair in enumerate(pairs):
        lr, hr = load(pair)
        h, w = SIZES[i][0] // 4, SIZES[i][1] // 4

        assert lr.shape == (h, w, 3)
        assert np.array_equal(hr, image(i, *SIZES[i])[: 4 * h, : 4 * w])
        assert np.array_equal(pack.lr(i), lr)
        assert np.array_equal(pack.hr(i), hr)


def test_views_share_the_mapped_file_and_cannot_be_written(pairs: Pairs, tmp_path: Path) -> None:
    pack = prepare(pairs, tmp_path / "pack")

    assert np.shares_memory(pack.lr(1), pack.pixels)
    with pytest.raises(ValueError, match="read-only"):
        pack.hr(1)[0, 0, 0] = 0


def test_files_and_made_images_are_told_apart(pairs: Pairs, folder: Path, tmp_path: Path) -> None:
    made = prepare(pairs, tmp_path / "made")
    for i, (h, w) in enumerate(SIZES):
        write(folder / "LR_bicubic" / "X4" / f"p{i}x4.png", image(9 + i, h // 4, w // 4))
    genuine = prepare(find_pairs(folder, scale=4), tmp_path / "genuine")

    assert made.lr_source == "bicubic, MATLAB's uint8 path"
    assert made.records[0].lr is None
    assert genuine.lr_source == "files"
    assert np.array_equal(genuine.lr(3), image(12, 5, 5))
    assert made.digest != genuine.digest


def test_the_plan_is_the_size_but_for_the_index(pairs: Pairs, tmp_path: Path) -> None:
    """Images begin at multiples of 64 after 4096: 4*3*51 = 612, 2*7*51 = 714, 10*2*51 = 1020 and
    5*5*51 = 1275.
    """
    assert packed_bytes(pairs) == 4096 + 640 + 768 + 1024 + 1275
    path = prepare(pairs, tmp_path / "pack").path

    assert packed_bytes(pairs) < path.stat().st_size < packed_bytes(pairs) + 1024 * len(pairs)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_digest_is_that_of_the_data_alone(
    pairs: Pairs, folder: Path, tmp_path: Path, workers: int
) -> None:
    other = folder.rename(folder.with_name("elsewhere"))
    moved = find_pairs(other, scale=4)

    assert (
        prepare(moved, tmp_path / "b", workers=workers).digest
        == prepare(moved, tmp_path / "a").digest
    )
    write(other / "HR" / "p1.png", image(99, 9, 31))
    assert prepare(moved, tmp_path / "c").digest != Pack.open(tmp_path / "a").digest


def test_nothing_but_the_pack_is_left(pairs: Pairs, tmp_path: Path) -> None:
    prepare(pairs, tmp_path / "out" / "pack")

    assert [path.name for path in (tmp_path / "out").iterdir()] == ["pack"]


def test_progress_counts_to_the_end(pairs: Pairs, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    prepare(pairs, tmp_path / "pack", progress=lambda *report: seen.append(report))

    assert seen == [(1, 4, "p0"), (2, 4, "p1"), (3, 4, "p2"), (4, 4, "p3")]


def test_a_pack_travels_to_other_processes_by_its_path(pairs: Pairs, tmp_path: Path) -> None:
    pack = prepare(pairs, tmp_path / "pack")
    copy = pickle.loads(pickle.dumps(pack))

    assert copy.digest == pack.digest
    assert np.array_equal(copy.hr(2), pack.hr(2))


def test_a_matching_pack_is_opened_and_not_made_again(pairs: Pairs, tmp_path: Path) -> None:
    made = prepare(pairs, tmp_path / "pack").path.stat().st_mtime_ns

    assert prepare(pairs, tmp_path / "pack").path.stat().st_mtime_ns == made


def test_a_stale_pack_says_what_changed_and_is_replaced(
    pairs: Pairs, folder: Path, tmp_path: Path
) -> None:
    old = prepare(pairs, tmp_path / "pack")
    (folder / "HR" / "p0.png").unlink()
    write(folder / "HR" / "p1.png", image(99, 9, 31))
    write(folder / "HR" / "q.png", image(5, 8, 8))
    now = find_pairs(folder, scale=4)

    assert old.matches(pairs) is False
    assert old.differences(now) == ["1 removed: p0", "1 added: q", "1 changed: p1"]
    new = prepare(now, tmp_path / "pack")
    assert new.names == ("p1", "p2", "p3", "q")
    assert new.matches(now)
    # Whoever still trains on the old one goes on with its images.
    assert np.array_equal(old.hr(0), image(0, 16, 12))


def test_a_touched_file_is_the_same_and_a_changed_one_is_not(
    pairs: Pairs, folder: Path, tmp_path: Path
) -> None:
    pack = prepare(pairs, tmp_path / "pack")
    path = folder / "HR" / "p2.png"
    os.utime(path, ns=(1, 1))
    assert pack.matches(pairs)

    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert pack.differences(pairs) == ["1 changed: p2"]


def test_files_that_look_untouched_are_not_read_again(
    pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a pack of thousands of images must not read them all."""
    pack = prepare(pairs, tmp_path / "pack")
    read: list[Path] = []
    monkeypatch.setattr(module, "sha256", read.append)

    assert pack.matches(pairs)
    assert read == []


def test_a_full_disk_keeps_what_was_finished(
    pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        """A file on a disk that is full after two images."""

        def __init__(self, file: Any) -> None:
            self.file, self.writes = file, 0

        def write(self, content: Any) -> int:
            self.writes += 1
            if self.writes > 4:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(content)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

    whole = Path.open

    def opened(self: Path, mode: str = "r") -> Any:
        return (
            Full(whole(self, mode))
            if self.suffix == ".partial" and "+" in mode
            else whole(self, mode)
        )

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opened)
        with pytest.raises(OSError, match="No space left"):
            prepare(pairs, tmp_path / "pack", workers=1)
    assert not (tmp_path / "pack").exists()

    assert count_decoded(pairs, tmp_path / "pack") == ["p2", "p3"]


def test_the_scale_and_the_order_are_part_of_a_pack(
    pairs: Pairs, folder: Path, tmp_path: Path
) -> None:
    pack = prepare(pairs, tmp_path / "pack")

    assert (
        pack.differences(find_pairs(folder, scale=2))[0]
        == "the pack is for scale 4, the pairs are for 2"
    )
    backwards = Pairs(folder=pairs.folder, scale=4, pairs=pairs.pairs[::-1])
    assert pack.differences(backwards) == ["the order differs"]


def test_a_set_whose_names_clash_is_packed_under_numbers(pairs: Pairs, tmp_path: Path) -> None:
    assert prepare(join(pairs, pairs), tmp_path / "pack").names[3:5] == ("1/p3", "2/p0")


def test_damaged_pixels_are_found_and_named(pairs: Pairs, tmp_path: Path) -> None:
    pack = prepare(pairs, tmp_path / "pack")
    pack.verify()
    with pack.path.open("r+b") as file:
        file.seek(pack.records[2].offset + 100)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))

    with pytest.raises(PackError, match=r"1 of 4 images have changed: p2; remove it"):
        Pack.open(pack.path).verify()


@pytest.mark.parametrize("cut", [9, 40, 5000, -1])
def test_a_pack_that_was_cut_is_refused_and_made_again(
    pairs: Pairs, tmp_path: Path, cut: int
) -> None:
    path = prepare(pairs, tmp_path / "pack").path
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])

    with pytest.raises(PackError, match="damaged"):
        Pack.open(path)
    prepare(pairs, path).verify()


def test_every_changed_byte_of_header_and_index_is_noticed(pairs: Pairs, tmp_path: Path) -> None:
    path = prepare(pairs, tmp_path / "pack").path
    whole = path.read_bytes()
    end = len(whole)
    for place in [*range(64), *range(packed_bytes(pairs), end, 97)]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(PackError):
            Pack.open(path)


def test_other_files_than_packs_are_refused_and_never_overwritten(
    pairs: Pairs, folder: Path, tmp_path: Path
) -> None:
    precious = folder / "HR" / "p0.png"
    with pytest.raises(PackError, match="is not a pack"):
        Pack.open(precious)
    with pytest.raises(PackError, match="exists and is not a pack"):
        prepare(pairs, precious)
    with pytest.raises(PackError, match="there is no pack"):
        Pack.open(tmp_path / "none")
    with pytest.raises(PackError, match="is a folder"):
        Pack.open(tmp_path)


def test_an_empty_set_and_no_workers_are_refused(pairs: Pairs, tmp_path: Path) -> None:
    with pytest.raises(PackError, match="no pairs to pack"):
        prepare(Pairs(folder=tmp_path, scale=4, pairs=()), tmp_path / "pack")
    with pytest.raises(PackError, match="at least one worker"):
        prepare(pairs, tmp_path / "pack", workers=0)


def test_too_little_room_is_noticed_before_anything_is_written(
    pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        module.shutil, "disk_usage", lambda _: module.shutil._ntuple_diskusage(10, 9, 1_000_000)
    )

    with pytest.raises(
        PackError, match=r"a pack of 4 images needs 67\.1 MB more in .*, but 1\.0 MB are free"
    ):
        prepare(pairs, tmp_path / "pack")
    assert not (tmp_path / "pack.partial").exists()
    assert [entry.name for entry in tmp_path.iterdir() if "journal" in entry.name] == []


def test_unreadable_images_are_all_named_and_the_rest_is_kept(
    pairs: Pairs, folder: Path, tmp_path: Path
) -> None:
    good = {name: (folder / "HR" / name).read_bytes() for name in ("p0.png", "p2.png")}
    for name, content in good.items():
        (folder / "HR" / name).write_bytes(content[: len(content) // 2])

    with pytest.raises(PairsError, match=r"2 problems(.|\n)*p0.png(.|\n)*p2.png(.|\n)*--skip-bad"):
        prepare(pairs, tmp_path / "pack", workers=1)
    assert not (tmp_path / "pack").exists()

    for name, content in good.items():
        (folder / "HR" / name).write_bytes(content)
    assert count_decoded(pairs, tmp_path / "pack") == ["p0", "p2"]


def test_a_pack_without_bad_images_names_them(pairs: Pairs, folder: Path, tmp_path: Path) -> None:
    """What was left out is no change, as long as the file stays bad."""
    path = folder / "HR" / "p2.png"
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])

    pack = prepare(pairs, tmp_path / "pack", skip_bad=True)

    assert pack.names == ("p0", "p1", "p3")
    assert len(pack.left_out) == 1
    assert "p2.png: is damaged" in pack.left_out[0]
    pack.verify()
    assert Pack.open(tmp_path / "pack").matches(pairs)
    path.write_bytes(good)
    assert pack.differences(pairs) == ["1 added: p2"]
    for name in ("p0", "p1", "p2", "p3"):
        (folder / "HR" / f"{name}.png").write_bytes(good[:60])
    with pytest.raises(PairsError, match="4 problems"):
        prepare(pairs, tmp_path / "other", skip_bad=True)


def test_no_flipped_bit_reaches_a_batch(pairs: Pairs, tmp_path: Path) -> None:
    """Every image is compared with its digest when it is first touched, and only then."""
    path = tmp_path / "pack"
    pack = prepare(pairs, path)
    data, end = path.read_bytes(), packed_bytes(pairs)
    places = [r.offset + k for r in pack.records for k in range(0, r.height * r.width * 51, 61)]
    assert max(places) < end
    for place in places:
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        opened = Pack.open(path)
        touched = [i for i, r in enumerate(opened.records) if r.offset <= place][-1]
        name = opened.names[touched]
        with pytest.raises(PackError, match=rf"damaged: {name} has changed since it was packed"):
            opened.lr(touched)
        assert opened.hr((touched + 1) % 4).size


def test_a_pack_of_the_old_version_is_refused_in_a_sentence(pairs: Pairs, tmp_path: Path) -> None:
    prepare(pairs, tmp_path / "pack")
    data = bytearray((tmp_path / "pack").read_bytes())
    data[8] = 1
    (tmp_path / "pack").write_bytes(data)

    with pytest.raises(PackError, match="of version 1, this program reads version 2: prepare it"):
        Pack.open(tmp_path / "pack")


def test_a_image_of_another_size_than_its_header_had_is_named(
    pairs: Pairs, folder: Path, tmp_path: Path
) -> None:
    write(folder / "HR" / "p3.png", image(3, 30, 30))

    with pytest.raises(PairsError, match=r"p3.png .*\n.*30x30, and 5x5 times 4 was expected"):
        prepare(pairs, tmp_path / "pack")


def count_decoded(pairs: Pairs, path: Path) -> list[str]:
    """Prepare, and say which images had to be decoded."""
    decoded: list[str] = []

    def counting(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        decoded.append(pair.name)
        return load(pair)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load", counting)
        prepare(pairs, path, workers=1).verify()
    return decoded


class StoppedError(Exception):
    """An interruption."""


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_an_interrupted_run_goes_on_where_it_stopped(
    pairs: Pairs, tmp_path: Path, after: int
) -> None:
    def interrupt(done: int, total: int, what: str) -> None:
        if done == after:
            raise StoppedError

    with pytest.raises(StoppedError):
        prepare(pairs, tmp_path / "pack", progress=interrupt, workers=1)
    assert not (tmp_path / "pack").exists()

    assert count_decoded(pairs, tmp_path / "pack") == [f"p{i}" for i in range(after, 4)]
    assert Pack.open(tmp_path / "pack").digest == prepare(pairs, tmp_path / "whole").digest


def test_a_killed_run_goes_on_and_its_torn_line_is_ignored(
    pairs: Pairs, folder: Path, tmp_path: Path
) -> None:
    """A real process, killed without warning after its second image."""
    program = f"""
        import os, signal
        from dukd.data import find_pairs, prepare
        def kill(done, total, what):
            if done == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        pairs = find_pairs({str(folder)!r}, scale=4)
        prepare(pairs, {str(tmp_path / "pack")!r}, progress=kill, workers=1)
    """
    source = str(Path(module.__file__).parents[2])
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        check=False, env={**os.environ, "PYTHONPATH": source},
    )  # fmt: skip
    assert run.returncode == -signal.SIGKILL
    journal = tmp_path / "pack.journal"
    journal.write_bytes(journal.read_bytes() + b'{"name": "p2", "hei')

    assert count_decoded(pairs, tmp_path / "pack") == ["p2", "p3"]


def test_after_a_power_cut_pixels_that_were_lost_are_decoded_again(
    pairs: Pairs, tmp_path: Path
) -> None:
    def interrupt(done: int, total: int, what: str) -> None:
        if done == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        prepare(pairs, tmp_path / "pack", progress=interrupt, workers=1)
    lines = (tmp_path / "pack.journal").read_text().splitlines()
    with (tmp_path / "pack.partial").open("r+b") as file:
        file.seek(json.loads(lines[1])["offset"])
        file.write(bytes(64))

    assert count_decoded(pairs, tmp_path / "pack") == ["p1", "p3"]


def test_a_source_that_changed_in_between_is_decoded_again(
    pairs: Pairs, folder: Path, tmp_path: Path
) -> None:
    def interrupt(done: int, total: int, what: str) -> None:
        if done == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        prepare(pairs, tmp_path / "pack", progress=interrupt, workers=1)
    write(folder / "HR" / "p0.png", image(77, 16, 12))

    assert count_decoded(pairs, tmp_path / "pack") == ["p0", "p3"]
    assert np.array_equal(Pack.open(tmp_path / "pack").hr(0), image(77, 16, 12))


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")
def test_a_journal_that_is_deleted_before_it_is_locked_is_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or two would each hold the lock of a file of their own, and write one pack."""
    journal, real, calls = tmp_path / "journal", module.files.lock, list[int]()

    def lock(log: IO[bytes], *, wait: bool) -> AbstractContextManager[bool]:
        calls.append(log.fileno())
        if len(calls) == 1:  # whoever had it is done, and a third begins
            journal.unlink()
        if len(calls) == 2:
            journal.rename(tmp_path / "gone")
            journal.touch()
        return real(log, wait=wait)

    monkeypatch.setattr(module.files, "lock", lock)
    with module._locked(journal, tmp_path / "pack") as log:
        assert os.path.samestat(os.fstat(log.fileno()), journal.stat())
    assert len(calls) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")
def test_who_wants_a_pack_that_another_is_making_waits_for_it(pairs: Pairs, tmp_path: Path) -> None:
    """Two that wait, so that one of them meets a journal that is gone."""
    path, said = tmp_path / "pack", list[str]()
    waits = threading.Event()
    begun = list[Future[Pack]]()

    def note(done: int, total: int, what: str) -> None:
        said.append(what)
        waits.set()

    with ThreadPoolExecutor(2) as pool:

        def meanwhile(done: int, total: int, what: str) -> None:
            if not begun:
                begun.extend(pool.submit(prepare, pairs, path, progress=note) for _ in range(2))
                assert waits.wait(10)

        made = prepare(pairs, path, progress=meanwhile)
        others = [one.result(timeout=20) for one in begun]

    assert set(said) == {"another process is preparing them"}
    assert [other.digest for other in others] == [made.digest] * 2
    assert [file.name for file in tmp_path.iterdir() if "pack" in file.name] == ["pack"]
