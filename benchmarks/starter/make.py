"""Make the students that come with the package: packs, runs, and what is shipped of them.

    python benchmarks/starter/make.py --data DATA --out OUT [--device cuda] [--ship] [NAME ...]

DATA holds train/, valid/CID22/, weights/ and eval/ with Set5 and Set14 (CONTRIBUTING.md says where
they are from). One thread, float32; a call that was interrupted goes on where it stopped. The
experiments lie beside this file. --ship writes weights, in float16, and figures into the package.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dukd.core.files import write_text
from dukd.core.text import to_json
from dukd.data.packing import prepare
from dukd.data.pairs import find_pairs, load
from dukd.evaluation.metrics import psnr_y, ssim_y
from dukd.images.bsrgan import JPEG
from dukd.images.convert import to_tensor
from dukd.images.degrade import Bicubic, Degradation
from dukd.networks import Network
from dukd.networks.files import weights
from dukd.networks.shipped import FOLDER
from dukd.runs.directory import Run
from dukd.training import loop
from dukd.training.experiment import Experiment

HERE = Path(__file__).parent
ABOUT = {
    "x2": "photographs, twice as large",
    "x2-fast": "photographs, twice as large, in 0.4 of the time",
    "x2-jpeg": "compressed photographs, twice as large",
    "x4": "photographs, four times as large",
    "x4-fast": "photographs, four times as large, in 0.5 of the time",
}
GENERAL = ("x2", "x4")
"""Those that are taken where no model is named."""
QUALITY = 85
"""Of the JPEG files on which the one for compressed photographs is measured."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ship", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if unknown := [name for name in options.names if name not in ABOUT]:
        parser.error(f"there is no {unknown[0]}; known are {', '.join(ABOUT)}")
    for name in options.names or ABOUT:
        run = make(name, options.data, options.out, options.device)
        if options.ship:
            ship(name, run, options.data / "eval")


def make(name: str, data: Path, out: Path, device: str) -> Path:
    """Train one of them, or go on; nothing is done where it is finished.

    What it starts from is made before it.
    """

    def find(path: Path) -> Path:
        return data / path.relative_to("data") if path.parts[0] == "data" else out / path

    experiment = Experiment.from_file(HERE / f"{name}.yaml").relocated(find)
    warm = experiment.optimization.warm_start
    if warm is not None and not warm.exists():
        make(warm.parent.name, data, out, device)
    if not experiment.data.train.exists():
        pairs = find_pairs(data / "train", scale=experiment.student.scale, recursive=True)
        prepare(pairs, experiment.data.train)
    run = out / "runs" / name
    loop.train(experiment, run, resume=(run / "experiment.yaml").exists(), device=device)
    print(f"{name} is trained", flush=True)
    return run


def ship(name: str, run: Path, sets: Path) -> None:
    """Write one's weights, folded, and its figures into the package."""
    opened = Run.open(run)
    network = weights.read(opened.weights(best=False)).folded().frozen()
    facts = opened.read_facts()
    said = {"license": "CC-BY-SA-4.0", "teacher_sha256": str(facts.get("teacher_sha256") or "")}
    path = FOLDER / f"{name}.safetensors"
    weights.write(path, network.half(), metadata=said)
    network = weights.read(path).frozen()  # computes in float32
    compressed = name.endswith("jpeg")
    degradation = JPEG(quality=(QUALITY, QUALITY)) if compressed else Bicubic()
    entry: dict[str, Any] = {
        "name": name,
        "scale": network.scale,
        "about": ABOUT[name],
        "general": name in GENERAL,
        "network": network.config.describe(),
        "parameters": network.parameter_count(),
        "inputs": f"bicubic, JPEG of quality {QUALITY}" if compressed else "bicubic",
        "figures": {s: figures(network, sets / s, degradation) for s in ("Set5", "Set14")},
    }
    models = FOLDER / "models.json"
    others = json.loads(models.read_bytes()) if models.exists() else []
    entries = [*(one for one in others if one["name"] != name), entry]
    write_text(models, to_json(sorted(entries, key=lambda one: list(ABOUT).index(one["name"]))))
    print(json.dumps(entry), flush=True)


def figures(network: Network, folder: Path, degradation: Degradation) -> dict[str, float]:
    """Mean PSNR-Y in dB and SSIM-Y on a set, border = scale."""
    found: list[tuple[float, float]] = []
    for pair in find_pairs(folder, scale=network.scale):
        lr, hr = load(pair)
        if not degradation.fixed:
            lr = degradation.apply(hr, network.scale, np.random.default_rng(0))
        truth = to_tensor(hr)
        with torch.no_grad():
            sr = network(to_tensor(lr))
        border = network.scale
        values = psnr_y(sr, truth, border=border).item(), ssim_y(sr, truth, border=border).item()
        found.append(values)
    psnr, ssim = np.mean(found, 0)
    return {"psnr_y": round(float(psnr), 3), "ssim_y": round(float(ssim), 4)}


if __name__ == "__main__":
    main()
