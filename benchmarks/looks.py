"""LPIPS and DISTS beside their authors' packages: one backbone of random weights, the same images.

    pip install --no-deps --target theirs lpips dists-pytorch
    python benchmarks/looks.py --packages theirs --images datasets/Set14/HR

torchvision and its weights are not needed: the layers that both packages take of it stand below,
with random weights, which both sides share. The weights of features are those of the packages.
"""

import argparse
import importlib
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from dukd.evaluation.looks import dists, lpips
from dukd.images.folder import list_images
from dukd.images.io import read_rgb8
from dukd.images.resize import downscale, upscale
from dukd.networks.encoders import read_tensors

CROP = 192
"""Side of the middle of an image that is compared."""


class Backbone(nn.Module):
    """A network of torchvision's as far as features are read."""

    def __init__(self, features: nn.Sequential) -> None:
        super().__init__()
        self.features = features


def alexnet() -> Backbone:
    """AlexNet's convolutions, as torchvision has them."""
    torch.manual_seed(1)
    return Backbone(
        nn.Sequential(
            *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        )
    )


def vgg16() -> Backbone:
    """VGG16's convolutions, with weights under which the signal stays as large as it is."""
    torch.manual_seed(2)
    layers: list[nn.Module] = []
    before = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            convolution = nn.Conv2d(before, width, 3, padding=1)
            nn.init.kaiming_normal_(convolution.weight)
            if convolution.bias is not None:
                nn.init.normal_(convolution.bias, std=0.05)
            layers += [convolution, nn.ReLU()]
            before = width
        layers.append(nn.MaxPool2d(2, 2))
    return Backbone(nn.Sequential(*layers))


def stand_in() -> None:
    """Let ``import torchvision`` find the two networks, in this process alone."""

    def make_alexnet(**_: object) -> Backbone:
        return alexnet()

    def make_vgg16(**_: object) -> Backbone:
        return vgg16()

    models = types.ModuleType("torchvision.models")
    vars(models).update(alexnet=make_alexnet, vgg16=make_vgg16)
    transforms = types.ModuleType("torchvision.transforms")
    package = types.ModuleType("torchvision")
    vars(package).update(models=models, transforms=transforms)
    sys.modules.update({m.__name__: m for m in (package, models, transforms)})


def pairs(folder: Path) -> Iterator[tuple[str, Tensor, Tensor]]:
    """For each image its middle, and what is left of it: blurred, and noisy."""
    rng = torch.Generator().manual_seed(3)
    for path in list_images(folder).images:
        whole = torch.from_numpy(read_rgb8(path)).permute(2, 0, 1)[None] / 255
        h, w = whole.shape[-2:]
        top, left = (h - CROP) // 2, (w - CROP) // 2
        hr = whole[..., top : top + CROP, left : left + CROP]
        noise = torch.randn(hr.shape, generator=rng)
        yield f"{path.name}, blurred", upscale(downscale(hr, 2), 2).clamp(0, 1), hr
        yield f"{path.name}, noisy", (hr + 0.1 * noise).clamp(0, 1), hr


def main() -> None:
    """Print both packages' values beside ours, and the largest differences."""
    parser = argparse.ArgumentParser(description="LPIPS and DISTS beside the authors' packages")
    parser.add_argument("--packages", type=Path, required=True, help="folder of both packages")
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    given = parser.parse_args()
    packages = given.packages.resolve()
    stand_in()
    sys.path.insert(0, str(packages))
    sys.prefix = str(packages)  # where DISTS looks for its weights
    warnings.simplefilter("ignore")
    their_lpips = importlib.import_module("lpips").LPIPS(net="alex", verbose=False).eval()
    their_dists = importlib.import_module("DISTS_pytorch").DISTS().eval()
    heads = read_tensors(packages / "lpips/weights/v0.1/alex.pth")
    weights = read_tensors(packages / "DISTS_pytorch/weights.pt")
    first, second = alexnet().state_dict(), vgg16().state_dict()
    worst = {"LPIPS": 0.0, "DISTS": 0.0}
    for name, sr, hr in pairs(given.images):
        with torch.no_grad():
            values = {
                "LPIPS": (their_lpips(2 * sr - 1, 2 * hr - 1), lpips(sr, hr, first, heads)),
                "DISTS": (their_dists(sr, hr), dists(sr, hr, second, weights)),
            }
        for metric, (there, here) in values.items():
            a, b = there.item(), here.item()
            worst[metric] = max(worst[metric], abs(a - b))
            print(f"{name:32} {metric} {a:.6f} {b:.6f}")
    print(", ".join(f"{metric}: at most {value:.1e} apart" for metric, value in worst.items()))


if __name__ == "__main__":
    main()
