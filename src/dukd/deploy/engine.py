"""Which runtime runs a network of ours: torch, or another one that it is exported to on the way."""

from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch

from dukd.core.device import DeviceName, by_name
from dukd.deploy.onnx import ONNX
from dukd.deploy.openvino import OpenVINO
from dukd.deploy.runtime import ExportError, Runtime, export
from dukd.networks import Network
from dukd.networks.upscaler import OnDevice, Upscaler

Engine = Literal["torch", "auto", "openvino", "onnxruntime"]
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
        network: What enlarges.
        engine: Who runs it; ``auto`` takes OpenVINO, then onnxruntime, then torch, by what is
            installed and proves to give the network's images.
        device: Where torch runs; the others run on the CPU.
        precision: Arithmetic.

    Raises:
        ValueError: If the runtime is not installed, cannot run the network, or does not have the
            precision or the device.
    """
    plain = OnDevice(network, by_name(device), getattr(torch, precision))
    if engine == "torch" or (engine == "auto" and plain.device.type != "cpu"):
        return plain
    if engine != "auto":
        if plain.device.type != "cpu":
            raise ValueError(f"{engine} runs on the CPU here: add --device cpu")
        return exported(network, _runtime(engine, precision))
    for name, package in (("openvino", "openvino"), ("onnxruntime", "onnxruntime")):
        if find_spec(package) is not None:
            try:
                return exported(network, _runtime(name, precision))
            except ValueError:  # it cannot run this network, or not in this precision
                continue
    return plain


def _runtime(engine: str, precision: Precision) -> Runtime:
    if engine == "openvino":
        if precision == "float16":
            raise ExportError("OpenVINO computes in float32 or bfloat16 here, not in float16")
        return OpenVINO(precision=precision)
    if precision == "bfloat16":
        raise ExportError("onnxruntime computes in float32 or float16 here, not in bfloat16")
    return ONNX(half=precision == "float16")


def exported(network: Network, runtime: Runtime) -> Upscaler:
    """Export a network to a runtime that runs it from now on; it was compared with the network.

    Raises:
        ExportError: As `dukd.deploy.runtime.export`.
    """
    with TemporaryDirectory(prefix="dukd-") as folder:
        path = Path(folder) / f"{network.name}{runtime.suffixes[0]}"
        export(network, path, runtime)
        return runtime.load(path)
