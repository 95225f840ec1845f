"""Files of weights come back as the networks that were written, and nothing else comes in."""

import io
import itertools
import os
import pickle
import random
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.testing import assert_close

from dukd.networks import (
    EDSRConfig,
    Network,
    NetworkConfig,
    RCANConfig,
    SMFANetConfig,
    SwinIRConfig,
    edsr_teacher,
)
from dukd.networks.files import weights
from dukd.networks.files.weights import WeightsError

EDSR = EDSRConfig(scale=2, width=8, blocks=2)
RCAN = RCANConfig(scale=4, width=8, groups=2, blocks=3, squeeze=4)
SWINIR = SwinIRConfig(scale=3, width=8, depths=(2, 3), heads=(2, 4), window=4)
LIGHT = SwinIRConfig(
    scale=4, width=8, depths=(2,), heads=(2,), window=4, upsampler="pixelshuffledirect"
)
SMFANET = SMFANetConfig(scale=3, width=8, blocks=2)
TINY = (EDSR, RCAN, SWINIR, LIGHT, SMFANET)
every_network = pytest.mark.parametrize(
    "config", TINY, ids=["edsr", "rcan", "swinir", "swinir-light", "smfanet"]
)

Tensors = Mapping[str, Tensor]


def stirred(config: NetworkConfig) -> Network:
    network = config.build()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network.eval()


def save(path: Path, content: object, **options: bool) -> Path:
    torch.save(content, path, **options)
    return path


# Round trips


@every_network
def test_a_written_network_comes_back(config: NetworkConfig, tmp_path: Path) -> None:
    network, lr = stirred(config), torch.rand(1, 3, 9, 7)
    path = tmp_path / "a.safetensors"
    weights.write(path, network, metadata={"teacher_sha256": "12ab"})

    again = weights.read(path, scale=config.scale, config=config).eval()

    assert again.config == config
    assert_close(again(lr), network(lr), rtol=0, atol=0)
    contents = weights.inspect(path)
    assert (contents.network, contents.layout, contents.notes) == (config.name, "dukd", ())
    assert contents.parameters == network.parameter_count()
    assert contents.metadata["teacher_sha256"] == "12ab"
    assert contents.metadata["radius"] == (
        "none" if network.radius is None else str(network.radius)
    )


def test_numbers_that_no_tensor_shows_come_back(tmp_path: Path) -> None:
    config = replace(
        EDSR, residual_scale=0.25, value_range=2.0, mean=(0.1, 0.2, 0.3), skip="nearest"
    )
    weights.write(tmp_path / "a.safetensors", stirred(config))

    assert weights.read(tmp_path / "a.safetensors").config == config


def test_the_same_network_makes_the_same_file(tmp_path: Path) -> None:
    """A teacher is known by its file's digest: written twice, it is one teacher."""
    network = EDSRConfig(scale=2, width=4, blocks=1).build()
    for i in range(8):
        weights.write(tmp_path / f"{i}.safetensors", network, metadata={"step": "3", "note": "ä"})

    assert len({(tmp_path / f"{i}.safetensors").read_bytes() for i in range(8)}) == 1
    assert weights.inspect(tmp_path / "0.safetensors").metadata["note"] == "ä"


@every_network
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("layout", ["basicsr", "official"])
def test_other_layouts_come_back(
    config: NetworkConfig, layout: str, ending: str, tmp_path: Path
) -> None:
    network, lr = stirred(config), torch.rand(1, 3, 8, 4)
    path = tmp_path / f"a{ending}"
    weights.write(path, network, layout=layout, training_size=16)

    again = weights.read(path).eval()

    assert again.config == config
    assert_close(again(lr), network(lr), rtol=0, atol=0)


