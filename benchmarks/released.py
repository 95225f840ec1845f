"""One step as DUKD's released code makes it, as the baseline of speed.

Facts from methods.md, section 1.3 and D1, D2: the teacher runs with its graph and trainable parameters, each input has
a forward pass of its own, the reduced picture is made on the CPU, one picture after the other, and there are two
backward passes and two optimiser steps per batch, in float32. Written anew; nothing is copied.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import l1_loss
from torch.optim import Adam

from dukd import augment
from dukd.methods.dukd import shared_tiles
from dukd.resize import downscale
from dukd.session import Session


def released_step(session: Session, lr: Tensor, hr: Tensor) -> Callable[[], object]:
    """A step on copies of a session's networks; ``lr`` and ``hr`` are uint8."""
    student, teacher = copy.deepcopy(session.student), copy.deepcopy(session.teacher).requires_grad_(True)
    student.float().to(memory_format=torch.contiguous_format)
    teacher.float().to(memory_format=torch.contiguous_format)
    averaged = copy.deepcopy(student).requires_grad_(False)
    optimiser = Adam(student.parameters(), lr=1e-6, betas=(0.9, 0.99), foreach=False, fused=False)
    scale, rng = student.scale, torch.Generator()

    def run() -> None:
        pictures, truth = (x.float().contiguous() / 255 for x in (lr, hr))
        optimiser.zero_grad()
        sr = student(pictures)
        (l1_loss(sr, truth) + l1_loss(sr, teacher(pictures))).backward()
        optimiser.step()

        tiles = shared_tiles(truth, (pictures.shape[-2], pictures.shape[-1]), count=1, rng=rng)
        change = augment.draw(tiles.shape, probability=0.3, rng=rng)
        total = l1_loss(change.invert(student(change.apply(tiles))), teacher(tiles))
        small = torch.cat([downscale(picture[None].cpu(), scale) for picture in pictures]).to(pictures.device)
        sr = student(small)
        total = total + l1_loss(sr, pictures) + l1_loss(sr, teacher(small))
        total.backward()
        optimiser.step()
        with torch.no_grad():
            for ours, theirs in zip(averaged.parameters(), student.parameters(), strict=True):
                ours.mul_(0.999).add_(theirs, alpha=0.001)

    return run
