"""The one place that runs networks for a method: its views become outputs, live or from the cache.

Views of equal size share a pass, at the union of their depths, and the teacher runs before the
student: what it needs meanwhile is free again when the student's graph grows. Autocast stays as the
caller has it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dukd.images import invertible
from dukd.images.invertible import SYMMETRIES, Invertible, Operation
from dukd.methods.base import Batch, Method, Seen, View, checked_views
from dukd.networks.base import Network, Output
from dukd.training.cache import TeacherOutputCache

Symmetry = Callable[[torch.Size], Invertible]
"""Draws a symmetry for each image of a pass ``(n, 3, h, w)``."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """How a micro-batch that comes again is observed.

    Flips and transposition commute with upscaling exactly, so the student may see ``g x`` and give
    ``g^-1 S(g x)``: eight views of every image, of which the method, the ground truth and the
    teacher need not know. Features do not follow an image that is flipped: a batch on which any are
    read is seen as it is.
    """

    place: int
    """Number of the micro-batch in the period: its batch's times the micro-batches of one, plus its
    own."""
    following: int
    """The place that is likely to be read next."""
    first: Callable[[], Batch]
    """Gives micro-batch 0 of the period, with draws of its own."""
    cache: TeacherOutputCache | None = None
    """Where the teacher's outputs are kept."""
    rng: torch.Generator | None = None
    """What symmetries are drawn from; unlike a batch's it continues from period to period."""
    operations: tuple[Operation, ...] = SYMMETRIES
    """What symmetries are made of."""

    def symmetry(self, views: Sequence[View]) -> Symmetry | None:
        """Draws a symmetry for each image of a pass; None where the views are seen as they are."""
        rng, operations = self.rng, self.operations
        if rng is None or not operations or any(v.depths or v.student_depths for v in views):
            return None
        return symmetries(rng, operations)


def symmetries(rng: torch.Generator, operations: Sequence[Operation]) -> Symmetry:
    """Draws each of the operations for half of the images."""
    return lambda shape: invertible.draw(shape, probability=0.5, rng=rng, operations=operations)


def observe(
    method: Method,
    student: nn.Module,
    teacher: nn.Module | None,
    batch: Batch,
    replay: Replay | None = None,
) -> list[Seen]:
    """Show both networks what a method wants them to see of a micro-batch.

    Args:
        method: The method, or one of its phases.
        student: Any module that maps ``(n, 3, h, w)`` in [0, 1] to ``(n, 3, h * scale,
            w * scale)``.
        teacher: Likewise, frozen; None where the method has no use for one.
        batch: The micro-batch.
        replay: How it is observed where it comes again.

    Raises:
        ValueError: If the method compares with a teacher that is not there, reads features of a
            module that does not say where, or has two views of one name.
    """
    views = checked_views(method, batch)
    made = iter(taught(method, views, teacher, batch, replay))
    theirs = [next(made) if view.taught else None for view in views]
    images = [remade(view, output) for view, output in zip(views, theirs, strict=True)]
    return looked_at(student, views, images, theirs, replay.symmetry(views) if replay else None)


def looked_at(
    student: nn.Module,
    views: Sequence[View],
    images: Sequence[Tensor],
    theirs: Sequence[Output | None],
    symmetry: Symmetry | None = None,
) -> list[Seen]:
    """Show the student views of which all else is known.

    Args:
        student: The network.
        views: What a method wants it to see.
        images: What stands in place of each view's image; the view's change is still before it.
        theirs: The teacher's outputs, None of views that it does not see.
        symmetry: Draws what a pass sees its images behind.
    """
    shown = [v.change.apply(x) if v.change else x for v, x in zip(views, images, strict=True)]
    ours = outputs(student, shown, [v.depths + v.student_depths for v in views], symmetry)
    seen: list[Seen] = []
    for view, own, their in zip(views, ours, theirs, strict=True):
        back = own._replace(sr=view.change.invert(own.sr)) if view.change else own
        seen.append(Seen(view, back, their))
    return seen


def remade(view: View, teachers: Output | None) -> Tensor:
    """What the student is shown of a view, before its change."""
    if view.remake is None:
        return view.image
    assert teachers is not None  # the view says that it is for the teacher
    return view.remake(view.image, teachers.sr)


