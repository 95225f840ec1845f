"""Peak memory of one training step, of the released code's and ours, each in a process of its own.

    python benchmarks/memory.py [--pair edsr] [--batches 1 2 4] [--limit-gb 12] [--out
    docs/results/memory.md]

What is given is the peak of the process (or of the GPU) during its first step, above what it held
when both networks were built: graphs, gradients, buffers. The paper's batch of 16 is measured where
a straight line through the smaller ones says that it stays below the limit; elsewhere that line
stands in for it. Lines of JSON beside the table keep what is done.

    python benchmarks/memory.py --count [--pairs edsr rcan swinir]

This runs nothing and takes a second: it counts what the graphs of a step keep for the way back, in
float32, on tensors without data. A lower bound for both sides: the passes back need room of their
own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from released import released_step
from torch import Tensor

from dukd import recipes
from dukd.core import files
from dukd.core.distributed import World
from dukd.evaluation.timing import Precision
from dukd.methods import DUKD, ZoomIn
from dukd.networks import NetworkConfig
from dukd.testing import speed
from dukd.training.assemble import assemble
from dukd.training.experiment import Optimization
from dukd.training.step import advance

PAPER = 16
"""Patches in the paper's batch."""


@dataclass(frozen=True)
class Way:
    """How a step is made."""

    name: str
    step: str
    """``released``, ``live`` or ``replayed``."""
    precision: Precision = "float32"
    patches: int = 0
    """Patches at a time; 0 for the whole batch."""


WAYS = (
    Way("released code's step, float32", "released"),
    Way("teacher live, float32", "live"),
    Way("teacher live, bfloat16", "live", "bfloat16"),
    Way("teacher replayed, bfloat16", "replayed", "bfloat16"),
    Way("teacher live, bfloat16, 4 patches at a time", "live", "bfloat16", 4),
    Way("teacher live, bfloat16, 1 patch at a time", "live", "bfloat16", 1),
)


@dataclass(frozen=True)
class Request:
    """What is to be measured."""

    way: str
    pair: str
    scale: int
    patch: int
    batch: int
    device: str


