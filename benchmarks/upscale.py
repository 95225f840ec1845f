"""Network by runtime by precision: what is lost, how fast, how much memory, how long to the start.

    python benchmarks/upscale.py --data DATA [--only edsr] [--ways exact openvino ncnn]
    python benchmarks/upscale.py --base OLD/src --ways base exact auto

Every network is exported once for each way, and compared, as `dukd export` does; what is refused is
said. Then each way opens its file in a process of its own, which stays; all take turns on the same
image, so that a busy machine disturbs all alike. `exact` is `dukd upscale --exact`, `auto` what
`dukd upscale` chooses, `base` an older checkout of dukd. Printed are

    dB lost     on Set5, PSNR-Y, to torch in float32; a dash for random weights
    to torch    PSNR of the outputs against torch's in float32, RGB, the mean over Set5
    Mpixel/s    output megapixels per second of processor time, the median of the turns
    ratio       of that to the first way
    MB          the peak of the process that enlarges
    start-up    seconds of processor time until the first image is there, from the start of Python
    MB on disk  what was exported

int8 and w7 (with `--weight-bits 7`) are made as by `dukd quantize`, from four images of CID22's
validation part. Weights are those in DATA/weights, the package's students, and those named by
`--weights plain=FILE`.
"""

# ruff: noqa: PLC0415  every way is a process of its own, and imports what it needs

import argparse
import json
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
FILES = {
    "edsr": "edsr_f32b5_x2_basicsr.safetensors",
    "edsr64": "edsr_f64b5_x2_basicsr.safetensors",
    "smfanet": "smfanet_plus_df2k_x4.pth",
    "span": "span_ch28_ntire2026_x4.pth",
    "general": "realesr-general-x4v3.safetensors",
}
NAMES = ("edsr", "edsr64", "rcan", "swinir", "smfanet", "compact", "plain-small", "plain", "span")
INTEGERS = {"int8": None, "w7": 7}
"""Ends of ways that compute in 8 bits, with the bits of their weights where they are fewer."""
TORCH = ("base", "exact", "auto", "torch-bf16")
WAYS = (
    *TORCH,
    *("onnxruntime", "onnxruntime-int8", "onnxruntime-w7"),
    *("openvino", "openvino-bf16", "openvino-int8", "openvino-w7"),
    *("ncnn", "ncnn-f16", "litert", "litert-int8"),
)


def network(name: str, options: dict[str, Any]) -> tuple[Any, bool]:
    """A network, and whether it was trained."""
    import torch

    from dukd import networks as n
    from dukd.networks.files import weights
    from dukd.networks.shipped import named

    path = options["weights"].get(name)
    if name == "compact" and path is None:
        path = named(Path("x2-fast"))
    if name in FILES and options["data"]:
        path = Path(options["data"]) / "weights" / FILES[name]
    if path is not None:
        said = {"value_range": 255.0, "mean": (0.0, 0.0, 0.0), "residual_scale": 1.0}
        return weights.read(Path(path), **(said if "edsr" in name else {})).frozen(), True
    torch.manual_seed(0)
    configs: dict[str, Callable[[], Any]] = {
        "edsr": lambda: n.EDSRConfig(scale=2, width=32, blocks=5, value_range=1.0),
        "edsr64": lambda: n.EDSRConfig(scale=2, width=64, blocks=5, value_range=1.0),
        "rcan": lambda: n.rcan_student(4),
        "swinir": lambda: n.swinir_student(4),
        "smfanet": lambda: n.smfanet_plus(4),
        "plain-small": lambda: n.PlainConfig(scale=2, width=16, blocks=4),
        "plain": lambda: n.PlainConfig(scale=2, width=32, blocks=8),
        "span": lambda: n.SPANConfig(scale=4, width=28),
        "general": lambda: n.compact_general(4),
    }
    return configs[name]().build().frozen(), False


def prepare(name: str, folder: Path, options: dict[str, Any]) -> None:
    """Export a network for every way, and print which there are."""
    import torch

    from dukd.networks.files import weights

    torch.set_num_threads(1)
    made, trained = network(name, options)
    weights.write(folder / f"{name}.safetensors", made)
    facts = {"scale": made.scale, "trained": trained, "parameters": made.parameter_count()}
    print(json.dumps(facts), flush=True)
    for way in options["ways"]:
        try:
            path = exported(made, name, way, folder, options)
        except Exception as error:  # noqa: BLE001  a way that this network or machine lacks
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            print(json.dumps({"way": way, "refused": said}), flush=True)
        else:
            files = [f for f in folder.iterdir() if f.stem == path.stem]
            size = sum(f.stat().st_size for f in files) / 1e6
            print(json.dumps({"way": way, "path": str(path), "megabytes": size}), flush=True)


