"""Using a student: enlarge images, export to other programs and open what was exported."""

from dukd.deploy.coreml import CoreML
from dukd.deploy.litert import LiteRT
from dukd.deploy.model import Model, load
from dukd.deploy.mpv import Mpv
from dukd.deploy.ncnn import Ncnn
from dukd.deploy.onnx import ONNX
from dukd.deploy.openvino import OpenVINO
from dukd.deploy.runtime import Exported, ExportError, Runtime, Verified, export, verify
from dukd.deploy.upscale import Upscaled, UpscaleOptions, upscale
from dukd.deploy.weights import Weights

__all__ = [
    "ONNX",
    "CoreML",
    "ExportError",
    "Exported",
    "LiteRT",
    "Model",
    "Mpv",
    "Ncnn",
    "OpenVINO",
    "Runtime",
    "UpscaleOptions",
    "Upscaled",
    "Verified",
    "Weights",
    "export",
    "load",
    "upscale",
    "verify",
]
