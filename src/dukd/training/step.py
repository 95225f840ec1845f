"""One optimizer step: from a batch's gradient (`gradients`), or replayed whole (`recording`).

Everything a step does follows from the experiment and the number of the step: the patches are batch
``k`` of a seed, the method draws from a generator of (seed, k), and so does whatever the networks
draw themselves.
"""

import math
from collections.abc import Mapping

from torch import Tensor

from dukd.networks.compile import begin_step
from dukd.training.assemble import Training
from dukd.training.gradients import gradient
from dukd.training.log import GRADIENT_NORM
from dukd.training.nonfinite import CheckedStep
from dukd.training.schedule import rate_factor, seed_networks


class NonFiniteError(ArithmeticError):
    """A loss became infinite or NaN; the message says where the evidence is."""

    def __init__(self, message: str, evidence: Mapping[str, object], step: int) -> None:
        super().__init__(message)
        self.evidence = evidence
        self.step = step


def advance(training: Training, lr: Tensor, hr: Tensor) -> dict[str, Tensor]:
    """Make one step.

    Args:
        training: What is trained; the step of its state goes up by one.
        lr: ``(n, 3, h, w)``, uint8: this rank's share of the batch.
        hr: ``(n, 3, h * scale, w * scale)``, uint8.

    Returns:
        The losses by name, as the method weighs them, and the norm of the gradient; of the whole
        batch.

    Raises:
        NonFiniteError: If a loss is not finite; the weights are as before.
        dukd.core.distributed.PeerError: If another rank died or hangs.
    """
    state, objective = training.state, training.objective
    optimization, method = training.experiment.optimization, training.experiment.method
    state.open_step(hidden=optimization.compile or optimization.cuda_graphs)
    if (replayed := _replayed(training, lr, hr)) is not None:
        return replayed
    seed_networks(optimization.seed, state.step)
    parts = training.share.split(state.step, lr, hr)
    for group in state.optimizer.param_groups:
        group["lr"] = optimization.learning_rate * rate_factor(optimization, state.step)
    logged: dict[str, Tensor] = {}
    state.optimizer.zero_grad()
    if optimization.cuda_graphs:
        begin_step(compiles=optimization.compile)
    for phase in range(len(method.phases)):
        named = (objective.losses(part, phase=phase) for part in parts)
        losses, totals, norm = gradient(training, named)
        checked = CheckedStep(state.step + 1, lr, hr, losses, norm)
        if (bad := training.guard.check(checked, totals)) is not None:
            raise _non_finite(training, bad)
        state.touch()
        state.optimizer.step()
        logged |= losses | {GRADIENT_NORM: norm}
    objective.distiller.after_step(state.step + 1)
    state.average.move(optimization.ema)
    state.close_step()
    return logged


def _replayed(training: Training, lr: Tensor, hr: Tensor) -> dict[str, Tensor] | None:
    """Make a step from what is known of its batch; None where it has to be made anew."""
    if training.recording is None or training.recording.ended:
        return None
    seed_networks(training.experiment.optimization.seed, training.state.step)
    known = training.recording.advance(training, lr, hr)
    if known is None:
        return None
    if (bad := training.guard.wait_for(known)) is not None:
        raise _non_finite(training, bad)
    training.state.close_step()
    return known.logged


def settle(training: Training) -> None:
    """Wait for a GPU's verdict on the steps so far; called before anything is logged or saved.

    Raises:
        NonFiniteError: If a loss was not finite.
        dukd.training.records.CacheError: If a replayed output was of another image.
    """
    if (bad := training.guard.settle()) is not None:
        raise _non_finite(training, bad)
    training.objective.verify()


def _non_finite(training: Training, bad: CheckedStep) -> NonFiniteError:
    values = {name: loss.item() for name, loss in bad.losses.items()}
    norm = math.nan if bad.norm is None else bad.norm.item()
    patches, student = training.share.patches, training.state.student
    lr, hr = (bad.lr, bad.hr) if training.world.size == 1 else patches.batch(bad.step - 1)
    evidence = {
        "step": bad.step,
        "images": patches.names(bad.step - 1),
        "losses": values,
        "gradient_norm": norm,
        "lr": lr.cpu(),
        "hr": hr.cpu(),
        "student": {name: value.cpu() for name, value in student.state_dict().items()},
    }
    names = ", ".join(f"{name} {value:g}" for name, value in values.items())
    if all(math.isfinite(value) for value in values.values()):
        text = f"the gradient of step {bad.step} is not finite, though its losses are ({names})"
    else:
        text = f"the loss of step {bad.step} is not finite ({names})"
    return NonFiniteError(text, evidence, bad.step)
