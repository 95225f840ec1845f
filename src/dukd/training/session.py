"""Everything that training changes and needs: built from an experiment, saved, and brought back."""

import copy
import hashlib
import math
import platform
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.optim import Adam

from dukd._version import __version__
from dukd.core.device import numbered
from dukd.core.distributed import World
from dukd.core.files import Progress, sha256, silent
from dukd.data.pack import Pack, prepare
from dukd.data.pairs import PairsError, find_pairs
from dukd.data.patches import Patches, Resident
from dukd.methods import Losses, Method
from dukd.networks.base import NoTeacher, SRNetwork, arrange
from dukd.networks.compile import begin_step, compiled, lowered
from dukd.networks.files import weights
from dukd.runs.checkpoint import CheckpointError
from dukd.runs.directory import Run
from dukd.training import cache
from dukd.training.cache import Bank, BankedTeacher, BankError, Source
from dukd.training.experiment import Data, Experiment, Optimization
from dukd.training.nonfinite import Watch
from dukd.training.schedule import Draws, draws
from dukd.training.turned import Turned
from dukd.training.validation import Validation, set_name, try_teacher


@dataclass
class Session:
    """Everything that training changes and needs."""

    experiment: Experiment
    device: torch.device
    student: SRNetwork
    averaged: SRNetwork
    """The exponential moving average of the student: what is validated and saved."""
    teacher: SRNetwork
    asked: SRNetwork
    """The teacher as methods ask it, its weights in the arithmetic of training."""
    teacher_sha256: str
    """Digest of the teacher's file; empty without one."""
    extras: nn.Module
    optimizer: Adam
    watch: Watch
    """Looks for losses that are not finite."""
    patches: Patches
    source: Patches | Resident
    """Where batches are cut: on the device if it holds all images."""
    validation: Validation
    world: World = field(default_factory=World)
    """Who trains along."""
    turned: Turned | None = None
    """The student as methods see it where batches come again."""
    bank: BankedTeacher | None = None
    """The teacher as methods ask it where its answers are kept."""
    notes: list[str] = field(default_factory=list[str])
    """What the log should begin with."""
    step: int = 0
    """Optimizer steps done."""
    best: float = -math.inf
    """Best PSNR of the luma on the first validation set so far, in dB."""
    seconds: float = 0.0
    """Seconds of training before the session was resumed."""

    @classmethod
    def prepare(
        cls,
        experiment: Experiment,
        device: torch.device,
        progress: Progress = silent,
        world: World | None = None,
    ) -> Self:
        """Build everything, and refuse what cannot work, before anything is written.

        Args:
            experiment: What to do.
            device: Where to train.
            progress: Told how far the preparation of data has come.
            world: Who trains along; the first rank prepares data and validates for all.

        Raises:
            ValueError: If the teacher, the images or the method do not fit the student, or the
                ranks the batch.
        """
        device = numbered(device)
        world = world or World(device=device)
        notes: list[str] = []
        optimization = experiment.optimization
        world.parts(
            experiment.data.batch, optimization.accumulate, deterministic=optimization.deterministic
        )
        judged = experiment.evaluation if world.leads else replace(experiment.evaluation, sets=())
        validation = Validation.open(judged, experiment.student.scale, device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(optimization.seed)
            student = experiment.student.build()
            if optimization.warm_start is not None:
                notes.append(weights.warm_start(student, optimization.warm_start))
            teacher, digest = _teacher(experiment, notes)
            extras = experiment.method.extras(student, teacher)
        notes.extend(experiment.method.notes())
        with world.leader_first():
            patches = _patches(
                experiment.data,
                optimization.seed,
                student.scale,
                progress,
                prepared=not world.leads,
            )
        together = layout_of(optimization, device)
        arrange(extras, together=student.channels_last if together is None else together)
        for module in (student, teacher, extras):
            arrange(module, together=together)
            module.to(device)
        if digest and experiment.evaluation.teacher_images and validation.sets:
            notes.append(try_teacher(teacher, validation, experiment.evaluation.teacher_images))
        optimizer = _optimizer(optimization, student, extras)
        session = cls(
            experiment=experiment,
            device=device,
            student=student.train(),
            averaged=copy.deepcopy(student).frozen(),
            teacher=teacher,
            asked=lowered(teacher) if digest and optimization.precision == "bfloat16" else teacher,
            teacher_sha256=digest,
            extras=extras.train(),
            optimizer=optimizer,
            watch=Watch(optimizer, device),
            patches=patches,
            source=patches.near(device, experiment.data.resident),
            validation=validation,
            world=world,
            notes=notes,
        )
        if isinstance(session.source, Resident):
            notes.append(
                f"the training images, {patches.pack.pixels.size / 1e9:.2f} GB, lie on {device}"
            )
        if experiment.data.period and experiment.reuse.on:
            session._reuse()
        if optimization.compile:
            for network in (student, session.asked) if digest else (student,):
                compiled(network, graphs=optimization.cuda_graphs)
        return session

    def _reuse(self) -> None:
        """Turn what the student sees, and put a bank before the teacher."""
        reuse, source = self.experiment.reuse, self._source()
        if reuse.turns and not self.experiment.method.taps:
            self.turned = Turned(self.student, reuse.turns)
        elif reuse.turns:
            self.notes.append(
                f"{self.experiment.method.name} compares features, which do not turn with an "
                "image: the student sees batches that come again as they are"
            )
        if not self.teacher_sha256:
            return
        if self.experiment.method.runs_teacher:
            raise BankError(
                f"{self.experiment.method.name} runs parts of the teacher on what the student "
                f"made, which cannot be kept: {cache.REMEDY}"
            )
        at_first = cache.questions(
            self.teacher, lambda listener: self._rehearse(listener, copy.deepcopy(self.extras))
        )
        extras = self._extras_at_the_end()
        asked = cache.questions(self.teacher, lambda listener: self._rehearse(listener, extras))
        if at_first not in ((), asked):
            raise BankError(
                f"what {self.experiment.method.name} asks its teacher changes with time: "
                f"{cache.REMEDY}"
            )
        if not asked:
            return
        limit = reuse.limit_gb * 1e9 / self.world.size
        kept = Bank.open(reuse.folder, source, asked, limit=limit)
        self.bank = BankedTeacher(self.asked, kept, late=not at_first)
        self.notes.append(
            f"the teacher's answers to {source.period} batches are kept in {self.bank.bank.path} "
            f"({cache.size(source, asked) / 1e6:,.1f} MB) and replayed"
        )

    def _extras_at_the_end(self) -> nn.Module:
        """What trains beside the student as it counts its steps before the last one; methods may start late."""
        extras = copy.deepcopy(self.extras)
        last = self.experiment.optimization.steps - 1
        self.experiment.method.after_step(student=self.student, extras=extras, step=last)
        return extras

    def _source(self) -> Source:
        data, optimization, teacher = (
            self.experiment.data,
            self.experiment.optimization,
            self.experiment.teacher,
        )
        how = (
            ""
            if teacher is None
            else f" {teacher.value_range} {teacher.mean} {teacher.residual_scale}"
        )
        return Source(
            teacher=self.teacher_sha256 + how,
            data=self.patches.pack.digest,
            scale=self.student.scale,
            patch=data.patch,
            batch=data.batch,
            period=data.period,
            seed=optimization.seed,
            flips=data.flips,
            rotations=data.rotations,
            by_area=data.by_area,
            precision=optimization.precision,
            accumulate=optimization.accumulate,
            rank=self.world.rank,
            world=self.world.size,
            bits=self.experiment.reuse.bits,
        )

    def _rehearse(self, teacher: SRNetwork, extras: nn.Module, k: int = 0) -> None:
        """Compute the losses of a batch with another teacher and other extras, and change nothing."""
        if self.experiment.optimization.cuda_graphs:
            begin_step()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            share = self.patches.batch(k, self.world.rank, self.world.size)
            images = self.images(*(x.to(self.device) for x in share))
            drawn = self.draws(k)
            for part in self.experiment.method.parts:
                for _ in self.losses(part, *images, drawn, teacher=teacher, extras=extras):
                    pass

    def fill(self, progress: Progress = silent) -> int:
        """Ask the teacher everything that its bank does not know yet.

        Returns:
            The number of batches that were asked about.

        Raises:
            ValueError: If there is no bank.
        """
        if self.bank is None:
            raise ValueError(
                "this experiment keeps no answers: it needs a teacher, a data.period above 0, "
                "and reuse.on"
            )
        missing = self.bank.bank.missing()
        extras = self._extras_at_the_end()
        for done, k in enumerate(missing):
            progress(done, len(missing), "asking the teacher")
            self.bank.at(k)
            self._rehearse(self.bank, extras, k)
            self.bank.done()
        self.bank.bank.sync()
        return len(missing)

    def images(self, lr: Tensor, hr: Tensor) -> tuple[Tensor, Tensor]:
        """Turn uint8 patches into what networks take: float32 in [0, 1]."""
        together = layout_of(self.experiment.optimization, self.device)
        together = self.student.channels_last if together is None else together
        layout = torch.channels_last if together else torch.contiguous_format
        lr, hr = (x.to(torch.float32, memory_format=layout).div_(255) for x in (lr, hr))
        return lr, hr

    @property
    def parts(self) -> int:
        """Number of micro-batches that this rank computes of each batch."""
        optimization = self.experiment.optimization
        return self.world.parts(
            self.experiment.data.batch,
            optimization.accumulate,
            deterministic=optimization.deterministic,
        )

    def draws(self, step: int) -> list[Draws]:
        """What this rank's micro-batches draw from at a step; what methods draw comes again with the batch."""
        first, total = self.parts * self.world.rank, self.parts * self.world.size
        numbers = range(first, first + self.parts)
        return draws(
            self.experiment.optimization.seed, step, self.experiment.data.period, numbers, total
        )

    def losses(
        self,
        part: Method,
        lr: Tensor,
        hr: Tensor,
        drawn: Sequence[Draws],
        *,
        teacher: SRNetwork | None = None,
        extras: nn.Module | None = None,
    ) -> Generator[Losses, None, None]:
        """Compute the losses of a batch, one micro-batch after the other.

        Args:
            part: The method, or one of its parts.
            lr: ``(n, 3, h, w)``, RGB in [0, 1].
            hr: ``(n, 3, h * scale, w * scale)``.
            drawn: What each micro-batch draws from.
            teacher: Another teacher than the session's.
            extras: Others than the session's.
        """
        optimization = self.experiment.optimization
        for some_lr, some_hr, one in zip(
            lr.chunk(self.parts), hr.chunk(self.parts), drawn, strict=True
        ):
            one.begin()
            if self.turned is not None:
                self.turned.draw_from(one.turns)
            with torch.autocast(
                self.device.type, torch.bfloat16, enabled=optimization.precision == "bfloat16"
            ):
                losses = part.losses(
                    student=self.student if self.turned is None else self.turned,
                    teacher=teacher or self.bank or self.asked,
                    extras=extras or self.extras,
                    lr=some_lr,
                    hr=some_hr,
                    rng=one.method,
                )
            yield losses

    def trained(self) -> list[nn.Parameter]:
        """The parameters that the optimizer changes, in a fixed order."""
        return _trained(self.student, self.extras)

    def scored(self) -> SRNetwork | None:
        """The teacher, where there is one to compare with."""
        return self.teacher if self.teacher_sha256 else None

    def save(self, run: Run, *, seconds: float, best: bool = False) -> None:
        """Write the checkpoint and the averaged student.

        Raises:
            OSError: If it cannot be written; what was there is untouched.
        """
        pack = self.patches.pack
        if self.bank is not None:
            self.bank.bank.sync()
        run.save_state(self.step, self._state(seconds), best=best)
        origin = {"step": str(self.step), "method": self.experiment.method.name}
        origin |= {"teacher_sha256": self.teacher_sha256, "data_digest": pack.digest}
        weights.write(run.student, self.averaged, metadata=origin)
        if best:
            weights.write(run.best_student, self.averaged, metadata=origin)

    def _state(self, seconds: float) -> dict[str, object]:
        return {
            "student": _copied(self.student.state_dict()),
            "averaged": _copied(self.averaged.state_dict()),
            "extras": _copied(self.extras.state_dict()),
            "optimizer": [_copied(self.optimizer.state[p]) for p in self.trained()],
            "best": self.best,
            "seconds": seconds,
            "data_digest": self.patches.pack.digest,
            "teacher_sha256": self.teacher_sha256,
        }

    def restore(self, run: Run) -> list[str]:
        """Go back to the newest sound checkpoint, or to the start where nothing was saved yet.

        Returns:
            Sentences about checkpoints that could not be used.

        Raises:
            CheckpointError: If no checkpoint is sound, or the teacher or the images are not those
                of the run.
        """
        if not run.steps():
            if self.world.leads:
                run.truncate_log(0)
            return []
        loaded = run.load_state()
        state = cast("dict[str, Any]", loaded.state)
        for name, what, ours in (
            ("data_digest", "the training images", self.patches.pack.digest),
            ("teacher_sha256", "the teacher's file", self.teacher_sha256),
        ):
            if state[name] != ours:
                raise CheckpointError(
                    f"{run.directory}: {what} changed since step {loaded.step} ({name} was "
                    f"{state[name][:12]}, is {ours[:12]}): bring the old ones back, or start "
                    "another run with warm_start"
                )
        self.student.load_state_dict(state["student"])
        self.averaged.load_state_dict(state["averaged"])
        self.extras.load_state_dict(state["extras"])
        for p, values in zip(self.trained(), state["optimizer"], strict=True):
            self.optimizer.state[p] = {name: value.to(p.device) for name, value in values.items()}
        self.step, self.best, self.seconds = (
            loaded.step,
            float(state["best"]),
            float(state["seconds"]),
        )
        if self.world.leads:
            run.truncate_log(loaded.step)
        return loaded.reports

    def facts(self) -> dict[str, object]:
        """What a reader of the results wants to know of how they came to be."""
        pack, teacher = self.patches.pack, self.scored()
        return {
            "dukd": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "device": torch.cuda.get_device_name(self.device)
            if self.device.type == "cuda"
            else platform.machine(),
            "threads": torch.get_num_threads(),
            "ranks": self.world.size,
            "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "seed": self.experiment.optimization.seed,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "method": self.experiment.method.name,
            "scale": self.student.scale,
            "steps": self.experiment.optimization.steps,
            "data_digest": pack.digest,
            "data_images": len(pack),
            "lr_source": pack.lr_source,
            "teacher_sha256": self.teacher_sha256,
            "student_parameters": self.student.parameter_count(),
            "teacher_parameters": None if teacher is None else teacher.parameter_count(),
        }


def _trained(*modules: nn.Module) -> list[nn.Parameter]:
    return [p for p in chain.from_iterable(m.parameters() for m in modules) if p.requires_grad]


def _optimizer(optimization: Optimization, *modules: nn.Module) -> Adam:
    return Adam(
        _trained(*modules),
        lr=optimization.learning_rate,
        betas=optimization.betas,
        weight_decay=optimization.weight_decay,
        fused=True,
    )


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.detach().cpu().clone() if isinstance(value, Tensor) else value
        for name, value in state.items()
    }


