"""From an experiment to everything that trains, or a refusal before anything is written."""

import hashlib
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch

from dukd.core.device import machine_memory, numbered
from dukd.core.distributed import World
from dukd.core.files import Progress, silent
from dukd.core.text import amount
from dukd.data.pack import Pack
from dukd.data.packing import prepare
from dukd.data.pairs import MADE, PairsError, find_pairs
from dukd.data.patches import Patches
from dukd.data.resident import Resident
from dukd.data.source import Batches, Recurring
from dukd.evaluation.sets import set_name
from dukd.methods.base import learns, needs_teacher
from dukd.networks.base import Network, set_memory_format
from dukd.networks.compile import compiled, lowered
from dukd.networks.recorded import recorded
from dukd.networks.reduced import HOW, check_reducible
from dukd.training import quantizing
from dukd.training.distiller import Distiller
from dukd.training.experiment import Data, Experiment, Optimization
from dukd.training.nonfinite import NonFiniteGuard
from dukd.training.objective import Objective, replaying
from dukd.training.recording import Recording, recording
from dukd.training.schedule import notes_on_average
from dukd.training.share import Share, memory_format
from dukd.training.state import State
from dukd.training.stored import Stored, check_served
from dukd.training.teachers import Opened, Outputs, at_scale
from dukd.training.trackers import check_installed
from dukd.training.trial import try_teacher
from dukd.training.validation import Validation

_KEPT = 2 << 30
"""Most bytes of batches that are kept on a device because they come again, and an eighth of what is
free at most."""


@dataclass
class Training:
    """Everything that training changes and needs."""

    experiment: Experiment
    world: World
    """Who trains along, and on which device."""
    state: State
    """What a step changes."""
    objective: Objective
    """What gives the losses."""
    share: Share
    """This rank's part of each batch."""
    teacher: Network | None
    """In its own arithmetic, to compare with; None where nothing is learned from one, or it cannot
    be run."""
    teacher_sha256: str
    """Digest of what its outputs follow from; empty without one."""
    teacher_scale: int | None
    """Its own scale; its outputs are reduced to the student's where that is smaller."""
    validation: Validation
    guard: NonFiniteGuard
    recording: Recording | None = None
    """What makes whole steps from CUDA graphs, where it can."""
    notes: list[str] = field(default_factory=list[str])
    """What the log should begin with."""
    facts: dict[str, object] = field(default_factory=dict[str, object])
    """What ``run.json`` says of the run."""
    meter: dict[str, object] = field(default_factory=dict[str, object])
    """What the log's meter had measured when the state was saved."""
    validated: bool = False
    """Whether the state that was restored has been judged."""

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return self.world.device


def assemble(
    experiment: Experiment, world: World | None = None, progress: Progress = silent
) -> Training:
    """Build everything, and refuse what cannot work, before anything is written.

    Args:
        experiment: What to do.
        world: Who trains along; the first rank prepares data and validates for all.
        progress: Told how far the preparation of data has come.

    Raises:
        ValueError: If the teacher, the images or the method do not fit the student, or the ranks
            the batch.
    """
    world = world or World()
    world = replace(world, device=numbered(world.device))
    data, optimization = experiment.data, experiment.optimization
    _check_work(experiment, world)
    judged = experiment.evaluation if world.leads else replace(experiment.evaluation, sets=())
    validation = Validation.open(
        judged, experiment.student.scale, world.device, progress, data.degradation
    )
    networks = _networks(experiment)
    with world.leader_first():
        patches = _patches(experiment, progress, prepared=not world.leads)
        networks, stored = _with_stored(experiment, networks, patches, progress, world)
    notes = [*networks.notes, *experiment.method.notes(), *notes_on_average(optimization)]
    channels_last = _place(networks, optimization, world.device)
    notes += quantizing.calibrated(networks.student, experiment, patches)
    student, teacher, distiller = networks.student, networks.teacher, networks.distiller
    notes += [*patches.pack.assumed, *validation.notes()]
    notes += _prepare_judging(experiment, validation, teacher)
    state = State.begin(student, distiller.state, optimization)
    quantizing.start_average(state.averaged, optimization.warm_start)
    source = _source(patches, data, world.device, notes)
    share = Share(experiment, world, patches, source, channels_last, stored)
    objective = Objective(experiment, distiller, share)
    notes.extend(replaying(objective, networks.teacher_sha256 + networks.said))
    _compile(networks, optimization)
    training = Training(
        experiment=experiment,
        world=world,
        state=state,
        objective=objective,
        share=share,
        teacher=teacher,
        teacher_sha256=networks.teacher_sha256,
        teacher_scale=networks.scale,
        validation=validation,
        guard=NonFiniteGuard(state.optimizer, world.device),
        notes=notes,
    )
    training.recording = recording(training)
    return training


