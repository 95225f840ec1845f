"""A method with its networks, as one module: the way to compute losses, for any training loop.

    distiller = dukd.Distiller(dukd.DUKD(), student, teacher)
    optimizer = torch.optim.Adam(distiller.parameters(), lr=1e-4)
    for lr, hr in loader:                       # RGB in [0, 1]
        optimizer.zero_grad()
        sum(distiller(lr, hr).values()).backward()
        optimizer.step()

The project's own loop uses it and nothing else (`Distiller.losses`).
"""

from collections.abc import Callable
from typing import Self, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from dukd.core.given import refuse
from dukd.methods.base import Batch, Losses, Method, needs_teacher
from dukd.training.observe import Replay, observe, plain_network
from dukd.training.schedule import method_generator

_BRIGHTEST = 4.0
"""Values above this are not images in [0, 1]; reduced ones may overshoot a little."""


class Distiller(nn.Module):
    """A method with its networks: ``sum(distiller(lr, hr).values())`` is to be minimized.

    ``parameters()`` are the student's and what trains beside it (``state``). The teacher is frozen
    and not a submodule: it moves with ``to``, but stands in no state_dict, optimizer or broadcast.
    DistributedDataParallel goes around the distiller.

    It counts its calls in training mode: ``accumulate`` of them make a step. What a method does
    after a step is done as the next one begins, when the optimizer has moved the student; so there
    is not a further call to forget, and a resumed run is exact.
    """

    def __init__(
        self,
        method: Method,
        student: nn.Module,
        teacher: nn.Module | None = None,
        *,
        seed: int = 0,
        accumulate: int = 1,
    ) -> None:
        """Put a method around its networks.

        Args:
            method: Any of `dukd.methods`, or your own.
            student: Any module that maps ``(n, 3, h, w)`` in [0, 1] to ``(n, 3, h * scale,
                w * scale)``; `dukd.networks.opaque.Opaque` adapts others, and says where features
                are read.
            teacher: Likewise; it is put into eval mode and takes no gradient from now on. None for
                methods without one.
            seed: Of what the method draws; with it, the step, the rank and the number of the call
                within the step.
            accumulate: Calls per optimizer step.

        Raises:
            ValueError: If the method needs a teacher and there is none, cannot serve the networks,
                or both share weights.
        """
        super().__init__()
        _check_types(method, student, teacher)
        if accumulate < 1:
            raise ValueError(f"accumulate is {accumulate}, but a step takes at least one call")
        if teacher is None and needs_teacher(method, 2):
            raise ValueError(
                f"{method.label} compares with a teacher, but there is none: "
                "Distiller(method, student, teacher)"
            )
        own = {id(p) for p in student.parameters()}
        if teacher is not None and any(id(p) in own for p in teacher.parameters()):
            raise ValueError(
                "student and teacher share weights, which would be frozen: give the teacher a copy"
            )
        self.method, self.seed, self.accumulate = method, seed, accumulate
        self.calls, self.moved = 0, 0
        self.student = student
        # A tuple, so that it is not registered.
        self._teacher = () if teacher is None else (teacher.eval().requires_grad_(False),)
        self.state = method.state(
            plain_network(student), None if teacher is None else plain_network(teacher)
        )
        self._looked_at_images = False

    @property
    def teacher(self) -> nn.Module | None:
        """The frozen teacher."""
        return self._teacher[0] if self._teacher else None

    @property
    def step(self) -> int:
        """Optimizer steps that are done when the next call begins."""
        return self.calls // self.accumulate

    # torch's decorator hides the signature from a type checker
    @override
    @torch.compiler.disable  # counting and drawing cannot be traced; compiled networks stay so
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, lr: Tensor, hr: Tensor, sr: Tensor | None = None
    ) -> Losses:
        """Compute the losses of a batch, or of one of ``accumulate`` parts of it.

        Args:
            lr: ``(n, 3, h, w)``, RGB in [0, 1].
            hr: ``(n, 3, h * scale, w * scale)``.
            sr: The teacher's outputs for ``lr``, as large as ``hr``, where they were made before;
                the teacher is then `dukd.training.stored.Stored`.

        Returns:
            Scalars by name, weighted; their sum is to be minimized.

        Raises:
            ValueError: If the images are not a pair in [0, 1], or the method takes several
                optimizer steps per batch.
        """
        if len(self.method.phases) > 1:
            raise ValueError(
                f"{self.method.label} takes {len(self.method.phases)} optimizer steps per batch, "
                "which only dukd.train makes"
            )
        self._check(lr, hr)
        if sr is not None and sr.shape != hr.shape:
            raise ValueError(
                f"stored outputs are as large as hr, {tuple(hr.shape)}, but got {tuple(sr.shape)}"
            )
        if self.training and self.step > self.moved:
            self.after_step(self.step)
        number = _rank() * self.accumulate + self.calls % self.accumulate
        rng = method_generator(self.seed, self.step, number)
        losses = self.losses(Batch(lr, hr, rng, self.step, sr))
        self.calls += self.training
        return losses

    def losses(self, batch: Batch, replay: Replay | None = None, *, phase: int = 0) -> Losses:
        """The losses of a micro-batch, for a loop that itself knows its steps and its generators.

        Args:
            batch: The micro-batch.
            replay: How it is observed where batches come again.
            phase: Which of the method's phases.
        """
        method = self.method.phases[phase]
        seen = observe(method, self.student, self.teacher, batch, replay)
        return method.losses(seen, batch, self.state)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Do what the method does after optimizer step ``step``, counted from 1."""
        self.moved = step
        self.method.after_step(plain_network(self.student), self.state, step)

    def _check(self, lr: Tensor, hr: Tensor) -> None:
        pair: dict[str, object] = {"lr": lr, "hr": hr}
        for name, images in pair.items():
            if not isinstance(images, Tensor):
                refuse(name, "a tensor (n, 3, h, w) of RGB in [0, 1]", images)
        scale = hr.shape[-1] // lr.shape[-1]
        wanted = (*lr.shape[:2], lr.shape[2] * scale, lr.shape[3] * scale) if lr.ndim == 4 else ()
        if scale < 1 or lr.shape[1] != 3 or tuple(hr.shape) != wanted:
            raise ValueError(
                "a pair is lr (n, 3, h, w) and hr (n, 3, h * scale, w * scale), but got "
                f"{tuple(lr.shape)} and {tuple(hr.shape)}"
            )
        if not (lr.is_floating_point() and hr.is_floating_point()):
            raise ValueError(
                f"images are floating point in [0, 1], but got {lr.dtype} and {hr.dtype}: divide "
                "them by 255"
            )
        if not self._looked_at_images:  # once: on a GPU the step waits for it
            self._looked_at_images = True
            if (most := max(float(lr.detach().max()), float(hr.detach().max()))) > _BRIGHTEST:
                raise ValueError(
                    f"images lie in [0, 1], but these go up to {most:g}: divide them by 255; "
                    "networks that take 0 to 255 are adapted by Opaque(module, enter=lambda x: "
                    "x * 255, leave=lambda y: y / 255)"
                )

    @override
    def compile(self, *args: object, **kwargs: object) -> None:
        """Compile the networks in place, as `torch.nn.Module.compile` does; names stay."""
        for network in (self.student, *self._teacher):
            network.compile(*args, **kwargs)

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        for teacher in self._teacher:
            teacher._apply(fn)  # noqa: SLF001  as `nn.Module` does with its children
        return super()._apply(fn, recurse)

    @override
    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.seed, self.calls, self.moved])

    @override
    def set_extra_state(self, state: object) -> None:
        self.seed, self.calls, self.moved = cast("Tensor", state).tolist()


def _check_types(method: object, student: object, teacher: object) -> None:
    if not isinstance(method, Method):
        refuse("the method", "one of dukd.methods, such as dukd.DUKD()", method)
    how = "a module that maps lr to sr (of a file: dukd.load(path).network; of numbers: build())"
    if not isinstance(student, nn.Module):
        refuse("the student", how, student)
    if teacher is not None and not isinstance(teacher, nn.Module):
        refuse("the teacher", how, teacher)


def _rank() -> int:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if distributed else 0