def layout_of(optimization: Optimization, device: torch.device) -> bool | None:
    """Whether channels lie together in memory; None if each network decides.

    In float32 on a processor they lie apart where nobody has decided: together would be 6 to 10 %
    faster, but the heap falls into pieces, and the paper's step takes a quarter more memory
    (docs/results/memory.md).
    """
    if (
        optimization.channels_last is None
        and device.type == "cpu"
        and optimization.precision == "float32"
    ):
        return False
    return optimization.channels_last


def _teacher(experiment: Experiment, notes: list[str]) -> tuple[SRNetwork, str]:
    described = experiment.teacher
    if described is None or not experiment.method.needs_teacher:
        return NoTeacher(experiment.student), ""
    teacher = weights.read(
        described.weights,
        scale=experiment.student.scale,
        value_range=described.value_range,
        mean=described.mean,
        residual_scale=described.residual_scale,
        report=notes.append,
    )
    notes.append(
        f"the teacher is {teacher.config}, {teacher.parameter_count():,} parameters, from "
        f"{described.weights}"
    )
    return teacher.frozen(), sha256(described.weights)


def _patches(data: Data, seed: int, scale: int, progress: Progress, *, prepared: bool) -> Patches:
    return Patches(
        open_pack(data, scale, progress, prepared=prepared),
        patch=data.patch,
        batch=data.batch,
        seed=seed,
        flips=data.flips,
        rotations=data.rotations,
        period=data.period,
        by_area=data.by_area,
    )


def open_pack(
    data: Data, scale: int, progress: Progress = silent, *, prepared: bool = False
) -> Pack:
    """Open the pack of an experiment, or make one from its folder of images where there is none yet.

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
        return pack
    where = data.train.resolve()
    mark = hashlib.sha256(f"{where} {data.lr}".encode()).hexdigest()[:8]
    path = data.packs / f"{where.name}-x{scale}-{mark}.pack"
    if prepared:
        return Pack.open(path)
    try:
        pairs = find_pairs(data.train, scale=scale, lr=data.lr)
    except PairsError as error:
        raise error.with_hint("name the training images with --data.train") from None
    label = f"packing {set_name(data.train)}"
    return prepare(
        pairs, path, progress=lambda done, total, what: progress(done, total, f"{label}: {what}")
    )


def check_same(experiment: Experiment, run: Run) -> None:
    """Refuse to go on with a run as something else than it began.

    Raises:
        CheckpointError: If anything that changes the result differs; it lists what.
    """
    changed = Experiment.from_file(run.experiment).differences(experiment)
    if changed:
        raise CheckpointError(
            f"{run.directory} was begun as another experiment: {'; '.join(changed)}. Resume it as "
            "it was, or choose another directory"
        )
