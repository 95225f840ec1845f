from pathlib import Path

import torch
from torch.testing import assert_close

from dukd.checkpoint import Run


def test_a_run_goes_on_from_its_newest_checkpoint(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", experiment_yaml="seed: 1\n", facts={"seed": 1})
    weights = torch.rand(3, 4)

    run.save_state(10, {"weights": weights})
    run.save_state(20, {"weights": weights + 1})
    loaded = Run.open(run.directory).load_state()

    assert loaded.step == 20
    assert loaded.reports == []
    assert_close(loaded.state["weights"], weights + 1, rtol=0, atol=0)
