"""Methods of distillation: one file each."""

from dukd.methods.adversarial import Adversarial
from dukd.methods.at import AT
from dukd.methods.base import Batch, Losses, Method, Seen, View, weighted_l1
from dukd.methods.crd import CRD
from dukd.methods.crosskd import CrossKD
from dukd.methods.csd import CSD
from dukd.methods.dckd import DCKD
from dukd.methods.degraded import DegradedZoomIn, DegradedZoomOut
from dukd.methods.dukd import DUKD
from dukd.methods.eco import ECO, SelfECO
from dukd.methods.fakd import FAKD
from dukd.methods.fitnet import FitNet
from dukd.methods.frequency import Frequency
from dukd.methods.frugal import FrugalDUKD
from dukd.methods.fsp import FSP
from dukd.methods.hkdsr import HKDSR, HKDSRExits
from dukd.methods.late import Late
from dukd.methods.logits import Logits
from dukd.methods.lowrank import LowRank
from dukd.methods.lsfd import LSFD
from dukd.methods.luma import Luma
from dukd.methods.mcir import MCIR
from dukd.methods.mipkd import MiPKD
from dukd.methods.mtkd import MTKD, Aggregation
from dukd.methods.perceptual import Perceptual
from dukd.methods.released import ReleasedDUKD
from dukd.methods.rkd import RKD
from dukd.methods.scratch import Scratch
from dukd.methods.slimmable import SlimmableCSD
from dukd.methods.srkd import SRKD
from dukd.methods.upcycling import CutBlur, Mixup, Upcycling, ZoomIn, ZoomOut
from dukd.methods.upcycling_candidates import (
    DetailedWindows,
    Dim,
    FedAgain,
    HardWindows,
    Itself,
    Noisy,
    Recolor,
    ZoomBetween,
    ZoomBy,
)
from dukd.methods.vid import VID

__all__ = [
    "AT",
    "CRD",
    "CSD",
    "DCKD",
    "DUKD",
    "ECO",
    "FAKD",
    "FSP",
    "HKDSR",
    "LSFD",
    "MCIR",
    "MTKD",
    "RKD",
    "SRKD",
    "VID",
    "Adversarial",
    "Aggregation",
    "Batch",
    "CrossKD",
    "CutBlur",
    "DegradedZoomIn",
    "DegradedZoomOut",
    "DetailedWindows",
    "Dim",
    "FedAgain",
    "FitNet",
    "Frequency",
    "FrugalDUKD",
    "HKDSRExits",
    "HardWindows",
    "Itself",
    "Late",
    "Logits",
    "Losses",
    "LowRank",
    "Luma",
    "Method",
    "MiPKD",
    "Mixup",
    "Noisy",
    "Perceptual",
    "Recolor",
    "ReleasedDUKD",
    "Scratch",
    "Seen",
    "SelfECO",
    "SlimmableCSD",
    "Upcycling",
    "View",
    "ZoomBetween",
    "ZoomBy",
    "ZoomIn",
    "ZoomOut",
    "weighted_l1",
]
