"""SwinIR: attention inside windows that every second layer shifts by half a window.

Liang, Cao, Sun, Zhang, Van Gool, Timofte, "SwinIR: Image Restoration Using Swin Transformer", ICCVW
2021, arXiv:2108.10257. Parameters are named as in the authors' code and in BasicSR. Unlike there
nothing depends on a size seen in training: which pixels may attend to each other follows from the
input's size at each call, so that a model trained on 48 pixels reads one trained on 64 (methods.md
D11), and an exported graph takes any size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  the name everybody knows

from dukd.networks.base import NetworkConfig, Staged
from dukd.networks.layers import (
    DIV2K_MEAN,
    TAIL_RADIUS,
    Mean,
    Range,
    Upsampler,
    check_numbers,
    upsampler_steps,
)

TAIL_WIDTH = 64
"""Channels of the upsampler, whatever the width of the network."""
_APART = -100.0
"""Added to the logits of pixels that are neighbors only because the shift wrapped around; its
exponential is 4e-44."""


@dataclass(frozen=True, kw_only=True)
class SwinIRConfig(NetworkConfig):
    """The numbers of a SwinIR; the defaults are the classical model's."""

    name: ClassVar[str] = "swinir"

    width: int = 180
    """Channels of the features."""
    depths: tuple[int, ...] = (6, 6, 6, 6, 6, 6)
    """Layers of each group."""
    heads: tuple[int, ...] = (6, 6, 6, 6, 6, 6)
    """Attention heads of each group; each divides the width."""
    window: int = 8
    """Pixels on a side of a window, an even number; images are padded to a multiple of it."""
    mlp_ratio: float = 2.0
    """Channels inside the feed-forward networks, as a multiple of the width."""
    upsampler: Literal["pixelshuffle", "pixelshuffledirect"] = "pixelshuffle"
    """``pixelshuffledirect`` is the light model's single convolution."""
    value_range: float = 1.0
    """White inside the network."""
    mean: Mean = DIV2K_MEAN
    """RGB subtracted from the input and added to the output, in [0, 1]."""
    stochastic_depth: float = 0.0
    """Probability of leaving out a branch of the last layer while training, in [0, 1); it rises
    linearly from 0 at the first layer. The authors use 0.1. Has no effect outside training."""

    def __post_init__(self) -> None:
        """Refuse numbers that make no network."""
        if self.upsampler not in {"pixelshuffle", "pixelshuffledirect"}:
            raise ValueError(
                "SwinIR: upsampler is pixelshuffle or pixelshuffledirect, but got "
                f"{self.upsampler!r}"
            )
        if self.upsampler == "pixelshuffle":
            upsampler_steps(self.scale)
        counts = {
            "scale": self.scale,
            "width": self.width,
            "groups": len(self.depths),
            "window": self.window // 2,
        }
        counts |= {
            "layers of a group": min(self.depths, default=0),
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
                f"SwinIR: the width {self.width} is no multiple of the heads {self.heads}"
            )
        if self.window % 2:
            raise ValueError(
                f"SwinIR: window is even, since layers shift it by half, but got {self.window}"
            )
        if not 0 <= self.stochastic_depth < 1:
            raise ValueError(
                f"SwinIR: stochastic_depth lies in [0, 1), but got {self.stochastic_depth}"
            )

    def build(self) -> "SwinIR":
        """Make the network with freshly initialized weights."""
        return SwinIR(self)


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
        self.conv_before_upsample: nn.Module = nn.Identity()
        self.conv_last: nn.Module = nn.Identity()
        if config.upsampler == "pixelshuffledirect":
            last = nn.Conv2d(width, 3 * config.scale**2, 3, padding=1)
            self.upsample = nn.Sequential(last, nn.PixelShuffle(config.scale))
        else:
            self.conv_before_upsample = nn.Sequential(
                nn.Conv2d(width, TAIL_WIDTH, 3, padding=1), nn.LeakyReLU()
            )
            self.upsample = Upsampler(config.scale, TAIL_WIDTH)
            self.conv_last = nn.Conv2d(TAIL_WIDTH, 3, 3, padding=1)
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

    @property
    def stages(self) -> Sequence[nn.Module]:
        """Groups, the first behind the norm of the embedding.

        Then the norm and convolution that close the body.
        """
        return self.row

    def head(self, lr: Tensor) -> Tensor:
        """Subtract the mean, take the first convolution."""
        return self.conv_first(self.range.enter(lr))

    def tail(self, x: Tensor, kept: Mapping[int, Tensor], lr: Tensor) -> Tensor:
        """Add the kept[0] x, upsample, add the mean."""
        del lr
        return self.range.leave(
            self.conv_last(self.upsample(self.conv_before_upsample(x + kept[0])))
        )


