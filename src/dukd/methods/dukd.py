"""DUKD: teach on images that the training pair itself provides, and on changed inputs.

Zhang et al., "Data Upcycling Knowledge Distillation for Image Super-Resolution", arXiv:2309.14162;
published as AugKD, ICLR 2025. A pair (lr, hr) is *upcycled* into two more inputs for which the
teacher can answer:

    zoom in    a random window of hr, of lr's size, taken as if it were a low-resolution image;
    zoom out   lr reduced once more by the scale, for which lr itself is the ground truth as well.

On these, *label consistency*: the student sees the input changed by an invertible augmentation A,
drawn per image, the teacher sees it clean, and the student's answer is changed back before the two
are compared.

    L =  w_rec |S(lr) - hr|  +  w_kd |S(lr) - T(lr)|
       + w_in  |A^-1 S(A zi) - T(zi)|
       + w_out |A^-1 S(A zo) - T(zo)|  +  w_gt |A^-1 S(A zo) - lr|

with zi zoomed in, zo zoomed out, and |.| the mean absolute difference. One optimizer step per
batch, on the sum. What the authors' released code does otherwise is in `dukd.methods.released`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import l1_loss
from typing_extensions import override

from dukd.images import invertible
from dukd.images.resize import downscale
from dukd.methods.base import Losses
from dukd.methods.inner import Recorded
from dukd.methods.logits import Logits
from dukd.networks.base import Network


@dataclass(frozen=True)
class Upcycled:
    """One upcycled input: what each network is shown, and what the student is compared with."""

    name: str
    clean: Tensor
    """``(m, 3, h', w')``: what the teacher sees."""
    changed: Tensor
    """Likewise, augmented: what the student sees."""
    augmentation: invertible.Invertible
    """Undoes on the answer what was done to the input."""
    imitation: float
    """Weight of the distance to the teacher."""
    reconstruction: float = 0.0
    """Weight of the distance to the ground truth."""
    truth: Tensor | None = None
    """``(m, 3, h' * scale, w' * scale)``, where a ground truth exists."""


@dataclass(frozen=True, kw_only=True)
class DUKD(Logits):
    """Match the ground truth and the teacher, on the pair and on what is upcycled from it."""

    name: ClassVar[str] = "dukd"

    zoom_in: float = 1.0
    """Weight of the distance to the teacher on windows of hr; 0 leaves zoom in out."""
    zoom_out: float = 1.0
    """Weight of the distance to the teacher on lr reduced once more; with both zoom-out weights 0
    it is left out."""
    zoom_out_reconstruction: float = 1.0
    """Weight of the distance to the ground truth of the reduced image, which is lr."""
    windows: int = 1
    """Windows per image and batch; their distances are averaged."""
    window: float = 1.0
    """Side of a window relative to that of lr: 1 in the paper, at most the scale, where it is the
    whole of hr."""
    placement: Literal["uniform", "tiles"] = "uniform"
    """Where windows lie: anywhere, each image at its own place; or on the released scale x scale
    grid, the same tile for the whole batch."""
    consistency: float = 0.3
    """Probability, in [0, 1], with which each augmentation changes what the student sees; 0
    switches label consistency off."""
    consistent: tuple[Literal["zoom_in", "zoom_out"], ...] = ("zoom_in", "zoom_out")
    """The upcycled inputs on which label consistency acts."""
    operations: tuple[invertible.Operation, ...] = invertible.OPERATIONS
    """The augmentations that are drawn from."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        if self.windows < 1:
            raise ValueError(
                f"DUKD takes at least one window per image, but windows is {self.windows}"
            )
        if not self.window > 0:
            raise ValueError(
                f"window is the side of a window relative to lr's, above 0, but got {self.window}"
            )
        if not 0 <= self.consistency <= 1:
            raise ValueError(f"consistency is a probability in [0, 1], but got {self.consistency}")

    @override
    def losses(
        self,
        *,
        student: Network,
        teacher: Network,
        extras: nn.Module,
        lr: Tensor,
        hr: Tensor,
        rng: Generator,
    ) -> Losses:
        upcycled = self.upcycle(lr, hr, rng)
        student, teacher = asked(student, teacher, lr, upcycled, imitates=self.imitation != 0)
        pair = super().losses(
            student=student, teacher=teacher, extras=extras, lr=lr, hr=hr, rng=rng
        )
        return pair | upcycled_losses(student, teacher, upcycled)

    def upcycle(self, lr: Tensor, hr: Tensor, rng: Generator) -> list[Upcycled]:
        """Make the further inputs of a batch.

        Args:
            lr: ``(n, 3, h, w)``, RGB in [0, 1].
            hr: ``(n, 3, h * scale, w * scale)``.
            rng: Source of windows and augmentations.
        """
        scale = hr.shape[-1] // lr.shape[-1]
        h, w = lr.shape[-2:]
        made: list[Upcycled] = []
        if self.zoom_in:
            draw = random_windows if self.placement == "uniform" else shared_tiles
            size = (max(1, round(self.window * h)), max(1, round(self.window * w)))
            windows = draw(hr, size, count=self.windows, rng=rng)
            a = self._augmentation("zoom_in", windows, rng)
            made.append(Upcycled("zoom_in", windows, a.apply(windows), a, self.zoom_in))
        if self.zoom_out or self.zoom_out_reconstruction:
            truth = lr[..., : h // scale * scale, : w // scale * scale]
            small = downscale(truth, scale)
            a = self._augmentation("zoom_out", small, rng)
            weights = self.zoom_out, self.zoom_out_reconstruction
            made.append(Upcycled("zoom_out", small, a.apply(small), a, *weights, truth))
        return made

    def _augmentation(
        self, name: Literal["zoom_in", "zoom_out"], x: Tensor, rng: Generator
    ) -> invertible.Invertible:
        probability = self.consistency if name in self.consistent else 0.0
        return invertible.draw(
            x.shape, probability=probability, rng=rng, operations=self.operations
        )

    @property
    @override
    def needs_teacher(self) -> bool:
        return any((self.imitation, self.zoom_in, self.zoom_out))


def asked(
    student: Network,
    teacher: Network,
    lr: Tensor,
    upcycled: Sequence[Upcycled],
    *,
    imitates: bool,
    depths: Sequence[float] = (),
) -> tuple[Recorded, Recorded]:
    """Ask both networks for everything a batch needs, inputs of equal size in one forward pass.

    Args:
        student: The network that learns.
        teacher: The frozen one.
        lr: ``(n, 3, h, w)``: the pair's own input.
        upcycled: What was made of the pair.
        imitates: Whether the teacher's answer to ``lr`` will be needed too.
        depths: Where features will be read.
    """
    pupil, master = Recorded(student, depths), Recorded(teacher, depths)
    # The teacher first: what it needs meanwhile is free again when the student's graph grows.
    master.ask([*([lr] if imitates else []), *(u.clean for u in upcycled if u.imitation)])
    pupil.ask([lr, *(u.changed for u in upcycled)])
    return pupil, master


def upcycled_losses(student: Network, teacher: Network, upcycled: Sequence[Upcycled]) -> Losses:
    """Distance of the student's answers, changed back, to the teacher's and to the ground truth."""
    losses: Losses = {}
    for u in upcycled:
        sr = u.augmentation.invert(student(u.changed))
        if u.imitation:
            losses[u.name] = u.imitation * l1_loss(sr, teacher(u.clean))
        if u.truth is not None and u.reconstruction:
            losses[f"{u.name}_reconstruction"] = u.reconstruction * l1_loss(sr, u.truth)
    return losses


def random_windows(hr: Tensor, size: tuple[int, int], *, count: int, rng: Generator) -> Tensor:
    """Cut windows at random places.

    ``(n, 3, H, W)`` to ``(count * n, 3, h, w)``, every image at its own places.

    Raises:
        ValueError: If a window is larger than ``hr``.
    """
    n, _, H, W = hr.shape
    h, w = size
    if h > H or w > W:
        raise ValueError(
            f"no window of {h} x {w} fits into hr of {H} x {W}: window is at most the scale"
        )
    top = torch.randint(H - h + 1, (count * n,), generator=rng).tolist()
    left = torch.randint(W - w + 1, (count * n,), generator=rng).tolist()
    return torch.stack(
        [hr[i % n, :, t : t + h, x : x + w] for i, (t, x) in enumerate(zip(top, left, strict=True))]
    )


def shared_tiles(hr: Tensor, size: tuple[int, int], *, count: int, rng: Generator) -> Tensor:
    """Cut distinct tiles of a fixed grid, the same for the whole batch.

    ``(n, 3, H, W)`` to ``(count * n, 3, h, w)``.

    The released code's way (methods.md D5).

    Raises:
        ValueError: If there are fewer tiles than ``count``.
    """
    h, w = size
    rows, columns = hr.shape[-2] // h, hr.shape[-1] // w
    if count > rows * columns:
        raise ValueError(
            f"a grid of {rows} x {columns} tiles cannot give {count} different windows"
        )
    chosen = torch.randperm(rows * columns, generator=rng)[:count].tolist()
    corners = [(tile // columns * h, tile % columns * w) for tile in chosen]
    return torch.cat([hr[..., t : t + h, x : x + w] for t, x in corners])
