import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from crash_points import Stop, crash_points
from dukd.core import files


def test_a_file_appears_with_its_folder(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a" / "b" / "grüße.txt", "grüße\n")

    assert (tmp_path / "a" / "b" / "grüße.txt").read_bytes() == b"gr\xc3\xbc\xc3\x9fe\n"


def test_nothing_is_to_be_seen_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_bytes(path, b"old")

    with files.replacing(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"

    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file_and_no_litter(
    tmp_path: Path, stop: type[BaseException]
) -> None:
    path = tmp_path / "file"
    files.write_bytes(path, b"old")

    with pytest.raises(stop), files.replacing(path) as file:  # noqa: PT012
        file.write(b"half")
        raise stop

    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


WRITER = (
    "import sys\nfrom pathlib import Path\nfrom dukd.core.files import replacing\n"
    "with replacing(Path(sys.argv[1])) as file:\n"
    "    file.write(b'half')\n    print(flush=True)\n    sys.stdin.read()\n"
)


def writer(path: Path) -> "subprocess.Popen[bytes]":
    """A process in the middle of a write."""
    here = os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[2])}
    command = [sys.executable, "-c", WRITER, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=here)
    assert process.stdout is not None
    assert process.stdout.readline() == b"\n"
    return process


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_what_killed_processes_left_goes_with_the_next_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that only look like it stay, and those that a living process writes."""
    monkeypatch.setattr(files, "_CLEARED", set())
    others = [".a.1a2b3c4d.tmp", ".a.dukd-xyz.tmp", "a.dukd-1a2b3c4d.tmp", ".dukd-1a2b3c4d.tmp"]
    for name in others:
        (tmp_path / name).write_text("somebody's")
    (tmp_path / ".b.dukd-1a2b3c4d.tmp").mkdir()
    with writer(tmp_path / "a") as killed:
        killed.kill()
    (left,) = set(names(tmp_path)) - {*others, ".b.dukd-1a2b3c4d.tmp"}
    assert left.startswith(".a.dukd-")
    with writer(tmp_path / "living") as living:
        files.write_bytes(tmp_path / "b", b"new")

        (kept,) = set(names(tmp_path)) - {*others, "b", ".b.dukd-1a2b3c4d.tmp"}
        assert kept.startswith(".living.dukd-")
        living.communicate()
    assert (tmp_path / "living").read_bytes() == b"half"
    assert set(names(tmp_path)) == {*others, "b", "living", ".b.dukd-1a2b3c4d.tmp"}


def test_a_folder_is_looked_through_once(tmp_path: Path) -> None:
    """A write costs no listing of a folder of a hundred thousand results."""
    files.write_bytes(tmp_path / "a", b"")
    (tmp_path / ".a.dukd-1a2b3c4d.tmp").touch()
    files.write_bytes(tmp_path / "a", b"")

    assert names(tmp_path) == [".a.dukd-1a2b3c4d.tmp", "a"]


def test_nothing_is_cleared_away_where_there_are_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    (tmp_path / ".a.dukd-1a2b3c4d.tmp").touch()
    files.write_bytes(tmp_path / "b", b"new")

    assert names(tmp_path) == [".a.dukd-1a2b3c4d.tmp", "b"]


def test_a_file_that_was_cleared_away_before_it_was_locked_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, claimed = files._claim, []

    def late(file: IO[bytes]) -> bool:
        if not claimed:
            for left in tmp_path.glob(".a.*"):
                left.unlink()
        claimed.append(file)
        return claim(file)

    monkeypatch.setattr(files, "_claim", late)
    files.write_bytes(tmp_path / "a", b"new")

    assert (len(claimed), names(tmp_path)) == (2, ["a"])
    assert (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.parametrize("stop", ["kill", "full disk", "power cut"])
def test_no_crash_point_tears_a_file(tmp_path: Path, stop: Stop) -> None:
    points = 0
    for folder, stopped in crash_points(
        stop,
        prepare=lambda folder: files.write_text(folder / "file", "old" * 100),
        write=lambda folder: files.write_text(folder / "file", "new" * 200),
        folder=tmp_path,
    ):
        points += 1
        content = (folder / "file").read_text()
        assert content in {"old" * 100, "new" * 200}
        assert stopped or content == "new" * 200

    assert (
        points == {"kill": 6, "full disk": 6, "power cut": 30}[stop]
    )  # open, write, fsync, rename, fsync; untouched


def test_the_harness_finds_a_file_written_in_place(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        with (folder / "file").open("wb") as file:
            file.write(b"new" * 200)

    torn = sum(
        (folder / "file").read_bytes() not in {b"old", b"new" * 200}
        for folder, _ in crash_points(
            "kill", lambda folder: (folder / "file").write_bytes(b"old"), write, tmp_path
        )
    )

    assert torn == 1


def test_long_names_leave_room_for_the_temporary_one(tmp_path: Path) -> None:
    files.write_bytes(tmp_path / ("x" * 250), b"content")

    assert (tmp_path / ("x" * 250)).read_bytes() == b"content"


def test_folders_that_cannot_be_synced_are_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)

    code = errno.EINVAL
    files.sync_folder(tmp_path)

    code = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        files.sync_folder(tmp_path)


def test_an_error_names_the_file_that_was_wanted(tmp_path: Path) -> None:
    """It named a temporary file that nobody has ever seen."""
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError) as found:
        files.write_text(tmp_path / "taken", "x")

    assert (found.value.filename, found.value.filename2) == (str(tmp_path / "taken"), None)
    assert list(tmp_path.iterdir()) == [tmp_path / "taken"]


def test_a_folder_takes_the_place_of_another_whole(tmp_path: Path) -> None:
    for name, text in (("old", "1"), ("new", "2")):
        files.write_text(tmp_path / name / "inner" / f"{name}.txt", text)
    files.write_folder(tmp_path / "out" / "a", tmp_path / "old")
    files.write_folder(tmp_path / "out" / "a", tmp_path / "new")

    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["a"]
    assert [entry.name for entry in (tmp_path / "out/a/inner").iterdir()] == ["new.txt"]
    assert (tmp_path / "out/a/inner/new.txt").read_text() == "2"


@pytest.mark.parametrize("failing", ["copy", "rename"])
def test_a_folder_that_cannot_be_written_leaves_the_old_one(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("old", "new"):
        files.write_text(tmp_path / name / f"{name}.txt", name)
    out = tmp_path / "out" / "a"
    files.write_folder(out, tmp_path / "old")
    rename = Path.rename

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")

    def renamed(path: Path, target: Path) -> Path:
        return full() if path.suffix == ".new" else rename(path, target)

    if failing == "copy":
        monkeypatch.setattr(files.shutil, "copyfile", full)
    else:
        monkeypatch.setattr(Path, "rename", renamed)

    with pytest.raises(OSError, match="No space left"):
        files.write_folder(out, tmp_path / "new")

    assert [entry.name for entry in out.parent.iterdir()] == ["a"]
    assert (out / "old.txt").read_text() == "old"


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=r"No space left on device: .*a\.png'") as raised,
        files.replacing(tmp_path / "a.png"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(tmp_path / "a.png")
    with pytest.raises(OSError, match=r"^\[Errno 5\] of a file that was read$"):  # noqa: SIM117
        with files.replacing(tmp_path / "a.png"):
            raise OSError(errno.EIO, "of a file that was read")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_known_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("read")
    (tmp_path / "link").symlink_to("a")
    for name, reason in (
        (".", "is a folder: name a file that may be replaced"),
        ("a", "would be overwritten, but it is read"),
        ("link", "would be overwritten, but it is read"),
        ("a/b", "results go into a folder, but .*a is a file"),
        ("x" * 256, "File name too long"),
        ("x" * 256 + "/b", "File name too long"),
    ):
        with pytest.raises((ValueError, OSError), match=reason):
            files.check_target(tmp_path / name, sources=[tmp_path / "a"])
    files.check_target(tmp_path / "new" / "b", sources=[tmp_path / "a"])
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "link", "new"]


def test_sha256_of_a_known_text(tmp_path: Path) -> None:
    """FIPS 180-2, appendix B.1."""
    (tmp_path / "abc").write_bytes(b"abc")

    assert (
        files.sha256(tmp_path / "abc")
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_sha256_of_more_than_one_block(tmp_path: Path) -> None:
    """FIPS 180-2, appendix B.3: a million letters a; twice as many are hashed in two blocks."""
    (tmp_path / "a").write_bytes(b"a" * 1_000_000)
    assert files.sha256(tmp_path / "a").startswith("cdc76e5c9914fb92")

    (tmp_path / "a").write_bytes(b"a" * 2_000_000)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(b"a" * 2_000_000).hexdigest()


HOLDER = (
    "import sys\nfrom pathlib import Path\nfrom dukd.core.files import lock\n"
    "with lock(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"
)


@pytest.fixture(params=["file", "folder"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "place"
    path.mkdir() if request.param == "folder" else path.touch()
    return path


def test_a_lock_keeps_other_processes_out_until_its_holder_ends(place: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(place)]
    here = os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[2])}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=here
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert files.is_locked(place)
        with pytest.raises(BlockingIOError), files.lock(place, wait=False):
            pytest.fail("both hold it")
        holder.kill()
        with files.lock(place) as held:
            assert held
    assert not files.is_locked(place)


def test_a_lock_ends_with_its_block_though_the_file_stays_open(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        with files.lock(file) as held:
            assert held
            assert files.is_locked(tmp_path / "file")
        assert not files.is_locked(tmp_path / "file")


def test_where_there_are_no_locks_the_block_runs_and_knows(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems have none (ENOLCK)."""

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    code = errno.ENOLCK
    with files.lock(place) as held:
        assert not held
    code = errno.EIO
    with pytest.raises(OSError, match="Input/output error"), files.lock(place):
        pytest.fail("an error was taken for a lock")


def test_a_folder_is_a_package_by_its_ending_and_its_manifest(tmp_path):
    """Not by the manifest alone: a folder of images may hold one, and is read as images."""
    for name, manifest, is_one in (
        ("a.mlpackage", True, True),
        ("photos", True, False),
        ("b.mlpackage", False, False),
    ):
        (tmp_path / name).mkdir()
        if manifest:
            (tmp_path / name / "Manifest.json").write_text("{}")
        assert files.is_package(tmp_path / name) == is_one
