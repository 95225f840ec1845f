from pathlib import Path

import pytest
import torch

from dukd.data.patches import Residence
from dukd.networks import EDSRConfig
from dukd.training.experiment import Data, Experiment, Optimization
from dukd.training.memory import advice, is_shortage


def experiment(
    batch: int = 16, patch: int = 48, resident: Residence = "auto", **optimization: object
) -> Experiment:
    return Experiment(
        student=EDSRConfig(scale=2),
        data=Data(train=Path("x"), batch=batch, patch=patch, resident=resident),
        optimization=Optimization(**optimization),
    )


def test_what_runs_out_of_memory_is_recognized() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)

    assert is_shortage(caught.value)
    assert is_shortage(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_shortage(MemoryError())
    assert is_shortage(RuntimeError("GET was unable to find an engine to execute this computation"))
    assert is_shortage(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    assert not is_shortage(RuntimeError("sizes do not match"))
    assert not is_shortage(ValueError("can't allocate memory"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            experiment(),
            r"16 patches of 48 .* float32. .* half\); --.*accumulate 2 .* 8 patches .*batch 8; .*never .*patch 32$",
        ),
        (
            experiment(batch=6, accumulate=2, precision="bfloat16"),
            r"3 patches of 48 .* smaller: --optimization.accumulate 3 \(the same batch, 2 patches at a time\); --data",
        ),
        (
            experiment(batch=1, patch=12, precision="bfloat16", resident="never"),
            "smaller: --data.patch 8$",
        ),
        (experiment(batch=258, accumulate=43, precision="bfloat16"), r"; --data.batch 129;"),
        (experiment(batch=6, accumulate=2, precision="bfloat16"), r"; --data.batch 2;"),
        (
            experiment(batch=1, patch=8, precision="bfloat16", resident="never"),
            "smaller: nothing but other networks$",
        ),
    ],
    ids=["plain", "halved", "least", "divisible", "a multiple", "none"],
)
def test_the_advice_names_what_would_make_the_step_smaller(given: Experiment, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        raise advice(given, torch.device("cuda:0"))
