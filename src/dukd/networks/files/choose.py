"""Which of the tensors in a file are the network's weights: trainers wrap, prefix and count.

A checkpoint may hold a network under a key, under a prefix of every name, beside its moving
average, a discriminator and an optimizer. `candidates` finds what may be weights, the averaged ones
first unless they are not wanted; the reader takes the first that is a known network, and reports
the others.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import cast

from torch import Tensor

_DEEPEST = 4
_MOST = 64
"""Groups of tensors that are looked at."""
_KEYS = (
    *("params", "state_dict", "model_state_dict", "model", "net_g", "netg", "generator", "g"),
    *("net", "network", "weights"),
)
"""Keys of weights that are not averaged, the usual ones first."""
_PREFIXES = (
    *("module.", "_orig_mod.", "model.", "net.", "net_g.", "netG.", "generator.", "g."),
    *("network.", "ema_model.", "generator_ema.", "model_ema.", "net_g_ema.", "g_ema.", "ema."),
    *("online_model.", "student."),
)
_AVERAGED = frozenset({"ema", "swa", "averaged", "average", "avg", "shadow", "polyak"})
_OTHERS = frozenset(
    {
        *("optim", "optimizer", "optimizers", "scheduler", "schedulers", "scaler", "rng"),
        *("d", "netd", "disc", "discriminator", "perceptual", "criterion", "loss", "losses"),
    }
)
"""Words of keys that hold no network that upscales."""
LEFTOVERS = frozenset(
    {"total_ops", "total_params", "num_batches_tracked", "n_averaged", "step", "steps"}
    | {"step_counter", "initted", "iter", "epoch", "global_step", "num_batches", "num_updates"}
    | {"iteration", "epochs", "best", "best_psnr", "best_metric", "decay", "ema_decay"}
)
"""Last parts of names that trainers and counters leave among weights."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Tensors that may be the weights of a network."""

    key: str | None
    """Where they stand in the file, such as ``state_dict.generator_ema``; None for the top."""
    prefix: str
    """What was taken off every name."""
    averaged: bool
    """Whether they are a moving average over training steps."""
    tensors: Mapping[str, Tensor]


def candidates(content: Mapping[object, object], *, averaged: bool = True) -> list[Candidate]:
    """What may be weights in a file's content, the most likely first.

    Each group of tensors appears with as many prefixes taken off as it has, from none on; averaged
    ones come first, or last.
    """
    found: list[Candidate] = []
    for path, tensors in chain(_groups(content, (), _DEEPEST), _nameless(content)):
        is_averaged = _is_averaged(*path) or "n_averaged" in tensors
        whole = _stripped(".".join(path) or None, tensors, averaged=is_averaged)
        found += whole
        for one in whole:
            found += _parts(path, one)
        if len(found) > _MOST:
            break
    return sorted(found, key=lambda c: (c.averaged != averaged, _rank(c.key)))


def leftover(name: str) -> bool:
    """Whether a tensor of this name counts or times something, and is not a weight."""
    return name.rpartition(".")[2] in LEFTOVERS


def beside(content: Mapping[object, object], read: str | None, others: Iterable[str]) -> list[str]:
    """What a trainer keeps beside weights, such as its optimizer's states and its counters.

    Args:
        content: What the file holds.
        read: Where the weights that were read stand, as `Candidate.key` says it.
        others: Where other weights stand.
    """
    return list(_beside(content, {read, *others}, "", _DEEPEST))


def _beside(
    content: Mapping[object, object], weights: set[str | None], at: str, depth: int
) -> Iterator[str]:
    for key, value in content.items():
        here = f"{at}{key}"
        if here in weights:
            continue
        if isinstance(value, Tensor):
            if leftover(str(key)) and not (at == "" and None in weights):
                yield here
        elif not any(key is not None and key.startswith(f"{here}.") for key in weights):
            yield here
        elif isinstance(value, Mapping) and depth:
            inner = cast("Mapping[object, object]", value)
            yield from _beside(inner, weights, f"{here}.", depth - 1)


