"""LPIPS and DISTS: how alike two images look, by the features of networks trained on photographs.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018,
arXiv:1801.03924 (version 0.1, AlexNet); Ding et al., "Image Quality Assessment: Unifying Structure
and Texture Similarity", TPAMI 2020, arXiv:2004.07728 (VGG16). Both need two files that are not ours
to ship: the backbone, where torchvision keeps it once it has been fetched, and the weights of the
features, which lie in the wheels ``lpips`` and ``dists-pytorch``. Nothing of these wheels is run,
so they are installed without what they depend on.
"""

import os
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  the name everybody knows
from typing_extensions import override

from dukd.evaluation.metrics import Metric
from dukd.networks.encoders import checked, read_tensors

FOLDER = "DUKD_BACKBONES"
"""Environment variable with a folder of files that is looked into first."""

_ALEXNET = ((0, 64, 11), (3, 192, 5), (6, 384, 3), (8, 256, 3), (10, 256, 3))
_VGG16 = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
_VGG16_WIDTHS = (3, 64, 128, 256, 512, 512)
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

State = Mapping[str, Tensor]


def lpips(sr: Tensor, hr: Tensor, alexnet: State, heads: State) -> Tensor:
    """Distance of features of AlexNet, each position's scaled to length 1; 0 for equal images.

    Args:
        sr: ``(n, 3, h, w)``, RGB in [0, 1], at least 64 x 64; values outside are clamped.
        hr: The other image, same shape.
        alexnet: Its weights by torchvision's names.
        heads: Weights of the channels, ``lin0.model.1.weight`` and so on.

    Returns:
        ``(n,)``, float64.
    """
    total = torch.zeros(sr.shape[0], dtype=torch.float64)
    both = [_alexnet(x, alexnet) for x in (sr, hr)]
    for i, (a, b) in enumerate(zip(*both, strict=True)):
        weight = checked(heads, f"lin{i}.model.1.weight", (1, a.shape[1], 1, 1), "LPIPS's heads")
        total += F.conv2d((_of_length_1(a) - _of_length_1(b)) ** 2, weight).mean((1, 2, 3)).double()
    return total


def _alexnet(x: Tensor, state: State) -> list[Tensor]:
    shift, scale = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (_SHIFT, _SCALE))
    x = (2 * x.float().clamp(0, 1) - 1 - shift) / scale
    features: list[Tensor] = []
    before = 3
    for i, (number, width, size) in enumerate(_ALEXNET):
        if i in {1, 2}:
            x = F.max_pool2d(x, 3, 2)
        shape = (width, before, size, size)
        weight = checked(state, f"features.{number}.weight", shape, "torchvision's AlexNet")
        bias = checked(state, f"features.{number}.bias", (width,), "torchvision's AlexNet")
        x = F.relu(F.conv2d(x, weight, bias, stride=1 if i else 4, padding=2 if i < 2 else 1))
        features.append(x)
        before = width
    return features


def _of_length_1(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)


def dists(sr: Tensor, hr: Tensor, vgg16: State, weights: State) -> Tensor:
    """1 less the weighted similarity of means and of variances of VGG16's features and the image.

    Args:
        sr: ``(n, 3, h, w)``, RGB in [0, 1], at least 32 x 32; values outside are clamped.
        hr: The other image, same shape.
        vgg16: Its weights by torchvision's names.
        weights: ``alpha`` and ``beta``, ``(1, 1475, 1, 1)`` each.

    Returns:
        ``(n,)``, float64; 0 for equal images.
    """
    count = sum(_VGG16_WIDTHS)
    alpha, beta = (
        checked(weights, name, (1, count, 1, 1), "DISTS's weights").double()
        for name in ("alpha", "beta")
    )
    whole = alpha.sum() + beta.sum()
    alphas, betas = (w.split(_VGG16_WIDTHS, dim=1) for w in (alpha, beta))
    total = torch.zeros(sr.shape[0], dtype=torch.float64)
    both = [_vgg16(x, vgg16) for x in (sr, hr)]
    for a, b, of_means, of_variances in zip(*both, alphas, betas, strict=True):
        x, y = a.double(), b.double()
        mx, my = (v.mean((2, 3), keepdim=True) for v in (x, y))
        vx, vy = ((v - m).square().mean((2, 3), keepdim=True) for v, m in ((x, mx), (y, my)))
        covariance = (x * y).mean((2, 3), keepdim=True) - mx * my
        means = (2 * mx * my + 1e-6) / (mx**2 + my**2 + 1e-6)
        structures = (2 * covariance + 1e-6) / (vx + vy + 1e-6)
        total += (of_means * means + of_variances * structures).sum((1, 2, 3)) / whole
    return 1 - total