def test_files_for_others_hold_what_their_loaders_ask_for(tmp_path: Path) -> None:
    for config in (EDSR, SWINIR):
        weights.write(tmp_path / f"{config.name}-b.pth", stirred(config), layout="basicsr")
        weights.write(
            tmp_path / f"{config.name}-o.pth", stirred(config), layout="official", training_size=48
        )

    basicsr = torch.load(tmp_path / "edsr-b.pth", weights_only=True)["params"]
    bare = torch.load(tmp_path / "edsr-o.pth", weights_only=True)
    swinir = torch.load(tmp_path / "swinir-o.pth", weights_only=True)["params"]
    assert basicsr["body.1.conv2.weight"].shape == (8, 8, 3, 3)
    assert {
        "head.0.weight",
        "body.1.body.2.bias",
        "body.2.weight",
        "tail.0.0.weight",
        "tail.1.bias",
    } < bare.keys()
    assert_close(bare["sub_mean.bias"], -255 * torch.tensor([0.4488, 0.4371, 0.4040]))
    assert swinir["layers.0.residual_group.blocks.1.attn_mask"].shape == (144, 16, 16)


@pytest.mark.parametrize("size", [48, 64])
def test_swinir_reads_whatever_size_it_was_trained_on(size: int, tmp_path: Path) -> None:
    """The published files' masks differ in shape, and their network refuses others.

    methods.md D11.
    """
    network = stirred(LIGHT)
    weights.write(tmp_path / "a.pth", network, layout="official", training_size=size)

    assert_close(weights.read(tmp_path / "a.pth").state_dict(), network.state_dict())


def test_averaged_weights_are_preferred_and_the_choice_is_told(tmp_path: Path) -> None:
    plain, averaged = stirred(EDSR), stirred(EDSR)
    content = {"params": plain.state_dict(), "params_ema": averaged.state_dict(), "iter": 7}
    told: list[str] = []

    network = weights.read(save(tmp_path / "a.pth", content), report=told.append)

    assert_close(network.conv_first.weight, averaged.conv_first.weight)
    assert told[0] == "read params_ema (averaged weights); the file also holds params"
    assert told[1:] == [
        "left out iter: no weights of it",
        "assumed mean = (0.4488, 0.4371, 0.404), which the file does not say",
        "assumed residual_scale = 1.0, which the file does not say",
        "assumed value_range = 255.0, which the file does not say",
    ]


