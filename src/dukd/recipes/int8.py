"""The ending ``-int8`` of a recipe's name: its student in 8 bits, learning by the same method."""

import re
from dataclasses import replace
from typing import cast

from dukd.networks import QuantizedConfig
from dukd.networks.quantize.targets import TARGETS, TargetName
from dukd.training.experiment import Experiment

RUNTIMES = tuple(name for name, t in TARGETS.items() if t.scheme in {"affine", "symmetric"})
_ENDING = re.compile(rf"(?P<recipe>.+)-int8(?:-(?P<target>{'|'.join(RUNTIMES)}))?")


def int8_ending(name: str) -> tuple[str, TargetName] | None:
    """Split a name such as ``small-x2-dukd-int8`` or ``small-x2-dukd-int8-onnxruntime``.

    Returns:
        The recipe's name and the target, openvino where none is named; None without the ending.
    """
    match = _ENDING.fullmatch(name)
    if match is None:
        return None
    return match["recipe"], cast("TargetName", match["target"] or "openvino")


def in_int8(experiment: Experiment, target: TargetName) -> Experiment:
    """Let an experiment's student compute in 8 bits, which are simulated in float32."""
    return replace(
        experiment,
        student=QuantizedConfig(network=experiment.student, target=target),
        optimization=replace(experiment.optimization, precision="float32"),
    )
