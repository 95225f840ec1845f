"""Workers do what one process does, to the byte, whatever dies: a worker, the run itself, or an
image's file.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dukd import images
from dukd.cli import run
from dukd.deploy import workers
from dukd.deploy.model import Model
from dukd.deploy.upscale import Upscaled, UpscaleOptions, upscale
from dukd.deploy.workers import ATTEMPTS, Workers, share
from dukd.images import Image
from dukd.networks import EDSR, EDSRConfig
from dukd.networks.files import weights

pytestmark = [
    pytest.mark.xdist_group("ray"),  # Ray takes seconds to start: once for all of these
    pytest.mark.timeout(900),  # processes start slowly on a busy machine
    pytest.mark.skipif(sys.platform != "linux", reason="workers are looked up in /proc"),
]
CONFIG = EDSRConfig(scale=2, width=4, blocks=1, value_range=1.0)
DEADLY, FATAL_ONCE = 255, 254
"""Gray levels at which ``Mortal`` is killed: whenever it sees them, and the first time only."""


class Slow(EDSR):
    """Gives what its config's network gives, but not at once."""

    def head(self, lr: Tensor) -> Tensor:
        time.sleep(0.3)
        return super().head(lr)


class Mortal(EDSR):
    """Gives what its config's network gives, if it lives to."""

    def __init__(self, config: EDSRConfig, notes: Path) -> None:
        super().__init__(config)
        self.notes = notes

    def head(self, lr: Tensor) -> Tensor:
        level = round(float(lr.mean()) * 255)
        if level == FATAL_ONCE and not (self.notes / "once").exists():
            (self.notes / "once").touch()  # its own: the deadly one may come first
            level = DEADLY
        if level == DEADLY:
            (self.notes / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().head(lr)


@pytest.fixture(scope="module")
def ray() -> Iterator[object]:
    """Two workers' worth of Ray on this machine, as ``Workers`` starts it; the tests find it
    running and use it.
    """
    if importlib.util.find_spec("ray") is None:
        pytest.skip("the extra 'ray' is not installed")
    made = workers._package(local=True)  # before anybody else imports it
    with workers._connected(made, None, 2):
        yield made


@pytest.fixture(scope="module")
def network() -> EDSR:
    torch.manual_seed(0)
    return EDSR(CONFIG).frozen()


def save(
    path: Path, level: int | None = None, *, size: int = 12, dtype: type[np.generic] = np.uint8
) -> Path:
    """An image of one level, or of noise that depends on its name alone."""
    rng = np.random.default_rng(list(os.fsencode(path.name)))
    pixels = rng.integers(0, np.iinfo(dtype).max, (size, size + 1, 3), dtype=dtype)
    images.write(path, Image(pixels=pixels if level is None else np.full_like(pixels, level)))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """What everybody sees in a folder; unfinished results have names with a dot."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def processes(folder: str, words: str = "") -> list[int]:
    """Processes with files open below a folder, and with such words in their command line."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            line = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            opened = list((path / "fd").iterdir())
        except OSError:  # it has just ended, or is somebody else's
            continue
        if words in line and any(leads(link).startswith(folder) for link in opened):
            found.append(int(path.name))
    return found


def leads(link: Path) -> str:
    with suppress(OSError):  # closed meanwhile
        return str(link.readlink())
    return ""


def wait_until(said: str, happened) -> None:
    for _ in range(3000):
        if happened():
            return
        time.sleep(0.1)
    pytest.fail(f"not within five minutes: {said}")


def test_workers_do_as_one_process_does(ray, network, tmp_path, monkeypatch):
    """Bytes, order, notes and complaints are equal, with relative paths and with every option
    that changes pixels.
    """
    monkeypatch.chdir(tmp_path)
    photos = Path("photos")
    for name in ("b.png", "a.jpg", "below/é.webp", "-c.tiff"):
        save(photos / name)
    save(photos / "deep.png", dtype=np.uint16, size=9)
    torn = save(photos / "torn.png", size=40)
    torn.write_bytes(torn.read_bytes()[:900])  # the header is whole
    (photos / "none.png").write_bytes(b"")
    seen: list[tuple[int, int, str]] = []

    def upscaled(out: str, **how) -> Upscaled:
        options = UpscaleOptions(recursive=True, tile=8, outscale=3, quality=90)
        return upscale(network, [photos], Path(out), options, **how)

    expected = upscaled("one")
    result = upscaled("many", engine=Workers(2), progress=lambda *what: seen.append(what))

    assert len(expected.done) == 5
    assert [failed.source.name for failed in result.failed] == ["none.png", "torn.png"]
    assert result.failed == expected.failed
    assert [(d.source, d.note) for d in result.done] == [(d.source, d.note) for d in expected.done]
    assert contents(Path("many")) == contents(Path("one"))
    tiles = 4 * 4 + 4 + 30  # noise of 12 x 13 and 9 x 10; the torn one of 40 x 41
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert seen[-1][:2] == (tiles, tiles)


def test_nobody_outside_this_machine_can_connect(ray):
    assert ray.get_runtime_context().gcs_address.startswith("127.0.0.1:")


def test_a_dead_worker_loses_nothing(ray, tmp_path):
    """One is killed at an image, which its successor does; an image that kills every worker is
    given up, alone.
    """
    notes, photos = tmp_path / "notes", tmp_path / "photos"
    notes.mkdir()
    names = [f"{n}.png" for n in range(8)]
    for name in names:
        save(photos / name, {"2.png": FATAL_ONCE, "5.png": DEADLY}.get(name))
    torch.manual_seed(0)
    mortal = Mortal(CONFIG, notes).frozen()

    result = upscale(mortal, [photos], tmp_path / "out", engine=Workers(2))

    killed = [int(path.name) for path in notes.iterdir() if path.name != "once"]
    assert len(killed) == 1 + ATTEMPTS
    assert os.getpid() not in killed
    assert [failed.source.name for failed in result.failed] == ["5.png"]
    assert f"{ATTEMPTS} workers died over it" in result.failed[0].reason
    assert len(result.done) == 7
    alive = EDSR(CONFIG)
    alive.load_state_dict(mortal.state_dict())
    upscale(
        alive.frozen(), [p for p in photos.iterdir() if p.name != "5.png"], tmp_path / "expected"
    )
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


def test_an_interrupted_run_ends_its_workers_and_keeps_what_is_finished(ray, tmp_path):
    """Ctrl-C at the first result; the Ray that was there before goes on."""
    for n in range(12):
        save(tmp_path / "photos" / f"{n}.png")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upscale(
            Slow(CONFIG).frozen(),
            [tmp_path / "photos"],
            tmp_path / "out",
            engine=Workers(2),
            progress=interrupted,
        )

    session = ray.get_runtime_context().get_session_name()  # part of the path of every log
    folder = next(
        found
        for root in (tempfile.gettempdir(), "/tmp")
        for found in Path(root).glob(f"dukd-*/{session}")
    )
    assert processes(str(folder))
    wait_until("workers end", lambda: not processes(str(folder), "ray::MapWorker"))
    assert 1 <= len(contents(tmp_path / "out")) < 12
    assert ray.get(ray.put(3)) == 3


DRIVER = """
from pathlib import Path
import torch
from test_cluster import CONFIG, Slow, Workers, upscale
from dukd.deploy import Model
torch.manual_seed(0)
model = Model(Slow(CONFIG).frozen(), name="student.safetensors")
upscale(model, [Path("photos")], Path("out"), engine=Workers(2))
"""


def environment(**more: str) -> dict[str, str]:
    here = Path(__file__).parent
    return (
        os.environ
        | {"PYTHONPATH": f"{here.parent / 'src'}{os.pathsep}{here}", "OMP_NUM_THREADS": "1"}
        | more
    )


@pytest.mark.slow
def test_a_killed_run_is_continued(ray, network, tmp_path):
    """Its processes die with it, nothing is torn, and the rest is done in a cluster that stays
    as it was.
    """
    for n in range(12):
        save(tmp_path / "photos" / f"{n}.png")
    weights.write(tmp_path / "student.safetensors", network)
    model = Model(network, name="student.safetensors")
    expected = upscale(model, [tmp_path / "photos"], tmp_path / "expected")
    assert len(expected.done) == 12
    temporary = tempfile.mkdtemp(prefix="t", dir="/tmp")
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER], cwd=tmp_path, env=environment(TMPDIR=temporary)
    )
    try:
        wait_until("the first result", lambda: contents(tmp_path / "out"))
    finally:
        driver.kill()
        driver.wait()
        wait_until(
            "its workers end",
            lambda: not set(processes(temporary)) - set(processes(temporary, "Agent ")),
        )
        for agent in processes(
            temporary
        ):  # Ray's own, which would end by themselves within a minute
            with suppress(ProcessLookupError):
                os.kill(agent, signal.SIGKILL)
        wait_until("its agents end", lambda: not processes(temporary))
        shutil.rmtree(temporary)
    finished = contents(tmp_path / "out")
    assert 1 <= len(finished) < 12
    assert finished.items() <= contents(tmp_path / "expected").items()

    options = [
        "-o",
        "out",
        "-m",
        "student.safetensors",
        "--workers",
        "2",
        "--skip-existing",
        "--device",
        "cpu",
    ]
    address = ray.get_runtime_context().gcs_address
    command = [
        sys.executable,
        "-m",
        "dukd",
        "upscale",
        "photos",
        *options,
        "--ray-address",
        address,
    ]
    again = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )

    assert again.returncode == 0, again.stderr
    assert f"{len(finished)} were finished already" in again.stderr
    assert "12/12" not in again.stderr  # only the rest is counted
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")
    assert ray.get(ray.put(3)) == 3


