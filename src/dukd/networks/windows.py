"""Attention inside windows, every second layer shifted by half a window: the body of SwinIR.

Which pixels may attend to each other follows from the input's size at each call, so that nothing
depends on a size seen in training, and a traced graph takes any.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  the name everybody knows

_APART = -100.0
"""Added to the logits of pixels that are neighbors only because the shift wrapped around; its
exponential is 4e-44."""


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
        mixed = logits.softmax(-1) @ value
        return self.proj(mixed.transpose(1, 2).reshape(-1, pixels, width))


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
        like: Gives dtype and device.

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
