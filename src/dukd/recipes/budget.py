"""Students by name, and the one that fills a budget of parameters.

A network has a width and mostly a depth. Wide and flat ones of a size compute faster, narrow and
deep ones see further; networks that people run lie between, and so does the choice here: of all
widths, each with as many blocks as the budget allows, the one whose proportion of width to depth is
nearest to that of the network's usual form. Where the depth is given, it is the widest that fits.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch

from dukd import networks
from dukd.core.config import nearest
from dukd.core.registry import known
from dukd.networks import NetworkConfig, macs

_USUAL: dict[str, Callable[[int], NetworkConfig]] = {
    "edsr": networks.edsr_student,
    "rcan": networks.rcan_student,
    "swinir": networks.swinir_student,
    "smfanet": networks.smfanet_small,
    "compact": lambda scale: networks.CompactConfig(scale=scale),
    "span": networks.span_small,
    "plain": lambda scale: networks.PlainConfig(scale=scale, width=24),
}
"""Students where a network's own defaults are a teacher."""
_NO_STUDENTS = frozenset({"quantized", "ensemble", "opaque"})
_WIDTHS = (*range(4, 64, 4), *range(64, 257, 16))
"""Multiples of the channels that processors compute at a time."""
_WIDEST, _DEEPEST = _WIDTHS[-1], 64
_SHOWN = 5
_WIDTH, _HEIGHT = 1280, 720
"""Of the output for which multiply-accumulates are counted."""


def student_named(name: str, scale: int) -> NetworkConfig:
    """The student of a network's name, such as ``compact``, in its usual form.

    Raises:
        ValueError: If there is none, or not at this scale.
    """
    there = {n: one for n, one in known(NetworkConfig).items() if n not in _NO_STUDENTS}
    if name not in there:
        raise ValueError(
            f"there is no network {name!r} for a student{nearest(name, there)}; known are "
            f"{', '.join(there)}"
        )
    try:
        return _USUAL[name](scale) if name in _USUAL else there[name](scale=scale)
    except (TypeError, ValueError) as error:
        raise ValueError(f"there is no {name} student at x{scale}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A network that fits a budget."""

    config: NetworkConfig
    parameters: int
    """Once it is folded, as other programs get it."""
    macs: int
    """Multiply-accumulates for an output of 1280 x 720."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen, and between what."""

    chosen: Candidate
    considered: tuple[Candidate, ...]
    """The chosen one among its neighbors, by width."""
    tried: int
    """How many fit the budget, one for each width."""


def within(
    usual: NetworkConfig, most: int, *, width: int | None = None, blocks: int | None = None
) -> Choice:
    """Choose the numbers of a network by the parameters that it may have once it is folded.

    Args:
        usual: The network in its usual form, whose other numbers and proportion are kept.
        most: Parameters at most.
        width: Channels, where they are given; they are chosen otherwise.
        blocks: Blocks likewise.

    Raises:
        ValueError: If the network has no width to choose, or none is small enough.
    """
    there = {f.name for f in fields(usual)}
    if "width" not in there:
        raise ValueError(f"{usual.name} has no width to choose: name its numbers yourself")
    if blocks is not None and "blocks" not in there:
        raise ValueError(f"{usual.name} has no number of blocks to give")
    widths = _WIDTHS if width is None else [width]
    fit = [found for w in widths if (found := _deepest(usual, w, most, blocks)) is not None]
    if not fit:
        least = _smallest(usual, min(widths), blocks)
        raise ValueError(
            f"no {usual.name} x{usual.scale} fits into {most:,} parameters: "
            f"{least[0].describe()} has {least[1]:,}"
        )
    best = len(fit) - 1
    if blocks is None:
        best = min(range(len(fit)), key=lambda i: (_distance(fit[i][0], usual), -fit[i][1]))
    first = max(0, min(best - _SHOWN // 2, len(fit) - _SHOWN))
    considered = tuple(_candidate(config) for config, _ in fit[first : first + _SHOWN])
    if considered[best - first].parameters > most:  # a plug-in's, of which no block is as the next
        raise ValueError(f"{usual.name} grows unevenly: name its width and blocks yourself")
    return Choice(chosen=considered[best - first], considered=considered, tried=len(fit))


def _distance(config: NetworkConfig, usual: NetworkConfig) -> float:
    """How far the proportion of width to depth is from the usual; for widths alone, how narrow."""
    width, depth = _size(config)
    if depth is None:
        return 1 / width
    usual_width, usual_depth = _size(usual)
    return abs(math.log(width / depth / (usual_width / (usual_depth or 1))))


def _size(config: NetworkConfig) -> tuple[int, int | None]:
    numbers: dict[str, int] = vars(config)
    return numbers["width"], numbers.get("blocks")


def _deepest(
    usual: NetworkConfig, width: int, most: int, blocks: int | None
) -> tuple[NetworkConfig, int] | None:
    """The network of a width with as many blocks as fit; None if not even one does.

    Parameters grow by as many for every block, which spares building what is large.
    """
    first = _counted(usual, width, blocks or _least(usual))
    if first is None or first[1] > most:
        return None
    if blocks is not None or _least(usual) is None:
        return first
    second = _counted(usual, width, 2)
    each = max(1, (second[1] if second else most) - first[1])
    deepest = min(_DEEPEST, 1 + (most - first[1]) // each)
    config = _with(usual, width, deepest)
    assert config is not None
    return config, first[1] + (deepest - 1) * each


def _counted(
    usual: NetworkConfig, width: int, blocks: int | None
) -> tuple[NetworkConfig, int] | None:
    config = _with(usual, width, blocks)
    return None if config is None else (config, folded_parameters(config))


def _least(usual: NetworkConfig) -> int | None:
    """Fewest blocks; None for networks without a number of blocks."""
    return 1 if hasattr(usual, "blocks") else None


def _with(usual: NetworkConfig, width: int, blocks: int | None) -> NetworkConfig | None:
    """The network with a width and a depth; None where heads do not divide it, or the like."""
    numbers = {"width": width} | ({} if blocks is None else {"blocks": blocks})
    try:
        return replace(usual, **numbers)
    except ValueError:
        return None


def _smallest(usual: NetworkConfig, width: int, blocks: int | None) -> tuple[NetworkConfig, int]:
    made = (_counted(usual, w, blocks or _least(usual)) for w in range(width, _WIDEST + 1))
    return next(one for one in made if one is not None)


def folded_parameters(config: NetworkConfig) -> int:
    """Parameters of a network as other programs get it, counted without making any."""
    with torch.device("meta"):
        return config.deployed().build().parameter_count()


def _candidate(config: NetworkConfig) -> Candidate:
    with torch.device("meta"):
        folded = config.deployed().build()
    parameters = folded.parameter_count()
    cost = macs(folded, _HEIGHT // config.scale, _WIDTH // config.scale)
    return Candidate(config=config, parameters=parameters, macs=cost)


def parsed_count(text: str) -> int:
    """Read a number of parameters such as ``150000``, ``150k`` or ``1.2M``.

    Raises:
        ValueError: If it is none.
    """
    factor = {"k": 1_000, "m": 1_000_000}.get(text[-1:].lower(), 1)
    try:
        count = float(text if factor == 1 else text[:-1].replace("_", "")) * factor
    except ValueError:
        count = math.nan
    if not (math.isfinite(count) and count >= 1):
        raise ValueError(
            f"a number of parameters is such as 150000, 150k or 1.2M, but got {text!r}"
        )
    return int(count)
