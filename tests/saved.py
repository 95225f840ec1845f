"""What tests of saved files share: a state whose every part says its step, and files that are
forged."""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch


def state_of(step: int) -> dict[str, object]:
    """The step is inside a tensor too, so a torn mixture would show."""
    return {
        "weights": torch.full((50,), float(step)),
        "rng": torch.Generator().manual_seed(step).get_state(),
    }


def names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


def signed(body: bytes) -> bytes:
    """A file with a correct footer, as someone hostile could write it."""
    return body + b"SHA256:" + hashlib.sha256(body).digest()


def archive(content: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()
