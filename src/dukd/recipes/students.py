"""Recipes for the students that people run: Compact, SPAN, SMFANet and plain convolutions.

Each has the teacher whose weights anybody can fetch for its scale. SMFANet+ at x2, x3 and x4 is as
good as EDSR-L at half a million parameters; RCAN is public at x8; at scale 1, where a network
restores, SwinIR removes the artifacts of JPEG. Which program opens a student is said by
`dukd.networks.files.openers`.

Rates. The papers' 1e-4 is for students of millions of parameters. ECBSR, SPAN and the NTIRE entries
of this size train at 5e-4, and so do these, along half a cosine to 0, which needs no milestones
where somebody trains for longer. The plain ones follow `dukd.recipes.papers.small`: one cycle up to
2e-3.
"""

from dataclasses import replace

from dukd import networks
from dukd.methods import Method
from dukd.networks import CompactConfig, NetworkConfig, PlainConfig
from dukd.recipes.protocol import WEIGHTS, paper, quick
from dukd.training.experiment import Experiment, Optimization
from dukd.training.teachers import File

STUDENT_SCALES = (1, 2, 3, 4, 8)
"""Upscaling factors at which these families have recipes."""


def teacher_at(scale: int) -> File:
    """A strong teacher that is public at a scale: 1, 2, 3, 4 or 8."""
    if scale == 1:
        name = "006_colorCAR_DFWB_s126w7_SwinIR-M_jpeg40.pth"
        return File(weights=WEIGHTS / name, value_range=255.0)
    if scale == 8:
        return File(weights=WEIGHTS / "RCAN_BIX8.pt")
    return File(weights=WEIGHTS / f"smfanet_plus_df2k_x{scale}.pth")


def compact(scale: int, method: Method) -> Experiment:
    """Compact 64 x 16, which every program opens, as Real-ESRGAN's video models; 250k steps."""
    return _long(CompactConfig(scale=scale), method)


def compact_big(scale: int, method: Method) -> Experiment:
    """Compact 64 x 32, as realesr-general: 1.2 million parameters."""
    return _long(networks.compact_general(scale), method)


def compact_ultra(scale: int, method: Method) -> Experiment:
    """Compact 64 x 8, the community's UltraCompact: 0.3 million parameters."""
    return _long(networks.compact_ultra(scale), method)


def compact_super_ultra(scale: int, method: Method) -> Experiment:
    """Compact 24 x 8, the community's SuperUltraCompact: 50 thousand parameters."""
    return _long(networks.compact_super_ultra(scale), method)


def span(scale: int, method: Method) -> Experiment:
    """SPAN of 28 channels, which trains as branches and is 0.15 million parameters once folded."""
    return _long(networks.span_small(scale), method)


def smfanet(scale: int, method: Method) -> Experiment:
    """SMFANet 36 x 8 from SMFANet+: 0.2 million parameters; no other program opens it."""
    return _long(networks.smfanet_small(scale), method)


def plain_small(scale: int, method: Method) -> Experiment:
    """Plain 16 x 4, 12 thousand parameters once folded into a Compact: for a CPU."""
    return _quick(PlainConfig(scale=scale, width=16, blocks=4), method)


def plain(scale: int, method: Method) -> Experiment:
    """Plain 24 x 8, 45 thousand parameters once folded into a Compact: for a CPU."""
    return _quick(PlainConfig(scale=scale, width=24, blocks=8), method)


def plain_large(scale: int, method: Method) -> Experiment:
    """Plain 32 x 8, 79 thousand parameters once folded into a Compact: for a CPU."""
    return _quick(PlainConfig(scale=scale, width=32, blocks=8), method)


def _long(student: NetworkConfig, method: Method) -> Experiment:
    experiment = paper(student, teacher_at(student.scale), method)
    return replace(experiment, optimization=Optimization(learning_rate=5e-4, schedule="cosine"))


def _quick(student: NetworkConfig, method: Method) -> Experiment:
    """In float32: the sums of three linear layers in a row want it, and a CPU without bfloat16."""
    optimization = Optimization(steps=2_500, learning_rate=2e-3, schedule="one-cycle", ema=0.99)
    return quick(student, teacher_at(student.scale), method, optimization)
