"""A whole step as one CUDA graph, where batches come again.

With a period, what a step shows is one of a few things: of each batch the views, the teacher's
outputs on them and the changes before the student are the same whenever it comes. They are kept in
a row on the device, and what follows (the student's passes, the losses, their gradients, the
optimizer, the average) is recorded once. A step then sends three things, the number of a row, a
learning rate and the symmetries that are drawn, and launches one graph; a small student's step
takes the host 5 to 12 ms otherwise, and the device a tenth of it.

What is recorded must be the same at every step. No method declares that: the first step is made by
hand, with a batch that notices who draws from it or looks at the number of the step, in `views` or
in comparing. Such methods, and those that keep something after a step, go on without.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from dukd.core.device import to_device
from dukd.core.text import amount, first_line
from dukd.images.invertible import Operation, Tabled, drawn
from dukd.methods import Losses
from dukd.methods.base import Around, Batch, Method, View, checked_views
from dukd.networks.base import Output
from dukd.networks.quantized import QuantizedConfig
from dukd.networks.recorded import held, release, unwarned
from dukd.training.gradients import gradient
from dukd.training.log import GRADIENT_NORM
from dukd.training.nonfinite import CheckedStep
from dukd.training.observe import Symmetry, looked_at, passes, remade, symmetries, taught
from dukd.training.rows import Rows, UnsteadyError
from dukd.training.schedule import rate_factor, symmetry_generator

if TYPE_CHECKING:
    from dukd.training.assemble import Training
    from dukd.training.share import MicroBatch

_BY_HAND = 3
"""Steps that are made kernel by kernel before one is recorded: libraries choose and load theirs."""


@dataclass(frozen=True)
class WatchedBatch(Batch):
    """A batch that refuses what would not be the same at every step."""

    comparing: bool = False
    """Whether views are made already, which may draw, since they are kept."""

    @override
    def __getattribute__(self, name: str) -> object:
        if name == "step":
            raise UnsteadyError("it depends on the number of the step")
        if name == "rng" and object.__getattribute__(self, "comparing"):
            raise UnsteadyError("it draws while it compares")
        return super().__getattribute__(name)

    @override
    def part(self, rows: slice) -> "WatchedBatch":
        sr = None if self.sr is None else self.sr[rows]
        return WatchedBatch(self.lr[rows], self.hr[rows], self.rng, sr=sr, recurs=self.recurs)


class _Look(NamedTuple):
    """What a method shows of a batch, beside its tensors."""

    views: list[View]
    """With the tensors of the first batch."""
    operations: list[tuple[Operation, ...] | None]
    """Of each view's change."""
    theirs: list[Output | None]

    def said(self) -> list[tuple[object, ...]]:
        """What must be the same for every batch."""
        weights = ("name", "reconstruction", "imitation", "focus", "depths", "student_depths")
        return [
            (
                *(getattr(view, name) for name in weights),
                *(x is None for x in (view.remake, view.truth, their)),
                operations,
            )
            for view, operations, their in zip(*self, strict=True)
        ]

    def rebuilt(
        self, tensors: Iterator[Tensor]
    ) -> tuple[list[View], list[Tensor], list[Output | None]]:
        """Views, what stands in place of their images, and the teacher's outputs, of a row."""
        views: list[View] = []
        images: list[Tensor] = []
        theirs: list[Output | None] = []
        for view, operations, their in zip(*self, strict=True):
            image = next(tensors)
            images.append(image if view.remake is None else next(tensors))
            truth = None if view.truth is None else next(tensors)
            change = None
            if operations is not None:
                change = Tabled(operations, *(next(tensors) for _ in range(3)))
            views.append(replace(view, image=image, truth=truth, change=change))
            if their is None:
                theirs.append(None)
            else:
                sr, *features = (next(tensors) for _ in range(1 + len(their.features)))
                theirs.append(Output(sr, features, their.network))
        return views, images, theirs


@dataclass
class Known(CheckedStep):
    """A step that was made from a row."""

    @property
    def logged(self) -> dict[str, Tensor]:
        """What the log takes of it."""
        assert self.norm is not None
        return self.losses | {GRADIENT_NORM: self.norm}


