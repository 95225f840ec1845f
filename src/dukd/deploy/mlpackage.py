"""A package of Core ML, read: its program, its weights and what it says of itself.

The file is protobuf (Apple's Model.proto and MIL.proto) beside a file of weights. The few fields
that a program needs are read here, so that a package can be looked into without coremltools.
"""

import json
import struct
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from dukd.networks.upscaler import UpscalerError

Value = Tensor | str
"""A constant: numbers of any shape, or a text."""

_Fields = Mapping[int, Sequence[Any]]  # by number: integers, or bytes

_TYPES: Final[Mapping[int, Any]] = {
    1: np.bool_,
    10: np.float16,
    11: np.float32,
    12: np.float64,
    21: np.int8,
    22: np.int16,
    23: np.int32,
    24: np.int64,
    31: np.uint8,
    32: np.uint16,
}
_TEXT = 2
_BLOB = struct.Struct("<IIQQ")  # what stands before weights: a mark, type, bytes, place
_MARK = 0xDEADBEEF
_PROGRAM, _DESCRIPTION, _INPUT, _SAID, _OWN = 502, 2, 1, 100, 100
_IMAGE = 4


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One step of a program."""

    kind: str
    """What it does, such as ``conv``."""
    inputs: Mapping[str, tuple[str, ...]]
    """By argument: the name of a constant or an earlier result; several where it is a list."""
    outputs: tuple[str, ...]
    """Names of the results."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """What stands in a package of one program with one input and one output."""

    said: Mapping[str, str]
    """What whoever wrote it says of it."""
    image: bool
    """Whether its input is an image, levels of 0 to 255."""
    size: tuple[int, int] | None
    """Height and width of the input, where they are fixed."""
    constants: Mapping[str, Value]
    """By name."""
    operations: Sequence[Operation]
    """In their order."""
    input: str
    """Name of what goes in."""
    output: str
    """Name of what comes out."""


def read(path: Path) -> Package:
    """Read a package.

    Raises:
        UpscalerError: If it is damaged, or its program has not one input and one output.
    """
    try:
        model = _model_file(path)
        fields = _message(memoryview(model.read_bytes()))
        return _package(fields, _Weights(path, model))
    except (OSError, KeyError, IndexError, ValueError, TypeError, struct.error) as error:
        raise UpscalerError(f"{path} is damaged, or not an .mlpackage that dukd wrote") from error


def _model_file(path: Path) -> Path:
    manifest = json.loads((path / "Manifest.json").read_text(encoding="utf-8"))
    entry = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]
    return _inside(path, path / "Data" / entry["path"])


def _inside(folder: Path, path: Path) -> Path:
    """A path that must not lead out of the package."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{path} lies outside")
    return path


def _package(fields: _Fields, weights: "_Weights") -> Package:
    description = _message(fields[_DESCRIPTION][0])
    said = _message(description[_SAID][0]) if _SAID in description else {}
    (taken,) = (_message(one) for one in description[_INPUT])
    function = _message(_map(_message(fields[_PROGRAM][0])[2])["main"])
    (named,) = (_message(one) for one in function[1])
    _, shape = _type(named[2][0])
    block = _message(_map(function[3])[_text(function[2][0])])
    (output,) = block[2]
    constants: dict[str, Value] = {}
    operations: list[Operation] = []
    for one in block[3]:
        operation = _message(one)
        outputs = tuple(_text(_message(value)[1][0]) for value in operation.get(3, ()))
        if _text(operation[1][0]) == "const":
            constants[outputs[0]] = weights.value(_map(operation[5])["val"])
        else:
            inputs = _inputs(_map(operation.get(2, ())), outputs[0], weights, constants)
            kind = _text(operation[1][0])
            operations.append(Operation(kind=kind, inputs=inputs, outputs=outputs))
    sides = [side for side in shape[2:] if side is not None]
    return Package(
        said={key: _text(value) for key, value in _map(said.get(_OWN, ())).items()},
        image=_IMAGE in _message(taken[3][0]),
        size=(sides[0], sides[1]) if len(sides) == 2 else None,
        constants=constants,
        operations=operations,
        input=_text(named[1][0]),
        output=_text(output),
    )


