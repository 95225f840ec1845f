"""Devices: by name, the way there from the host's memory, and when one is full."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
"""What the command line takes."""

_OUT_OF_MEMORY = (
    "can't allocate memory",
    "DefaultCPUAllocator",
    "out of memory",
    "STATUS_ALLOC_FAILED",
    "Storage size calculation overflowed",  # more than any memory has
    "unable to find an engine",  # of cuDNN, where none of its plans finds room to work in
)
"""What torch's allocators and NVIDIA's libraries say."""


def by_name(name: DeviceName) -> torch.device:
    """The device of a name; ``auto`` is a GPU where there is one.

    Raises:
        ValueError: If this machine has no such device.
    """
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(n for n, here in present.items() if here))
    if not present[name]:
        raise ValueError(f"there is no {name} device here: leave --device out, or say --device cpu")
    return torch.device(name)


def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself, as far as Linux says; others emulate it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    lines = (line for line in text.splitlines() if line.startswith(("flags", "Features")))
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(next(lines, "").split()))


def numbered(device: torch.device) -> torch.device:
    """Give a GPU its number, and make it the current one, which unnamed events and streams use."""
    if device.type != "cuda":
        return device
    if device == torch.device("cuda"):
        device = torch.device("cuda", torch.cuda.current_device())
    torch.cuda.set_device(device)
    return device


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device without making the host wait.

    To a GPU it goes through pinned memory, so that the copy overlaps with what runs there.

    Args:
        x: Any tensor.
        device: Where it is wanted.

    Returns:
        ``x`` itself where it is there already.
    """
    if device.type == "cuda" and x.device.type == "cpu":
        # torch keeps pinned memory until the copy is done, even if nobody holds the tensor any more
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def seed_all(seed: int) -> None:
    """Seed what is drawn on the processor and on the devices in use, as `torch.manual_seed` does.

    That one also notes, with the whole stack, how to seed devices that nobody has used yet: 0.7 ms,
    a tenth of a small student's step.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


@contextmanager
def exact_float32(*, wanted: bool = True) -> Generator[None, None, None]:
    """Have convolutions on a GPU compute in float32 where they are said to.

    torch rounds their operands to TF32's ten bits by default there, as training does; what is
    measured would differ from other machines' figures, by up to 0.02 of NIQE on an H100.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = before and not wanted
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whatever device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def machine_memory() -> int:
    """Bytes of memory of this machine, where it says so; else more than any has."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return 1 << 62


def lies_together(x: Tensor) -> bool:
    """Whether a tensor ``(n, c, h, w)`` has its channels together in memory, and not apart."""
    together = x.ndim == 4 and not x.is_contiguous()
    return together and x.is_contiguous(memory_format=torch.channels_last)
