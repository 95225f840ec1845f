"""Tell a network from the names and shapes of its tensors, whoever wrote them.

The layouts themselves stand in each network's own file (`NetworkConfig.layouts`), a plug-in's too;
here is what they share: trying all of them, looking at shapes, and renaming by patterns.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from dukd.core.registry import known
from dukd.networks.base import Layout, NetworkConfig, Recognized

Tensors = Mapping[str, Tensor]
LACKS_SKIP = (
    "has no skip, so a file in that layout would give other images: write .safetensors (the "
    "layout dukd) or .onnx, which hold it"
)
LARGEST_SCALE = 64
"""Greatest upscaling factor that tensors are taken to mean."""


class LayoutError(ValueError):
    """Tensors that make no network that is known."""


def all_layouts() -> list[tuple[type[NetworkConfig], Layout]]:
    """Every layout of every network that is known, a plug-in's too."""
    return [(one, layout) for one in known(NetworkConfig).values() for layout in one.layouts()]


def named(config: NetworkConfig, name: str) -> Layout:
    """A network's layout by its name.

    Raises:
        LayoutError: If it has none of that name.
    """
    found = {layout.name: layout for layout in config.layouts()}
    if not found:
        raise LayoutError(
            f"{config.name} is known to dukd alone: write a .safetensors file in the layout dukd"
        )
    if name not in found:
        raise LayoutError(
            f"{config.name} has no layout {name!r}: known are dukd, {', '.join(found)}"
        )
    return found[name]


def recognize(tensors: Tensors) -> tuple[Layout, Recognized] | None:
    """Tell which network the tensors make; None if they look like nothing that is known.

    Raises:
        LayoutError: If they look like a network but are not whole.
    """
    first: LayoutError | None = None
    for config, layout in all_layouts():
        if not all(
            any(re.fullmatch(pattern, name) for name in tensors) for pattern in layout.signature
        ):
            continue
        try:
            return layout, layout.read(tensors)
        except (KeyError, ValueError, IndexError, ArithmeticError) as error:
            first = first or LayoutError(
                f"this looks like {config.name}, but is not whole: {error}"
            )
    if first is not None:
        raise first
    return None


def count(tensors: Tensors, pattern: str) -> int:
    r"""How many different numbers stand in the names that begin with a pattern, in its group 1.

    Example:
        >>> count({"body.0.weight": Tensor(), "body.0.bias": Tensor()}, r"body\\.(\\d+)")
        1
    """
    return len({found[1] for name in tensors if (found := re.match(pattern, name))})


def shape(tensors: Tensors, name: str, rank: int) -> tuple[int, ...]:
    """Shape of a tensor of so many dimensions.

    Raises:
        ValueError: If it is missing or has others.
    """
    if name not in tensors:
        raise LayoutError(f"tensor {name} is missing")
    found = tuple(tensors[name].shape)
    if len(found) != rank:
        raise LayoutError(f"tensor {name} is {found}, but has {rank} dimensions")
    return found


def shuffle_factor(channels: int, width: int, *, least: int = 2) -> int:
    """Factor of a pixel shuffle that makes ``width`` channels of ``channels``.

    Raises:
        ValueError: If there is none.
    """
    factor = round((channels / width) ** 0.5)
    if not least <= factor <= LARGEST_SCALE or width * factor**2 != channels:
        raise LayoutError(
            f"{channels} channels before upsampling are not a multiple of {width} by a square"
        )
    return factor


def upsampler_scale(tensors: Tensors) -> int:
    """Product of the factors of ``upsample.0``, ``upsample.2``, ...

    Raises:
        ValueError: If there are none, or they are no factors.
    """
    scale = 1
    for name in tensors:
        if re.fullmatch(r"upsample\.\d+\.weight", name):
            scale *= shuffle_factor(*shape(tensors, name, 4)[:2])
    if not 1 < scale <= LARGEST_SCALE:
        raise LayoutError("it has no upsampler" if scale == 1 else f"its upsampler makes x{scale}")
    return scale


def ours(tensors: Tensors, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Give tensors our names: patterns such as ``tail.{n}.{p}``, theirs to ours.

    ``p`` stands for ``weight`` or ``bias``, any other word for a number.
    """
    return {_renamed(name, names, {}): tensor for name, tensor in tensors.items()}


def theirs(
    tensors: Tensors, names: Mapping[str, str], numbers: Mapping[str, int]
) -> dict[str, Tensor]:
    """Undo `ours`; ``numbers`` has those that our names do not show."""
    back = {ours: theirs for theirs, ours in names.items()}
    return {_renamed(name, back, numbers): tensor for name, tensor in tensors.items()}


def _renamed(name: str, names: Mapping[str, str], numbers: Mapping[str, int]) -> str:
    for old, new in names.items():
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(old)).replace(
            r"(?P<p>\d+)", "(?P<p>weight|bias)"
        )
        if found := re.fullmatch(pattern, name):
            return new.format(**numbers, **found.groupdict())
    return name
