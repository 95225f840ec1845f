"""SwinIR: attention inside windows that every second layer shifts by half a window.

Liang, Cao, Sun, Zhang, Van Gool, Timofte, "SwinIR: Image Restoration Using Swin Transformer", ICCVW
2021, arXiv:2108.10257. Parameters are named as in the authors' code and in BasicSR. Unlike there
nothing depends on a size seen in training: which pixels may attend to each other follows from the
input's size at each call, so that a model trained on 48 pixels reads one trained on 64 (methods.md
D11), and an exported graph takes any size.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  the name everybody knows
from typing_extensions import override

from dukd.networks import layouts
from dukd.networks.base import Layout, Network, NetworkConfig, Recognized, Staged
from dukd.networks.layers import (
    DIV2K_MEAN,
    TAIL_RADIUS,
    Mean,
    Range,
    Upsampler,
    check_numbers,
    upsampler_steps,
)
from dukd.networks.windows import (
    Closing,
    FirstGroup,
    Group,
    TokenNorm,
    relative_positions,
    shift_mask,
)

_LARGEST_WINDOW = 64
_JPEG_WINDOW = 7
"""Window of the models against JPEG, the only ones with the range 255."""
_JPEG_SIZE = 126
"""Pixels on a side that they were trained with."""
TAIL_WIDTH = 64
"""Channels of the upsampler, whatever the width of the network."""


SwinIRUpsampler = Literal["pixelshuffle", "pixelshuffledirect", "nearest+conv", "none"]


@dataclass(frozen=True, kw_only=True)
class SwinIRConfig(NetworkConfig):
    """The numbers of a SwinIR; the defaults are the classical model's."""

    name: ClassVar[str] = "swinir"
    unseen = frozenset({"value_range", "mean", "stochastic_depth"})
    training_only = frozenset({"stochastic_depth"})

    width: int = 180
    """Channels of the features."""
    depths: tuple[int, ...] = (6, 6, 6, 6, 6, 6)
    """Layers of each group."""
    heads: tuple[int, ...] = (6, 6, 6, 6, 6, 6)
    """Attention heads of each group; each divides the width."""
    window: int = 8
    """Pixels on a side of a window, 7 in the models against JPEG; images are padded to a multiple
    of it."""
    mlp_ratio: float = 2.0
    """Channels inside the feed-forward networks, as a multiple of the width."""
    upsampler: SwinIRUpsampler = "pixelshuffle"
    """``pixelshuffledirect`` is the light model's single convolution, ``nearest+conv`` that of the
    models for real photographs, ``none`` of those that restore at scale 1."""
    value_range: float = 1.0
    """White inside the network."""
    mean: Mean = DIV2K_MEAN
    """RGB subtracted from the input and added to the output, in [0, 1]."""
    stochastic_depth: float = 0.0
    """Probability of leaving out a branch of the last layer while training, in [0, 1); it rises
    linearly from 0 at the first layer. The authors use 0.1. Has no effect outside training."""

    def __post_init__(self) -> None:
        """Refuse numbers that make no network."""
        if self.upsampler not in get_args(SwinIRUpsampler):
            raise ValueError(
                f"SwinIR: upsampler is one of {', '.join(get_args(SwinIRUpsampler))}, but got "
                f"{self.upsampler!r}"
            )
        if self.upsampler == "pixelshuffle":
            upsampler_steps(self.scale)
        fixed = {"nearest+conv": (2, 4, 8), "none": (1,)}.get(self.upsampler)
        if fixed is not None and self.scale not in fixed:
            raise ValueError(
                f"SwinIR: the upsampler {self.upsampler} makes the scales {fixed}, but got "
                f"{self.scale}"
            )
        counts = {
            "scale": self.scale,
            "width": self.width,
            "groups": len(self.depths),
            "window": self.window,
        }
        counts |= {
            "layers of a group": min(self.depths, default=0),
            "layers of the longest group": max(self.depths, default=0),
            "heads": min(self.heads, default=0),
        }
        counts["channels of the feed-forward networks"] = int(self.width * self.mlp_ratio)
        check_numbers("SwinIR", counts=counts, value_range=self.value_range, mean=self.mean)
        if len(self.depths) != len(self.heads):
            raise ValueError(
                f"SwinIR: depths {self.depths} and heads {self.heads} name different numbers of "
                "groups"
            )
        if any(self.width % heads for heads in self.heads):
            raise ValueError(
                f"SwinIR: the width {self.width} is not a multiple of the heads {self.heads}"
            )
        if not 2 <= self.window <= _LARGEST_WINDOW:
            raise ValueError(
                f"SwinIR: window is at least 2, since layers shift it by half, and at most "
                f"{_LARGEST_WINDOW}, but got {self.window}"
            )
        if not 0 <= self.stochastic_depth < 1:
            raise ValueError(
                f"SwinIR: stochastic_depth lies in [0, 1), but got {self.stochastic_depth}"
            )

    @override
    def build(self) -> "SwinIR":
        return SwinIR(self)

    @classmethod
    @override
    def layouts(cls) -> tuple[Layout, ...]:
        return (Official(), BasicSR())

    @override
    def describe(self) -> str:
        size = f"{self.width} channels, layers {'+'.join(map(str, self.depths))}"
        return f"SwinIR x{self.scale}, {size}, window {self.window}, {self.upsampler}"


