"""What each runtime does with a quantized network: which values are integers, and of which form.

A network that was trained for one runtime loses in another: a convolution whose output is rounded
again learns something else than one whose output stays float. So the target is chosen first.
"""

from dataclasses import dataclass
from typing import Literal

Scheme = Literal["affine", "symmetric", "daq", "pams"]
"""How activations become integers: by a scale and a zero point, by a scale alone, or as DAQ and
PAMS published it."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The integer arithmetic of a runtime."""

    about: str
    """What it does, in a line."""
    stream: bool
    """Whether everything between convolutions is an integer too: additions, and so the residual
    stream. Otherwise the inputs of convolutions alone are rounded, and additions are float."""
    scheme: Scheme = "affine"
    """How activations become integers."""
    signed: bool = False
    """Whether they are stored with a sign."""
    keep: tuple[str, ...] = ()
    """Layers that stay float unless a config says otherwise."""

    def levels(self, bits: int) -> tuple[int, int]:
        """Smallest and largest integer of an activation.

        Example:
            >>> TARGETS["openvino"].levels(8), TARGETS["ncnn"].levels(8)
            ((0, 255), (-127, 127))
        """
        half = 2 ** (bits - 1)
        if self.scheme == "symmetric":
            return 1 - half, half - 1
        return (-half, half - 1) if self.signed else (0, 2 * half - 1)


ENDS = "ends"
"""Word for the first convolution, those before a shuffle of pixels, and the last one."""
OUTSIDE_BLOCKS = "outside-blocks"
"""Word for every convolution that is not inside a residual block."""

TARGETS = {
    "openvino": Target(
        about="inputs of convolutions are uint8, additions float; first, before-shuffle and last "
        "convolution float",
        stream=False,
        keep=(ENDS,),
    ),
    "onnxruntime": Target(about="everything uint8, additions too", stream=True),
    "litert": Target(about="everything int8, additions too", stream=True, signed=True),
    "ncnn": Target(
        about="inputs of convolutions are int8 without a zero point, additions float; first, "
        "before-shuffle and last convolution float",
        stream=False,
        scheme="symmetric",
        keep=(ENDS,),
    ),
    "daq": Target(
        about="DAQ (WACV 2022), in simulation: statistics of every image and channel",
        stream=False,
        scheme="daq",
        keep=(OUTSIDE_BLOCKS,),
    ),
    "pams": Target(
        about="PAMS (ECCV 2020), in simulation: learned largest values",
        stream=False,
        scheme="pams",
        keep=(OUTSIDE_BLOCKS,),
    ),
}
"""Targets by name; the last two are of the literature, and no runtime runs them."""
TargetName = Literal["openvino", "onnxruntime", "litert", "ncnn", "daq", "pams"]
BITS = (4, 6, 8)
"""Widths that can be simulated; runtimes have 8."""
WEIGHT_BITS = 7
"""Of weights whose products with uint8 any processor adds exactly: 2 x 255 x 63 is below 2^15."""
