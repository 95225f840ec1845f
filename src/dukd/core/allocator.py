"""Memory that is kept between tensors: pages that come back from the system cost more than sums.

glibc gives large blocks back as soon as they are free, and the kernel clears each page of the next
one again: 10 to 30 % of enlarging an image in float32 (docs/results/deploy.md).
"""

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of mallopt's options
_LARGEST = (1 << 31) - 1  # bytes; what an int of C holds
_USUAL = 128 * 1024


def keep_freed_memory() -> bool:
    """Let this process keep what it frees for its next tensors; for programs, not for libraries.

    The most that was in use at once stays with the process.

    Returns:
        Whether the allocator does so now: glibc's does, others have ways of their own.
    """
    chosen = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys()
    if chosen or sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another library of C
        return False
    return all(mallopt(option, _LARGEST) == 1 for option in (_TRIM_THRESHOLD, _MMAP_THRESHOLD))


def give_back_freed_memory() -> None:
    """Undo it: blocks above 128 KiB go back to the system again, as glibc begins."""
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another library of C
        return
    for option in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
        mallopt(option, _USUAL)
