import argparse
import errno
import hashlib
import io
import os
import pickle
import shutil
import zipfile
from collections import OrderedDict, namedtuple
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from dukd.runs.checkpoint import CheckpointError, DiskFullError, load, save, verify
from saved import archive, names, signed, state_of

SRC = Path(__file__).resolve().parents[1] / "src"


# A checkpoint file


def test_the_footer_is_the_digest_of_what_stands_before_it(tmp_path: Path) -> None:
    save(tmp_path / "a.pt", state_of(1))
    content = (tmp_path / "a.pt").read_bytes()

    assert content[-39:-32] == b"SHA256:"
    assert content[-32:] == hashlib.sha256(content[:-39]).digest()
    assert verify(tmp_path / "a.pt")


_leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**1024) + 1, 2**1024 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.text(st.characters(categories=["Cs"]), max_size=2)
)
_states = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        _leaves,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3)
            | st.tuples(inner, inner)
        ),
        max_leaves=8,
    ),
    max_size=4,
)


@given(_states)
def test_what_is_saved_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, state: dict[str, object]
) -> None:
    path = tmp_path_factory.getbasetemp() / "same.pt"

    save(path, state)

    assert repr(load(path)) == repr(state)  # repr tells 1 from True and 0.0 from -0.0


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        torch.float64,
        torch.bfloat16,
        torch.float16,
        torch.uint8,
        torch.int64,
        torch.bool,
        torch.complex64,
    ],
)
def test_tensors_come_back_to_the_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = (torch.randn(3, 1, 5) * 10).to(dtype)

    save(
        tmp_path / "a.pt",
        {"plain": tensor, "scalar": tensor[0, 0, 0], "empty": tensor[:0], "turned": tensor.mT},
    )
    loaded = load(tmp_path / "a.pt")

    assert_close(loaded["plain"], tensor, rtol=0, atol=0)
    assert_close(loaded["scalar"], tensor[0, 0, 0], rtol=0, atol=0)
    assert_close(loaded["empty"], tensor[:0], rtol=0, atol=0)
    assert_close(loaded["turned"], tensor.mT, rtol=0, atol=0)


def test_a_training_state_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    def steps(net: nn.Module, optimizer: torch.optim.Adam, rng: torch.Generator) -> list[str]:
        losses: list[str] = []
        for _ in range(3):
            loss = net(torch.rand(4, 8, generator=rng)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item().hex())
        return losses

    net, rng = nn.Linear(8, 2), torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    steps(net, optimizer, rng)
    save(
        tmp_path / "a.pt",
        {"net": net.state_dict(), "adam": optimizer.state_dict(), "rng": rng.get_state()},
    )
    expected = steps(net, optimizer, rng)

    again, other_rng = nn.Linear(8, 2), torch.Generator()
    other = torch.optim.Adam(again.parameters(), lr=0.5)
    state: dict[str, Any] = load(tmp_path / "a.pt")
    again.load_state_dict(state["net"])
    other.load_state_dict(state["adam"])
    other_rng.set_state(state["rng"])

    assert steps(again, other, other_rng) == expected


def test_numpy_scalars_and_ordered_dictionaries_become_plain(tmp_path: Path) -> None:
    """A file that its own safe reader refuses would lock its owner out: reliability.md 1.11."""
    state = OrderedDict(
        loss=np.float64(0.5), count=np.int64(3), on=np.bool_(True), name=np.str_("x")
    )

    save(tmp_path / "a.pt", state)

    assert repr(load(tmp_path / "a.pt")) == "{'loss': 0.5, 'count': 3, 'on': True, 'name': 'x'}"


def test_a_view_takes_only_its_own_elements_along(tmp_path: Path) -> None:
    save(tmp_path / "a.pt", {"row": torch.zeros(1_000_000)[:10]})

    assert (tmp_path / "a.pt").stat().st_size < 3000


def test_parameters_that_share_elements_are_stored_once(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.rand(100_000))

    save(tmp_path / "a.pt", {"a": weight, "b": weight})
    loaded = load(tmp_path / "a.pt")

    assert (tmp_path / "a.pt").stat().st_size < 410_000
    assert type(loaded["a"]) is Tensor
    assert_close(loaded["b"], weight.detach(), rtol=0, atol=0)


Pair = namedtuple("Pair", "a b")  # noqa: PYI024 (the odd type is the point)


class Odd(Tensor):
    pass