def test_the_command_line_takes_workers_and_errors_end_it_in_a_sentence(
    ray, network, tmp_path, capsys
):
    for n in range(2):
        save(tmp_path / "photos" / f"{n}.png")
    weights.write(tmp_path / "student.safetensors", network)
    with torch.no_grad():
        broken = EDSR(CONFIG)
        next(broken.parameters()).fill_(torch.finfo(torch.float32).max)
    weights.write(tmp_path / "broken.safetensors", broken)
    line = [
        "upscale",
        str(tmp_path / "photos"),
        "-o",
        str(tmp_path / "out"),
        "--workers",
        "2",
        "--device",
        "cpu",
        "-m",
    ]

    assert run([*line, str(tmp_path / "student.safetensors")]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [str(tmp_path / "out" / f"{n}_x2.png") for n in range(2)]
    assert said.err.splitlines()[0].endswith("parameters, cpu, 2 workers")
    assert run([*line, str(tmp_path / "broken.safetensors")]) == 2
    assert "edsr gives NaN or infinity" in capsys.readouterr().err


def test_without_images_left_nothing_is_started(network, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_package", lambda **_: pytest.fail("Ray was imported"))
    photo = save(tmp_path / "a.png")
    upscale(network, [photo], tmp_path / "out")

    again = upscale(
        network, [photo], tmp_path / "out", UpscaleOptions(skip_existing=True), engine=Workers(2)
    )

    assert again.skipped == (photo,)


class _Failing:
    """Starts a process, and then fails, as Ray does where ports or memory are short."""

    exceptions = type("exceptions", (), {"RayError": type("RayError", (Exception,), {})})

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []

    def is_initialized(self) -> bool:
        return False

    def init(self, *, _temp_dir: str, **_: object) -> None:
        command = [sys.executable, "-c", "import time; time.sleep(600)", _temp_dir]
        self.started.append(process := subprocess.Popen(command))
        named = Path(f"/proc/{process.pid}/cmdline")
        while _temp_dir.encode() not in named.read_bytes():  # until it is another program
            time.sleep(0.01)
        raise RuntimeError("the raylet has gone\nwith more lines")

    def shutdown(self) -> None: ...


def test_a_ray_that_does_not_start_leaves_nothing_behind():
    failing = _Failing()

    with (
        pytest.raises(ValueError, match="Ray did not start on this machine: the raylet has gone;"),
        workers._connected(failing, None, 2),
    ):
        pytest.fail("it is connected")

    assert failing.started[0].wait(timeout=60) == -signal.SIGKILL


def test_without_the_extra_it_is_named(network, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)

    with pytest.raises(
        ValueError, match=r"upscaling with workers needs ray: pip install 'dukd\[ray\]'"
    ):
        upscale(network, [save(tmp_path / "a.png")], tmp_path / "out", engine=Workers(2))


SMALL, LARGE, NO_GPU = {"CPU": 8.0}, {"CPU": 64.0, "GPU": 4.0}, {"CPU": 64.0, "node:1": 1.0}


@pytest.mark.parametrize(
    ("nodes", "workers", "gpu", "expected"),
    [
        ([SMALL], 2, False, (4, 0)),
        ([SMALL], 3, False, (2, 0)),
        ([SMALL], 8, False, (1, 0)),
        ([SMALL, SMALL], 3, False, (4, 0)),  # 8 cores would fit two, 5 two as well
        ([LARGE, NO_GPU], 2, False, (64, 0)),
        ([LARGE, NO_GPU], 2, True, (32, 1)),
        ([LARGE, NO_GPU], 4, True, (16, 1)),
        ([LARGE, SMALL], 8, True, (8, 0.5)),
        ([LARGE, LARGE], 8, True, (16, 1)),
        (
            [LARGE, {"CPU": 2.0, "GPU": 4.0}],
            8,
            True,
            (8, 0.5),
        ),  # one core per worker would waste 60
    ],
)
def test_a_cluster_is_shared_evenly(nodes, workers, gpu, expected):
    assert share(nodes, workers, gpu=gpu) == expected


def test_what_does_not_fit_is_refused():
    with pytest.raises(
        ValueError, match="9 workers find no room where there are 8 cores and 0 GPUs: take fewer"
    ):
        share([SMALL], 9)
    with pytest.raises(
        ValueError, match="1 workers with GPUs find no room where there are 8 cores and 0 GPUs"
    ):
        share([SMALL], 1, gpu=True)
    with pytest.raises(ValueError, match="at least one worker is needed, but got 0"):
        Workers(0)