class Recording:
    """Makes steps from rows; made by ``recording``."""

    def __init__(self, period: int, device: torch.device) -> None:
        self._period, self._device = period, device
        self._known: set[int] = set()
        self._rows: Rows | None = None
        self._look: _Look | None = None
        self._shapes: list[torch.Size] = []
        self._names: list[str] = []
        self._symmetries: tuple[Operation, ...] = ()
        self._sent = torch.empty(0)
        self._rate = torch.zeros((), device=device)
        self._launch: Callable[[], Tensor] | None = None
        self._by_hand = 0
        self._notes: list[str] = []
        self.ended = False
        """Whether steps are made without it from now on."""

    def notes(self) -> list[str]:
        """Sentences for the log since the last call."""
        notes, self._notes = self._notes, []
        return notes

    def advance(self, training: "Training", lr: Tensor, hr: Tensor) -> "Known | None":
        """Make a step but for what the host counts; None where it has to be made otherwise.

        Args:
            training: What is trained.
            lr: ``(n, 3, h, w)``, uint8.
            hr: ``(n, 3, h * scale, w * scale)``, uint8.
        """
        place = training.state.step % self._period
        try:
            if place not in self._known:
                self._keep(training, place, lr, hr)
            made = self._made(training, place)
        except UnsteadyError as why:
            self._end(training, f"the step of {training.experiment.method.label}", str(why))
            return None
        *losses, norm = made.unbind()
        named = dict(zip(self._names, losses, strict=True))
        return Known(training.state.step + 1, lr, hr, named, norm)

    def _end(self, training: "Training", what: str, why: str) -> None:
        self.ended = True
        self._rows = self._launch = self._look = None
        training.state.optimizer.zero_grad()
        self._notes.append(
            f"{what} is not recorded as a whole, since {why}; its networks' passes are"
        )

    def _keep(self, training: "Training", place: int, lr: Tensor, hr: Tensor) -> None:
        """Write the row of a batch."""
        (part,) = training.share.split(training.state.step, lr, hr)
        look, tensors = _shown(training, part)
        if self._rows is None or self._look is None:
            self._look, self._rows = look, Rows(tensors, self._period, self._device)
            self._prepare(training, part)
        elif look.said() != self._look.said():
            raise UnsteadyError("not every batch is compared alike")
        self._rows.write(place, tensors)
        self._known.add(place)

    def _prepare(self, training: "Training", part: "MicroBatch") -> None:
        """Make room for what every step sends."""
        assert self._look is not None
        views, replay = self._look.views, training.objective.replay(part)
        if replay is not None and replay.symmetry(views) is not None:
            self._symmetries = replay.operations
            images = [view.image for view in views]
            if not all(map(_is_square, images)) or "invert" in self._symmetries:
                raise UnsteadyError("its images are not square, or their colors are inverted")
            for members in passes(images):
                count = sum(len(images[i]) for i in members)
                self._shapes.append(torch.Size((count, *images[members[0]].shape[1:])))
        length = 2 + sum(shape[0] for shape in self._shapes)
        self._sent = torch.zeros(length, dtype=torch.float64, device=self._device)

    def _made(self, training: "Training", place: int) -> Tensor:
        """Make the step of a row: its losses and the norm, in one vector of its own."""
        self._send(training, place)
        for group in training.state.optimizer.param_groups:
            group["lr"] = self._rate
        training.state.touch()
        if self._launch is None and self._by_hand >= _BY_HAND:
            self._launch = self._recorded(training)
        if self._launch is not None:
            return self._launch().clone()
        self._by_hand += 1
        training.state.optimizer.zero_grad()
        return self._watched(training)

    def _send(self, training: "Training", place: int) -> None:
        """Say which row it is, how far to go, and how the student sees it."""
        optimization, step = training.experiment.optimization, training.state.step
        rate = optimization.learning_rate * rate_factor(optimization, step)
        sent = [torch.tensor([rate, place], dtype=torch.float64)]
        if self._shapes:
            rng = symmetry_generator(optimization.seed, step)
            changes = map(symmetries(rng, self._symmetries), self._shapes)
            sent += [found[1][0].double() for change in changes if (found := drawn(change))]
        self._sent.copy_(torch.cat(sent).pin_memory(), non_blocking=True)

    def _watched(self, training: "Training") -> Tensor:
        """Make a step kernel by kernel, and notice if it would not be the same each time."""
        before = torch.default_generator.get_state()
        made = aside(lambda: self._compute(training), self._device)
        if not torch.equal(before, torch.default_generator.get_state()):
            self._end(training, training.experiment.student.name, "it draws on the processor")
        return made

    def _recorded(self, training: "Training") -> Callable[[], Tensor]:
        groups = training.state.optimizer.param_groups
        training.state.optimizer.zero_grad()
        try:
            for group in groups:
                group["capturable"] = True
            made = captured(lambda: self._compute(training))
        except (torch.OutOfMemoryError, UnsteadyError):
            raise
        except Exception as error:  # the driver's own share no class
            raise UnsteadyError(first_line(error)) from error
        finally:
            for group in groups:
                group["capturable"] = False
        size = amount(0 if self._rows is None else self._rows.bytes)
        self._notes.append(
            f"steps are recorded as a whole and replayed; what is seen of {self._period} batches "
            f"takes {size} on {self._device}"
        )
        return made

    def _compute(self, training: "Training") -> Tensor:
        """All of a step that a GPU does; nothing of it depends on the host."""
        assert self._rows is not None
        assert self._look is not None
        self._rate.copy_(self._sent[0])
        place = self._sent[1:2].long()
        tensors = iter(self._rows.read(place))
        lr, hr = next(tensors), next(tensors)
        views, images, theirs = self._look.rebuilt(tensors)
        batch = WatchedBatch(lr, hr, torch.Generator(), comparing=True)
        objective = training.objective
        with held():
            release()
            with objective.autocast(cached=False):
                student, method = objective.distiller.student, objective.distiller.method
                seen = looked_at(student, views, images, theirs, self._symmetry())
                named: Losses = method.losses(seen, batch, objective.distiller.state)
            losses, totals, norm = gradient(training, [named])
        training.guard.judge(totals)
        training.state.optimizer.step()
        training.state.average.move(training.experiment.optimization.ema)
        self._names = list(losses)
        return torch.stack([*(value.float() for value in losses.values()), norm.float()])

    def _symmetry(self) -> Symmetry | None:
        if not self._shapes:
            return None
        codes = iter(self._sent[2:].long().split([shape[0] for shape in self._shapes]))
        return lambda _: Tabled(self._symmetries, next(codes))


