"""Open a file of weights: which tensors are the weights, which network they make, what is assumed.

Names and shapes decide, and the file's own metadata where a checksum vouches for them; what a
caller requires is held against both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from dukd.networks import layouts
from dukd.networks.base import NetworkConfig, Recognized
from dukd.networks.files import metadata as described
from dukd.networks.files.choose import Candidate, beside, candidates, leftover
from dukd.networks.files.safe import TensorFile, WeightsError, load

_REAL = {torch.float32, torch.float16, torch.bfloat16, torch.float64}
_SHOWN_DIFFERENCES = 3
_LONGEST = 60  # characters of a name that is shown


class UnknownNetworkError(WeightsError):
    """Weights of a network that dukd does not have; the tensors are kept for whoever does."""

    def __init__(self, tensors: Mapping[str, Tensor], sentence: str) -> None:
        super().__init__(sentence)
        self.tensors = tensors


class OtherNetworkError(UnknownNetworkError):
    """Weights that begin as those of a network of dukd's, but are of another, such as HAT's."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What is in a file of weights."""

    path: Path
    """The file."""
    config: NetworkConfig
    """The network and its numbers."""
    layout: str
    """Whose names the tensors have; ``dukd`` where the file describes itself."""
    key: str | None
    """Where the weights stand in the file, or None for the top."""
    tensors: int
    """Number of tensors."""
    parameters: int
    """Number of parameters of the network."""
    dtypes: tuple[str, ...]
    """Types of the numbers stored, such as ``float32``."""
    assumed: frozenset[str]
    """Fields of the config that the file does not say, which are the field's habit."""
    notes: tuple[str, ...]
    """What had to be chosen or assumed, one sentence each."""
    metadata: Mapping[str, str]
    """Strings beside the tensors."""

    @property
    def network(self) -> str:
        """Name of the network, such as ``edsr``."""
        return self.config.name

    @property
    def declared(self) -> bool:
        """Whether the file describes itself, so that nothing had to be assumed."""
        return "dukd" in self.metadata


@dataclass(frozen=True, kw_only=True)
class Required:
    """What a caller says of a file: its scale, its network, numbers that it may not show."""

    scale: int | None = None
    config: NetworkConfig | None = None
    numbers: Mapping[str, object]
    averaged: bool = True
    """Whether averaged weights are taken, where a file has others as well."""


def opened(path: Path, required: Required) -> tuple[Contents, dict[str, Tensor]]:
    """What a file holds, and the tensors of its network.

    Raises:
        WeightsError: As `dukd.networks.files.weights.read` says.
    """
    path = Path(path)
    file = load(path)
    try:
        declared = described.declared(file.metadata)
        found = (
            _declared(file, declared)
            if declared is not None
            else _recognized(path, file, averaged=required.averaged)
        )
        config, assumed = _settle(found, declared, required)
        try:
            tensors, left = _fitting(config, found.network.tensors)
        except WeightsError as error:
            if declared is not None:
                raise
            raise OtherNetworkError(found.candidate.tensors, str(error)) from error
        check_values(path, tensors)
        if declared is not None:
            described.check(file.metadata, tensors)
    except UnknownNetworkError as error:
        raise type(error)(error.tensors, f"{path}: {error}") from error
    except ValueError as error:
        text = str(error)
        raise WeightsError(text if text.startswith(str(path)) else f"{path}: {text}") from error
    stored = found.candidate.tensors
    contents = Contents(
        path=path,
        config=config,
        layout=found.layout,
        key=found.candidate.key,
        tensors=len(stored),
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        dtypes=tuple(sorted({str(t.dtype).removeprefix("torch.") for t in stored.values()})),
        assumed=frozenset(assumed),
        notes=_notes(found, config, sorted(assumed), [*left, *_beside(file, found)]),
        metadata=file.metadata,
    )
    return contents, tensors


@dataclass(frozen=True, kw_only=True)
class _Found:
    """The weights among a file's content, and the network that they make."""

    candidate: Candidate
    network: Recognized
    layout: str
    others: tuple[str, ...] = ()


def _declared(file: TensorFile, config: NetworkConfig) -> _Found:
    """Believe the metadata, which a checksum covers; foreign names are put into ours."""
    bare = {str(n): t for n, t in file.content.items() if isinstance(t, Tensor)}
    plain = Candidate(key=None, prefix="", averaged=False, tensors=bare)
    if file.form == "safetensors":
        return _Found(
            candidate=plain, network=Recognized(config=config, tensors=bare), layout="dukd"
        )
    for candidate in candidates({k: v for k, v in file.content.items() if k != "dukd"}):
        match = layouts.recognize(candidate.tensors)
        if match is not None:
            layout, network = match
            whole = Recognized(config=config, tensors=network.tensors)
            return _Found(candidate=candidate, network=whole, layout=layout.name)
    raise WeightsError(f"its metadata say {config.describe()}, but its tensors do not")


def _recognized(path: Path, file: TensorFile, *, averaged: bool) -> _Found:
    """The first of what may be weights that is a known network."""
    offered = candidates(file.content, averaged=averaged)
    if not offered:
        keys = [repr(key) for key in file.content]
        raise WeightsError(f"{path} holds no weights; its keys are {_some(keys)}")
    failure: ValueError | None = None
    for candidate in offered:
        tensors = {n: t for n, t in candidate.tensors.items() if not leftover(n)}
        empty = [name for name, tensor in tensors.items() if not tensor.numel()]
        if empty:
            failure = failure or WeightsError(f"tensor {empty[0]} holds nothing")
            continue
        try:
            match = layouts.recognize(tensors)
        except ValueError as error:
            failure = failure or error
            continue
        if match is not None:
            layout, network = match
            whole = replace(network, tensors=dict(network.tensors) | _counters(candidate))
            others = tuple(
                dict.fromkeys(c.key for c in offered if c.key and c.key != candidate.key)
            )
            return _Found(candidate=candidate, network=whole, layout=layout.name, others=others)
    if failure is not None:
        raise failure
    names = dict.fromkeys(one.name for one, _ in layouts.all_layouts())
    first = _some(list(offered[0].tensors))
    raise UnknownNetworkError(
        offered[0].tensors,
        f"its tensors are those of none of {', '.join(names)}; the first are {first}. A network of "
        "your own is imported with --import FILE; others open with dukd[spandrel]",
    )


