"""SPAN: blocks whose own output, without parameters, says where they count.

Wan et al., "Swift Parameter-free Attention Network for Efficient Super-Resolution", CVPRW 2024,
arXiv:2311.12770; winner of NTIRE 2024. Parameters are named as in the authors' code and spandrel.
In a block ``out1`` is activated in place in the published code before it is handed on, so that the
tail sees it activated; so it does here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  the name everybody knows
from typing_extensions import override

from dukd.networks import layouts
from dukd.networks.base import Layout, Network, NetworkConfig, Recognized, Staged
from dukd.networks.branches import Branches, unfolded
from dukd.networks.layers import DIV2K_MEAN, Mean, Range, check_numbers

_BLOCKS = 6
_FOLDED = "eval_conv"


@dataclass(frozen=True, kw_only=True)
class SPANConfig(NetworkConfig):
    """The numbers of a SPAN; the defaults are the authors'."""

    name: ClassVar[str] = "span"
    unseen = frozenset({"value_range", "mean"})

    width: int = 48
    """Channels of the features."""
    folded: bool = False
    """Whether each convolution is one, not the branches that it trains as."""
    norm: bool = True
    """Whether the input is shifted by ``mean`` and widened to ``value_range``."""
    value_range: float = 255.0
    """White at the first convolution; the output is in [0, 1] all the same."""
    mean: Mean = DIV2K_MEAN
    """RGB subtracted from the input, in [0, 1]; it is not added to the output."""

    def __post_init__(self) -> None:
        """Refuse numbers that make no network."""
        counts = {"scale": self.scale, "width": self.width}
        check_numbers("SPAN", counts=counts, value_range=self.value_range, mean=self.mean)

    @override
    def build(self) -> "SPAN":
        return SPAN(self)

    @override
    def deployed(self) -> "SPANConfig":
        return replace(self, folded=True)

    @classmethod
    @override
    def layouts(cls) -> tuple[Layout, ...]:
        return (Official(), Folded())

    @override
    def describe(self) -> str:
        return f"SPAN x{self.scale}, {self.width} channels{', folded' if self.folded else ''}"


def span_small(scale: int) -> SPANConfig:
    """The baseline of NTIRE 2026: 28 channels, 0.15 million parameters once folded."""
    return SPANConfig(scale=scale, width=28)


class SPAN(Staged):
    """SPAN; its stages are the first five blocks: the sixth hands on two features, in the tail."""

    keeps = (0, 1)

    def __init__(self, config: SPANConfig) -> None:
        width = config.width
        super().__init__(config, width=width, radius=1 + 3 * _BLOCKS + 2)
        self.norm = config.norm
        self.range = Range(config.value_range, config.mean)
        self.conv_1 = _conv(3, width, folded=config.folded)
        for number in range(1, _BLOCKS + 1):
            self.add_module(f"block_{number}", Block(width, folded=config.folded))
        self.conv_cat = nn.Conv2d(4 * width, width, 1)
        self.conv_2 = _conv(width, width, folded=config.folded)
        self.upsampler = nn.Sequential(
            nn.Conv2d(width, 3 * config.scale**2, 3, padding=1), nn.PixelShuffle(config.scale)
        )

    @property
    @override
    def stages(self) -> Sequence[nn.Module]:
        return [self._block(number) for number in range(1, _BLOCKS)]

    @override
    def head(self, lr: Tensor) -> Tensor:
        return self.conv_1(self.range.enter(lr) if self.norm else lr)

    @override
    def tail(self, x: Tensor, kept: Mapping[int, Tensor], lr: Tensor) -> Tensor:
        last = self._block(_BLOCKS)
        first = last.first(x)
        closed = self.conv_2(last.rest(x, first))
        return self.upsampler(self.conv_cat(torch.cat([kept[0], closed, kept[1], first], 1)))

    @override
    def folded(self) -> "SPAN":
        return self.rebuilt(folded=True)

    def rebuilt(self, *, folded: bool) -> "SPAN":
        """A network of equal outputs in the other form; self where it has this one."""
        config = cast("SPANConfig", self.config)
        if config.folded == folded:
            return self
        other = SPAN(replace(config, folded=folded))
        tensors = {n: t for n, t in self.state_dict().items() if n in other.state_dict()}
        for name, module in self.named_modules():
            if isinstance(module, Branches):
                weight, bias = module.folded()
                tensors |= {f"{name}.{_FOLDED}.weight": weight, f"{name}.{_FOLDED}.bias": bias}
            elif isinstance(module, _Plain):
                branches = unfolded(*module.eval_conv.state_dict().values())
                tensors |= {f"{name}.{key}": tensor for key, tensor in branches.items()}
        other.load_state_dict(tensors)
        return other.to(self.conv_cat.weight.device).train(self.training)

    def _block(self, number: int) -> "Block":
        return cast("Block", self.get_submodule(f"block_{number}"))


