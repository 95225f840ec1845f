"""Several ranks train as one would; what happens to one of them happens to all."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.testing import assert_close

from dukd.core.distributed import InOrder, RankError, World, fingerprint, join
from dukd.methods import DUKD, FitNet, Logits, MiPKD, ReleasedDUKD
from dukd.networks import EDSRConfig
from dukd.networks.files import weights
from dukd.runs import checkpoint
from dukd.runs.directory import Run
from dukd.training import loop
from dukd.training.experiment import (
    Data,
    Evaluation,
    Experiment,
    Optimization,
    TeacherCache,
)
from dukd.training.schedule import draws
from dukd.training.teachers import File

STUDENT = EDSRConfig(scale=2, width=6, blocks=1, value_range=1.0, skip="nearest")
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """A sum over pixels depends on the number of threads, and each rank has one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    (root / "images").mkdir()
    for i in range(3):
        Image.fromarray(rng.integers(256, size=(40, 44, 3), dtype=np.uint8)).save(
            root / "images" / f"{i}.png"
        )
    torch.manual_seed(1)
    weights.write(root / "teacher.safetensors", replace(STUDENT, width=8).build())
    return root


def experiment(folder, method, *, accumulate=1, deterministic=False, period=0) -> Experiment:
    return Experiment(
        student=STUDENT,
        teacher=File(weights=folder / "teacher.safetensors"),
        method=method,
        data=Data(
            train=folder / "images", packs=folder / "packs", patch=12, batch=4, period=period
        ),
        optimization=Optimization(
            steps=8,
            learning_rate=1e-3,
            ema=0.9,
            accumulate=accumulate,
            deterministic=deterministic,
            clip=1.0,
        ),
        teacher_cache=TeacherCache(folder=folder / "cache"),
        evaluation=Evaluation(
            sets=(folder / "images",), images=1, every=4, log_every=2, teacher_images=0, samples=1
        ),
    )