def exported(
    made: Any,  # noqa: ANN401
    name: str,
    way: str,
    folder: Path,
    options: dict[str, Any],
) -> Path:
    from dukd.core.device import multiplies_bfloat16
    from dukd.deploy import ONNX, LiteRT, Ncnn, OpenVINO, export
    from dukd.deploy.quantize import Options, middles, quantize

    if way.endswith("bf16") and not multiplies_bfloat16():
        raise ValueError("this processor does not multiply bfloat16")
    if way in TORCH:
        return folder / f"{name}.safetensors"
    python = options["litert_python"]
    side = 96 if made.radius is None else max(96, 2 * made.radius + 32)
    side += -side % made.size_multiple
    runtime = {
        "onnxruntime": ONNX(),
        "openvino": OpenVINO(),
        "openvino-bf16": OpenVINO(precision="bfloat16"),
        "ncnn": Ncnn(),
        "ncnn-f16": Ncnn(half=True),
        "litert": LiteRT(side=side, python=python),
        "litert-int8": LiteRT(side=side, int8=True, python=python),
        **{f"onnxruntime-{end}": ONNX() for end in INTEGERS},
        **{f"openvino-{end}": OpenVINO() for end in INTEGERS},
    }[way]
    target, _, end = way.partition("-")
    if end in INTEGERS and target != "litert":
        from dukd.data.pairs import find_pairs

        photographs = Path(options["data"]) / "valid" / "CID22"
        shown = middles(find_pairs(photographs, scale=made.scale), 4)
        how = Options(target=target, weight_bits=INTEGERS[end], choice="percentile")
        made = quantize(made, shown, shown[:1], how).network.frozen()
    path = folder / f"{name}-{way}{runtime.suffixes[0]}"
    export(made, path, runtime)
    return path


def opened(way: str, path: Path, folder: Path) -> Any:  # noqa: ANN401  of a dukd that may be older
    from dukd.networks.files import weights
    from dukd.networks.upscaler import OnDevice

    if way == "base":
        return OnDevice(weights.read(path).frozen())
    if way not in TORCH:
        from dukd.deploy import load

        return load(path).upscaler
    from dukd.core.allocator import keep_freed_memory
    from dukd.deploy.engine import run_by
    from dukd.deploy.fastest import fastest

    keep_freed_memory()
    network = weights.read(path).frozen()
    engine, precision = "torch", "bfloat16" if way == "torch-bf16" else "float32"
    if way == "auto":
        found = fastest(network, 10**10, device="cpu", memory=folder / f"{path.stem}.json")
        engine, precision = found.engine, found.precision
        print(f"{path.stem}: auto is {found}", file=sys.stderr)
    return run_by(network, engine, device="cpu", precision=precision)


def worker(way: str, path: Path, size: int, data: str) -> None:
    """Enlarge once for every line that comes in; measure the quality where it says so."""
    try:
        import numpy as np
        import torch

        from dukd.deploy.image import upscale_image
        from dukd.images import Image

        torch.set_num_threads(1)
        upscaler = opened(way, path, path.parent)
        image = Image(pixels=np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8))
        upscale_image(upscaler, image)
    except Exception as error:  # noqa: BLE001  a way that this network or machine lacks
        print("no", str(error).splitlines()[0], flush=True)
        return
    print("ready", time.process_time(), flush=True)
    for line in sys.stdin:
        if line.strip():
            print(*quality(upscaler, way, Path(line.strip()), data), flush=True)
            continue
        before = time.process_time()
        upscale_image(upscaler, image)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(time.process_time() - before, peak, flush=True)


def quality(upscaler: Any, way: str, kept: Path, data: str) -> tuple[float, float]:  # noqa: ANN401
    """PSNR-Y on Set5, and the outputs' PSNR to those of `exact`, which are kept."""
    import torch
    from int8 import images

    from dukd.data.datasets import set5
    from dukd.evaluation.metrics import psnr_y

    scale = upscaler.scale
    pairs = images(set5(Path(data) / "eval", scale))
    with torch.no_grad():
        made = [upscaler(lr).float().cpu() for lr, _ in pairs]
    values = [psnr_y(sr, hr, border=scale).item() for sr, (_, hr) in zip(made, pairs, strict=True)]
    if way == "exact":
        torch.save(made, kept)
    away = [float("nan")]
    if kept.is_file():
        away = [
            -10 * ((sr - other).double().square().mean() + 1e-20).log10().item()
            for sr, other in zip(made, torch.load(kept), strict=True)
        ]
    return statistics.mean(values), statistics.mean(away)


