"""Files of weights: headers of safetensors, pickles inside archives, keys and shapes."""

import io
import json
import pickle
import pickletools
import random
import struct
import zipfile
from collections import OrderedDict
from functools import cache

import safetensors.torch
import torch

from dukd.networks import EDSRConfig, Network
from dukd.networks.files import metadata as described
from dukd.networks.files.metadata import tensors_sha256
from fuzz.change import content, number

_ODD = (0, 1, -1, 2**31, 2**63, 10**30, 1e30, True, None, "", "x", [], [1], {}, {"a": 1}, 0.5)


@cache
def network() -> Network:
    """The smallest network there is."""
    torch.manual_seed(0)
    return EDSRConfig(scale=2, width=2, blocks=1).build()


@cache
def _described() -> tuple[dict[str, object], bytes]:
    """Header and tensors of a file of ours, whose checksum covers the tensors alone."""
    made = network()
    tensors = dict(made.state_dict())
    said = described.strings(made, tensors, {}) | {"dukd": "1", "sha256": tensors_sha256(tensors)}
    data = safetensors.torch.save(tensors, metadata=said)
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def safe(rng: random.Random) -> bytes:
    """A safetensors file whose header lies, or whose metadata do."""
    header, body = _described()
    header = json.loads(json.dumps(header))
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(list(header))
        entry = header[name]
        match rng.randrange(7):
            case 0:
                del header[name]
            case 1:
                header[rng.choice(("a", "", "x" * 300, "conv_first.weight2"))] = entry
            case 2 if isinstance(entry, dict) and entry:
                entry[rng.choice(list(entry))] = rng.choice(_ODD)
            case 3 if isinstance(entry, dict) and "shape" in entry:
                entry["shape"] = [number(rng, 8) for _ in range(rng.randrange(6))]
            case 4 if isinstance(entry, dict) and "dtype" in entry:
                entry["dtype"] = rng.choice(("F16", "BF16", "F64", "I8", "U64", "BOOL", "F8_E4M3"))
            case 5 if isinstance(entry, dict) and "data_offsets" in entry:
                entry["data_offsets"][rng.randrange(2)] = number(rng, 8)
            case _:
                said = header.setdefault("__metadata__", {})
                if isinstance(said, dict):
                    said[rng.choice(("config", "network", "dukd", "sha256"))] = _claim(rng)
        if not header:
            break
    text = json.dumps(header).encode()
    text = content(rng, text) if rng.random() < 0.2 else text
    length = len(text) if rng.random() < 0.95 else number(rng, 8)
    return struct.pack("<Q", length) + text + body


def _claim(rng: random.Random) -> str:
    header, _ = _described()
    config = json.loads(header["__metadata__"]["config"])
    config[rng.choice((*config, "width2"))] = rng.choice(_ODD)
    deep = "[" * rng.choice((10, 2000)) if rng.random() < 0.1 else ""
    return deep + json.dumps(config)


def saved(rng: random.Random) -> bytes:
    """A file of torch.save: other content, another pickle, or another archive."""
    data = _torch(_contents(rng))
    if rng.random() < 0.3:
        return data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    for i, (name, body) in enumerate(members):
        if name.endswith("data.pkl"):
            members[i] = (name, _pickle(rng, body))
    if rng.random() < 0.2:
        at = rng.randrange(len(members))
        match rng.randrange(4):
            case 0:
                del members[at]
            case 1:
                members.append(members[at])
            case 2:
                members[at] = (rng.choice(("../x", "/x", "a/b/c", "archive/code/x.py")), b"")
            case _:
                members[at] = (members[at][0], content(rng, members[at][1]))
    packed = zipfile.ZIP_DEFLATED if rng.random() < 0.05 else zipfile.ZIP_STORED
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", packed) as archive:
            for name, body in members:
                if name not in archive.namelist():
                    archive.writestr(name, body)
        return file.getvalue()


def legacy(rng: random.Random) -> bytes:
    """The form before archives: pickles behind each other."""
    with io.BytesIO() as file:
        torch.save(_contents(rng), file, _use_new_zipfile_serialization=False)
        return content(rng, file.getvalue())


def _torch(value: object) -> bytes:
    with io.BytesIO() as file:
        torch.save(value, file)
        return file.getvalue()


def _contents(rng: random.Random) -> object:
    """What trainers write, with parts exchanged."""
    tensors: dict[object, object] = dict(network().state_dict())
    for _ in range(rng.randrange(3)):
        name = rng.choice(list(tensors))
        match rng.randrange(8):
            case 0:
                del tensors[name]
            case 1:
                tensors[name] = torch.zeros([rng.choice((0, 1, 2, 5)) for _ in range(4)])
            case 2:
                tensors[name] = rng.choice(_ODD)
            case 3:
                tensors[rng.choice((1, None, "step", "a.b", (1, 2)))] = tensors[name]
            case 4:
                tensors[name] = torch.full((2, 3, 3, 3), float("nan"))
            case 5:
                tensors[name] = torch.zeros(1).expand(2**20, 2**12)
            case 6:
                tensors[name] = torch.zeros(3, dtype=rng.choice((torch.int8, torch.complex64)))
            case _:
                tensors[name] = torch.sparse_coo_tensor(size=(2, 3))
    prefix = rng.choice(("", "", "module.", "net_g.", "a.b."))
    named = OrderedDict((prefix + str(k), v) for k, v in tensors.items())
    key = rng.choice(("", "params", "state_dict", "model", "ema", "d"))
    beside = {rng.choice(("ema", "params_ema", "optimizer", "shadow")): rng.choice((named, _ODD))}
    return ({key: named} | (beside if rng.random() < 0.3 else {})) if key else named


def _pickle(rng: random.Random, data: bytes) -> bytes:
    """The same operations with some dropped, doubled, moved, or with another argument."""
    places = [place for _, _, place in pickletools.genops(data) if place is not None]
    steps = [data[a:b] for a, b in zip(places, [*places[1:], len(data)], strict=True)]
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(steps))
        match rng.randrange(6):
            case 0:
                del steps[at]
            case 1:
                steps.insert(at, steps[rng.randrange(len(steps))])
            case 2:
                steps[at] = content(rng, steps[at])
            case 3:
                steps[at] = b"cposix\nsystem\n"
            case 4:
                steps[at] = pickle.LONG_BINPUT + struct.pack("<I", number(rng))
            case _:
                steps[at] = pickle.BININT + struct.pack("<I", number(rng))
        if not steps:
            break
    return b"".join(steps)
