"""Make the students that come with the package: packs, runs, and what is shipped of them.

    python benchmarks/starter/make.py --data DATA --out OUT [x2 x4 x2-jpeg]

DATA holds train/, valid/CID22/ and weights/ (CONTRIBUTING.md says where they are from). One thread,
float32; a call that was interrupted goes on where it stopped. The experiments lie beside this file.
"""

import argparse
from pathlib import Path

import torch

from dukd.data.packing import prepare
from dukd.data.pairs import find_pairs
from dukd.training import loop
from dukd.training.experiment import Experiment

HERE = Path(__file__).parent
NAMES = ("x2", "x4", "x2-jpeg")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.names:
        make(name, options.data, options.out)


def make(name: str, data: Path, out: Path) -> None:
    """Train one of them, or go on; nothing is done where it is finished."""

    def find(path: Path) -> Path:
        return data / path.relative_to("data") if path.parts[0] == "data" else out / path

    experiment = Experiment.from_file(HERE / f"{name}.yaml").relocated(find)
    if not experiment.data.train.exists():
        pairs = find_pairs(data / "train", scale=experiment.student.scale, recursive=True)
        prepare(pairs, experiment.data.train)
    run = out / "runs" / name
    print(loop.train(experiment, run, resume=(run / "experiment.yaml").exists()), flush=True)


if __name__ == "__main__":
    main()
