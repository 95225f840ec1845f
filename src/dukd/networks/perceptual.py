"""Perceptual encoders: frozen networks in whose features contrastive methods compare images.

- `VGG19`, as trained on ImageNet (Simonyan and Zisserman, arXiv:1409.1556), read at relu1_1 ...
  relu5_1: CSD, MCIR.
- `VQGAN`, the f16 encoder with its codes (Esser, Rombach and Ommer, arXiv:2012.09841), read at the
  first residual block of each level: DCKD.
- `Filters`, which needs no file and stands in for either where none is named.

Every encoder takes RGB in [0, 1] and brings it to the range it was trained on itself. Weights come
from a file the user names, are checked, and are no part of a checkpoint. Features are computed in
the encoder's own precision, since contrastive losses divide small differences by small differences.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  the name everybody knows
from typing_extensions import override

from dukd.networks.encoders import (
    CodedEncoder,
    Encoder,
    checked,
    read_tensors,
)
from dukd.networks.vqgan import VQGAN

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "LEVEL_WEIGHTS",
    "VGG19",
    "VGG19_CONVOLUTIONS",
    "VGG19_WIDTHS",
    "VQGAN",
    "CodedEncoder",
    "Encoder",
    "Filters",
    "encoder_notes",
    "read_tensors",
    "vgg19",
    "vqgan",
]

LEVEL_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
"""Weights of the five levels, from fine to coarse, in CSD and in DCKD."""

VGG19_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28)
"""Numbers, in torchvision's ``features``, of the convolutions up to relu5_1."""
VGG19_WIDTHS = (64, 64, 128, 128, 256, 256, 256, 256, 512, 512, 512, 512, 512)
_TAPPED = (0, 5, 10, 19, 28)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class VGG19(Encoder):
    """VGG19 without batch normalization up to relu5_1, for images normalized as in its training.

    CSD's released code shows it unnormalized images in [0, 255] (methods.md D37).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        """Take weights by torchvision's names, ``features.0.weight`` and so on; ignore later ones.

        Raises:
            ValueError: If a tensor is missing, has another shape, or holds what no trained network
                holds.
        """
        super().__init__()
        inputs = (3, *VGG19_WIDTHS)
        for number, before, width in zip(VGG19_CONVOLUTIONS, inputs, VGG19_WIDTHS, strict=False):
            for name, shape in (("weight", (width, before, 3, 3)), ("bias", (width,))):
                tensor = checked(state, f"features.{number}.{name}", shape, "torchvision's VGG19")
                self.register_buffer(f"{name}{number}", tensor, persistent=False)
        self.register_buffer(
            "mean", torch.tensor(IMAGENET_MEAN).reshape(1, 3, 1, 1), persistent=False
        )
        self.register_buffer(
            "std", torch.tensor(IMAGENET_STD).reshape(1, 3, 1, 1), persistent=False
        )

    @override
    def encode(self, x: Tensor) -> list[Tensor]:
        features: list[Tensor] = []
        x = (x - self.mean) / self.std
        for number in VGG19_CONVOLUTIONS:
            if number in _TAPPED[1:]:
                x = F.max_pool2d(x, 2)
            x = F.relu(
                F.conv2d(
                    x,
                    self.get_buffer(f"weight{number}"),
                    self.get_buffer(f"bias{number}"),
                    padding=1,
                )
            )
            if number in _TAPPED:
                features.append(x)
        return features


class Filters(CodedEncoder):
    """Stands in where no trained encoder is named: fixed random rectified convolutions.

    Five levels of 3x3 convolutions whose weights come from a fixed seed, scaled to keep the
    variance (He et al., arXiv:1502.01852), halved in between by averaging. Its codes are latents of
    fixed-seed noise images. It sees edges and textures at several sizes but knows nothing of what
    images show: numbers got with it are not the paper's.

    Measured on 32 photographs at x2 with EDSR f32b5 as the student and SMFANet+ as the teacher:
    descending CSD's quotient leads towards the teacher's image with a cosine of 0.14, against 0.11
    with hand-made derivatives at five sizes and 0.09 with the images themselves at five sizes.
    """

    WIDTHS = (16, 24, 32, 48, 64)

    shift: Tensor
    spread: Tensor

    def __init__(self, *, codes: int = 0, seed: int = 0) -> None:
        """Draw the weights.

        Args:
            codes: Number of codes; 0 for none.
            seed: Of the weights and the codes.
        """
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        before = 3
        for i, width in enumerate(self.WIDTHS):
            weight = torch.randn(width, before, 3, 3, generator=rng)
            weight *= (2 / (9 * before)) ** 0.5
            self.register_buffer(f"weight{i}", weight, persistent=False)
            before = width
        self.register_buffer("shift", torch.zeros(1, before, 1, 1), persistent=False)
        self.register_buffer("spread", torch.ones(1, before, 1, 1), persistent=False)
        self.register_buffer("codes", torch.zeros(0, before), persistent=False)
        if codes:
            self._make_codes(codes, rng)

    def _make_codes(self, count: int, rng: torch.Generator) -> None:
        """Encode noise of several sizes, and keep the scaled latents as codes."""
        images = torch.zeros(-(-count // 16), 3, 64, 64)
        for size in (4, 8, 16, 32, 64):
            noise = torch.randn(len(images), 3, size, size, generator=rng)
            images += F.interpolate(noise, size=(64, 64), mode="bilinear", align_corners=False)
        z = self.latent(torch.sigmoid(images))
        self.shift = z.mean((0, 2, 3), keepdim=True)
        # With this factor a position of a photograph spreads over some 14 codes; without it, over
        # 1.3.
        self.spread = z.std((0, 2, 3), keepdim=True) * 8**0.5
        self.codes = (
            ((z - self.shift) / self.spread).permute(0, 2, 3, 1).flatten(0, 2)[:count].contiguous()
        )

    @override
    def encode(self, x: Tensor) -> list[Tensor]:
        return [F.relu(level) for level in self.levels(x)]

    @override
    def latent(self, x: Tensor) -> Tensor:
        # Before the rectifier, behind which a filter may be silent on every image and has no spread
        # to divide by.
        return (self.levels(x)[-1] - self.shift) / self.spread

    def levels(self, x: Tensor) -> list[Tensor]:
        """What the filters of each level say, not yet rectified."""
        levels: list[Tensor] = []
        x = 2 * x - 1
        for i in range(len(self.WIDTHS)):
            if i:
                x = F.avg_pool2d(F.relu(x), 2)
            x = F.conv2d(x, self.get_buffer(f"weight{i}"), padding=1)
            levels.append(x)
        return levels


def vgg19(path: Path | None, sha256: str = "") -> Encoder:
    """VGG19 with the weights of a file, or what stands in for it.

    Args:
        path: A ``.safetensors``, ``.pth`` or ``.pt`` file with torchvision's names; None for the
            stand-in.
        sha256: What the file must hash to, in hexadecimal; empty to take any.

    Raises:
        ValueError: If the file is another than the hash says, cannot be read safely, or holds no
            VGG19.
    """
    return Filters() if path is None else VGG19(read_tensors(path, sha256))


def vqgan(path: Path | None, sha256: str = "", *, codes: int = 1024) -> CodedEncoder:
    """VQGAN's encoder with the weights of a file, or a stand-in of ``codes`` codes; see `vgg19`."""
    return Filters(codes=codes) if path is None else VQGAN(read_tensors(path, sha256))


def encoder_notes(path: Path | None, wanted: str) -> tuple[str, ...]:
    """What to say beside numbers that came from the stand-in; nothing where a file was named."""
    if path is not None:
        return ()
    return (
        f"perceptual features come from fixed random filters, not from {wanted}: name a file with "
        "its weights",
    )
