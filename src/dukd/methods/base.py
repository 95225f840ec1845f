"""What a method of distillation is: it says what both networks are shown, and compares.

A method never decides how networks run. `dukd.training.observe` turns its views into outputs,
merges views of equal size into one pass, and reads teacher outputs from the cache.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss
from typing_extensions import override

from dukd.images.invertible import Invertible
from dukd.networks.base import Output

Losses = dict[str, Tensor]
"""Named scalars, already weighted; their sum is minimized."""
PAIR = "pair"
"""Name of the view that is the training pair itself; its losses bear no prefix."""


@dataclass(frozen=True)
class Batch:
    """What a step starts from.

    With several micro-batches or ranks it is one of them, with draws of its own.
    """

    lr: Tensor
    """``(n, 3, h, w)``, RGB in [0, 1]."""
    hr: Tensor
    """``(n, 3, h * scale, w * scale)``."""
    rng: torch.Generator
    """The only source of randomness, on the CPU."""
    step: int = 0
    """Optimizer steps done."""
    sr: Tensor | None = None
    """The teacher's output for ``lr``, where it was made before and the teacher is not here."""
    recurs: bool = False
    """Whether it comes again with the same draws: what is dear to make of it may be kept."""

    @property
    def scale(self) -> int:
        """Upscaling factor."""
        return self.hr.shape[-1] // self.lr.shape[-1]

    def part(self, rows: slice) -> "Batch":
        """Some of its images, with the same generator."""
        sr = None if self.sr is None else self.sr[rows]
        return replace(self, lr=self.lr[rows], hr=self.hr[rows], sr=sr)


@dataclass(frozen=True, kw_only=True)
class View:
    """One input that the networks are shown, and what the student's output is compared with."""

    name: str
    """Unique among a method's views; the losses begin with it."""
    image: Tensor
    """``(m, 3, h', w')``: what the teacher sees; follows from the batch and its generator alone."""
    change: Invertible | None = None
    """The student sees ``change.apply(image)``, and its output is changed back."""
    remake: Callable[[Tensor, Tensor], Tensor] | None = None
    """Makes what the student sees in the image's place, of its size, from the image and the
    teacher's output ``(m, 3, h' * scale, w' * scale)``; before ``change``."""
    truth: Tensor | None = None
    """``(m, 3, h' * scale, w' * scale)``, where there is a ground truth."""
    reconstruction: float = 0.0
    """Weight of the mean absolute difference to the ground truth."""
    imitation: float = 0.0
    """Weight of the mean absolute difference to the teacher's output."""
    focus: float = 0.0
    """How much more those images count, in this difference, that are far from the teacher's: each
    by its own difference to this power, on average 1."""
    depths: tuple[float, ...] = ()
    """Where features of both networks are read, as fractions of their depth."""
    student_depths: tuple[float, ...] = ()
    """Where the student alone is read; its features there follow those at ``depths``."""
    teacher: bool = False
    """Whether the teacher sees it though neither ``imitation`` nor ``depths`` needs that."""

    def __post_init__(self) -> None:
        """Refuse what could not be compared."""
        if (self.change or self.remake) and (self.depths or self.student_depths):
            raise ValueError(
                f"view {self.name} is changed for the student, so its features cannot be compared: "
                "leave depths empty"
            )
        if self.remake and not self.taught:
            raise ValueError(
                f"view {self.name} is made of the teacher's output, but is not for the teacher: "
                "weigh its imitation, or say teacher=True"
            )
        if self.reconstruction and self.truth is None:
            raise ValueError(f"view {self.name} weighs a ground truth that it does not have")

    @classmethod
    def pair(
        cls,
        batch: Batch,
        *,
        reconstruction: float = 0.0,
        imitation: float = 0.0,
        depths: tuple[float, ...] = (),
        teacher: bool = False,
    ) -> "View":
        """The training pair itself."""
        return cls(
            name=PAIR,
            image=batch.lr,
            truth=batch.hr,
            reconstruction=reconstruction,
            imitation=imitation,
            depths=depths,
            teacher=teacher,
        )

    @property
    def taught(self) -> bool:
        """Whether the teacher sees it."""
        return self.teacher or bool(self.imitation or self.depths)


