"""What `dukd upscale` makes of a processor, beside its float32 past and other engines by hand.

    python benchmarks/upscale.py --base OLD/src [--size 256] [--repetitions 3] [--only edsr]

Every way is a process of its own that stays; they take turns on the same image, so that a busy
machine disturbs all alike. `base` is an older checkout of dukd (what `dukd upscale` did there,
without start-up), `exact` and `auto` are this one's, the others are engines used by hand on the
whole image. Printed are output megapixels per second of processor time (median of the turns), the
ratio to base, the peak of memory in MB, and seconds of processor time until the first image.
"""

# ruff: noqa: PLC0415  every way is a process of its own, and imports what it needs

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).resolve().parents[1] / "src"
NAMES = ("edsr", "edsr64", "rcan", "swinir", "smfanet", "compact", "plain")
WAYS = ("base", "exact", "auto", "onnxruntime", "openvino", "ncnn")


def config(name: str) -> Any:  # noqa: ANN401  of a dukd that may be an older one
    from dukd import networks as n

    return {
        "edsr": lambda: n.EDSRConfig(scale=2, width=32, blocks=5, value_range=1.0),
        "edsr64": lambda: n.EDSRConfig(scale=2, width=64, blocks=5, value_range=1.0),
        "rcan": lambda: n.rcan_student(4),
        "swinir": lambda: n.swinir_student(4),
        "smfanet": lambda: n.smfanet_plus(4),
        "compact": lambda: n.CompactConfig(scale=2, width=24, blocks=8),
        "plain": lambda: n.PlainConfig(scale=2, width=32, blocks=8),
    }[name]()


def engine(name: str, way: str, folder: Path, size: int) -> Callable[[], None]:
    """Something that enlarges one image."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = config(name).build().frozen()
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    if way in {"base", "exact", "auto"}:
        from dukd.deploy.image import upscale_image
        from dukd.images import Image
        from dukd.networks.upscaler import OnDevice

        image = Image(pixels=pixels)
        if way == "base":
            upscaler = OnDevice(network)
        else:
            from dukd.core.allocator import keep_freed_memory
            from dukd.deploy.engine import run_by
            from dukd.deploy.fastest import fastest

            keep_freed_memory()
            chosen = ("torch", "float32")
            if way == "auto":
                found = fastest(network, 10**10, device="cpu", memory=folder / f"{name}.json")
                chosen = (found.engine, found.precision)
                print(f"{name}: auto is {found}", file=sys.stderr)
            upscaler = run_by(network, chosen[0], device="cpu", precision=chosen[1])
        return lambda: upscale_image(upscaler, image)
    from dukd.deploy import Ncnn, export

    lr = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    if way == "ncnn":
        export(network, folder / f"{name}.param", Ncnn(), check=False)
        session = Ncnn().load(folder / f"{name}.param")
        return lambda: session(torch.from_numpy(lr))
    path = folder / f"{name}-{way}.onnx"
    export(network, path, check=False)
    if way == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        ready = onnxruntime.InferenceSession(path.read_bytes(), options)
        return lambda: ready.run(None, {"lr": lr})
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    model = openvino.Core().compile_model(path, "CPU", settings)
    return lambda: model(lr)


def worker(name: str, way: str, folder: Path, size: int) -> None:
    """Enlarge once for every line that comes in."""
    try:
        run = engine(name, way, folder, size)
        run()
    except Exception as error:  # noqa: BLE001  a way that this network or machine lacks
        print("no", str(error).splitlines()[0][:90], flush=True)
        return
    print("ready", time.process_time(), flush=True)
    for _ in sys.stdin:
        before = time.process_time()
        run()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(time.process_time() - before, peak, flush=True)


def started(
    name: str, way: str, options: argparse.Namespace, folder: Path
) -> subprocess.Popen[str]:
    source = options.base if way == "base" else HERE
    return subprocess.Popen(
        [sys.executable, __file__, "--worker", name, way, str(folder), str(options.size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"},
    )


def measured(name: str, options: argparse.Namespace, folder: Path) -> None:
    processes, starts = {}, {}
    for way in options.ways:
        if way == "base" and options.base is None:
            continue
        process = started(name, way, options, folder)
        first = process.stdout.readline().split(maxsplit=1)
        if first[:1] == ["ready"]:
            processes[way], starts[way] = process, float(first[1])
        else:
            print(f"<!-- {name} {way}: {' '.join(first[1:]).strip() or 'failed'} -->")
    taken: dict[str, list[float]] = {way: [] for way in processes}
    peaks = dict.fromkeys(processes, 0)
    for _ in range(options.repetitions):
        for way, process in processes.items():
            process.stdin.write("\n")
            process.stdin.flush()
            seconds, peak = process.stdout.readline().split()
            taken[way].append(float(seconds))
            peaks[way] = int(peak)
    for process in processes.values():
        process.stdin.close()
        process.wait()
    scale = 4 if name in {"rcan", "swinir", "smfanet"} else 2
    output = (scale * options.size) ** 2 / 1e6
    rates = {way: output / statistics.median(times) for way, times in taken.items()}
    first = next(iter(rates.values()), 1.0)
    for way, rate in rates.items():
        print(
            f"| {name} x{scale} | {way} | {rate:.3f} | {rate / first:.2f} | {peaks[way]} | "
            f"{starts[way]:.1f} |",
            flush=True,
        )


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        name, way, folder, size = sys.argv[2:]
        worker(name, way, Path(folder), int(size))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, help="folder `src` of an older checkout")
    parser.add_argument("--size", type=int, default=256, help="side of lr, in pixels")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=NAMES)
    parser.add_argument("--ways", nargs="+", default=WAYS)
    options = parser.parse_args()
    print("| network | way | Mpixel/s | ratio | MB | start-up, s |\n|---|---|---:|---:|---:|---:|")
    with TemporaryDirectory() as folder:
        for name in options.only:
            measured(name, options, Path(folder))


if __name__ == "__main__":
    main()
