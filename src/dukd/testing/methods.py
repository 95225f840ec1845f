"""What every method and every network promises, as checks that need no test framework.

`check_method` holds a method to all of it, on small networks that differ in architecture, width and
depth, at every scale; `check_network` does so for a network. They serve what is outside the package
as they serve what is inside:

    def test_what_every_method_promises():
        check_method(MyMethod())
"""

import copy
import random
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import FrozenInstanceError, dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from dukd.methods import Losses, Method
from dukd.methods.inner import Recorded
from dukd.networks import EDSRConfig, Network, NetworkConfig, RCANConfig, SwinIRConfig
from dukd.networks.base import SCALES, NoTeacher, Output, Staged, Wrapped, pad_to_multiple
from dukd.networks.files import weights
from dukd.training.experiment import Data, Experiment, Teacher

_STEPS = 20
_RATE = 1e-3


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


class Refused(ValueError):  # noqa: N818  no error of the method's: it says which pairs it serves
    """The method does not serve this pair of networks, and has said why."""


@dataclass
class Case:
    """A method, a pair of networks, what the method keeps beside them, and a batch."""

    method: Method
    student: Network
    teacher: Network
    extras: torch.nn.Module
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
                extras = method.extras(student, teacher).train()
            except ValueError as error:
                _hold(
                    len(str(error)) > 40,
                    f"a refusal says why, and what would serve, but got {str(error)!r}",
                )
                raise Refused(str(error)) from error
            lr = torch.rand(2, 3, *size)
            hr = torch.rand(2, 3, size[0] * scale, size[1] * scale)
        return cls(method, student, teacher, extras, lr, hr)

    def losses(self, part: Method | None = None, *, seed: int = 1) -> Losses:
        """Losses of the method, or of one of its parts, with the method's draws from ``seed``."""
        return (part or self.method).losses(
            student=self.student,
            teacher=self.teacher,
            extras=self.extras,
            lr=self.lr,
            hr=self.hr,
            rng=torch.Generator().manual_seed(seed),
        )


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
    _hold(bool(served), f"{method.name} serves no pair of networks: {'; '.join(refusals)}")
    return served


def teaches_the_student_and_not_the_teacher(
    method: Method, pair: Pair, scale: int, *, signed: bool = False
) -> None:
    """Every loss is a finite scalar with a gradient for the student; the teacher stays as it is.

    A loss that is cut from the graph falls in the log and teaches nothing.
    """
    case = Case.of(method, pair, scale=scale)
    before = copy.deepcopy(case.teacher.state_dict())
    for part in method.parts:
        losses = case.losses(part)
        _hold(bool(losses), f"{part.name} has no losses at all")
        for term, loss in losses.items():
            where = f"the loss {term!r} of {part.name} at x{scale}"
            _hold(loss.shape == (), f"{where} is no scalar but of shape {tuple(loss.shape)}")
            _hold(bool(torch.isfinite(loss)), f"{where} is {loss}")
            _hold(
                signed or loss.item() >= 0,
                f"{where} is {loss}; if it may be negative, say signed=True",
            )
            _hold(
                loss.requires_grad and _moves(loss, list(case.student.parameters())),
                f"{where} has no gradient for the student: it was cut from the graph",
            )
        torch.stack(list(losses.values())).sum().backward()
    _hold(not case.teacher.training, f"{method.name} puts the teacher into training mode")
    touched = [
        name for name, p in case.teacher.named_parameters() if p.grad is not None or p.requires_grad
    ]
    _hold(not touched, f"{method.name} gives the teacher gradients: {touched[:3]}")
    after = case.teacher.state_dict()
    changed = [k for k in before.keys() | after.keys() if not _same(before.get(k), after.get(k))]
    _hold(not changed, f"{method.name} changes the teacher: {sorted(changed)[:3]}")


def draws_from_rng_alone(method: Method, pair: Pair) -> None:
    """The same generator gives the same losses, whatever other generators do."""
    case = Case.of(method, pair)
    for part in method.parts:
        first = case.losses(part, seed=3)
        with _other_global_randomness():
            second = case.losses(part, seed=3)
        _hold(list(first) == list(second), f"{part.name} has now {list(first)}, now {list(second)}")
        for term, loss in first.items():
            _hold(
                torch.equal(loss, second[term]),
                f"the loss {term!r} of {part.name} draws from elsewhere than rng",
            )