def taught(
    method: Method,
    views: Sequence[View],
    teacher: nn.Module | None,
    batch: Batch,
    replay: Replay | None = None,
) -> list[Output]:
    """The teacher's outputs on the views that it sees; without a student this fills the cache."""
    shown = [view for view in views if view.taught]
    if not shown:
        return []
    if batch.sr is not None:
        return [_stored(method, view, batch, teacher) for view in shown]
    if teacher is None:
        raise ValueError(
            f"{method.label} compares view {shown[0].name} with a teacher, but there is none: give "
            "it one"
        )

    def live() -> list[Output]:
        with torch.no_grad():
            return outputs(teacher, [v.image for v in shown], [v.depths for v in shown])

    if replay is None or replay.cache is None:
        return live()

    def first() -> list[View]:
        return checked_views(method, replace(replay.first(), step=batch.step))

    kept = replay.cache.outputs(replay.place, shown, first, live, following=replay.following)
    return [Output(sr, features, teacher) for sr, features in kept]


def is_input(view: View, batch: Batch) -> bool:
    """Whether a view is the training inputs themselves."""
    image = view.image
    return image is batch.lr or (image.shape == batch.lr.shape and torch.equal(image, batch.lr))


def _stored(method: Method, view: View, batch: Batch, teacher: nn.Module | None) -> Output:
    """The output that comes with the batch."""
    assert batch.sr is not None
    if view.depths or not is_input(view, batch):
        raise ValueError(
            f"{method.label} shows the teacher {view.name}, but only its outputs for the training "
            "inputs are stored: take a method that compares those alone, such as logits"
        )
    return Output(batch.sr, [], nn.Identity() if teacher is None else teacher)


def outputs(
    network: nn.Module,
    images: Sequence[Tensor],
    depths: Sequence[tuple[float, ...]],
    symmetry: Symmetry | None = None,
) -> list[Output]:
    """Run a network on several batches of images, those of equal size in one pass.

    Args:
        network: The network.
        images: Batches ``(n_i, 3, h_i, w_i)``, RGB in [0, 1].
        depths: For each, where features are read.
        symmetry: Draws what a pass sees its images behind, and what is undone on its outputs.
    """
    made: dict[int, Output] = {}
    for members in passes(images):
        read = tuple(dict.fromkeys(d for i in members for d in depths[i]))
        counts = [images[i].shape[0] for i in members]
        x = images[members[0]] if len(members) == 1 else torch.cat([images[i] for i in members])
        change = symmetry(x.shape) if symmetry else None
        output = _run(network, change.apply(x) if change else x, read)
        sr = change.invert(output.sr) if change else output.sr
        features = [f.split(counts) for f in output.features]
        for n, (i, part) in enumerate(zip(members, sr.split(counts), strict=True)):
            own = [features[read.index(d)][n] for d in depths[i]]
            made[i] = Output(part, own, output.network)
    return [made[i] for i in range(len(images))]


def passes(images: Sequence[Tensor]) -> list[list[int]]:
    """The numbers of the batches that share a pass, since their images are of equal size."""
    groups: dict[torch.Size, list[int]] = {}
    for i, x in enumerate(images):
        groups.setdefault(x.shape[1:], []).append(i)
    return list(groups.values())


def _run(network: nn.Module, x: Tensor, depths: tuple[float, ...]) -> Output:
    plain = plain_network(network)
    if depths:
        if not isinstance(plain, Network):
            raise ValueError(
                f"features of {type(plain).__name__} cannot be read, since it does not say where: "
                "Opaque(module, taps=('body.3', ...)) names its submodules"
            )
        return plain.observe(x, depths)
    sr: object = network(x)  # called, so that a module that is compiled or hooked counts as it is
    if not isinstance(sr, Tensor):
        raise ValueError(  # noqa: TRY004  one type for what a caller can mend
            f"{type(plain).__name__} gives {type(sr).__name__}, not a tensor (n, 3, h, w): say how "
            "to take it, Opaque(module, leave=lambda y: y[0])"
        )
    return Output(sr, [], plain)


def plain_network(module: nn.Module) -> nn.Module:
    """The module inside what `torch.compile` made of it, which shares its weights."""
    inside: object = module.__dict__.get("_modules", {}).get("_orig_mod")
    return inside if isinstance(inside, nn.Module) else module