def python(arguments: list[str], source: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"},
    )


def asked(process: subprocess.Popen[str], line: str) -> list[float]:
    assert process.stdin
    assert process.stdout
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    return [float(word) for word in process.stdout.readline().split()]


def measured(name: str, options: argparse.Namespace, folder: Path) -> None:
    """Prepare a network, run its ways in turns, and print its rows."""
    wanted = [way for way in options.ways if way != "base" or options.base]
    given = {key: str(value) for key, value in (one.split("=", 1) for one in options.weights)}
    choices = {"data": str(options.data or ""), "weights": given, "ways": wanted}
    choices["litert_python"] = str(options.litert_python) if options.litert_python else None
    lines, _ = python(["--prepare", name, str(folder), json.dumps(choices)], HERE).communicate()
    facts, *rows = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]
    processes: dict[str, subprocess.Popen[str]] = {}
    starts: dict[str, float] = {}
    for row in rows:
        way = row["way"]
        if "refused" not in row:
            source = options.base if way == "base" else HERE
            arguments = ["--worker", way, row["path"], str(options.size), choices["data"]]
            processes[way] = python(arguments, source)
            assert processes[way].stdout
            word, *rest = processes[way].stdout.readline().split(maxsplit=1) or ["no"]
            if word == "ready":
                starts[way] = float(rest[0])
            else:
                row["refused"] = " ".join(rest).strip() or "failed"
                processes.pop(way).wait()
    turns = {way: [] for way in processes}
    for _ in range(options.repetitions):
        for way, process in processes.items():
            turns[way].append(asked(process, ""))
    kept = folder / f"{name}.pt"
    scores = {w: asked(p, str(kept)) for w, p in processes.items() if options.data}
    for process in processes.values():
        assert process.stdin
        process.stdin.close()
        process.wait()
    output = (facts["scale"] * options.size) ** 2 / 1e6
    rates = {w: output / statistics.median(second for second, _ in t) for w, t in turns.items()}
    for row in rows:
        way, label = row["way"], f"| {name} x{facts['scale']} | {row['way']}"
        if "refused" in row:
            print(f"{label} | refused: {row['refused'][:150]} |||||||", flush=True)
            continue
        lost = to_torch = "-"
        if way in scores:
            right = scores.get("exact", scores[way])[0]
            lost = f"{round(right - scores[way][0], 3) + 0.0:.3f}" if facts["trained"] else "-"
            to_torch = "-" if way == "exact" else f"{scores[way][1]:.1f}"  # 200 where equal
        ratio = rates[way] / next(iter(rates.values()))
        print(
            f"{label} | {lost} | {to_torch} | {rates[way]:.3f} | {ratio:.2f} | "
            f"{max(peak for _, peak in turns[way]):.0f} | {starts[way]:.1f} | "
            f"{row['megabytes']:.2f} |",
            flush=True,
        )


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        way, path, size, data = sys.argv[2:]
        worker(way, Path(path), int(size), data)
        return
    if sys.argv[1:2] == ["--prepare"]:
        name, folder, choices = sys.argv[2:]
        given = json.loads(choices)
        if given["litert_python"]:
            given["litert_python"] = Path(given["litert_python"])
        prepare(name, Path(folder), given)
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, help="folder `src` of an older checkout")
    parser.add_argument("--data", type=Path, help="folder with eval/, valid/ and weights/")
    parser.add_argument("--weights", nargs="+", default=[], help="NAME=FILE of trained students")
    parser.add_argument("--litert-python", type=Path, help="python that has litert-torch")
    parser.add_argument("--size", type=int, default=128, help="side of lr, in pixels")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=NAMES)
    parser.add_argument("--ways", nargs="+", default=WAYS)
    options = parser.parse_args()
    print(
        "| network | way | dB lost | to torch | Mpixel/s | ratio | MB | start-up, s | MB on disk |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    with TemporaryDirectory() as folder:
        for name in options.only:
            measured(name, options, Path(folder))


if __name__ == "__main__":
    main()
