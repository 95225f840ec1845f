"""What to do when a step does not fit into memory."""

import torch

from dukd.training.experiment import Experiment


class TooLittleMemoryError(ValueError):
    """A step needs more memory than there is; the message names what would make it smaller."""


def advice(experiment: Experiment, device: torch.device) -> TooLittleMemoryError:
    """Name what would make the step of an experiment smaller, what costs nothing first."""
    data, optimization = experiment.data, experiment.optimization
    options: list[str] = []
    if optimization.precision == "float32":
        options.append("--optimization.precision bfloat16 (about half)")
    parts = next(
        (n for n in range(optimization.accumulate + 1, data.batch + 1) if data.batch % n == 0), None
    )
    if parts is not None:
        share = data.batch // parts
        options.append(
            f"--optimization.accumulate {parts} (the same batch, {share} patches at a time)"
        )
    if (half := data.batch // 2 // optimization.accumulate * optimization.accumulate) > 0:
        options.append(f"--data.batch {half}")
    if data.resident != "never" and device.type == "cuda":
        options.append("--data.resident never (the images leave its memory)")
    if (patch := max(8, data.patch * 2 // 3 // 8 * 8)) < data.patch:
        options.append(f"--data.patch {patch}")
    part = data.batch // optimization.accumulate
    return TooLittleMemoryError(
        f"a step does not fit into the memory of {device}: {part} patches of {data.patch} pixels "
        f"at a time, in {optimization.precision}. What makes it smaller: "
        f"{'; '.join(options) or 'nothing but other networks'}"
    )
