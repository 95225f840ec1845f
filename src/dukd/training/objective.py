"""A method with its networks: the losses of a micro-batch, with the teacher live or replayed."""

import copy
from dataclasses import dataclass, replace

import torch
from torch import nn

from dukd.core.files import Progress, silent
from dukd.methods import Losses, Method
from dukd.networks.base import Network
from dukd.networks.compile import begin_step
from dukd.training import cache
from dukd.training.cache import Bank, BankedTeacher, BankError, Source
from dukd.training.experiment import Experiment
from dukd.training.share import MicroBatch, Share
from dukd.training.turned import Turned


@dataclass
class Objective:
    """What gives the losses of a micro-batch."""

    experiment: Experiment
    device: torch.device
    student: Network
    teacher: Network
    """Its weights in the arithmetic of training."""
    extras: nn.Module
    turned: Turned | None = None
    """The student as methods see it where batches come again."""
    bank: BankedTeacher | None = None
    """The teacher as methods see it where its outputs are kept."""

    def losses(self, phase: Method, part: MicroBatch) -> Losses:
        """Compute the losses of a micro-batch.

        Args:
            phase: The method, or one of its phases.
            part: Images, and what the method and the networks draw from.
        """
        part.draws.begin()
        if self.turned is not None:
            self.turned.draw_from(part.draws.turns)
        lowered = self.experiment.optimization.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=lowered):
            return phase.losses(
                student=self.student if self.turned is None else self.turned,
                teacher=self.bank or self.teacher,
                extras=self.extras,
                lr=part.lr,
                hr=part.hr,
                rng=part.draws.method,
            )

    def begin(self, step: int) -> None:
        """Begin the step after ``step`` finished ones."""
        if self.bank is not None:
            self.bank.at(step)

    def end(self) -> None:
        """End the step."""
        if self.bank is not None:
            self.bank.done()

    def verify(self) -> None:
        """Make sure that every replayed output was of the right image.

        Raises:
            dukd.training.cache.BankError: If one was not.
        """
        if self.bank is not None:
            self.bank.verify()

    def sync(self) -> None:
        """Make the outputs that are kept survive a power cut."""
        if self.bank is not None:
            self.bank.bank.sync()


def replaying(
    objective: Objective, share: Share, teacher_sha256: str
) -> tuple[Objective, list[str]]:
    """Replay the teacher's outputs, and transform what the student sees, where batches come again.

    Returns:
        The objective, and what the log should say of it.

    Raises:
        BankError: If the outputs cannot be kept.
    """
    experiment, notes = objective.experiment, list[str]()
    method, wanted = experiment.method, experiment.teacher_cache
    if not (experiment.data.period and wanted.enabled):
        return objective, notes
    turned = (
        Turned(objective.student, wanted.symmetries)
        if wanted.symmetries and not method.taps
        else None
    )
    if wanted.symmetries and method.taps:
        notes.append(
            f"{method.name} compares features, which do not turn with an image: the student sees "
            "batches that come again as they are"
        )
    objective = replace(objective, turned=turned)
    if not teacher_sha256:
        return objective, notes
    asked, late = _questions(objective, share)
    if not asked:
        return objective, notes
    source = _source(experiment, share, teacher_sha256)
    limit = wanted.limit_gb * 1e9 / share.world.size
    kept = Bank.open(wanted.folder, source, asked, limit=limit)
    notes.append(
        f"the teacher's outputs for {source.period} batches are kept in {kept.path} "
        f"({cache.size(source, asked) / 1e6:,.1f} MB) and replayed"
    )
    return replace(objective, bank=BankedTeacher(objective.teacher, kept, late=late)), notes


def _questions(objective: Objective, share: Share) -> tuple[tuple[cache.Question, ...], bool]:
    """What the method asks its teacher, and whether it starts late."""
    method = objective.experiment.method
    if method.runs_teacher:
        raise BankError(
            f"{method.name} runs parts of the teacher on what the student made, which cannot be "
            f"kept: {cache.REMEDY}"
        )

    def asked(extras: nn.Module) -> tuple[cache.Question, ...]:
        return cache.questions(
            objective.teacher,
            lambda listener: _rehearse(
                replace(objective, teacher=listener, bank=None, extras=extras), share, 0
            ),
        )

    at_first, later = asked(copy.deepcopy(objective.extras)), asked(_last_extras(objective))
    if at_first not in ((), later):
        raise BankError(f"what {method.name} asks its teacher changes with time: {cache.REMEDY}")
    return later, not at_first


def _last_extras(objective: Objective) -> nn.Module:
    """The extras before the last step: a method may start late."""
    extras, experiment = copy.deepcopy(objective.extras), objective.experiment
    last = experiment.optimization.steps - 1
    experiment.method.after_step(student=objective.student, extras=extras, step=last)
    return extras


def _rehearse(objective: Objective, share: Share, k: int) -> None:
    """Compute the losses of a batch, and change nothing."""
    experiment = objective.experiment
    if experiment.optimization.cuda_graphs:
        begin_step()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        parts = share.at(k)
        for phase in experiment.method.parts:
            for part in parts:
                objective.losses(phase, part)


def fill(objective: Objective, share: Share, progress: Progress = silent) -> int:
    """Compute every output of the teacher that is not kept yet.

    Returns:
        The number of batches that were computed.

    Raises:
        ValueError: If nothing is kept.
    """
    if objective.bank is None:
        raise ValueError(
            "this experiment keeps no outputs: it needs a teacher, a data.period above 0, and "
            "teacher_cache.enabled"
        )
    missing = objective.bank.bank.missing()
    late = replace(objective, extras=_last_extras(objective))
    for done, k in enumerate(missing):
        progress(done, len(missing), "running the teacher")
        objective.begin(k)
        _rehearse(late, share, k)
        objective.end()
    objective.sync()
    return len(missing)


def _source(experiment: Experiment, share: Share, teacher_sha256: str) -> Source:
    data, optimization, teacher = experiment.data, experiment.optimization, experiment.teacher
    how = ""
    if teacher is not None:
        how = f" {teacher.value_range} {teacher.mean} {teacher.residual_scale}"
    return Source(
        teacher=teacher_sha256 + how,
        data=share.patches.digest,
        scale=experiment.student.scale,
        patch=data.patch,
        batch=data.batch,
        period=data.period,
        seed=optimization.seed,
        flips=data.flips,
        rotations=data.rotations,
        by_area=data.by_area,
        precision=optimization.precision,
        accumulate=optimization.accumulate,
        rank=share.world.rank,
        world=share.world.size,
        bits=experiment.teacher_cache.bits,
    )
