"""Checkpoints as trainers leave them, and files that lie: read, told or refused."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from dukd.core.registry import known
from dukd.networks import EDSRConfig, EnsembleConfig, Member, Network, NetworkConfig, Staged
from dukd.networks.base import Layout, Recognized
from dukd.networks.files import guess, weights
from dukd.networks.files.metadata import tensors_sha256
from dukd.networks.files.weights import WeightsError

SMALL = EDSRConfig(scale=2, width=4, blocks=1)
Tensors = Mapping[str, Tensor]


def state(seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return SMALL.build().state_dict()


def prefixed(prefix: str, tensors: Tensors) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def read(path: Path, content: object) -> tuple[Tensors, tuple[str, ...]]:
    torch.save(content, path)
    network, contents = weights.read_and_inspect(path)
    assert contents.config == SMALL
    return network.state_dict(), contents.notes


RAW, AVERAGED = state(1), state(2)
COUNTER = {"step": torch.tensor(7), "initted": torch.tensor(True)}
BESIDE: dict[str, object] = {
    "model, ema": {"model": RAW, "ema": AVERAGED},
    "model, model_ema": {"model": RAW, "model_ema": AVERAGED, "epoch": 3},
    "state_dict, state_dict_ema": {"state_dict": RAW, "state_dict_ema": AVERAGED},
    "state_dict, ema_state_dict": {"state_dict": RAW, "ema_state_dict": AVERAGED},
    "params, ema": {"params": RAW, "ema": AVERAGED},
    "params, params_ema": {"params": RAW, "params_ema": AVERAGED},
    "g, g_ema": {"g": RAW, "g_ema": AVERAGED, "d": {"conv.weight": torch.zeros(1)}},
    "nested": {"model": {"ema": AVERAGED, "state_dict": RAW}},
    "MMagic": {
        "state_dict": {"step_counter": torch.tensor(1)}
        | prefixed("generator.", RAW)
        | prefixed("generator_ema.", AVERAGED)
    },
    "torch_ema, without names": {
        "model": RAW,
        "ema": {"decay": 0.9, "num_updates": 3, "shadow_params": list(AVERAGED.values())},
    },
    **{
        f"{own}{average} beside {own}{raw}": {
            "state_dict": prefixed(own + raw, RAW) | prefixed(own + average, AVERAGED)
        }
        for own in ("", "model.", "module.")
        for raw, average in (
            ("net.", "net_ema."),
            ("netG.", "netG_ema."),
            ("net.", "netEMA."),
            ("backbone.", "ema_backbone."),
            ("student.", "swa_model.module."),
        )
    },
    "polyak": {"weights": RAW, "polyak_weights": AVERAGED},
    "netEMA": {"netG": RAW, "netEMA": AVERAGED},
    "a callback of Lightning": {
        "state_dict": prefixed("net.", RAW),
        "callbacks": {"EMACallback": {"weights": prefixed("net.", AVERAGED)}},
    },
    "ema-pytorch": COUNTER | prefixed("online_model.", RAW) | prefixed("ema_model.", AVERAGED),
}


@pytest.mark.parametrize("name", BESIDE)
def test_averaged_weights_are_taken_under_every_name_and_the_others_named(
    name: str, tmp_path: Path
) -> None:
    got, notes = read(tmp_path / "a.pth", BESIDE[name])

    assert_close(got, AVERAGED, rtol=0, atol=0)
    assert notes[0].startswith("read ")
    assert "(averaged weights); the file also holds " in notes[0]


COUNTED = RAW | {
    "total_ops": torch.zeros(1, dtype=torch.float64),
    "conv_first.total_params": torch.zeros(1, dtype=torch.float64),
    "body.0.num_batches_tracked": torch.tensor(3),
}
FORMS: dict[str, object] = {
    "generator.": {"state_dict": prefixed("generator.", RAW)},
    "net.": {"state_dict": prefixed("net.", RAW)},
    "netG.": {"state_dict": prefixed("netG.", RAW)},
    "model.": {"state_dict": prefixed("model.", RAW)},
    "module._orig_mod.net_g.": prefixed("module._orig_mod.net_g.", RAW),
    "a prefix nobody knows": {"state_dict": prefixed("sr_backbone.", RAW)},
    "counters at the top": RAW | {"global_step": torch.tensor(5), "best": torch.tensor(1.0)},
    "key generator": {"generator": RAW},
    "key net_g": {"net_g": RAW},
    "an unknown key": {"student_of_mine": RAW},
    "a discriminator beside": {"net_d": state(3), "net_g": RAW},
    "a discriminator's names beside": {
        "state_dict": prefixed("generator.", RAW) | prefixed("discriminator.", state(3))
    },
    "an optimizer beside": {
        "model": RAW,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(0), "step": torch.tensor(1.0)}}},
    },
    "torch's average": {"n_averaged": torch.tensor(9)} | prefixed("module.", RAW),
    "ema-pytorch alone": COUNTER | prefixed("ema_model.", RAW),
    "counters": {"params": COUNTED},
    "numpy's numbers beside": {"state_dict": RAW, "best": np.float64(32.1), "seen": np.int64(4)},
    "numpy's array beside": {"state_dict": RAW, "history": np.arange(3)},
}


@pytest.mark.parametrize("name", FORMS)
def test_what_trainers_write_is_read(name: str, tmp_path: Path) -> None:
    got, _ = read(tmp_path / "a.pth", FORMS[name])

    assert_close(got, RAW, rtol=0, atol=0)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_mmagic_names_its_upsampler_otherwise(scale: int, tmp_path: Path) -> None:
    config = EDSRConfig(scale=scale, width=4, blocks=1)
    network = config.build()
    weights.write(tmp_path / "a.pth", network, layout="mmagic")
    names = torch.load(tmp_path / "a.pth", weights_only=True)["state_dict"].keys()

    assert f"upsample.{1 if scale == 4 else 0}.upsample_conv.weight" in names
    assert_close(weights.read(tmp_path / "a.pth").state_dict(), network.state_dict())


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    _, notes = read(tmp_path / "a.pth", {"params": COUNTED})

    assert notes[0] == (
        "left out total_ops, conv_first.total_params, body.0.num_batches_tracked: no weights of it"
    )


OPTIMIZER: dict[str, object] = {"state": {0: {"exp_avg": torch.zeros(0)}}, "param_groups": [{}]}
LEFT: dict[str, tuple[object, str]] = {
    "optimizer, epoch": (
        {"epoch": 3, "model": RAW, "optimizer": OPTIMIZER, "scheduler": {"last_epoch": 3}},
        "epoch, optimizer, scheduler",
    ),
    "counters in tensors": ({"params": RAW, "iter": torch.tensor(5)}, "iter"),
    "nested": (
        {"checkpoint": {"state_dict": RAW, "optimizers": [OPTIMIZER], "best": 31.2}, "args": None},
        "checkpoint.optimizers, checkpoint.best, args",
    ),
    "a discriminator": ({"net_d": state(3), "net_g": RAW, "step": 7}, "net_d, step"),
    "at the top": (
        RAW | {"global_step": torch.tensor(5), "optimizer": OPTIMIZER},
        "global_step, optimizer",
    ),
    "of an average": (
        {"model": RAW, "ema": {"decay": 0.9, "num_updates": 3, "shadow_params": [*RAW.values()]}},
        "ema.decay, ema.num_updates",
    ),
    "long and many": (
        {"model": RAW} | {str(number) * 70: number for number in range(7)},
        ", ".join(str(number) * 60 for number in range(5)) + " and 2 more",
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_stands_beside_the_weights_is_named_once(name: str, tmp_path: Path) -> None:
    content, names = LEFT[name]

    got, notes = read(tmp_path / "a.pth", content)

    assert_close(got, RAW, rtol=0, atol=0)
    left = [note for note in notes if note.startswith("left out")]
    assert left == [f"left out {names}: no weights of it"]


@pytest.mark.parametrize("content", [RAW, {"params": RAW}, {"params": RAW, "params_ema": RAW}])
def test_nothing_is_said_to_be_left_out_of_bare_weights(content: object, tmp_path: Path) -> None:
    _, notes = read(tmp_path / "a.pth", content)

    assert not [note for note in notes if "left out" in note]


# Files that lie


def rewritten(path: Path, **said: str) -> Path:
    """A file of ours that says something else, with a checksum that fits."""
    weights.write(path, SMALL.build())
    metadata = dict(weights.inspect(path).metadata) | said | {"dukd": "1"}
    tensors = safetensors.torch.load_file(path)
    metadata["sha256"] = tensors_sha256(tensors)
    safetensors.torch.save_file(tensors, path, metadata)
    return path


EDSR_SAYS = {"scale": 2, "width": 4, "blocks": 1, "residual_scale": 1.0, "value_range": 255.0}
EDSR_SAYS |= {"mean": [0.4488, 0.4371, 0.404], "skip": "none"}
MEMBER = {"name": "a", "network": {"type": "edsr", "scale": 2}}
HOSTILE: dict[str, tuple[str, dict[str, object]]] = {
    "a billion blocks": ("edsr", EDSR_SAYS | {"blocks": 10**9}),
    "more blocks than tensors": ("edsr", EDSR_SAYS | {"blocks": 60_000}),
    "a width of 1e30": ("edsr", EDSR_SAYS | {"width": 1e30}),
    "a width of true": ("edsr", EDSR_SAYS | {"width": True}),
    "a width as text": ("edsr", EDSR_SAYS | {"width": "wide"}),
    "a range that is no number": ("edsr", EDSR_SAYS | {"value_range": float("nan")}),
    "an ensemble of blocks": (
        "ensemble",
        {"scale": 2, "members": [MEMBER], "width": 4, "blocks": 10**8},
    ),
    "an ensemble in an ensemble": ("ensemble", {"scale": 2, "members": [{"name": "b"}]}),
    "many layers": ("swinir", {"scale": 2, "depths": [60_000] * 400, "heads": [6] * 400}),
    "a wide window": ("swinir", {"scale": 2, "window": 10_000}),
    "wide feed-forward networks": ("smfanet", {"scale": 2, "expansion": 1e18}),
    "a list": ("edsr", {"scale": [2]}),
    "a deep nest": ("edsr", json.loads("[" * 200 + "]" * 200)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_is_built_from_a_files_word(name: str, tmp_path: Path) -> None:
    """A file of 468 bytes hung the process; widths of 1e30 or true were tracebacks."""
    network, numbers = HOSTILE[name]
    path = rewritten(tmp_path / "a.safetensors", network=network, config=json.dumps(numbers))

    with pytest.raises(WeightsError, match=r"a\.safetensors"):
        weights.read(path)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_numbers_that_nothing_computes_with_are_refused(
    dtype: torch.dtype, ending: str, tmp_path: Path
) -> None:
    small = {name: tensor.to(dtype) for name, tensor in RAW.items()}
    path = tmp_path / f"a.{ending}"
    safetensors.torch.save_file(small, path) if ending == "safetensors" else torch.save(small, path)

    with pytest.raises(WeightsError, match=r"holds torch\.float8_e.*: save the weights as"):
        weights.read(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html>\n<html>404</html>", "is a web page: what was downloaded"),
        (b"\n <html lang='en'>", "is a web page: what was downloaded"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "is a pointer of Git LFS: get the",
        ),
        (b"", "is empty: get it again"),
    ],
)
@pytest.mark.parametrize("ending", ["pth", "safetensors", "bin"])
def test_what_a_download_gave_in_place_of_weights_is_named(
    content: bytes, what: str, ending: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a.{ending}"
    path.write_bytes(content)

    with pytest.raises(WeightsError, match=f"a.{ending} {what}"):
        weights.read(path)


def test_tensors_without_values_are_refused(tmp_path: Path) -> None:
    """Their sizes are bounded by nothing."""
    tensors = state() | {"conv_first.weight": torch.zeros(1 << 40, 0, 3, 3)}
    torch.save(tensors, tmp_path / "a.pth")

    with pytest.raises(WeightsError, match=r"conv_first\.weight holds nothing"):
        weights.read(tmp_path / "a.pth")


def test_every_flipped_bit_of_what_a_file_says_is_noticed(tmp_path: Path) -> None:
    """One bit in the config made another network, and the checksum was right."""
    path = tmp_path / "a.safetensors"
    weights.write(path, SMALL.build(), metadata={"teacher": "x"})
    whole = path.read_bytes()
    start, end = whole.index(b"__metadata__"), whole.index(b'"sha256"')
    places = [(byte, bit) for byte in range(start - 2, end + 75) for bit in range(8)]

    for byte, bit in random.Random(0).sample(places, 700):
        damaged = bytearray(whole)
        damaged[byte] ^= 1 << bit
        path.write_bytes(damaged)
        with pytest.raises(WeightsError):
            weights.inspect(path)
    path.write_bytes(whole)
    assert weights.read(path).config == SMALL


def test_files_of_the_first_version_are_still_read(tmp_path: Path) -> None:
    path = rewritten(tmp_path / "a.safetensors", config=json.dumps(EDSR_SAYS))

    assert weights.read(path).config == SMALL


# A network of somebody's own


@dataclass(frozen=True, kw_only=True)
class GuestConfig(NetworkConfig):
    """One convolution under a name that prefixes have."""

    name: ClassVar[str] = "guest"
    width: int = 4

    def build(self) -> "Guest":
        return Guest(self)

    @classmethod
    def layouts(cls) -> tuple[Layout, ...]:
        return (GuestLayout(),)


class Guest(Staged):
    def __init__(self, config: GuestConfig) -> None:
        super().__init__(config, width=config.width, radius=1)
        self.net = nn.Conv2d(3, config.width, 3, padding=1)
        self.out = nn.Conv2d(config.width, 3 * config.scale**2, 1)

    @property
    def stages(self) -> Sequence[nn.Module]:
        return [nn.Identity()]

    def head(self, lr: Tensor) -> Tensor:
        return self.net(lr)

    def tail(self, x: Tensor, kept: Mapping[int, Tensor], lr: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(self.out(x), self.scale)


class GuestLayout(Layout):
    name = "theirs"
    signature = (r"first\.weight", r"last\.weight")
    key = "weights"

    def read(self, tensors: Tensors) -> Recognized:
        named = {n.replace("first", "net").replace("last", "out"): t for n, t in tensors.items()}
        width, scale = named["net.weight"].shape[0], round((named["out.bias"].numel() / 3) ** 0.5)
        return Recognized(config=GuestConfig(scale=scale, width=width), tensors=named)

    def write(self, network: Network, tensors: Tensors, *, training_size: int) -> dict[str, Tensor]:
        return {n.replace("net", "first").replace("out", "last"): t for n, t in tensors.items()}


def test_a_plug_in_with_a_layout_is_recognized_read_and_written_by_its_one_file(
    tmp_path: Path,
) -> None:
    network = GuestConfig(scale=3, width=5).build()
    tensors = {f"module.first.{n}": t for n, t in network.net.state_dict().items()}
    tensors |= {f"module.last.{n}": t for n, t in network.out.state_dict().items()}
    torch.save({"weights": tensors}, tmp_path / "foreign.pth")
    weights.write(tmp_path / "ours.safetensors", network)
    weights.write(tmp_path / "theirs.pth", network, layout="theirs")

    for name in ("foreign.pth", "ours.safetensors", "theirs.pth"):
        again = weights.read(tmp_path / name)
        assert again.config == GuestConfig(scale=3, width=5)
        assert_close(again.state_dict(), network.state_dict(), rtol=0, atol=0)
    assert "first.weight" in torch.load(tmp_path / "theirs.pth", weights_only=True)["weights"]
    with pytest.raises(WeightsError, match="guest has no layout 'basicsr': known are dukd, theirs"):
        weights.write(tmp_path / "a.pth", network, layout="basicsr")


def test_every_network_says_its_own_layouts() -> None:
    for kind in known(NetworkConfig).values():
        names = [layout.name for layout in kind.layouts()]
        assert len(set(names)) == len(names)
        assert kind is not EnsembleConfig or not names


# What a file does not say


def test_other_readings_of_a_file() -> None:
    network = SMALL.build()
    made = list(guess.readings(network, 1))

    assert [(dict(one.changed), one.exchanged) for one in made] == [
        ({}, True),
        ({"mean": (0.0, 0.0, 0.0)}, False),
        ({"value_range": 1.0}, False),
        ({"residual_scale": 0.1}, False),
    ]
    assert all(one.changes == 1 for one in made)
    lr = torch.rand(1, 3, 4, 4)
    assert_close(made[0].network(lr), network(lr.flip(1)).flip(1))


def test_numbers_count_only_where_a_file_is_silent(tmp_path: Path) -> None:
    weights.write(tmp_path / "a.safetensors", SMALL.build())
    torch.save(state(), tmp_path / "b.pth")

    ours, _ = guess.read_where_silent(tmp_path / "a.safetensors", value_range=1.0)
    other, contents = guess.read_where_silent(tmp_path / "b.pth", value_range=1.0)

    assert ours.config == SMALL
    assert other.config.value_range == 1.0  # type: ignore[attr-defined]
    assert contents.assumed == {"mean", "residual_scale"}
    assert guess.others(other.config, contents.assumed) == {
        "mean": (0.0, 0.0, 0.0),
        "residual_scale": 0.1,
    }


def test_members_of_an_ensemble_come_back(tmp_path: Path) -> None:
    config = EnsembleConfig(scale=2, members=(Member(name="a", network=SMALL),), width=4, blocks=1)
    weights.write(tmp_path / "a.safetensors", config.build())

    assert weights.read(tmp_path / "a.safetensors").config == config
