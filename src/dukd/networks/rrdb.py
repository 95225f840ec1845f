"""RRDBNet: residual-in-residual dense blocks, the network of ESRGAN and Real-ESRGAN.

Wang et al., "ESRGAN: Enhanced Super-Resolution Generative Adversarial Networks", ECCVW 2018,
arXiv:1809.00219; Wang, Xie, Dong, Shan, "Real-ESRGAN", ICCVW 2021, arXiv:2107.10833, whose models
for the scales 2 and 1 fold the image by pixel-unshuffle first. Parameters are named as in BasicSR.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  the name everybody knows
from typing_extensions import override

from dukd.networks import layouts
from dukd.networks.base import Layout, Network, NetworkConfig, Recognized, Staged
from dukd.networks.layers import TAIL_RADIUS, check_numbers

_DENSE = 5  # convolutions of a dense block
_SLOPE = 0.2
_GROWTH = 32  # of every published file
_BRANCH = 0.2  # factor of every residual branch


@dataclass(frozen=True, kw_only=True)
class RRDBConfig(NetworkConfig):
    """The numbers of an RRDBNet; the defaults are RealESRGAN_x4plus's."""

    name: ClassVar[str] = "rrdb"

    width: int = 64
    """Channels of the features."""
    blocks: int = 23
    """Blocks of three dense blocks each."""
    growth: int = 32
    """Channels that each convolution of a dense block adds; other programs know 32 alone."""
    unshuffle: int = 1
    """Factor by which the image is folded first: 2 in Real-ESRGAN's x2, 4 in its x1."""

    def __post_init__(self) -> None:
        """Refuse numbers that make no network."""
        counts = {"scale": self.scale, "width": self.width, "blocks": self.blocks}
        counts |= {"growth": self.growth, "unshuffle": self.unshuffle}
        check_numbers("RRDB", counts=counts)
        inner = self.scale * self.unshuffle
        if inner & (inner - 1) or inner > layouts.LARGEST_SCALE:
            raise ValueError(
                f"RRDB: scale times unshuffle is a power of 2, but got {self.scale} x "
                f"{self.unshuffle}"
            )

    @override
    def build(self) -> "RRDB":
        return RRDB(self)

    @classmethod
    @override
    def layouts(cls) -> tuple[Layout, ...]:
        return (BasicSR(), ESRGAN(), BSRGAN())

    @override
    def describe(self) -> str:
        folded = f", image folded by {self.unshuffle}" if self.unshuffle > 1 else ""
        return f"RRDB x{self.scale}, {self.width} channels, {self.blocks} blocks{folded}"

    @property
    def upsamplings(self) -> int:
        """Doublings behind the body."""
        return (self.scale * self.unshuffle).bit_length() - 1


class RRDB(Staged):
    """RRDBNet; its stages are the blocks and the convolution that closes the body.

    Where the image is folded first, so are the features.
    """

    tail_radius = TAIL_RADIUS

    def __init__(self, config: RRDBConfig) -> None:
        width, fold = config.width, config.unshuffle
        cells = 3 * _DENSE * config.blocks + 4  # what the convolutions reach, in folded pixels
        super().__init__(config, width=width, size_multiple=fold, radius=(cells + 1) * fold - 1)
        self.fold = fold
        self.upsamplings = config.upsamplings
        self.conv_first = nn.Conv2d(3 * fold**2, width, 3, padding=1)
        self.body = nn.Sequential(*(Block(width, config.growth) for _ in range(config.blocks)))
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        for number in range(1, config.upsamplings + 1):
            self.add_module(f"conv_up{number}", nn.Conv2d(width, width, 3, padding=1))
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    @property
    @override
    def stages(self) -> Sequence[nn.Module]:
        return [*self.body, self.conv_body]

    @override
    def head(self, lr: Tensor) -> Tensor:
        return self.conv_first(F.pixel_unshuffle(lr, self.fold) if self.fold > 1 else lr)

    @override
    def tail(self, x: Tensor, kept: Mapping[int, Tensor], lr: Tensor) -> Tensor:
        x = x + kept[0]
        for number in range(1, self.upsamplings + 1):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = F.leaky_relu(self.get_submodule(f"conv_up{number}")(x), _SLOPE)
        return self.conv_last(F.leaky_relu(self.conv_hr(x), _SLOPE))


