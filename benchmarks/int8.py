"""What a small student loses in 8 bits: calibrated, and trained with several teachers.

    python benchmarks/int8.py --data DATA [--out runs/int8] [--settings S] [--ways W] [--seeds 1]

DATA holds weights, training photographs and Set5 and Set14 (CONTRIBUTING.md says where they are
from). The student is the EDSR of 32 channels and 5 blocks at x2. Every result is one line in
``results.jsonl``, and is not computed again.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dukd import recipes
from dukd.data.datasets import set5, set14
from dukd.data.pairs import Pairs, find_pairs, load
from dukd.evaluation.metrics import psnr_y
from dukd.images.convert import to_tensor
from dukd.networks import Network, Quantized, QuantizedConfig, as_quantized
from dukd.networks.files import weights
from dukd.networks.quantize.calibrate import CHOICES, calibrate
from dukd.networks.quantize.integer import IntegerReference
from dukd.networks.quantize.targets import TargetName
from dukd.training import loop
from dukd.training.experiment import Data, Evaluation, Experiment, Optimization
from dukd.training.teachers import File

STUDENT = "edsr_f32b5_x2_basicsr.safetensors"


@dataclass(frozen=True)
class Setting:
    """What is an integer."""

    target: TargetName
    keep: tuple[str, ...] | None
    about: str


SETTINGS = {
    "ends-float": Setting("openvino", None, "first, before-shuffle and last convolution float"),
    "float-additions": Setting("openvino", (), "all convolutions int8, additions float"),
    "stream": Setting("onnxruntime", None, "everything int8, additions too"),
}
WAYS = {
    "scratch": ("scratch", None),
    "self": ("logits", STUDENT),
    "large": ("logits", "smfanet_plus_df2k_x2.pth"),
    "dukd": ("dukd", "smfanet_plus_df2k_x2.pth"),
    "dukd-self": ("dukd", STUDENT),
}
"""Method and teacher by the name of a way to train."""


def student(data: Path) -> Network:
    """The float student."""
    path = data / "weights" / STUDENT
    return weights.read(path, value_range=255.0, mean=(0.0, 0.0, 0.0), residual_scale=1.0).frozen()


def _teacher(path: Path) -> File:
    """A teacher; what the files of EDSR do not say is said here."""
    if path.name != STUDENT:
        return File(weights=path)
    return File(weights=path, value_range=255.0, mean=(0.0, 0.0, 0.0), residual_scale=1.0)


def images(pairs: Pairs) -> list[tuple[Tensor, Tensor]]:
    """Low and high resolution of a set, each ``(1, 3, h, w)``."""
    return [tuple(_batch(to_tensor(x)) for x in load(pair)) for pair in pairs]


def _batch(x: Tensor) -> Tensor:
    return x if x.ndim == 4 else x[None]


@torch.no_grad()
def measure(
    network: Network, sets: dict[str, list[tuple[Tensor, Tensor]]], *, integers: bool = False
) -> dict[str, float]:
    """PSNR of the luma by the name of the set, in dB; of integers too where there are any."""
    found: dict[str, float] = {}
    ways: dict[str, Callable[[Tensor], Tensor]] = {"": network}
    if integers and isinstance(network, Quantized):
        ways["integers "] = IntegerReference(network)
    for prefix, way in ways.items():
        for name, pairs in sets.items():
            values = [psnr_y(way(lr), hr, border=2).item() for lr, hr in pairs]
            found[prefix + name] = sum(values) / len(values)
    return found


def calibration_images(data: Path) -> list[Tensor]:
    """Middles of 17 training photographs."""
    pairs = list(find_pairs(data / "train" / "CID22", scale=2))[::13]
    return [_batch(to_tensor(load(p)[0]))[..., 64:192, 64:192].contiguous() for p in pairs]


def experiment(
    data: Path, out: Path, setting: Setting, way: str, arguments: argparse.Namespace
) -> Experiment:
    """One training."""
    method, teacher = WAYS[way]
    return Experiment(
        student=QuantizedConfig(
            network=student(data).config, target=setting.target, keep=setting.keep
        ),
        teacher=None if teacher is None else _teacher(data / "weights" / teacher),
        method=recipes.method_named(method),
        data=Data(train=data / "train" / "CID22", packs=out / "packs", patch=32, batch=4),
        optimization=Optimization(
            steps=arguments.steps,
            learning_rate=1e-4,
            schedule="cosine",
            ema=0.99,
            warm_start=out / "float.safetensors",
            seed=arguments.seed,
        ),
        evaluation=Evaluation(every=arguments.steps, teacher_images=0),
    )


def main(argv: Sequence[str] | None = None) -> None:  # noqa: C901  two loops over what is missing
    """Measure what is not measured yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/int8"))
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--ways", nargs="+", default=["calibrated", *WAYS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--integers", action="store_true")
    parser.add_argument("--steps", type=int, default=500)
    arguments = parser.parse_args(argv)
    data, out = arguments.data, arguments.out
    out.mkdir(parents=True, exist_ok=True)
    sets = {"Set5": images(set5(data / "eval", 2)), "Set14": images(set14(data / "eval", 2))}
    log = out / "results.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    original = student(data)
    if not (out / "float.safetensors").exists():
        weights.write(out / "float.safetensors", original)

    def note(key: Mapping[str, object], network: Network, seconds: float) -> None:
        line = {**key, **measure(network, sets, integers=arguments.integers), "seconds": seconds}
        with log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)

    def missing(key: Mapping[str, object]) -> bool:
        return not any(key.items() <= line.items() for line in done)

    if missing(key := {"setting": "float"}):
        note(key, original, 0.0)
    for name in arguments.settings if "calibrated" in arguments.ways else ():
        for choice in CHOICES:
            key = {"setting": name, "way": "calibrated", "choice": choice}
            if missing(key):
                setting = SETTINGS[name]
                made = as_quantized(original, target=setting.target, keep=setting.keep).frozen()
                calibrate(made, calibration_images(data), choice)
                note(key, made, 0.0)
    for seed in arguments.seeds:
        for name in arguments.settings:
            for way in [way for way in arguments.ways if way != "calibrated"]:
                key = {"setting": name, "way": way, "seed": seed, "steps": arguments.steps}
                if not missing(key):
                    continue
                arguments.seed = seed
                run = out / f"{name}-{way}-{seed}"
                started = time.process_time()
                path = loop.train(
                    experiment(data, out, SETTINGS[name], way, arguments), run, resume=run.exists()
                )
                seconds = time.process_time() - started
                note(key, weights.read(path).frozen(), seconds)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
