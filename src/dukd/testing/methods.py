"""What every method of distillation promises, as checks that need no test framework.

`check_method` holds a method to all of it, on small networks that differ in architecture, width and
depth, at every scale. It serves what is outside the package as it serves what is inside:

    def test_what_every_method_promises():
        check_method(MyMethod())
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from dukd.methods import Method
from dukd.methods.base import needs_teacher
from dukd.networks.base import SCALES
from dukd.testing.cases import (
    PAIRS,
    Case,
    Pair,
    Refused,
    check_view,
    has_a_sentence,
    hold,
    moves,
    other_global_randomness,
)
from dukd.training.cache import TeacherOutputCache
from dukd.training.distiller import Distiller
from dukd.training.experiment import Data, Experiment
from dukd.training.observe import Replay
from dukd.training.records import Source
from dukd.training.teachers import File

_STEPS = 20
_RATE = 1e-3


def check_method(
    method: Method,
    *,
    signed: bool = False,
    pairs: Mapping[str, Pair] = PAIRS,
    scales: tuple[int, ...] = SCALES,
) -> None:
    """Hold a method to what every method promises. It takes a few seconds.

    Args:
        method: The method, with the hyper-parameters to check; those with a weight of 0 are not
            covered.
        signed: Whether losses may be negative, as a logarithm or a distance to move away from may.
        pairs: Networks to check it on, by name. At least one pair has to be served, and others
            refused in a sentence.
        scales: Upscaling factors to check it at.

    Raises:
        AssertionError: If a promise is broken; the message says which, and where.
        ValueError: If there is no pair or no scale to check it on.
    """
    if not pairs or not scales:
        raise ValueError(
            f"nothing to check {method.name} on: pairs names {len(pairs)}, scales {len(scales)}"
        )
    served = serves(method, pairs)
    for pair in served.values():
        for scale in scales:
            teaches_the_student_and_not_the_teacher(method, pair, scale, signed=signed)
    first = next(iter(served.values()))
    for promise in PROMISES:
        promise(method, first)


def serves(method: Method, pairs: Mapping[str, Pair] = PAIRS) -> dict[str, Pair]:
    """The pairs a method serves, by name.

    Raises:
        AssertionError: If there is none.
    """
    served: dict[str, Pair] = {}
    refusals: list[str] = []
    for name, pair in pairs.items():
        try:
            Case.of(method, pair)
        except Refused as refusal:
            refusals.append(f"{name}: {refusal}")
        else:
            served[name] = pair
    hold(bool(served), f"{method.name} serves no pair of networks: {'; '.join(refusals)}")
    return served


def teaches_the_student_and_not_the_teacher(
    method: Method, pair: Pair, scale: int, *, signed: bool = False
) -> None:
    """Every loss is a finite scalar with a gradient for the student; the teacher stays as it is.

    A loss that is cut from the graph falls in the log and teaches nothing.
    """
    case = Case.of(method, pair, scale=scale)
    before = copy.deepcopy(case.teacher.state_dict())
    for phase in method.phases:
        losses = case.losses(phase)
        hold(bool(losses), f"{phase.name} has no losses at all")
        for term, loss in losses.items():
            where = f"the loss {term!r} of {phase.name} at x{scale}"
            hold(loss.shape == (), f"{where} is not a scalar but of shape {tuple(loss.shape)}")
            hold(bool(torch.isfinite(loss)), f"{where} is {loss}")
            hold(
                signed or loss.item() >= 0,
                f"{where} is {loss}; if it may be negative, say signed=True",
            )
            taught, who = case.trained(), "the student"
            if term in phase.apart:
                taught, who = list(case.state.parameters()), "what is kept beside the student"
                hold(
                    not moves(loss, list(case.student.parameters())),
                    f"{where} has a gradient for the student, though it says that it has none",
                )
            hold(
                loss.requires_grad and moves(loss, taught),
                f"{where} has no gradient for {who}: it was cut from the graph",
            )
        torch.stack(list(losses.values())).sum().backward()
    hold(not case.teacher.training, f"{method.name} puts the teacher into training mode")
    touched = [
        name for name, p in case.teacher.named_parameters() if p.grad is not None or p.requires_grad
    ]
    hold(not touched, f"{method.name} gives the teacher gradients: {touched[:3]}")
    changed = _changed(before, case.teacher)
    hold(not changed, f"{method.name} changes the teacher: {changed}")


def shows_views_of_the_batch(method: Method, pair: Pair) -> None:
    """Views have names of their own, fit the scale, and follow from the batch and its rng alone."""
    case = Case.of(method, pair, size=(16, 24))
    scale = case.student.scale
    for phase in method.phases:
        views = phase.views(case.batch(seed=3))
        with other_global_randomness():
            again = phase.views(case.batch(seed=3))
        names = [view.name for view in views]
        hold(len(set(names)) == len(names), f"{phase.name} gives views of one name: {names}")
        for view, twin in zip(views, again, strict=True):
            check_view(view, scale, where=phase.name)
            hold(
                view.name == twin.name and torch.equal(view.image, twin.image),
                f"view {view.name} of {phase.name} follows from more than the batch and its rng",
            )


def draws_from_rng_alone(method: Method, pair: Pair) -> None:
    """The same generator gives the same losses, whatever other generators do."""
    case = Case.of(method, pair)
    for phase in method.phases:
        first = case.losses(phase, seed=3)
        with other_global_randomness():
            second = case.losses(phase, seed=3)
        hold(list(first) == list(second), f"{phase.name} has now {list(first)}, now {list(second)}")
        for term, loss in first.items():
            hold(
                torch.equal(loss, second[term]),
                f"the loss {term!r} of {phase.name} draws from elsewhere than rng",
            )


def leaves_its_inputs_alone(method: Method, pair: Pair) -> None:
    """The batch, the student and what the networks made are after the losses what they were."""
    case = Case.of(method, pair)
    lr, hr, before = case.lr.clone(), case.hr.clone(), copy.deepcopy(case.student.state_dict())
    for phase in method.phases:
        batch = case.batch()
        seen = case.seen(phase, batch)
        made = [x for s in seen for o in (s.student, s.teacher) if o for x in (o.sr, *o.features)]
        copies = [x.detach().clone() for x in made]
        phase.losses(seen, batch, case.state)
        same = all(torch.equal(x, y) for x, y in zip(made, copies, strict=True))
        hold(same, f"{phase.name} changes in place what the networks made")
    hold(torch.equal(lr, case.lr), f"{method.name} changes lr in place")
    hold(torch.equal(hr, case.hr), f"{method.name} changes hr in place")
    changed = _changed(before, case.student)
    hold(not changed, f"{method.name} changes the student while it computes losses: {changed}")


def takes_patches_that_are_not_square(method: Method, pair: Pair) -> None:
    """Height and width are not mixed up, nor taken for equal."""
    case = Case.of(method, pair, size=(16, 24))
    for phase in method.phases:
        for term, loss in case.losses(phase).items():
            hold(
                bool(torch.isfinite(loss)),
                f"the loss {term!r} of {phase.name} on 16 x 24 patches is {loss}",
            )


def agrees_in_half_precision(method: Method, pair: Pair) -> None:
    """Under autocast losses are near those of full precision."""
    case = Case.of(method, pair)
    for phase in method.phases:
        exact = case.losses(phase)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = case.losses(phase)
        for term, loss in exact.items():
            # bfloat16 keeps 8 bits, and what a method compares is often a small difference of large
            # numbers
            near = torch.isclose(rough[term].float(), loss.float(), rtol=0.25, atol=0.05)
            hold(
                bool(near),
                f"the loss {term!r} of {phase.name} is {loss:.4g}, but {rough[term]:.4g} in "
                "bfloat16",
            )


def trains_its_state(method: Method, pair: Pair) -> None:
    """What trains beside the student is in the state and has a gradient."""
    case = Case.of(method, pair)
    names, parameters = _trained(case.state)
    if not parameters:
        return
    for phase in method.phases:
        torch.stack(list(case.losses(phase).values())).sum().backward()
    reached = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in parameters]
    hold(
        any(reached),
        f"{method.name} trains nothing of its state, such as {names[:3]}: no loss depends on it",
    )


def lowers_its_sum(method: Method, pair: Pair) -> None:
    """Twenty small steps on one batch with the same draws.

    What is minimized is what is returned.
    """
    case = Case.of(method, pair)
    for phase in method.phases:
        optimizer = torch.optim.Adam(
            [*case.student.parameters(), *_trained(case.state)[1]], lr=_RATE
        )
        totals: list[float] = []
        for _ in range(_STEPS + 1):
            total = torch.stack(list(case.losses(phase, seed=7).values())).sum()
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            totals.append(total.item())
        hold(
            totals[-1] < totals[0],
            f"{_STEPS} steps take {phase.name} from {totals[0]:.6g} to {totals[-1]:.6g}",
        )


def survives_a_checkpoint(method: Method, pair: Pair) -> None:
    """What is kept beside the student is tensors by name, and brings the same losses back."""
    case = Case.of(method, pair)
    case.losses(method.phases[-1])
    method.after_step(case.student, case.state, 1)
    kept = case.state.state_dict()
    strange = [name for name, value in kept.items() if not isinstance(value, Tensor)]
    hold(not strange, f"{method.name} keeps what is not a tensor: {strange[:3]}")
    again = Case.of(method, pair)
    again.state.load_state_dict(kept)
    for phase in method.phases:
        first, second = case.losses(phase, seed=2), again.losses(phase, seed=2)
        for term, loss in first.items():
            same = torch.equal(loss, second[term])
            hold(
                same,
                f"the loss {term!r} of {phase.name} depends on something that the tensors of its "
                "state do not hold",
            )


def is_the_same_from_the_cache(method: Method, pair: Pair) -> None:
    """Teacher outputs that were kept give the same losses as the teacher itself."""
    case = Case.of(method, pair)
    source = Source(
        teacher="",
        data="",
        scale=2,
        patch=16,
        batch=2,
        period=1,
        parts=1,
        seed=1,
        flips=False,
        rotations=False,
        by_area=False,
        precision="float32",
        bits=32,
    )
    for phase in method.phases:
        live = case.losses(phase)
        with TemporaryDirectory() as folder:
            cache = TeacherOutputCache(Path(folder), source, case.teacher, limit=1e9)
            replay = Replay(place=0, following=0, first=case.batch, cache=cache)
            for replayed in (case.losses(phase, replay=replay) for _ in range(2)):
                for term, loss in live.items():
                    hold(
                        torch.equal(loss, replayed[term]),
                        f"the loss {term!r} of {phase.name} is another where the teacher's outputs "
                        "come from the cache",
                    )
            cache.close()


def does_without_a_teacher_if_no_view_needs_one(method: Method, pair: Pair) -> None:
    """A method whose views are not for a teacher works without one."""
    if needs_teacher(method, 2):
        return
    case = Case.of(method, pair)
    distiller = Distiller(method, case.student)
    for number in range(len(method.phases)):
        try:
            distiller.losses(case.batch(), phase=number)
        except (AssertionError, AttributeError) as error:
            raise AssertionError(
                f"{method.name} shows its teacher nothing, but takes from it: {error}"
            ) from error


def is_a_frozen_value(method: Method, pair: Pair) -> None:
    """A method is its numbers: equal to its copy, hashable, unchangeable."""
    del pair
    twin = copy.deepcopy(method)
    hold(
        method == twin and hash(method) == hash(twin),
        f"{method.name} is not equal to a copy of itself",
    )
    for field in fields(method):
        try:
            setattr(method, field.name, getattr(method, field.name))
        except FrozenInstanceError:
            continue
        raise AssertionError(
            f"{method.name} lets its {field.name} be changed: make it @dataclass(frozen=True)"
        )


def can_be_named_and_written(method: Method, pair: Pair) -> None:
    """It has a name, a sentence, documented numbers, and comes back from YAML as it was."""
    has_a_sentence(type(method))
    taught = Experiment(
        student=pair.student(2),
        teacher=File(weights=Path("teacher.safetensors")),
        method=method,
        data=Data(train=Path("images")),
    )
    again = Experiment.from_yaml(taught.to_yaml())
    hold(
        again.method == method,
        f"{method.name} comes back from YAML as {again.method}, but was {method}",
    )


Promise = Callable[[Method, Pair], None]

PROMISES: tuple[Promise, ...] = (
    shows_views_of_the_batch,
    leaves_its_inputs_alone,
    draws_from_rng_alone,
    takes_patches_that_are_not_square,
    agrees_in_half_precision,
    trains_its_state,
    lowers_its_sum,
    survives_a_checkpoint,
    is_the_same_from_the_cache,
    does_without_a_teacher_if_no_view_needs_one,
    is_a_frozen_value,
    can_be_named_and_written,
)
"""What one pair of networks is enough for; each raises AssertionError with a sentence."""


def _changed(before: Mapping[str, Tensor], module: nn.Module) -> list[str]:
    """Up to three names of tensors that are not what they were."""
    after = module.state_dict()
    names = before.keys() | after.keys()
    return sorted(
        k
        for k in names
        if k not in before or k not in after or not torch.equal(before[k], after[k])
    )[:3]


def _trained(state: nn.Module) -> tuple[list[str], list[nn.Parameter]]:
    found = {name: p for name, p in state.named_parameters() if p.requires_grad}
    return list(found), list(found.values())
