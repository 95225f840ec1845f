"""How weights follow their gradients: Adam, as in all of the papers, and Muon.

Adam scales every number of a weight by itself. Muon (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon) takes the momentum of a convolution as one matrix of
``out x (in * height * width)`` and moves it along the nearest matrix whose directions are all
equally long, so that directions with small gradients move as far as those with large ones. What it
is worth to students stands in docs/results/optimizer.md.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Adam
from typing_extensions import override

from dukd.training.experiment import Optimization

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Factors of X, X X' X and X X' X X' X: steepest at 0, and bounded (Jordan et al.)."""
_ITERATIONS = 5
_MOMENTUM = 0.95
_AS_ADAM = 0.2
"""Root mean square of one of Adam's updates at rate 1 (Liu et al., arXiv 2502.16982)."""


def optimizer_of(optimization: Optimization, *modules: nn.Module) -> Adam:
    """The optimizer of an experiment for what trains in some modules."""
    rate, betas, decay = optimization.learning_rate, optimization.betas, optimization.weight_decay
    if optimization.optimizer == "muon":
        matrices, rest = parted(*modules)
        return Muon(matrices, rest, lr=rate, betas=betas, weight_decay=decay, fused=True)
    trained = [p for m in modules for p in m.parameters() if p.requires_grad]
    return Adam(trained, lr=rate, betas=betas, weight_decay=decay, fused=True)


def parted(*modules: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """What trains, in a fixed order: weights that are matrices, and the rest.

    Matrices are the weights of linear layers and of convolutions without groups, where they have
    more than one row and column; a depthwise convolution mixes no channels.
    """
    found = {id(w): w for module in modules for w in _matrices(module)}
    every = dict.fromkeys(p for m in modules for p in m.parameters() if p.requires_grad)
    return [p for p in every if id(p) in found], [p for p in every if id(p) not in found]


def moment_names(optimizer: Adam) -> list[str]:
    """A name in the state of each weight that has one, in the order of the optimizer's groups."""
    groups = optimizer.param_groups
    return ["momentum" if g.get("matrices") else "exp_avg" for g in groups for _ in g["params"]]


def _matrices(module: nn.Module) -> Iterator[nn.Parameter]:
    for layer in module.modules():
        ungrouped = isinstance(layer, nn.Conv2d) and layer.groups == 1
        if ungrouped or isinstance(layer, nn.Linear):
            weight = cast("Tensor", layer.weight)
            if isinstance(weight, nn.Parameter) and min(weight.flatten(1).shape) > 1:
                yield weight


class Muon(Adam):
    """Muon for weights that are matrices, Adam for biases, slopes and all else.

    The update of a matrix is as large as Adam's would be (root mean square), so that one learning
    rate serves both. Momentum is Nesterov's; weight decay acts on the matrix itself.

    Args:
        matrices: What Muon moves: of two dimensions or more, more than one row and column.
        rest: What Adam moves.
        lr: Of both.
        betas: Adam's decay rates.
        weight_decay: Of both.
        fused: Whether Adam is; needed where steps that are not finite are found on a GPU.
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        rest: list[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        fused: bool | None = None,
    ) -> None:
        parts = [{"params": matrices, "matrices": True}, {"params": rest, "matrices": False}]
        groups = [part for part in parts if part["params"]]
        super().__init__(groups, lr=lr, betas=betas, weight_decay=weight_decay, fused=fused)

    @override
    @torch.no_grad()
    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """Move all weights once."""
        groups = self.param_groups
        for group in groups:
            if group["matrices"]:
                self._move(group)
        self.param_groups = [group for group in groups if not group["matrices"]]
        try:
            return super().step(closure)
        finally:
            self.param_groups = groups

    def _move(self, group: dict[str, Any]) -> None:
        alike: defaultdict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
        for p in group["params"]:
            if p.grad is not None:
                alike[(p.shape[0], p.numel() // p.shape[0])].append(p)
        for shape, weights in alike.items():
            momenta = torch.stack([self._momentum(p).reshape(shape) for p in weights])
            updates = orthogonal(momenta).mul_(-group["lr"] * _AS_ADAM * math.sqrt(max(shape)))
            if group["weight_decay"]:
                decay = group["lr"] * group["weight_decay"]
                updates -= decay * torch.stack([p.reshape(shape) for p in weights])
            if self._bad is not None:
                updates = torch.where(self._bad > 0, 0, updates)
            for p, update in zip(weights, updates.unbind(), strict=True):
                p.add_(update.view_as(p))

    def _momentum(self, p: nn.Parameter) -> Tensor:
        """Nesterov's momentum of a weight's gradient; momentum is kept."""
        state, gradient = self.state[p], cast("Tensor", p.grad)
        if not state:
            state["momentum"] = torch.zeros_like(p)
        kept: Tensor = state["momentum"]
        if self._bad is None:
            kept.lerp_(gradient, 1 - _MOMENTUM)
        else:
            kept.copy_(torch.where(self._bad > 0, kept, kept.lerp(gradient, 1 - _MOMENTUM)))
        return gradient.lerp(kept, _MOMENTUM)

    @property
    def _bad(self) -> Tensor | None:
        """A GPU's verdict on the step: above 0 where it is not finite, and nothing may move."""
        return getattr(self, "found_inf", None)


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest matrices with orthogonal rows or columns of length 1, roughly.

    Newton and Schulz's iteration with factors that hurry: singular values end in [0.68, 1.21]
    where they were above 0.003 of the largest, and are not brought to 1.

    Args:
        matrices: ``(n, rows, columns)``, of any size; of zeros they stay zeros.

    Returns:
        The same shape.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-20)
    a, b, c = _NEWTON_SCHULZ
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x