_circle: dict[str, object] = {}
_circle["again"] = _circle


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {"optimizer": {"groups": [{"lr": np.ones(2)}]}},
            r"optimizer\.groups\[0\]\.lr is numpy\.ndarray; a checkpoint",
        ),
        (
            {"net": nn.Linear(1, 1)},
            r"net is torch\.nn\.modules\.linear\.Linear; a checkpoint holds tensors",
        ),
        ({"path": Path("x")}, r"path is pathlib\..*Path; "),
        ({"when": np.datetime64("2026-01-01")}, r"when is datetime\.date; "),
        ({"pair": Pair(1, 2)}, r"pair is .*Pair; "),
        ({"b": b"bytes"}, r"b is bytes; "),
        ({"steps": {1, 2}}, r"steps is set; "),
        ({"x": {1.5: 0}}, r"x: the key 1\.5 is float; keys are str or int"),
        ({"x": {True: 0}}, r"x: the key True is bool; keys are str or int"),
        ({(1, 2): 0}, r"the state: the key \(1, 2\) is tuple"),
        ({"n": 2**1024}, r"n: an integer in a checkpoint has at most 1024 bits"),
        ({"odd": torch.rand(2).as_subclass(Odd)}, r"odd is .*Odd"),
        (
            {"sparse": torch.eye(2).to_sparse()},
            r"sparse is torch\.Tensor \(torch\.sparse_coo\); only dense",
        ),
        ({"meta": torch.empty(2, device="meta")}, r"meta is a tensor without data"),
        (
            {"wide": torch.zeros(1).expand(10**9)},
            r"wide repeats its elements \(shape \(1000000000,\), 4 bytes stored\)",
        ),
        (_circle, r"a checkpoint is at most 64 levels deep"),
    ],
)
def test_what_is_no_data_is_refused_before_anything_is_written(
    tmp_path: Path, state: dict[str, object], message: str
) -> None:
    save(tmp_path / "a.pt", {"old": 1})

    with pytest.raises(CheckpointError, match=message):
        save(tmp_path / "a.pt", state)

    assert load(tmp_path / "a.pt") == {"old": 1}
    assert names(tmp_path) == ["a.pt"]


def test_every_flipped_byte_is_detected(tmp_path: Path) -> None:
    """torch.load alone accepted 951 of 1000 flipped bits (reliability.md 1.3)."""
    path = tmp_path / "a.pt"
    save(path, {"weights": torch.rand(20)})
    content = path.read_bytes()

    for index in range(len(content)):
        for mask in (1, 0x80, 0xFF):
            damaged = bytearray(content)
            damaged[index] ^= mask
            path.write_bytes(damaged)
            with pytest.raises(
                CheckpointError, match=r"sha256 mismatch in a\.pt|no SHA-256 footer in a\.pt"
            ):
                load(path)
        assert not verify(path)


def _reduce(function: object, *arguments: object) -> object:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return function, arguments

    return Payload()


OPEN = f"{open.__module__}.open"
"""``io.open``, or ``_io.open`` from Python 3.12 on."""


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, "posix.system"),
        (eval, "builtins.eval"),
        (exec, "builtins.exec"),
        (open, OPEN),
    ],
)
def test_no_pickle_is_executed(tmp_path: Path, form: str, function: Any, name: str) -> None:
    flag = tmp_path / "flag"
    argument = {"posix.system": f"touch {flag}", OPEN: str(flag)}.get(
        name, f"open({str(flag)!r}, 'w')"
    )
    content = {
        "step": 1,
        "deep": [_reduce(function, argument, *(["w"] if name == OPEN else []))],
    }
    body = {
        "zip": lambda: archive(content),
        "legacy": lambda: archive(content, _use_new_zipfile_serialization=False),
        "pickle": lambda: pickle.dumps(content),
    }[form]()
    (tmp_path / "a.pt").write_bytes(signed(body))

    expected = (
        f"refused a.pt: it asks for {name}"
        if form == "zip"
        else "refused a.pt: its content is not torch's archive"
    )
    with pytest.raises(CheckpointError, match=expected):
        load(tmp_path / "a.pt")

    assert not flag.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"net": nn.Linear(1, 1)}, r"it asks for torch\.nn\.modules\.linear\.Linear"),
        ({"args": argparse.Namespace(a=1)}, r"it asks for argparse\.Namespace"),
        ({"loss": np.float64(1)}, r"it asks for numpy"),
        ([1, 2], r"it holds list instead of a dictionary"),
        ({"x": {1, 2}}, r"x is set"),
        ({"huge": torch.zeros(1).expand(2 * 10**10)}, r"huge repeats its elements"),
    ],
)
def test_files_with_more_than_data_are_refused(
    tmp_path: Path, content: object, message: str
) -> None:
    (tmp_path / "a.pt").write_bytes(signed(archive(content)))

    with pytest.raises(CheckpointError, match=rf"refused a\.pt: {message}"):
        load(tmp_path / "a.pt")


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    bomb = io.BytesIO()
    source = zipfile.ZipFile(io.BytesIO(archive({"x": torch.zeros(100_000)})))
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    (tmp_path / "a.pt").write_bytes(signed(bomb.getvalue()))

    with pytest.raises(CheckpointError, match=r"compressed members"):
        load(tmp_path / "a.pt")


@given(st.data())
def test_signed_nonsense_gives_one_kind_of_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "nonsense.pt"
    body = bytearray(archive({"weights": torch.ones(3), "names": ["a", "b"]}))
    for _ in range(data.draw(st.integers(1, 8))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(signed(bytes(body)))

    with suppress(CheckpointError):
        load(path)


def test_a_full_disk_is_noticed_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "a.pt", {"old": 1})
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 3_000_000)
    )

    with pytest.raises(DiskFullError) as caught:
        save(tmp_path / "a.pt", {"weights": torch.zeros(43_000_000 // 4)})

    assert (
        str(caught.value) == f"disk full: need 43 MB, 3 MB free on {tmp_path}; a.pt was not written"
    )
    assert caught.value.errno == errno.ENOSPC
    assert load(tmp_path / "a.pt") == {"old": 1}


def test_a_full_quota_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    save(tmp_path / "a.pt", {"old": 1})
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(DiskFullError, match=r"disk full: need 1 kB, .* free on"):
        save(tmp_path / "a.pt", {"new": 1})

    assert load(tmp_path / "a.pt") == {"old": 1}
    assert names(tmp_path) == ["a.pt"]