def recording(training: "Training") -> Recording | None:
    """What records whole steps, where they can be: on one GPU, of one part, with a period."""
    experiment, device = training.experiment, training.device
    data, optimization = experiment.data, experiment.optimization
    alone = training.world.size == 1 and training.share.parts == 1
    wanted = optimization.cuda_graphs and device.type == "cuda" and experiment.teacher_cache.enabled
    plain = not (
        optimization.compile
        or optimization.deterministic
        or isinstance(experiment.student, QuantizedConfig)
    )
    steady = len(experiment.method.phases) == 1 and _keeps_nothing(experiment.method)
    if not (data.period and alone and wanted and plain and steady):
        return None
    return Recording(data.period, device)


def _keeps_nothing(method: Method) -> bool:
    """Whether nothing is done after a step."""
    if isinstance(method, Around) and type(method).after_step is Around.after_step:
        return _keeps_nothing(method.base)
    return type(method).after_step is Method.after_step


@torch.no_grad()
def _shown(training: "Training", part: "MicroBatch") -> tuple[_Look, list[Tensor]]:
    """What a batch shows, and its tensors in the order in which `_Look.rebuilt` takes them."""
    objective = training.objective
    method, rng = objective.distiller.method, part.draws.method.clone_state()
    batch = WatchedBatch(part.lr, part.hr, rng, sr=part.sr, recurs=part.recurs)
    release()
    with objective.autocast():
        views = checked_views(method, batch)
        plain = Batch(part.lr, part.hr, rng, part.step, part.sr, recurs=part.recurs)
        made = iter(
            taught(method, views, objective.distiller.teacher, plain, objective.replay(part))
        )
        theirs = [next(made) if view.taught else None for view in views]
    tensors, operations = [part.lr, part.hr], list[tuple[Operation, ...] | None]()
    for view, their in zip(views, theirs, strict=True):
        tensors.append(view.image)
        if view.remake is not None:
            tensors.append(remade(view, their))
        if view.truth is not None:
            tensors.append(view.truth)
        change = None if view.change is None else drawn(view.change)
        if view.change is not None and (change is None or not _is_square(view.image)):
            raise UnsteadyError(f"view {view.name} is changed in a way of its own")
        operations.append(None if change is None else change[0])
        if change is not None:
            tensors += [to_device(x, view.image.device) for x in change[1]]
        if their is not None:
            tensors += [their.sr, *their.features]
    return _Look(views, operations, theirs), tensors


def _is_square(x: Tensor) -> bool:
    """Whether images can be transposed one by one."""
    return x.shape[-1] == x.shape[-2]


def aside(compute: Callable[[], Tensor], device: torch.device) -> Tensor:
    """Compute on a stream of its own, as is wanted before a recording."""
    if device.type != "cuda":
        return compute()
    stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        made = compute()
    current.wait_stream(stream)
    return made


def captured(compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Record what a GPU computes, without computing it; call what comes back to do so."""
    graph = torch.cuda.CUDAGraph()
    unwarned()
    # other threads read the cache and cut batches meanwhile
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        made = compute()

    def replay() -> Tensor:
        graph.replay()
        return made

    return replay