def _groups(
    content: Mapping[object, object], path: tuple[str, ...], depth: int
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if any(not leftover(name) for name in tensors):
        yield path, tensors
    for key, value in content.items() if depth else ():
        if isinstance(value, Mapping) and isinstance(key, str) and not _words(key) & _OTHERS:
            yield from _groups(cast("Mapping[object, object]", value), (*path, key), depth - 1)


def _nameless(
    content: Mapping[object, object],
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Averages as torch_ema keeps them: a list of tensors in the order of the parameters.

    Their names are those of weights beside them that have the same shapes in the same order.
    """
    named = [tensors for _, tensors in _groups(content, (), _DEEPEST)]
    for path, values in _lists(content, (), _DEEPEST):
        shapes = [value.shape for value in values]
        for tensors in named:
            if [tensor.shape for tensor in tensors.values()] == shapes:
                yield path, dict(zip(tensors, values, strict=True))
                break


def _lists(
    content: Mapping[object, object], path: tuple[str, ...], depth: int
) -> Iterator[tuple[tuple[str, ...], list[Tensor]]]:
    for key, value in content.items():
        if not isinstance(key, str) or _words(key) & _OTHERS:
            continue
        here = (*path, key)
        if isinstance(value, Mapping) and depth:
            yield from _lists(cast("Mapping[object, object]", value), here, depth - 1)
        elif isinstance(value, list) and _is_averaged(*here):
            tensors = [v for v in cast("list[object]", value) if isinstance(v, Tensor)]
            if tensors and len(tensors) == len(cast("list[object]", value)):
                yield here, tensors


def _parts(path: tuple[str, ...], whole: Candidate) -> list[Candidate]:
    """Networks beside each other in one group, under prefixes such as ``generator_ema.``."""
    tensors = whole.tensors
    present = dict.fromkeys(name.partition(".")[0] + "." for name in tensors if "." in name)
    named = [prefix for prefix in present if _is_averaged(prefix)]
    found: list[Candidate] = []
    for prefix in dict.fromkeys([*_PREFIXES, *named]) if len(present) > 1 else ():
        part = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        if part:
            prefix = whole.prefix + prefix  # noqa: PLW2901  from here on that of the file
            key = ".".join((*path, prefix.removesuffix(".")))
            averaged = whole.averaged or _is_averaged(prefix, *path)
            found += _stripped(key, part, averaged=averaged, prefix=prefix)
    return found


def _stripped(
    key: str | None, tensors: Mapping[str, Tensor], *, averaged: bool, prefix: str = ""
) -> list[Candidate]:
    """The group as it is, and without one prefix of every name after the other."""
    found = [Candidate(key=key, prefix=prefix, averaged=averaged, tensors=tensors)]
    while len(found) <= len(_PREFIXES):
        names = [name for name in tensors if not leftover(name)]
        common = next((p for p in _PREFIXES if all(_inside(n, p) for n in names)), None)
        common = common or _shared(names)
        if common is None:
            break
        tensors = {name.removeprefix(common): tensor for name, tensor in tensors.items()}
        prefix += common
        averaged = averaged or _is_averaged(common)
        found.append(Candidate(key=key, prefix=prefix, averaged=averaged, tensors=tensors))
    return found


def _shared(names: list[str]) -> str | None:
    """What all names begin with, up to its first dot, whatever it is called."""
    first = {name.partition(".")[0] for name in names if "." in name}
    return f"{first.pop()}." if len(first) == 1 and all("." in name for name in names) else None


def _inside(name: str, prefix: str) -> bool:
    return len(name) > len(prefix) and name.startswith(prefix)


def _words(*keys: str) -> set[str]:
    return {word for key in keys for word in re.split(r"[._\-\s]+", key.lower()) if word}


def _is_averaged(*keys: str) -> bool:
    """Whether keys such as ``net_ema`` or ``netEMA`` say that weights are averaged."""
    words = (word for key in keys for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", key))
    return any(word.lower() in _AVERAGED for word in words)


def _rank(key: str | None) -> int:
    last = (key or "").rpartition(".")[2].lower()
    return _KEYS.index(last) if last in _KEYS else len(_KEYS)