def measured(request: Request) -> int:
    """Megabytes above what was there before the first step; meant for a fresh process."""
    way = next(w for w in WAYS if w.name == request.way)
    device = torch.device(request.device)
    recipe = recipes.recipe(f"{request.pair}-x{request.scale}-dukd").make()
    assert recipe.teacher is not None
    teacher = recipes.config_of(recipe.teacher, request.scale)
    optimization = Optimization(
        precision=way.precision,
        accumulate=max(1, request.batch // way.patches) if way.patches else 1,
        learning_rate=1e-6,
    )
    with tempfile.TemporaryDirectory() as folder:
        trial = speed.trial(
            recipe.student,
            teacher,
            recipe.method,
            Path(folder),
            patch=request.patch,
            batch=request.batch,
        )
        data = replace(trial.data, period=int(way.step == "replayed"))
        training = assemble(
            replace(trial, data=data, optimization=optimization), World(device=device)
        )
        lr, hr = (x.to(device) for x in training.share.patches.batch(0))
        run = (
            released_step(training, lr, hr)
            if way.step == "released"
            else partial(advance, training, lr, hr)
        )
        if training.objective.cache is not None:
            training.objective.fill()
        before = restart(device)
        run()
        return peak(device) - before


def restart(device: torch.device) -> int:
    """Forget the peak so far; returns the memory in use, in MB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) // 10**6
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return kilobytes("VmRSS") // 1000


def peak(device: torch.device) -> int:
    """Most memory since `restart`, in MB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // 10**6
    return kilobytes("VmHWM") // 1000


def kilobytes(what: str) -> int:
    """A line of Linux's account of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return (
        int(next(line.split()[1] for line in lines if line.startswith(f"{what}:"))) * 1024 // 1000
    )


def line(points: dict[int, int]) -> tuple[float, float]:
    """Megabytes per patch and at none, by least squares; flat where there is one point."""
    if len(points) == 1:
        [(batch, megabytes)] = points.items()
        return megabytes / batch, 0.0
    slope, start = np.polyfit(list(points), list(points.values()), 1)
    return float(slope), float(start)


def kept(config: NetworkConfig, batches: Sequence[tuple[int, int]]) -> int:
    """Bytes that a network's graph keeps, its weights left out, for a batch of square patches."""
    with torch.device("meta"):
        network = config.build().train()
    weights = {place(p) for p in network.parameters()}
    found: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        found[place(x)] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        outputs = [network(torch.empty(n, 3, side, side, device="meta")) for n, side in batches]
    assert outputs
    return sum(x.untyped_storage().nbytes() for at, x in found.items() if at not in weights)


def place(x: Tensor) -> int:
    """What tensors that share memory have in common, also where there is none behind it."""
    return x.untyped_storage()._cdata  # noqa: SLF001  its address is 0 on the meta device


def counts(pair: str, scale: int, patch: int, batch: int, patches: int) -> tuple[int, int, int]:
    """MB that graphs keep at most: in the released step, with the teacher's; in ours; in parts."""
    recipe = recipes.recipe(f"{pair}-x{scale}-dukd").make()
    assert recipe.teacher is not None
    assert isinstance(recipe.method, DUKD)
    teacher = recipes.config_of(recipe.teacher, scale)
    windows = sum(u.windows for u in recipe.method.upcyclings if isinstance(u, ZoomIn))
    assert teacher is not None
    with torch.device("meta"):
        gradients = 4 * teacher.build().parameter_count()
    upcycled = [(windows * batch, patch), (batch, patch // scale)]
    released = kept(teacher, upcycled) + kept(recipe.student, upcycled) + gradients
    whole, part = (
        kept(recipe.student, [((1 + windows) * n, patch), (n, patch // scale)])
        for n in (batch, patches)
    )
    return released // 10**6, whole // 10**6, part // 10**6


def counted_page(pairs: Sequence[str], scale: int, patch: int, command: str) -> str:
    """A line per pair of networks, at the paper's batch."""
    about = (
        f"What graphs keep for the way back, in MB of float32, {PAPER} patches of {patch} "
        f"at x{scale}, recipes "
        f"`<pair>-x{scale}-dukd`.\n"
        "Released code: both networks' graphs of its second half, and the teacher's "
        "gradients. Ours: the student's graph."
    )
    text = ["# Memory of a step, counted", "", f"    {command}", "", about, ""]
    text += [
        "| pair | released code | ours | share | ours, 4 patches at a time | share |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for pair in pairs:
        released, whole, part = counts(pair, scale, patch, PAPER, 4)
        shares = [f"{100 * ours / released:.0f} %" for ours in (whole, part)]
        text.append(f"| {pair} | {released} | {whole} | {shares[0]} | {part} | {shares[1]} |")
    return "\n".join(text) + "\n"


def page(found: dict[Request, int], command: str) -> str:
    """A line per way, with the ratio to the first at the paper's batch."""
    batches = sorted({a.batch for a in found})
    ways = [w.name for w in WAYS if any(a.way == w.name for a in found)]
    some = next(iter(found))
    points = {w: {a.batch: megabytes for a, megabytes in found.items() if a.way == w} for w in ways}
    about = (
        f"Recipe {some.pair}-x{some.scale}-dukd, patches of {some.patch}; {some.device}, "
        f"torch {torch.__version__}. MB "
        "above what the process\n"
        "held once the networks were built. Where the paper's batch was not run, ~ marks what "
        "a straight line through the others says."
    )
    text = ["# Memory of a step", "", f"    {command}", "", about, ""]
    text += [
        f"| way | {' | '.join(map(str, batches))} | MB per patch | paper's batch, {PAPER} | share "
        "|",
        f"| --- |{' ---: |' * (len(batches) + 3)}",
    ]
    whole: dict[str, float] = {}
    for way, own in points.items():
        slope, start = line(own)
        whole[way] = own.get(PAPER, PAPER * slope + start)
        cells = [str(own.get(batch, "")) for batch in batches]
        mark = "" if PAPER in own else "~"
        share = whole[way] / whole[ways[0]]
        text.append(
            f"| {way} | {' | '.join(cells)} | {slope:.0f} | {mark}{whole[way]:.0f} | "
            f"{100 * share:.0f} % |"
        )
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pair", default="edsr")
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--patch", type=int, default=48)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--limit-gb", type=float, default=12.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("memory.md"))
    parser.add_argument("--count", action="store_true", help="count in place of measuring")
    parser.add_argument("--pairs", nargs="+", default=["edsr", "rcan", "swinir"], help="to count")
    parser.add_argument("--one", help="measure this alone, in this process, and print it: JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.count:
        command = f"python benchmarks/memory.py --count --pairs {' '.join(options.pairs)}"
        files.write_text(
            options.out, counted_page(options.pairs, options.scale, options.patch, command)
        )
        print(options.out.read_text(encoding="utf-8"))
        return
    if options.one:
        print(measured(Request(**json.loads(options.one))))
        return
    lines = options.out.with_suffix(".jsonl")
    found: dict[Request, int] = {}
    for read in map(
        json.loads, lines.read_text(encoding="utf-8").splitlines() if lines.is_file() else []
    ):
        found[Request(**read["request"])] = read["megabytes"]
    command = (
        f"python benchmarks/memory.py --pair {options.pair} --scale {options.scale} --patch "
        f"{options.patch} --batches {' '.join(map(str, options.batches))} --limit-gb "
        f"{options.limit_gb:g}"
    )
    for batch in [*options.batches, PAPER]:
        for way in WAYS:
            request = Request(
                way.name, options.pair, options.scale, options.patch, batch, options.device
            )
            own = {a.batch: found[a] for a in found if a == replace(request, batch=a.batch)}
            if request in found or batch < way.patches:
                continue
            if own and batch == PAPER and np.polyval(line(own), batch) > 1000 * options.limit_gb:
                print(f"{way.name}: a batch of {batch} would not fit", flush=True)
                continue
            program = [sys.executable, __file__, "--one", json.dumps(asdict(request))]
            printed = subprocess.run(program, check=True, capture_output=True, text=True).stdout
            found[request] = int(printed)
            print(f"{way.name}, {batch} patches: {found[request]} MB", flush=True)
            lines.parent.mkdir(parents=True, exist_ok=True)
            with lines.open("a", encoding="utf-8") as file:
                file.write(
                    json.dumps({"request": asdict(request), "megabytes": found[request]}) + "\n"
                )
            files.write_text(options.out, page(found, command))
    print(options.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
