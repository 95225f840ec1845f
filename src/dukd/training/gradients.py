"""From losses to weights: gradients, the verdict on them, the optimizer, and nothing else."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from dukd.core.distributed import InOrder
from dukd.methods import Losses

if TYPE_CHECKING:
    from dukd.training.assemble import Training


class Gradient(NamedTuple):
    """What a batch asks of the weights; the gradient itself lies at them."""

    losses: dict[str, Tensor]
    """By name, of the whole batch."""
    totals: list[Tensor]
    """What has to be finite: sums of losses, and the norm."""
    norm: Tensor
    """Of the gradient, before it is clipped."""


def gradient(training: "Training", micro_batches: Iterable[Losses]) -> Gradient:
    """Add the gradient of a batch to what is there, and clip it.

    It is the mean over micro-batches and ranks.

    Args:
        training: Whose weights it is for.
        micro_batches: The losses of each, which are computed as they are asked for.

    Raises:
        ValueError: If a micro-batch has none.
        dukd.core.distributed.PeerError: If another rank died or hangs.
    """
    losses, totals = _gradients(training, micro_batches)
    clip, trained = training.experiment.optimization.clip, training.state.trained()
    if clip:
        norm = nn.utils.clip_grad_norm_(trained, clip)
    else:
        norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
    return Gradient(losses, [*totals, norm], norm)


def _gradients(
    training: "Training", micro_batches: Iterable[Losses]
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
        total = torch.stack([loss.float() for loss in named.values()]).sum()
        total = total if share == 1 else total / share
        total.backward()
        totals.append(total.detach())
        if in_order is not None:
            in_order.add(torch.stack([loss.detach().float() for loss in named.values()]))
        for name, loss in named.items():
            value = loss.detach().float()
            value = value if share == 1 else value / share
            losses[name] = losses[name] + value if name in losses else value
    if in_order is not None:
        means = in_order.mean()
    elif world.size > 1:
        means = world.mean(parameters, torch.stack(list(losses.values())))
    else:
        return losses, totals
    return dict(zip(losses, means.unbind(), strict=True)), [means.sum()]
