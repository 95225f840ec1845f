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

from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Self, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  the name everybody knows
from typing_extensions import override

from dukd.core.files import sha256 as digest
from dukd.networks.base import pad_to_multiple

LEVEL_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
"""Weights of the five levels, from fine to coarse, in CSD and in DCKD."""

SHALLOWEST = 16
"""Images are padded to a multiple of this many pixels, so that the fifth level has a pixel of its
own."""


class Encoder(nn.Module, ABC):
    """A frozen encoder with five levels, each of half the size of the one before.

    Its tensors move with the module, but take no gradient, are in no checkpoint, and know no
    training mode.
    """

    @abstractmethod
    def encode(self, x: Tensor) -> list[Tensor]:
        """Features ``(n, c_i, h / 2**i, w / 2**i)`` of padded RGB in [0, 1], ``i`` from 0 to 4."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compare-ready features, one per level, of ``(n, 3, h, w)`` RGB in [0, 1]."""
        with torch.autocast(x.device.type, enabled=False):
            return self.encode(self.prepared(x))

    def prepared(self, x: Tensor) -> Tensor:
        """``x`` in the encoder's own precision, padded so that every level has pixels."""
        return pad_to_multiple(x.to(next(self.buffers()).dtype), SHALLOWEST)

    @override
    def train(self, mode: bool = True) -> Self:
        del mode
        return super().train(False)


class CodedEncoder(Encoder):
    """An encoder whose last feature, at a sixteenth of the size, is compared with codes."""

    codes: Tensor
    """``(k, d)``."""

    @abstractmethod
    def latent(self, x: Tensor) -> Tensor:
        """``(n, d, h / 16, w / 16)`` of padded RGB in [0, 1]."""

    def distances(self, x: Tensor) -> Tensor:
        """Squared distances of latents to codes: ``(n, 3, h, w)`` to ``(n, positions, k)``."""
        with torch.autocast(x.device.type, enabled=False):
            z = self.latent(self.prepared(x)).flatten(2).mT  # (n, positions, d)
            return (
                z.square().sum(2, keepdim=True) - 2 * z @ self.codes.T + self.codes.square().sum(1)
            )


def as_constants(module: nn.Module) -> None:
    """Turn parameters and buffers into buffers that are in no checkpoint and take no gradient."""
    for part in list(module.modules()):
        for name, p in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, p.detach().clone(), persistent=False)
        for name, b in list(part.named_buffers(recurse=False)):
            part.register_buffer(name, b.detach(), persistent=False)


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
                tensor = _checked(state, f"features.{number}.{name}", shape, "torchvision's VGG19")
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
                raise ValueError(_missing(name, "taming-transformers' VQGAN"))
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
            name: _checked(state, name, t.shape, "taming-transformers' VQGAN")
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
        return [F.relu(answer) for answer in self.answers(x)]

    @override
    def latent(self, x: Tensor) -> Tensor:
        # Before the rectifier, behind which a filter may be silent on every image and has no spread
        # to divide by.
        return (self.answers(x)[-1] - self.shift) / self.spread

    def answers(self, x: Tensor) -> list[Tensor]:
        """What the filters of each level say, not yet rectified."""
        answers: list[Tensor] = []
        x = 2 * x - 1
        for i in range(len(self.WIDTHS)):
            if i:
                x = F.avg_pool2d(F.relu(x), 2)
            x = F.conv2d(x, self.get_buffer(f"weight{i}"), padding=1)
            answers.append(x)
        return answers


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


def read_tensors(path: Path, sha256: str = "") -> dict[str, Tensor]:
    """Read named tensors without running anything the file may hold.

    Raises:
        ValueError: If the file is missing, is another than ``sha256`` says, or holds anything but
            tensors.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; it should hold the encoder's weights")
    if sha256 and digest(path) != sha256.lower():
        raise ValueError(
            f"{path}: its SHA-256 is {digest(path)}, not {sha256}; fetch it again or correct the "
            "hash"
        )
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        loaded: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # every kind of damage has its own exception
        raise ValueError(
            f"{path}: cannot be read safely ({type(error).__name__}); save its tensors as "
            "safetensors"
        ) from error
    if isinstance(loaded, dict) and isinstance(
        inner := cast("dict[object, object]", loaded).get("state_dict"), dict
    ):
        loaded = cast("dict[object, object]", inner)
    if not isinstance(loaded, dict):
        raise ValueError(  # noqa: TRY004  the file is wrong, not our caller's type
            f"{path}: holds {type(loaded).__name__}, not tensors by name"
        )
    named = cast("dict[object, object]", loaded)
    return {str(name): value for name, value in named.items() if isinstance(value, Tensor)}


def _checked(state: Mapping[str, Tensor], name: str, shape: tuple[int, ...], layout: str) -> Tensor:
    """One tensor of a state, in float32, after a look at its shape and values."""
    if name not in state:
        raise ValueError(_missing(name, layout))
    tensor = state[name].detach().float().clone()
    if tensor.shape != shape:
        raise ValueError(
            f"{name} should be {tuple(shape)} in {layout}, but the file has {tuple(tensor.shape)}"
        )
    largest = float(tensor.abs().max())
    if not largest < _LARGEST:  # also where it is no number
        raise ValueError(
            f"{name} reaches {largest}; no trained encoder's does, so the file is damaged or "
            "another's"
        )
    if name.endswith("weight") and largest == 0:
        raise ValueError(f"{name} is zero everywhere; the file is damaged")
    return tensor


_LARGEST = 1000.0


def _missing(name: str, layout: str) -> str:
    return f"the file has no {name}, so it is not in the layout of {layout}"
