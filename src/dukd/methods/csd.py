"""CSD: nearer to the teacher's image than to blurred other scenes, by a perceptual encoder.

Wang et al., "Towards Compact Single Image Super-Resolution via Contrastive Self-distillation",
IJCAI 2021, arXiv:2105.11683.

    L = w_rec |S(lr) - hr|
      + w_con sum_i w_i |f_i(S) - f_i(T)| / (sum_k |f_i(S) - f_i(n_k)| + 1e-7)

with f_i the levels of VGG19 and n_k the bicubic enlargements of other images' lr, by torch's kernel
with a = -3/4 as in the authors' code. The released code draws the n_k from the first ten images of
the batch, an image's own among them (methods.md D36); here it never is. The paper's teacher is the
student itself with more channels: that is `dukd.methods.slimmable`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import interpolate, l1_loss
from typing_extensions import override

from dukd.methods.base import Batch, Losses, Method, Seen, View
from dukd.networks.perceptual import LEVEL_WEIGHTS, Encoder, encoder_notes, vgg19

EPSILON = 1e-7
"""Keeps the quotient finite where the student's image equals every negative."""
PAPERS_NEGATIVES = 10


@dataclass(frozen=True, kw_only=True)
class CSD(Method):
    """Match the ground truth.

    Lie near the teacher and far from other images in a perceptual encoder's features.
    """

    name: ClassVar[str] = "csd"

    reconstruction: float = 1.0
    """Weight of the mean absolute difference to the ground truth."""
    contrast: float = 200 / 255
    """Weight of the contrastive quotient: the paper's 200 beside a difference counted in 255 gray
    levels."""
    negatives: int = 10
    """Other images of the batch each image is held against; a smaller batch gives one less than its
    size."""
    vgg19: Path | None = None
    """File with VGG19's weights by torchvision's names; without it, fixed filters stand in."""
    vgg19_sha256: str = ""
    """What that file must hash to, in hexadecimal; empty takes any."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        if self.negatives < 1:
            raise ValueError(
                f"CSD holds an image against at least one other, but negatives is {self.negatives}"
            )

    @override
    def views(self, batch: Batch) -> list[View]:
        weight, teacher = self.reconstruction, bool(self.contrast)
        return [View.pair(batch, reconstruction=weight, teacher=teacher)]

    @override
    def compare(self, seen: Sequence[Seen], batch: Batch, state: nn.Module) -> Losses:
        if not self.contrast:
            return {}
        return {"contrast": self.quotient(seen[0], seen[0].target.sr, batch, state)}

    def quotient(self, pair: Seen, target: Tensor, batch: Batch, state: nn.Module) -> Tensor:
        """The weighted quotient of the student's output, with ``target`` as its positive."""
        encoder, image = encoder_of(state), pair.view.image
        others = self.others(image, batch.rng)
        return self.contrast * contrast_with_others(encoder, pair.student.sr, target, image, others)

    def others(self, lr: Tensor, rng: Generator) -> list[int]:
        """Draw how far along the batch each image's negatives lie.

        Distinct, from 1 to ``n - 1``, so never itself.

        Raises:
            ValueError: If the batch holds one image only.
        """
        n = lr.shape[0]
        if n == 1:
            raise ValueError(
                "CSD's negatives are the other images of the batch, so it needs a batch of 2 or "
                "more: in each part, where accumulate or several ranks divide it"
            )
        return (1 + torch.randperm(n - 1, generator=rng)[: self.negatives]).tolist()

    @override
    def state(self, student: nn.Module, teacher: nn.Module | None) -> nn.Module:
        return nn.ModuleDict({"encoder": vgg19(self.vgg19, self.vgg19_sha256)})

    @override
    def notes(self) -> tuple[str, ...]:
        return encoder_notes(self.vgg19, "VGG19") if self.contrast else ()


def encoder_of(state: nn.Module) -> Encoder:
    """The encoder that a method keeps beside the student."""
    encoder = state.get_submodule("encoder")
    assert isinstance(encoder, Encoder)
    return encoder


def contrast_with_others(
    encoder: Encoder, sr: Tensor, target: Tensor, lr: Tensor, others: Sequence[int]
) -> Tensor:
    """Hold outputs to the target's and against enlargements of other images of the batch.

    Args:
        encoder: Where images are compared.
        sr: ``(n, 3, h * scale, w * scale)``, the student's outputs.
        target: Likewise, the teacher's; carries no gradient.
        lr: ``(n, 3, h, w)``.
        others: How far along the batch the negatives of each image lie. The sum over them is scaled
            to the paper's ten, so that the quotient does not depend on the batch.

    Returns:
        A scalar.
    """
    with torch.no_grad():
        positive = encoder(target)
        blurred = encoder(enlarged(lr, sr.shape[-1] // lr.shape[-1]))
    negatives = [[f.roll(-other, 0) for other in others] for f in blurred]
    return contrast(encoder(sr), positive, negatives) * (len(others) / PAPERS_NEGATIVES)


def enlarged(lr: Tensor, scale: int) -> Tensor:
    """Bicubic as the authors have it: ``(n, 3, h, w)`` to ``(n, 3, h * scale, w * scale)``.

    The kernel has a = -3/4, MATLAB's -1/2: 1.6 gray levels apart on photographs.
    """
    return interpolate(lr, scale_factor=scale, mode="bicubic", align_corners=False)


def contrast(
    anchor: Sequence[Tensor], positive: Sequence[Tensor], negatives: Sequence[Sequence[Tensor]]
) -> Tensor:
    """Distance to the positive over the sum of distances to the negatives, weighted over levels.

    Args:
        anchor: Features ``(n, c_i, h_i, w_i)`` of the five levels, from fine to coarse.
        positive: Features of what they should become, same shapes.
        negatives: For each level, features of what they should not become.

    Returns:
        A scalar, at least 0; 0 where anchor and positive agree.
    """
    quotients = [
        weight * l1_loss(a, p) / (torch.stack([l1_loss(a, n) for n in ns]).sum() + EPSILON)
        for weight, a, p, ns in zip(LEVEL_WEIGHTS, anchor, positive, negatives, strict=True)
    ]
    return torch.stack(quotients).sum()
