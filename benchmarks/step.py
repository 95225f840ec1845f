"""A step of training against the released code's, and against the student alone; writes a table.

    python benchmarks/step.py [--pairs edsr rcan swinir] [--scales 2] [--batch 2] [--repetitions 3]
    \
        [--profile] [--device cuda [--compiled]] [--out docs/results/step.md]

For each of the paper's pairs of networks: the released code's step, ours in float32 and in
bfloat16, with the teacher live and with its outputs replayed, the teacher's forward passes alone
and the student's two. All ways of a pair are timed in turns; on the CPU with one thread, in
processor time. Every turn is written at once, as a line of JSON beside the table, so that a later
run with the same numbers goes on where this one stopped, and adds repetitions. What stands in the
page from "## Reading" on was written by hand, and is kept.
"""

import argparse
import json
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from released import released_step
from torch.profiler import ProfilerActivity

from dukd import recipes
from dukd.core import files
from dukd.evaluation.timing import (
    PRECISIONS,
    Ceiling,
    Result,
    Timing,
    Ways,
    ceiling,
    counted,
    interleaved,
)
from dukd.testing import speed
from dukd.training.experiment import Optimization
from dukd.training.log import peak_memory

RELEASED = "released code's step, float32"
_WARM_UP = 5
"""Runs of each way on a GPU before any counts."""
READING = "\n## Reading\n"


@dataclass(frozen=True)
class Request:
    """What is to be measured; lines with equal numbers are of the same measurement."""

    pair: str
    scale: int
    batch: int
    patch: int
    device: str
    torch: str = torch.__version__
    compiled: bool = False


def turns(request: Request, count: int, profile: Path | None = None) -> Iterator[Result]:
    """Time all ways of a pair, once in each turn; counting operations before warms up.

    Args:
        request: The pair.
        count: Turns.
        profile: Where to write down which operations a step in bfloat16 spends its time in.
    """
    device = torch.device(request.device)
    recipe = recipes.recipe(f"{request.pair}-x{request.scale}-dukd").make()
    assert recipe.teacher is not None
    teacher = recipes.config_of(recipe.teacher, request.scale)
    ways: Ways = {}
    with ExitStack() as stack:
        for precision in PRECISIONS:
            optimization = Optimization(
                precision=precision,
                learning_rate=1e-6,
                compile=request.compiled,
                cuda_graphs=request.compiled,
            )
            steps = stack.enter_context(
                speed.steps(
                    recipe.student,
                    teacher,
                    device=device,
                    method=recipe.method,
                    batch=request.batch,
                    patch=request.patch,
                    optimization=optimization,
                )
            )
            if not ways:
                lr, hr = (x.to(device) for x in steps.training.share.patches.batch(0))
                ways[RELEASED] = released_step(steps.training, lr, hr)
            ways |= {f"{name}, {precision}": way for name, way in steps.ways.items()}
        operations = {name: counted(way) for name, way in ways.items()}
        if device.type == "cuda" or request.compiled:
            interleaved(ways, device=device, repetitions=1, warm_up=_WARM_UP)
        if profile is not None:
            files.write_text(profile, profiled(ways["teacher live, bfloat16"], device))
        for _ in range(count):
            timings = interleaved(ways, device=device, repetitions=1, warm_up=0)
            memory = peak_memory(device)
            yield Result(
                steps.named,
                timings,
                per_run=request.batch,
                unit="patches",
                flops=operations,
                memory_mb=memory,
            )


def profiled(way: Callable[[], object], device: torch.device) -> str:
    """Operations of a way, the most expensive first."""
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with torch.profiler.profile(activities=kinds) as seen:
        way()
    by = f"self_{device.type}_time_total"
    return seen.key_averages().table(sort_by=by, row_limit=30, max_name_column_width=60)


def joined(results: Sequence[Result]) -> Result:
    """One result of several turns."""
    timings = zip(*(r.timings for r in results), strict=True)
    return replace(
        results[0],
        timings=tuple(Timing(same[0].name, sum((t.seconds for t in same), ())) for same in timings),
        memory_mb=max(r.memory_mb for r in results),
    )


def reading(result: Result) -> Iterator[str]:
    """The ratios that were promised."""
    for precision in PRECISIONS:
        live, replayed, alone = (
            result.median(f"{name}, {precision}")
            for name in ("teacher live", "teacher replayed", "student alone")
        )
        yield (
            f"{precision}: {result.ratio(f'teacher live, {precision}'):.1f} times faster than "
            f"the released code, {result.ratio(f'teacher replayed, {precision}'):.1f} times with "
            f"outputs replayed, which is {replayed / alone:.2f} times the student's two passes "
            f"alone and {live / replayed:.1f} times faster than running it."
        )


