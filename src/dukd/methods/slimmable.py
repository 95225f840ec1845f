"""CSD as published: the teacher is a wider student, shares its weights, and learns beside it.

Wang et al., "Towards Compact Single Image Super-Resolution via Contrastive Self-distillation",
IJCAI 2021, arXiv:2105.11683.

    L = w_rec |S(lr) - hr|  +  w_con (CSD's quotient, with W(lr) in the teacher's place)
      + w_wide |W(lr) - hr|

W has the student's architecture and ``widening`` times its channels; the first channels of each of
its weights *are* the student's, so both losses to the ground truth move them. The other weights
live beside the student and are thrown away at the end. In the quotient W is detached. The authors
start from a trained wide network, whose first channels the student then is (``wide_weights``).
`CSD` is the same loss with a frozen teacher of any sort.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call  # pyright: ignore[reportUnknownVariableType]
from torch.nn.functional import l1_loss
from typing_extensions import override

from dukd.methods.base import Batch, Losses, Seen, View
from dukd.methods.csd import CSD
from dukd.networks.base import Network
from dukd.networks.files import weights


@dataclass(frozen=True, kw_only=True)
class SlimmableCSD(CSD):
    """Match the ground truth, also by a wider network around the student.

    Lie near it, and far from other images.
    """

    name: ClassVar[str] = "csd-slimmable"

    wide: float = 1.0
    """Weight of the wide network's mean absolute difference to the ground truth."""
    widening: int = 4
    """How many times the student's channels the wide network has; 4 makes the student its first
    quarter."""
    wide_weights: Path | None = None
    """File of a trained wide network to start from, of which the student takes the first channels;
    without it both start from their own random weights."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        super().__post_init__()
        if self.widening < 2:
            raise ValueError(
                "the wide network has 2 or more times the student's channels, but got "
                f"{self.widening}"
            )

    @override
    def views(self, batch: Batch) -> list[View]:
        return [View.pair(batch, reconstruction=self.reconstruction)]

    @override
    def compare(self, seen: Sequence[Seen], batch: Batch, state: nn.Module) -> Losses:
        losses: Losses = {}
        if not (self.contrast or self.wide):
            return losses
        (pair,) = seen
        wider, hr = state.get_submodule("wider"), pair.view.truth
        assert isinstance(wider, Wider)
        assert hr is not None
        target = wider(pair.student.network, pair.view.image)
        if self.contrast:
            losses["contrast"] = self.quotient(pair, target.detach(), batch, state)
        if self.wide:
            losses["wide"] = self.wide * l1_loss(target, hr)
        return losses

    @override
    def state(self, student: nn.Module, teacher: nn.Module | None) -> nn.Module:
        made = super().state(student, teacher)
        wider = Wider(student, self.widening)
        made.add_module("wider", wider)
        if self.wide_weights is not None:
            wider.begin(student, self.wide_weights)
        return made

    @override
    def resumed(self) -> Self:
        return replace(self, wide_weights=None)


class Wider(nn.Module):
    """A network wider than the student, the first channels of whose weights are the student's."""

    def __init__(self, student: nn.Module, widening: int) -> None:
        """Draw the weights around the student's from torch's global generator.

        Raises:
            ValueError: If the student's weights cannot be the first channels of others.
        """
        super().__init__()
        if not isinstance(student, Network):
            raise ValueError(  # noqa: TRY004  one type for what a caller can mend
                f"csd-slimmable builds a wider network of the student's sort, which dukd cannot do "
                f"for {type(student).__name__}; csd takes a frozen teacher and serves any network"
            )
        config = student.config
        shared = {name for name, _ in student.named_parameters()}
        parts = student.named_modules()
        sliced = {
            f"{name}.{p}"
            for name, m in parts
            if isinstance(m, nn.Conv2d)
            for p, _ in m.named_parameters()
        }
        if "width" not in {f.name for f in fields(config)} or shared != sliced:
            raise ValueError(
                f"csd-slimmable shares the first channels of convolutions, but {config.name} has "
                "other weights; csd takes a frozen teacher and serves any network"
            )
        self.network: Network = replace(cast("Any", config), width=student.width * widening).build()

    @torch.no_grad()
    def begin(self, student: nn.Module, path: Path) -> None:
        """Start from a trained wide network: the student becomes its first channels.

        Raises:
            dukd.networks.files.weights.WeightsError: If the file holds another network.
        """
        trained = weights.read(path, config=self.network.config).state_dict()
        self.network.load_state_dict(trained)
        for name, tensor in student.named_parameters():
            tensor.copy_(trained[name][corner(tensor)])

    def forward(self, student: nn.Module, lr: Tensor) -> Tensor:
        """Upscale with the wide network: ``(n, 3, h, w)`` to ``(n, 3, h * scale, w * scale)``."""
        weights = with_corners(
            dict(self.network.named_parameters()), dict(student.named_parameters())
        )
        return cast("Tensor", functional_call(self.network, weights, (lr,)))


def with_corners(wide: Mapping[str, Tensor], narrow: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put tensors in the place of the first elements of larger ones of the same name."""
    made: dict[str, Tensor] = {}
    for name, tensor in wide.items():
        made[name] = tensor.clone()
        made[name][corner(narrow[name])] = narrow[name]
    return made


def corner(narrow: Tensor) -> tuple[slice, ...]:
    """Where a tensor stands in a larger one: at the first elements of every dimension."""
    return tuple(slice(size) for size in narrow.shape)
