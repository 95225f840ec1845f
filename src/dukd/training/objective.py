"""What gives our loop its losses: the distiller, and how batches that come again are observed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dukd.core.files import Progress, silent
from dukd.methods import Losses
from dukd.methods.base import Batch, View, checked_views
from dukd.networks.compile import begin_step
from dukd.networks.recorded import release
from dukd.training.cache import TeacherOutputCache
from dukd.training.distiller import Distiller
from dukd.training.experiment import Experiment
from dukd.training.observe import Replay, taught
from dukd.training.records import CacheError, Source
from dukd.training.share import MicroBatch, Share


@dataclass
class Objective:
    """What gives the losses of a micro-batch."""

    experiment: Experiment
    distiller: Distiller
    share: Share
    cache: TeacherOutputCache | None = None
    """Where the teacher's outputs are kept, if batches come again."""

    def losses(self, part: MicroBatch, *, phase: int = 0) -> Losses:
        """Compute the losses of a micro-batch.

        Args:
            part: Images, and what the method and the networks draw from.
            phase: Which of the method's phases.
        """
        part.draws.begin()
        release()  # the backward pass of the part before is done
        with self.autocast():
            return self.distiller.losses(_batch(part), self.replay(part), phase=phase)

    def replay(self, part: MicroBatch) -> Replay | None:
        """How a micro-batch is observed, where batches come again."""
        period, wanted = self.experiment.data.period, self.experiment.teacher_cache
        if not (period and wanted.enabled):
            return None
        parts, world = self.share.parts, self.share.world
        total, first = parts * world.size, parts * world.rank
        within = part.number + 1 < first + parts
        k, number = (part.step, part.number + 1) if within else (part.step + 1, first)
        return Replay(
            place=part.step % period * total + part.number,
            following=k % period * total + number,
            first=lambda: _batch(self.share.first()),
            cache=self.cache,
            rng=part.draws.symmetries,
            operations=wanted.symmetries,
        )

    def fill(self, progress: Progress = silent) -> int:
        """Run the teacher on everything of this rank that is not kept yet; no student is run.

        Returns:
            The number of micro-batches that it ran on.

        Raises:
            ValueError: If nothing is kept, or there is no room.
        """
        cache, experiment = self.cache, self.experiment
        if cache is None:
            if self.share.stored is not None:
                raise ValueError("the teacher's outputs are images: nothing is computed")
            raise ValueError(
                "this experiment keeps no teacher outputs: it needs a teacher, a data.period above "
                "0, and the cache on"
            )
        before, period = cache.computed, experiment.data.period
        for k in range(period):
            progress(k, period, "running the teacher")
            for step in _ends(experiment):
                self._fill(cache, k, step)
            if cache.trouble:
                raise CacheError(cache.trouble)
        cache.sync()
        return cache.computed - before

    def _fill(self, cache: TeacherOutputCache, k: int, step: int) -> None:
        """Run the teacher on batch ``k`` as it is seen at a step."""
        if (optimization := self.experiment.optimization).cuda_graphs:
            begin_step(compiles=optimization.compile)
        teacher, phases = self.distiller.teacher, self.experiment.method.phases
        for part in self.share.at(k):
            batches = [_batch(part._replace(step=step)) for _ in phases]
            for method, batch in zip(phases, batches, strict=True):
                with self.autocast():
                    views = checked_views(method, batch)
                    taught(method, views, teacher, batch, self.replay(part))
        cache.verify()

    def autocast(self, *, cached: bool = True) -> torch.autocast:
        """The arithmetic of training; lowered weights are kept within it if ``cached``."""
        lowered = self.experiment.optimization.precision == "bfloat16"
        kind = self.share.world.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=lowered, cache_enabled=cached)

    def verify(self) -> None:
        """Make sure that every replayed output was of the right image; called before saving.

        Raises:
            dukd.training.records.CacheError: If one was not.
        """
        if self.cache is not None:
            self.cache.verify()

    def sync(self) -> None:
        """Make the outputs that are kept survive a power cut."""
        if self.cache is not None:
            self.cache.sync()

    def close(self) -> None:
        """Close the files of outputs that are kept, and end their thread."""
        if self.cache is not None:
            self.cache.close()

    def notes(self) -> list[str]:
        """What the log should say since the last call."""
        return [] if self.cache is None else self.cache.notes()


def replaying(objective: Objective, identity: str) -> list[str]:
    """Put a cache before the teacher of an objective, where batches come again.

    Args:
        objective: What gives the losses.
        identity: What the teacher's outputs follow from: its digest, and what was said of it.

    Returns:
        What the log should say of it.

    Raises:
        dukd.training.records.CacheError: If the outputs cannot be kept.
    """
    experiment, share, teacher = objective.experiment, objective.share, objective.distiller.teacher
    wanted, method = experiment.teacher_cache, experiment.method
    if not (experiment.data.period and wanted.enabled):
        return []
    notes: list[str] = []
    looks = _looks(objective)
    if wanted.symmetries and any(v.depths or v.student_depths for views in looks for v in views):
        notes.append(
            f"{method.label} compares features, which do not flip with an image: the student sees "
            "batches that come again as they are"
        )
    if teacher is None or share.stored is not None:
        return notes
    source, limit = _source(experiment, share, identity), wanted.limit_gb * 1e9
    objective.cache = TeacherOutputCache(wanted.folder, source, teacher, limit=limit)
    for views in looks:
        if shown := [view for view in views if view.taught]:
            objective.cache.open(shown)
    return notes + objective.cache.notes()


def _looks(objective: Objective) -> list[Sequence[View]]:
    """What the phases of a method show of micro-batch 0, at the first step and at the last."""
    experiment, first = objective.experiment, objective.share.first()
    batches = [_batch(first._replace(step=step)) for step in _ends(experiment)]
    return [checked_views(phase, batch) for batch in batches for phase in experiment.method.phases]


def _ends(experiment: Experiment) -> tuple[int, int]:
    """The first step and the last; methods may start late."""
    return 0, experiment.optimization.steps - 1


def _batch(part: MicroBatch) -> Batch:
    """A micro-batch as methods take it, every time with the same draws."""
    rng = part.draws.method.clone_state()
    return Batch(part.lr, part.hr, rng, part.step, part.sr, recurs=part.recurs)


def _source(experiment: Experiment, share: Share, teacher: str) -> Source:
    data, optimization = experiment.data, experiment.optimization
    return Source(
        teacher=teacher,
        data=share.patches.digest,
        scale=experiment.student.scale,
        patch=data.patch,
        batch=data.batch,
        period=data.period,
        parts=share.parts * share.world.size,
        seed=optimization.seed,
        flips=data.flips,
        rotations=data.rotations,
        by_area=data.by_area,
        precision=optimization.precision,
        bits=experiment.teacher_cache.bits,
    )
