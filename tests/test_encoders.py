"""Perceptual encoders: layouts, ranges, taps, refusals, and the stand-in."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.testing import assert_close

from dukd.networks.perceptual import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    VGG19,
    VGG19_CONVOLUTIONS,
    VGG19_WIDTHS,
    VQGAN,
    Filters,
    encoder_notes,
    read_tensors,
    vgg19,
    vqgan,
)


def vgg19_state() -> dict[str, Tensor]:
    """Every convolution passes its first three channels on: relu of the normalized image,
    pooled."""
    state: dict[str, Tensor] = {"classifier.0.weight": torch.zeros(1)}
    before = 3
    for number, width in zip(VGG19_CONVOLUTIONS, VGG19_WIDTHS, strict=True):
        weight = torch.zeros(width, before, 3, 3)
        for channel in range(3):
            weight[channel, channel, 1, 1] = 1
        state |= {
            f"features.{number}.weight": weight,
            f"features.{number}.bias": torch.zeros(width),
        }
        before = width
    return state


def vqgan_state(width: int = 32, size: int = 8, codes: int = 16) -> dict[str, Tensor]:
    """taming-transformers' names and shapes, written out by hand, with random values."""
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, before: int, after: int, kernel: int) -> None:
        shapes.update({f"{name}.weight": (after, before, kernel, kernel), f"{name}.bias": (after,)})

    def norm(name: str, channels: int) -> None:
        shapes.update({f"{name}.weight": (channels,), f"{name}.bias": (channels,)})

    def residual(name: str, before: int, after: int) -> None:
        norm(f"{name}.norm1", before)
        convolution(f"{name}.conv1", before, after, 3)
        norm(f"{name}.norm2", after)
        convolution(f"{name}.conv2", after, after, 3)
        if before != after:
            convolution(f"{name}.nin_shortcut", before, after, 1)

    def attention(name: str, channels: int) -> None:
        norm(f"{name}.norm", channels)
        for part in ("q", "k", "v", "proj_out"):
            convolution(f"{name}.{part}", channels, channels, 1)

    widths = [width, width, width, 2 * width, 2 * width, 4 * width]
    convolution("encoder.conv_in", 3, width, 3)
    for level in range(5):
        residual(f"encoder.down.{level}.block.0", widths[level], widths[level + 1])
        residual(f"encoder.down.{level}.block.1", widths[level + 1], widths[level + 1])
        if level < 4:
            convolution(
                f"encoder.down.{level}.downsample.conv", widths[level + 1], widths[level + 1], 3
            )
    for block in (0, 1):
        attention(f"encoder.down.4.attn.{block}", 4 * width)
    residual("encoder.mid.block_1", 4 * width, 4 * width)
    attention("encoder.mid.attn_1", 4 * width)
    residual("encoder.mid.block_2", 4 * width, 4 * width)
    norm("encoder.norm_out", 4 * width)
    convolution("encoder.conv_out", 4 * width, size, 3)
    convolution("quant_conv", size, size, 1)
    shapes["quantize.embedding.weight"] = (codes, size)
    rng = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=rng) * 0.05 for name, shape in shapes.items()}
    return state | {"decoder.conv_in.weight": torch.zeros(1), "loss.logvar": torch.zeros(())}