@pytest.mark.parametrize("wrapper", [None, "params", "params-ema", "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("zipped", [True, False])
def test_wrappers_and_prefixes(
    wrapper: str | None, prefix: str, zipped: bool, tmp_path: Path
) -> None:
    network = stirred(SMFANET)
    named: object = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    content = named if wrapper is None else {wrapper: named}

    read = weights.read(save(tmp_path / "a.pt", content, _use_new_zipfile_serialization=zipped))

    assert_close(read.state_dict(), network.state_dict())


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    content = {name: tensor.bfloat16() for name, tensor in stirred(SMFANET).state_dict().items()}
    path = save(tmp_path / "a.pth", content)

    assert weights.read(path).to_feat.weight.dtype == torch.float32
    assert weights.inspect(path).dtypes == ("bfloat16",)


def test_reading_draws_nothing_from_the_global_generator(tmp_path: Path) -> None:
    weights.write(tmp_path / "a.safetensors", stirred(EDSR))
    before = torch.get_rng_state()

    weights.read(tmp_path / "a.safetensors")

    assert torch.equal(torch.get_rng_state(), before)


# What no tensor shows


def test_habits_of_the_field(tmp_path: Path) -> None:
    """The wide and deep EDSR scales its branches by 0.1, the baseline by 1."""
    deep = save(tmp_path / "deep.pth", EDSRConfig(scale=2, width=4, blocks=32).build().state_dict())
    flat = save(tmp_path / "flat.pth", EDSR.build().state_dict())

    assert weights.read(deep).config == EDSRConfig(scale=2, width=4, blocks=32, residual_scale=0.1)
    assert weights.read(flat).config == EDSR


def test_arguments_take_the_place_of_habits(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", EDSR.build().state_dict())
    wanted = replace(EDSR, residual_scale=0.5, value_range=1.0, mean=(0.0, 0.0, 0.0))
    told: list[str] = []

    by_number = weights.read(
        path, residual_scale=0.5, value_range=1, mean=(0, 0, 0), report=told.append
    )

    assert (
        by_number.config == weights.read(path, config=wanted, report=told.append).config == wanted
    )
    assert told == []


def test_what_a_file_says_is_not_overruled(tmp_path: Path) -> None:
    weights.write(tmp_path / "a.pth", stirred(EDSR), layout="official")
    weights.write(tmp_path / "b.safetensors", stirred(EDSR))

    assert (
        weights.read(tmp_path / "a.pth", mean=(0.4488, 0.4371, 0.4040), value_range=255).config
        == EDSR
    )
    with pytest.raises(WeightsError, match=r"says value_range = 255\.0, not 1\.0"):
        weights.read(tmp_path / "a.pth", value_range=1.0)
    with pytest.raises(WeightsError, match=r"says residual_scale = 1\.0, not 0\.1"):
        weights.read(tmp_path / "b.safetensors", residual_scale=0.1)


# Independent references of the authors' networks: from their papers and key layouts, on 0..255 with
# mean convolutions


def convolve(t: Tensors, name: str, x: Tensor) -> Tensor:
    weight = t[f"{name}.weight"]
    return F.conv2d(x, weight, t[f"{name}.bias"], padding=weight.shape[-1] // 2)


def tail(t: Tensors, x: Tensor) -> Tensor:
    for number in itertools.count(step=2):
        name = f"tail.0.{number}"
        if f"{name}.weight" not in t:
            break
        x = convolve(t, name, x)
        x = F.pixel_shuffle(
            x, 3 if t[f"{name}.weight"].shape[0] == 9 * t[f"{name}.weight"].shape[1] else 2
        )
    return convolve(t, "add_mean", convolve(t, "tail.1", x)) / 255


def official_edsr(t: Tensors, lr: Tensor, residual_scale: float) -> Tensor:
    head = x = convolve(t, "head.0", convolve(t, "sub_mean", lr * 255))
    for n in itertools.count():
        if f"body.{n}.body.0.weight" not in t:
            break
        x = x + residual_scale * convolve(
            t, f"body.{n}.body.2", convolve(t, f"body.{n}.body.0", x).relu()
        )
    return tail(t, head + convolve(t, f"body.{n}", x))


def official_rcan(t: Tensors, lr: Tensor, groups: int, blocks: int) -> Tensor:
    head = x = convolve(t, "head.0", convolve(t, "sub_mean", lr * 255))
    for g in range(groups):
        y = x
        for b in range(blocks):
            name = f"body.{g}.body.{b}.body"
            branch = convolve(t, f"{name}.2", convolve(t, f"{name}.0", y).relu())
            squeezed = convolve(t, f"{name}.3.conv_du.0", branch.mean((2, 3), keepdim=True)).relu()
            y = y + branch * convolve(t, f"{name}.3.conv_du.2", squeezed).sigmoid()
        x = x + convolve(t, f"body.{g}.body.{blocks}", y)
    return tail(t, head + convolve(t, f"body.{groups}", x))


def official_swinir(t: Tensors, lr: Tensor, config: SwinIRConfig) -> Tensor:
    """Pixel by pixel: each attends to those of its (shifted) window within its distance."""
    mean = torch.tensor([0.4488, 0.4371, 0.4040]).double().reshape(1, 3, 1, 1)
    _, _, h, w = lr.shape
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    y, x = y.flatten(), x.flatten()
    size = config.window

    def norm(name: str, tokens: Tensor) -> Tensor:
        return F.layer_norm(tokens, tokens.shape[-1:], t[f"{name}.weight"], t[f"{name}.bias"])

    def linear(name: str, tokens: Tensor) -> Tensor:
        return tokens @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    def as_image(tokens: Tensor) -> Tensor:
        return tokens.mT.reshape(1, -1, h, w)

    shallow = convolve(t, "conv_first", lr - mean)
    tokens = norm("patch_embed.norm", shallow.flatten(2).mT[0])
    for group, (depth, heads) in enumerate(zip(config.depths, config.heads, strict=True)):
        before = tokens
        for number in range(depth):
            name = f"layers.{group}.residual_group.blocks.{number}"
            shift = size // 2 if number % 2 else 0
            cell = ((y + shift) // size) * 1000 + (
                x + shift
            ) // size  # equal where two pixels share a window
            query, key, value = (
                part.reshape(-1, heads, part.shape[-1] // heads).transpose(0, 1)
                for part in linear(f"{name}.attn.qkv", norm(f"{name}.norm1", tokens)).chunk(3, -1)
            )
            logits = query @ key.mT / (query.shape[-1] ** 0.5)
            offset = (y[:, None] - y + size - 1) * (2 * size - 1) + (x[:, None] - x + size - 1)
            together = cell[:, None] == cell
            table = t[f"{name}.attn.relative_position_bias_table"]
            bias = table[torch.where(together, offset, 0)].permute(2, 0, 1)
            logits = (logits + bias).masked_fill(~together, -torch.inf)
            answer = (logits.softmax(-1) @ value).transpose(0, 1).flatten(1)
            tokens = tokens + linear(f"{name}.attn.proj", answer)
            inner = F.gelu(linear(f"{name}.mlp.fc1", norm(f"{name}.norm2", tokens)))
            tokens = tokens + linear(f"{name}.mlp.fc2", inner)
        tokens = before + convolve(t, f"layers.{group}.conv", as_image(tokens)).flatten(2).mT[0]
    deep = shallow + convolve(t, "conv_after_body", as_image(norm("norm", tokens)))
    if config.upsampler == "pixelshuffledirect":
        return F.pixel_shuffle(convolve(t, "upsample.0", deep), config.scale) + mean
    deep = F.leaky_relu(convolve(t, "conv_before_upsample.0", deep), 0.01)
    return (
        convolve(t, "conv_last", F.pixel_shuffle(convolve(t, "upsample.0", deep), config.scale))
        + mean
    )


@pytest.mark.parametrize(
    ("config", "reference"),
    [
        (EDSR, lambda t, lr: official_edsr(t, lr, 1.0)),
        (replace(EDSR, scale=3), lambda t, lr: official_edsr(t, lr, 1.0)),
        (RCAN, lambda t, lr: official_rcan(t, lr, 2, 3)),
        (SWINIR, lambda t, lr: official_swinir(t, lr, SWINIR)),
        (LIGHT, lambda t, lr: official_swinir(t, lr, LIGHT)),
    ],
    ids=["edsr", "edsr-x3", "rcan", "swinir", "swinir-light"],
)
def test_the_authors_network_gives_the_same_answer(
    config: NetworkConfig, reference: Callable[[Tensors, Tensor], Tensor], tmp_path: Path
) -> None:
    weights.write(tmp_path / "a.pth", stirred(config), layout="official", training_size=16)
    content = torch.load(tmp_path / "a.pth", weights_only=True)
    theirs = {
        n: t.double() if t.is_floating_point() else t
        for n, t in content.get("params", content).items()
    }
    lr = torch.rand(1, 3, 12, 8, dtype=torch.float64)

    ours = weights.read(tmp_path / "a.pth").eval().double()(lr)

    assert_close(ours, reference(theirs, lr), rtol=1e-6, atol=1e-6)  # the mean is stored in float32


# Refusals


class Harm:
    """Asks for a function when it is loaded."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.answer = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.answer


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, f"{os.system.__module__}.system"), (eval, "eval"), (os.mkdir, "mkdir")],
)
def test_code_in_a_file_is_refused_by_name(
    function: Callable[..., object], name: str, zipped: bool, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    orders = {os.system: f"touch {flag}", eval: f"open({str(flag)!r}, 'w')", os.mkdir: str(flag)}
    content = {"params": EDSR.build().state_dict(), "note": Harm(function, orders[function])}

    with pytest.raises(WeightsError, match=rf"refused: the file needs .*{name}"):
        weights.read(save(tmp_path / "a.pth", content, _use_new_zipfile_serialization=zipped))
    assert not flag.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_view_that_lies_about_its_size_is_refused(zipped: bool, tmp_path: Path) -> None:
    """A file of 1.5 kB can declare twenty thousand million elements."""
    content = {"conv_first.weight": torch.zeros(1).expand(20_000_000_000)}
    path = save(tmp_path / "a.pth", content, _use_new_zipfile_serialization=zipped)

    assert path.stat().st_size < 4096
    with pytest.raises(
        WeightsError, match=r"declares \(20000000000,\), 80000000000 bytes, but the whole file has"
    ):
        weights.read(path)


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    """A thousandfold compression bomb loads with torch alone."""
    plain = io.BytesIO()
    torch.save({"a": torch.zeros(10_000)}, plain)
    with (
        zipfile.ZipFile(plain) as source,
        zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for member in source.infolist():
            bomb.writestr(member.filename, source.read(member))

    with pytest.raises(WeightsError, match="is compressed"):
        weights.read(tmp_path / "a.pth")


def test_programs_pickles_and_other_things_are_refused(tmp_path: Path) -> None:
    cases: dict[str, bytes] = {
        "text.pth": b"not weights",
        "empty.pth": b"",
        "bad.safetensors": b"x" * 100,
    }
    cases["plain.pth"] = pickle.dumps({"a": 1})
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "script.pth", "w") as archive:
        archive.writestr("a/code/a.py", "")
    save(tmp_path / "list.pth", [1, 2])
    save(tmp_path / "numbers.pth", {"step": 3})
    (tmp_path / "folder.pth").mkdir()

    for name in (*cases, "script.pth", "list.pth", "numbers.pth", "folder.pth", "absent.pth"):
        with pytest.raises(WeightsError, match=name):
            weights.read(tmp_path / name)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_damaged_bytes_give_one_kind_of_error(kind: str, tmp_path: Path) -> None:
    network = stirred(SMFANetConfig(scale=2, width=4, blocks=1))
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pth")
    if kind == "safetensors":
        weights.write(path, network)
    else:
        save(path, network.state_dict(), _use_new_zipfile_serialization=kind == "zip")
    whole, rng = path.read_bytes(), random.Random(0)

    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged[: rng.randrange(len(damaged))] if rng.random() < 0.2 else damaged)
        try:
            weights.read(path)
        except WeightsError:
            refused += 1
    assert refused > (50 if kind == "safetensors" else 5)  # ours have a checksum over every tensor


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    network = stirred(EDSR)
    network.conv_last.bias.data[:2] = value
    path = tmp_path / "a.safetensors"
    weights.write(path, stirred(EDSR))

    with pytest.raises(WeightsError, match=r"2 of 3 values of conv_last\.bias are not finite"):
        weights.read(save(tmp_path / "a.pth", network.state_dict()))
    with pytest.raises(WeightsError, match="not finite"):
        weights.write(path, network)
    weights.read(path)  # the old file is still there


def test_another_scale_or_network_is_refused_with_a_guess(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    weights.write(path, stirred(EDSR))

    with pytest.raises(
        WeightsError, match=r"this looks like EDSR x2, 8 channels, 2 blocks; required is x4"
    ):
        weights.read(path, scale=4)
    with pytest.raises(
        WeightsError,
        match=r"looks like EDSR x2.*required is EDSR x2, 256 channels, 32 blocks.*missing",
    ):
        weights.read(path, config=edsr_teacher(2))
    with pytest.raises(
        WeightsError, match=r"required is RCAN x4, 8 channels, 2 groups of 3 blocks"
    ):
        weights.read(path, config=RCAN)
    with pytest.raises(WeightsError, match=r"SMFANet x3.*has no value_range"):
        weights.read(save(tmp_path / "s.pth", SMFANET.build().state_dict()), value_range=255)


@every_network
@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_tensors_that_do_not_fit_are_named(
    config: NetworkConfig, change: str, tmp_path: Path
) -> None:
    tensors = dict(config.build().state_dict())
    name = next(reversed(tensors))
    match change:
        case "missing":
            del tensors[name]
        case "extra":
            name = "surprise.weight"
            tensors[name] = torch.zeros(1)
        case _:
            tensors[name] = torch.zeros(7, 7)

    with pytest.raises(WeightsError, match=rf"looks like.*{name}"):
        weights.read(save(tmp_path / "a.pth", tensors))


def test_strangers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"none of compact, edsr, .*rcan, .*swinir.*; the first are fc\.weight"
    ):
        weights.read(save(tmp_path / "a.pth", {"fc.weight": torch.zeros(2, 2)}))
    real = dict(SWINIR.build().state_dict()) | {"layers.0.conv.0.weight": torch.zeros(1)}
    with pytest.raises(WeightsError, match="three convolutions"):
        weights.read(save(tmp_path / "a.pth", real))
    weights.write(tmp_path / "a.pth", stirred(EDSR), layout="official")
    shifted = torch.load(tmp_path / "a.pth", weights_only=True)
    shifted["sub_mean.weight"] = shifted["sub_mean.weight"] * 2
    with pytest.raises(WeightsError, match="deviation"):
        weights.read(save(tmp_path / "a.pth", shifted))


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("sha256", "00", "damaged"),
        ("dukd", "99", "version '99'"),
        ("network", "esrgan", "'esrgan', which is none of .*edsr, ensemble, "),
        ("config", "[]", "makes no edsr"),
        ("config", '{"type": "edsr", "scale": 2, "wdth": 8}', "wdth"),
        ("config", '{"type": "edsr", "scale": 2, "width": true}', "width is 'true'.*whole number"),
        ("config", '{"type": "edsr", "scale": 2, "width": 1e30}', "width is '1e30'.*whole number"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(
    key: str, value: str, match: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    weights.write(path, stirred(EDSR))
    metadata = dict(weights.inspect(path).metadata) | {key: value}
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, metadata)

    with pytest.raises(WeightsError, match=match):
        weights.read(path)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    skip = stirred(replace(EDSR, skip="nearest"))
    for layout in ("basicsr", "official"):
        with pytest.raises(
            WeightsError, match=r"has no skip, .*\.safetensors .*\.onnx, which hold it"
        ):
            weights.write(tmp_path / "a.pth", skip, layout=layout)
    with pytest.raises(WeightsError, match=r"end in \.safetensors"):
        weights.write(tmp_path / "a.pth", skip)
    with pytest.raises(WeightsError, match="scale"):
        weights.write(tmp_path / "a.safetensors", skip, metadata={"scale": "3"})
    with pytest.raises(WeightsError, match="multiple of the window"):
        weights.write(tmp_path / "a.pth", stirred(SWINIR), layout="official", training_size=50)
    assert list(tmp_path.iterdir()) == []


# The real files


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_published_smfanet_loads(scale: int, real_data: Path) -> None:
    network = weights.read(real_data / "weights" / f"smfanet_plus_df2k_x{scale}.pth", scale=scale)

    assert network.config == SMFANetConfig(scale=scale)
    assert network.parameter_count() == {2: 480_300, 3: 486_795, 4: 495_888}[scale]


@pytest.mark.parametrize("width", [32, 64])
def test_published_edsr_loads(width: int, real_data: Path) -> None:
    path = real_data / "weights" / f"edsr_f{width}b5_x2_basicsr.safetensors"
    network = weights.read(path, value_range=255, mean=(0, 0, 0))

    assert network.config == EDSRConfig(scale=2, width=width, blocks=5, mean=(0, 0, 0))
    assert {"assumed value_range = 255.0, which the file does not say"} < set(
        weights.inspect(path).notes
    )


def test_nobody_is_told_to_load_without_the_safe_loader(tmp_path):
    """torch's own message about other bytes says how to switch its safe loader off."""
    path = tmp_path / "image.pth"
    path.write_bytes(b"\xff\xd8\xff\xe0 no pickle")

    with pytest.raises(
        WeightsError, match=r"is damaged, or no file of weights \(UnpicklingError\)$"
    ):
        weights.read(path)
