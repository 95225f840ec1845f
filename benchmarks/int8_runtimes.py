"""What runtimes make of quantized students: their integers, their speed and the size of files.

    python benchmarks/int8_runtimes.py --data DATA --out FOLDER STUDENT-INT8.safetensors [...]

STUDENT-INT8 are files that ``int8.py --keep`` or ``dukd quantize`` wrote; the float student stands
beside them. Set5 is enlarged in simulation, by the integers' reference and by each runtime; then
one image of 256 x 256 is timed in turns, one thread, processor time.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from int8 import images, student
from torch import Tensor

from dukd.data.datasets import set5
from dukd.deploy.onnx import ONNX
from dukd.deploy.openvino import OpenVINO
from dukd.deploy.runtime import ExportError, Runtime, export
from dukd.evaluation.metrics import psnr_y
from dukd.evaluation.timing import interleaved
from dukd.networks import Network, Quantized
from dukd.networks.files import weights
from dukd.networks.quantize.integer import IntegerReference

RUNTIMES: tuple[Runtime, ...] = (ONNX(), OpenVINO(), OpenVINO(precision="bfloat16"))
Upscale = Callable[[Tensor], Tensor]
Pair = tuple[Tensor, Tensor]


@torch.no_grad()
def compare(name: str, way: Upscale, pairs: list[Pair], outputs: list[Tensor]) -> None:
    """Print the PSNR of a way on Set5, and how its gray levels differ from given outputs."""
    made = [way(lr) for lr, _ in pairs]
    psnr = [psnr_y(sr, hr, border=2).item() for sr, (_, hr) in zip(made, pairs, strict=True)]
    away = torch.cat(
        [
            ((sr.clamp(0, 1) - other.clamp(0, 1)) * 255).abs().flatten()
            for sr, other in zip(made, outputs, strict=True)
        ]
    )
    print(
        f"| {name} | {sum(psnr) / len(psnr):.4f} | {float((away > 0.5).float().mean()):.4%} | "
        f"{float(away.max()):.2f} |",
        flush=True,
    )


def main() -> None:
    """Compare, then time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("students", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/int8-runtimes"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    pairs = images(set5(arguments.data / "eval", 2))
    networks: dict[str, Network] = {"float": student(arguments.data, "edsr-f32b5-x2")}
    networks |= {path.stem: weights.read(path).frozen() for path in arguments.students}
    ways: dict[str, Callable[[], object]] = {}
    lr = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    print("| what | Set5 dB | values a gray level away | largest |\n| --- | ---: | ---: | ---: |")
    for name, network in networks.items():
        right: Upscale = IntegerReference(network) if isinstance(network, Quantized) else network
        with torch.no_grad():
            outputs = [right(x) for x, _ in pairs]
        first = "integers" if isinstance(network, Quantized) else "torch"
        compare(f"{name}: {first}", right, pairs, outputs)
        if isinstance(network, Quantized):
            compare(f"{name}: simulated", network, pairs, outputs)
        for runtime in RUNTIMES:
            stem = f"{name}-{runtime.form.replace(' ', '-')}"
            path = arguments.out / f"{stem}{runtime.suffixes[0]}"
            try:
                done = export(network, path, runtime)
                session = runtime.load(path)
            except (ExportError, ValueError) as error:
                print(f"| {name}: {runtime.form} | {error} | | |", flush=True)
                continue
            label = f"{name}: {runtime.form}, {done.bytes:,} bytes"
            compare(label, session, pairs, outputs)
            ways[label] = partial(session, lr)
    print("\n| graph | CPU s | times float |\n| --- | ---: | ---: |")
    timings = interleaved(ways, device=torch.device("cpu"), repetitions=5)
    for timing in timings:
        least = min(timing.seconds)
        print(f"| {timing.name} | {least:.3f} | {min(timings[0].seconds) / least:.2f} |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
