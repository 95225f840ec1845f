"""What checks of methods are made on: pairs of small networks, a batch, and what they share."""

import random
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dukd.methods import Batch, Losses, Method, Seen, View
from dukd.networks import EDSRConfig, Network, NetworkConfig, RCANConfig, SwinIRConfig
from dukd.training.observe import Replay, observe


@dataclass(frozen=True)
class Pair:
    """A student and a teacher, at any scale."""

    student: Callable[[int], NetworkConfig]
    """Makes the student's numbers from a scale."""
    teacher: Callable[[int], NetworkConfig]
    """Likewise the teacher's."""


PAIRS: dict[str, Pair] = {
    "edsr-edsr": Pair(
        lambda s: EDSRConfig(scale=s, width=8, blocks=3),
        lambda s: EDSRConfig(scale=s, width=12, blocks=5),
    ),
    "edsr-swinir": Pair(
        lambda s: EDSRConfig(scale=s, width=8, blocks=3),
        lambda s: SwinIRConfig(scale=s, width=12, depths=(2, 2), heads=(2, 2), window=4),
    ),
    "swinir-rcan": Pair(
        lambda s: SwinIRConfig(scale=s, width=8, depths=(2, 2), heads=(2, 2), window=4),
        lambda s: RCANConfig(scale=s, width=8, groups=2, blocks=2, squeeze=4),
    ),
}
"""One architecture in two sizes, and two mixed pairs, one of them with a transformer as the
student."""


class Refused(ValueError):  # noqa: N818  the method is in order: it says which pairs it serves
    """The method does not serve this pair of networks, and has said why."""


@dataclass
class Case:
    """A method, a pair of networks, what the method keeps beside them, and a batch."""

    method: Method
    student: Network
    teacher: Network
    state: nn.Module
    lr: Tensor
    hr: Tensor

    @classmethod
    def of(
        cls, method: Method, pair: Pair, *, scale: int = 2, size: tuple[int, int] = (16, 16)
    ) -> "Case":
        """Build the networks and draw two images, the same ones every time.

        Raises:
            Refused: If the method does not serve the pair.
            AssertionError: If it refuses in too few words to be of help.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            student = pair.student(scale).build().train()
            teacher = pair.teacher(scale).build().frozen()
            try:
                state = method.state(student, teacher).train()
            except ValueError as error:
                hold(
                    len(str(error)) > 40,
                    f"a refusal says why, and what would serve, but got {str(error)!r}",
                )
                raise Refused(str(error)) from error
            lr = torch.rand(2, 3, *size)
            hr = torch.rand(2, 3, size[0] * scale, size[1] * scale)
        return cls(method, student, teacher, state, lr, hr)

    def trained(self) -> list[nn.Parameter]:
        """The student's parameters; those beside it where a method freezes the student."""
        own = [p for p in self.student.parameters() if p.requires_grad]
        return own or [p for p in self.state.parameters() if p.requires_grad]

    def batch(self, *, seed: int = 1, step: int = 0) -> Batch:
        """The batch, with the method's draws from ``seed``."""
        return Batch(self.lr, self.hr, torch.Generator().manual_seed(seed), step)

    def seen(self, phase: Method, batch: Batch, replay: Replay | None = None) -> list[Seen]:
        """What the networks make of a batch."""
        return observe(phase, self.student, self.teacher, batch, replay)

    def losses(
        self,
        phase: Method | None = None,
        *,
        seed: int = 1,
        step: int = 0,
        replay: Replay | None = None,
    ) -> Losses:
        """Losses of the method, or of one of its phases, with the method's draws from ``seed``."""
        method, batch = phase or self.method, self.batch(seed=seed, step=step)
        return method.losses(self.seen(method, batch, replay), batch, self.state)


def check_view(view: View, scale: int, *, where: str) -> None:
    """Hold a view to the shapes that every view has.

    Raises:
        AssertionError: If it has others.
    """
    image, truth = view.image, view.truth
    hold(
        image.ndim == 4 and image.shape[1] == 3 and bool(image.isfinite().all()),
        f"view {view.name} of {where} is not a batch of images (m, 3, h, w)",
    )
    m, c, h, w = image.shape
    hold(
        truth is None or truth.shape == (m, c, h * scale, w * scale),
        f"view {view.name} of {where} has a truth that is not {scale} times as large",
    )
    if view.change is not None:
        back = view.change.invert(view.change.apply(image))
        hold(back.shape == image.shape, f"view {view.name} of {where} is not changed back")


def has_a_sentence(kind: type[object]) -> None:
    """Hold a class to a docstring that says what it is.

    Raises:
        AssertionError: If it has none.
    """
    about = (kind.__doc__ or "").strip()
    hold(
        about.splitlines()[:1] != [] and about.splitlines()[0].endswith("."),
        f"{kind.__name__} needs a sentence",
    )
    hold(
        not about.startswith(f"{kind.__name__}("),
        f"{kind.__name__} has no docstring but the dataclass's own",
    )


def hold(promise: bool, sentence: str) -> None:  # noqa: FBT001  the condition is its subject
    """Raise ``AssertionError`` with a sentence where a promise is broken."""
    if not promise:
        raise AssertionError(sentence)


def moves(loss: Tensor, parameters: list[nn.Parameter]) -> bool:
    """Whether a loss has a gradient for any of the parameters."""
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    found = [g for g in gradients if g is not None]  # pyright: ignore[reportUnnecessaryComparison]
    return any(bool(g.abs().sum() > 0) for g in found)


@contextmanager
def other_global_randomness() -> Generator[None]:
    """Within, the global generators of torch, Python and numpy stand elsewhere than before."""
    # It is numpy's global generator that is meant.
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        random.seed(99)
        np.random.seed(99)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
