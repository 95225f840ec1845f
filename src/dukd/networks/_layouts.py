"""Which network a set of tensors is, told from their names and shapes; and its names in other people's files.

BasicSR's names are ours. EDSR and RCAN as their authors published them differ in every name, and carry the mean as two
1x1 convolutions; SwinIR's files hold masks and indices that follow from its sizes.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from dukd.networks._layers import DIV2K_MEAN, Mean
from dukd.networks._network import NetworkConfig
from dukd.networks._tensorfile import WeightsError
from dukd.networks.edsr import EDSRConfig
from dukd.networks.smfanet import SMFANetConfig

Layout = Literal["dukd", "basicsr", "official"]
Tensors = Mapping[str, Tensor]

FREE_FIELDS = ("value_range", "mean", "residual_scale", "skip", "stochastic_depth")
"""Numbers of a config that no shape shows."""


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """A guess that fits names and shapes."""

    config: NetworkConfig
    layout: Layout
    tensors: dict[str, Tensor]
    """Under our names."""
    shown: frozenset[str]
    """Free fields that the tensors settle."""
    assumed: frozenset[str]
    """Free fields that are a guess."""


def describe(config: NetworkConfig) -> str:
    """Say what a network is, as in ``EDSR x2, 64 channels, 16 blocks``."""
    match config:
        case EDSRConfig():
            return f"EDSR x{config.scale}, {config.width} channels, {config.blocks} blocks"
        case SMFANetConfig():
            return f"SMFANet x{config.scale}, {config.width} channels, {config.blocks} blocks"
        case _:
            return f"{config.name} x{config.scale}"


def recognise(tensors: Tensors) -> Recognised:
    """Tell which network the tensors make.

    Raises:
        WeightsError: If no network fits; the message says what they look like.
    """
    for signature, recogniser in _SIGNATURES.items():
        if any(re.fullmatch(signature, name) for name in tensors):
            try:
                return recogniser(tensors)
            except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
                name = recogniser.__name__.removeprefix("_").partition("_")[0]
                raise WeightsError(f"this looks like {name}, but is not whole: {error}") from error
    first = ", ".join(list(tensors)[:5])
    raise WeightsError(f"this is none of EDSR, RCAN, SwinIR, SMFANet; its first tensors are {first}")


# What the tensors show


def _count(tensors: Tensors, pattern: str) -> int:
    """How many different numbers stand in the names that match."""
    return len({found[1] for name in tensors if (found := re.match(pattern, name))})


def _shape(tensors: Tensors, name: str, rank: int) -> Sequence[int]:
    if name not in tensors:
        raise WeightsError(f"tensor {name} is missing")
    shape = tuple(tensors[name].shape)
    if len(shape) != rank:
        raise WeightsError(f"tensor {name} is {shape}, but has {rank} dimensions")
    return shape


def _pixel_shuffle(channels: int, width: int) -> int:
    """Factor of a convolution whose channels a pixel shuffle folds."""
    factor = round((channels / width) ** 0.5)
    if factor < 2 or width * factor**2 != channels:  # noqa: PLR2004  the smallest factor
        raise WeightsError(f"{channels} channels before upsampling are no multiple of {width} by a square")
    return factor


def _upsampler_scale(tensors: Tensors) -> int:
    """Product of the factors of ``upsample.0``, ``upsample.2``, ..."""
    scale = 1
    for name in tensors:
        if re.fullmatch(r"upsample\.\d+\.weight", name):
            channels, width = _shape(tensors, name, 4)[:2]
            scale *= _pixel_shuffle(channels, width)
    if scale == 1:
        raise WeightsError("it has no upsampler")
    return scale


def _mean_shift(tensors: Tensors) -> tuple[dict[str, Tensor], float, Mean] | None:
    """Take ``sub_mean`` and ``add_mean`` out: what is left, the range and the mean; None where there are none."""
    if "sub_mean.bias" not in tensors:
        return None
    subtracted, added = (tensors[f"{which}_mean.bias"].double() for which in ("sub", "add"))
    for which in ("sub", "add"):
        weight = tensors[f"{which}_mean.weight"]
        if weight.shape != (3, 3, 1, 1) or not torch.equal(weight.reshape(3, 3).double(), torch.eye(3).double()):
            raise WeightsError(f"{which}_mean.weight divides by a deviation, which dukd's networks do not")
    if subtracted.shape != (3,) or not torch.equal(subtracted, -added):
        raise WeightsError("sub_mean and add_mean do not undo each other")
    value_range = 255.0 if added.abs().max() > 1 else 1.0
    exact = [float(value) / value_range for value in added]
    tidy = [round(value, 4) for value in exact]  # 0.4488 instead of 0.44880001 where float32 cannot tell them apart
    same = torch.allclose(torch.tensor(tidy, dtype=torch.float64) * value_range, added, rtol=1e-6, atol=0)
    r, g, b = tidy if same else exact
    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith(("sub_mean.", "add_mean."))}
    return rest, value_range, (r, g, b)


# Each network


def _edsr_config(tensors: Tensors) -> EDSRConfig:
    width = _shape(tensors, "conv_first.weight", 4)[0]
    blocks = _count(tensors, r"body\.(\d+)\.conv1\.weight")
    deep = blocks >= 32 or width >= 256  # noqa: PLR2004  EDSR of the paper and DUKD's student, against the baseline
    return EDSRConfig(scale=_upsampler_scale(tensors), width=width, blocks=blocks, residual_scale=0.1 if deep else 1.0)


def _edsr_basicsr(tensors: Tensors) -> Recognised:
    return Recognised(
        config=_edsr_config(tensors),
        layout="basicsr",
        tensors=dict(tensors),
        shown=frozenset(),
        assumed=frozenset({"value_range", "mean", "residual_scale"}),
    )


def _edsr_official(tensors: Tensors) -> Recognised:
    shift = _mean_shift(tensors)
    rest, value_range, mean = shift or (dict(tensors), 255.0, DIV2K_MEAN)
    shown = frozenset({"value_range", "mean"}) if shift else frozenset[str]()
    renamed = {_rename(name, _EDSR_OFFICIAL): tensor for name, tensor in rest.items()}
    return Recognised(
        config=replace(_edsr_config(renamed), value_range=value_range, mean=mean),
        layout="official",
        tensors=renamed,
        shown=shown,
        assumed=frozenset({"value_range", "mean", "residual_scale"}) - shown,
    )


def _smfanet_official(tensors: Tensors) -> Recognised:
    width = _shape(tensors, "to_feat.weight", 4)[0]
    config = SMFANetConfig(
        scale=_pixel_shuffle(_shape(tensors, "to_img.0.weight", 4)[0], 3),
        width=width,
        blocks=_count(tensors, r"feats\.(\d+)\.smfa\.alpha"),
        expansion=_shape(tensors, "feats.0.pcfn.conv_0.weight", 4)[0] / width,
    )
    return Recognised(config=config, layout="official", tensors=dict(tensors), shown=frozenset(), assumed=frozenset())


_SIGNATURES: dict[str, Callable[[Tensors], Recognised]] = {
    r"body\.\d+\.conv1\.weight": _edsr_basicsr,
    r"body\.\d+\.body\.0\.weight": _edsr_official,
    r"feats\.\d+\.smfa\.alpha": _smfanet_official,
}

# Names: (pattern in the authors' file, ours, pattern of ours, theirs), the first that fits

_Names = Sequence[tuple[str, str, str, str]]
_TAIL_AND_HEAD: _Names = (
    (r"head\.0\.(.*)", r"conv_first.\1", r"conv_first\.(.*)", r"head.0.\1"),
    (r"tail\.0\.(.*)", r"upsample.\1", r"upsample\.(.*)", r"tail.0.\1"),
    (r"tail\.1\.(.*)", r"conv_last.\1", r"conv_last\.(.*)", r"tail.1.\1"),
)
_EDSR_OFFICIAL: _Names = (
    *_TAIL_AND_HEAD,
    (r"body\.(\d+)\.body\.0\.(.*)", r"body.\1.conv1.\2", r"body\.(\d+)\.conv1\.(.*)", r"body.\1.body.0.\2"),
    (r"body\.(\d+)\.body\.2\.(.*)", r"body.\1.conv2.\2", r"body\.(\d+)\.conv2\.(.*)", r"body.\1.body.2.\2"),
    (r"body\.\d+\.(weight|bias)", r"conv_after_body.\1", r"conv_after_body\.(.*)", r"body.LAST.\1"),
)


def _rename(name: str, names: _Names) -> str:
    for theirs, ours, _, _ in names:
        if re.fullmatch(theirs, name):
            return re.sub(theirs, ours, name)
    return name


def to_official(config: NetworkConfig, tensors: Tensors) -> dict[str, Tensor]:
    """Give tensors the names, and the companions, that the authors' code expects.

    Raises:
        WeightsError: If the authors' network cannot do what ours does.
    """
    match config:
        case EDSRConfig():
            if config.skip != "none":
                raise WeightsError("the authors' EDSR has no skip, so a file in their layout would give other pictures")
            return _with_mean_shift(config.value_range, config.mean, tensors, _EDSR_OFFICIAL, last=config.blocks)
        case _:
            return dict(tensors)


def _with_mean_shift(
    value_range: float, mean: Mean, tensors: Tensors, names: _Names, *, last: int
) -> dict[str, Tensor]:
    shift = (torch.tensor(mean, dtype=torch.float64) * value_range).float()
    identity = torch.eye(3).reshape(3, 3, 1, 1)
    renamed = {"sub_mean.weight": identity, "sub_mean.bias": -shift}
    renamed |= {"add_mean.weight": identity.clone(), "add_mean.bias": shift}
    for name, tensor in tensors.items():
        theirs = next((re.sub(ours, new, name) for _, _, ours, new in names if re.fullmatch(ours, name)), name)
        renamed[theirs.replace("LAST", str(last))] = tensor
    return renamed
