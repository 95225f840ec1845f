"""From picture files to batches of patches."""

from dukd.data.pack import Pack, PackError, plan, prepare
from dukd.data.pairs import Pair, Pairs, PairsError, find_pairs, join, load
from dukd.data.patches import Batches, Patches, Resident, Stream, batches

__all__ = [
    "Batches",
    "Pack",
    "PackError",
    "Pair",
    "Pairs",
    "PairsError",
    "Patches",
    "Resident",
    "Stream",
    "batches",
    "find_pairs",
    "join",
    "load",
    "plan",
    "prepare",
]