def leaves_its_inputs_alone(method: Method, pair: Pair) -> None:
    """The batch and the student are after the losses what they were before."""
    case = Case.of(method, pair)
    lr, hr, before = case.lr.clone(), case.hr.clone(), copy.deepcopy(case.student.state_dict())
    for part in method.parts:
        case.losses(part)
    _hold(torch.equal(lr, case.lr), f"{method.name} changes lr in place")
    _hold(torch.equal(hr, case.hr), f"{method.name} changes hr in place")
    after = case.student.state_dict()
    changed = [k for k in before.keys() | after.keys() if not _same(before.get(k), after.get(k))]
    _hold(
        not changed,
        f"{method.name} changes the student while it computes losses: {sorted(changed)[:3]}",
    )


def takes_patches_that_are_not_square(method: Method, pair: Pair) -> None:
    """Height and width are not mixed up, nor taken for equal."""
    case = Case.of(method, pair, size=(16, 24))
    for part in method.parts:
        for term, loss in case.losses(part).items():
            _hold(
                bool(torch.isfinite(loss)),
                f"the loss {term!r} of {part.name} on 16 x 24 patches is {loss}",
            )


def sees_no_difference_in_a_wrapping(method: Method, pair: Pair) -> None:
    """A wrapped student gives the same losses."""
    case = Case.of(method, pair)
    for part in method.parts:
        plain = case.losses(part)
        for term, loss in replace(case, student=Wrapped(case.student)).losses(part).items():
            _hold(
                torch.equal(loss, plain[term]),
                f"the loss {term!r} of {part.name} is another for a wrapped student",
            )


def agrees_in_half_precision(method: Method, pair: Pair) -> None:
    """Under autocast losses are near those of full precision."""
    case = Case.of(method, pair)
    for part in method.parts:
        exact = case.losses(part)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = case.losses(part)
        for term, loss in exact.items():
            # bfloat16 keeps 8 bits, and what a method compares is often a small difference of large
            # numbers
            near = torch.isclose(rough[term].float(), loss.float(), rtol=0.25, atol=0.05)
            _hold(
                bool(near),
                f"the loss {term!r} of {part.name} is {loss:.4g}, but {rough[term]:.4g} in "
                "bfloat16",
            )


def trains_its_extras(method: Method, pair: Pair) -> None:
    """What trains beside the student is among the extras and has a gradient."""
    case = Case.of(method, pair)
    names, parameters = _trained(case.extras)
    if not parameters:
        return
    for part in method.parts:
        torch.stack(list(case.losses(part).values())).sum().backward()
    reached = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in parameters]
    _hold(
        any(reached),
        f"{method.name} trains none of its extras, such as {names[:3]}: no loss depends on them",
    )


def lowers_its_sum(method: Method, pair: Pair) -> None:
    """Twenty small steps on one batch with the same draws.

    What is minimized is what is returned.
    """
    case = Case.of(method, pair)
    for part in method.parts:
        optimizer = torch.optim.Adam(
            [*case.student.parameters(), *_trained(case.extras)[1]], lr=_RATE
        )
        totals: list[float] = []
        for _ in range(_STEPS + 1):
            total = torch.stack(list(case.losses(part, seed=7).values())).sum()
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            totals.append(total.item())
        _hold(
            totals[-1] < totals[0],
            f"{_STEPS} steps take {part.name} from {totals[0]:.6g} to {totals[-1]:.6g}",
        )


def survives_a_checkpoint(method: Method, pair: Pair) -> None:
    """What is kept beside the student is tensors by name, and brings the same losses back."""
    case = Case.of(method, pair)
    case.losses(method.parts[-1])
    method.after_step(student=case.student, extras=case.extras, step=1)
    kept = case.extras.state_dict()
    strange = [name for name, value in kept.items() if not isinstance(value, Tensor)]
    _hold(not strange, f"{method.name} keeps what is no tensor: {strange[:3]}")
    again = Case.of(method, pair)
    again.extras.load_state_dict(kept)
    for part in method.parts:
        first, second = case.losses(part, seed=2), again.losses(part, seed=2)
        for term, loss in first.items():
            same = torch.equal(loss, second[term])
            _hold(
                same,
                f"the loss {term!r} of {part.name} depends on something that its extras' tensors "
                "do not hold",
            )