def _counters(candidate: Candidate) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in candidate.tensors.items() if leftover(name)}


def _beside(file: TensorFile, found: _Found) -> list[str]:
    """What the file holds beside weights."""
    content = {key: value for key, value in file.content.items() if key != "dukd"}
    return [name[:_LONGEST] for name in beside(content, found.candidate.key, found.others)]


def _settle(
    found: _Found, declared: NetworkConfig | None, required: Required
) -> tuple[NetworkConfig, set[str]]:
    """Fill in what no tensor shows: from the file, else what is required, else the field's habit.

    Returns:
        The config, and the fields that are a habit.
    """
    config, wanted = found.network.config, required.config
    if unknown := required.numbers.keys() - config.unseen:
        raise WeightsError(
            f"this looks like {config.describe()}, which has no {', '.join(sorted(unknown))}"
        )
    if required.scale is not None and config.scale != required.scale:
        raise WeightsError(f"this looks like {config.describe()}; required is x{required.scale}")
    if wanted is not None and _shown(wanted) != _shown(config):
        differences = _differences(wanted, found.network.tensors)
        raise WeightsError(
            f"this looks like {config.describe()}; required is {wanted.describe()} "
            f"({differences or 'other sizes'})"
        )
    settled = config.unseen if declared is not None else found.network.shown
    settled -= config.training_only
    wishes = {} if wanted is None else {name: getattr(wanted, name) for name in config.unseen}
    wishes |= required.numbers
    for name, value in wishes.items():
        if name in settled and not _same(config, name, value):
            raise WeightsError(f"it says {name} = {getattr(config, name)}, not {value}")
    chosen = {name: value for name, value in wishes.items() if name not in settled}
    shown = settled | chosen.keys() | config.training_only
    return replace(config, **chosen), set(config.unseen - shown)


def _same(config: NetworkConfig, name: str, value: object) -> bool:
    """Whether a config has a number, but for float32's rounding."""
    there = getattr(config, name)
    if isinstance(there, tuple | float) and isinstance(value, tuple | float | int):
        x, y = (torch.tensor(v, dtype=torch.float64) for v in (there, value))
        return x.shape == y.shape and torch.allclose(x, y, rtol=1e-6, atol=0)
    return there == value


def _shown(config: NetworkConfig) -> tuple[type, dict[str, object]]:
    """What tensors show of a network."""
    names = (f.name for f in fields(config) if f.name not in config.unseen)
    return type(config), {name: getattr(config, name) for name in names}


def _fitting(
    config: NetworkConfig, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors that a network needs, all of them, and the names of counters that it does not."""
    needed = described.shapes(config, tensors)
    left = [name for name in tensors if name not in needed and leftover(name)]
    kept = {name: tensor for name, tensor in tensors.items() if name not in left}
    if differences := _compared(needed, kept):
        raise WeightsError(f"this looks like {config.describe()}, but {differences}")
    for name, tensor in kept.items():
        if tensor.is_floating_point() != needed[name].is_floating_point():
            raise WeightsError(f"tensor {name} holds {tensor.dtype}, not {needed[name].dtype}")
    return kept, left


def _differences(config: NetworkConfig, tensors: Mapping[str, Tensor]) -> str:
    """Say how tensors differ from what a config needs; empty where they do not."""
    with torch.device("meta"):
        return _compared(config.build().state_dict(), tensors)


def _compared(needed: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    lines = [f"{name} is missing" for name in needed if name not in tensors]
    lines += [f"{name} is not part of it" for name in tensors if name not in needed]
    lines += [
        f"{name} is {tuple(tensors[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in needed.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    more = f" and {len(lines) - _SHOWN_DIFFERENCES} more" if len(lines) > _SHOWN_DIFFERENCES else ""
    return "; ".join(lines[:_SHOWN_DIFFERENCES]) + more


def _notes(
    found: _Found, config: NetworkConfig, assumed: list[str], left: list[str]
) -> tuple[str, ...]:
    notes: list[str] = []
    if found.others:
        averaged = " (averaged weights)" if found.candidate.averaged else ""
        key = found.candidate.key or "the tensors at the top"
        notes.append(f"read {key}{averaged}; the file also holds {', '.join(found.others)}")
    if found.candidate.prefix:
        notes.append(f"took {found.candidate.prefix!r} off every name")
    if left:
        notes.append(f"left out {_some(left)}: no weights of it")
    notes += [
        f"assumed {name} = {getattr(config, name)}, which the file does not say" for name in assumed
    ]
    return tuple(notes)


def _some(names: list[str], count: int = 5) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def check_values(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not finite.

    Raises:
        WeightsError: If there are any, or of a type that nothing computes with.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype not in _REAL:
            raise WeightsError(
                f"{path}: {name} holds {tensor.dtype}: save the weights as float32 or float16"
            )
        bad = int((~torch.isfinite(tensor)).sum()) if tensor.is_floating_point() else 0
        if bad:
            raise WeightsError(f"{path}: {bad} of {tensor.numel()} values of {name} are not finite")