def shares(result: Result, ceilings: dict[str, Ceiling]) -> str:
    """The table, with the share of each precision's own peak."""
    own = {
        t.name: best
        for t in result.timings
        for precision, best in ceilings.items()
        if t.name.endswith(precision)
    }
    return replace(result, ceilings=own).table().to_markdown()


def to_line(request: Request, result: Result) -> str:
    return json.dumps({"request": asdict(request), "result": asdict(result)})


def from_line(line: str) -> tuple[Request, Result]:
    read: dict[str, Any] = json.loads(line)
    timings = tuple(Timing(t["name"], tuple(t["seconds"])) for t in read["result"].pop("timings"))
    notes = tuple(read["result"].pop("notes"))
    return Request(**read["request"]), Result(**read["result"], timings=timings, notes=notes)


def page(results: dict[Request, Result], ceilings: dict[str, Ceiling], command: str) -> str:
    device = next(iter(results)).device
    where = (
        torch.cuda.get_device_name(device)
        if device != "cpu"
        else f"{platform.machine()}, one thread"
    )
    text = [
        "# Cost of a step",
        "",
        f"    {command}",
        "",
        f"{where}, torch {torch.__version__}. Ratios are to the released code's step "
        "(`benchmarks/released.py`),",
        "timed in turns with the others; method and networks are those of the recipes "
        "`<pair>-x<scale>-dukd`.",
        "Medians; spread is from the fastest to the slowest repetition. On the CPU the clock is "
        "processor time.",
        "The machine's peaks, of which shares are given:",
        *(
            f"{p}: {c.flops / 1e9:.0f} Gflop/s, {c.bytes / 1e9:.1f} GB/s in copies."
            for p, c in ceilings.items()
        ),
    ]
    for request, result in results.items():
        text += ["", f"## {request.pair} x{request.scale}", "", shares(result, ceilings)]
        text += [f"- {line}" for line in reading(result)]
    return "\n".join(text) + "\n"


def write(path: Path, text: str) -> None:
    """Write a page, and keep what was written by hand."""
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    _, heading, reading = before.partition(READING)
    files.write_text(path, text + heading + reading)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", nargs="+", default=["edsr", "rcan", "swinir"])
    parser.add_argument("--scales", type=int, nargs="+", default=[2])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--patch", type=int, default=48)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--compiled", action="store_true", help="networks go through torch.compile and CUDA graphs"
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="write a profile of each pair's step beside the table",
    )
    parser.add_argument("--out", type=Path, default=Path("step.md"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = options.out.with_suffix(".jsonl")
    done: dict[Request, list[Result]] = {}
    for request, result in map(
        from_line, lines.read_text(encoding="utf-8").splitlines() if lines.is_file() else []
    ):
        done.setdefault(request, []).append(result)
    ceilings: dict[str, Ceiling] = {p: ceiling(torch.device(options.device), p) for p in PRECISIONS}
    command = (
        f"python benchmarks/step.py --pairs {' '.join(options.pairs)} --scales "
        f"{' '.join(map(str, options.scales))} --batch {options.batch} --patch {options.patch} "
        "--repetitions "
        f"{options.repetitions}"
        f"{'' if options.device == 'cpu' else f' --device {options.device}'}"
        f"{' --compiled' if options.compiled else ''}"
    )
    wanted = [
        Request(
            pair, scale, options.batch, options.patch, options.device, compiled=options.compiled
        )
        for scale in options.scales
        for pair in options.pairs
    ]
    lines.parent.mkdir(parents=True, exist_ok=True)
    for request in wanted:
        own = done.setdefault(request, [])
        profile = options.out.with_name(
            f"{options.out.stem}-profile-{request.pair}-x{request.scale}.txt"
        )
        left = options.repetitions - len(own)
        for result in (
            turns(request, left, profile if options.profile else None) if left > 0 else ()
        ):
            own.append(result)
            with lines.open("a", encoding="utf-8") as file:
                file.write(to_line(request, result) + "\n")
            write(
                options.out,
                page({a: joined(done[a]) for a in wanted if done.get(a)}, ceilings, command),
            )
    write(options.out, page({a: joined(done[a]) for a in wanted}, ceilings, command))
    print(options.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
