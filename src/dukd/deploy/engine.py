"""Which runtime runs a network of ours: torch, or another one that it is exported to on the way."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch

from dukd.core.device import DeviceName, by_name
from dukd.deploy import coreml
from dukd.deploy.ncnn import Ncnn
from dukd.deploy.onnx import ONNX
from dukd.deploy.openvino import OpenVINO
from dukd.deploy.runtime import ExportError, Runtime, export
from dukd.networks import Network
from dukd.networks.upscaler import OnDevice, Upscaler

Engine = Literal["torch", "openvino", "onnxruntime", "ncnn", "coreml"]
Precision = Literal["float32", "bfloat16", "float16"]


def run_by(
    network: Network,
    engine: Engine = "torch",
    *,
    device: DeviceName = "auto",
    precision: Precision = "float32",
) -> Upscaler:
    """Make a network ready to run.

    Args:
        network: What enlarges; branches that are there for training are folded.
        engine: Who runs it.
        device: Where torch runs; the others run on the CPU.
        precision: Arithmetic; in ncnn float16 is that of the weights.

    Raises:
        ValueError: If the runtime is not installed, cannot run the network, or does not have the
            precision or the device.
    """
    where = by_name(device)
    if engine == "torch":
        name = network.name
        made = OnDevice(network.folded(), where, getattr(torch, precision))
        made.name = name
        return made
    if where.type != "cpu":
        raise ValueError(f"{engine} runs on the CPU here: add --device cpu")
    return exported(network, _runtime(engine, precision))


def _runtime(engine: Engine, precision: Precision) -> Runtime:
    if engine == "openvino":
        if precision == "float16":
            raise ExportError("OpenVINO computes in float32 or bfloat16 here, not in float16")
        return OpenVINO(precision=precision)
    if precision == "bfloat16":
        raise ExportError(f"{engine} computes in float32 or float16 here, not in bfloat16")
    half = precision == "float16"
    if engine == "coreml":
        coreml.check_system("--runtime coreml")
        return coreml.CoreML(half=half)
    return Ncnn(half=half) if engine == "ncnn" else ONNX(half=half)


def exported(network: Network, runtime: Runtime) -> Upscaler:
    """Export a network to a runtime that runs it from now on; it was compared with the network.

    Raises:
        ExportError: As `dukd.deploy.runtime.export`.
    """
    with TemporaryDirectory(prefix="dukd-") as folder:
        path = Path(folder) / f"{network.name}{runtime.suffixes[0]}"
        export(network, path, runtime)
        return runtime.load(path)
