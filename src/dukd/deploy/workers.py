"""Enlarge large folders in many processes, on this machine or a cluster, by Ray Data.

``Workers`` is an engine for ``dukd.upscale``. Each worker holds the network
and does one image at a time, with cores of its own; results appear whole or not at all. A worker
that dies is replaced, and the image it was at is done again; one that has cost ``ATTEMPTS`` workers
their lives is listed as failed, and the others go on.
"""

import importlib
import logging
import os
import pickle
import signal
import sys
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any, cast

import torch

from dukd.core.device import DeviceName, by_name
from dukd.core.files import Progress
from dukd.deploy.job import Failed, Job, Outcome, UpscaleOptions, enlarge, ready
from dukd.networks import Network
from dukd.networks.upscaler import Upscaler

ATTEMPTS = 3
"""How often an image is begun before it is given up as one that workers do not survive."""

# bytes of shared memory that a local Ray gets beside what the network needs; 75 MB is the least
_STORE = 100_000_000
_LONGEST_TEMPORARY = 24  # characters, so that the paths of Ray's sockets in it stay below 104
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
_ALONE = {
    # on any system: one machine only, so it listens on loopback alone
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",  # Ray's choice if left out, with a warning
}


@dataclass(frozen=True)
class Workers:
    """Worker processes that enlarge images; an engine for ``dukd.upscale``.

    Without an address Ray is started on this machine, and ended with the run. Where the calling
    program is connected to Ray already, its workers run there, and the connection stays. Ray that
    is started here listens on the loopback only, unless the program has imported it before: it
    decides that at its import.

    Example:
        ``dukd.upscale(network, ["photos"], "out", UpscaleOptions(workers=4))``
    """

    count: int
    """Number of processes; they share the cores, and on GPUs the GPUs, evenly."""
    address: str | None = None
    """Ray cluster to join, which stays as it is: host:port, or auto for one on this machine; if
    left out, none."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"at least one worker is needed, but got {self.count}")

    def __call__(
        self,
        model: Upscaler,
        jobs: Sequence[Job],
        options: UpscaleOptions,
        text: Mapping[str, str],
        progress: Progress,
    ) -> Generator[Outcome, None, None]:
        """Do jobs, whichever worker is free first.

        Args:
            model: Sent to every worker once, its class too where that is not part of dukd.
            jobs: On file systems that all workers see under the same names.
            options: How. Ray gives each worker a GPU, or its share of one.
            text: Notes for the results.
            progress: Called after every image, in tiles.

        Yields:
            What became of each image, as it is done.

        Raises:
            ValueError: If Ray is not installed, a cluster cannot be reached, has no room for so
                many workers, or does not see the files' folder; or as `enlarge` does.
        """
        if not jobs:
            return
        count = min(self.count, len(jobs))
        device = options.device
        if self.address is None or device == "auto":  # a cluster may have what this machine lacks
            device = cast("DeviceName", by_name(device).type)
        ray = _package(local=self.address is None)
        work = _Work(_on_cpu(model), tuple(jobs), replace(options, device=device), dict(text))
        with _connected(ray, self.address, count, _STORE + 2 * _bytes(model)):
            yield from _results(ray, work, count, progress)


@dataclass(frozen=True)
class _Work:
    """What every worker needs to know."""

    model: Upscaler
    jobs: tuple[Job, ...]
    options: UpscaleOptions
    text: dict[str, str]


def _on_cpu(model: Upscaler) -> Upscaler:
    return model.to("cpu") if isinstance(model, Network) else model


def _bytes(model: Upscaler) -> int:
    if not isinstance(model, Network):
        return 0
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def _results(
    ray: Any,  # noqa: ANN401  a module that may be missing
    work: _Work,
    count: int,
    progress: Progress,
) -> Generator[Outcome, None, None]:
    """Let workers of a Ray that is connected do the jobs."""
    jobs = work.jobs
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores, gpus = share(nodes, count, gpu=work.options.device == "cuda")
    paths = [path for job in jobs for path in (job.source, job.target)]
    folder = None if all(path.is_absolute() for path in paths) else Path.cwd()
    ledger = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Ledger).remote()
    data = ray.data.from_items(
        [{"job": n} for n in range(len(jobs))], override_num_blocks=len(jobs)
    )
    data.context.enable_progress_bars = False
    results = data.map_batches(
        _Worker,
        fn_constructor_args=(_packed(ray, work), cores, folder, ledger),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=count),
        num_cpus=cores,
        num_gpus=gpus or None,
    )
    total, done = sum(job.tiles for job in jobs), 0
    try:
        for row in results.iter_rows():
            outcome = pickle.loads(row["outcome"])  # noqa: S301  made by our own workers
            if isinstance(outcome, Exception):
                raise outcome
            job = jobs[row["job"]]
            done += job.tiles
            progress(done, total, job.source.name)
            yield outcome
    finally:
        ray.kill(ledger)  # others hold it too, and the connection may outlive the run


def share(
    nodes: Iterable[Mapping[str, float]], workers: int, *, gpu: bool = False
) -> tuple[int, float]:
    """Divide a cluster among equal workers.

    Args:
        nodes: What each machine has, under ``CPU`` and ``GPU``.
        workers: How many have to find room; none stretches over two machines.
        gpu: Whether each needs a GPU, or where there are fewer, an equal part of one.

    Returns:
        Cores and GPUs of each worker, as many as possible.

    Raises:
        ValueError: If there is no room for so many.

    Example:
        >>> share([{"CPU": 64, "GPU": 4}, {"CPU": 8}], 8, gpu=True)
        (8, 0.5)
    """
    sizes = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes]
    most = max((cpus for cpus, _ in sizes), default=0)
    for parts in range(1, workers + 1) if gpu else (0,):
        for cores in range(most, 0, -1):
            room = sum(
                min(cpus // cores, gpus * parts) if gpu else cpus // cores for cpus, gpus in sizes
            )
            if room >= workers:
                return cores, 1 / parts if parts else 0.0
    have = f"{sum(cpus for cpus, _ in sizes)} cores and {sum(gpus for _, gpus in sizes)} GPUs"
    raise ValueError(
        f"{workers} workers{' with GPUs' if gpu else ''} find no room where there are {have}: take "
        "fewer"
    )


class _Ledger:
    """Counts how often each job was begun; outlives the workers."""

    def __init__(self) -> None:
        self.begun: Counter[int] = Counter()

    def begin(self, number: int) -> int:
        self.begun[number] += 1
        return self.begun[number]


class _Worker:
    """What lives in a worker process: the network, and what to do with it."""

    def __init__(
        self,
        packed: bytes,
        cores: int,
        folder: Path | None,
        ledger: Any,  # noqa: ANN401  an actor of Ray
    ) -> None:
        torch.set_num_threads(cores)
        self.error: Exception | None = None
        if folder is not None:
            try:
                os.chdir(folder)
            except OSError as error:
                self.error = ValueError(
                    f"a worker does not see the folder {folder} ({error.strerror}): share it"
                )
        self.work: _Work = pickle.loads(packed)  # noqa: S301  made by our own driver
        self.upscaler: Upscaler | None = None
        self.ledger = ledger

    def __call__(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        number = int(batch["job"][0])
        return {"job": [number], "outcome": [pickle.dumps(self.outcome(number))]}

    def outcome(self, number: int) -> Outcome | Exception:
        """Do a job; what would end the run is returned, since Ray takes exceptions for its own."""
        if self.error is not None:
            return self.error
        import ray  # noqa: PLC0415  an optional package

        job = self.work.jobs[number]
        begun: int = ray.get(self.ledger.begin.remote(number))
        if begun > ATTEMPTS:
            return Failed(
                job.source,
                f"{job.source}: {ATTEMPTS} workers died over it; is there too little memory?",
            )
        try:
            if self.upscaler is None:
                self.upscaler = ready(self.work.model, self.work.options)
            return enlarge(self.upscaler, job, self.work.options, self.work.text)
        except Exception as error:  # noqa: BLE001  raised again where the run was started
            return error


def _packed(ray: Any, work: _Work) -> bytes:  # noqa: ANN401  of Ray
    """Pickle what workers need, with the code of a network that they could not import."""
    model = work.model
    names = {type(model).__module__}
    if isinstance(model, Network):
        names.add(type(model.config).__module__)
    foreign = [sys.modules[name] for name in sorted(names) if name.split(".")[0] != "dukd"]
    for module in foreign:
        ray.cloudpickle.register_pickle_by_value(module)
    try:
        packed: bytes = ray.cloudpickle.dumps(work)
    finally:
        for module in foreign:
            ray.cloudpickle.unregister_pickle_by_value(module)
    return packed


def _package(*, local: bool) -> Any:  # noqa: ANN401  a module that may be missing
    """Import Ray; the environment has to say beforehand what it is to be like."""
    if "ray" not in sys.modules:
        for name, value in (_QUIET | _ALONE if local else _QUIET).items():
            os.environ.setdefault(name, value)
    try:
        importlib.import_module("ray.data")
        return importlib.import_module("ray")
    except ImportError as error:
        raise ValueError(
            f"upscaling with workers needs {(error.name or 'ray').split('.')[0]}: pip install "
            "'dukd[ray]'"
        ) from None


@contextmanager
def _connected(
    ray: Any,  # noqa: ANN401  a module that may be missing
    address: str | None,
    count: int,
    store: int = _STORE,
) -> Generator[None, None, None]:
    """Be connected to Ray: as before, to a cluster, or to one on this machine for this block."""
    log = logging.getLogger("ray.data")
    level = log.level
    log.setLevel(logging.CRITICAL)  # what matters is among the outcomes
    short = len(gettempdir()) <= _LONGEST_TEMPORARY or os.name != "posix"
    where = None if short else "/tmp"  # noqa: S108
    with TemporaryDirectory(prefix="dukd-", dir=where, ignore_cleanup_errors=True) as folder:
        ours = not ray.is_initialized()
        try:
            if ours and address is not None:
                _join(ray, address)
            elif ours:
                _start(ray, count, store, folder)
            yield
        except ray.exceptions.RayError as error:
            why = str(error).strip().splitlines()[-1]
            raise ValueError(
                f"Ray could not run the workers, which need this version of dukd too: {why}"
            ) from error
        finally:
            if ours:
                ray.shutdown()
            log.setLevel(level)


def _start(ray: Any, count: int, store: int, folder: str) -> None:  # noqa: ANN401  of Ray
    """Start Ray on this machine; its processes import from where this one does."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    try:
        ray.init(
            address="local",
            num_cpus=max(count, _cores()),
            object_store_memory=store,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=folder,
        )
    except Exception as error:
        ray.shutdown()
        _end_processes(folder)  # what had started does not know that the rest did not
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"Ray did not start on this machine: {why}; --workers 0 does without it"
        ) from error
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _end_processes(folder: str) -> None:
    """End the processes that work in a folder of ours, which their command lines name."""
    for process in Path("/proc").glob("[0-9]*"):  # elsewhere than on Linux there is none
        with suppress(OSError):  # it has just ended, or is somebody else's
            words = (process / "cmdline").read_bytes()
            if os.fsencode(folder) in words and int(process.name) != os.getpid():
                os.kill(int(process.name), signal.SIGKILL)


def _join(ray: Any, address: str) -> None:  # noqa: ANN401  of Ray
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError) as error:
        raise ValueError(
            f"there is no Ray cluster at {address!r}: {str(error).splitlines()[0]}"
        ) from error


def _cores() -> int:
    """Cores that this process may use."""
    with suppress(AttributeError):  # only Linux knows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