def _check_work(experiment: Experiment, world: World) -> None:
    """Refuse what ranks cannot share or the memory not hold, and a method without weights."""
    data, optimization = experiment.data, experiment.optimization
    world.parts(data.batch, optimization.accumulate, deterministic=optimization.deterministic)
    check_installed(experiment.evaluation.trackers)
    scale = experiment.student.scale
    if not learns(experiment.method, scale):
        raise ValueError(
            f"{experiment.method.label} compares nothing, since all its weights are 0: give one"
        )
    needed, there = 3 * data.batch * (data.patch * scale) ** 2, machine_memory()
    if needed > there:
        raise ValueError(
            f"a batch of {data.batch} patches of {data.patch} takes {amount(needed)}, more memory "
            f"than there is ({amount(there)}): --data.batch 16 is usual"
        )


def _prepare_judging(
    experiment: Experiment, validation: Validation, teacher: Network | None
) -> list[str]:
    """Try the teacher, take outputs that were made before, and see that what chooses is there."""
    described, judged = experiment.teacher, experiment.evaluation
    if not validation.sets:
        return []
    where = described.validation if isinstance(described, Outputs) else None
    if where is not None:
        validation.take_outputs(where)
    if validation.best.reference == "teacher" and not (teacher or where):
        raise ValueError(
            f"evaluation.best is {validation.best.name}, but there is no teacher whose outputs for "
            "the images that judge are known: leave it at psnr_y, or, of a folder of outputs, name "
            "those too (--teacher.validation)"
        )
    if teacher is None or not judged.teacher_images:
        return []
    return [try_teacher(teacher, validation, judged.teacher_images, judged.teacher_measure)]


class _Networks(NamedTuple):
    """What an experiment names, built on the CPU."""

    student: Network
    teacher: Network | None
    """None also where it cannot be run."""
    teacher_sha256: str
    said: str
    """What is said of the teacher beyond its digest."""
    scale: int | None
    """The teacher's own."""
    lowered: Network | None
    """The teacher with its weights in the arithmetic of training."""
    distiller: Distiller
    notes: list[str]


def _networks(experiment: Experiment) -> _Networks:
    notes: list[str] = []
    optimization = experiment.optimization
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(optimization.seed)
        student = experiment.student.build()
        if optimization.warm_start is not None:
            notes.append(quantizing.warm_start(student, optimization.warm_start))
        opened = _teacher(experiment, notes)
        teacher = None if opened is None else opened.network
        scale = None if teacher is None else teacher.scale
        if teacher is not None and experiment.teacher is not None:
            teacher = at_scale(teacher, student.scale, experiment.teacher.place)
        shown = teacher
        if teacher is not None and optimization.precision == "bfloat16":
            shown = lowered(teacher)
        distiller = Distiller(experiment.method, student, shown, seed=optimization.seed)
    digest, said = ("", "") if opened is None else (opened.sha256, opened.said)
    if isinstance(teacher, Stored):
        teacher = shown = None
    return _Networks(student, teacher, digest, said, scale, shown, distiller, notes)


def _compile(networks: _Networks, optimization: Optimization) -> None:
    for network in (networks.student, networks.lowered):
        if network is not None and optimization.compile:
            compiled(network, graphs=optimization.cuda_graphs)
        elif network is not None and optimization.cuda_graphs:
            recorded(network)


def _place(networks: _Networks, optimization: Optimization, device: torch.device) -> bool:
    """Lay the networks out and move them; the memory format of images comes back."""
    decided = memory_format(optimization, device, networks.student)
    channels_last = networks.student.channels_last if decided is None else decided
    set_memory_format(networks.distiller.state, channels_last=channels_last)
    for module in (networks.student, networks.teacher, networks.lowered, networks.distiller.state):
        if module is not None:
            set_memory_format(module, channels_last=decided)
            module.to(device)
    return channels_last