def swinir_teacher(scale: int) -> SwinIRConfig:
    """Classical SwinIR: 180 channels, 6 groups of 6 layers, 11.9 million parameters."""
    return SwinIRConfig(scale=scale)


def swinir_student(scale: int) -> SwinIRConfig:
    """DUKD's student: 60 channels, 4 groups of 6 layers, 1.2 million parameters."""
    return SwinIRConfig(scale=scale, width=60, depths=(6, 6, 6, 6), heads=(6, 6, 6, 6))


def swinir_light(scale: int) -> SwinIRConfig:
    """The authors' light model.

    The student's body with an upsampler of one convolution, 0.9 million parameters.
    """
    return SwinIRConfig(
        scale=scale,
        width=60,
        depths=(6, 6, 6, 6),
        heads=(6, 6, 6, 6),
        upsampler="pixelshuffledirect",
    )


class SwinIR(Staged):
    """SwinIR; its stages are the groups, and the norm with the convolution that closes the body.

    Its ``radius`` counts from the worst place in a window, and holds for tiles that start at
    multiples of the window. A tile that starts elsewhere is cut into other windows, and is never
    exact whatever its overlap.
    """

    fp16_safe: ClassVar[bool] = False
    channels_last: ClassVar[bool] = False

    def __init__(self, config: SwinIRConfig) -> None:
        width = config.width
        super().__init__(config, width=width, size_multiple=config.window, radius=_radius(config))
        self.range = Range(config.value_range, config.mean)
        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        self.patch_embed = TokenNorm(width)
        chances = torch.linspace(
            0, config.stochastic_depth, sum(config.depths), device="cpu"
        ).split(list(config.depths))
        self.layers = nn.ModuleList(
            Group(width, heads, config.window, int(width * config.mlp_ratio), drop.tolist())
            for heads, drop in zip(config.heads, chances, strict=True)
        )
        self.norm = nn.LayerNorm(width)
        self.conv_after_body = nn.Conv2d(width, width, 3, padding=1)
        self.upsampler = config.upsampler
        if config.upsampler in {"pixelshuffle", "nearest+conv"}:
            self.tail_radius = 1 + TAIL_RADIUS
        self._build_tail(config)
        # A row of stages in a tuple: their parameters are registered above, under the names other
        # people's files have.
        first, *others = self.layers
        self.row = (
            FirstGroup(self.patch_embed, first),
            *others,
            Closing(self.norm, self.conv_after_body),
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def _build_tail(self, config: SwinIRConfig) -> None:
        self.conv_before_upsample: nn.Module = nn.Identity()
        self.upsample: nn.Module = nn.Identity()
        self.conv_last: nn.Module = nn.Identity()
        if config.upsampler == "pixelshuffledirect":
            last = nn.Conv2d(config.width, 3 * config.scale**2, 3, padding=1)
            self.upsample = nn.Sequential(last, nn.PixelShuffle(config.scale))
            return
        if config.upsampler == "none":
            self.conv_last = nn.Conv2d(config.width, 3, 3, padding=1)
            return
        self.conv_before_upsample = nn.Sequential(
            nn.Conv2d(config.width, TAIL_WIDTH, 3, padding=1), nn.LeakyReLU()
        )
        if config.upsampler == "pixelshuffle":
            self.upsample = Upsampler(config.scale, TAIL_WIDTH)
        else:
            for number in range(1, config.scale.bit_length()):
                conv = nn.Conv2d(TAIL_WIDTH, TAIL_WIDTH, 3, padding=1)
                self.add_module(f"conv_up{number}", conv)
            self.conv_hr = nn.Conv2d(TAIL_WIDTH, TAIL_WIDTH, 3, padding=1)
        self.conv_last = nn.Conv2d(TAIL_WIDTH, 3, 3, padding=1)

    @property
    @override
    def stages(self) -> Sequence[nn.Module]:
        """Groups, the first behind the embedding's norm; then what closes the body."""
        return self.row

    @override
    def head(self, lr: Tensor) -> Tensor:
        return self.conv_first(self.range.enter(lr))

    @override
    def tail(self, x: Tensor, kept: Mapping[int, Tensor], lr: Tensor) -> Tensor:
        x = x + kept[0]
        if self.upsampler == "none":
            return self.range.leave(self.range.enter(lr) + self.conv_last(x))
        x = self.conv_before_upsample(x)
        if self.upsampler == "nearest+conv":
            for number in range(1, self.scale.bit_length()):
                x = F.interpolate(x, scale_factor=2, mode="nearest")
                x = F.leaky_relu(self.get_submodule(f"conv_up{number}")(x), 0.2)
            x = F.leaky_relu(self.conv_hr(x), 0.2)
        return self.range.leave(self.conv_last(self.upsample(x)))


def _radius(config: SwinIRConfig) -> int:
    """Follow the pixels an output depends on back to the input, for each place in a window."""
    window, reach = config.window, 0
    for place in range(window):
        first = last = place
        tail = 1 if config.upsampler in {"pixelshuffledirect", "none"} else 1 + TAIL_RADIUS
        first, last = first - tail - 1, last + tail + 1
        for depth in reversed(config.depths):
            first, last = first - 1, last + 1
            for number in reversed(range(depth)):
                shift = number % 2 * (window // 2)
                first = (first - shift) // window * window + shift
                last = (last - shift) // window * window + shift + window - 1
        reach = max(reach, place - first + 1, last - place + 1)
    return reach


_FOLLOWED = ("attn_mask", "relative_position_index")
"""Endings of tensors that follow from sizes, so that they are made anew."""
_OTHERS = {
    "layers.0.conv.0.weight": "SwinIR's closing of groups by three convolutions",
    "absolute_pos_embed": "SwinIR's absolute position embedding",
}


class Official(Layout):
    """The authors' names, which are ours, with masks for one training size."""

    name = "official"
    signature = (
        r"layers\.\d+\.residual_group\.blocks\.\d+\.attn\.qkv\.weight",
        r"conv_after_body\.weight",
    )

    @override
    def read(self, tensors: Mapping[str, Tensor]) -> Recognized:
        kept = {name: t for name, t in tensors.items() if not name.endswith(_FOLLOWED)}
        for name, what in _OTHERS.items():
            if name in kept:
                raise layouts.LayoutError(f"{what} is not among what dukd has")
        block = "residual_group.blocks.0"
        tables = [
            layouts.shape(kept, f"layers.{group}.{block}.attn.relative_position_bias_table", 2)
            for group in range(layouts.count(kept, r"layers\.(\d+)\."))
        ]
        width = layouts.shape(kept, "conv_first.weight", 4)[0]
        upsampler, scale = _tail(kept)
        config = SwinIRConfig(
            scale=scale,
            width=width,
            depths=tuple(
                layouts.count(kept, rf"layers\.{group}\.residual_group\.blocks\.(\d+)\.")
                for group in range(len(tables))
            ),
            heads=tuple(table[1] for table in tables),
            window=(math.isqrt(tables[0][0]) + 1) // 2,
            mlp_ratio=layouts.shape(kept, f"layers.0.{block}.mlp.fc1.weight", 2)[0] / width,
            upsampler=upsampler,
        )
        return Recognized(config=config, tensors=kept)

    @override
    def closed(self, config: NetworkConfig) -> str:
        swinir = cast("SwinIRConfig", config)
        usual = 255.0 if swinir.window == _JPEG_WINDOW else 1.0
        if swinir.value_range != usual or swinir.mean != DIV2K_MEAN:
            return "spandrel takes every SwinIR for one of the usual range and mean"
        return ""

    @override
    def write(
        self, network: Network, tensors: Mapping[str, Tensor], *, training_size: int
    ) -> dict[str, Tensor]:
        config = cast("SwinIRConfig", network.config)
        if config.window == _JPEG_WINDOW and training_size % _JPEG_WINDOW:
            training_size = _JPEG_SIZE
        return dict(tensors) | _buffers(config, training_size)


class BasicSR(Official):
    """The same names, which BasicSR's code has too."""

    name = "basicsr"


def _tail(tensors: Mapping[str, Tensor]) -> tuple[SwinIRUpsampler, int]:
    """The upsampler and the scale that the tensors after the body make."""
    if "conv_up1.weight" in tensors:
        steps = layouts.count(tensors, r"conv_up(\d)\.weight")
        return "nearest+conv", 1 << min(steps, layouts.LARGEST_SCALE.bit_length())
    if "upsample.0.weight" not in tensors:
        return "none", 1
    if "conv_last.weight" in tensors:
        return "pixelshuffle", layouts.upsampler_scale(tensors)
    channels = layouts.shape(tensors, "upsample.0.weight", 4)[0]
    return "pixelshuffledirect", layouts.shuffle_factor(channels, 3)


def _buffers(config: SwinIRConfig, size: int) -> dict[str, Tensor]:
    if size <= config.window or size % config.window:
        raise layouts.LayoutError(
            "SwinIR's masks need a training size that is a multiple of the window "
            f"{config.window} and above it, but got {size}"
        )
    buffers: dict[str, Tensor] = {}
    for group, depth in enumerate(config.depths):
        for number in range(depth):
            block = f"layers.{group}.residual_group.blocks.{number}"
            buffers[f"{block}.attn.relative_position_index"] = relative_positions(config.window)
            if number % 2:
                like = torch.zeros(())
                buffers[f"{block}.attn_mask"] = shift_mask(size, size, config.window, like)
    return buffers