class Seen(NamedTuple):
    """A view, and what the networks made of it."""

    view: View
    student: Output
    """Changed back, where the view is changed."""
    teacher: Output | None
    """None where the teacher does not see the view; it carries no graph."""

    @property
    def target(self) -> Output:
        """The teacher's output, of a view that it sees."""
        assert self.teacher is not None, f"the teacher does not see view {self.view.name}"
        return self.teacher

    def features(self) -> tuple[list[Tensor], list[Tensor]]:
        """The student's and the teacher's at the view's depths.

        Each is ``(m, width, h', w')`` without what networks pad.
        """
        h, w = self.view.image.shape[-2:]
        ours, theirs = self.student.features[: len(self.view.depths)], self.target.features
        return [f[..., :h, :w] for f in ours], [f[..., :h, :w] for f in theirs]


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A method of distillation: a frozen dataclass of its own numbers. It holds no networks."""

    name: ClassVar[str]
    """Name in recipes, files and tables, such as ``dukd``."""

    @abstractmethod
    def views(self, batch: Batch) -> list[View]:
        """Say what the networks are shown; where it draws, it draws from ``batch.rng``."""

    def compare(self, seen: Sequence[Seen], batch: Batch, state: nn.Module) -> Losses:
        """Compare beyond the weights of the views, whose losses are added by themselves.

        Args:
            seen: The views and what the networks made of them: images and truths come from here.
            batch: Its ``rng`` continues where ``views`` left it.
            state: What ``self.state`` made.

        Returns:
            Scalars by name, weighted. A loss whose weight is 0 is left out, and not computed.
        """
        del seen, batch, state
        return {}

    def losses(self, seen: Sequence[Seen], batch: Batch, state: nn.Module) -> Losses:
        """All losses; only a method around another one has something to change here."""
        return weighted_l1(seen) | self.compare(seen, batch, state)

    def state(self, student: nn.Module, teacher: nn.Module | None) -> nn.Module:
        """Make what trains or is kept beside the student, and is thrown away at the end.

        Raises:
            ValueError: If the method cannot serve this pair; the message says why and what would.
        """
        del student, teacher
        return nn.Module()

    def after_step(self, student: nn.Module, state: nn.Module, step: int) -> None:
        """Update what ``state`` keeps, such as a slow copy of the student, after a step, from 1."""
        del student, state, step

    def resumed(self) -> Self:
        """Itself without the files that only a beginning needs, for a run that goes on."""
        return self

    def notes(self) -> tuple[str, ...]:
        """Sentences that belong beside any number, such as what stands in for a missing file."""
        return ()

    @property
    def label(self) -> str:
        """What a recipe's name ends with; one around others names them, as in ``fakd+dukd``."""
        return self.name

    @property
    def apart(self) -> frozenset[str]:
        """Names of losses that teach what is kept beside the student, and not the student."""
        return frozenset()

    @property
    def phases(self) -> tuple["Method", ...]:
        """Methods that each take an optimizer step on every batch: one, but for one ablation."""
        return (self,)


@dataclass(frozen=True, kw_only=True)
class Around(Method, ABC):
    """A method around another one, whose state beside the student it shares."""

    base: Method
    """The method inside."""

    @override
    def state(self, student: nn.Module, teacher: nn.Module | None) -> nn.Module:
        return self.base.state(student, teacher)

    @override
    def after_step(self, student: nn.Module, state: nn.Module, step: int) -> None:
        self.base.after_step(student, state, step)

    @override
    def resumed(self) -> Self:
        return replace(self, base=self.base.resumed())

    @override
    def notes(self) -> tuple[str, ...]:
        return self.base.notes()

    @property
    @override
    def apart(self) -> frozenset[str]:
        return self.base.apart


