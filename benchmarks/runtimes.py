"""How fast each runtime runs each network, in turns, and how far it is from torch.

    OMP_NUM_THREADS=1 python benchmarks/runtimes.py [--repetitions 3] [--size 128]

One table in Markdown: output megapixels per second of processor time (the median of the turns), the
ratio to torch in float32, and PSNR against it on random images. The runtimes take turns, so that a
busy machine disturbs all of them alike. Networks have random weights, which cost the same.
"""

import argparse
import statistics
import time

import torch

from dukd.deploy.engine import run_by
from dukd.deploy.runtime import verify
from dukd.networks import (
    EDSRConfig,
    Network,
    NetworkConfig,
    rcan_student,
    smfanet_plus,
    swinir_student,
)
from dukd.networks.upscaler import OnDevice, Upscaler

NETWORKS: dict[str, NetworkConfig] = {
    "EDSR 32x5 x2": EDSRConfig(scale=2, width=32, blocks=5, value_range=1.0),
    "EDSR 64x5 x2": EDSRConfig(scale=2, width=64, blocks=5, value_range=1.0),
    "SMFANet+ x4": smfanet_plus(4),
    "RCAN student x4": rcan_student(4),
    "SwinIR student x4": swinir_student(4),
}
WAYS = (
    ("torch", "float32"),
    ("torch", "bfloat16"),
    ("onnxruntime", "float32"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
)


def ways_of(network: Network) -> dict[str, Upscaler]:
    """Every way that this machine has."""
    found: dict[str, Upscaler] = {}
    for engine, precision in WAYS:
        try:
            upscaler = run_by(network, engine, device="cpu", precision=precision)
        except ValueError as error:
            print(f"<!-- {engine} {precision}: {error} -->")
            continue
        found[f"{engine} {precision}"] = upscaler
    return found


def seconds(upscaler: Upscaler, lr: torch.Tensor) -> float:
    started = time.process_time()
    upscaler(lr)
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--size", type=int, default=128, help="side of lr, in pixels")
    parser.add_argument("--only", default="", help="part of a network's name")
    options = parser.parse_args()
    lr = torch.rand(1, 3, options.size, options.size)
    print("| network | runtime | Mpixel/s | ratio | PSNR to torch |\n|---|---|---:|---:|---:|")
    for name, config in NETWORKS.items():
        if options.only not in name:
            continue
        torch.manual_seed(0)
        network = config.build().frozen()
        ways = ways_of(network)
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(options.repetitions + 1):
            for way, upscaler in ways.items():
                cost = seconds(upscaler, lr)
                if turn:  # the first warms up
                    taken[way].append(cost)
        pixels = (options.size * network.scale) ** 2 / 1e6
        rates = {way: pixels / statistics.median(costs) for way, costs in taken.items()}
        for way, upscaler in ways.items():
            psnr = verify(OnDevice(network), upscaler).psnr
            ratio = rates[way] / rates["torch float32"]
            print(f"| {name} | {way} | {rates[way]:.3f} | {ratio:.2f} | {psnr:.1f} dB |")


if __name__ == "__main__":
    main()
