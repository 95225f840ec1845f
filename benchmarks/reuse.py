"""What replaying a period of batches does to the student: quality against the length of the period.

    python benchmarks/reuse.py TRAIN TEACHER --valid FOLDER [--steps 600] [--periods 0 400 100 25] [--seeds 10 11]

A small EDSR learns from TEACHER with DUKD, for the same number of steps in every run; only the number of different
batches changes. Period 0 has no end. Prints PSNR of the luma on the validation pictures, mean over seeds.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from dukd import augment, train
from dukd.experiment import Data, Evaluation, Experiment, Optimisation, Reuse, Teacher
from dukd.methods import DUKD
from dukd.networks import EDSRConfig
from dukd.runs import Run

Row = tuple[str, int, list[float], float]


def experiment(asked: argparse.Namespace, folder: Path) -> Experiment:
    return Experiment(
        student=EDSRConfig(scale=2, width=32, blocks=4, value_range=1.0, skip="nearest"),
        teacher=Teacher(
            weights=asked.teacher, value_range=asked.value_range, mean=(0.0, 0.0, 0.0) if asked.no_mean else None
        ),
        method=DUKD(),
        data=Data(train=asked.train, packs=folder / "packs", patch=asked.patch, batch=asked.batch),
        optimisation=Optimisation(
            steps=asked.steps,
            learning_rate=2e-3,
            schedule="one-cycle",
            precision="bfloat16",
            channels_last=True,
            ema=0.99,
        ),
        evaluation=Evaluation(
            sets=(asked.valid,), pictures=asked.pictures, every=asked.steps, log_every=100, teacher_pictures=0
        ),
        reuse=Reuse(folder=folder / "banks"),
    )


def measure(whole: Experiment, seeds: list[int], folder: Path, name: str) -> Row:
    found: list[float] = []
    started = time.process_time()
    for seed in seeds:
        run = folder / f"{name}-{whole.data.period}-{seed}".replace(" ", "-")
        train.train(replace(whole, optimisation=replace(whole.optimisation, seed=seed)), run)
        last = [r for r in Run.open(run).records() if r["kind"] == "validation"][-1]
        sets = cast("dict[str, dict[str, float]]", last["sets"])
        found.append(next(iter(sets.values()))["psnr_y"])
    return name, whole.data.period, found, (time.process_time() - started) / len(seeds)


def shown(row: Row) -> str:
    name, period, found, seconds = row
    each = " ".join(f"{x:.3f}" for x in found)
    return f"| {period or 'none'} | {name} | {statistics.mean(found):.3f} | {each} | {seconds:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("--valid", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=10)
    parser.add_argument("--patch", type=int, default=48)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--value-range", type=float, help="of the teacher, where its file does not say")
    parser.add_argument("--no-mean", action="store_true", help="the teacher subtracts no mean")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--periods", type=int, nargs="*", default=[0, 400, 100, 25])
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11])
    parser.add_argument("--ablate", type=int, default=0, help="period at which to compare turns and bits")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        whole = experiment(asked, folder)
        print("| period | student sees | PSNR-Y | by seed | CPU-s per run |\n|---|---|---|---|---|", flush=True)
        for period in asked.periods:
            one = replace(whole, data=replace(whole.data, period=period))
            print(shown(measure(one, asked.seeds, folder, "8 symmetries, 8 bits")), flush=True)
        if asked.ablate:
            one = replace(whole, data=replace(whole.data, period=asked.ablate))
            for name, reuse in (
                ("nothing turned, 8 bits", {"turns": ()}),
                ("and inverted colours, 8 bits", {"turns": augment.OPERATIONS}),
                ("8 symmetries, 16 bits", {"bits": 16}),
            ):
                print(
                    shown(measure(replace(one, reuse=replace(one.reuse, **reuse)), asked.seeds, folder, name)),
                    flush=True,
                )


if __name__ == "__main__":
    main()