def weighted_l1(seen: Sequence[Seen]) -> Losses:
    """The mean absolute differences that views weigh."""
    losses: Losses = {}
    for view, student, teacher in seen:
        prefix = "" if view.name == PAIR else f"{view.name}_"
        if view.reconstruction:
            assert view.truth is not None
            value = _weighed(view.reconstruction, l1_loss(student.sr, view.truth))
            losses[f"{prefix}reconstruction"] = value
        if view.imitation:
            assert teacher is not None
            value = _weighed(view.imitation, _difference(student.sr, teacher.sr, view.focus))
            losses[f"{prefix}imitation"] = value
    return losses


def _weighed(weight: float, loss: Tensor) -> Tensor:
    """A loss by its weight; 1 takes a GPU nothing."""
    return loss if weight == 1 else weight * loss


def _difference(ours: Tensor, theirs: Tensor, focus: float) -> Tensor:
    """Mean absolute difference, in which images that differ more count more."""
    if not focus:
        return l1_loss(ours, theirs)
    each = (ours - theirs).abs().flatten(1).mean(1)
    weights = each.detach().clamp(min=1e-8) ** focus
    return (each * weights / weights.mean()).mean()


@contextmanager
def float32(seen: Sequence[Seen]) -> Generator[list[Seen]]:
    """Within, autocast is off; what the networks made is given in float32, or float64 where it was.

    Statistics and affinities lose their meaning in half precision.
    """
    with torch.autocast(seen[0].view.image.device.type, enabled=False):
        yield [
            Seen(view, _raised(student), None if teacher is None else _raised(teacher))
            for view, student, teacher in seen
        ]


def _raised(output: Output) -> Output:
    return output._replace(sr=precise(output.sr), features=[precise(f) for f in output.features])


def precise(x: Tensor) -> Tensor:
    """Raise half precision to float32; leave float32 and float64 as they are."""
    return x.float() if x.dtype in {torch.bfloat16, torch.float16} else x


def checked_views(method: Method, batch: Batch) -> list[View]:
    """What a method shows the networks.

    Raises:
        ValueError: If two views have one name.
    """
    views = method.views(batch)
    names = [view.name for view in views]
    if len(set(names)) < len(names):
        raise ValueError(
            f"{method.label} has two views of one name, whose losses could not be told apart: "
            f"{', '.join(names)}"
        )
    return views


def learns(method: Method, scale: int) -> bool:
    """Whether anything of what a method shows is weighed or compared, at any step.

    It is tried as `needs_teacher` does; a method that compares by itself is taken at its word.
    """
    kind = type(method)
    if kind.compare is not Method.compare or kind.losses is not Method.losses:
        return True
    return any(v.reconstruction or v.taught or v.student_depths for v in _ever(method, scale))


def ground_truth_weight(method: Method) -> float:
    """Weight of the ground truth on the pair: the unit in which a method's weights are counted.

    1 where it has none.
    """
    lr, hr = torch.zeros(16, 3, 8, 8), torch.zeros(16, 3, 16, 16)
    views = checked_views(method, Batch(lr, hr, torch.Generator()))
    return sum(view.reconstruction for view in views if view.name == PAIR) or 1.0


def needs_teacher(method: Method, scale: int) -> bool:
    """Whether a method shows its teacher anything, at the first step or at a later one.

    A method that changes with the step is tried at steps 0, 1, 2, 4, 8 and so on.

    Args:
        method: The method.
        scale: Upscaling factor.
    """
    return any(view.taught for view in _ever(method, scale))


def _ever(method: Method, scale: int) -> Iterator[View]:
    """What a method shows at steps 0, 1, 2, 4, 8 and so on."""
    lr = torch.zeros(16, 3, 4 * scale, 4 * scale)
    hr = torch.zeros(16, 3, 4 * scale**2, 4 * scale**2)
    for step in (0, *(1 << k for k in range(31))):
        for phase in method.phases:
            yield from checked_views(phase, Batch(lr, hr, torch.Generator(), step))
