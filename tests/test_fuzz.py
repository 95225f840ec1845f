"""Every input that ever ended in neither a result nor a sentence, again; and a few new ones."""

import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from fuzz.child import CORPUS, judge
from fuzz.oracle import targets

KEPT = sorted(path for path in CORPUS.glob("*/*") if path.is_file())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_failed_once_ends_well(path: Path, tmp_path: Path) -> None:
    check = targets()[path.parent.name][1]

    assert judge(check, path.read_bytes(), tmp_path)[1] == ""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", sorted(targets()))
def test_new_inputs_end_well(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    """And not all of them at the first check: some come through, or the generator is of no use."""
    make, check = targets()[kind]
    rng = random.Random(kind)
    ends: Counter[str] = Counter()
    folder = Path(tempfile.mkdtemp())
    for _ in range(6 if kind == "command" else 40):
        data = make(rng)
        what, wrong = judge(check, data, folder)
        assert not wrong, f"{wrong}: {data[:200]!r}"
        ends[what] += 1
    shutil.rmtree(folder)
    capfd.readouterr()  # libtiff's remarks

    assert ends["refused"]
