"""A degraded run that was killed and resumed ends as one that never stopped."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dukd.images.degrade import preset
from dukd.runs.directory import Run
from dukd.training import loop
from tiny_runs import digest, experiment, hexes, prepare


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("data"))


DEGRADED = (
    "import os, signal, sys\nfrom pathlib import Path\n"
    "from dukd.images.degrade import preset\nfrom dukd.training.loop import train\n"
    "from tiny_runs import experiment\n"
    "def observe(record):\n"
    "    if record['kind'] == 'step' and record['step'] == 7:\n"
    "        os.kill(os.getpid(), signal.SIGKILL)\n"
    "if __name__ == '__main__':\n"
    "    folder, run, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])\n"
    "    degraded = {'data__degradation': preset('real-esrgan'), 'data__workers': workers}\n"
    "    train(experiment(folder, **degraded), run, observe=observe)\n"
)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_degraded_run_that_was_killed_ends_in_equal_bits(
    folder: Path, tmp_path: Path, workers: int
) -> None:
    """Killed in its seventh step, after the save and the validation of the fourth."""
    degraded = experiment(
        folder, data__degradation=preset("real-esrgan"), data__workers=2 - workers
    )
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    loop.train(degraded, calm)
    (tmp_path / "program.py").write_text(DEGRADED)
    paths = os.pathsep.join((str(Path(__file__).parent), str(Path(loop.__file__).parents[2])))
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py", folder, killed, str(workers)],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert Run.open(killed).steps() == [4]

    loop.train(replace(degraded, data=replace(degraded.data, workers=workers)), killed, resume=True)

    for name in ("student.safetensors", "best.safetensors"):
        assert (killed / name).read_bytes() == (calm / name).read_bytes()
    assert (digest(killed), hexes(killed)) == (digest(calm), hexes(calm))
