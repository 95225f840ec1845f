"""What several test files share."""

from pathlib import Path

import pytest
import torch
from hypothesis import settings

from dukd.runs.directory import Run

settings.register_profile("dukd", deadline=None)  # a busy machine must not fail a property
settings.load_profile("dukd")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real images and weights, which is no part of the project."""
    if not SHARED.is_dir():
        pytest.skip("the real images and weights are not beside the project (../shared/data)")
    return SHARED


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run directory that was just made."""
    return Run.create(tmp_path / "run", experiment_yaml="seed: 1\n", facts={"seed": 1})


@pytest.fixture(autouse=True)
def _fixed_global_seed() -> None:
    """Networks are initialized from torch's global generator; tests are to be the same every
    time."""
    torch.manual_seed(0)