class Block(nn.Module):
    """Three convolutions beside the identity, times what the last one makes of itself."""

    def __init__(self, width: int, *, folded: bool) -> None:
        super().__init__()
        self.c1_r, self.c2_r, self.c3_r = (_conv(width, width, folded=folded) for _ in range(3))

    def first(self, x: Tensor) -> Tensor:
        """The first convolution, activated."""
        return F.silu(self.c1_r(x))

    def rest(self, x: Tensor, first: Tensor) -> Tensor:
        """What follows it."""
        made = self.c3_r(F.silu(self.c2_r(first)))
        return (made + x) * (torch.sigmoid(made) - 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, width, h, w)`` to the same shape."""
        return self.rest(x, self.first(x))


class _Plain(nn.Module):
    """A folded convolution under its published name."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.eval_conv = nn.Conv2d(inside, outside, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.eval_conv(x)


def _conv(inside: int, outside: int, *, folded: bool) -> nn.Module:
    return _Plain(inside, outside) if folded else Branches(inside, outside)


class Official(Layout):
    """The authors' names with the branches and their folded copies; spandrel reads nothing else."""

    name = "official"
    signature = (r"conv_1\.sk\.weight", r"block_1\.c1_r\.conv\.0\.weight", r"conv_cat\.weight")

    @override
    def read(self, tensors: Mapping[str, Tensor]) -> Recognized:
        width = layouts.shape(tensors, "conv_1.sk.weight", 4)[0]
        kept = {n: t for n, t in tensors.items() if _FOLDED not in n and n != "no_norm"}
        return _recognized(kept, width, folded=False, norm="no_norm" not in tensors)

    @override
    def closed(self, config: NetworkConfig) -> str:
        usual = SPANConfig(scale=config.scale)
        same = all(getattr(config, n) == getattr(usual, n) for n in SPANConfig.unseen)
        return "" if same else "spandrel takes every SPAN for one of the usual range and mean"

    @override
    def held(self, network: Network) -> Network:
        return cast("SPAN", network).rebuilt(folded=False)

    @override
    def write(
        self, network: Network, tensors: Mapping[str, Tensor], *, training_size: int
    ) -> dict[str, Tensor]:
        span = cast("SPAN", network)
        folded = span.folded().state_dict()
        copies = {name: folded[name].detach().cpu() for name in folded if _FOLDED in name}
        return dict(tensors) | copies | ({} if span.norm else {"no_norm": torch.zeros(1)})


class Folded(Layout):
    """The same with folded convolutions alone, bare, as NTIRE's submissions have them."""

    name = "folded"
    signature = (r"conv_1\.eval_conv\.weight", r"block_1\.c1_r\.eval_conv\.weight")
    key = None

    @override
    def read(self, tensors: Mapping[str, Tensor]) -> Recognized:
        width = layouts.shape(tensors, "conv_1.eval_conv.weight", 4)[0]
        kept = {n: t for n, t in tensors.items() if n != "no_norm"}
        return _recognized(kept, width, folded=True, norm="no_norm" not in tensors)

    @override
    def closed(self, config: NetworkConfig) -> str:
        return "spandrel opens a SPAN with its branches alone: the layout official"

    @override
    def held(self, network: Network) -> Network:
        return network.folded()

    @override
    def write(
        self, network: Network, tensors: Mapping[str, Tensor], *, training_size: int
    ) -> dict[str, Tensor]:
        norm = cast("SPAN", network).norm
        return dict(tensors) | ({} if norm else {"no_norm": torch.zeros(1)})


def _recognized(
    tensors: Mapping[str, Tensor], width: int, *, folded: bool, norm: bool
) -> Recognized:
    channels = layouts.shape(tensors, "upsampler.0.weight", 4)[0]
    scale = layouts.shuffle_factor(channels, 3, least=1)
    config = SPANConfig(scale=scale, width=width, folded=folded, norm=norm)
    return Recognized(config=config, tensors=dict(tensors))