def _teacher(experiment: Experiment, notes: list[str]) -> Opened | None:
    described, scale = experiment.teacher, experiment.student.scale
    if described is None or not needs_teacher(experiment.method, scale):
        return None
    opened = described.open(scale, notes.append)
    network = opened.network
    if isinstance(network, Stored):
        check_served(experiment.method)
        return opened
    about = at_scale(network, scale, described.place).config
    notes.append(
        f"the teacher is {about if network.scale == scale else about.describe()}, "
        f"{network.parameter_count():,} parameters, from {described.place}"
    )
    return opened


def _with_stored(
    experiment: Experiment,
    networks: _Networks,
    patches: Patches,
    progress: Progress,
    world: World,
) -> tuple[_Networks, Patches | None]:
    """The networks, and the teacher's outputs for the training images if they were made before."""
    teacher = experiment.teacher
    if teacher is None or networks.scale is None:
        return networks, None
    stored = teacher.made(patches, experiment.data.packs, progress, prepared=not world.leads)
    if stored is None:
        return networks, None
    scale, wanted = stored.pack.scale, experiment.student.scale
    check_reducible(teacher.place, scale, wanted)
    reduced = "" if scale == wanted else f", reduced from x{scale} to x{wanted} by {HOW}"
    note = (
        f"the teacher's outputs for {len(stored.pack)} training images are those in "
        f"{teacher.place}{reduced}; it sees nothing else"
    )
    known = networks._replace(
        teacher_sha256=stored.digest, scale=scale, notes=[*networks.notes, note]
    )
    return known, stored


def _source(patches: Patches, data: Data, device: torch.device, notes: list[str]) -> Batches:
    """Where batches are cut; a note says so where that is the device."""
    source = patches.near(device, data.resident)
    if not isinstance(source, Resident):
        return source
    notes.append(f"the training images, {patches.pack.pixels.size / 1e9:.2f} GB, lie on {device}")
    if not data.period:
        return source
    limit = torch.cuda.mem_get_info(device)[0] // 8 if device.type == "cuda" else _KEPT
    return Recurring(source, data.period, min(limit, _KEPT))


def _patches(experiment: Experiment, progress: Progress, *, prepared: bool) -> Patches:
    data = experiment.data
    return Patches(
        open_pack(data, experiment.student.scale, progress, prepared=prepared),
        patch=data.patch,
        batch=data.batch,
        seed=experiment.optimization.seed,
        flips=data.flips,
        rotations=data.rotations,
        period=data.period,
        by_area=data.by_area,
        degradation=data.degradation,
    )


def open_pack(
    data: Data, scale: int, progress: Progress = silent, *, prepared: bool = False
) -> Pack:
    """Open the pack of an experiment, or make one from its folder of images.

    Args:
        data: The images.
        scale: Upscaling factor.
        progress: Told how far the preparation has come.
        prepared: Whether it has just been made, by another rank.

    Raises:
        ValueError: If the pack is of another scale, or the folder's images do not pair.
    """
    if data.train.is_file():
        pack = Pack.open(data.train)
        if pack.scale != scale:
            raise ValueError(
                f"{data.train} is a pack for x{pack.scale}, but the student is x{scale}: prepare "
                "another"
            )
        if scale == 1 and data.degradation.fixed and MADE in pack.lr_source:
            raise ValueError(
                f"{data.train} holds no low-resolution images of their own, so that at scale 1 "
                "there is nothing to learn: train with --data.degradation jpeg-40"
            )
        return pack
    where = data.train.resolve()
    mark = hashlib.sha256(f"{where} {data.lr}".encode()).hexdigest()[:8]
    path = data.packs / f"{where.name}-x{scale}-{mark}.pack"
    if prepared:
        return Pack.open(path)
    try:
        pairs = find_pairs(data.train, scale=scale, lr=data.lr, skip_bad=data.skip_bad)
        pairs.restored_from(data.degradation)  # which is drawn for every patch, not packed
    except PairsError as error:
        raise error.with_hint("name the training images with --data.train") from None
    label = f"packing {set_name(data.train)}"
    return prepare(
        pairs,
        path,
        progress=lambda done, total, what: progress(done, total, f"{label}: {what}"),
        skip_bad=data.skip_bad,
    )
