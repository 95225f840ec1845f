"""From image files to batches of patches."""

from dukd.data.datasets import (
    TEST_SETS,
    benchmark,
    bsd100,
    df2k,
    div2k,
    flickr2k,
    manga109,
    set5,
    set14,
    urban100,
)
from dukd.data.pack import Pack, PackError
from dukd.data.packing import packed_bytes, prepare
from dukd.data.pairs import Pair, Pairs, PairsError, find_pairs, join, load
from dukd.data.patches import Patches
from dukd.data.resident import Resident
from dukd.data.source import Batches, BatchSource
from dukd.data.stream import Stream, batches

__all__ = [
    "TEST_SETS",
    "BatchSource",
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
    "benchmark",
    "bsd100",
    "df2k",
    "div2k",
    "find_pairs",
    "flickr2k",
    "join",
    "load",
    "manga109",
    "packed_bytes",
    "prepare",
    "set5",
    "set14",
    "urban100",
]
