"""Super-resolution networks: one file each."""

from dukd.networks._cost import macs
from dukd.networks._network import NetworkConfig, SRNetwork
from dukd.networks.edsr import EDSR, EDSRConfig, edsr_baseline, edsr_student, edsr_teacher
from dukd.networks.smfanet import SMFANet, SMFANetConfig, smfanet_plus, smfanet_small

__all__ = [
    "EDSR",
    "EDSRConfig",
    "NetworkConfig",
    "SMFANet",
    "SMFANetConfig",
    "SRNetwork",
    "edsr_baseline",
    "edsr_student",
    "edsr_teacher",
    "macs",
    "smfanet_plus",
    "smfanet_small",
]
