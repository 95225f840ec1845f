"""The encoder and the codes of taming-transformers' VQGAN."""

from collections.abc import Mapping
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  the name everybody knows
from typing_extensions import override

from dukd.networks.encoders import CodedEncoder, as_constants, checked, missing


class VQGAN(CodedEncoder):
    """The encoder of the f16 VQGAN with its codes; it sees [-1, 1], as in its training.

    DCKD's released code shows it [0, 1] (methods.md D29).
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        """Take weights by taming-transformers' names; ignore the decoder and the losses.

        Width, number of codes and their size are read off the tensors; five levels of relative
        width 1, 1, 2, 2, 4 with two residual blocks each, attention at the last, are the f16
        models' shape.

        Raises:
            ValueError: If a tensor is missing, has another shape, or holds what no trained network
                holds.
        """
        super().__init__()
        for name in ("encoder.conv_in.weight", "quant_conv.weight", "quantize.embedding.weight"):
            if name not in state:
                raise ValueError(missing(name, "taming-transformers' VQGAN"))
        width = state["encoder.conv_in.weight"].shape[0]
        size, latent = state["quant_conv.weight"].shape[:2]
        count = state["quantize.embedding.weight"].shape[0]
        self.encoder = _VQGANEncoder(width, latent)
        self.quant_conv = nn.Conv2d(latent, size, 1)
        self.register_buffer("codes", torch.zeros(count, size))
        own = {
            ("quantize.embedding.weight" if name == "codes" else name): t
            for name, t in self.state_dict().items()
        }
        found = {
            name: checked(state, name, t.shape, "taming-transformers' VQGAN")
            for name, t in own.items()
        }
        found["codes"] = found.pop("quantize.embedding.weight")
        self.load_state_dict(found)
        as_constants(self)
        self.eval()

    @override
    def encode(self, x: Tensor) -> list[Tensor]:
        return self.encoder.levels(2 * x - 1)

    @override
    def latent(self, x: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(2 * x - 1))


class _VQGANEncoder(nn.Module):
    """Parameters are named as in taming-transformers."""

    def __init__(self, width: int, latent: int) -> None:
        super().__init__()
        widths = [width * m for m in (1, 1, 1, 2, 2, 4)]
        self.conv_in = nn.Conv2d(3, width, 3, padding=1)
        levels = pairwise(widths)
        self.down = nn.ModuleList(
            _Level(a, b, last=i == len(widths) - 2) for i, (a, b) in enumerate(levels)
        )
        wide = widths[-1]
        self.mid = nn.ModuleDict(
            {
                "block_1": _Residual(wide, wide),
                "attn_1": _Attention(wide),
                "block_2": _Residual(wide, wide),
            }
        )
        self.norm_out = _norm(wide)
        self.conv_out = nn.Conv2d(wide, latent, 3, padding=1)

    def levels(self, x: Tensor) -> list[Tensor]:
        """First residual block of each level: ``(n, 3, h, w)`` in [-1, 1]."""
        x = self.conv_in(x)
        features: list[Tensor] = []
        for level in cast("list[_Level]", list(self.down)):
            features.append(level.block[0](x))
            if level.downsample is not None:
                x = level.after_first(features[-1])
        return features

    def forward(self, x: Tensor) -> Tensor:
        """``(n, 3, h, w)`` in [-1, 1] to ``(n, latent, h / 16, w / 16)``."""
        x = self.conv_in(x)
        for level in cast("list[_Level]", list(self.down)):
            x = level.after_first(level.block[0](x))
        for part in self.mid.values():
            x = part(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class _Level(nn.Module):
    def __init__(self, before: int, width: int, *, last: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList([_Residual(before, width), _Residual(width, width)])
        self.attn = nn.ModuleList([_Attention(width), _Attention(width)] if last else [])
        self.downsample = (
            None if last else nn.ModuleDict({"conv": nn.Conv2d(width, width, 3, stride=2)})
        )

    def after_first(self, x: Tensor) -> Tensor:
        """What follows the first residual block, up to the next level."""
        if self.attn:
            x = self.attn[0](x)
        x = self.block[1](x)
        if self.attn:
            x = self.attn[1](x)
        # Zeros at the bottom and the right alone: the models were trained so.
        return x if self.downsample is None else self.downsample["conv"](F.pad(x, (0, 1, 0, 1)))


class _Residual(nn.Module):
    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.norm1 = _norm(before)
        self.conv1 = nn.Conv2d(before, width, 3, padding=1)
        self.norm2 = _norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(before, width, 1) if before != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        changed = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return self.nin_shortcut(x) + changed


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        normal = self.norm(x)
        q, k, v = (
            layer(normal).flatten(2).mT for layer in (self.q, self.k, self.v)
        )  # (n, h * w, c)
        seen = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(seen.mT.reshape(x.shape))


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, width, eps=1e-6)
