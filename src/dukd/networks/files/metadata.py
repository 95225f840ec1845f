"""What a file of weights says of itself: strings beside the tensors, with a checksum over all.

A network is known by its name and its config, as JSON that the strict reader of configurations
reads. Nothing is built from it before it is bounded by the tensors that are there.
"""

import hashlib
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration

from dukd.core import config as configuration
from dukd.core.registry import known
from dukd.networks.base import Network, NetworkConfig
from dukd.networks.files.safe import WeightsError

FORMAT = "2"
"""Version of the metadata."""
_FIRST = "1"
"""The version before, whose checksum covered the tensors alone."""
_OWN = frozenset({"dukd", "network", "config", "scale", "radius", "sha256"})
_REGISTRY: configuration.Registry = {NetworkConfig: lambda: known(NetworkConfig)}
_LONGEST = 1 << 16
"""Characters of the longest config."""
_FEW = 1 << 16
"""Counts up to this are tried, whatever the tensors are."""


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, whatever their order in a file."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def strings(
    network: Network, tensors: Mapping[str, Tensor], extra: Mapping[str, str]
) -> dict[str, str]:
    """The metadata of a file of these tensors, with a caller's own.

    Raises:
        WeightsError: If the caller's have a name that dukd needs.
    """
    if taken := (_OWN | {"format"}) & extra.keys():
        raise WeightsError(
            f"the metadata {', '.join(sorted(taken))} are written by dukd itself; use other names"
        )
    said = {
        "format": "pt",
        "dukd": FORMAT,
        "network": network.config.name,
        "config": json.dumps(configuration.plain(network.config, registry=_REGISTRY)),
        "scale": str(network.scale),
        "radius": "none" if network.radius is None else str(network.radius),
        **extra,
    }
    return said | {"sha256": _checksum(tensors, said)}


def declared(metadata: Mapping[str, str]) -> NetworkConfig | None:
    """The config that dukd wrote, or None where there is none.

    Raises:
        WeightsError: If it is damaged, of another version, or makes no network.
    """
    said = _OWN & metadata.keys()
    if not {"dukd", "config"} & said:
        return None
    if missing := _OWN - said:
        raise WeightsError(f"it is damaged: its metadata lack {', '.join(sorted(missing))}")
    if metadata["dukd"] not in {FORMAT, _FIRST}:
        raise WeightsError(
            f"its metadata are of version {metadata['dukd'][:40]!r}; this version of dukd reads "
            f"{FORMAT}"
        )
    name, text = metadata["network"], metadata["config"]
    if name not in (networks := known(NetworkConfig)):
        raise WeightsError(
            f"its metadata name the network {name[:40]!r}, which is none of {', '.join(networks)}; "
            "one of your own has to be imported first (on the command line with --import FILE)"
        )
    if len(text) > _LONGEST:
        raise WeightsError(f"the config in its metadata has {len(text)} characters")
    try:
        if metadata["dukd"] == _FIRST:
            text = json.dumps({"type": name} | json.loads(text))
        return configuration.load(text, networks[name], registry=_REGISTRY, source="config")
    except (ValueError, TypeError, RecursionError) as error:
        raise WeightsError(f"the config in its metadata makes no {name} ({error})") from error


def check(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Hold tensors and metadata against their checksum.

    Raises:
        WeightsError: If either is not what was written.
    """
    said = metadata["sha256"]
    made = tensors_sha256(tensors) if metadata["dukd"] == _FIRST else _checksum(tensors, metadata)
    if said != made:
        raise WeightsError(
            "it is damaged: its tensors or what it says of them are not those it was written with "
            "(SHA-256)"
        )


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    others = sorted((key, value) for key, value in metadata.items() if key != "sha256")
    return hashlib.sha256(f"{tensors_sha256(tensors)} {json.dumps(others)}".encode()).hexdigest()


def shapes(config: NetworkConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict that a config needs, without data, if it is not more than is there.

    Raises:
        WeightsError: If the config names more than the tensors can fill, or makes no network.
    """
    elements = sum(tensor.numel() for tensor in tensors.values())
    for count in _counts(config):
        if abs(count) > max(elements, _FEW):
            raise WeightsError(f"its config names {count}, but the file has {elements} numbers")
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]), _at_most(len(tensors)):
            return config.build().state_dict()
    except WeightsError:
        raise
    except (RuntimeError, ValueError, TypeError, ArithmeticError) as error:
        raise WeightsError(f"its config makes no network ({str(error).splitlines()[0]})") from error


def _counts(value: object) -> Iterator[int]:
    """Every whole number in a config, and the sum of each row of them."""
    if is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _counts(getattr(value, field.name))
    elif isinstance(value, tuple):
        inside = [n for one in cast("Sequence[object]", value) for n in _counts(one)]
        yield from (*inside, sum(map(abs, inside)))
    elif isinstance(value, int | float):
        yield int(value)


@contextmanager
def _at_most(parameters: int) -> Generator[None]:
    """Within, networks of many more parameters cannot be made; a few that lack are named."""
    made = {"parameters": 0, "modules": 0}
    limits = {"parameters": 64 + 4 * parameters, "modules": 1000 + 20 * parameters}

    def counted(what: str) -> None:
        made[what] += 1
        if made[what] > limits[what]:
            raise WeightsError(
                f"its config makes a network of more {what} than its {parameters} tensors fill"
            )

    def parameter(_module: nn.Module, _name: str, _value: object) -> None:
        counted("parameters")

    def submodule(_module: nn.Module, _name: str, _value: object) -> None:
        counted("modules")

    handles = (
        registration.register_module_parameter_registration_hook(parameter),
        registration.register_module_module_registration_hook(submodule),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