class Block(nn.Module):
    """Three dense blocks beside the identity."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (Dense(width, growth) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """``(n, width, h, w)`` to the same shape."""
        return x + self.rdb3(self.rdb2(self.rdb1(x))) * _BRANCH


class Dense(nn.Module):
    """Convolutions each of which sees what all before it made, beside the identity."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        for i in range(_DENSE):
            made = width if i == _DENSE - 1 else growth
            conv = nn.Conv2d(width + i * growth, made, 3, padding=1)
            nn.init.kaiming_normal_(conv.weight)
            conv.weight.data.mul_(0.1)
            self.add_module(f"conv{i + 1}", conv)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, width, h, w)`` to the same shape."""
        made = [x]
        for i in range(1, _DENSE):
            conv = self.get_submodule(f"conv{i}")
            made.append(F.leaky_relu(conv(torch.cat(made, 1)), _SLOPE))
        return x + self.get_submodule(f"conv{_DENSE}")(torch.cat(made, 1)) * _BRANCH


class BasicSR(Layout):
    """BasicSR's and Real-ESRGAN's names, which are ours."""

    name = "basicsr"
    signature = (r"body\.\d+\.rdb1\.conv1\.weight", r"conv_body\.weight", r"conv_hr\.weight")
    key = "params_ema"

    @override
    def read(self, tensors: Mapping[str, Tensor]) -> Recognized:
        width, folded = layouts.shape(tensors, "conv_first.weight", 4)[:2]
        fold = layouts.shuffle_factor(folded, 3, least=1)
        doublings = layouts.count(tensors, r"conv_up(\d+)\.")
        config = RRDBConfig(
            scale=2 ** min(doublings, 7) // fold,
            width=width,
            blocks=layouts.count(tensors, r"body\.(\d+)\."),
            growth=layouts.shape(tensors, "body.0.rdb1.conv1.weight", 4)[0],
            unshuffle=fold,
        )
        return Recognized(config=config, tensors=tensors)

    @override
    def closed(self, config: NetworkConfig) -> str:
        usual = getattr(config, "growth", None) == _GROWTH
        return "" if usual else f"spandrel takes every RRDBNet for one that grows by {_GROWTH}"

    @override
    def write(
        self, network: Network, tensors: Mapping[str, Tensor], *, training_size: int
    ) -> dict[str, Tensor]:
        return dict(tensors)


class ESRGAN(BasicSR):
    """The names of the first ESRGAN and of most community models, bare."""

    name = "esrgan"
    signature = (r"(model\.)?1\.sub\.\d+\.RDB1\.conv1\.0\.weight",)
    key = None

    @override
    def read(self, tensors: Mapping[str, Tensor]) -> Recognized:
        bare = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
        last = max(int(m[1]) for n in bare if (m := re.fullmatch(r"(\d{1,3})\.weight", n)))
        ups = (last - 4) // 3
        blocks = layouts.count(bare, r"1\.sub\.(\d+)\.RDB1")
        return super().read(layouts.ours(bare, _old_names(ups, blocks)))

    @override
    def write(
        self, network: Network, tensors: Mapping[str, Tensor], *, training_size: int
    ) -> dict[str, Tensor]:
        config = cast("RRDBConfig", network.config)
        named = layouts.theirs(tensors, _old_names(config.upsamplings, config.blocks), {})
        return {f"model.{name}": tensor for name, tensor in named.items()}


class BSRGAN(BasicSR):
    """The names of the second ESRGAN code, which BSRGAN and RealSR have too."""

    name = "bsrgan"
    signature = (r"RRDB_trunk\.\d+\.RDB1\.conv1\.weight", r"trunk_conv\.weight")
    key = None
    _NAMES: ClassVar[dict[str, str]] = {
        **{
            f"RRDB_trunk.{{n}}.RDB{i}.conv{{k}}.{{p}}": f"body.{{n}}.rdb{i}.conv{{k}}.{{p}}"
            for i in (1, 2, 3)
        },
        "trunk_conv.{p}": "conv_body.{p}",
        "upconv{u}.{p}": "conv_up{u}.{p}",
        "HRconv.{p}": "conv_hr.{p}",
    }

    @override
    def read(self, tensors: Mapping[str, Tensor]) -> Recognized:
        return super().read(layouts.ours(tensors, self._NAMES))

    @override
    def write(
        self, network: Network, tensors: Mapping[str, Tensor], *, training_size: int
    ) -> dict[str, Tensor]:
        return layouts.theirs(tensors, self._NAMES, {})


def _old_names(upsamplings: int, blocks: int) -> dict[str, str]:
    """The first code counts its layers: two without weights before each doubling's convolution."""
    names = {
        "0.{p}": "conv_first.{p}",
        f"1.sub.{blocks}.{{p}}": "conv_body.{p}",
        f"{3 * upsamplings + 2}.{{p}}": "conv_hr.{p}",
        f"{3 * upsamplings + 4}.{{p}}": "conv_last.{p}",
    }
    names |= {f"{3 * i}.{{p}}": f"conv_up{i}.{{p}}" for i in range(1, upsamplings + 1)}
    dense = "1.sub.{{n}}.RDB{i}.conv{{k}}.0.{{p}}", "body.{{n}}.rdb{i}.conv{{k}}.{{p}}"
    return names | {dense[0].format(i=i): dense[1].format(i=i) for i in (1, 2, 3)}