def says_what_it_reads(method: Method, pair: Pair) -> None:
    """``taps`` names every depth that is read, so that combinations make no second pass."""
    case = Case.of(method, pair)
    networks = {"student": case.student, "teacher": case.teacher}
    recorded: dict[str, Recorded] = {}
    for who, network in networks.items():
        recorded[who] = Recorded(network, method.taps)
        recorded[who].ask([case.lr])
        _forbid(
            network,
            case.lr,
            f"{method.name} reads the {who} at depths that its taps {method.taps} do not name",
        )
    case.student, case.teacher = recorded["student"], recorded["teacher"]
    for part in method.parts:
        case.losses(part)


def asks_a_teacher_only_if_it_says_so(method: Method, pair: Pair) -> None:
    """A method whose ``needs_teacher`` is false works without one."""
    if method.needs_teacher:
        return
    case = Case.of(method, pair)
    case.teacher = NoTeacher(case.student.config)
    case.extras = method.extras(case.student, case.teacher)
    try:
        for part in method.parts:
            case.losses(part)
    except ValueError as error:
        raise AssertionError(
            f"{method.name} says it needs no teacher, but asks one: {error}"
        ) from error


def is_a_frozen_value(method: Method, pair: Pair) -> None:
    """A method is its numbers: equal to its copy, hashable, unchangeable."""
    del pair
    twin = copy.deepcopy(method)
    _hold(
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
    kind = type(method)
    about = (kind.__doc__ or "").strip()
    _hold(
        about.splitlines()[:1] != [] and about.splitlines()[0].endswith("."),
        f"{kind.__name__} needs a sentence",
    )
    _hold(
        not about.startswith(f"{kind.__name__}("),
        f"{kind.__name__} has no docstring but the dataclass's own",
    )
    taught = Experiment(
        student=pair.student(2),
        teacher=Teacher(weights=Path("teacher.safetensors")),
        method=method,
        data=Data(train=Path("images")),
    )
    again = Experiment.from_yaml(taught.to_yaml())
    _hold(
        again.method == method,
        f"{method.name} comes back from YAML as {again.method}, but was {method}",
    )


Promise = Callable[[Method, Pair], None]

PROMISES: tuple[Promise, ...] = (
    leaves_its_inputs_alone,
    draws_from_rng_alone,
    takes_patches_that_are_not_square,
    sees_no_difference_in_a_wrapping,
    agrees_in_half_precision,
    trains_its_extras,
    lowers_its_sum,
    survives_a_checkpoint,
    says_what_it_reads,
    asks_a_teacher_only_if_it_says_so,
    is_a_frozen_value,
    can_be_named_and_written,
)
"""What one pair of networks is enough for; each raises AssertionError with a sentence."""


_WIDEST = 128
"""Pixels on a side of the largest image on which a radius is checked."""


def check_network(config: NetworkConfig) -> None:
    """Hold a network to what every network promises. It takes seconds where the network is small.

    Args:
        config: The network's numbers; small ones will do.

    Raises:
        AssertionError: If a promise is broken; the message says which.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network, twin = config.build(), config.build()
        shapes = [{name: t.shape for name, t in n.state_dict().items()} for n in (network, twin)]
        _hold(
            network.config == config,
            f"{config.name} was built from {config}, but says {network.config}",
        )
        _hold(shapes[0] == shapes[1], f"building {config} twice gives tensors of other shapes")
        _every_parameter_learns(network, torch.rand(2, 3, 24, 24))
        network.frozen()
        for h, w in ((1, 1), (5, 7), (16, 24)):
            _answers(network, torch.rand(2, 3, h, w))
        if isinstance(network, Staged):
            _hands_out_what_stays(network, torch.rand(1, 3, 16, 24))
        if network.radius is not None:
            _reaches_no_further(network, network.radius)
    _comes_back_from_its_file(network, torch.rand(1, 3, 9, 8))


def _every_parameter_learns(network: Network, lr: Tensor) -> None:
    sr = network.train()(lr)
    (sr * torch.rand_like(sr)).sum().backward()
    idle = [
        name
        for name, p in network.named_parameters()
        if p.grad is None or not p.grad.abs().sum() > 0
    ]
    _hold(not idle, f"{network.config.name} has parameters that no answer depends on: {idle[:3]}")


def _answers(network: Network, lr: Tensor) -> None:
    name, before, (n, _, h, w) = network.config.name, lr.clone(), lr.shape
    sr = network(lr)
    wanted = (n, 3, h * network.scale, w * network.scale)
    _hold(
        sr.shape == wanted, f"{name} answers {tuple(lr.shape)} with {tuple(sr.shape)}, not {wanted}"
    )
    again, features, _ = network.observe(lr, (0.5, 1.0))
    _hold(
        torch.equal(sr, again),
        f"{name} answers otherwise when its features are read, or when it is asked again",
    )
    _hold(torch.equal(lr, before), f"{name} changes lr in place")
    sides = [-(-side // network.size_multiple) * network.size_multiple for side in (h, w)]
    for feature in features:
        shape = (n, network.width, *sides)
        _hold(
            feature.shape == shape,
            f"{name} has features {tuple(feature.shape)}, but its width says {shape}",
        )


def _hands_out_what_stays(network: Staged, lr: Tensor) -> None:
    """A feature that was read is not written to afterwards."""
    padded = pad_to_multiple(lr, network.size_multiple)
    handed = [network.head(padded)]
    kept = [handed[0].clone()]
    for stage in network.stages:
        handed.append(stage(handed[-1]))
        kept.append(handed[-1].clone())
    network.tail(handed[-1], dict(enumerate(handed)), padded)
    written = [
        i for i, (x, y) in enumerate(zip(handed, kept, strict=True)) if not torch.equal(x, y)
    ]
    where = f"stages {written} (0 is the head)"
    _hold(not written, f"{network.config.name} writes into features it has handed out, of {where}")


def _reaches_no_further(network: Network, radius: int) -> None:
    """A pixel further away than the radius changes nothing: only so are tiles exact."""
    side = -(-(2 * radius + 5) // network.size_multiple) * network.size_multiple
    if side > _WIDEST:
        return
    lr = torch.rand(1, 3, side, side)
    other, middle = lr.clone(), side // 2
    other[..., middle, middle] = 1 - other[..., middle, middle]
    changed = (network(lr) != network(other)).any(1).nonzero()[:, 1:] // network.scale - middle
    reach = int(changed.abs().max()) if len(changed) else 0
    _hold(
        reach <= radius,
        f"{network.config.name} reaches {reach} pixels, but says its radius is {radius}",
    )


def _comes_back_from_its_file(network: Network, lr: Tensor) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.safetensors"
        weights.write(path, network)
        again = weights.read(path).frozen()
    _hold(
        again.config == network.config,
        f"{network.config} comes back from its file as {again.config}",
    )
    _hold(
        torch.equal(again(lr), network(lr)),
        f"{network.config.name} answers otherwise once read from its file",
    )


def _hold(promise: bool, sentence: str) -> None:  # noqa: FBT001  the condition is what the function is about
    if not promise:
        raise AssertionError(sentence)


def _moves(loss: Tensor, parameters: list[torch.nn.Parameter]) -> bool:
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return any(bool(g.abs().sum() > 0) for g in gradients if g is not None)  # pyright: ignore[reportUnnecessaryComparison]


def _same(x: Tensor | None, y: Tensor | None) -> bool:
    return x is not None and y is not None and torch.equal(x, y)


def _trained(extras: torch.nn.Module) -> tuple[list[str], list[torch.nn.Parameter]]:
    found = {name: p for name, p in extras.named_parameters() if p.requires_grad}
    return list(found), list(found.values())


def _forbid(network: Network, lr: Tensor, sentence: str) -> None:
    """Make a network refuse to be asked about ``lr`` again."""
    ask = network.observe

    def refuse(x: Tensor, depths: tuple[float, ...]) -> Output:
        _hold(x is not lr, sentence)
        return ask(x, depths)

    network.observe = refuse  # type: ignore[method-assign, assignment]


@contextmanager
def _other_global_randomness() -> Generator[None]:
    """Within, the global generators of torch, Python and numpy stand elsewhere than before."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  it is the global one that is meant
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        random.seed(99)
        np.random.seed(99)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
