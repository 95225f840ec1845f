"""One step as DUKD's released code makes it, as the baseline of speed and memory.

Facts from methods.md, section 1.3 and D1, D2, D4, D5, D15: the teacher runs with its graph,
trainable parameters and in training mode, so that a SwinIR leaves out branches, each input has a
forward pass of its own, the reduced image is made on the CPU, one image after the other, and there
are two backward passes and two optimizer steps per batch, in float32. Written anew; nothing is
copied. Inputs are those of the experiment's method, so that both sides do the same work.
"""

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import l1_loss
from torch.optim import Adam

from dukd.images import invertible
from dukd.images.resize import downscale
from dukd.methods import DUKD, Logits, ZoomIn
from dukd.methods.upcycling import shared_tiles
from dukd.networks import Network, SwinIRConfig
from dukd.training.assemble import Training


def released_step(training: Training, lr: Tensor, hr: Tensor) -> Callable[[], object]:
    """A step on copies of the networks in training; ``lr`` and ``hr`` are uint8."""
    method = training.experiment.method
    assert isinstance(method, DUKD)
    assert isinstance(method.base, Logits)
    weight, (zoom_in, *zoom_out) = method.base.reconstruction, method.upcyclings
    assert isinstance(zoom_in, ZoomIn)
    student, teacher = as_released(training.state.student), as_released(training.teacher)
    averaged = copy.deepcopy(student).requires_grad_(False)
    optimizer = Adam(student.parameters(), lr=1e-6, betas=(0.9, 0.99), foreach=False, fused=False)
    scale, rng = student.scale, torch.Generator()

    def run() -> None:
        images, truth = (x.float().contiguous() / 255 for x in (lr, hr))
        optimizer.zero_grad()
        sr = student(images)
        (weight * l1_loss(sr, truth) + l1_loss(sr, teacher(images))).backward()
        optimizer.step()

        tiles = shared_tiles(
            truth, (images.shape[-2], images.shape[-1]), count=zoom_in.windows, rng=rng
        )
        change = invertible.draw(tiles.shape, probability=method.consistency, rng=rng)
        total = l1_loss(change.invert(student(change.apply(tiles))), teacher(tiles))
        if zoom_out:
            small = torch.cat([downscale(image[None].cpu(), scale) for image in images]).to(
                images.device
            )
            sr = student(small)
            total = total + weight * l1_loss(sr, images) + l1_loss(sr, teacher(small))
        total.backward()
        optimizer.step()
        with torch.no_grad():
            for ours, theirs in zip(averaged.parameters(), student.parameters(), strict=True):
                ours.mul_(0.999).add_(theirs, alpha=0.001)

    return run


def as_released(network: Network) -> Network:
    """A trainable copy in training mode; a SwinIR has the authors' stochastic depth."""
    config = network.config
    if isinstance(config, SwinIRConfig):
        config = replace(config, stochastic_depth=0.1)
    copied = config.build().to(next(network.parameters()).device)
    copied.load_state_dict(network.state_dict())
    return copied.train().requires_grad_(True)