def processes(jobs, out, world, timeout=60.0) -> list[subprocess.Popen]:
    """Start the ranks that make some runs."""
    out.mkdir()
    (out / "jobs.json").write_text(json.dumps(jobs))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {
        "PYTHONPATH": str(Path(loop.__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
    }
    command = [
        sys.executable,
        str(Path(__file__).with_name("rank_process.py")),
        out / "jobs.json",
        out,
        str(timeout),
    ]
    return [
        subprocess.Popen(
            command,
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(world)
    ]


def outcomes(started, out, codes=(0, 0)) -> list[list[str]]:
    """How the jobs ended, for each rank."""
    try:
        errors = [process.communicate(timeout=100)[1].decode() for process in started]
    finally:
        for process in started:
            process.kill()  # of no effect on one that has ended
    assert tuple(process.returncode for process in started) == codes, "\n".join(errors)
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(len(started))]


def interrupted_at(step):
    def observe(record):
        if record["kind"] == "step" and record["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return observe


@pytest.fixture(scope="module")
def runs(folder, tmp_path_factory):
    """Runs of one rank under ``one``, of two under ``two``; how these ended, by name and rank."""
    root = tmp_path_factory.mktemp("runs")
    exact = experiment(folder, DUKD(), accumulate=4, deterministic=True)
    wholes = {
        "logits": experiment(folder, Logits()),
        "fitnet": experiment(folder, FitNet(relative=False)),
        "two-parts": experiment(folder, ReleasedDUKD(), accumulate=4, deterministic=True),
        "exact": exact,
        "cache": experiment(folder, DUKD(), accumulate=4, deterministic=True, period=3),
        "mipkd": experiment(folder, MiPKD(), accumulate=4, deterministic=True),
    }
    jobs = []
    for name, whole in wholes.items():
        (root / f"{name}.yaml").write_text(whole.to_yaml())
        loop.train(whole, root / "one" / name)
        jobs.append({"experiment": str(root / f"{name}.yaml"), "run": str(root / "two" / name)})
    with pytest.raises(loop.Interrupted):
        loop.train(exact, root / "two" / "from-one", observe=interrupted_at(3))
    same = str(root / "exact.yaml")
    for name, more in {
        "from-one": {"resume": True},
        "to-one": {"rank": 1, "step": 4, "how": "SIGTERM"},
        "apart": {"rank": 1, "step": 2, "how": "weights"},
        "infinite": {"rank": 1, "step": 2, "how": "loss"},
        "killed": {
            "rank": 1,
            "step": 2,
            "how": "SIGKILL",
        },  # which ends the rank: no job can follow
    }.items():
        jobs.append({"experiment": same, "run": str(root / "two" / name), **more})
    ends = outcomes(processes(jobs, root / "ends", 2), root / "ends", codes=(0, -signal.SIGKILL))
    names = [Path(job["run"]).name for job in jobs]
    return root, {
        name: [reported[i] for reported in ends if i < len(reported)]
        for i, name in enumerate(names)
    }


def state(run):
    return Run.open(run).states.load().state


def digest(run) -> str:
    """Of the newest checkpoint's weights, averaged weights, extras and optimizer."""
    whole = hashlib.sha256()
    saved = state(run)
    for values in (saved["student"], saved["averaged"], saved["extras"], *saved["optimizer"]):
        for name, value in sorted(values.items()):
            whole.update(name.encode() + value.contiguous().numpy().tobytes())
    return whole.hexdigest()


def lines(run) -> list[tuple[object, ...]]:
    return [
        (r["step"], r["losses"], r["total_hex"])
        for r in Run.open(run).records()
        if r["kind"] == "train"
    ]


@pytest.mark.parametrize("name", ["logits", "fitnet"])
def test_two_ranks_learn_what_one_does(runs, name):
    """Sums come in another order, which Adam's division may enlarge.

    So does a method with a head of its own; FitNet's relative units belong to a whole batch, and
    are left out.
    """
    root, _ = runs
    one, two = (state(root / ranks / name) for ranks in ("one", "two"))

    for part in ("student", "averaged", "extras"):
        for key, value in one[part].items():
            assert_close(two[part][key], value, rtol=1e-3, atol=1e-5)
    for (_, ours, _), (_, theirs, _) in zip(
        *(lines(root / ranks / name) for ranks in ("one", "two")), strict=True
    ):
        assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("name", ["exact", "two-parts", "cache", "mipkd"])
def test_in_deterministic_mode_not_one_bit_depends_on_the_ranks(runs, name):
    """World size 1 and 2; random windows, symmetries, replay, clipping and two steps per batch."""
    root, _ = runs

    assert digest(root / "two" / name) == digest(root / "one" / name)
    assert lines(root / "two" / name) == lines(root / "one" / name)


@pytest.mark.slow
def test_four_ranks_give_the_same_bits(folder, runs, tmp_path):
    root, _ = runs
    jobs = [{"experiment": str(root / "exact.yaml"), "run": str(tmp_path / "run")}]
    outcomes(processes(jobs, tmp_path / "ends", 4), tmp_path / "ends", codes=(0, 0, 0, 0))

    assert digest(tmp_path / "run") == digest(root / "one" / "exact")


def test_a_run_of_one_rank_is_continued_by_two(runs):
    root, _ = runs

    assert digest(root / "two" / "from-one") == digest(root / "one" / "exact")


def test_a_signal_to_one_rank_stops_all_and_one_rank_continues(folder, runs):
    """The signal comes in step 5: both finish it and save."""
    root, ends = runs
    assert [end.split(";")[0] for end in ends["to-one"]] == [
        "Interrupted: stopped after step 5"
    ] * 2
    assert Run.open(root / "two" / "to-one").steps()[-1] == 5

    loop.train(
        experiment(folder, DUKD(), accumulate=4, deterministic=True),
        root / "two" / "to-one",
        resume=True,
    )

    assert digest(root / "two" / "to-one") == digest(root / "one" / "exact")


def test_the_first_rank_alone_writes(runs):
    root, ends = runs
    records = Run.open(root / "two" / "exact").records()

    assert ends["exact"][0] != "reported 0"
    assert ends["exact"][1] == "reported 0"
    assert [r["step"] for r in records if r["kind"] == "train"] == [2, 4, 6, 8]
    assert [r["step"] for r in records if r["kind"] == "validation"] == [4, 8]
    assert json.loads(Run.open(root / "two" / "exact").facts.read_text())["ranks"] == 2


def test_ranks_with_different_weights_stop(runs):
    _, ends = runs

    for end in ends["apart"]:
        assert end.startswith(
            "RankError: the weights at step 4: not the same on rank 0 and on rank 1;"
        )


def test_a_loss_that_is_not_finite_on_one_rank_stops_all(runs):
    root, ends = runs

    for end in ends["infinite"]:
        assert end.startswith("NonFiniteError: the loss of step 3 is not finite")
    evidence = checkpoint.load(root / "two" / "infinite" / "nonfinite-00000003.pt")
    assert evidence["lr"].shape == (4, 3, 12, 12)
    assert len(evidence["images"]) == 4


IN_VAIN = "PeerError: rank 0 of 2 waited in vain for another rank, which died or hangs"


def test_a_rank_that_dies_ends_the_other(runs):
    """Long before the timeout of a minute, or the fixture's processes would have been given up.

    What was trained is saved: two steps, where the next save would have come after four.
    """
    root, ends = runs

    assert len(ends["killed"]) == 1
    assert ends["killed"][0].startswith(IN_VAIN)
    assert Run.open(root / "two" / "killed").steps() == [2]
    assert Run.open(root / "two" / "apart").steps() == []  # whose ranks differed


DIES_BEFORE_IT_MEETS = """
import os, signal
from datetime import timedelta
import torch
import torch.distributed as dist
from dukd.core.distributed import PeerError, join
def die(*args, **options):
    os.kill(os.getpid(), signal.SIGKILL)
if os.environ["RANK"] == "1":
    dist.new_group = die
try:
    with join(torch.device("cpu"), timeout=timedelta(seconds=2), patience=timedelta(hours=2)):
        print("joined")
except PeerError as error:
    print(f"PeerError: {error}")
"""


def test_a_rank_that_dies_while_they_meet_is_not_waited_for_long():
    """The second group of processes once waited for it as long as for the first rank's work."""
    survivor, victim = started_from(DIES_BEFORE_IT_MEETS)
    try:
        said = survivor.communicate(timeout=60)[0]
    finally:
        for process in (survivor, victim):
            process.kill()  # of no effect on one that has ended
            process.communicate()

    assert victim.returncode == -signal.SIGKILL
    assert IN_VAIN in said


@pytest.mark.slow
def test_the_first_rank_may_take_its_time_to_validate(runs, tmp_path):
    """Longer than a message between ranks may take: 3 seconds here, 5 minutes otherwise."""
    root, _ = runs
    job = {
        "experiment": str(root / "exact.yaml"),
        "run": str(tmp_path / "run"),
        "rank": 0,
        "step": 2,
    }
    job |= {"how": "slow validation", "seconds": 4}
    for process in processes([job], tmp_path / "ends", 2, timeout=3):
        process.communicate(timeout=100)

    assert json.loads((tmp_path / "ends" / "rank0.json").read_text())[0].startswith("reported ")
    assert digest(tmp_path / "run") == digest(root / "two" / "exact")


@pytest.mark.slow
def test_a_rank_that_hangs_ends_the_other_after_the_timeout(runs, tmp_path):
    """Stopped, it keeps its connections; the timeout is 3 seconds here."""
    root, _ = runs
    job = {
        "experiment": str(root / "exact.yaml"),
        "run": str(tmp_path / "run"),
        "rank": 1,
        "step": 2,
        "how": "SIGSTOP",
    }
    survivor, victim = processes([job], tmp_path / "ends", 2, timeout=3)
    try:
        survivor.communicate(timeout=50)
        (end,) = json.loads((tmp_path / "ends" / "rank0.json").read_text())
        assert end.startswith(IN_VAIN)
    finally:
        for process in (survivor, victim):
            process.kill()
            process.communicate()


@pytest.mark.slow
def test_torchrun_starts_the_command(folder, runs, tmp_path):
    root, _ = runs
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "dukd",
    ]
    command = ["train", str(root / "exact.yaml"), "--out", str(tmp_path / "run"), "--device", "cpu"]
    environment = os.environ | {
        "PYTHONPATH": str(Path(loop.__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [*launcher, *command], env=environment, capture_output=True, timeout=100, check=False
    )

    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().count("the student is") == 1
    assert digest(tmp_path / "run") == digest(root / "one" / "exact")


def test_a_process_that_was_started_alone_stays_alone():
    with join(CPU, environment={}) as world:
        assert world == World(rank=0, size=1, device=CPU)
        assert world.leads
        assert world.any(True)
        assert not world.any(False)
        world.wait()
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("environment", "device", "message"),
    [
        (
            {"WORLD_SIZE": "2", "RANK": "0"},
            "cpu",
            "LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not set: start .* torchrun",
        ),
        (
            {
                "WORLD_SIZE": "2",
                "RANK": "0",
                "LOCAL_RANK": "99",
                "MASTER_ADDR": "",
                "MASTER_PORT": "",
            },
            "cuda",
            "local rank 99 has no GPU",
        ),
        (
            {
                "WORLD_SIZE": "2",
                "RANK": "0",
                "LOCAL_RANK": "0",
                "MASTER_ADDR": "",
                "MASTER_PORT": "",
            },
            "mps",
            "train on cpu or cuda, not on mps",
        ),
    ],
)
def test_what_cannot_be_joined_is_refused(environment, device, message):
    with (
        pytest.raises(RankError, match=message),
        join(torch.device(device), environment=environment),
    ):
        pass


def test_a_batch_is_shared_by_its_divisors_only():
    assert [World(0, n).parts(12, 1, deterministic=False) for n in (1, 2, 4)] == [1, 1, 1]
    assert [World(0, n).parts(12, 4, deterministic=True) for n in (1, 2, 4)] == [4, 2, 1]
    assert World(0, 2).parts(12, 3, deterministic=False) == 3

    with pytest.raises(
        RankError, match="a batch of 6 cannot be shared by 4 ranks, but by 1, 2, 3, 6"
    ):
        World(0, 4).parts(6, 1, deterministic=False)
    with pytest.raises(
        RankError, match=r"the 2 parts of a batch .* which 4 ranks cannot, but 1, 2"
    ):
        World(0, 4).parts(8, 2, deterministic=True)


def test_gradients_in_order_are_means_on_top_of_what_was_there():
    """Gradients 1 and 4 of micro-batches, on one of 10: 12.5; values 2 and 6 have the mean 4."""
    p = nn.Parameter(torch.zeros(2))
    p.grad = torch.full((2,), 10.0)
    in_order = InOrder(World(), [p])
    for slope, value in ((1.0, 2.0), (4.0, 6.0)):
        (slope * p).sum().backward()
        in_order.add(torch.tensor([value]))
    values = in_order.mean()

    assert_close(p.grad, torch.full((2,), 12.5))
    assert_close(values, torch.tensor([4.0]))


def test_what_no_micro_batch_used_keeps_no_gradient():
    """With zeros in its place Adam's momentum would move it on several ranks, and not on one."""
    used, once, never = (nn.Parameter(torch.ones(2)) for _ in range(3))
    in_order = InOrder(World(), [used, once, never])
    for second in (False, True):
        (used + once if second else used).sum().backward()
        in_order.add(torch.zeros(1))
    in_order.mean()

    assert_close(used.grad, torch.ones(2))
    assert_close(once.grad, torch.full((2,), 0.5))
    assert never.grad is None


def test_a_micro_batch_draws_the_same_whoever_computes_it():
    whole = [d.method.initial_seed() for d in draws(10, 5, 0, range(4), 4)]
    shared = [
        d.method.initial_seed()
        for rank in (0, 1)
        for d in draws(10, 5, 0, range(2 * rank, 2 * rank + 2), 4)
    ]

    assert shared == whole
    assert len(set(whole)) == 4
    assert draws(10, 5, 0, (0,), 1)[0].method.initial_seed() == whole[0]


def test_a_fingerprint_sees_one_bit():
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    b.load_state_dict(a.state_dict())
    assert fingerprint(a) == fingerprint(b)

    b.bias.data[0] = torch.nextafter(b.bias.data[0], torch.tensor(9.0))
    assert fingerprint(a) != fingerprint(b)


def started_from(program: str) -> list[subprocess.Popen]:
    """Two ranks that run a program; what they say comes back in one stream each."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    here = os.environ | {"PYTHONPATH": str(Path(loop.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    here |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    here |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env=here | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]


LISTENING = """
import os
from pathlib import Path
import torch
from dukd.core.distributed import join
with join(torch.device("cpu")) as world:
    world.wait()
    mine = {os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, address, _, state, *_, = words = line.split()
            if state == "0A" and f"socket:[{words[9]}]" in mine:
                print(table, address.split(":")[0])
    world.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="sockets are looked up in /proc")
def test_on_one_machine_nobody_outside_can_connect():
    """torch's own store listens on all interfaces, and knows no password."""
    ranks = started_from(LISTENING)
    said = [rank.communicate(timeout=100)[0] for rank in ranks]

    assert [rank.returncode for rank in ranks] == [0, 0], said
    assert "tcp 0100007F" in said[0]
    assert set("".join(said).split("\n")) == {"tcp 0100007F", ""}
