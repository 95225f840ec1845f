"""Super-resolution networks: one file each."""

from dukd.networks.base import Network, NetworkConfig, Output, Staged
from dukd.networks.compact import (
    Compact,
    CompactConfig,
    compact_general,
    compact_super_ultra,
    compact_ultra,
)
from dukd.networks.cost import macs
from dukd.networks.edsr import EDSR, EDSRConfig, edsr_baseline, edsr_student, edsr_teacher
from dukd.networks.ensemble import Ensemble, EnsembleConfig, Member, gather
from dukd.networks.exits import Exits, ExitsConfig
from dukd.networks.opaque import Opaque
from dukd.networks.plain import Plain, PlainConfig
from dukd.networks.quantized import Quantized, QuantizedConfig, as_quantized
from dukd.networks.rcan import RCAN, RCANConfig, rcan_student, rcan_teacher
from dukd.networks.rrdb import RRDB, RRDBConfig
from dukd.networks.smfanet import SMFANet, SMFANetConfig, smfanet_plus, smfanet_small
from dukd.networks.span import SPAN, SPANConfig, span_small
from dukd.networks.swinir import SwinIR, SwinIRConfig, swinir_light, swinir_student, swinir_teacher

__all__ = [
    "EDSR",
    "RCAN",
    "RRDB",
    "SPAN",
    "Compact",
    "CompactConfig",
    "EDSRConfig",
    "Ensemble",
    "EnsembleConfig",
    "Exits",
    "ExitsConfig",
    "Member",
    "Network",
    "NetworkConfig",
    "Opaque",
    "Output",
    "Plain",
    "PlainConfig",
    "Quantized",
    "QuantizedConfig",
    "RCANConfig",
    "RRDBConfig",
    "SMFANet",
    "SMFANetConfig",
    "SPANConfig",
    "Staged",
    "SwinIR",
    "SwinIRConfig",
    "as_quantized",
    "compact_general",
    "compact_super_ultra",
    "compact_ultra",
    "edsr_baseline",
    "edsr_student",
    "edsr_teacher",
    "gather",
    "macs",
    "rcan_student",
    "rcan_teacher",
    "smfanet_plus",
    "smfanet_small",
    "span_small",
    "swinir_light",
    "swinir_student",
    "swinir_teacher",
]