def _vgg16(x: Tensor, state: State) -> list[Tensor]:
    """The image and five levels; pooled by the root of a weighted mean of squares."""
    x = x.float().clamp(0, 1)
    features = [x]
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (_MEAN, _STD))
    x = (x - mean) / std
    for numbers, (before, width) in zip(_VGG16, pairwise(_VGG16_WIDTHS), strict=True):
        if len(features) > 1:
            x = _pooled(x)
        inputs = before
        for number in numbers:
            shape = (width, inputs, 3, 3)
            weight = checked(state, f"features.{number}.weight", shape, "torchvision's VGG16")
            bias = checked(state, f"features.{number}.bias", (width,), "torchvision's VGG16")
            x, inputs = F.relu(F.conv2d(x, weight, bias, padding=1)), width
        features.append(x)
    return features


def _pooled(x: Tensor) -> Tensor:
    row = torch.tensor([0.5, 1.0, 0.5])
    window = row[:, None] * row
    kernel = (window / window.sum()).expand(x.shape[1], 1, 3, 3)
    return (F.conv2d(x**2, kernel, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()


class _Looks(Metric):
    better = "lower"
    digits = 4
    chosen = False
    backbone: ClassVar[str]
    """File of the network, by torchvision's name."""
    wheel: ClassVar[tuple[str, str, str]]
    """Name of a wheel, its package, and the file in it with the weights of features."""

    def __init__(self) -> None:
        """Look for both files.

        Raises:
            ValueError: If one is missing, saying where it is looked for, or it is damaged.
        """
        places = [Path(torch.hub.get_dir()) / "checkpoints"]
        if own := os.environ.get(FOLDER):
            places.insert(0, Path(own))
        found = [folder / self.backbone for folder in places]
        path = next((p for p in found if p.is_file()), None)
        if path is None:
            raise ValueError(
                f"{self.title} needs {self.backbone}, the network that torchvision fetches under "
                f"this name: put it into {places[-1]}, or into a folder that {FOLDER} names"
            )
        self.network = _tensors(path)
        self.weights = _tensors(self._weights(places))

    def _weights(self, places: list[Path]) -> Path:
        wheel, package, name = self.wheel
        spec = find_spec(package)
        inside = [Path(p) for p in (spec.submodule_search_locations or ())] if spec else []
        candidates = [p / name for p in inside] + [p / Path(name).name for p in places]
        for path in candidates:
            if path.is_file():
                return path
        raise ValueError(
            f"{self.title} needs the weights of features in the wheel {wheel}, of which nothing is "
            f"run: pip install --no-deps {wheel}"
        )


class LPIPS(_Looks):
    """See ``lpips``."""

    name = "lpips"
    title = "LPIPS"
    least = 64
    backbone = "alexnet-owt-7be5be79.pth"
    wheel = ("lpips", "lpips", "weights/v0.1/alex.pth")
    protocol: ClassVar = {"lpips": "version 0.1, AlexNet, not rounded"}

    @override
    def __call__(self, sr: Tensor, other: Tensor, border: int) -> Tensor:
        return lpips(*_inside(sr, other, border), self.network, self.weights)


class DISTS(_Looks):
    """See ``dists``."""

    name = "dists"
    title = "DISTS"
    least = 32
    backbone = "vgg16-397923af.pth"
    wheel = ("dists-pytorch", "DISTS_pytorch", "weights.pt")
    protocol: ClassVar = {"dists": "VGG16, not rounded"}

    @override
    def __call__(self, sr: Tensor, other: Tensor, border: int) -> Tensor:
        return dists(*_inside(sr, other, border), self.network, self.weights)


@cache
def _tensors(path: Path) -> dict[str, Tensor]:
    return read_tensors(path)


def _inside(sr: Tensor, other: Tensor, border: int) -> tuple[Tensor, Tensor]:
    h, w = sr.shape[-2:]
    rows, columns = slice(border, h - border), slice(border, w - border)
    return sr[..., rows, columns].cpu(), other[..., rows, columns].cpu()
