from pathlib import Path

import pytest
import torch

from dukd.core.device import is_out_of_memory
from dukd.data.patches import Residence
from dukd.networks import EDSRConfig
from dukd.training.experiment import Data, Experiment, Optimization
from dukd.training.memory import advice


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

    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(
        RuntimeError("GET was unable to find an engine to execute this computation")
    )
    assert is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    assert not is_out_of_memory(RuntimeError("sizes do not match"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            experiment(),
            r"16 patches of 48 .* float32. .* half\); --.*accumulate 2 .* 8 patches .*batch 8; "
            r".*never .*patch 32$",
        ),
        (
            experiment(batch=6, accumulate=2, precision="bfloat16"),
            r"3 patches of 48 .* smaller: --optimization.accumulate 3 \(the same batch, "
            r"2 patches at a time\); --data",
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
