"""One command of nine minutes on a GPU: a profile of the papers' three pairs, then training.

    python benchmarks/gpu.py --train datasets/DIV2K/DIV2K_train_HR --sets datasets/Set5 \
        --weights weights --out runs/gpu

Given again, it goes on where it stopped. First each pair's step of DUKD at the papers' batch: eager
in float32 and bfloat16, with channels last and apart, beside the released code's, compiled, and
with CUDA graphs; of each the time, the share of the peak, the memory, how often the host waits for
the device and how long the device has nothing to do. Then scratch, logits and DUKD on EDSR 64 x 16
from SMFANet+ at x2 and x4, as a study, for the rest of the time; ``--workers 3`` trains three
students of each scale at once. ``--only profile`` or ``--only train`` leaves the other out. Every
measurement is one line of ``profile.jsonl`` in the folder; ``gpu.md`` holds all of them as tables,
and what the study has. ``--rehearse`` makes everything tiny, for a computer without a GPU.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from released import released_step
from torch.profiler import ProfilerActivity

from dukd import recipes
from dukd.core import config, files
from dukd.evaluation.timing import Ceiling, Precision, ceiling, counted, interleaved
from dukd.methods import Method
from dukd.networks import EDSRConfig, NetworkConfig, RCANConfig, SwinIRConfig
from dukd.recipes.study import Study
from dukd.recipes.study_standing import standing
from dukd.recipes.study_tables import write_tables
from dukd.recipes.studying import run_cell
from dukd.testing import speed
from dukd.training import loop
from dukd.training.assemble import open_pack
from dukd.training.experiment import Optimization
from dukd.training.log import peak_memory

PAIRS = ("edsr", "rcan", "swinir")
SCALES = (2, 4)
TEACHER = "smfanet_plus_df2k_x{}.pth"
"""SMFANet+'s file for a scale."""
RELEASED = "released code"
"""The baseline's step, float32, in turns with ours."""
VARIANTS: dict[str, Optimization] = {
    "bfloat16, CUDA graphs": Optimization(precision="bfloat16", cuda_graphs=True),
    "bfloat16": Optimization(precision="bfloat16"),
    "float32": Optimization(),
    "float32, CUDA graphs": Optimization(cuda_graphs=True),
    "bfloat16, channels last": Optimization(precision="bfloat16", channels_last=True),
    "bfloat16, channels apart": Optimization(precision="bfloat16", channels_last=False),
    RELEASED: Optimization(),
    "bfloat16, compiled": Optimization(precision="bfloat16", compile=True),
    "bfloat16, compiled, CUDA graphs": Optimization(
        precision="bfloat16", compile=True, cuda_graphs=True
    ),
}
"""How a step is made; what takes longest comes last, since it may take all the time."""
WAITS = {"cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy"}
PROFILING = 0.45
"""Most of the time that the profile may take."""
LAST = 20.0
"""Seconds before the end at which training is stopped, so that it can be saved and measured."""


class TimeUpError(BaseException):  # past everything that catches exceptions, as a compiler does
    """Measuring takes longer than it may."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is measured, and how large."""

    batch: int = 16
    patch: int = 48
    repetitions: int = 5
    steps: int = 6_000
    tiny: bool = False

    def network(self, config: NetworkConfig) -> NetworkConfig:
        """A network as it is, or the smallest of its kind."""
        match config:
            case EDSRConfig() if self.tiny:
                return replace(config, width=4, blocks=1)
            case RCANConfig() if self.tiny:
                return replace(config, width=8, groups=1, blocks=1, squeeze=4)
            case SwinIRConfig() if self.tiny:
                return replace(config, width=8, depths=(1,), heads=(2,), window=4)
            case _:
                return config


TINY = Sizes(batch=2, patch=12, repetitions=1, steps=2, tiny=True)


