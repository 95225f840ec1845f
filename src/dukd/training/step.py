"""One optimizer step: the only place that calls backward or step.

Everything a step does follows from the experiment and the number of the step: the patches are batch
``k`` of a seed, the method draws from a generator of (seed, k), and so does whatever the networks
draw themselves.
"""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from dukd.core.distributed import InOrder
from dukd.methods import Losses
from dukd.networks.compile import begin_step
from dukd.training.assemble import Training
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
        losses, totals = _gradients(training, named)
        norm = nn.utils.clip_grad_norm_(state.trained(), optimization.clip or math.inf)
        checked = CheckedStep(state.step + 1, lr, hr, losses, norm)
        if (bad := training.guard.check(checked, [*totals, norm])) is not None:
            raise _non_finite(training, bad)
        state.touch()
        state.optimizer.step()
        logged |= losses | {GRADIENT_NORM: norm}
    objective.distiller.after_step(state.step + 1)
    state.average.move(optimization.ema)
    state.close_step()
    return logged


def _gradients(
    training: Training, micro_batches: Iterable[Losses]
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Add the gradient of a batch to what is there: its mean over micro-batches and ranks.

    Returns:
        The losses by name, means as well, and what has to be finite.
    """
    world, parameters = training.world, training.state.trained()
    in_order = (
        InOrder(world, parameters) if training.experiment.optimization.deterministic else None
    )
    share = 1 if in_order is not None else training.share.parts
    losses: dict[str, Tensor] = {}
    totals: list[Tensor] = []
    for named in micro_batches:
        if not named:
            raise ValueError(
                f"{training.experiment.method.label} compares nothing at step "
                f"{training.state.step + 1}: give a weight above 0"
            )
        total = torch.stack([loss.float() for loss in named.values()]).sum() / share
        total.backward()
        totals.append(total.detach())
        if in_order is not None:
            in_order.add(torch.stack([loss.detach().float() for loss in named.values()]))
        for name, loss in named.items():
            value = loss.detach().float() / share
            losses[name] = losses[name] + value if name in losses else value
    if in_order is not None:
        means = in_order.mean()
    elif world.size > 1:
        means = world.mean(parameters, torch.stack(list(losses.values())))
    else:
        return losses, totals
    return dict(zip(losses, means.unbind(), strict=True)), [means.sum()]


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
