"""What a step of every method costs, in time and memory, relative to training without a teacher.

    python benchmarks/cost.py --images datasets --out runs/study

The networks and patches are those of ``equal_time.py``. Steps of all methods are timed in turns, on
one thread, in processor time; the median counts. Memory is the peak of a process of its own, above
what it holds before its first step. Writes ``costs.json``, which that script reads, and
``costs.md``.
"""

import argparse
import json
import multiprocessing
import statistics
from pathlib import Path
from typing import Any

import equal_time
import torch

from dukd.core import files
from dukd.evaluation.timing import interleaved
from dukd.methods import Method
from dukd.training.assemble import Training, assemble
from dukd.training.step import advance


def ready(method: Method, images: Path, out: Path) -> tuple[Training, torch.Tensor, torch.Tensor]:
    """Training and one batch."""
    training = assemble(equal_time.experiment(equal_time.Entry(method, 1000), 1, images, out))
    return training, *training.share.patches.batch(0)


def memory(method: Method, images: Path, out: Path) -> float:
    """Megabytes that the first steps take; run in a process of its own."""
    torch.set_num_threads(1)
    training, lr, hr = ready(method, images, out)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = held("VmRSS")
    for _ in range(2):
        advance(training, lr, hr)
    return held("VmHWM") - before


def held(what: str) -> float:
    """Megabytes, from Linux's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def times(
    methods: dict[str, Method], images: Path, out: Path, repetitions: int
) -> dict[str, float]:
    """Seconds of a step, by name."""
    trainings = {name: ready(method, images, out) for name, method in methods.items()}
    ways = {n: lambda s=s, lr=lr, hr=hr: advance(s, lr, hr) for n, (s, lr, hr) in trainings.items()}
    timings = interleaved(ways, device=torch.device("cpu"), repetitions=repetitions, warm_up=2)
    return {timing.name: statistics.median(timing.seconds) for timing in timings}


def table(costs: dict[str, dict[str, Any]]) -> str:
    """Markdown, relative to scratch."""
    base = costs["scratch"]
    lines = [
        "| method | time of a step | relative | memory of a step | relative |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {n} | {1e3 * c['seconds']:.0f} ms | {c['seconds'] / base['seconds']:.2f} "
        f"| {c['megabytes']:.0f} MB | {c['megabytes'] / base['megabytes']:.2f} |"
        for n, c in costs.items()
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write both files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, default=Path("datasets"))
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--repetitions", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    methods = equal_time.timed()
    seconds = times(methods, options.images, options.out, options.repetitions)
    costs: dict[str, dict[str, Any]] = {name: {"seconds": taken} for name, taken in seconds.items()}
    files.write_text(options.out / "costs.json", json.dumps(costs, indent=1))
    spawned = multiprocessing.get_context("spawn")
    for name, method in methods.items():
        with spawned.Pool(1) as process:
            megabytes = process.apply(memory, (method, options.images, options.out))
        costs[name]["megabytes"] = megabytes
        print(f"{name}: {1e3 * seconds[name]:.0f} ms, {megabytes:.0f} MB", flush=True)
    files.write_text(options.out / "costs.json", json.dumps(costs, indent=1))
    files.write_text(options.out / "costs.md", table(costs))
    print(table(costs))


if __name__ == "__main__":
    main()
