"""No refactoring changes a number: ``golden/golden.json`` was written before the house was
rebuilt."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "golden"))
import make

GOLDEN = json.loads(make.FILE.read_text(encoding="utf-8"))
CELLS = [
    (name, 2 + number % 3, 10 + number % 2, way)
    for number, name in enumerate(make.methods())
    for way in make.WAYS
]
"""One scale and one seed of every method; ``make.py`` makes all of them."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    if make.arithmetic() != GOLDEN["arithmetic"]:
        pytest.skip("this processor, or torch, rounds otherwise than where the file was written")
    made = tmp_path_factory.mktemp("golden")
    make.prepare(made)
    return made


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: " ".join(map(str, cell)))
def test_losses_are_equal_to_the_last_bit(cell, folder):
    expected = GOLDEN["losses"][" ".join(map(str, cell))]
    if expected == ["refused"]:
        pytest.skip("was refused when the file was written")

    assert make.totals(folder, *cell) == expected


@pytest.mark.parametrize("name", make.RECIPES[:3])
def test_students_are_equal_to_the_last_bit(name, folder):
    assert make.student_of(folder, name) == GOLDEN["students"][name]


def test_networks_of_public_tables_keep_their_sizes():
    assert make.sizes() == GOLDEN["sizes"]