def test_vgg19_sees_normalized_images() -> None:
    """methods.md D37: the released code shows it [0, 255]. Here relu1_1 is relu of the
    normalized image."""
    x = torch.rand(1, 3, 32, 32)
    normalized = (x - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[
        :, None, None
    ]

    features = VGG19(vgg19_state())(x)

    assert_close(features[0][:, :3], normalized.relu())
    assert_close(features[4][:, :3], F.max_pool2d(normalized.relu(), 16))
    assert [tuple(f.shape[1:]) for f in features] == [
        (64, 32, 32),
        (128, 16, 16),
        (256, 8, 8),
        (512, 4, 4),
        (512, 2, 2),
    ]


def test_vqgan_sees_minus_one_to_one() -> None:
    """methods.md D29: the released code shows it [0, 1]. The mean of the range must look like a
    black image."""
    encoder = VQGAN(vqgan_state())
    seen: list[Tensor] = []
    encoder.encoder.conv_in.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    encoder(torch.tensor([0.0, 0.5, 1.0]).reshape(1, 3, 1, 1).expand(1, 3, 16, 16))

    assert_close(seen[0][0, :, 0, 0], torch.tensor([-1.0, 0.0, 1.0]))


def test_vqgan_levels_are_its_first_residual_blocks_and_its_latent_is_a_sixteenth() -> None:
    encoder = VQGAN(vqgan_state())
    features = encoder(torch.rand(2, 3, 32, 48))

    assert [tuple(f.shape[1:]) for f in features] == [
        (32, 32, 48),
        (32, 16, 24),
        (64, 8, 12),
        (64, 4, 6),
        (128, 2, 3),
    ]
    assert encoder.distances(torch.rand(2, 3, 32, 48)).shape == (2, 6, 16)


def test_distances_to_codes_are_squared_and_per_position() -> None:
    encoder = VQGAN(vqgan_state())
    x = torch.rand(1, 3, 32, 32)
    z = encoder.latent(x)[0].flatten(1).T  # (positions, size)

    assert_close(
        encoder.distances(x)[0], torch.cdist(z, encoder.codes).square(), rtol=1e-4, atol=1e-4
    )  # cancellation


@pytest.mark.parametrize(
    "make", [Filters, lambda: VGG19(vgg19_state()), lambda: VQGAN(vqgan_state())]
)
def test_encoders_are_frozen_whole_and_absent_from_checkpoints(make) -> None:
    encoder = make().train()

    assert not list(encoder.parameters())
    assert not encoder.state_dict()
    assert not any(part.training for part in encoder.modules() if part is encoder)
    assert not any(b.requires_grad for b in encoder.buffers())


@pytest.mark.parametrize(
    "make", [Filters, lambda: VGG19(vgg19_state()), lambda: VQGAN(vqgan_state())]
)
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 33)])
def test_images_of_any_size_feed_five_levels(make, size: tuple[int, int]) -> None:
    features = make()(torch.rand(1, 3, *size))

    assert len(features) == 5
    assert min(features[4].shape) >= 1


def test_features_keep_their_precision_under_autocast() -> None:
    x = torch.rand(1, 3, 16, 16)
    exact = Filters()(x)
    with torch.autocast("cpu", torch.bfloat16):
        under = Filters()(x)

    for a, b in zip(under, exact, strict=True):
        assert_close(a, b, rtol=0, atol=0)


def test_the_stand_in_is_the_same_every_time_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    a, b = Filters(codes=64), Filters(codes=64)

    assert torch.equal(torch.get_rng_state(), before)
    assert_close(a.codes, b.codes, rtol=0, atol=0)
    assert a.codes.shape == (64, 64)
    assert_close(a(torch.ones(1, 3, 16, 16))[4], b(torch.ones(1, 3, 16, 16))[4], rtol=0, atol=0)


def test_the_stand_in_is_used_and_confessed_only_without_a_file(tmp_path: Path) -> None:
    path = tmp_path / "vgg19.safetensors"
    save_file(vgg19_state(), path)

    assert isinstance(vgg19(None), Filters)
    assert isinstance(vqgan(None), Filters)
    assert isinstance(vgg19(path), VGG19)
    assert "VGG19" in encoder_notes(None, "VGG19")[0]
    assert encoder_notes(path, "VGG19") == ()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_files_of_either_kind_are_read_and_checked(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"vqgan{suffix}"
    state = vqgan_state()
    if suffix == ".pth":
        torch.save({"state_dict": state, "epoch": 3}, path)
    else:
        save_file(state, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()

    assert isinstance(vqgan(path, digest.upper()), VQGAN)
    with pytest.raises(ValueError, match="SHA-256"):
        vqgan(path, "0" * 64)


class _Malice:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("this must not run",))


def test_nothing_in_a_file_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"features.0.weight": _Malice()}, path)

    with pytest.raises(ValueError, match="cannot be read safely"):
        read_tensors(path)
    assert capsys.readouterr().out == ""


def test_missing_and_senseless_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        vgg19(tmp_path / "absent.pth")
    path = tmp_path / "list.pth"
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="holds list"):
        vgg19(path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"features.28.weight": None}, "has no features.28.weight"),
        ({"features.0.weight": torch.zeros(64, 3, 5, 5)}, "should be"),
        ({"features.5.weight": torch.full((128, 64, 3, 3), torch.nan)}, "reaches nan"),
        ({"features.5.weight": torch.full((128, 64, 3, 3), 1e6)}, "reaches 1000000"),
        ({"features.5.weight": torch.zeros(128, 64, 3, 3)}, "zero everywhere"),
    ],
)
def test_what_is_no_vgg19_is_refused(change: dict[str, Tensor | None], complaint: str) -> None:
    state = {
        name: tensor for name, tensor in (vgg19_state() | change).items() if tensor is not None
    }

    with pytest.raises(ValueError, match=complaint):
        VGG19(state)


def test_another_layout_is_named() -> None:
    with pytest.raises(ValueError, match="taming-transformers"):
        VQGAN(vgg19_state())