@contextmanager
def at_most(seconds: float, act: Callable[[], None]) -> Generator[None, None, None]:
    """Do something once the time is over, in the middle of whatever is done then."""
    before = signal.signal(signal.SIGALRM, lambda *_: act())
    signal.setitimer(signal.ITIMER_REAL, max(0.01, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _time_up() -> None:
    raise TimeUpError


def measured(
    pair: str, variant: str, sizes: Sizes, device: torch.device, best: Ceiling
) -> list[dict[str, Any]]:
    """A line for each way of a step: teacher live, replayed, alone, and the student alone."""
    recipe = recipes.recipe(f"{pair}-x2-dukd").make()
    assert recipe.teacher is not None
    student, teacher = recipe.student, recipes.config_of(recipe.teacher, 2)
    optimization = replace(VARIANTS[variant], learning_rate=1e-6)
    method: Method = recipe.method
    about = {"pair": pair, "variant": variant, "batch": sizes.batch, "patch": sizes.patch}
    with speed.steps(
        sizes.network(student),
        sizes.network(teacher),
        device=device,
        method=method,
        batch=sizes.batch,
        patch=sizes.patch,
        optimization=optimization,
    ) as steps:
        ways = dict(steps.ways)
        if variant == RELEASED:
            ways = {"teacher live": ways["teacher live"]}
            batch = (x.to(device) for x in steps.training.share.patches.batch(0))
            ways[RELEASED] = released_step(steps.training, *batch)
        flops = {name: counted(way) for name, way in ways.items()}
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        turns = sizes.repetitions
        timings = interleaved(ways, device=device, repetitions=turns, warm_up=min(3, turns))
        memory = peak_memory(device)
        lines: list[dict[str, Any]] = []
        for t in timings:
            waits, idle = watched(ways[t.name], device)
            lines.append(
                {
                    **about,
                    "way": t.name,
                    "seconds": t.median,
                    "patches_per_second": sizes.batch / t.median,
                    "share_of_peak": flops[t.name] / t.median / best.flops,
                    "memory_mb": memory,
                    "waits": waits,
                    "idle": idle,
                }
            )
    return lines


def watched(way: Callable[[], object], device: torch.device) -> tuple[int | None, float | None]:
    """How often the host waits for the device in one run, and the share in which it idles."""
    if device.type != "cuda":
        way()
        return None, None
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as seen:
        torch.cuda.synchronize(device)
        begun = time.perf_counter()
        way()
        torch.cuda.synchronize(device)
        taken = time.perf_counter() - begun
    events = seen.key_averages()
    waits = sum(e.count for e in events if e.key in WAITS) - 2  # our own two
    busy = sum(e.self_device_time_total for e in events) / 1e6
    return max(0, waits), max(0.0, 1 - busy / taken)


def profile(pairs: list[str], sizes: Sizes, device: torch.device, out: Path, until: float) -> None:
    """Measure what is not measured yet, line by line, until the time is over."""
    path = out / "profile.jsonl"
    done = {(line["pair"], line["variant"]) for line in lines_of(path)}
    left = [(p, v) for v in VARIANTS for p in pairs if (p, v) not in done]
    peaks: dict[Precision, Ceiling] = {}
    for pair, variant in left:
        if time.monotonic() >= until:
            return
        precision = VARIANTS[variant].precision
        if precision not in peaks:
            peaks[precision] = ceiling(device, precision, side=64 if sizes.tiny else 0)
        try:
            with at_most(until - time.monotonic(), _time_up):
                lines = measured(pair, variant, sizes, device, peaks[precision])
        except TimeUpError:
            return
        except (RuntimeError, ValueError) as error:  # a compiler that fails, too little memory
            lines = [{"pair": pair, "variant": variant, "problem": str(error)[:300]}]
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        print(f"{pair}, {variant}: {lines[0].get('problem', '')}{summary(lines)}", flush=True)


def summary(lines: list[dict[str, Any]]) -> str:
    return ", ".join(f"{x['way']} {1e3 * x['seconds']:.1f} ms" for x in lines if "way" in x)


def lines_of(path: Path) -> list[dict[str, Any]]:
    """What was measured; a line that a kill left unfinished is passed over."""
    found: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def studies(options: argparse.Namespace, sizes: Sizes) -> dict[int, Study]:
    """Scratch, logits and DUKD on EDSR 64 x 16 from SMFANet+, by scale."""
    small = ("student.width=4", "student.blocks=1", "data.workers=0") if sizes.tiny else ()
    return {
        scale: Study(
            recipes=(f"edsr-16-x{scale}",),
            methods=("scratch", "logits", "dukd"),
            seeds=tuple(options.seeds),
            sets=tuple(options.sets),
            options=(
                f"data.train={options.train}",
                f"data.packs={options.out / 'packs'}",
                f"data.patch={sizes.patch}",
                f"data.batch={sizes.batch}",
                f"teacher.weights={options.weights / TEACHER.format(scale)}",
                f"optimization.steps={sizes.steps}",
                "optimization.learning_rate=4e-4",
                "optimization.schedule=one-cycle",
                "optimization.ema=0.995",
                "optimization.precision=bfloat16",
                f"evaluation.sets=[{', '.join(map(str, options.sets))}]",
                f"evaluation.every={max(1, sizes.steps // 4)}",
                "evaluation.teacher_images=0",
                *small,
            ),
        )
        for scale in SCALES
    }


def train(
    wanted: dict[int, Study], out: Path, device: torch.device, until: float, workers: int = 1
) -> list[str]:
    """Train and measure cells, until the time is over; what could not be put into a table."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    problems: list[str] = []
    if workers > 1:
        at_once(wanted, out, device, until, workers)
    else:
        in_turn(wanted, out, device, until)
    for scale, study in wanted.items():
        folder = out / f"x{scale}"
        problems += write_tables(study, folder, standing(study, folder))[1]
    return problems


def in_turn(wanted: dict[int, Study], out: Path, device: torch.device, until: float) -> None:
    """Train and measure one cell after the other, here."""

    def stop() -> None:
        os.kill(os.getpid(), signal.SIGTERM)  # training saves everything, then ends

    with suppress(KeyboardInterrupt, loop.Interrupted), at_most(until - time.monotonic(), stop):
        for scale, study in wanted.items():
            for cell in study.cells():
                print(run_cell(study, cell, out / f"x{scale}", device=device), flush=True)


def at_once(
    wanted: dict[int, Study], out: Path, device: torch.device, until: float, workers: int
) -> None:
    """Train and measure some cells of every scale at once, in processes of their own."""
    running: list[subprocess.Popen[bytes]] = []
    for scale, study in wanted.items():
        open_pack(study.cells()[0].experiment.data, scale)  # once, before several want it
        file = out / f"x{scale}.yaml"
        files.write_text(file, yaml.safe_dump(config.plain(study, registry={}), sort_keys=False))
        command = [sys.executable, "-m", "dukd", "study", str(file), "--out", f"{out}/x{scale}"]
        command += ["--workers", str(workers), "--device", device.type]
        running.append(subprocess.Popen(command))
    for process in running:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, until - time.monotonic()))
    for process in running:
        process.send_signal(signal.SIGINT)  # training saves everything, then ends
    for process in running:
        process.wait()


def page(out: Path, device: torch.device, wanted: dict[int, Study]) -> str:
    """All tables."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "the processor"
    text = ["# On a GPU", "", f"On {where}, torch {torch.__version__}.", ""]
    text += [
        "| pair | variant | way | step | patches/s | of the peak | memory | waits | idle |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for x in lines_of(out / "profile.jsonl"):
        if "problem" in x:
            text.append(f"| {x['pair']} | {x['variant']} | {x['problem'].splitlines()[0]} |")
            continue
        idle = "" if x["idle"] is None else f"{x['idle']:.0%}"
        waits = "" if x["waits"] is None else str(x["waits"])
        text.append(
            f"| {x['pair']} | {x['variant']} | {x['way']} | {1e3 * x['seconds']:.1f} ms "
            f"| {x['patches_per_second']:.0f} | {x['share_of_peak']:.0%} | {x['memory_mb']} MB "
            f"| {waits} | {idle} |"
        )
    for scale in wanted:
        study = out / f"x{scale}" / "study.md"
        text += [
            "",
            f"## Training at x{scale}",
            *study.read_text(encoding="utf-8").splitlines()[1:],
        ]
    return "\n".join(text) + "\n"


def main() -> None:
    """Profile, train, and write the tables."""
    begun = time.monotonic()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, default=Path("datasets/DIV2K/DIV2K_train_HR"))
    parser.add_argument("--sets", type=Path, nargs="+", default=[Path("datasets/Set5")])
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), help="as in <pair>-x2-dukd")
    parser.add_argument("--only", choices=("profile", "train"))
    parser.add_argument("--workers", type=int, default=1, help="students of a scale at once")
    parser.add_argument("--repetitions", type=int, default=Sizes.repetitions)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", type=int, default=Sizes.steps, help="of each student")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rehearse", action="store_true", help="everything tiny, on the processor")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    options = parser.parse_args()
    numbers = {"steps": options.steps, "repetitions": options.repetitions}
    sizes = TINY if options.rehearse else Sizes(**numbers)
    device = torch.device("cpu" if options.rehearse else options.device)
    options.out.mkdir(parents=True, exist_ok=True)
    wanted = studies(options, sizes)
    seconds = 60 * options.minutes
    problems: list[str] = []
    if options.only != "train":
        share = 1 if options.only else PROFILING
        profile(options.pairs, sizes, device, options.out, begun + share * seconds)
    if options.only != "profile":
        problems = train(wanted, options.out, device, begun + seconds - LAST, options.workers)
    else:
        wanted = {}
    files.write_text(options.out / "gpu.md", page(options.out, device, wanted))
    print(*problems, f"wrote {options.out / 'gpu.md'}", sep="\n")


if __name__ == "__main__":
    main()
