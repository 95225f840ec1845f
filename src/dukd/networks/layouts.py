"""Which network a set of tensors is, told from their names and shapes; and its names in other people's files.

BasicSR's names are ours. EDSR and RCAN as their authors published them differ in every name, and
carry the mean as two 1x1 convolutions; SwinIR's files hold masks and indices that follow from its
sizes.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from dukd.networks.base import NetworkConfig
from dukd.networks.edsr import EDSRConfig
from dukd.networks.files.safe import WeightsError
from dukd.networks.layers import DIV2K_MEAN, Mean
from dukd.networks.rcan import RCANConfig
from dukd.networks.smfanet import SMFANetConfig
from dukd.networks.swinir import SwinIRConfig, relative_positions, shift_mask

Layout = Literal["dukd", "basicsr", "official"]
Tensors = Mapping[str, Tensor]

LACKS_SKIP = (
    "has no skip, so a file in that layout would give other images: write .safetensors (the "
    "layout dukd) or .onnx, which hold it"
)
FREE_FIELDS = ("value_range", "mean", "residual_scale", "skip", "stochastic_depth")
"""Numbers of a config that no shape shows."""


@dataclass(frozen=True, kw_only=True)
class Recognized:
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
        case RCANConfig():
            size = f"{config.width} channels, {config.groups} groups of {config.blocks} blocks"
            return f"RCAN x{config.scale}, {size}"
        case SwinIRConfig():
            size = (
                f"{config.width} channels, layers {'+'.join(map(str, config.depths))}, window "
                f"{config.window}"
            )
            return f"SwinIR x{config.scale}, {size}, {config.upsampler}"
        case SMFANetConfig():
            return f"SMFANet x{config.scale}, {config.width} channels, {config.blocks} blocks"
        case _:
            return f"{config.name} x{config.scale}"


def recognize(tensors: Tensors) -> Recognized:
    """Tell which network the tensors make.

    Raises:
        WeightsError: If no network fits; the message says what they look like.
    """
    for signature, recognizer in _SIGNATURES.items():
        if any(re.fullmatch(signature, name) for name in tensors):
            try:
                return recognizer(tensors)
            except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
                name = recognizer.__name__.removeprefix("_").partition("_")[0]
                raise WeightsError(f"this looks like {name}, but is not whole: {error}") from error
    first = ", ".join(list(tensors)[:5])
    raise WeightsError(
        f"this is none of EDSR, RCAN, SwinIR, SMFANet; its first tensors are {first}"
    )


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
    if factor < 2 or width * factor**2 != channels:
        raise WeightsError(
            f"{channels} channels before upsampling are no multiple of {width} by a square"
        )
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
        if weight.shape != (3, 3, 1, 1) or not torch.equal(
            weight.reshape(3, 3).double(), torch.eye(3).double()
        ):
            raise WeightsError(
                f"{which}_mean.weight divides by a deviation, which dukd's networks do not"
            )
    if subtracted.shape != (3,) or not torch.equal(subtracted, -added):
        raise WeightsError("sub_mean and add_mean do not undo each other")
    value_range = 255.0 if added.abs().max() > 1 else 1.0
    exact = [float(value) / value_range for value in added]
    tidy = [
        round(value, 4) for value in exact
    ]  # 0.4488 instead of 0.44880001 where float32 cannot tell them apart
    same = torch.allclose(
        torch.tensor(tidy, dtype=torch.float64) * value_range, added, rtol=1e-6, atol=0
    )
    r, g, b = tidy if same else exact
    rest = {
        name: tensor
        for name, tensor in tensors.items()
        if not name.startswith(("sub_mean.", "add_mean."))
    }
    return rest, value_range, (r, g, b)


# Each network


def _edsr_config(tensors: Tensors) -> EDSRConfig:
    width = _shape(tensors, "conv_first.weight", 4)[0]
    blocks = _count(tensors, r"body\.(\d+)\.conv1\.weight")
    deep = blocks >= 32 or width >= 256
    return EDSRConfig(
        scale=_upsampler_scale(tensors),
        width=width,
        blocks=blocks,
        residual_scale=0.1 if deep else 1.0,
    )


def _edsr_basicsr(tensors: Tensors) -> Recognized:
    return Recognized(
        config=_edsr_config(tensors),
        layout="basicsr",
        tensors=dict(tensors),
        shown=frozenset(),
        assumed=frozenset({"value_range", "mean", "residual_scale"}),
    )


def _edsr_official(tensors: Tensors) -> Recognized:
    shift = _mean_shift(tensors)
    rest, value_range, mean = shift or (dict(tensors), 255.0, DIV2K_MEAN)
    shown = frozenset({"value_range", "mean"}) if shift else frozenset[str]()
    renamed = _ours(rest, _EDSR_OFFICIAL)
    return Recognized(
        config=replace(_edsr_config(renamed), value_range=value_range, mean=mean),
        layout="official",
        tensors=renamed,
        shown=shown,
        assumed=frozenset({"value_range", "mean", "residual_scale"}) - shown,
    )


def _rcan_config(tensors: Tensors) -> RCANConfig:
    width = _shape(tensors, "conv_first.weight", 4)[0]
    return RCANConfig(
        scale=_upsampler_scale(tensors),
        width=width,
        groups=_count(tensors, r"body\.(\d+)\.residual_group\."),
        blocks=_count(tensors, r"body\.0\.residual_group\.(\d+)\.rcab\.0\.weight"),
        squeeze=width // _shape(tensors, "body.0.residual_group.0.rcab.3.attention.1.weight", 4)[0],
    )


def _rcan_basicsr(tensors: Tensors) -> Recognized:
    return Recognized(
        config=_rcan_config(tensors),
        layout="basicsr",
        tensors=dict(tensors),
        shown=frozenset(),
        assumed=frozenset({"value_range", "mean"}),
    )


def _rcan_official(tensors: Tensors) -> Recognized:
    shift = _mean_shift(tensors)
    rest, value_range, mean = shift or (dict(tensors), 255.0, DIV2K_MEAN)
    settled = frozenset({"value_range", "mean"})
    renamed = _ours(rest, _RCAN_OFFICIAL)
    return Recognized(
        config=replace(_rcan_config(renamed), value_range=value_range, mean=mean),
        layout="official",
        tensors=renamed,
        shown=settled if shift else frozenset[str](),
        assumed=frozenset[str]() if shift else settled,
    )


def _swinir_official(tensors: Tensors) -> Recognized:
    followed = ("attn_mask", "relative_position_index")  # from the sizes, so they are made anew
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(followed)}
    for name, what in _OTHER_SWINIRS.items():
        if name in kept:
            raise WeightsError(f"{what} is not among what dukd has; classical and light models are")
    width = _shape(kept, "conv_first.weight", 4)[0]
    tables = [
        _shape(kept, f"layers.{group}.residual_group.blocks.0.attn.relative_position_bias_table", 2)
        for group in range(_count(kept, r"layers\.(\d+)\."))
    ]
    light = "conv_last.weight" not in kept
    config = SwinIRConfig(
        scale=_pixel_shuffle(_shape(kept, "upsample.0.weight", 4)[0], 3)
        if light
        else _upsampler_scale(kept),
        width=width,
        depths=tuple(
            _count(kept, rf"layers\.{group}\.residual_group\.blocks\.(\d+)\.")
            for group in range(len(tables))
        ),
        heads=tuple(table[1] for table in tables),
        window=(math.isqrt(tables[0][0]) + 1) // 2,
        mlp_ratio=_shape(kept, "layers.0.residual_group.blocks.0.mlp.fc1.weight", 2)[0] / width,
        upsampler="pixelshuffledirect" if light else "pixelshuffle",
    )
    return Recognized(
        config=config,
        layout="official" if len(kept) < len(tensors) else "basicsr",
        tensors=kept,
        shown=frozenset(),
        assumed=frozenset({"value_range", "mean"}),
    )


_OTHER_SWINIRS = {
    "conv_up1.weight": "the upsampler nearest+conv of SwinIR for real photographs",
    "layers.0.conv.0.weight": "SwinIR's closing of groups by three convolutions",
    "absolute_pos_embed": "SwinIR's absolute position embedding",
}


def _smfanet_official(tensors: Tensors) -> Recognized:
    width = _shape(tensors, "to_feat.weight", 4)[0]
    config = SMFANetConfig(
        scale=_pixel_shuffle(_shape(tensors, "to_img.0.weight", 4)[0], 3),
        width=width,
        blocks=_count(tensors, r"feats\.(\d+)\.smfa\.alpha"),
        expansion=_shape(tensors, "feats.0.pcfn.conv_0.weight", 4)[0] / width,
    )
    return Recognized(
        config=config,
        layout="official",
        tensors=dict(tensors),
        shown=frozenset(),
        assumed=frozenset(),
    )


_SIGNATURES: dict[str, Callable[[Tensors], Recognized]] = {
    r"body\.\d+\.conv1\.weight": _edsr_basicsr,
    r"body\.\d+\.body\.0\.weight": _edsr_official,
    r"body\.\d+\.residual_group\.\d+\.rcab\.0\.weight": _rcan_basicsr,
    r"body\.\d+\.body\.\d+\.body\.0\.weight": _rcan_official,
    r"layers\.\d+\.residual_group\.blocks\.\d+\.attn\.qkv\.weight": _swinir_official,
    r"feats\.\d+\.smfa\.alpha": _smfanet_official,
}

# Names: the authors' to ours; p is weight or bias, the others are numbers, last and inner those
# that close a row

_ENDS = {
    "head.0.{p}": "conv_first.{p}",
    "tail.0.{n}.{p}": "upsample.{n}.{p}",
    "tail.1.{p}": "conv_last.{p}",
}
_EDSR_OFFICIAL = _ENDS | {
    "body.{n}.body.0.{p}": "body.{n}.conv1.{p}",
    "body.{n}.body.2.{p}": "body.{n}.conv2.{p}",
    "body.{last}.{p}": "conv_after_body.{p}",
}
_RCAN_OFFICIAL = _ENDS | {
    "body.{g}.body.{n}.body.0.{p}": "body.{g}.residual_group.{n}.rcab.0.{p}",
    "body.{g}.body.{n}.body.2.{p}": "body.{g}.residual_group.{n}.rcab.2.{p}",
    "body.{g}.body.{n}.body.3.conv_du.0.{p}": "body.{g}.residual_group.{n}.rcab.3.attention.1.{p}",
    "body.{g}.body.{n}.body.3.conv_du.2.{p}": "body.{g}.residual_group.{n}.rcab.3.attention.3.{p}",
    "body.{g}.body.{inner}.{p}": "body.{g}.conv.{p}",
    "body.{last}.{p}": "conv_after_body.{p}",
}


def _ours(tensors: Tensors, names: Mapping[str, str]) -> dict[str, Tensor]:
    return {_renamed(name, names, {}): tensor for name, tensor in tensors.items()}


def _theirs(
    tensors: Tensors, names: Mapping[str, str], numbers: Mapping[str, int]
) -> dict[str, Tensor]:
    turned = {ours: theirs for theirs, ours in names.items()}
    return {_renamed(name, turned, numbers): tensor for name, tensor in tensors.items()}


def _renamed(name: str, names: Mapping[str, str], numbers: Mapping[str, int]) -> str:
    for old, new in names.items():
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(old)).replace(
            r"(?P<p>\d+)", "(?P<p>weight|bias)"
        )
        if found := re.fullmatch(pattern, name):
            return new.format(**numbers, **found.groupdict())
    return name


def to_official(
    config: NetworkConfig, tensors: Tensors, *, training_size: int
) -> dict[str, Tensor]:
    """Give tensors the names, and the companions, that the authors' code expects.

    Args:
        config: The network's numbers.
        tensors: Its tensors, under our names.
        training_size: Pixels on a side for which SwinIR's masks are made.

    Raises:
        WeightsError: If the authors' network cannot do what ours does.
    """
    match config:
        case EDSRConfig():
            if config.skip != "none":
                raise WeightsError(f"the authors' EDSR {LACKS_SKIP}")
            renamed = _theirs(tensors, _EDSR_OFFICIAL, {"last": config.blocks})
            return _mean_convolutions(config.value_range, config.mean) | renamed
        case RCANConfig():
            renamed = _theirs(
                tensors, _RCAN_OFFICIAL, {"last": config.groups, "inner": config.blocks}
            )
            return _mean_convolutions(config.value_range, config.mean) | renamed
        case SwinIRConfig():
            return dict(tensors) | _swinir_buffers(config, training_size)
        case _:
            return dict(tensors)


def _mean_convolutions(value_range: float, mean: Mean) -> dict[str, Tensor]:
    shift = (torch.tensor(mean, dtype=torch.float64) * value_range).float()
    identity = torch.eye(3).reshape(3, 3, 1, 1)
    return {
        "sub_mean.weight": identity,
        "sub_mean.bias": -shift,
        "add_mean.weight": identity.clone(),
        "add_mean.bias": shift,
    }


def _swinir_buffers(config: SwinIRConfig, size: int) -> dict[str, Tensor]:
    if size <= config.window or size % config.window:
        raise WeightsError(
            "SwinIR's masks need a training size that is a multiple of the window "
            f"{config.window} and above it, but got {size}"
        )
    buffers: dict[str, Tensor] = {}
    for group, depth in enumerate(config.depths):
        for number in range(depth):
            block = f"layers.{group}.residual_group.blocks.{number}"
            buffers[f"{block}.attn.relative_position_index"] = relative_positions(config.window)
            if number % 2:
                buffers[f"{block}.attn_mask"] = shift_mask(
                    size, size, config.window, torch.zeros(())
                )
    return buffers