class TokenNorm(nn.Module):
    """The norm behind the embedding, under the name it has in other people's files."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, width, h, w)`` to the same shape."""
        return _channels_first(self.norm(_channels_last(x)))


class FirstGroup(nn.Module):
    """The first group behind the norm of the embedding; the network's skip starts before both."""

    def __init__(self, norm: nn.Module, group: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """``(n, width, h, w)`` to the same shape."""
        return self.group(self.norm(x))


class Closing(nn.Module):
    """The last norm and the convolution that closes the body."""

    def __init__(self, norm: nn.Module, conv: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """``(n, width, h, w)`` to the same shape."""
        return self.conv(_channels_first(self.norm(_channels_last(x))))


class Group(nn.Module):
    """Layers and a convolution, beside the identity."""

    def __init__(
        self, width: int, heads: int, window: int, inner: int, drop: Sequence[float]
    ) -> None:
        super().__init__()
        self.residual_group = Layers(width, heads, window, inner, drop)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, width, h, w)``, multiples of the window, to the same shape."""
        return x + self.conv(_channels_first(self.residual_group(_channels_last(x))))


class Layers(nn.Module):
    """A row of layers, every second one shifted by half a window."""

    def __init__(
        self, width: int, heads: int, window: int, inner: int, drop: Sequence[float]
    ) -> None:
        super().__init__()
        self.window = window
        self.blocks = nn.ModuleList(
            Layer(width, heads, window, shift=number % 2 * (window // 2), inner=inner, drop=chance)
            for number, chance in enumerate(drop)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(n, h, w, width)`` to the same shape."""
        apart = _apart(x, self.window)
        for block in self.blocks:
            x = block(x, apart)
        return x


class Layer(nn.Module):
    """Attention inside windows and a feed-forward network, each behind a norm, with skips."""

    def __init__(
        self, width: int, heads: int, window: int, *, shift: int, inner: int, drop: float
    ) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.drop = drop
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, window)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, inner)

    def forward(self, x: Tensor, apart: Tensor) -> Tensor:
        """``(n, h, w, width)`` to the same shape.

        ``apart`` is used where the windows are shifted.
        """
        x = x + self._sometimes(self._attend(self.norm1(x), apart))
        return x + self._sometimes(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor, apart: Tensor) -> Tensor:
        rows, columns = x.shape[1] // self.window, x.shape[2] // self.window
        if self.shift == 0:
            return _join(
                self.attn(_split(x, rows, columns, self.window), None), rows, columns, self.window
            )
        x = x.roll((-self.shift, -self.shift), (1, 2))
        x = _join(
            self.attn(_split(x, rows, columns, self.window), apart), rows, columns, self.window
        )
        return x.roll((self.shift, self.shift), (1, 2))

    def _sometimes(self, branch: Tensor) -> Tensor:
        """Leave the branch out for some images of the batch, while training.

        Draws from the global generator.
        """
        if not self.training or self.drop == 0:
            return branch
        kept = torch.rand(branch.shape[0], 1, 1, 1, device=branch.device) >= self.drop
        return branch * kept / (1 - self.drop)


