"""From the host's memory to a device without making the host wait."""

import torch
from torch import Tensor


def sent(x: Tensor, device: torch.device) -> Tensor:
    """Give a tensor to a device: on a GPU through pinned memory, so that the copy overlaps with what runs there.

    Args:
        x: Any tensor.
        device: Where it is wanted.

    Returns:
        ``x`` itself where it is there already.
    """
    if device.type == "cuda" and x.device.type == "cpu":
        # Pinned memory is kept by torch until the copy is done, even if nobody holds the tensor any more.
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)
