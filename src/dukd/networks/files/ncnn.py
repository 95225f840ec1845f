"""Weights of ncnn files: a ``.param`` of text that lists layers, a ``.bin`` with their numbers.

Only convolutions and rectifiers with slopes are read, in their order, which is that of the original
code; they are given the names of RRDBNet or SRVGGNetCompact, whose shapes are checked as those of
any file. A convolution's weights follow a flag of 4 bytes: float16, padded to 4 bytes, or float32;
biases and slopes are float32.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_MAGIC = "7767517"
_LONGEST = 1 << 22
"""Bytes of the longest list of layers."""
_HALF = 0x01306B47
_WITHOUT_WEIGHTS = frozenset(
    {"Input", "Split", "Concat", "BinaryOp", "Eltwise", "Interp", "PixelShuffle", "ReLU", "Noop"}
    | {"UnaryOp", "Reorg", "Crop", "Padding", "Dropout", "Slice"}
)


def partner(path: Path) -> Path | None:
    """The other file of a pair ``x.param`` and ``x.bin``; None if it is not there."""
    other = path.with_suffix({".param": ".bin", ".bin": ".param"}.get(path.suffix, ""))
    return other if other != path and other.is_file() else None


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a pair of files, under the original code's names.

    Args:
        path: Either file; the other lies beside it.

    Raises:
        ValueError: If the pair is not whole, or holds other layers.
    """
    other = partner(path)
    if other is None:
        raise ValueError(f"{path} is half of an ncnn network: put its .param and .bin side by side")
    listed = path if path.suffix == ".param" else other
    if listed.stat().st_size > _LONGEST:
        raise ValueError(f"{listed} is too long for a list of layers")
    lines = listed.read_text(encoding="utf-8").split("\n")
    if lines[0].strip() != _MAGIC:
        raise ValueError(f"{listed} is not a .param file of ncnn")
    numbers = _Numbers(np.fromfile(listed.with_suffix(".bin"), np.uint8))
    found = _Layers()
    for line in lines[2:]:
        if words := line.split():
            _read_layer(words, numbers, found)
    if numbers.place != len(numbers.content):
        raise ValueError(f"{len(numbers.content) - numbers.place} bytes of weights are left over")
    return _compact(found) if found.shuffled else _rrdb(found)


@dataclass
class _Numbers:
    content: np.ndarray
    place: int = 0

    def take(self, count: int, dtype: str) -> Tensor:
        size = -(-count * np.dtype(dtype).itemsize // 4) * 4
        if not 0 <= count <= len(self.content) or self.place + size > len(self.content):
            raise ValueError(f"a layer has {count} numbers, but the file ends before")
        piece = self.content[self.place : self.place + size]
        self.place += size
        return torch.from_numpy(piece.view(dtype)[:count].astype(np.float32))


@dataclass
class _Layers:
    tensors: list[tuple[str, Tensor]] = field(default_factory=list[tuple[str, Tensor]])
    enlargings: int = 0
    shuffled: bool = False


def _read_layer(words: list[str], numbers: _Numbers, found: _Layers) -> None:
    sort, settings = words[0], dict(w.split("=", 1) for w in words[4:] if "=" in w)
    found.enlargings += sort == "Interp"
    found.shuffled |= sort == "PixelShuffle"
    if sort == "Convolution":
        made, kernel, size = (int(settings.get(key, "0")) for key in ("0", "1", "6"))
        flag = int(numbers.take(1, "<f4").view(torch.int32).item())
        if flag not in {0, _HALF} or made < 1 or kernel < 1:
            raise ValueError(f"{words[1]} has weights that are neither float16 nor float32")
        weight = numbers.take(size, "<f2" if flag else "<f4")
        found.tensors.append(("weight", weight.reshape(made, -1, kernel, kernel)))
        if settings.get("5") == "1":
            found.tensors.append(("bias", numbers.take(made, "<f4")))
    elif sort == "PReLU":
        found.tensors.append(("slope", numbers.take(int(settings.get("0", "0")), "<f4")))
    elif sort not in _WITHOUT_WEIGHTS:
        raise ValueError(f"layer {words[1]} is a {sort}, which neither RRDBNet nor Compact has")


def _compact(found: _Layers) -> dict[str, Tensor]:
    """``body.0`` is a convolution, ``body.1`` its rectifier, and so on."""
    named: dict[str, Tensor] = {}
    number = -2
    for part, tensor in found.tensors:
        number += 2 * (part == "weight")
        name = f"body.{number + 1}.weight" if part == "slope" else f"body.{number}.{part}"
        named[name] = tensor
    return named


def _rrdb(found: _Layers) -> dict[str, Tensor]:
    count = sum(part == "weight" for part, _ in found.tensors)
    blocks = (count - 4 - found.enlargings) // 15
    names = [
        "conv_first",
        *(
            f"body.{b}.rdb{d}.conv{c}"
            for b in range(blocks)
            for d in (1, 2, 3)
            for c in range(1, 6)
        ),
        "conv_body",
        *(f"conv_up{i + 1}" for i in range(found.enlargings)),
        "conv_hr",
        "conv_last",
    ]
    if len(names) != count:
        raise ValueError(f"{count} convolutions make no RRDBNet")
    places = iter(names)
    named: dict[str, Tensor] = {}
    name = ""
    for part, tensor in found.tensors:
        name = next(places) if part == "weight" else name
        named[f"{name}.{part}"] = tensor
    return named