class Attention(nn.Module):
    """Multi-head attention among a window's pixels, with a learnt bias per relative position."""

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.factor = (width // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer(
            "relative_position_index", relative_positions(window), persistent=False
        )
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, apart: Tensor | None) -> Tensor:
        """``(n * windows, pixels, width)`` to the same shape.

        ``apart`` is ``(windows, pixels, pixels)``.
        """
        pixels, width = x.shape[1:]
        qkv = self.qkv(x).reshape(-1, pixels, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(
            0
        )  # (n * windows, heads, pixels, width / heads)
        logits = (query * self.factor) @ key.transpose(
            -2, -1
        )  # the older ONNX exporter knows no ``mT``
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        logits = logits + bias.reshape(pixels, pixels, self.heads).permute(2, 0, 1)
        if apart is not None:
            logits = logits.reshape(-1, apart.shape[0], self.heads, pixels, pixels) + apart[:, None]
            logits = logits.reshape(-1, self.heads, pixels, pixels)
        answer = logits.softmax(-1) @ value
        return self.proj(answer.transpose(1, 2).reshape(-1, pixels, width))


class FeedForward(nn.Module):
    """Two linear layers for each pixel."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, h, w, width)`` to the same shape."""
        return self.fc2(F.gelu(self.fc1(x)))


def relative_positions(window: int) -> Tensor:
    """Row of the bias table for each pair of pixels in a window, ``(window**2, window**2)``.

    Example:
        >>> relative_positions(2)[0]
        tensor([4, 3, 1, 0])
    """
    y, x = (
        grid.flatten()
        for grid in torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    )
    down, right = (place[:, None] - place[None] + window - 1 for place in (y, x))
    return down * (2 * window - 1) + right


def shift_mask(h: int, w: int, window: int, like: Tensor) -> Tensor:
    """What to add to the logits in shifted windows.

    Nothing, or -100 between pixels of different regions.

    A shift wraps around, and brings pixels of opposite edges into one window: the last row and
    column of windows hold what came from the other side behind what was there, and pixels attend
    within their own part.

    Args:
        h: Rows, a multiple of the window.
        w: Columns likewise.
        window: Pixels on a side of a window.
        like: Gives kind and device.

    Returns:
        ``(windows, window**2, window**2)``.
    """
    rows, columns = (
        torch.arange(size, device=like.device) >= size - window // 2 for size in (h, w)
    )
    regions = (2 * rows.long()[:, None] + columns.long()[None])[None, :, :, None]
    regions = _split(regions, h // window, w // window, window).squeeze(-1)  # (windows, window**2)
    return (regions[:, None, :] != regions[:, :, None]).to(like.dtype) * _APART


def _apart(x: Tensor, window: int) -> Tensor:
    return shift_mask(x.shape[1], x.shape[2], window, x)


def _split(x: Tensor, rows: int, columns: int, window: int) -> Tensor:
    """``(n, h, w, c)`` to ``(n * rows * columns, window**2, c)``."""
    x = x.reshape(-1, rows, window, columns, window, x.shape[-1])
    return x.transpose(2, 3).reshape(-1, window * window, x.shape[-1])


def _join(x: Tensor, rows: int, columns: int, window: int) -> Tensor:
    """Undo ``_split``."""
    x = x.reshape(-1, rows, columns, window, window, x.shape[-1])
    return x.transpose(2, 3).reshape(-1, rows * window, columns * window, x.shape[-1])


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def _channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def _radius(config: SwinIRConfig) -> int:
    """Follow the pixels an output depends on back to the input, for each place in a window."""
    window, reach = config.window, 0
    for place in range(window):
        first = last = place
        tail = 1 if config.upsampler == "pixelshuffledirect" else 1 + TAIL_RADIUS
        first, last = first - tail - 1, last + tail + 1
        for depth in reversed(config.depths):
            first, last = first - 1, last + 1
            for number in reversed(range(depth)):
                shift = number % 2 * (window // 2)
                first = (first - shift) // window * window + shift
                last = (last - shift) // window * window + shift + window - 1
        reach = max(reach, place - first + 1, last - place + 1)
    return reach
