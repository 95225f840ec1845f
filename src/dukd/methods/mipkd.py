"""MiPKD: mix both networks' features at random, and let either network go on from the mixture.

Li et al., "Knowledge Distillation with Multi-granularity Mixture of Priors for Image
Super-Resolution", ICLR 2025, arXiv:2404.02573. There is no public code; this follows the published
definition:

- Feature prior mixer: at each cut an encoder of each network's features to a common space, a random
  3-D mask m that takes every element of the mixture from one or the other, and a decoder back to
  the teacher's features:
      L_feat = |D(m E_S(F_S) + (1 - m) E_T(F_T)) - F_T|  +  |D(E_T(F_T)) - F_T|
- Block prior mixer: after each cut a random R of {0, 1} per batch sends the mixture on into the
  student's or the teacher's next block, as far as the next cut, where what came out is mixed again;
  the last one ends in an image:
      L_block = |path - T(lr)|

    L = w_rec |S - hr|  +  w_kd |S - T|  +  w_feat L_feat  +  w_block L_block

Not published, and this project's choice: the size of the encoders (two 3x3 convolutions each), the
common width, where the cuts are, the mask's share, and a second decoder that makes features for the
student when its own block follows. Feature distances are relative to the mean magnitude of F_T,
since networks compute in ranges from 1 to 255.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import l1_loss
from typing_extensions import override

from dukd.core.device import to_device
from dukd.methods.base import Batch, Losses, Seen, View
from dukd.methods.features import widths_at
from dukd.methods.inner import Cut, beginning, block, entering, rest
from dukd.methods.logits import Logits


@dataclass(frozen=True, kw_only=True)
class MiPKD(Logits):
    """Match the ground truth and the teacher; mix both networks' features and blocks at random."""

    name: ClassVar[str] = "mipkd"

    features: float = 1.0
    """Weight of the feature prior mixer, whose distances are relative to the teacher's
    magnitude."""
    block: float = 0.1
    """Weight of the block prior mixer."""
    depths: tuple[float, ...] = (1 / 3, 2 / 3)
    """Where the networks are cut, as increasing fractions of the depth."""
    width: int = 64
    """Channels of the space in which features are mixed."""
    share: float = 0.5
    """Probability, in [0, 1], that an element of the mixture is the student's."""
    teacher_block: float = 0.5
    """Probability, in [0, 1], that a block of the teacher follows a cut."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        if not self.depths or list(self.depths) != sorted(set(self.depths)):
            raise ValueError(f"MiPKD cuts at one or more increasing depths, but got {self.depths}")
        for name, value in (("share", self.share), ("teacher_block", self.teacher_block)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is a probability in [0, 1], but got {value}")

    @override
    def views(self, batch: Batch) -> list[View]:
        return [self.pair(batch, depths=self.depths if self.features or self.block else ())]

    @override
    def compare(self, seen: Sequence[Seen], batch: Batch, state: nn.Module) -> Losses:
        losses: Losses = {}
        if not (self.features or self.block):
            return losses
        (pair,) = seen
        ours, theirs = pair.features()
        image, mixers = pair.view.image, cast("Sequence[Mixer]", list(state.children()))
        shape = (image.shape[0], self.width, *image.shape[-2:])
        masks = [to_device(random_mask(shape, self.share, batch.rng), image.device) for _ in mixers]
        if self.features:
            distances = [
                mixer.distance(s, t, m)
                for mixer, s, t, m in zip(mixers, ours, theirs, masks, strict=True)
            ]
            losses["features"] = self.features * torch.stack(distances).mean()
        if self.block:
            drawn = torch.rand(len(mixers), generator=batch.rng) < self.teacher_block
            path = self.mixed_path(pair, mixers, (ours[0], theirs), masks, drawn.tolist())
            losses["block"] = self.block * l1_loss(path, pair.target.sr)
        return losses

    def mixed_path(
        self,
        pair: Seen,
        mixers: "Sequence[Mixer]",
        features: tuple[Tensor, Sequence[Tensor]],
        masks: Sequence[Tensor],
        by_teacher: Sequence[bool],
    ) -> Tensor:
        """Run one path through blocks of both networks.

        Args:
            pair: What was shown, and both networks; the path starts with the student's front.
            mixers: One per cut.
            features: The student's at the first cut, and the teacher's at all of them.
            masks: ``(n, width, h, w)`` per cut; true where the path's own element stays.
            by_teacher: Per cut, whether the teacher's block follows.

        Returns:
            ``(n, 3, h * scale, w * scale)``, unclamped.
        """
        student, teacher = pair.student.network, pair.target.network
        starts: dict[nn.Module, Cut] = {}
        running, owner, lr = features[0], student, pair.view.image
        h, w = lr.shape[-2:]
        ends = [*self.depths[1:], None]
        for mixer, theirs, mask, chosen, depth, end in zip(
            mixers, features[1], masks, by_teacher, self.depths, ends, strict=True
        ):
            mixed = mixer.mix(running, theirs, mask, by_teacher=owner is teacher)
            owner = teacher if chosen else student
            if owner not in starts:
                starts[owner] = beginning(owner, lr, self.depths[-1])
            cut = entering(owner, starts[owner], mixer.decode(mixed, for_teacher=chosen))
            if end is None:
                return rest(owner, cut, depth)
            running = block(owner, cut.features, depth, end)[..., :h, :w]
        raise AssertionError("the last cut returns")

    @override
    def state(self, student: nn.Module, teacher: nn.Module | None) -> nn.Module:
        if not (self.features or self.block):
            return nn.Module()
        widths = widths_at(student, teacher, self.depths)
        return nn.ModuleList(Mixer(ours, theirs, self.width) for ours, theirs in widths)


def random_mask(shape: Sequence[int], share: float, rng: Generator) -> Tensor:
    """A mask ``(n, c, h, w)``, each of whose elements is true with probability ``share``."""
    return torch.rand(tuple(shape), generator=rng) < share


class Mixer(nn.Module):
    """The learnt parts at one cut: encoders of both networks' features, decoders back."""

    def __init__(self, student_width: int, teacher_width: int, width: int) -> None:
        """Make the convolutions, drawn from torch's global generator."""
        super().__init__()
        self.student_encoder = _two_convolutions(student_width, width)
        self.teacher_encoder = _two_convolutions(teacher_width, width)
        self.teacher_decoder = _two_convolutions(width, teacher_width)
        self.student_decoder = _two_convolutions(width, student_width)

    def mix(self, own: Tensor, theirs: Tensor, mask: Tensor, *, by_teacher: bool = False) -> Tensor:
        """Encode both and take each element from one.

        ``own`` where the mask is true, the teacher's elsewhere.

        Args:
            own: ``(n, c, h, w)``, of the student, or of the teacher if ``by_teacher``.
            theirs: ``(n, teacher width, h, w)``.
            mask: ``(n, width, h, w)``, bool.
            by_teacher: Which encoder ``own`` needs.
        """
        encoder = self.teacher_encoder if by_teacher else self.student_encoder
        return torch.where(mask, encoder(own), self.teacher_encoder(theirs))

    def decode(self, mixed: Tensor, *, for_teacher: bool) -> Tensor:
        """``(n, width, h, w)`` to a network's features."""
        return self.teacher_decoder(mixed) if for_teacher else self.student_decoder(mixed)

    def distance(self, ours: Tensor, theirs: Tensor, mask: Tensor) -> Tensor:
        """How far the decoded mixture is from the teacher's features.

        The teacher's own, encoded and decoded, count as well.
        """
        mixed = self.decode(self.mix(ours, theirs, mask), for_teacher=True)
        alone = self.decode(self.teacher_encoder(theirs), for_teacher=True)
        return relative_distance(mixed, theirs) + relative_distance(alone, theirs)


def relative_distance(x: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference in units of the target's mean magnitude."""
    x, target = x.float(), target.float()
    return l1_loss(x, target) / target.abs().mean().clamp(min=1e-8)


def _two_convolutions(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(after, after, 3, padding=1),
    )
