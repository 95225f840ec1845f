"""The examples of docs/architecture.md are run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```python (\S+\.py)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


def test_there_is_an_example_of_each_seam():
    assert [*FILES] == [
        *("my_upcycling.py", "my_degradation.py", "my_metric.py", "my_runtime.py"),
        "test_mine.py",
    ]
    assert COMMANDS == ["python -m pytest -W ignore test_mine.py"]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_keep_what_such_parts_promise(command, tmp_path):
    for name, body in FILES.items():
        (tmp_path / name).write_text(body, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}

    done = subprocess.run(
        [sys.executable, *command.split()[1:], "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert "1 passed" in done.stdout, done.stdout + done.stderr
