"""A device, and the way there from the host's memory without making the host wait."""

import torch
from torch import Tensor


def numbered(device: torch.device) -> torch.device:
    """Name a GPU by its number, and make it the current one, which events and streams that name none belong to."""
    if device.type != "cuda":
        return device
    if device == torch.device("cuda"):
        device = torch.device("cuda", torch.cuda.current_device())
    torch.cuda.set_device(device)
    return device


def sent(x: Tensor, device: torch.device) -> Tensor:
    """Give a tensor to a device: on a GPU through pinned memory, so that the copy overlaps with what runs there.

    Args:
        x: Any tensor.
        device: Where it is wanted.

    Returns:
        ``x`` itself where it is there already.
    """
    if device.type == "cuda" and x.device.type == "cpu":
        # Pinned memory is kept by torch until the copy is done, even if nobody holds the tensor any
        # more.
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)
