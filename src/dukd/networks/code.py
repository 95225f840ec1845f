"""A network that Python code of the user's makes: ``file.py:make`` or ``package.module:make``.

The code runs because the user names it, and for no other reason: nothing that is read from a file
of weights, a run or an image can name code.
"""

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from dukd.core.config import nearest
from dukd.core.text import shown
from dukd.networks.base import Network, NetworkConfig
from dukd.networks.files.metadata import tensors_sha256
from dukd.networks.opaque import Opaque

_NAMED = re.compile(r"(?P<where>.+\.py|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)")


class CodeError(ValueError):
    """Code that makes no network; the message says why."""


class Made(NamedTuple):
    """What code made."""

    network: Network
    """Frozen, on the CPU."""
    sha256: str
    """Of the code's file, the arguments, and the network's tensors; not of what the file
    imports."""


def is_named(text: str) -> bool:
    """Whether a text names code, as ``file.py:make`` does."""
    return _NAMED.fullmatch(text) is not None


def opened(
    code: str,
    arguments: Mapping[str, object] | None = None,
    *,
    scale: int | None = None,
    taps: Sequence[str] = (),
) -> Made:
    """Run code, and take what it makes as a network.

    Args:
        code: ``file.py:make``, or ``package.module:make`` of an installed package. ``make`` gives a
            module, or anything else that maps ``(n, 3, h, w)`` in [0, 1] to ``(n, 3, h * scale,
            w * scale)``.
        arguments: Of ``make``, by name.
        scale: What a parameter ``scale`` of ``make`` is given where ``arguments`` have none.
        taps: Where features are read: paths of the module's submodules, such as ``body.5``.

    Raises:
        CodeError: If there is no such code, it fails, or what it makes does not enlarge images.
    """
    match = _NAMED.fullmatch(code)
    if match is None:
        raise CodeError(
            f"{shown(code)} names no code: write file.py:make, where make() gives the network"
        )
    where, name = match["where"], match["name"]
    given = dict(arguments or {})
    with _beside(where), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # code that draws its weights gives the same every time
        module = _run(where)
        make = _function(module, where, name)
        made = _call(make, code, given, scale)
    network = made if isinstance(made, Network) else _adapted(made, code, taps)
    if isinstance(made, Network) and taps:
        raise CodeError(f"{shown(code)} gives a network of dukd's, which needs no taps")
    return Made(network.frozen(), _digest(module, name, given, network))


@contextmanager
def _beside(where: str) -> Generator[None]:
    """Within, modules beside a file can be imported, as where Python runs it."""
    folder = str(Path(where).resolve().parent) if where.endswith(".py") else str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with suppress(ValueError):  # the code may have taken it out
            sys.path.remove(folder)


def _run(where: str) -> ModuleType:
    try:
        return _file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except CodeError:
        raise
    except Exception as error:  # the user's code fails as it likes
        raise CodeError(f"{shown(where)} failed: {type(error).__name__}: {error}") from error


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise CodeError(f"there is no file {shown(path)}")
    spec = importlib.util.spec_from_file_location(f"{path.stem}_of_the_user", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their own module
    spec.loader.exec_module(module)
    return module


def _function(module: ModuleType, where: str, name: str) -> Callable[..., object]:
    found = getattr(module, name, None)
    if callable(found):
        return found
    own = [
        key
        for key, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", "") == module.__name__
    ]
    raise CodeError(
        f"{shown(where)} has no function {name!r}{nearest(name, own)}; it has "
        f"{', '.join(own) or 'none at all'}"
    )


def _call(
    make: Callable[..., object], code: str, given: Mapping[str, object], scale: int | None
) -> object:
    arguments = dict(given)
    try:
        taken = inspect.signature(make).parameters
    except ValueError:  # of something that is not written in Python
        taken = {}
    if scale is not None and "scale" in taken:
        arguments.setdefault("scale", scale)
    try:
        return make(**arguments)
    except Exception as error:  # likewise
        raise CodeError(f"{shown(code)} failed: {type(error).__name__}: {error}") from error


class Called(nn.Module):
    """Anything that maps lr to sr, as a module; what it gives lies where lr does."""

    def __init__(self, upscale: Callable[[Tensor], Tensor], name: str) -> None:
        super().__init__()
        self.upscale, self.name = upscale, name

    @override
    def forward(self, lr: Tensor) -> Tensor:
        return self.upscale(lr).to(lr.device)


def _adapted(made: object, code: str, taps: Sequence[str]) -> Network:
    if isinstance(made, NetworkConfig):
        raise CodeError(f"{shown(code)} gives the numbers of a network: let it build() one")
    if not callable(made):
        raise CodeError(
            f"{shown(code)} gives {type(made).__name__}, but it is to give a module, or a function "
            "that maps (n, 3, h, w) in [0, 1] to (n, 3, h * scale, w * scale)"
        )
    try:
        if isinstance(made, nn.Module):
            return Opaque(made, taps=taps)
        return network_of(cast("Callable[[Tensor], Tensor]", made), code.rpartition(":")[2])
    except Exception as error:  # what it runs to find the scale is the user's as well
        raise CodeError(f"{shown(code)}: {error}") from error


def network_of(upscale: Callable[[Tensor], Tensor], name: str) -> Opaque:
    """A network of anything that enlarges, such as a session of another runtime.

    Raises:
        ValueError: If it does not enlarge by a whole factor.
    """
    scale: object = getattr(upscale, "scale", None)
    network = Opaque(Called(upscale, name), scale if isinstance(scale, int) else None)
    radius: object = getattr(upscale, "radius", None)
    multiple: object = getattr(upscale, "size_multiple", None)
    network.radius = radius if isinstance(radius, int) else None
    network.size_multiple = multiple if isinstance(multiple, int) else 1
    return network


def _digest(module: ModuleType, name: str, given: Mapping[str, object], network: Network) -> str:
    whole = hashlib.sha256()
    if module.__file__ is not None:
        whole.update(Path(module.__file__).read_bytes())
    whole.update(f"\n{name} {sorted(given.items())!r}\n".encode())
    whole.update(tensors_sha256(network.state_dict()).encode())
    return whole.hexdigest()