def _inputs(
    arguments: Mapping[str, Any], output: str, weights: "_Weights", constants: dict[str, Value]
) -> dict[str, tuple[str, ...]]:
    """Names of what an operation takes; what stands there itself becomes a constant."""
    inputs: dict[str, tuple[str, ...]] = {}
    for key, argument in arguments.items():
        names: list[str] = []
        for number, one in enumerate(_message(argument).get(1, ())):
            binding = _message(one)
            name = _text(binding[1][0]) if 1 in binding else f"{output} {key} {number}"
            if 1 not in binding:
                constants[name] = weights.value(binding[2][0])
            names.append(name)
        inputs[key] = tuple(names)
    return inputs


class _Weights:
    """Constants, in the program itself or in the file beside it."""

    def __init__(self, package: Path, model: Path) -> None:
        self.package, self.model = package, model
        self.files: dict[str, memoryview] = {}

    def value(self, data: memoryview) -> Value:
        """Read a constant."""
        fields = _message(data)
        kind, sides = _type(fields[2][0])
        shape = [side for side in sides if side is not None]
        if 5 in fields:
            place = _message(fields[5][0])
            content = self._blob(_text(place[1][0]), place[2][0])
            return _tensor(np.frombuffer(content, _TYPES[kind]), shape)
        ((number, (content, *_)),) = _message(_message(fields[3][0])[1][0]).items()
        numbers: list[Any] = _message(content).get(1, [])
        if kind == _TEXT:
            return _text(numbers[0])
        if number in (1, 6, 7):  # floats, doubles, bytes: as they lie in memory
            stored = {1: np.float32, 6: np.float64, 7: _TYPES[kind]}[number]
            return _tensor(np.frombuffer(numbers[0] if numbers else b"", stored), shape)
        packed = [n for part in numbers for n in ([part] if isinstance(part, int) else _all(part))]
        signed = [n - (1 << 64) if n >> 63 else n for n in packed]
        return _tensor(np.array(signed, _TYPES[kind]), shape)

    def _blob(self, name: str, place: int) -> memoryview:
        if name not in self.files:
            path = self.model.parent / name.removeprefix("@model_path/")
            self.files[name] = memoryview(_inside(self.package, path).read_bytes())
        data = self.files[name]
        mark, _, size, start = _BLOB.unpack_from(data, place)
        if mark != _MARK or start + size > len(data):
            raise ValueError(f"no weights at {place}")
        return data[start : start + size]


def _tensor(values: np.ndarray, shape: Sequence[int]) -> Tensor:
    return torch.from_numpy(values.copy()).reshape(list(shape))


def _type(data: memoryview) -> tuple[int, list[int | None]]:
    """Number of a tensor's type, and its shape; None where a side is open."""
    tensor = _message(_message(data)[1][0])
    shape: list[int | None] = []
    for one in tensor.get(3, ()):
        dimension = _message(one)
        constant = _message(dimension[1][0]).get(1, (0,))[0] if 1 in dimension else None
        shape.append(constant)
    return tensor[1][0], shape


def _message(data: memoryview) -> dict[int, list[Any]]:
    """The fields of a message of protobuf, by their number."""
    found: dict[int, list[Any]] = {}
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        value: int | memoryview
        if key & 7 == 0:
            value, place = _varint(data, place)
        else:
            size, place = (8, place) if key & 7 == 1 else (4, place)
            if key & 7 == 2:
                size, place = _varint(data, place)
            if key & 7 not in (1, 2, 5) or place + size > len(data):
                raise ValueError("not a message")
            value, place = data[place : place + size], place + size
        found.setdefault(key >> 3, []).append(value)
    return found


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128 or shift > 63:
            return value, place


def _all(data: memoryview) -> Generator[int, None, None]:
    place = 0
    while place < len(data):
        value, place = _varint(data, place)
        yield value


def _map(entries: Sequence[Any]) -> dict[str, Any]:
    """A map of protobuf, whose entries are messages of a key and a value."""
    pairs = (_message(entry) for entry in entries)
    return {_text(pair[1][0]): pair[2][0] for pair in pairs}


def _text(data: memoryview) -> str:
    return bytes(data).decode()
