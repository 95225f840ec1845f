"""CONTRIBUTING.md keeps its word: its files and commands are run here as they stand there."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dukd.networks import EDSRConfig
from dukd.networks.files import weights

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<language>\w+)(?: (?P<file>\S+))?\n(?P<body>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
BLOCKS = [
    m.groupdict() for m in BLOCK.finditer((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
]
FILES = {b["file"]: b["body"] for b in BLOCKS if b["file"] and not b["indent"]}
COMMANDS = [line for b in BLOCKS if b["language"] == "sh" for line in b["body"].splitlines()]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with CONTRIBUTING.md's files, coarse images and a teacher that repeats pixels."""
    folder = tmp_path_factory.mktemp("desk")
    for name, body in FILES.items():
        (folder / name).write_text(body, encoding="utf-8")
    rng = np.random.default_rng(0)
    for part, count in (("images", 2), ("validation", 1)):
        (folder / part).mkdir()
        for i in range(count):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
            Image.fromarray(pixels).save(folder / part / f"{i}.png")
    torch.manual_seed(0)
    teacher = EDSRConfig(scale=2, width=8, blocks=1, value_range=1.0, skip="nearest").build()
    for parameter in teacher.conv_last.parameters():
        torch.nn.init.zeros_(parameter)
    weights.write(folder / "teacher.safetensors", teacher)
    return folder


def ran(command: list[str], folder: Path, source: Path = ROOT / "src") -> str:
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_works_as_it_stands(desk, command):
    words = shlex.split(command)
    programs = {"dukd": [sys.executable, "-m", "dukd"], "python": [sys.executable]}
    ran([*programs[words[0]], *words[1:]], desk)

    if "--out" in words:
        records = [
            json.loads(line) for line in (desk / words[-1] / "log.jsonl").read_text().splitlines()
        ]
        trained = [r for r in records if r["kind"] == "train"]
        assert trained[-1]["step"] == 10
        assert ("slopes" in trained[-1]["losses"]) == ("sobel" in command)


@pytest.mark.slow
def test_the_method_moves_into_the_package_as_described(desk, tmp_path):
    """One file, one line: then the recipe needs no --import."""
    shutil.copytree(
        ROOT / "src" / "dukd", tmp_path / "dukd", ignore=shutil.ignore_patterns("__pycache__")
    )
    text = FILES["my_method.py"]
    assert text.count("from dukd.methods import ") == 1
    text = text.replace("from dukd.methods import ", "from dukd.methods.base import ")
    (tmp_path / "dukd" / "methods" / "sobel.py").write_text(text, encoding="utf-8")
    (line,) = [b["body"].strip() for b in BLOCKS if b["file"] == "src/dukd/methods/__init__.py"]
    init = tmp_path / "dukd" / "methods" / "__init__.py"
    init.write_text(init.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")

    shown = ran(
        [sys.executable, "-m", "dukd", "recipes", "edsr-x4-sobel"], tmp_path, source=tmp_path
    )
    assert "type: sobel" in shown


def test_there_is_something_to_run():
    assert {
        "my_method.py",
        "test_my_method.py",
        "train_my_method.py",
        "my_network.py",
        "chain.yaml",
    } <= FILES.keys()
    assert len(COMMANDS) == 5
